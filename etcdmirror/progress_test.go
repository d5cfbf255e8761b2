package etcdmirror_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// The source's revision goes on by keys outside of the prefix; the mirror learns of it by asking.
func TestProgressBeyondThePrefix(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	p.put(p.source, "/elsewhere/a", "v")
	p.sync(r)
	if n := len(p.get(p.target, "/elsewhere/")); n != 0 {
		t.Errorf("%d keys from outside of the prefix", n)
	}
}

// An instance waits while another leads, and takes over at once when that one ends, even if the source is quiet.
func TestP6AnInstanceTakesOver(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	first := p.start(etcdmirror.Config{Replica: "first"})
	p.sync(first)
	before := p.metadata().Checkpoint
	second := p.start(etcdmirror.Config{Replica: "second", SessionTTL: time.Hour})
	p.eventually(second, "wait", func(s etcdmirror.Status) bool {
		return s.State == etcdmirror.StateReplica && s.Leader == "first" && s.SavedRevision == before.SourceRevision
	})
	first.stop()
	p.eventually(second, "tail", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateTail && s.Leader == "second" })
	if after := p.metadata().Checkpoint; after.Writer == before.Writer {
		t.Errorf("the checkpoint is still that of the first instance, %s", after.Writer)
	}
	if s := second.Status(); s.Resyncs != 0 {
		t.Errorf("the take-over needed %d copies", s.Resyncs)
	}
}

// A mirror that writes between each of a promotion's reads and writes cannot keep it from ending.
func TestP6ABusyMirrorCannotHoldOffAPromotion(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	var refused atomic.Bool
	cfg := p.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if resp, ok := reply.(*pb.TxnResponse); ok && err == nil && !resp.Succeeded && len(req.(*pb.TxnRequest).Success) > 1 {
				refused.Store(true)
			}
			return err
		}))
	direct := p.target
	p.target = connect(t, cfg)
	p.put(p.source, key(0), "v")
	r := p.start(etcdmirror.Config{})
	p.target = direct
	p.sync(r)
	attempts := 0
	cfg = p.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, ok := req.(*pb.TxnRequest); ok && !refused.Load() {
				attempts++
				rev := p.put(p.source, key(attempts), "v")
				p.eventually(r, "write or refusal", func(s etcdmirror.Status) bool { return refused.Load() || s.SavedRevision >= rev })
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	promotion, err := etcdmirror.Promote(ctx, connect(t, cfg), "test", etcdmirror.PromoteOptions{})
	if err != nil {
		t.Fatalf("after %d attempts: %v", attempts, err)
	}
	if attempts > 2 || !promotion.Complete {
		t.Errorf("%d attempts, %+v", attempts, promotion)
	}
}

// A source without any write answers no request for progress; it is healthy all the same.
func TestAnIdleSourceIsNotStalled(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	const stall = 2 * time.Second
	r := p.start(etcdmirror.Config{ProgressInterval: 100 * time.Millisecond, StallTimeout: stall})
	p.sync(r)
	began := r.Status().SourceContact
	p.eventually(r, "contact with the idle source", func(s etcdmirror.Status) bool { return s.SourceContact.Sub(began) > 2*stall })
	if s := r.Status(); s.State != etcdmirror.StateTail || s.Reconnects > 0 {
		t.Errorf("status %q %q, %d reconnects", s.State, s.Reason, s.Reconnects)
	}
}

