package etcdmirror_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// A commit that the target executed and whose answer was lost is the mirror's own: it goes on, and writes nothing twice.
func TestP6ACommitWhoseAnswerWasLostIsNotAFence(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	var lose atomic.Bool
	var lost atomic.Int32
	cfg := p.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if txn, ok := req.(*pb.TxnRequest); ok && err == nil && len(txn.Success) > 1 && lose.CompareAndSwap(true, false) {
				lost.Add(1)
				return status.Error(codes.Unavailable, "the answer is lost")
			}
			return err
		}))
	direct := p.target
	p.target = connect(t, cfg)
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.sync(r)
	before := r.Status()
	lose.Store(true)
	p.put(p.source, key(1), "once")
	p.sync(r)
	p.target = direct
	p.mustEqual("/registry/", nil)
	if lost.Load() != 1 {
		t.Fatal("no answer was lost: nothing was tested")
	}
	if kv := p.get(direct, key(1))[key(1)]; kv.Version != 1 || r.Status().Epoch != before.Epoch {
		t.Errorf("written %d times, epoch %d", kv.Version, r.Status().Epoch)
	}
}

// firstAnswer tells when a watch stream has had its first answer.
type firstAnswer struct {
	grpc.ClientStream
	from  int64 // streams that begin earlier do not count
	start *atomic.Int64
	once  *sync.Once
	done  chan struct{}
}

func (s firstAnswer) SendMsg(m any) error {
	if req, ok := m.(*pb.WatchRequest); ok && req.GetCreateRequest() != nil {
		s.start.Store(req.GetCreateRequest().StartRevision)
	}
	return s.ClientStream.SendMsg(m)
}

func (s firstAnswer) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil && s.start.Load() >= s.from {
		s.once.Do(func() { close(s.done) })
	}
	return err
}

// A key that a resync lists as gone and that is made again before the resync has read everything, whose revision is compacted meanwhile, is not deleted.
func TestP4AZombieMadeAgainWhileTheResyncReads(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 3 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	p.delete(p.source, key(0))
	head := p.put(p.source, key(1), "changed")
	p.compact(p.source)

	direct := p.source
	watching := make(chan struct{})
	var once, disturbed sync.Once
	cfg := p.sourceCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions,
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err == nil && strings.HasSuffix(method, "/Watch") {
				return firstAnswer{s, head + 1, new(atomic.Int64), &once, watching}, nil
			}
			return s, err
		}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if txn, ok := req.(*pb.TxnRequest); ok && len(txn.Success) == 1 && string(txn.Success[0].GetRequestRange().GetKey()) == key(1) {
				disturbed.Do(func() {
					<-watching
					if _, err := direct.Put(p.ctx, key(0), "made again"); err != nil {
						t.Error(err)
					}
					resp, err := direct.Put(p.ctx, key(2), "changed too")
					if err == nil {
						_, err = direct.Compact(p.ctx, resp.Header.Revision)
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	p.source = connect(t, cfg)
	rec := &recorder{}
	r = p.start(etcdmirror.Config{Hooks: rec.hooks()})
	p.source = direct
	p.sync(r)
	p.mustEqual("/registry/", nil)
	r.stop()
	tested := true
	disturbed.Do(func() { tested = false })
	if !tested || len(rec.resyncs) != 1 {
		t.Errorf("disturbed %v, rounds %+v", tested, rec.resyncs)
	}
	t.Logf("rounds %+v", rec.resyncs)
}

// Between the parts of a split the checkpoint claims nothing that the target does not have.
func TestP9SplitsClaimNothingBeforeTheirEnd(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{MaxTxnOps: 8, MaxRequestBytes: 64 << 10})
	p.oracle.MapKey = func(key string) (string, bool) { return key, strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	p.oracle.InTargetSpace = func(key string) bool { return strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	p.put(p.source, key(0), "v")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	ops := make([]clientv3.Op, 400)
	for i := range ops {
		ops[i] = clientv3.OpPut(key(i), strings.Repeat("y", 1000))
	}
	if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	p.delete(p.source, "/registry/configmaps/ns3/", clientv3.WithPrefix())
	p.sync(r)
	if r.Status().Splits == 0 {
		t.Error("nothing was split")
	}
	r.stop()
	p.check()
}
