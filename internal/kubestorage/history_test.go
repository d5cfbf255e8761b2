package kubestorage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// history is the oracle: the events of each object, in order.
type history map[string][]event

// event is a write as a watch shows it. A deletion shows the last write before it.
type event struct {
	Type   watch.EventType
	Write  int64
	Object string // the UID
}

func (h history) add(kind watch.EventType, obj runtime.Object) {
	o := obj.(metav1.Object)
	key := o.GetNamespace() + "/" + o.GetName()
	h[key] = append(h[key], event{kind, number(o.GetLabels()[writeLabel]), string(o.GetUID())})
}

func (h history) events() (n int) {
	for _, events := range h {
		n += len(events)
	}
	return n
}

// writers write objects of one kind, each its own, side by side.
type writers struct {
	layer *layer
	seed  uint64
	count atomic.Int64
	each  []*writer
}

type writer struct {
	r       *rand.Rand
	objects []name
	exists  map[name]bool
	history history
}

type name struct{ namespace, name string }

// newWriters prepares n of them with 6 objects each.
func newWriters(l *layer, seed uint64, n int) *writers {
	w := &writers{layer: l, seed: seed}
	l.c.t.Logf("%s: seed %d", l.resource, seed)
	for i := range n {
		one := &writer{r: rand.New(rand.NewPCG(seed, uint64(i))), exists: map[name]bool{}, history: history{}}
		for j := range 6 {
			o := name{name: fmt.Sprintf("o-%d-%d", i, j)}
			if j == 0 && !l.namespaced {
				o.name = fmt.Sprintf("default%.*d", min(i, 1), i) // "default" of the first: a name, not a namespace
			}
			if l.namespaced {
				o.namespace = fmt.Sprintf("team-%d", j%2)
			}
			one.objects = append(one.objects, o)
		}
		w.each = append(w.each, one)
	}
	return w
}

// run makes the writers do n writes each. More runs may follow.
func (w *writers) run(n int) {
	w.layer.c.t.Helper()
	var wg sync.WaitGroup
	for _, one := range w.each {
		wg.Go(func() {
			for range n {
				if err := w.write(one); err != nil {
					w.layer.c.t.Errorf("seed %d: %v", w.seed, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (w *writers) write(one *writer) error {
	l, ctx := w.layer, w.layer.c.ctx
	o := one.objects[one.r.IntN(len(one.objects))]
	key := l.key(o.namespace, o.name)
	number := w.count.Add(1)
	switch {
	case !one.exists[o]:
		obj := l.make(one.r, o.namespace, o.name, number)
		if err := l.Create(ctx, key, obj, nil, 0); err != nil {
			return fmt.Errorf("create %s: %w", key, err)
		}
		one.exists[o] = true
		one.history.add(watch.Added, obj)
	case one.r.IntN(4) == 0:
		gone := l.object()
		if err := l.Delete(ctx, key, gone, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		one.exists[o] = false
		one.history.add(watch.Deleted, gone)
	default:
		changed := l.object()
		err := l.GuaranteedUpdate(ctx, key, changed, false, nil, func(in runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			l.change(one.r, in, number)
			return in, nil, nil
		}, nil)
		if err != nil {
			return fmt.Errorf("update %s: %w", key, err)
		}
		one.history.add(watch.Modified, changed)
	}
	return nil
}

func (w *writers) history() history {
	all := history{}
	for _, one := range w.each {
		for key, events := range one.history {
			all[key] = slices.Clone(events)
		}
	}
	return all
}

// last is an object whose creation ends a watch: what comes after it is of no interest.
const last = "zz-last"

func (w *writers) end() {
	namespace := ""
	if w.layer.namespaced {
		namespace = "team-0"
	}
	w.layer.create(w.layer.make(rand.New(rand.NewPCG(w.seed, 99)), namespace, last, w.count.Add(1)))
}

// seen collects what a watch brings, from where it begins.
type seen struct {
	l       *layer
	from    string // resourceVersion to go on at
	history history
}

// read takes up to n events, or all up to the last object with n of 0, and reports whether that was reached. Whatever is no plain event fails the test.
func (s *seen) read(w watch.Interface, n int) (ended bool) {
	s.l.c.t.Helper()
	for i := 0; n == 0 || i < n; i++ {
		select {
		case e, ok := <-w.ResultChan():
			if !ok && s.l.slow {
				return false // the cache lets go of a client that does not keep up, which resumes
			}
			if !ok {
				s.l.c.t.Fatalf("the watch of %s ended after %s", s.l.resource, s.from)
			}
			if e.Type == watch.Error {
				s.l.c.t.Fatalf("the watch of %s after %s: %v", s.l.resource, s.from, apierrors.FromObject(e.Object))
			}
			o := e.Object.(metav1.Object)
			s.from = o.GetResourceVersion()
			if o.GetName() == last {
				return true
			}
			s.history.add(e.Type, e.Object)
		case <-s.l.c.ctx.Done():
			s.l.c.t.Fatalf("nothing comes by the watch of %s after %s", s.l.resource, s.from)
		}
	}
	return false
}

// readAll reads up to the last object, and resumes after what each says is next: a number of events, or 0 for none.
func (s *seen) readAll(each func() int) {
	s.l.c.t.Helper()
	for {
		w := s.l.mustWatch(s.from)
		ended := s.read(w, each())
		w.Stop()
		if ended {
			return
		}
	}
}

func mustEqualHistory(t *testing.T, want, got history) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the watch differs from what was written (-written +seen):\n%s", diff)
	}
}

// mustCondense checks what a watch sees of merged revisions: some writes of an object are left out, and no more than that. What is seen was written, in that order; no object becomes
// another one without a deletion; and in the end each is as it was written last.
func mustCondense(t *testing.T, written, got history) {
	t.Helper()
	for key, events := range got {
		at, present := 0, "" // in the writes; the UID of the object that is there
		for _, e := range events {
			i := slices.IndexFunc(written[key][at:], func(w event) bool {
				return w.Write == e.Write && w.Object == e.Object && (w.Type == watch.Deleted) == (e.Type == watch.Deleted)
			})
			// A deletion shows the last write that was seen, which may not be the last there was.
			if e.Type == watch.Deleted {
				i = slices.IndexFunc(written[key][at:], func(w event) bool { return w.Type == watch.Deleted && w.Object == e.Object })
			}
			if i < 0 {
				t.Errorf("%s: %v was not written, or not after what was seen before", key, e)
				break
			}
			at += i + 1
			if was := present != ""; was != (e.Type != watch.Added) || was && present != e.Object {
				t.Errorf("%s: %v, while %q is there", key, e, present)
			}
			present = e.Object
			if e.Type == watch.Deleted {
				present = ""
			}
		}
	}
	for key, events := range written {
		end := events[len(events)-1]
		seen := got[key]
		switch {
		case end.Type == watch.Deleted && len(seen) > 0 && seen[len(seen)-1].Type != watch.Deleted:
			t.Errorf("%s was deleted, and %v was seen last", key, seen[len(seen)-1])
		case end.Type != watch.Deleted && (len(seen) == 0 || seen[len(seen)-1].Write != end.Write || seen[len(seen)-1].Type == watch.Deleted):
			t.Errorf("%s was written last by %v, and %v was seen", key, end, seen)
		}
	}
}
