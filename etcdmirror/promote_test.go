package etcdmirror_test

import (
	"context"
	"errors"
	"fmt"
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

// writesAfter counts changes of a cluster's keys below prefix after a revision.
func (p *pair) writesAfter(c *clientv3.Client, prefix string, rev int64) (n int) {
	p.t.Helper()
	for _, kv := range p.get(c, prefix) {
		if kv.ModRevision > rev {
			n++
		}
	}
	return n
}

func TestP6PromotionFencesARunningMirror(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.sync(r)

	// The source keeps changing, so that the mirror writes all the time, also while the fence is raised.
	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	writing := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_, _ = p.source.Put(ctx, key(n), fmt.Sprint(n))
		}
		writing <- n
	}()
	p.eventually(r, "tail under traffic", func(s etcdmirror.Status) bool { return s.Puts > 50 })
	promotion, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = r.ended(p.ctx)
	stop()
	<-writing
	var fenced *etcdmirror.FencedError
	if !errors.As(err, &fenced) || !errors.Is(err, etcdmirror.ErrFenced) || !errors.Is(err, etcdmirror.ErrPromoted) || fenced.Current != promotion.Epoch || fenced.Epoch >= promotion.Epoch {
		t.Fatalf("Run ended with %v; promotion %+v", err, promotion)
	}
	if n := p.writesAfter(p.target, "", promotion.TargetRevision); n != 0 {
		t.Errorf("%d keys written after the promotion", n)
	}
	if !promotion.Complete || promotion.SourceRevision == 0 || promotion.SourceHead < promotion.SourceRevision {
		t.Errorf("promotion %+v", promotion)
	}
	// What the promotion says is what the target has: the source at exactly that revision.
	resp, err := p.source.Get(p.ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(promotion.SourceRevision))
	if err != nil {
		t.Fatal(err)
	}
	target := p.get(p.target, "/registry/")
	if len(target) != len(resp.Kvs) {
		t.Errorf("%d keys at the target, %d at the source's revision %d", len(target), len(resp.Kvs), promotion.SourceRevision)
	}
	for _, kv := range resp.Kvs {
		if theirs := target[string(kv.Key)]; theirs == nil || string(theirs.Value) != string(kv.Value) {
			t.Errorf("key %s differs from the source at revision %d", kv.Key, promotion.SourceRevision)
		}
	}

	// Nothing starts against a promoted target, whatever its name, until it is demoted.
	p.refused(etcdmirror.Config{Name: "test"}, etcdmirror.ErrPromoted)
	p.refused(etcdmirror.Config{Name: "another"}, etcdmirror.ErrPromoted)
	again, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{})
	wantError(t, err, etcdmirror.ErrPromoted)
	if again.Epoch != promotion.Epoch || again.SourceRevision != promotion.SourceRevision {
		t.Errorf("a second promotion tells %+v, the first %+v", again, promotion)
	}
}

// holder is a client whose next transaction of data is held back on its way to the server.
type holder struct {
	armed   atomic.Bool
	held    chan struct{} // closed when one is held
	release chan struct{}
}

func (h *holder) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if txn, ok := req.(*pb.TxnRequest); ok && strings.HasSuffix(method, "/Txn") && len(txn.Success) > 1 && h.armed.CompareAndSwap(true, false) {
		close(h.held)
		<-h.release
	}
	return invoker(context.WithoutCancel(ctx), method, req, reply, cc, opts...)
}

