package kubestorage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// informed is what an informer's handler was told.
type informed struct {
	mu      sync.Mutex
	history history
	changed chan struct{} // closed and replaced at each event
}

// inform runs an informer until the test ends.
func inform(t *testing.T, ctx context.Context, lw cache.ListerWatcher, object runtime.Object) (*informed, cache.SharedIndexInformer) {
	t.Helper()
	h := &informed{history: history{}, changed: make(chan struct{})}
	informer := cache.NewSharedIndexInformer(lw, object, 0, cache.Indexers{})
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { h.add(watch.Added, obj) },
		UpdateFunc: func(before, obj any) {
			if before.(metav1.Object).GetResourceVersion() != obj.(metav1.Object).GetResourceVersion() { // a relist repeats what has not changed
				h.add(watch.Modified, obj)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			h.add(watch.Deleted, obj)
		},
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		informer.RunWithContext(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer does not become ready")
	}
	return h, informer
}

func (h *informed) add(kind watch.EventType, obj any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history.add(kind, obj.(runtime.Object))
	close(h.changed)
	h.changed = make(chan struct{})
}

// wait blocks until the handler was told what is asked for.
func (h *informed) wait(t *testing.T, ctx context.Context, what string, told func(history) bool) {
	t.Helper()
	for {
		h.mu.Lock()
		ok, changed := told(h.history), h.changed
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the informer was not told of %s: %v", what, h.history)
		}
	}
}

// TestInformerSeesEachChange runs client-go's informer on the standby's storage, behind the watch cache, while the primary's changes arrive.
func TestInformerSeesEachChange(t *testing.T) {
	primary, standby := newCluster(t, "/registry", ""), newCluster(t, "/registry", "")
	m := mirror(primary, standby, unmerged(etcdmirror.Config{}))
	m.sync()
	for i, k := range []kind{configMaps, deployments, widgets} {
		t.Run(k.resource.Resource, func(t *testing.T) {
			w := newWriters(primary.direct(k), uint64(i+1), 3)
			w.run(20)
			m.sync()
			initial, _ := w.layer.mustList(metav1.ListOptions{})
			h, informer := inform(t, standby.ctx, standby.cached(k).listWatch(), k.object())
			if got := len(informer.GetStore().ListKeys()); got != len(initial) || got == 0 {
				t.Fatalf("the informer begins with %d of %d objects", got, len(initial))
			}
			// What it begins with is one event for each object; what comes then is each write.
			want := history{}
			for _, o := range initial {
				want.add(watch.Added, o)
			}
			before := w.history()
			w.run(40)
			w.end()
			for key, events := range w.history() {
				want[key] = append(want[key], events[len(before[key]):]...)
				if len(want[key]) == 0 {
					delete(want, key)
				}
			}
			lastKey := "/" + last
			if k.namespaced {
				lastKey = "team-0" + lastKey
			}
			h.wait(t, standby.ctx, "the last object", func(got history) bool { return len(got[lastKey]) > 0 })
			delete(h.history, lastKey)
			mustEqualHistory(t, want, h.history)
		})
	}
}

// switched is a ListerWatcher whose other end can be changed, as DNS or a load balancer does.
type switched struct {
	mu   sync.Mutex
	to   *layer
	open []watch.Interface
}

func (s *switched) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	l := s.to
	s.mu.Unlock()
	return l.listWatch().ListWithContextFunc(ctx, o)
}

func (s *switched) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, err := s.to.listWatch().WatchFuncWithContext(ctx, o)
	if err == nil {
		s.open = append(s.open, w)
	}
	return w, err
}

func (s *switched) move(to *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = to
	for _, w := range s.open {
		w.Stop()
	}
	s.open = nil
}

// TestInformerThatMoves has an informer at the primary whose connection is moved to the standby after a promotion. With a fence (the standby's revision is raised above the primary's, compacted there, and its
// apiservers begin with new caches) the informer lists again and misses nothing. Without it, it is blind for what the standby's users do, until the standby's revision has passed the primary's.
func TestInformerThatMoves(t *testing.T) {
	for _, fenced := range []bool{true, false} {
		t.Run(fmt.Sprintf("fenced=%v", fenced), func(t *testing.T) {
			primary, standby := newCluster(t, "/registry", ""), newCluster(t, "/registry", "")
			primary.raise(200) // what is not mirrored takes revisions, too
			w := newWriters(primary.direct(configMaps), 17, 2)
			w.run(20)
			m := mirror(primary, standby, etcdmirror.Config{})
			m.sync()
			link := &switched{to: primary.cached(configMaps)}
			h, informer := inform(t, primary.ctx, &cache.ListWatch{ListWithContextFunc: link.list, WatchFuncWithContext: link.watch}, configMaps.object())
			w.run(20)
			w.end()
			h.wait(t, primary.ctx, "the last object", func(got history) bool { return len(got["team-0/"+last]) > 0 })
			at := primary.revision()
			m.sync()
			m.stop()
			if _, err := etcdmirror.Promote(primary.ctx, standby.client, mirrorName, etcdmirror.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
			if standby.revision() >= at {
				t.Fatalf("the standby's revision %d is not below the primary's %d", standby.revision(), at)
			}
			r := rand.New(rand.NewPCG(18, 18))
			direct := standby.direct(configMaps)
			if fenced {
				standby.raise(at + 1)
				if _, err := standby.client.Compact(standby.ctx, standby.revision()); err != nil {
					t.Fatal(err)
				}
			}
			// The cache is that of an apiserver that started after the promotion.
			link.move(standby.cached(configMaps))
			direct.create(direct.make(r, "team-0", "after", 1000))
			if !fenced {
				// What is written once the revision has passed the informer's place is seen, and what was written before never was.
				standby.raise(at + 1)
				direct.create(direct.make(r, "team-0", "much-later", 1001))
				h.wait(t, standby.ctx, "what came after its resourceVersion", func(got history) bool { return len(got["team-0/much-later"]) > 0 })
				h.mu.Lock()
				defer h.mu.Unlock()
				if len(h.history["team-0/after"]) != 0 {
					t.Error("an informer without a fence saw what was written below its resourceVersion: it used to be blind")
				}
				return
			}
			h.wait(t, standby.ctx, "the first write after the promotion", func(got history) bool { return len(got["team-0/after"]) > 0 })
			items, _ := direct.mustList(metav1.ListOptions{})
			var want []string
			for _, o := range items {
				want = append(want, o.(metav1.Object).GetNamespace()+"/"+o.(metav1.Object).GetName())
			}
			got := informer.GetStore().ListKeys()
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("the informer has %q, the standby %q", got, want)
			}
		})
	}
}
