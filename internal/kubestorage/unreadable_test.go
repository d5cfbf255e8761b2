package kubestorage

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// TestUnreadableValuesStayAway has values at the primary that the standby's apiservers could not read. Guarded, they are reported and stay away, and lists, watches and the cache of the standby go on
// working over the whole time; when the primary writes them readably, they arrive. Without the guard, one of them breaks the list of the whole resource, and freezes the cache, until it is gone.
func TestUnreadableValuesStayAway(t *testing.T) {
	for i, c := range []struct {
		name string
		kind kind
		// spoil writes an unreadable value at the primary.
		spoil func(t *testing.T, primary *cluster, key string)
	}{
		{"key unknown to the standby", secrets, func(t *testing.T, primary *cluster, key string) {
			l := primary.with(encrypts("aescbc other=O")).direct(secrets)
			l.create(l.make(rand.New(rand.NewPCG(2, 2)), "team-0", "bad", 50))
		}},
		{"another secret under the same name", secrets, func(t *testing.T, primary *cluster, key string) {
			l := primary.with(encrypts("aesgcm shared=O")).direct(secrets)
			l.create(l.make(rand.New(rand.NewPCG(2, 2)), "team-0", "bad", 50))
		}},
		{"garbage", configMaps, func(t *testing.T, primary *cluster, key string) { primary.put(key, "k8s\x00\xff\xff\xff\xff\xff\xff") }},
		{"a part of an object", configMaps, func(t *testing.T, primary *cluster, key string) {
			l := primary.direct(configMaps)
			whole := encode(t, l, l.make(rand.New(rand.NewPCG(2, 2)), "team-0", "bad", 50))
			primary.put(key, whole[:len(whole)/2])
		}},
		{"half a custom resource", widgets, func(t *testing.T, primary *cluster, key string) {
			primary.put(key, `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"b`)
		}},
	} {
		for _, guarded := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/guarded=%v", c.name, guarded), func(t *testing.T) {
				keys := encrypts("aesgcm shared=S", "identity")
				primary, standby := newCluster(t, "/registry", keys), newCluster(t, "/registry", keys)
				cfg := unmerged(etcdmirror.Config{})
				if guarded {
					cfg.Guards = []etcdmirror.Guard{standby.codec().Guard(standby.ctx, nil)}
				} else {
					cfg.Unchecked = true
				}
				m := mirror(primary, standby, cfg)
				m.sync()
				source, layers := primary.direct(c.kind), map[string]*layer{"direct": standby.direct(c.kind)}
				if guarded || i == 0 { // a broken cache takes its time
					layers["cached"] = standby.cached(c.kind)
				}
				r := rand.New(rand.NewPCG(4, 4))
				make := func(name string, write int64) { source.create(source.make(r, "team-0", name, write)) }
				open := map[string]watch.Interface{}
				for reading, l := range layers {
					_, info := l.mustList(metav1.ListOptions{})
					open[reading] = l.mustWatch(info.GetResourceVersion())
				}
				make("before", 1)
				bad := "/registry" + c.kind.key("team-0", "bad")
				c.spoil(t, primary, bad)
				make(last, 2)
				m.sync()

				if !guarded {
					mustBeBroken(t, standby, c.kind, layers, open, bad)
					return
				}
				if got := slices.Collect(maps.Keys(m.guarded())); !slices.Equal(got, []string{bad}) {
					t.Errorf("guarded: %q", got)
				}
				for reading, l := range layers {
					s := &seen{l: l, history: history{}}
					if !s.read(open[reading], 0) || s.history.events() != 1 {
						t.Errorf("%s: the watch saw %v", reading, s.history)
					}
					if err := l.ReadinessCheck(); err != nil {
						t.Errorf("%s is not ready: %v", reading, err)
					}
					mustHaveNames(t, l, "before", last)
				}
				// The primary writes it anew, as an administrator who puts it right does.
				if _, err := primary.client.Delete(primary.ctx, bad); err != nil {
					t.Fatal(err)
				}
				make("bad", 51)
				m.sync()
				if got := m.guarded(); len(got) != 0 {
					t.Errorf("still guarded: %v", got)
				}
				for reading, l := range layers {
					mustHaveNames(t, l, "bad", "before", last)
					if e := <-open[reading].ResultChan(); e.Type != watch.Added || e.Object.(metav1.Object).GetName() != "bad" {
						t.Errorf("%s: then came %v", reading, e)
					}
				}
			})
		}
	}
}

