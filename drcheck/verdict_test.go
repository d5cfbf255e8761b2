package drcheck_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

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

// recordWorld is a mirror whose target several checkers write their outcomes to, with what should be on record.
type recordWorld struct {
	*sides
	rng      *rand.Rand
	mirrored *running
	filters  int
	epoch    int64
	minutes  int

	clients [2]*clientv3.Client
	between [2]atomic.Pointer[func()] // done once, between a checker's reading and its writing
	writes  [2]atomic.Int64

	want  map[string]*drcheck.CheckOutcome // by kind; nothing is known of others
	state string                           // running, promoted or armed
	stale []*drcheck.Result                // of earlier epochs, or of before a copy
	since int64                            // the target revision from which results are about this mirror
}

func kindOf(r *drcheck.Result) string {
	return fmt.Sprint(r.Equal, r.Equal && r.Mode == drcheck.KeysOnly)
}

func (w *recordWorld) start() {
	w.t.Helper()
	w.filters++
	w.mirrored = w.mirror(etcdmirror.Config{KeepID: fmt.Sprint(w.filters), Keep: func([]byte) bool { return true }})
	w.sync(w.mirrored)
	w.epoch, w.state, w.want, w.since = w.metadata().Checkpoint.Epoch, "running", map[string]*drcheck.CheckOutcome{}, w.revision(w.target)
}