func TestP6PromotionFencesAWriteInFlight(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	h := &holder{held: make(chan struct{}), release: make(chan struct{})}
	cfg := p.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(h.intercept))
	direct := p.target
	p.target = connect(t, cfg)
	r := p.start(etcdmirror.Config{RequestTimeout: time.Minute})
	p.put(p.source, key(0), "v")
	p.sync(r)

	h.armed.Store(true)
	p.put(p.source, key(1), "late")
	<-h.held
	promotion, err := etcdmirror.Promote(p.ctx, direct, "test", etcdmirror.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	close(h.release)
	if err := r.ended(p.ctx); !errors.Is(err, etcdmirror.ErrPromoted) {
		t.Errorf("Run ended with %v", err)
	}
	p.target = direct
	if n := p.writesAfter(direct, "", promotion.TargetRevision); n != 0 || p.get(direct, key(1))[key(1)] != nil {
		t.Errorf("the write in flight was committed after the promotion (%d keys)", n)
	}
}

// A transaction whose answer was lost and which the server executes late, after the mirror has gone on, must not undo what came after.
func TestP6ALateDuplicateOfAWriteIsRefused(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	h := &holder{held: make(chan struct{}), release: make(chan struct{})}
	late := make(chan error, 1)
	cfg := p.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, ok := req.(*pb.TxnRequest); ok && h.armed.CompareAndSwap(true, false) {
				go func() {
					<-h.release
					late <- invoker(p.ctx, method, req, &pb.TxnResponse{}, cc, opts...)
				}()
				close(h.held)
				return context.DeadlineExceeded // the answer that the mirror gets
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	direct := p.target
	p.target = connect(t, cfg)
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.sync(r)
	h.armed.Store(true)
	p.put(p.source, key(1), "old")
	<-h.held
	p.put(p.source, key(1), "new")
	p.sync(r)
	close(h.release)
	if err := <-late; err != nil {
		t.Fatal(err)
	}
	if kv := p.get(direct, key(1))[key(1)]; kv == nil || string(kv.Value) != "new" {
		t.Error("the late duplicate undid a newer write")
	}
	p.put(p.source, key(2), "goes on")
	p.sync(r)
	p.mustEqual("/registry/", nil)
}

func TestPromoteRefusals(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{MaxRequestBytes: 64 << 10})
	_, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{})
	wantError(t, err, etcdmirror.ErrNoMirror)
	wantError(t, etcdmirror.Demote(p.ctx, p.target, "test"), etcdmirror.ErrNoMirror)

	// A value that the target cannot take keeps the base copy from ending.
	p.put(p.source, key(1), strings.Repeat("x", 100<<10))
	r := p.start(etcdmirror.Config{})
	p.eventually(r, "waiting", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateWaiting })
	wantError(t, etcdmirror.Demote(p.ctx, p.target, "test"), etcdmirror.ErrNotPromoted)
	_, err = etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{})
	wantError(t, err, etcdmirror.ErrIncomplete)
	if r.Status().State != etcdmirror.StateWaiting {
		t.Errorf("a refused promotion disturbed the mirror: %+v", r.Status())
	}
	promotion, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{AllowIncomplete: true})
	if err != nil || promotion.Complete {
		t.Errorf("promotion %+v, %v", promotion, err)
	}
	if err := r.ended(p.ctx); !errors.Is(err, etcdmirror.ErrPromoted) {
		t.Errorf("Run ended with %v", err)
	}
}

func TestDemoteMakesAStandbyAgainAndKeepsWhatItMadeAsPrimary(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.put(p.source, key(1), "v")
	p.sync(r)
	r.stop()
	promotion, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.put(p.target, key(1), "written as a primary")
	p.put(p.target, key(2), "made as a primary")
	p.put(p.source, key(3), "v")
	if err := etcdmirror.Demote(p.ctx, p.target, "test"); err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	r = p.start(etcdmirror.Config{Hooks: rec.hooks()})
	p.sync(r)
	if s := r.Status(); s.Epoch <= promotion.Epoch || s.Foreign != 1 {
		t.Errorf("status %+v after promotion in epoch %d", s, promotion.Epoch)
	}
	if len(rec.foreign) != 1 || rec.foreign[0] != key(2) {
		t.Errorf("foreign keys %q", rec.foreign)
	}
	p.delete(p.target, key(2))
	p.mustEqual("/registry/", nil)
}
