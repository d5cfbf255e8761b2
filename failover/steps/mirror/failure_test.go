package mirror_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// When the primary dies under traffic, no more is lost than the verdict says, in words that stay the same, and somebody has to accept them.
func TestUnplannedFailoverLosesNoMoreThanStated(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			s := newStage(t)
			s.mirrored()
			tr := s.startTraffic(s.a, seed)
			s.eventually("traffic", func() bool { return tr.acknowledged() > 300 })
			if seed > 0 { // the way between the two fails first, and the primary goes on
				if err := s.ab.Stop(s.ctx); err != nil {
					t.Fatal(err)
				}
				s.eventually("traffic", func() bool { return tr.acknowledged() > 300+100*int(seed) })
			}
			if err := s.aCluster.StopMember(0); err != nil {
				t.Fatal(err)
			}
			tr.end()
			s.settled()

			p := plan(t, failover.ModeUngraceful, s.settings().steps()...)
			for _, name := range []string{mirror.NameQuiesce, mirror.NameDrain} {
				if step := s.observe(p)[name]; !strings.Contains(step.Would, "left out") {
					t.Errorf("step %s: %s", name, step.Would)
				}
			}
			first := s.observe(p)[mirror.NameVerdict]
			sleep(s.ctx, 1100*time.Millisecond) // ages would change
			if again := s.observe(p)[mirror.NameVerdict]; first.Loss == "" || again.Loss != first.Loss {
				t.Fatalf("the loss was %q and is %q (%s)", first.Loss, again.Loss, first.Error)
			}
			r, err := s.run(p, "failover.journal", failover.Hooks{})
			if !errors.Is(err, failover.ErrWaiting) {
				t.Fatalf("without acceptance the run ended with %v", err)
			}
			if _, err := r.Decide(failover.Decision{Kind: failover.DecisionAccept, PlanHash: p.Hash(), Step: mirror.NameVerdict, By: "operator", Loss: first.Loss}); err != nil {
				t.Fatal(err)
			}
			verdict, _, err := s.verdicts().Standing(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Run(s.ctx); err != nil {
				t.Fatal(err)
			}
			// Up to the applied revision everything is there. What came after it came after the stated moment too.
			content, lost := s.content(s.b), 0
			for key, writes := range tr.all {
				want := acked{deleted: true}
				for _, a := range writes {
					if a.rev <= verdict.AppliedRevision {
						want = a
						continue
					}
					lost++
					if !a.at.After(verdict.HoldsUntil) {
						t.Errorf("seed %d: %s was acknowledged at %v and is lost; stated was %q", seed, key, a.at, first.Loss)
					}
				}
				if u, unknown := tr.unknown[key]; !want.is(content, key) && !(unknown && u.is(content, key)) {
					t.Errorf("seed %d: %s is not as revision %d left it, up to %d is applied", seed, key, want.rev, verdict.AppliedRevision)
				}
			}
			if seed > 0 && lost == 0 {
				t.Error("nothing is lost: the test shows nothing")
			}
			t.Logf("seed %d: %d of %d acknowledged writes are lost; stated: %s", seed, lost, tr.acknowledged(), first.Loss)
			if phase := s.metadata(s.b, "ab").Checkpoint.Phase; phase != etcdmirror.PhasePromoted {
				t.Errorf("phase %s", phase)
			}
		})
	}
}

// settled waits until the standby tells the same twice: the mirror has noticed that the primary is gone.
func (s *stage) settled() {
	s.t.Helper()
	same := 0
	for last := int64(0); same < 20; sleep(s.ctx, 50*time.Millisecond) {
		now := s.metadata(s.b, "ab").CheckpointRevision
		if same++; now != last {
			last, same = now, 0
		}
	}
}

