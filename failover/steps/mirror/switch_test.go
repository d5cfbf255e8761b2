package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// A planned switch under traffic loses no write that the primary acknowledged, whatever the seed.
func TestPlannedSwitchLosesNothing(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			s := newStage(t)
			s.mirrored()
			tr := s.startTraffic(s.a, seed)
			s.eventually("traffic", func() bool { return tr.acknowledged() > 200 })
			p := plan(t, failover.ModeGraceful, s.settings().steps()...)
			s.mustRun(p, "switch.journal")
			tr.end()
			if lost := tr.lost(s.content(s.b)); len(lost) > 0 {
				t.Errorf("seed %d: of %d acknowledged writes are lost: %v", seed, tr.acknowledged(), lost)
			}
			if !maps.Equal(s.content(s.a), s.content(s.b)) {
				t.Errorf("seed %d: the two sides differ", seed)
			}
			md := s.metadata(s.b, "ab")
			if md.Checkpoint.Phase != etcdmirror.PhasePromoted || !md.Checkpoint.Complete {
				t.Errorf("the standby is in phase %s, complete %v", md.Checkpoint.Phase, md.Checkpoint.Complete)
			}
			if b, a := s.head(s.b), s.head(s.a); b <= a-50 {
				t.Errorf("the standby is at revision %d, the primary at %d", b, a)
			}
		})
	}
}

