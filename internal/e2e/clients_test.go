package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// client is a client of the platform's name: it trusts both clusters and is known to both.
type client struct {
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	requests *requests
}

func (p *pair) newClient(n *name) *client {
	p.t.Helper()
	var cas [][]byte
	for _, s := range []*site{p.primary, p.standby} {
		pem, err := os.ReadFile(filepath.Join(s.Dir, "ca.crt"))
		if err != nil {
			p.t.Fatal(err)
		}
		cas = append(cas, pem)
	}
	cfg := &rest.Config{Host: "https://platform.example.com:6443", TLSClientConfig: p.users, Dial: n.dial, QPS: -1}
	cfg.CAData = bytes.Join(cas, nil)
	c := &client{requests: &requests{name: n}}
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &recorder{rt, c.requests} })
	hc, err := rest.HTTPClientFor(cfg)
	if err == nil {
		p.t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(hc.Transport) })
		c.kube, err = kubernetes.NewForConfigAndClient(cfg, hc)
	}
	if err == nil {
		c.dynamic, err = dynamic.NewForConfigAndClient(cfg, hc)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// requests are the lists and watches that a client made, by where the name led when they were answered.
type requests struct {
	name *name
	mu   sync.Mutex
	all  []request
}

type request struct {
	at       string // the balancer's name
	resource string
	what     string // "list", "watch" or "list by watch"
	from     string // its resourceVersion
	status   int
}

type recorder struct {
	http.RoundTripper
	requests *requests
}

func (r *recorder) WrappedRoundTripper() http.RoundTripper { return r.RoundTripper }

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.RoundTripper.RoundTrip(req)
	if err == nil && req.Method == http.MethodGet {
		q := req.URL.Query()
		made := request{at: r.requests.name.to.Load().name, resource: req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:], what: "list", from: q.Get("resourceVersion"), status: resp.StatusCode}
		if q.Get("watch") != "" {
			made.what = "watch"
		}
		if q.Get("sendInitialEvents") == "true" {
			made.what = "list by watch"
		}
		r.requests.mu.Lock()
		r.requests.all = append(r.requests.all, made)
		r.requests.mu.Unlock()
	}
	return resp, err
}

// count counts requests of a resource that a site accepted.
func (r *requests) count(at, resource string, lists bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.all {
		if q.at == at && q.resource == resource && q.status == http.StatusOK && (q.what != "watch") == lists {
			n++
		}
	}
	return n
}

// follower is a shared informer of all objects of a resource.
type follower struct {
	gvr      schema.GroupVersionResource
	client   *client
	informer cache.SharedIndexInformer
}

var followed = []schema.GroupVersionResource{{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "secrets"}, gadgets, widgets}

// follow starts n clients with an informer of each resource, and waits until they know everything.
func (p *pair) follow(ctx context.Context, n *name, clients int) (all []*follower) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	p.t.Cleanup(func() { cancel(); wg.Wait() })
	for range clients {
		c := p.newClient(n)
		for _, gvr := range followed {
			f := &follower{gvr: gvr, client: c, informer: dynamicinformer.NewFilteredDynamicInformer(c.dynamic, gvr, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()}
			all = append(all, f)
			wg.Go(func() { f.informer.Run(ctx.Done()) })
		}
	}
	until(ctx, p.t, "the informers", func() string {
		for _, f := range all {
			if !f.informer.HasSynced() {
				return f.gvr.Resource
			}
		}
		return ""
	})
	return all
}

func (f *follower) String() string { return "an informer of " + f.gvr.Resource }

// knows is what the informer's store holds: UID and resourceVersion by key.
func (f *follower) knows(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, o := range f.informer.GetStore().List() {
		m, ok := o.(*unstructured.Unstructured)
		if !ok {
			t.Fatalf("%s holds a %T", f, o)
		}
		all[m.GetNamespace()+"/"+m.GetName()] = string(m.GetUID()) + " " + m.GetResourceVersion()
	}
	return all
}

// right says what the informer's store has wrong, compared with a fresh list at a site; "" for nothing.
func (f *follower) right(ctx context.Context, t *testing.T, s *site) string {
	t.Helper()
	list, err := s.dynamic.Resource(f.gvr).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	want := map[string]string{}
	for _, o := range list.Items {
		want[o.GetNamespace()+"/"+o.GetName()] = string(o.GetUID()) + " " + o.GetResourceVersion()
	}
	have := f.knows(t)
	if maps.Equal(want, have) {
		return ""
	}
	return fmt.Sprintf("%s holds %d objects, the %s has %d", f, len(have), s.name, len(want))
}

// key is an object of mark in the informer's store.
func (f *follower) key(object string) string {
	if f.gvr == widgets {
		return object
	}
	return tenant(1) + "/" + object
}

// has reports whether the informer knows an object of mark.
func (f *follower) has(object string) bool {
	_, there, err := f.informer.GetStore().GetByKey(f.key(object))
	return err == nil && there
}

// never counts the objects at a site that are no younger than an object of mark which the informer knows, and that it does not hold: events come in order, so it never will.
func (f *follower) never(ctx context.Context, t *testing.T, s *site, known string) (n int) {
	t.Helper()
	list, err := s.dynamic.Resource(f.gvr).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	revision := func(o metav1.Object) int64 {
		n, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var limit int64
	for i := range list.Items {
		if o := &list.Items[i]; strings.Trim(o.GetNamespace()+"/"+o.GetName(), "/") == f.key(known) {
			limit = revision(o)
		}
	}
	have := f.knows(t)
	for i := range list.Items {
		if o := &list.Items[i]; revision(o) <= limit && have[o.GetNamespace()+"/"+o.GetName()] != string(o.GetUID())+" "+o.GetResourceVersion() {
			n++
		}
	}
	return n
}

// writer creates ConfigMaps through the platform's name until it is stopped, and remembers which were acknowledged.
type writer struct {
	mu    sync.Mutex
	acked map[string]time.Time
	last  time.Time
	gap   time.Duration // the longest time between two acknowledgements
	at    string        // where the last was acknowledged
	stop  func()
}

func (p *pair) write(ctx context.Context, n *name) *writer {
	c := p.newClient(n)
	w := &writer{acked: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w.stop = func() { cancel(); <-done }
	p.t.Cleanup(w.stop)
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			at := n.to.Load().name
			call, end := context.WithTimeout(ctx, 2*time.Second)
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("written-%06d", i)}}
			_, err := c.kube.CoreV1().ConfigMaps(tenant(0)).Create(call, m, metav1.CreateOptions{})
			end()
			if err == nil {
				w.acknowledged(m.Name, at)
			}
			select { // clients have pauses, too
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return w
}

func (w *writer) acknowledged(object, at string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.last.IsZero() {
		w.gap = max(w.gap, now.Sub(w.last))
	}
	w.last, w.at, w.acked[object] = now, at, now
}

// progress is how many writes were acknowledged, and where the last was.
func (w *writer) progress() (n int, at string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked), w.at
}

// missing are the acknowledged writes that a site does not have, with when they were acknowledged. The writer has stopped.
func (w *writer) missing(ctx context.Context, t *testing.T, s *site) map[string]time.Time {
	t.Helper()
	list, err := s.Client().CoreV1().ConfigMaps(tenant(0)).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lost := maps.Clone(w.acked)
	for _, m := range list.Items {
		delete(lost, m.Name)
	}
	return lost
}
