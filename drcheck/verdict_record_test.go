package drcheck_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	w.between[checker].Store(&between)
	w.writes[checker].Store(0)
	err := drcheck.WriteCheck(w.ctx, w.clients[checker], time.Minute, "test", r)
	w.between[checker].Store(nil)
	if want := w.expect(r); !errors.Is(err, want) || want == nil && err != nil {
		w.t.Fatalf("a check in epoch %d got %v, want %v; epoch %d, %s", r.Mirror.Epoch, err, want, w.epoch, w.state)
	} else if want == nil {
		w.note(r)
	}
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
		w.interrupted()
		for range 60 {
			w.step()
		}
		w.again(true)
		w.race()
		w.promote()
		w.mirrored.stop()
	})
}

// newer is a result that no record makes needless.
func (w *recordWorld) newer() *drcheck.Result {
	r := w.result()
	r.SourceRevision = 1000
	return r
}

// interrupted does each thing that may happen between a checker's reading and its writing once, for certain.
func (w *recordWorld) interrupted() {
	w.t.Helper()
	for what, between := range map[string]func(){
		"a promotion":      w.promote,
		"a demotion":       func() { w.promote(); w.again(false) },
		"another mirror":   func() { w.promote(); w.again(true) },
		"a lost record":    w.lose,
		"a changed filter": func() { w.mirrored.stop(); w.start() },
	} {
		before := w.newer()
		w.write(0, before, func() {})
		w.verify("a check")
		r, happened := w.newer(), false
		r.SourceRevision++
		w.write(1, r, func() { happened = true; between() })
		if w.expect(r) == nil || !happened {
			w.t.Fatalf("%s: nothing was tested", what)
		}
		w.verify(what)
		w.again(true)
		w.verify("another mirror")
	}
}

// lose removes what the mirror needs to go on, but not the record of checks.
func (w *recordWorld) lose() {
	w.t.Helper()
	if w.state == "running" {
		w.mirrored.stop()
		for _, item := range []string{"checkpoint", "identity"} {
			w.delete(w.target, metadata+"test/"+item)
		}
		w.filters-- // the filter is the same
		w.start()
	}
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
	case p < 19:
		w.stale = append(w.stale, w.result())
		w.stale[len(w.stale)-1].TargetRevision = w.since
		w.lose()
		w.verify("a loss of the checkpoint")
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