// Without the primary the gate opens by itself only if nothing can be lost, and states what the standby knows to be missing.
func TestVerdictWithoutThePrimary(t *testing.T) {
	now := time.Date(2026, 3, 4, 3, 14, 5, 0, time.UTC)
	good := mirror.Standing{Phase: mirror.PhaseTail, Complete: true, AppliedRevision: 90, SourceHead: 90, HoldsUntil: now}
	for _, c := range []struct {
		name  string
		ended time.Time
		with  func(*mirror.Standing)
		loss  []string // nil: it is open
		hard  bool
	}{
		{name: "all is there", ended: now},
		{name: "ended before", ended: now.Add(-time.Hour)},
		{name: "end unknown", loss: []string{"committed after 2026-03-04T03:14:05Z"}},
		{name: "ended later", ended: now.Add(time.Minute), loss: []string{"from 2026-03-04T03:14:05Z to its end at 2026-03-04T03:15:05Z"}},
		{name: "behind", ended: now, with: func(s *mirror.Standing) { s.MissingRevisions = 12 }, loss: []string{"12 revisions that the mirror saw"}},
		{name: "copying", ended: now, with: func(s *mirror.Standing) { s.Phase, s.Complete = mirror.PhaseBase, false }, loss: []string{"equals no revision"}},
		{name: "nothing known", ended: now, with: func(s *mirror.Standing) { s.HoldsUntil = time.Time{} }, loss: []string{"no moment is known"}},
		{name: "guarded", ended: now, with: func(s *mirror.Standing) { s.Guarded = 2 }, loss: []string{"the values of 2 keys"}},
		{name: "drifted", ended: now, with: func(s *mirror.Standing) { s.Drifted, s.Unlisted = 3, true }, loss: []string{"more than 3 keys changed at the standby"}},
		{name: "tripped", ended: now, with: func(s *mirror.Standing) { s.Tripped = true }, loss: []string{"mass deletion"}},
		{name: "differed", ended: now, with: func(s *mirror.Standing) {
			s.LastDiffers = &mirror.Outcome{Began: now, SourceRevision: 80, Missed: 4, Keys: 9}
		}, loss: []string{"4 missed, 0 surplus, 0 different of 9 keys"}},
		{name: "differed, equal since", ended: now, with: func(s *mirror.Standing) {
			s.LastDiffers, s.LastEqual = &mirror.Outcome{SourceRevision: 80, Missed: 4}, &mirror.Outcome{Equal: true, SourceRevision: 85}
		}},
		{name: "demoted", ended: now, with: func(s *mirror.Standing) { s.Phase = mirror.PhaseArmed }, hard: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			standing := good
			if c.with != nil {
				c.with(&standing)
			}
			v := fakeVerdicts{standing: func() mirror.Standing { return standing }}
			step := must(mirror.VerdictGate(mirror.VerdictGateConfig{Pair: fakePair(t), Verdicts: v, PrimaryEnded: c.ended}))
			gate := step.(failover.Ungraceful).WithoutPrimary()
			if _, is := gate.(failover.Gate); !is {
				t.Fatal("it is no gate")
			}
			obs, err := gate.Observe(t.Context())
			switch {
			case err != nil:
				t.Fatal(err)
			case c.hard && (obs.State != failover.Blocked || obs.Loss != ""):
				t.Errorf("%+v", obs)
			case !c.hard && c.loss == nil && obs.State != failover.Done:
				t.Errorf("%+v", obs)
			case c.loss != nil && obs.State != failover.Blocked:
				t.Errorf("%+v", obs)
			}
			wantText(t, "the loss", obs.Loss, c.loss...)
		})
	}
}

// A planned switch goes on with a fresh check of the running pair only; without one it makes one, and differences stop it.
func TestVerdictGateChecks(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/secrets/ns0/x", "topsecret")
	s.mirrored()
	gate := func(cfg mirror.VerdictGateConfig) *failover.Plan {
		cfg.Pair, cfg.Verdicts = s.pair(), s.verdicts()
		return plan(t, failover.ModeGraceful, must(mirror.VerdictGate(cfg)))
	}
	state := func(cfg mirror.VerdictGateConfig) failover.DryStep { return s.observe(gate(cfg))[mirror.NameVerdict] }
	if got := state(mirror.VerdictGateConfig{}); got.State != failover.Pending || !strings.Contains(got.Detail, "no check has been made") {
		t.Fatalf("never checked: %+v", got)
	}
	s.mustRun(gate(mirror.VerdictGateConfig{}), "green.journal")
	if got := state(mirror.VerdictGateConfig{}); got.State != failover.Done {
		t.Errorf("just checked: %+v", got)
	}
	if got := state(mirror.VerdictGateConfig{MaxAge: time.Nanosecond}); got.State != failover.Pending || !strings.Contains(got.Detail, "older than") {
		t.Errorf("too old: %+v", got)
	}
	s.put(s.b, "/registry/configmaps/ns0/stranger", "1")
	_, err := s.run(gate(mirror.VerdictGateConfig{MaxAge: time.Nanosecond}), "red.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("with a surplus key the run ended with %v", err)
	}
	wantText(t, "the error", err.Error(), "0 missed, 1 surplus, 0 different")
	if got := state(mirror.VerdictGateConfig{}); got.State != failover.Pending {
		t.Errorf("after a check that found differences: %+v", got)
	}
	if got := state(mirror.VerdictGateConfig{Surplus: 1}); got.State != failover.Done {
		t.Errorf("with one surplus key expected: %+v", got)
	}
	s.del(s.b, "/registry/configmaps/ns0/stranger")
	s.mustRun(gate(mirror.VerdictGateConfig{MaxAge: time.Minute}), "red.journal2")
	// Another primary than the mirror's is no running pair.
	other := s.pair()
	other.Primary = must(clientv3.New(s.bCluster.ClientConfig()))
	defer other.Primary.Close()
	swapped := must(mirror.VerdictGate(mirror.VerdictGateConfig{Pair: other, Verdicts: s.verdicts()}))
	if _, err := swapped.Observe(s.ctx); err == nil || !strings.Contains(err.Error(), "check the endpoints") {
		t.Errorf("with the standby's endpoints as the primary's: %v", err)
	}
}
