package etcdmirror_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// writerOf is the instance that wrote the checkpoint.
func (p *pair) writerOf() string { return p.metadata().Checkpoint.Writer }

// A leader that is stopped for longer than its session, and then continues, finds that another leads: nothing that it still sends is written.
func TestP6APausedLeaderCannotWrite(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 50 {
		p.put(p.source, key(i), "v")
	}
	child := p.child()
	if err := child.WaitOutput(p.ctx, "state tail"); err != nil {
		t.Fatal(err)
	}
	paused := p.writerOf()
	if err := child.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		p.put(p.source, key(i), "w")
	}
	r := p.start(etcdmirror.Config{Replica: "successor"})
	p.sync(r)
	if s := r.Status(); s.Resyncs != 0 {
		t.Errorf("the take-over needed %d copies", s.Resyncs)
	}
	if p.writerOf() == paused {
		t.Fatal("nobody has taken over")
	}
	if err := child.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := child.WaitOutput(p.ctx, `replica "successor" leads`); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		p.put(p.source, key(i), "x")
	}
	p.sync(r)

	// It takes its turn again.
	r.stop()
	last := p.put(p.source, key(0), "y")
	for p.metadata().Checkpoint.SourceRevision < last {
		if strings.Contains(child.Output(), string(etcdmirror.StateStopped)) {
			t.Fatalf("the paused instance ended: %s", child.Output())
		}
	}
	child.Kill9()
	p.check()
}

// A leader whose session somebody ends, while its connection is fine and nobody else is there, cannot write with the leadership that it no longer has.
func TestP6LeadershipIsComparedWithEachWrite(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	r := p.start(etcdmirror.Config{SessionTTL: time.Hour})
	p.put(p.source, key(0), "v")
	p.sync(r)
	before := p.writerOf()
	resp, err := p.target.Get(p.ctx, "/understudy/test/election/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%d keys, %v", len(resp.Kvs), err)
	}
	p.delete(p.target, string(resp.Kvs[0].Key)) // the session goes on and does not tell
	p.put(p.source, key(1), "v")
	p.sync(r)
	if p.writerOf() == before {
		t.Error("an instance wrote without leadership")
	}
	p.mustEqual("/registry/", nil)
}

// Whoever leads, and however often that changes, the target gets the source's changes once and in order.
func TestP6ReplicasUnderTraffic(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
	var replicas []*running
	start := func(i int) *running { return p.start(etcdmirror.Config{Replica: fmt.Sprint(i)}) }
	for i := range 3 {
		replicas = append(replicas, start(i))
	}
	for turn := range 8 {
		for i := range 20 {
			p.put(p.source, key(i), fmt.Sprint(turn))
		}
		leading := func() (i int) {
			return slices.IndexFunc(replicas, func(r *running) bool {
				s := r.Status()
				return s.State == etcdmirror.StateTail && s.Leader == fmt.Sprint(slices.Index(replicas, r))
			})
		}
		p.eventually(replicas[0], "a leader", func(etcdmirror.Status) bool { return leading() >= 0 })
		i := leading()
		replicas[i].stop()
		replicas[i] = start(i)
	}
	rev := p.revisionOf(p.source)
	for _, r := range replicas { // those that wait know how far the leader is
		if err := r.WaitForRevision(p.ctx, rev); err != nil {
			t.Fatal(err)
		}
	}
	resyncs := int64(0)
	for _, r := range replicas {
		resyncs += r.Status().Resyncs
		r.stop()
	}
	p.check()
	writers := map[string]bool{}
	for _, rev := range p.to.Revisions() {
		for _, e := range rev.Events {
			if e.Key == p.oracle.CheckpointKey {
				value, _ := e.Value.Bytes()
				c, err := decode(value)
				if err != nil {
					t.Fatal(err)
				}
				writers[c.Writer] = true
			}
		}
	}
	if len(writers) < 4 {
		t.Errorf("%d terms of leadership: nothing was tested", len(writers))
	}
}

// An instance that is told to end just after it has lost its session ends without an error.
func TestP6EndingIsNoError(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	leader := p.start(etcdmirror.Config{Replica: "leader"})
	p.sync(leader)
	revoking, ended := make(chan struct{}), make(chan struct{})
	cfg := p.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if strings.HasSuffix(method, "/LeaseRevoke") { // it has noticed, and cleans up
				select {
				case <-revoking:
				default:
					close(revoking)
					<-ended
				}
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	direct := p.target
	p.target = connect(t, cfg)
	r := p.start(etcdmirror.Config{Replica: "other"})
	p.target = direct
	p.eventually(r, "wait", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateReplica })
	var last string
	var created int64
	for key, kv := range p.get(p.target, "/understudy/test/election/") {
		if kv.CreateRevision > created {
			last, created = key, kv.CreateRevision
		}
	}
	p.delete(p.target, last)
	<-revoking
	r.cancel()
	close(ended)
	r.stop()
}

// A promotion ends the replicas that wait, too.
func TestP6PromotionEndsEveryReplica(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	leader := p.start(etcdmirror.Config{Replica: "a"})
	p.sync(leader)
	other := p.start(etcdmirror.Config{Replica: "b"})
	p.eventually(other, "wait", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateReplica })
	if _, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	p.put(p.source, key(1), "late")
	for _, r := range []*running{leader, other} {
		wantError(t, r.ended(p.ctx), etcdmirror.ErrPromoted)
	}
	if p.get(p.target, key(1))[key(1)] != nil {
		t.Error("written after the promotion")
	}
}
