package drcheck_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
)

func (s *sides) verdict() *drcheck.Verdict {
	s.t.Helper()
	v, err := drcheck.ReadVerdict(s.ctx, s.target, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func text(t testing.TB, v *drcheck.Verdict) string {
	t.Helper()
	var b strings.Builder
	if err := v.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (s *sides) metadata() *etcdmirror.Metadata {
	s.t.Helper()
	md, err := etcdmirror.ReadMetadata(s.ctx, s.target, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	return md
}

// outcomeOf is what a result leaves.
func outcomeOf(r *drcheck.Result) *drcheck.CheckOutcome {
	return &drcheck.CheckOutcome{Equal: r.Equal, Mode: r.Mode, Began: r.Began, Ended: r.Ended, SourceRevision: r.SourceRevision, TargetRevision: r.TargetRevision, Keys: r.SourceKeys, Count: r.Count}
}

// TestVerdictOfADeadSource checks while the source lives, and asks the standby when it is dead, before and after its promotion.
func TestVerdictOfADeadSource(t *testing.T) {
	s := newSides(t)
	for i := range 30 {
		s.put(s.source, configMap(i), "v")
	}
	cfg := etcdmirror.Config{Guards: []etcdmirror.Guard{noPoison}, RepairDelay: time.Hour, ProgressInterval: 50 * time.Millisecond, CheckpointInterval: 100 * time.Millisecond}
	r := s.mirror(cfg)
	s.sync(r)
	if v := s.verdict(); v.LastEqual != nil || v.LastDiffers != nil || !strings.Contains(text(t, v), "never proven equal") {
		t.Errorf("before any check: %+v", v)
	}
	green := s.check(drcheck.Config{Name: "test"})
	keysOnly := s.check(drcheck.Config{Name: "test", Mode: drcheck.KeysOnly})
	if !green.Equal || !keysOnly.Equal {
		t.Fatalf("differences %+v", green.Differences)
	}
	// The standby gets keys of its own, loses one, and is spared one.
	for i := range 4 {
		s.put(s.target, fmt.Sprint("/registry/events/e", i), "the standby's own")
	}
	s.delete(s.target, configMap(2))
	s.put(s.source, configMap(40), "poison")
	s.eventually("marks", func() bool { v := s.view(); return len(v.Foreign) == 4 && len(v.Drifted) == 1 && len(v.Guarded) == 1 })
	red := s.check(drcheck.Config{Name: "test"})
	if red.Equal {
		t.Fatal("no difference was found")
	}
	s.sync(r)
	lastWrite := time.Now()
	// An idle source is asked all the same, so the standby can tell that nothing was written since.
	s.eventually("contact", func() bool { return s.metadata().Checkpoint.SourceHeadAt.After(lastWrite) })
	if err := s.sourceCluster.Close(); err != nil {
		t.Fatal(err)
	}
	disaster := time.Now()
	r.stop() // so that its last checkpoint is known
	v := s.verdict()
	c := s.metadata().Checkpoint
	want := drcheck.Verdict{MirrorState: drcheck.MirrorState{Name: "test", Epoch: 1, Phase: "tail", AppliedRevision: c.SourceRevision, AppliedAt: c.At, SourceHead: c.SourceHead, SourceHeadAt: c.SourceHeadAt},
		Now: v.Now, Complete: true, Keys: c.Keys, Foreign: 4, Guarded: 1, Drifted: 1, HoldsUntil: c.SourceHeadAt, HoldsBy: drcheck.ByMirror,
		LastEqual: outcomeOf(green), LastEqualKeys: outcomeOf(keysOnly), LastDiffers: outcomeOf(red)}
	if diff := cmp.Diff(want, *v); diff != "" {
		t.Errorf("with a dead source: %s", diff)
	}
	loss := v.Loss(disaster)
	if loss.Revisions != 0 || loss.Since.Before(lastWrite) || loss.Window != disaster.Sub(loss.Since) || loss.Window > disaster.Sub(lastWrite) {
		t.Errorf("loss %+v, the last write was at %v, the disaster at %v", loss, lastWrite, disaster)
	}
	for _, part := range []string{"at most 0 known revisions", "last proven equal at " + green.Began.Format("2006-01-02 15:04:05"), "4 foreign", "1 guarded", "1 drifted", "and not proven equal since"} {
		if page := text(t, v); !strings.Contains(page, part) {
			t.Errorf("the page lacks %q:\n%s", part, page)
		}
	}

	promotion, err := etcdmirror.Promote(s.ctx, s.target, "test", etcdmirror.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v = s.verdict()
	want.Phase, want.Epoch, want.Promoted, want.Now = "promoted", promotion.Epoch, true, v.Now
	if diff := cmp.Diff(want, *v); diff != "" {
		t.Errorf("promoted: %s", diff)
	}
}

// TestVerdictOfAMirrorBehind stops a mirror while it catches up. What it has not applied was written after the moment that the verdict names,
// which the target's log remembers; when that is gone, a check does.
func TestVerdictOfAMirrorBehind(t *testing.T) {
	s := newSides(t)
	s.put(s.source, configMap(0), "v")
	r := s.mirror(etcdmirror.Config{})
	s.sync(r)
	r.stop()
	inStep := s.metadata().Checkpoint
	began := time.Now().UTC()
	green := s.check(drcheck.Config{Name: "test"})
	type write struct {
		rev    int64
		asked  time.Time
		worked time.Time
	}
	var writes []write
	for i := range 50 {
		asked := time.Now()
		resp, err := s.source.Put(s.ctx, configMap(i), "w")
		if err != nil {
			t.Fatal(err)
		}
		writes = append(writes, write{resp.Header.Revision, asked, time.Now()})
	}
	stop, stopped := context.WithCancel(s.ctx)
	defer stopped()
	m, err := etcdmirror.New(s.source, s.target, etcdmirror.Config{Name: "test", Unchecked: true, BatchOps: 1, MergeBehind: 1 << 30, Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		if i.SourceRevision == writes[10].rev {
			stopped() // the hook is called before anything else is written
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(stop); err != nil {
		t.Fatal(err)
	}
	last := writes[len(writes)-1]
	c := s.metadata().Checkpoint
	if c.SourceRevision != writes[10].rev || c.SourceHead != last.rev || !c.At.After(last.worked.Add(-time.Millisecond)) {
		t.Fatalf("the checkpoint is %+v: want revision %d of %d", c, writes[10].rev, last.rev)
	}
	holds := func(by drcheck.HoldsBy, at time.Time) {
		t.Helper()
		v := s.verdict()
		if v.HoldsBy != by || !v.HoldsUntil.Equal(at) || v.MissingRevisions != last.rev-writes[10].rev || !v.Complete {
			t.Errorf("%+v, want that all is held until %v by %q", v, at, by)
		}
		l := v.Loss(last.worked)
		lost := 0
		for _, w := range writes {
			if w.rev <= v.AppliedRevision {
				continue
			}
			if lost++; !v.HoldsUntil.IsZero() && !w.asked.After(l.Since) {
				t.Errorf("revision %d, asked for at %v, is lost; it should be held until %v", w.rev, w.asked, l.Since)
			}
		}
		if int64(lost) != l.Revisions || !l.Since.IsZero() && l.Window != last.worked.Sub(l.Since) {
			t.Errorf("%d writes are lost, the verdict says %+v", lost, l)
		}
	}
	if green.Began.Before(began) || green.SourceRevision != inStep.SourceRevision {
		t.Fatalf("the check began at %v with revision %d", green.Began, green.SourceRevision)
	}
	holds(drcheck.ByCheck, green.Began) // it is the latest fact
	s.delete(s.target, metadata+"test/check")
	// The last term's checkpoints count the head as it began to lead; the one of the first term is the last whose head is applied.
	holds(drcheck.ByHistory, inStep.SourceHeadAt)
	if _, err := etcdmirror.Promote(s.ctx, s.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(drcheck.ByHistory, inStep.SourceHeadAt)
	s.compact(s.target)
	holds("", time.Time{})
}

// TestVerdictOfACopy stops a base copy half-way.
func TestVerdictOfACopy(t *testing.T) {
	s := newSides(t)
	for i := range 50 {
		s.put(s.source, configMap(i), "v")
	}
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	m, err := etcdmirror.New(s.source, s.target, etcdmirror.Config{Name: "test", Unchecked: true, BatchOps: 10, InFlight: 1, Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		if i.Puts > 0 {
			stop()
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	look := func(phase string) {
		t.Helper()
		v := s.verdict()
		if v.Phase != phase || v.Complete || !v.HoldsUntil.IsZero() || v.AppliedRevision != 0 || v.MissingRevisions < 50 || v.Loss(v.Now) != (drcheck.Loss{Revisions: v.MissingRevisions}) {
			t.Errorf("%+v", v)
		}
		if page := text(t, v); !strings.Contains(page, "equal") || !strings.Contains(page, "no revision") || !strings.Contains(page, "an unknown time of its writes") {
			t.Errorf("the page does not say that the copy is unfinished:\n%s", page)
		}
	}
	look("base")
	if _, err := etcdmirror.Promote(s.ctx, s.target, "test", etcdmirror.PromoteOptions{AllowIncomplete: true}); err != nil {
		t.Fatal(err)
	}
	look("promoted")
}
