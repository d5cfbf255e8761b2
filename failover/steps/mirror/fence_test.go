package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// A client that comes with a resourceVersion of the primary is blind at the standby, or sees another cluster's history. After the fence it is told that its revision is gone.
func TestRevisionFence(t *testing.T) {
	s := newStage(t)
	for n := range 300 {
		s.put(s.a, fmt.Sprintf("/registry/configmaps/ns0/%d", n%10), fmt.Sprint(n))
	}
	s.mirrored()
	known := s.head(s.a) // a resourceVersion that a client of the primary has
	if b := s.head(s.b); b >= known {
		t.Fatalf("the standby is at revision %d already, the primary at %d", b, known)
	}
	steps := s.settings().steps()
	s.mustRun(plan(t, failover.ModeGraceful, steps[:5]...), "before.journal")

	// Without the fence: silence about a write, from the future; and the standby's own events, from the past.
	s.put(s.b, "/registry/configmaps/ns0/new", "unseen")
	if got := s.watch(known+1, 500*time.Millisecond); got != "silent" {
		t.Fatalf("without the fence a watch from the primary's revision is %s", got)
	}
	if got := s.watch(3, 5*time.Second); got != "events" {
		t.Fatalf("without the fence a watch from a revision in the standby's own history is %s", got)
	}

	fence := steps[5]
	r := s.mustRun(plan(t, failover.ModeGraceful, fence), "fence.journal")
	head := s.head(s.b)
	if head < known+50 || head > known+50+300 {
		t.Errorf("the standby is at revision %d; the primary's last is %d and the margin 50", head, known)
	}
	for _, rev := range []int64{2, known / 2, known, known + 1, known + 50} { // the last: of a client that saw more than anybody knows of
		if got := s.watch(rev+1, 10*time.Second); got != "gone" {
			t.Errorf("a watch after revision %d is %s", rev, got)
		}
	}
	if resp, err := s.b.Get(s.ctx, "/understudy/.revisions/", clientv3.WithPrefix()); err != nil || resp.Count > 0 {
		t.Errorf("%d keys are left (%v)", resp.Count, err)
	}
	if got := s.content(s.b)["/registry/configmaps/ns0/new"]; got != "unseen" {
		t.Errorf("the content changed: %q", got)
	}
	// It is idempotent, and undoing leaves it.
	if step := s.observe(plan(t, failover.ModeGraceful, fence))[mirror.NameRevisionFence]; step.State != failover.Done && step.State != failover.Pending {
		t.Errorf("%+v", step)
	}
	if err := s.undo(r); err != nil {
		t.Fatal(err)
	}
	if now := s.head(s.b); now < head {
		t.Errorf("the revision fell from %d to %d", head, now)
	}
}

// watch says what a watch of the standby from a revision brings: it is "gone", gives "events" or is "silent" for a time.
func (s *stage) watch(rev int64, patience time.Duration) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for resp := range s.b.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(rev)) {
		switch {
		case errors.Is(resp.Err(), rpctypes.ErrCompacted):
			return "gone"
		case resp.Err() != nil && ctx.Err() == nil:
			s.t.Fatal(resp.Err())
		case len(resp.Events) > 0:
			return "events"
		}
	}
	return "silent"
}

// A gap that writing would not close in time blocks, before anything is written, with the number for the offline way.
func TestRevisionFenceThatIsTooFar(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	before := s.head(s.b)
	far := func(cfg mirror.RevisionFenceConfig) *failover.Plan {
		cfg.Pair = s.pair()
		return plan(t, failover.ModeGraceful, must(mirror.RevisionFence(cfg)))
	}
	step := s.observe(far(mirror.RevisionFenceConfig{Margin: 5_000_000}))[mirror.NameRevisionFence]
	if step.State != failover.Blocked {
		t.Fatalf("%+v", step)
	}
	wantText(t, "it", step.Detail, "etcdutl snapshot restore", "--mark-compacted", "--bump-revision")
	var bump int64
	_, rest, _ := strings.Cut(step.Detail, "--bump-revision ")
	if _, err := fmt.Sscan(rest, &bump); err != nil || before+bump < s.head(s.a)+5_000_000 {
		t.Errorf("bump %d (%v) does not bring the standby from %d above the fence", bump, err, before)
	}
	if _, err := s.run(far(mirror.RevisionFenceConfig{Margin: 5_000_000}), "far.journal", failover.Hooks{}); !errors.Is(err, failover.ErrBlocked) {
		t.Errorf("the run ended with %v", err)
	}
	step = s.observe(far(mirror.RevisionFenceConfig{Margin: 10_000, Rate: 500}))[mirror.NameRevisionFence]
	wantText(t, "the estimate", step.Detail, "about 20s at 500 per second")
	// What is measured to take too long ends early, with the same advice.
	_, err := s.run(far(mirror.RevisionFenceConfig{Margin: 900_000, MaxDuration: 3 * time.Second}), "slow.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("the run ended with %v", err)
	}
	wantText(t, "the error", err.Error(), "revisions per second", "--bump-revision")
}