func (w *recordWorld) promote() {
	w.t.Helper()
	if w.state != "running" {
		return
	}
	if _, err := etcdmirror.Promote(w.ctx, w.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.state = "promoted"
}

// again makes a standby of the promoted target, and lets a mirror begin anew.
func (w *recordWorld) again(run bool) {
	w.t.Helper()
	if w.state == "promoted" {
		if err := etcdmirror.Demote(w.ctx, w.target, "test"); err != nil {
			w.t.Fatal(err)
		}
		w.state, w.want = "armed", map[string]*drcheck.CheckOutcome{}
	}
	if run && w.state == "armed" {
		w.mirrored.stop()
		w.start()
	}
}

// result is what a check found that ends now.
func (w *recordWorld) result() *drcheck.Result {
	w.t.Helper()
	rng := w.rng
	w.minutes++
	r := &drcheck.Result{Mode: []drcheck.Mode{drcheck.Content, drcheck.KeysOnly}[rng.IntN(2)], Equal: rng.IntN(2) == 0,
		Began: time.Unix(int64(w.minutes*60), 0).UTC(), Ended: time.Unix(int64(rng.IntN(100)), int64(w.minutes)).UTC(), SourceClusterID: fmt.Sprintf("%x", w.sourceCluster.ID()), SourceKeys: rng.IntN(1000),
		SourceRevision: rng.Int64N(20), TargetRevision: w.since + rng.Int64N(3), Mirror: &drcheck.MirrorState{Epoch: w.epoch}, Count: drcheck.Count{Accepted: rng.IntN(2)}}
	if !r.Equal {
		r.Count.Missed, r.Count.Surplus = 1+rng.IntN(5), rng.IntN(3)
	}
	return r
}

// expect is the error that a result should get now.
func (w *recordWorld) expect(r *drcheck.Result) error {
	switch {
	case w.state == "promoted":
		return drcheck.ErrPromoted
	case w.state == "armed":
		return drcheck.ErrNoMirror
	case r.Mirror.Epoch != w.epoch, r.TargetRevision < w.since:
		return drcheck.ErrOtherMirror
	}
	return nil
}

// newest is the later of two outcomes in the order of the source's revision, the target's and the clock.
func newest(a, b *drcheck.CheckOutcome) *drcheck.CheckOutcome {
	switch {
	case a == nil:
		return b
	case a.SourceRevision != b.SourceRevision:
		if a.SourceRevision > b.SourceRevision {
			return a
		}
		return b
	case a.TargetRevision != b.TargetRevision:
		if a.TargetRevision > b.TargetRevision {
			return a
		}
		return b
	case b.Ended.After(a.Ended):
		return b
	}
	return a
}

func (w *recordWorld) note(r *drcheck.Result) {
	w.want[kindOf(r)] = newest(w.want[kindOf(r)], outcomeOf(r))
}

// write lets a checker write a result, and something happen between its reading and its writing.
func (w *recordWorld) write(checker int, r *drcheck.Result, between func()) {
	w.t.Helper()
	happened := false
	f := func() { happened = true; between() }
	w.between[checker].Store(&f)
	w.writes[checker].Store(0)
	err := drcheck.WriteCheck(w.ctx, w.clients[checker], time.Minute, "test", r)
	w.between[checker].Store(nil)
	if want := w.expect(r); !errors.Is(err, want) || want == nil && err != nil {
		w.t.Fatalf("a check in epoch %d got %v, want %v; epoch %d, %s", r.Mirror.Epoch, err, want, w.epoch, w.state)
	} else if want == nil {
		w.note(r)
	}
	_ = happened
}

// verify compares what is on record with what should be.
func (w *recordWorld) verify(did string) {
	w.t.Helper()
	v := w.verdict()
	got := map[string]*drcheck.CheckOutcome{}
	for kind, o := range map[string]*drcheck.CheckOutcome{"true false": v.LastEqual, "true true": v.LastEqualKeys, "false false": v.LastDiffers} {
		if o != nil {
			got[kind] = o
		}
	}
	if diff := cmp.Diff(w.want, got); diff != "" {
		w.t.Fatalf("after %s: the record is not what the checks found (-want +got): %s", did, diff)
	}
}

// TestRecordOfChecks lets two checkers write outcomes while a mirror goes on, is promoted, begins anew or changes its filter, each at any time between another's reading and writing.
func TestRecordOfChecks(t *testing.T) {
	s := newSides(t)
	schedules(t, 2, func(t *testing.T, _ uint64, rng *rand.Rand) {
		w := &recordWorld{sides: &sides{t: t, ctx: s.ctx, sourceCluster: s.sourceCluster, targetCluster: s.targetCluster, source: s.source, target: s.target}, rng: rng, filters: rng.IntN(1 << 30)}
		for i := range w.clients {
			w.clients[i] = w.intercepted(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if isWrite(req) {
					w.writes[i].Add(1)
					if f := w.between[i].Swap(nil); f != nil {
						(*f)()
					}
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			})
		}
		if _, err := s.target.Delete(s.ctx, metadata, clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		s.put(s.source, configMap(0), "v")
		w.start()
		for range 60 {
			w.step()
		}
		w.again(true)
		w.race()
		w.promote()
		w.mirrored.stop()
	})
}

// step does one thing.
func (w *recordWorld) step() {
	w.t.Helper()
	rng := w.rng
	checker := rng.IntN(2)
	r := w.result()
	if len(w.stale) > 0 && rng.IntN(5) == 0 {
		r = w.stale[rng.IntN(len(w.stale))]
	}
	switch p := rng.IntN(20); {
	case p < 7:
		w.write(checker, r, func() {})
		w.verify("a check")
	case p < 11:
		// The other one is quicker.
		w.write(checker, r, func() { w.write(1-checker, w.result(), func() {}) })
		w.verify("two checks")
	case p < 14:
		// A busy mirror does not get into the way.
		w.write(checker, r, func() {
			if w.state == "running" {
				w.put(w.source, configMap(rng.IntN(9)), fmt.Sprint(w.minutes))
				w.sync(w.mirrored)
			}
		})
		if n := w.writes[checker].Load(); n > 1 {
			w.t.Errorf("a checker wrote %d times because the mirror went on", n)
		}
		w.verify("a check with a busy mirror")
	case p < 15:
		w.write(checker, r, w.promote)
		w.verify("a promotion")
	case p < 16:
		w.stale = append(w.stale, w.result())
		w.write(checker, r, func() { w.promote(); w.again(rng.IntN(2) == 0) })
		w.verify("a promotion and another")
	case p < 18:
		w.again(true)
		w.verify("a new mirror")
	case w.state == "running":
		// With another filter all is compared again, and earlier checks tell nothing.
		w.stale = append(w.stale, w.result())
		w.stale[len(w.stale)-1].TargetRevision = w.since
		w.write(checker, r, func() { w.mirrored.stop(); w.start() })
		w.verify("a change of the filter")
	}
}

// race lets both checkers write at once, while the mirror goes on and is promoted in the middle.
func (w *recordWorld) race() {
	w.t.Helper()
	const each = 25
	var todo, done [2][]*drcheck.Result
	for i := range todo {
		for range each {
			todo[i] = append(todo[i], w.result())
		}
	}
	var all sync.WaitGroup
	half := make(chan struct{}, 2)
	for i := range todo {
		all.Go(func() {
			for n, r := range todo[i] {
				if n == each/2 {
					half <- struct{}{}
				}
				switch err := drcheck.WriteCheck(w.ctx, w.clients[i], time.Minute, "test", r); {
				case err == nil:
					done[i] = append(done[i], r)
				case !errors.Is(err, drcheck.ErrPromoted):
					w.t.Errorf("checker %d: %v", i, err)
				}
			}
		})
	}
	for n := range 10 {
		w.put(w.source, configMap(n), fmt.Sprint("race ", w.minutes))
	}
	<-half
	w.promote()
	promoted := w.metadata().CheckpointRevision
	all.Wait()
	for i := range done {
		for _, r := range done[i] {
			w.note(r)
		}
	}
	w.verify("a race")
	resp, err := w.target.Get(w.ctx, metadata+"test/check")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		if kv.ModRevision >= promoted {
			w.t.Errorf("the record was written at revision %d, the target was promoted at %d", kv.ModRevision, promoted)
		}
	}
	if n := len(done[0]) + len(done[1]); n < each/2 {
		w.t.Errorf("%d of %d outcomes were taken: nothing was tested", n, 2*each)
	}
}
