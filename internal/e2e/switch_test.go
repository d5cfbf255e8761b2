package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/runbook"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// TestSwitchover hands over as planned, the way back of the mirror included: no acknowledged write is lost and no informer is blind.
func TestSwitchover(t *testing.T) {
	ctx := bounded(t)
	s := newStage(ctx, t, options{oneKey: true})
	s.revisions(ctx)
	cfg := s.config()
	cfg.AfterSwitch = []failover.Step{s.controllersAre(s.primary, false)}
	plan, err := runbook.GlobalClusterSwitchover(cfg)
	s.carryOut(ctx, plan, err)
	s.usersMoved(ctx)
	if lost := s.writer.missing(ctx, t, s.standby); len(lost) > 0 {
		t.Errorf("%d acknowledged writes are lost", len(lost))
	}
	s.nobodyIsBlind(ctx)
	s.controllersKeep(ctx)
	caughtUp(ctx, t, s.back, s.standby)
	turned := *s.pair
	turned.primary, turned.standby = s.standby, s.primary
	turned.equal(ctx, t)
	restartsReady(ctx, t, s.primary) // the standby by now
	restartsReady(ctx, t, s.standby)
}

// TestSwitchoverWithoutFence is what the fence is for: the same switch without the raised revision, or without the restart of API servers behind it, leaves informers wrong, without an error.
// The proof does not depend on time: an informer that has seen what came later, and not what came before, will never see it.
func TestSwitchoverWithoutFence(t *testing.T) {
	for _, c := range []struct {
		name           string
		fence, restart bool // what is left out
	}{{"neither fence nor restart", true, true}, {"no fence", true, false}, {"no restart", false, true}} {
		t.Run(c.name, func(t *testing.T) { withoutFence(bounded(t), t, c.fence, c.restart) })
	}
}

func withoutFence(ctx context.Context, t *testing.T, fence, restart bool) {
	s := newStage(ctx, t, options{})
	s.revisions(ctx)
	cfg := s.config()
	cfg.SkipReverse = true
	plan, err := runbook.GlobalClusterSwitchover(cfg)
	var left []string
	plan.Steps = slices.DeleteFunc(plan.Steps, func(step failover.Step) bool {
		leave := fence && step.Name() == mirror.NameRevisionFence || restart && strings.HasPrefix(step.Name(), "restart-apiserver/")
		if leave {
			left = append(left, step.Name())
		}
		return leave
	})
	if want := map[bool]int{true: 1}[fence] + map[bool]int{true: len(s.standby.Servers)}[restart]; len(left) != want {
		t.Fatalf("left out: %v", left)
	}
	s.carryOut(ctx, plan, err)
	s.usersMoved(ctx)
	if lost := s.writer.missing(ctx, t, s.standby); len(lost) > 0 {
		t.Errorf("%d acknowledged writes are lost", len(lost))
	}
	until(ctx, t, "the informers' watches at the standby", func() string {
		for _, f := range s.followers {
			if f.client.requests.count(s.standby.name, f.gvr.Resource, false) == 0 {
				return f.String()
			}
		}
		return ""
	})
	s.mark(ctx, s.standby, "before")
	if fence {
		known := s.primary.revision(ctx, t)
		if at := s.standby.revision(ctx, t); at >= known {
			t.Fatalf("the standby is at revision %d, the primary at %d: the test shows nothing", at, known)
		}
		s.standby.raise(ctx, t, known+1)
	}
	s.mark(ctx, s.standby, "later")
	until(ctx, t, "the informers' events", func() string {
		for _, f := range s.followers {
			if !f.has("later") {
				return f.String()
			}
		}
		return ""
	})
	blind, wrong := 0, 0
	var lists []string
	for _, f := range s.followers {
		if !f.has("before") {
			blind++
		}
		if f.never(ctx, t, s.standby, "later") > 0 {
			wrong++
		}
		lists = append(lists, fmt.Sprintf("%s %d", f.gvr.Resource, f.client.requests.count(s.standby.name, f.gvr.Resource, true)))
	}
	t.Logf("%d of %d informers were blind for what was written before the standby's revision had passed the primary's, %d will never hold what the standby does; lists that each made there: %s",
		blind, len(s.followers), wrong, strings.Join(lists, ", "))
	if fence && blind == 0 || wrong == 0 {
		t.Errorf("without %v the informers are right: it is not shown to do anything", left)
	}
	restartsReady(ctx, t, s.standby)
}

// TestFailover takes over from a primary that is dead. What is lost was acknowledged after the moment that the accepted loss names.
func TestFailover(t *testing.T) {
	ctx := bounded(t)
	s := newStage(ctx, t, options{})
	s.revisions(ctx)
	plan, err := runbook.GlobalClusterFailover(s.config())
	// The mirror is cut off first, so that there is something to lose.
	if err := s.to.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	before, _ := s.writer.progress()
	until(ctx, t, "writes that are not mirrored", func() string {
		if n, _ := s.writer.progress(); n < before+30 {
			return fmt.Sprint(n-before, " writes")
		}
		return ""
	})
	if err := s.primary.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	s.primary.Servers[0].Kill()
	s.primary.KillEtcd()
	s.carryOut(ctx, plan, err)
	s.usersMoved(ctx)
	verdict, err := drcheck.ReadVerdict(ctx, s.standby.etcd, mirrorName)
	if err != nil {
		t.Fatal(err)
	}
	lost := s.writer.missing(ctx, t, s.standby)
	t.Logf("%d of %d acknowledged writes are lost; the standby holds all of before %v", len(lost), len(s.writer.acked), verdict.HoldsUntil)
	if len(lost) == 0 || verdict.HoldsUntil.IsZero() {
		t.Error("nothing was lost, or no moment is known from which on: the test shows nothing")
	}
	for _, object := range slices.Sorted(maps.Keys(lost)) {
		if verdict.HoldsUntil.After(lost[object]) {
			t.Errorf("%s was acknowledged at %v, and nothing of before %v was to be lost", object, lost[object], verdict.HoldsUntil)
		}
	}
	s.nobodyIsBlind(ctx)
	s.controllersKeep(ctx)
	restartsReady(ctx, t, s.standby)
}