// A source without any write is asked all the same, and the checkpoint tells when: the target alone can say until when nothing was lost. It costs no more than a transaction per interval.
func TestIdleContactIsSaved(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 5 {
		p.put(p.source, key(i), "v")
	}
	const interval = 100 * time.Millisecond
	r := p.start(etcdmirror.Config{ProgressInterval: 20 * time.Millisecond, CheckpointInterval: interval})
	p.sync(r)
	began, sourceRevision := time.Now(), p.revisionOf(p.source)
	before, targetRevision := p.metadata().Checkpoint, p.revisionOf(p.target)
	keys := p.get(p.target, "/registry/")
	last := before.SourceHeadAt
	for n := range 3 {
		p.eventually(r, "contact in the checkpoint", func(etcdmirror.Status) bool { return p.metadata().Checkpoint.SourceHeadAt.After(last) })
		c := p.metadata().Checkpoint
		if c.SourceHeadAt.Sub(last) < interval/2 {
			t.Errorf("save %d: the source was contacted at %v and at %v", n, last, c.SourceHeadAt)
		}
		if c.Phase != etcdmirror.PhaseTail || c.SourceRevision != before.SourceRevision || c.SourceHead != before.SourceHead {
			t.Errorf("the checkpoint was %+v and is %+v", before, c)
		}
		last = c.SourceHeadAt
	}
	r.stop()
	// The timer that saves begins anew after each save.
	if grown, most := p.revisionOf(p.target)-targetRevision, int64(time.Since(began)/interval)+3; grown > most {
		t.Errorf("the target's revision rose by %d in %v", grown, time.Since(began))
	}
	if rev := p.revisionOf(p.source); rev != sourceRevision {
		t.Errorf("the source's revision was %d and is %d", sourceRevision, rev)
	}
	after := p.get(p.target, "/registry/")
	for k, kv := range keys {
		if after[k] == nil || after[k].ModRevision != kv.ModRevision {
			t.Errorf("key %q was written again", k)
		}
	}
	if len(after) != len(keys) {
		t.Errorf("the target had %d keys and has %d", len(keys), len(after))
	}

	// Where there is no contact, none is saved.
	applied := make(chan struct{}, 1000)
	r = p.start(etcdmirror.Config{ProgressInterval: time.Hour, StallTimeout: 2 * time.Hour, CheckpointInterval: 10 * time.Millisecond, Hooks: etcdmirror.Hooks{Applied: func(etcdmirror.AppliedInfo) { applied <- struct{}{} }}})
	p.sync(r)
	time.Sleep(200 * time.Millisecond) // for what must not happen
	r.stop()
	if n := len(applied); n > 10 {
		t.Errorf("%d transactions without contact", n)
	}
}

// heldWatch is a watch whose events wait, while everything else goes on.
type heldWatch struct {
	grpc.ClientStream
	pause time.Duration   // before the answer that the watch exists
	until <-chan struct{} // for events
}

func (w *heldWatch) RecvMsg(m any) error {
	err := w.ClientStream.RecvMsg(m)
	if resp, ok := m.(*pb.WatchResponse); ok && err == nil {
		switch {
		case len(resp.Events) > 0:
			select {
			case <-w.until:
			case <-w.Context().Done():
			}
		case resp.Created:
			time.Sleep(w.pause)
		}
	}
	return err
}

// A mirror that begins between the parts of a source revision, and waits for its rest, saves that it has contact, and not that it has all.
func TestP9IdleContactClaimsNothing(t *testing.T) {
	p := newPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{MaxTxnOps: 8, MaxRequestBytes: 64 << 10})
	p.put(p.source, key(0), "v")
	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	parts := 0
	cfg := etcdmirror.Config{Name: "test", Unchecked: true, SessionTTL: time.Second, Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		if i.Part && i.Puts > 0 {
			parts++
			stop()
		}
	}}}
	m, err := etcdmirror.New(p.source, p.target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	if err := m.WaitForRevision(p.ctx, p.revisionOf(p.source)); err != nil {
		t.Fatal(err)
	}
	ops := make([]clientv3.Op, 400)
	for i := range ops {
		ops[i] = clientv3.OpPut(key(i), strings.Repeat("y", 1000))
	}
	if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || parts == 0 {
		t.Fatalf("%v after %d parts", err, parts)
	}
	before := p.metadata().Checkpoint
	if before.Phase != etcdmirror.PhasePartial {
		t.Fatalf("the mirror was stopped in phase %s", before.Phase)
	}

	release := make(chan struct{})
	const interval = 20 * time.Millisecond
	client := p.sourceCluster.ClientConfig()
	client.DialOptions = append(client.DialOptions, grpc.WithChainStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err == nil && strings.HasSuffix(method, "/Watch") {
				s = &heldWatch{s, interval, release}
			}
			return s, err
		}))
	direct := p.source
	p.source = connect(t, client)
	saves := p.target.Watch(p.ctx, etcdmirror.MetadataPrefix+"test/checkpoint")
	r := p.start(etcdmirror.Config{CheckpointInterval: interval})
	p.source = direct
	var first, c etcdmirror.Checkpoint // of this term
	for !c.SourceHeadAt.After(first.SourceHeadAt) {
		for _, event := range (<-saves).Events {
			c = etcdmirror.Checkpoint{}
			if err := json.Unmarshal(event.Kv.Value, &c); err != nil {
				t.Fatal(err)
			}
			if first.Writer == "" {
				first = c
			}
			if c.Writer == before.Writer || c.Phase != etcdmirror.PhasePartial || c.SourceRevision != before.SourceRevision {
				t.Fatalf("the checkpoint claims phase %s at revision %d; a part of revision %d is missing", c.Phase, c.SourceRevision, before.SourceRevision+1)
			}
		}
		if p.ctx.Err() != nil {
			t.Fatalf("no contact was saved; status %+v", r.Status())
		}
	}
	close(release)
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if c := p.metadata().Checkpoint; c.Phase != etcdmirror.PhaseTail {
		t.Errorf("phase %s", c.Phase)
	}
}