// After undoing, everything is as before: the primary takes writes, the mirror runs, and every later write arrives.
func TestUndoingAPlannedSwitch(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/before", "1")
	s.mirrored()
	tr := s.startTraffic(s.a, 7)
	s.eventually("traffic", func() bool { return tr.acknowledged() > 50 })
	set := s.settings()
	last := failover.Funcs{Name: "dns", Observe: func(context.Context) (failover.Observation, error) {
		return failover.Observation{State: failover.Pending, Detail: "as before"}, nil
	}, Do: func(context.Context) error { return errors.New("the resolver does not answer") }, Undo: func(context.Context) error { return nil }}.Step()
	p, err := failover.NewPlan(failover.PlanConfig{Name: "test", OnFailure: failover.FailureUndo, Steps: append(set.steps(), last)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.run(p, "switch.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrUndone) {
		t.Fatalf("run ended with %v; %+v", err, r.Status())
	}
	if closed, _ := s.gate.Closed(s.ctx); closed {
		t.Error("the gate is closed")
	}
	before := tr.acknowledged()
	s.eventually("traffic after undoing", func() bool { return tr.acknowledged() > before+50 })
	tr.end()
	s.caughtUp(s.ab, s.a)
	if !maps.Equal(s.content(s.a), s.content(s.b)) {
		t.Error("the mirror does not bring the two together again")
	}
	if phase := s.metadata(s.b, "ab").Checkpoint.Phase; phase != etcdmirror.PhaseTail {
		t.Errorf("phase %s", phase)
	}
}

// Once somebody has written to the promoted standby, the promotion cannot be undone, also where its log is compacted.
func TestWritesToThePromotedStandbyAreThePointOfNoReturn(t *testing.T) {
	key := "/registry/configmaps/ns0/x"
	for name, change := range map[string]struct {
		act     func(s *stage)
		refused string // "": undone
	}{
		"none":                     {func(*stage) {}, ""},
		"put":                      {func(s *stage) { s.put(s.b, key, "2") }, "1 key written: " + key},
		"new key":                  {func(s *stage) { s.put(s.b, key+"y", "2") }, "1 key written"},
		"delete":                   {func(s *stage) { s.del(s.b, key) }, "1 key deleted"},
		"deleted and made again":   {func(s *stage) { s.del(s.b, key); s.put(s.b, key, "1") }, "1 key written"},
		"what is not kept":         {func(s *stage) { s.put(s.b, notKept+"x", "2") }, ""},
		"none, compacted":          {func(s *stage) { s.put(s.b, notKept+"x", "2"); s.compact(s.b) }, ""},
		"delete, compacted":        {func(s *stage) { s.del(s.b, key); s.compact(s.b) }, "1 key deleted"},
		"swapped keys, compacted":  {func(s *stage) { s.del(s.b, key); s.put(s.b, key+"z", "1"); s.compact(s.b) }, "1 key written"},
		"metadata of other things": {func(s *stage) { s.put(s.b, "/understudy/other/x", "2") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.put(s.a, key, "1")
			s.mirrored()
			p := plan(t, failover.ModeGraceful, s.settings().steps()[3:5]...)
			r := s.mustRun(p, "switch.journal")
			// A later step keeps the run open: undoing a finished one is what operators do here.
			change.act(s)
			err := s.undo(r)
			phase := s.metadata(s.b, "ab").Checkpoint.Phase
			if change.refused == "" {
				if err != nil || phase == etcdmirror.PhasePromoted {
					t.Fatalf("undoing ended with %v, phase %s", err, phase)
				}
				return
			}
			if !errors.Is(err, failover.ErrPointOfNoReturn) {
				t.Fatalf("undoing ended with %v", err)
			}
			wantText(t, "the error", err.Error(), change.refused, "cannot be undone any more")
			if phase != etcdmirror.PhasePromoted {
				t.Errorf("it was demoted all the same: phase %s", phase)
			}
		})
	}
}

func (s *stage) undo(r *failover.Runner) error { return r.Undo(s.ctx, failover.UndoOptions{}) }

// A drill promotes and demotes, whatever was written in it, and leaves the primary alone.
func TestDrill(t *testing.T) {
	s := newStage(t)
	cfg := mirrorConfig("ab")
	cfg.Surplus = etcdmirror.SurplusDelete // what the primary deletes meanwhile
	s.ab = s.inProcess(s.a, s.b, cfg)
	key := "/registry/configmaps/ns0/x"
	s.put(s.a, key, "1")
	s.mirrored()
	tr := s.startTraffic(s.a, 3)
	probe := failover.Funcs{Name: "probe", Observe: func(context.Context) (failover.Observation, error) {
		resp, err := s.b.Get(s.ctx, key)
		if err != nil || len(resp.Kvs) == 1 && string(resp.Kvs[0].Value) == "drill" {
			return failover.Observation{State: failover.Done}, err
		}
		return failover.Observation{State: failover.Pending}, nil
	}, Do: func(context.Context) error { s.put(s.b, key, "drill"); return nil },
		Undo: func(context.Context) error { s.put(s.b, key, "drilled"); return nil }}.Step()
	p := plan(t, failover.ModeDrill, append(s.settings().steps(), probe)...)
	r := s.mustRun(p, "drill.journal")
	if got := r.Status().Outcome; got != failover.OutcomeRehearsed {
		t.Fatalf("outcome %s", got)
	}
	before := tr.acknowledged()
	s.eventually("traffic", func() bool { return tr.acknowledged() > before })
	tr.end()
	s.caughtUp(s.ab, s.a)
	if !maps.Equal(s.content(s.a), s.content(s.b)) {
		t.Error("after the drill the two differ")
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "drill.journal"))
	if err != nil || !strings.Contains(string(log), "1 key written") {
		t.Errorf("the journal does not tell what was written in the drill (%v)", err)
	}
}

// A dry run changes neither etcd and makes no file.
func TestDryRunTouchesNothing(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	if err := s.ab.Stop(s.ctx); err != nil { // it saves its progress
		t.Fatal(err)
	}
	s.eventually("session's end", func() bool { return len(s.metadata(s.b, "ab").Replicas) == 0 })
	steps := append(s.settings().steps(),
		must(mirror.Reopen(mirror.ReopenConfig{Gate: s.gate})),
		must(mirror.StartReverse(mirror.StartReverseConfig{Pair: s.reverse(), Control: s.ba})),
		must(mirror.DifferenceReport(mirror.DifferenceReportConfig{Pair: s.pair(), Path: filepath.Join(s.dir, "diff.jsonl")})))
	a, b := s.head(s.a), s.head(s.b)
	for _, mode := range []failover.Mode{failover.ModeGraceful, failover.ModeUngraceful} {
		for name, step := range s.observe(plan(t, mode, steps...)) {
			if step.Error != "" {
				t.Errorf("%s, %s: %s", mode, name, step.Error)
			}
		}
	}
	if now := s.head(s.a); now != a {
		t.Errorf("the primary went from revision %d to %d", a, now)
	}
	if now := s.head(s.b); now != b {
		t.Errorf("the standby went from revision %d to %d", b, now)
	}
	if files, _ := os.ReadDir(s.dir); len(files) > 0 {
		t.Errorf("files were made: %v", files)
	}
}

// A primary that is written to past the gate is not drained, and whoever reads the error learns which keys change.
func TestWhatStillWritesIsNamed(t *testing.T) {
	s := newStage(t)
	s.mirrored()
	ctx, cancel := context.WithCancel(s.ctx)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for n := 0; ctx.Err() == nil; n++ {
			_, _ = s.a.Put(ctx, "/registry/secrets/ns0/stray", fmt.Sprintf("topsecret %d", n))
			sleep(ctx, 5*time.Millisecond)
		}
	}()
	defer func() { cancel(); <-writing }()
	quiesce := must(mirror.Quiesce(mirror.QuiesceConfig{Pair: s.pair(), Gate: s.gate, Window: window, Attempts: 2}))
	_, err := s.run(plan(t, failover.ModeGraceful, quiesce), "quiesce.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("quiesce ended with %v", err)
	}
	wantText(t, "quiesce", err.Error(), "still written to", "/registry/secrets/ns0/stray")

	stray := &revokingWaiter{Waiter: s.ab, every: func() { s.put(s.a, "/registry/secrets/ns0/stray", "topsecret") }}
	drain := must(mirror.Drain(mirror.DrainConfig{Pair: s.pair(), Waiter: stray, Timeout: 20 * time.Second}))
	_, err = s.run(plan(t, failover.ModeGraceful, drain), "drain.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("drain ended with %v", err)
	}
	wantText(t, "drain", err.Error(), "still written to", "/registry/secrets/ns0/stray")
	for _, journal := range []string{"quiesce.journal", "drain.journal"} {
		text, err := os.ReadFile(filepath.Join(s.dir, journal))
		if err != nil || strings.Contains(string(text), "topsecret") {
			t.Errorf("%s holds a value (%v)", journal, err)
		}
	}
	// A gate that somebody else has closed is not this step's to open: it only says so.
	obs := s.observe(plan(t, failover.ModeGraceful, quiesce))[mirror.NameQuiesce]
	if obs.State != failover.Blocked {
		t.Errorf("a closed gate with a writer behind it is %s: %s", obs.State, obs.Detail)
	}
}

