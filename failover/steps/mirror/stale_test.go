package mirror_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
)

// What the new primary deletes before the old one is mirrored into is gone there too, and nothing else is: not what the old primary made for itself meanwhile, and nothing that is not kept.
func TestWhatTheNewPrimaryDeletedIsRemoved(t *testing.T) {
	s := newStage(t)
	const dir = "/registry/configmaps/ns0/"
	for _, key := range []string{"stays", "goes", "returns"} {
		s.put(s.a, dir+key, "1")
	}
	s.put(s.a, notKept+"lease", "1")
	s.mirrored()
	step := must(mirror.RemoveStale(mirror.RemoveStaleConfig{Pair: s.reverse(), Former: engine.Records(s.b, "ab"), Remover: must(engine.NewRemover(s.b, s.a, checkConfig("ba")))}))
	meanwhile := failover.Funcs{Name: "meanwhile", Observe: func(context.Context) (failover.Observation, error) {
		if _, there := s.content(s.b)[dir+"goes"]; there {
			return failover.Observation{State: failover.Pending}, nil
		}
		return failover.Observation{State: failover.Done}, nil
	}, Do: func(context.Context) error {
		s.del(s.b, dir+"goes")
		s.del(s.b, dir+"returns")
		s.put(s.b, dir+"returns", "2")
		s.put(s.a, dir+"its-own", "1")
		return nil
	}}.Step()
	steps := append(s.settings().steps(), meanwhile, must(mirror.StartReverse(mirror.StartReverseConfig{Pair: s.reverse(), Control: s.ba})), step)
	r := s.mustRun(plan(t, failover.ModeGraceful, steps...), "switch.journal")
	s.caughtUp(s.ba, s.b)
	got := s.content(s.a)
	if _, there := got[dir+"goes"]; there || got[dir+"stays"] != "1" || got[dir+"returns"] != "2" || got[dir+"its-own"] != "1" {
		t.Errorf("the old primary has %v", got)
	}
	last := r.Status().Steps[len(steps)-1]
	if last.State != failover.StepDone {
		t.Errorf("%+v", last)
	}
	if resp, err := s.a.Get(s.ctx, notKept+"lease"); err != nil || resp.Count != 1 {
		t.Errorf("what is not kept: %v, %v", resp, err)
	}
}

// In a failback the report's list is removed as well; one about another cluster removes nothing.
func TestWhatWasNeverSentIsRemoved(t *testing.T) {
	p := newParted(t, 3)
	report := p.report()
	remover := &countingRemover{Remover: must(engine.NewRemover(p.b, p.a, checkConfig("ba")))}
	cfg := mirror.RemoveStaleConfig{Pair: p.reverse(), Former: engine.Records(p.b, "ab"), Report: report.Path, Remover: remover}
	if _, err := p.run(plan(t, failover.ModeGraceful, must(mirror.RemoveStale(cfg))), "early.journal", failover.Hooks{}); !errors.Is(err, failover.ErrBlocked) || !strings.Contains(err.Error(), "report cannot be read") {
		t.Fatalf("without a report it ended with %v", err)
	}
	reverse := must(mirror.StartReverse(mirror.StartReverseConfig{Pair: p.reverse(), Control: p.ba, Differences: &report, PointOfNoReturn: true}))
	p.mustRun(plan(t, failover.ModeGraceful, must(mirror.DifferenceReport(report)), reverse, must(mirror.RemoveStale(cfg))), "failback.journal")
	p.caughtUp(p.ba, p.b)
	if got, want := keysOf(p.content(p.a)), keysOf(p.content(p.b)); !slices.Equal(got, want) {
		t.Errorf("the old primary has %d keys, the new one %d: %v", len(got), len(want), symmetric(got, want))
	}
	if remover.n == 0 {
		t.Error("nothing had to be removed: the test shows nothing")
	}
	other := cfg
	other.Pair = p.pair() // whose standby is the new primary
	if _, err := p.run(plan(t, failover.ModeGraceful, must(mirror.RemoveStale(other))), "other.journal", failover.Hooks{}); !errors.Is(err, failover.ErrBlocked) || !strings.Contains(err.Error(), "the report is about cluster") {
		t.Errorf("with another cluster's report it ended with %v", err)
	}
}

type countingRemover struct {
	mirror.Remover
	n int
}

func (r *countingRemover) Remove(ctx context.Context, keys []string) (int, error) {
	n, err := r.Remover.Remove(ctx, keys)
	r.n += n
	return n, err
}

func keysOf(content map[string]string) (keys []string) {
	for key := range content {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func symmetric(a, b []string) (only []string) {
	for _, key := range slices.Concat(a, b) {
		if slices.Contains(a, key) != slices.Contains(b, key) {
			only = append(only, key)
		}
	}
	return only
}

// The mirror notes revisions of which it keeps nothing at its interval only: a drain that waited for that would take an hour here.
func TestDrainDoesNotWaitForWhatIsNotKept(t *testing.T) {
	s := newStage(t)
	cfg := mirrorConfig("ab")
	cfg.CheckpointInterval = time.Hour
	s.ab = s.inProcess(s.a, s.b, cfg)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	s.put(s.a, "/registry/configmaps/ns0/x", "2")
	s.eventually("the last kept write", func() bool { return s.content(s.b)["/registry/configmaps/ns0/x"] == "2" })
	head := s.put(s.a, notKept+"lease", "1")
	if applied := s.metadata(s.b, "ab").Checkpoint.SourceRevision; applied >= head {
		t.Fatalf("the record says %d already: the test shows nothing", applied)
	}
	s.mustRun(plan(t, failover.ModeGraceful, must(mirror.Drain(mirror.DrainConfig{Pair: s.pair(), Timeout: 20 * time.Second}))), "drain.journal")
}

// Without the primary, a mirror on a machine that died with it counts as stopped when no instance is registered at the standby.
func TestStopMirrorWithoutItsHost(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	dead := errors.New("no route to host")
	control := mirror.ControlFuncs{Text: "a unit on a dead host", IsRunning: func(context.Context) (bool, error) { return false, dead },
		DoStart: func(context.Context) error { return dead }, DoStop: func(context.Context) error { return dead }}
	stop := must(mirror.StopMirror(mirror.StopMirrorConfig{Pair: s.pair(), Control: control, Timeout: time.Second}))
	if _, err := s.run(plan(t, failover.ModeGraceful, stop), "planned.journal", failover.Hooks{}); !errors.Is(err, failover.ErrStepFailed) {
		t.Errorf("planned it ended with %v", err)
	}
	if _, err := s.run(plan(t, failover.ModeUngraceful, stop), "registered.journal", failover.Hooks{}); !errors.Is(err, failover.ErrStepFailed) {
		t.Errorf("with an instance that is registered it ended with %v", err)
	}
	if err := s.ab.Stop(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.mustRun(plan(t, failover.ModeUngraceful, stop), "gone.journal")
}