// One source revision larger than a watch response's fragment stays one target revision.
func TestP9ARevisionOfSeveralFragments(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{MaxTxnOps: 1000, MaxRequestBytes: 8 << 20})
	p.oracle.MapKey = func(key string) (string, bool) { return key, strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	p.oracle.InTargetSpace = func(key string) bool { return strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	r := p.start(etcdmirror.Config{CheckpointInterval: time.Hour /* transactions are counted */, MaxRequestBytes: 8 << 20, Deletions: etcdmirror.DeletionGuard{Off: true}})
	p.put(p.source, key(0), "v")
	p.sync(r)
	// Few and long keys: the server's time for dividing a revision grows with the square of its events.
	k := func(i int) string { return "/registry/configmaps/" + strings.Repeat("n", 4000) + key(i) }
	for i := 0; i < 1000; i += 100 {
		ops := make([]clientv3.Op, 100)
		for j := range ops {
			ops[j] = clientv3.OpPut(k(i+j), "v")
		}
		if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	p.sync(r)
	before := r.Status()
	p.delete(p.source, "/registry/configmaps/nnn", clientv3.WithPrefix())
	p.sync(r)
	after := r.Status()
	if after.Splits != 0 || after.Deletes-before.Deletes != 1000 || after.Transactions-before.Transactions > 2 {
		t.Errorf("%d splits, %d deletes, %d transactions", after.Splits, after.Deletes-before.Deletes, after.Transactions-before.Transactions)
	}
	r.stop()
	p.check()
}

// P7: whether a source's progress can be relied on cannot be told while it is away. The watch that is opened meanwhile must learn it later, or it would never know how far a quiet source is.
func TestP7AQuietSourceThatWasAwayWhenTheWatchWasOpened(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	var unanswered atomic.Int64
	cfg := p.sourceCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if err != nil && strings.HasSuffix(method, "Maintenance/Status") {
				unanswered.Add(1)
			}
			return err
		}))
	direct := p.source
	p.source = connect(t, cfg)
	r := p.start(etcdmirror.Config{RequestTimeout: 300 * time.Millisecond, StallTimeout: time.Hour, ProgressInterval: 20 * time.Millisecond})
	p.source = direct
	p.put(p.source, "/registry/configmaps/a", "v")
	p.sync(r)
	if err := p.sourceCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	for r.Status().Reconnects == 0 || unanswered.Load() == 0 { // the next watch waits for the source, and its question has failed
		if p.ctx.Err() != nil {
			t.Fatalf("%d reconnects, %d questions without an answer", r.Status().Reconnects, unanswered.Load())
		}
		time.Sleep(time.Millisecond) // between looks; ctx alone decides
	}
	if err := p.sourceCluster.StartMember(p.ctx, 0, nil); err != nil {
		t.Fatal(err)
	}
	p.put(p.source, "/elsewhere", "v")
	p.sync(r)
}