func mustHaveNames(t *testing.T, l *layer, want ...string) {
	t.Helper()
	items, _ := l.mustList(metav1.ListOptions{})
	var got []string
	for _, o := range items {
		got = append(got, o.(metav1.Object).GetName())
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the list has %q, want %q", got, want)
	}
}

// mustBeBroken checks what an unreadable value does to a standby, and that it is gone with the value.
func mustBeBroken(t *testing.T, standby *cluster, k kind, layers map[string]*layer, open map[string]watch.Interface, bad string) {
	t.Helper()
	for reading, l := range layers {
		if items, _, err := l.tryList(metav1.ListOptions{}); err == nil {
			t.Errorf("%s: a list with an unreadable value works, and has %d objects", reading, len(items))
		}
		if l.slow {
			continue // the cache tries again with growing pauses, for half a minute before it lets go of its watches
		}
		// The watch brings what came before, and never what came after.
		for ended := false; !ended; {
			select {
			case e, ok := <-open[reading].ResultChan():
				if ok && e.Type != watch.Error && e.Object.(metav1.Object).GetName() == last {
					t.Errorf("%s: the watch went on", reading)
				}
				ended = !ok || e.Type == watch.Error
			case <-standby.ctx.Done():
				t.Fatalf("%s: the watch does not end", reading)
			}
		}
		if err := l.Delete(standby.ctx, k.key("team-0", "bad"), k.object(), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err == nil {
			t.Errorf("%s: it can be deleted by the API", reading)
		}
	}
	if _, err := standby.client.Delete(standby.ctx, bad); err != nil {
		t.Fatal(err)
	}
	mustHaveNames(t, layers["direct"], "before", last)
}

// TestShortValuesPanic is why the guard counts bytes: an aescbc value without a body makes the apiserver panic, in the goroutine of a watch beyond any recovery.
func TestShortValuesPanic(t *testing.T) {
	keys := encrypts("aescbc key1=P")
	const key = "/registry/secrets/team-0/bad"
	for _, unchecked := range []bool{false, true} {
		t.Run(fmt.Sprintf("unchecked=%v", unchecked), func(t *testing.T) {
			primary, standby := newCluster(t, "/registry", keys), newCluster(t, "/registry", keys)
			primary.put(key, "k8s:enc:aescbc:v1:key1:"+strings.Repeat("x", 16))
			m := mirror(primary, standby, etcdmirror.Config{Unchecked: unchecked})
			m.sync()
			l := standby.direct(secrets)
			var err error
			panicked := func() (is any) {
				defer func() { is = recover() }()
				_, _, err = l.tryList(metav1.ListOptions{})
				return nil
			}()
			if (panicked != nil) != unchecked || err != nil {
				t.Errorf("the list panicked: %v, error %v", panicked, err)
			}
			if got := m.guarded(); (got[key] != "") == unchecked {
				t.Errorf("guarded: %v", got)
			}
		})
	}
}

// TestMovedAuthenticatedValues shows that aesgcm binds a value to its key of etcd: below another prefix it can be read only when it was transcoded, and a guard that is told the target's keys notices.
func TestMovedAuthenticatedValues(t *testing.T) {
	keys := encrypts("aesgcm key1=P")
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%v", guarded), func(t *testing.T) {
			primary, standby := newCluster(t, "/registry", keys), newCluster(t, "/kubernetes.io", keys)
			source := primary.direct(secrets)
			source.create(source.make(rand.New(rand.NewPCG(6, 6)), "team-0", "moved", 1))
			var cfg etcdmirror.Config
			if guarded {
				cfg.Guards = []etcdmirror.Guard{standby.codec().Guard(standby.ctx, targetKey(primary, standby))}
			}
			m := mirror(primary, standby, cfg)
			m.sync()
			_, _, err := standby.direct(secrets).tryList(metav1.ListOptions{})
			if (err == nil) != guarded {
				t.Errorf("list: %v", err)
			}
			resp, err := standby.client.Get(standby.ctx, "/kubernetes.io/secrets/", clientv3.WithPrefix())
			if err != nil || (len(resp.Kvs) == 0) != guarded || (len(m.guarded()) == 1) != guarded {
				t.Errorf("%d keys at the standby, guarded: %v, %v", len(resp.Kvs), m.guarded(), err)
			}
		})
	}
}