// What slips in between the drain and the fence is found by the fence, and undone.
func TestAWriteAfterTheDrainIsFound(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	steps := s.settings().steps()[2:5]
	slip := failover.Funcs{Name: "slip", Observe: func(context.Context) (failover.Observation, error) {
		if len(s.content(s.a)) > 1 {
			return failover.Observation{State: failover.Done}, nil
		}
		return failover.Observation{State: failover.Pending}, nil
	}, Do: func(context.Context) error { s.put(s.a, "/registry/configmaps/ns0/slipped", "2"); return nil },
		Undo: func(context.Context) error { s.del(s.a, "/registry/configmaps/ns0/slipped"); return nil }}.Step()
	steps = append(steps[:2:2], slip, steps[2])
	p, err := failover.NewPlan(failover.PlanConfig{Name: "test", OnFailure: failover.FailureUndo, Steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.run(p, "switch.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrUndone) || !errors.Is(err, failover.ErrNotVerified) {
		t.Fatalf("the run ended with %v", err)
	}
	wantText(t, "the error", err.Error(), "written to again", "/registry/configmaps/ns0/slipped")
	if phase := s.metadata(s.b, "ab").Checkpoint.Phase; phase != etcdmirror.PhaseTail {
		t.Errorf("phase %s", phase)
	}
}

// A key that runs out after the gate was closed is a change of its own: it arrives too.
func TestDrainTakesWhatRunsOutMeanwhile(t *testing.T) {
	s := newStage(t)
	s.mirrored()
	lease, err := s.a.Grant(s.ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	key := "/registry/events/ns0/x"
	if _, err := s.a.Put(s.ctx, key, "1", leased(lease.ID)); err != nil {
		t.Fatal(err)
	}
	s.caughtUp(s.ab, s.a)
	revoke := &revokingWaiter{Waiter: s.ab, revoke: func() {
		if _, err := s.a.Revoke(s.ctx, lease.ID); err != nil {
			t.Error(err)
		}
	}}
	drain := must(mirror.Drain(mirror.DrainConfig{Pair: s.pair(), Waiter: revoke}))
	s.mustRun(plan(t, failover.ModeGraceful, drain), "drain.journal")
	if _, there := s.content(s.b)[key]; there || revoke.n < 2 {
		t.Errorf("the standby has the key: %v, after %d rounds", there, revoke.n)
	}
}

// revokingWaiter does something at the primary while the first wait is under way.
type revokingWaiter struct {
	mirror.Waiter
	revoke func() // after the first wait
	every  func() // after each
	n      int
}

func (w *revokingWaiter) WaitForRevision(ctx context.Context, rev int64) error {
	err := w.Waiter.WaitForRevision(ctx, rev)
	if w.n++; w.n == 1 && w.revoke != nil {
		w.revoke()
	}
	if w.every != nil {
		w.every()
	}
	return err
}

// Drain goes by the standby's records where the mirror runs elsewhere.
func TestDrainByRecordsAlone(t *testing.T) {
	s := newStage(t)
	s.mirrored()
	tr := s.startTraffic(s.a, 11)
	s.eventually("traffic", func() bool { return tr.acknowledged() > 50 })
	set := s.settings()
	set.waiter = nil
	s.mustRun(plan(t, failover.ModeGraceful, set.steps()...), "switch.journal")
	tr.end()
	if lost := tr.lost(s.content(s.b)); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
}

// A standby that lacks something is not drained, however quiet the primary is.
func TestDrainWaits(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	if err := s.ab.Stop(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.put(s.a, "/registry/configmaps/ns0/x", "2")
	drain := must(mirror.Drain(mirror.DrainConfig{Pair: s.pair(), Timeout: time.Second}))
	p := plan(t, failover.ModeGraceful, drain)
	_, err := s.run(p, "drain.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("without a mirror it ended with %v", err)
	}
	wantText(t, "the error", err.Error(), "the standby holds revision")
	if err := s.ab.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.mustRun(plan(t, failover.ModeGraceful, must(mirror.Drain(mirror.DrainConfig{Pair: s.pair()}))), "again.journal")
	if got := s.content(s.b)["/registry/configmaps/ns0/x"]; got != "2" {
		t.Errorf("the standby has %q", got)
	}
}

// An instance that was forgotten keeps the mirror from counting as stopped, and is named.
func TestStopMirrorFindsAForgottenInstance(t *testing.T) {
	s := newStage(t)
	s.mirrored()
	cfg := mirrorConfig("ab")
	cfg.Replica = "the-forgotten-one"
	other := s.inProcess(s.a, s.b, cfg)
	if err := other.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.eventually("second instance", func() bool { return len(s.metadata(s.b, "ab").Replicas) == 2 })
	stop := func(timeout time.Duration) *failover.Plan {
		return plan(t, failover.ModeGraceful, must(mirror.StopMirror(mirror.StopMirrorConfig{Pair: s.pair(), Control: s.ab, Timeout: timeout})))
	}
	_, err := s.run(stop(time.Second), "stop.journal", failover.Hooks{})
	if !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("it ended with %v", err)
	}
	wantText(t, "the error", err.Error(), "the-forgotten-one")
	if err := other.Stop(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.mustRun(stop(0), "again.journal")
}
