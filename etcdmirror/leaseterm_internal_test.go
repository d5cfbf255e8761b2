package etcdmirror

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// leaseTerm is one term of a small engine: a tail, and what leases need.
type leaseTerm struct {
	*leases
	w      *leaseWorld
	calls  leaseCalls
	client *clientv3.Client  // of the target, as the leases use it
	fenced atomic.Int64      // the fence that this term compares
	barred atomic.Bool       // alive says no
	after  func(commits int) // is called after each transaction
	done   atomic.Int64      // transactions

	serial  sync.Mutex // held by whoever writes
	applied int64

	mu      sync.Mutex
	reports []LeaseInfo

	stop func()
}

// leaseCalls counts the calls of a client, and ends it after some, as a crash would.
type leaseCalls struct {
	mu    sync.Mutex
	count map[string]int
	total int
	crash int  // the number of the last call; 0: none
	lost  bool // it is executed and its answer lost
}

var errCrashed = status.Error(codes.Unknown, "crashed")

// begin counts a call. before and after are errors instead of the call and of its answer.
func (c *leaseCalls) begin(method string) (before, after error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total++
	if c.count == nil {
		c.count = map[string]int{}
	}
	c.count[method[len("/etcdserverpb."):]]++
	if c.crash == 0 || c.total < c.crash {
		return nil, nil
	}
	if c.total == c.crash && c.lost {
		return nil, errCrashed
	}
	return errCrashed, nil
}

func (c *leaseCalls) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.count)
}

func (c *leaseCalls) crashed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crash > 0 && c.total >= c.crash
}

func (c *leaseCalls) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			before, after := c.begin(method)
			if before != nil {
				return before
			}
			if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
				return err
			}
			return after
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if before, after := c.begin(method); before != nil || after != nil {
				return nil, errCrashed
			}
			return open(ctx, desc, cc, method, opts...)
		}),
	}
}

// term begins a term. It takes over what earlier ones granted, but does not run yet.
func (w *leaseWorld) term() *leaseTerm {
	w.t.Helper()
	r := &leaseTerm{w: w, stop: func() {}}
	r.fenced.Store(w.fence.Load())
	cfg := w.targetConfig
	cfg.DialOptions = append(slices.Clone(cfg.DialOptions), r.calls.options()...)
	r.client = w.connect(cfg)
	r.leases = newLeases(w.connect(w.sourceConfig), r.client, 10*time.Second, w.keys, slog.New(slog.DiscardHandler), leaseEngine{
		fenced:  r.commit,
		serial:  r.serially,
		restore: r.restore,
		report: func(report LeaseInfo) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.reports = append(r.reports, report)
		},
	})
	return r
}

// start runs the term until stop or the end of the test.
func (r *leaseTerm) start() *leaseTerm {
	ctx, cancel := context.WithCancel(r.w.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx, func(ctx context.Context) bool {
			if r.barred.Load() {
				return false
			}
			resp, err := etcdrpc.Do(ctx, r.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
				return r.client.Get(ctx, r.w.keys.checkpoint())
			})
			return err == nil && len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == r.fenced.Load()
		})
	}()
	r.stop = func() { cancel(); <-done }
	r.w.t.Cleanup(func() { r.stop() })
	return r
}

func (r *leaseTerm) commit(ctx context.Context, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := etcdrpc.Do(ctx, r.timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return r.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(r.w.keys.checkpoint()), "=", r.fenced.Load())).Then(ops...).Commit()
	})
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, ErrFenced
	}
	if n := r.done.Add(1); r.after != nil {
		r.after(int(n))
	}
	return resp, nil
}

func (r *leaseTerm) serially(ctx context.Context, work func(context.Context) error) error {
	r.serial.Lock()
	defer r.serial.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return work(ctx)
}

// restore is what the engine does: all keys of the tests take part.
func (r *leaseTerm) restore(ctx context.Context, id int64, sourceKeys []string) error {
	for _, key := range sourceKeys {
		source, err := r.source.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(source.Kvs) == 0 || source.Kvs[0].Lease != id || source.Kvs[0].ModRevision > r.applied {
			continue
		}
		want := source.Kvs[0]
		target, err := r.client.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(target.Kvs) > 0 && string(target.Kvs[0].Value) == string(want.Value) && r.matches(want.Lease, target.Kvs[0].Lease) {
			continue
		}
		if err := r.write(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// write puts a source key at the target as the engine does.
func (r *leaseTerm) write(ctx context.Context, kv *mvccpb.KeyValue) error {
	lease, err := int64(0), error(nil)
	if kv.Lease != 0 {
		lease, err = r.ensure(ctx, kv.Lease)
	}
	for err == nil {
		_, err = r.commit(ctx, clientv3.OpPut(string(kv.Key), string(kv.Value), clientv3.WithLease(clientv3.LeaseID(lease))))
		if !isLeaseNotFound(err) {
			return err
		}
		lease, err = r.again(ctx, kv.Lease)
	}
	return err
}

// tail applies what the source does after a revision until the test ends.
func (r *leaseTerm) tail(after int64) {
	r.applied = after
	ctx, cancel := context.WithCancel(r.w.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for resp := range r.w.source.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
			for _, event := range resp.Events {
				for attempt := (etcdrpc.Backoff{}); r.serially(ctx, func(ctx context.Context) error { return r.apply(ctx, event) }) != nil; {
					if attempt.Wait(ctx) != nil {
						return
					}
				}
			}
		}
	}()
	r.w.t.Cleanup(func() { cancel(); <-done })
}

func (r *leaseTerm) apply(ctx context.Context, event *clientv3.Event) (err error) {
	if event.Type == mvccpb.Event_DELETE {
		_, err = r.commit(ctx, clientv3.OpDelete(string(event.Kv.Key)))
	} else {
		err = r.write(ctx, event.Kv)
	}
	if err == nil {
		r.applied = event.Kv.ModRevision
	}
	return err
}

// reported counts reports of a kind.
func (r *leaseTerm) reported(kind LeaseKind) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, report := range r.reports {
		if report.Kind == kind {
			n++
		}
	}
	return n
}