// AlarmGate stops every write to an etcd, deletes and leases included, and none of the reading.
func TestAlarmGate(t *testing.T) {
	s := newStage(t)
	gate := must(mirror.AlarmGate(mirror.AlarmGateConfig{Client: s.a}))
	lease, err := s.a.Grant(s.ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	quiesce := must(mirror.Quiesce(mirror.QuiesceConfig{Pair: s.pair(), Gate: gate, Window: window}))
	drain := must(mirror.Drain(mirror.DrainConfig{Pair: s.pair(), Waiter: s.ab}))
	tr := s.startTraffic(s.a, 1)
	s.eventually("traffic", func() bool { return tr.acknowledged() > 20 })
	r := s.mustRun(plan(t, failover.ModeGraceful, quiesce, drain), "gate.journal")
	closed := s.head(s.a)
	for name, write := range map[string]func(context.Context) error{
		"put":    func(ctx context.Context) error { _, err := s.a.Put(ctx, "/registry/x", "1"); return err },
		"delete": func(ctx context.Context) error { _, err := s.a.Delete(ctx, "/registry/configmaps/ns0/x"); return err },
		"txn": func(ctx context.Context) error {
			_, err := s.a.Txn(ctx).Then(clientv3.OpDelete("/registry/configmaps/ns0/x")).Commit()
			return err
		},
		"grant":   func(ctx context.Context) error { _, err := s.a.Grant(ctx, 60); return err },
		"revoke":  func(ctx context.Context) error { _, err := s.a.Revoke(ctx, lease.ID); return err },
		"compact": func(ctx context.Context) error { _, err := s.a.Compact(ctx, 2); return err },
	} {
		ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
		if err := write(ctx); err == nil {
			t.Errorf("%s was taken", name)
		}
		cancel()
	}
	if now := s.head(s.a); now != closed {
		t.Errorf("the revision went from %d to %d", closed, now)
	}
	if len(tr.lostNow(s)) > 0 {
		t.Errorf("lost: %v", tr.lostNow(s))
	}
	// It lasts over a restart.
	if err := s.aCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	if err := s.aCluster.StartMember(s.ctx, 0, nil); err != nil {
		t.Fatal(err)
	}
	if is, err := gate.Closed(s.ctx); err != nil || !is {
		t.Errorf("after a restart: closed %v (%v)", is, err)
	}
	if err := s.undo(r); err != nil {
		t.Fatal(err)
	}
	s.put(s.a, "/registry/configmaps/ns0/x", "2")
	tr.end()
	if resp, err := s.a.Get(s.ctx, "/understudy/.gate", clientv3.WithCountOnly()); err != nil || resp.Count != 0 {
		t.Errorf("the gate left its record (%v)", err)
	}
}

// An alarm that somebody else raised may mean what it says.
func TestAlarmGateLeavesARealAlarm(t *testing.T) {
	s := newStage(t)
	gate := must(mirror.AlarmGate(mirror.AlarmGateConfig{Client: s.a}))
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: uint64(s.aCluster.Member(0).Server.MemberID()), Alarm: pb.AlarmType_CORRUPT}
	if _, err := pb.NewMaintenanceClient(s.a.ActiveConnection()).Alarm(s.ctx, alarm); err != nil {
		t.Fatal(err)
	}
	for name, act := range map[string]func(context.Context) error{"Close": gate.Close, "Open": gate.Open} {
		if err := act(s.ctx); err == nil || !strings.Contains(err.Error(), "not from this gate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nor does it count for a closed gate: a switch would go on over it.
	if _, err := gate.Closed(s.ctx); err == nil || !strings.Contains(err.Error(), "not from this gate") {
		t.Errorf("closed: %v", err)
	}
}
