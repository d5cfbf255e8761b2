package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// traffic is several clients that create, change and delete objects of their own, each by a random schedule of the seed. It returns how many requests were acknowledged.
func (s *site) traffic(ctx context.Context, t *testing.T, seed uint64, clients, each int) int {
	t.Helper()
	var wg sync.WaitGroup
	var done atomic.Int64
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			live := map[int]bool{}
			for n := range each {
				slot := rng.IntN(40)
				var err error
				switch {
				case live[slot] && rng.IntN(3) == 0:
					err = s.remove(ctx, c, slot)
					live[slot] = false
				case live[slot]:
					err = s.change(ctx, c, slot, n)
				default:
					err = s.make(ctx, c, slot, n)
					live[slot] = true
				}
				if err != nil {
					t.Errorf("client %d, request %d, seed %d: %v", c, n, seed, err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return int(done.Load())
}

func busy(client, slot int) (namespace, name string) {
	return tenant(slot), fmt.Sprintf("busy-%d-%d", client, slot)
}

// A slot's kind is that of its number: ConfigMap, Secret or Gadget.
func (s *site) make(ctx context.Context, client, slot, n int) (err error) {
	ns, name := busy(client, slot)
	switch slot % 3 {
	case 0:
		_, err = s.Client().CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta("", name), Data: map[string]string{"n": fmt.Sprint(n)}}, metav1.CreateOptions{})
	case 1:
		_, err = s.Client().CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: meta("", name), StringData: map[string]string{"n": fmt.Sprint(n)}}, metav1.CreateOptions{})
	default:
		_, err = s.dynamic.Resource(gadgets).Namespace(ns).Create(ctx, customResource(gadgets, "Gadget", "", name, int64(n)), metav1.CreateOptions{})
	}
	return err
}

func (s *site) change(ctx context.Context, client, slot, n int) error {
	ns, name := busy(client, slot)
	switch slot % 3 {
	case 0:
		_, err := s.Client().CoreV1().ConfigMaps(ns).Update(ctx, &corev1.ConfigMap{ObjectMeta: meta(ns, name), Data: map[string]string{"n": fmt.Sprint(n)}}, metav1.UpdateOptions{})
		return err
	case 1:
		_, err := s.Client().CoreV1().Secrets(ns).Update(ctx, &corev1.Secret{ObjectMeta: meta(ns, name), StringData: map[string]string{"n": fmt.Sprint(n)}}, metav1.UpdateOptions{})
		return err
	}
	of := s.dynamic.Resource(gadgets).Namespace(ns)
	u, err := of.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	u.Object["spec"] = map[string]any{"value": int64(n)}
	_, err = of.Update(ctx, u, metav1.UpdateOptions{})
	return err
}

func (s *site) remove(ctx context.Context, client, slot int) error {
	ns, name := busy(client, slot)
	switch slot % 3 {
	case 0:
		return s.Client().CoreV1().ConfigMaps(ns).Delete(ctx, name, metav1.DeleteOptions{})
	case 1:
		return s.Client().CoreV1().Secrets(ns).Delete(ctx, name, metav1.DeleteOptions{})
	}
	return s.dynamic.Resource(gadgets).Namespace(ns).Delete(ctx, name, metav1.DeleteOptions{})
}

// bundles watches the CA bundles of a site: what happens to each, by namespace.
type bundles struct {
	mu      sync.Mutex
	events  map[string][]watch.EventType
	stopped bool // by the server
	stop    func()
}

func (s *site) watchBundles(ctx context.Context, t *testing.T) *bundles {
	t.Helper()
	of := s.Client().CoreV1().ConfigMaps("")
	opts := metav1.ListOptions{FieldSelector: "metadata.name=" + rootCA}
	list, err := of.List(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	opts.ResourceVersion = list.ResourceVersion
	w, err := of.Watch(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundles{events: map[string][]watch.EventType{}}
	for _, m := range list.Items {
		b.events[m.Namespace] = []watch.EventType{watch.Added}
	}
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			b.mu.Lock()
			if m, ok := e.Object.(*corev1.ConfigMap); ok {
				b.events[m.Namespace] = append(b.events[m.Namespace], e.Type)
			} else {
				b.stopped = true
			}
			b.mu.Unlock()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stopped = b.stopped || !ended.Load()
	}()
	b.stop = sync.OnceFunc(func() { ended.Store(true); w.Stop(); <-done })
	t.Cleanup(b.stop)
	return b
}

// steady fails the test unless each bundle was made once and never touched again.
func (b *bundles) steady(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		t.Error("the watch of CA bundles ended early")
	}
	for i := range tenants {
		if len(b.events[tenant(i)]) == 0 {
			t.Errorf("%s has no CA bundle at the standby", tenant(i))
		}
	}
	for namespace, events := range b.events {
		if len(events) != 1 || events[0] != watch.Added {
			t.Errorf("the CA bundle of %s: %v", namespace, events)
		}
	}
	t.Logf("%d CA bundles at the standby were made once each and not touched again", len(b.events))
}
