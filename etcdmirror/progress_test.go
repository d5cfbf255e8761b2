package etcdmirror_test

import (
	"context"
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

// One source revision larger than a watch response's fragment stays one target revision.
func TestP9ARevisionOfSeveralFragments(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{MaxTxnOps: 1000, MaxRequestBytes: 8 << 20})
	p.oracle.MapKey = func(key string) (string, bool) { return key, strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	p.oracle.InTargetSpace = func(key string) bool { return strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	r := p.start(etcdmirror.Config{MaxRequestBytes: 8 << 20, Deletions: etcdmirror.DeletionGuard{Off: true}})
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
