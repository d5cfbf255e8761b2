package kubestorage

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// pairing is a primary and a standby, and how values come from one to the other.
type pairing struct {
	name                         string
	primaryPrefix, standbyPrefix string
	primaryKeys, standbyKeys     string
	transcode                    bool
}

var pairings = []pairing{
	{"plain", "/registry", "/registry", "", "", false},
	{"aescbc", "/registry", "/registry", encrypts("aescbc key1=P", "identity"), encrypts("aescbc key2=S", "aescbc key1=P", "identity"), false},
	{"aesgcm", "/registry", "/registry", encrypts("aesgcm key1=P"), encrypts("aesgcm key1=P"), false},
	{"secretbox", "/registry", "/registry", encrypts("secretbox key1=P"), encrypts("aescbc key2=S", "secretbox key1=P"), false},
	// The same name for two secrets, and an aesgcm whose authenticated data is the key of etcd, below another prefix.
	{"aescbc transcoded", "/registry", "/registry", encrypts("aescbc key1=P"), encrypts("aescbc key1=S"), true},
	{"aesgcm transcoded below another prefix", "/registry", "/kubernetes.io", encrypts("aesgcm key1=P"), encrypts("aesgcm key1=S", "identity"), true},
	{"encrypted on the way", "/registry", "/registry", "", encrypts("secretbox key1=S"), true},
}

func (p pairing) start(t *testing.T) (primary, standby *cluster, cfg etcdmirror.Config) {
	t.Helper()
	primary, standby = newCluster(t, p.primaryPrefix, p.primaryKeys), newCluster(t, p.standbyPrefix, p.standbyKeys)
	if p.transcode {
		if p.primaryKeys == "" {
			primary.keys = encrypts("identity")
		}
		transcoder, err := encryption.NewTranscoder(primary.codec(), standby.codec())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Transform = transcoder
	} else if p.standbyKeys != "" {
		cfg.Guards = []etcdmirror.Guard{standby.codec().Guard(t.Context(), targetKey(primary, standby))}
	}
	return primary, standby, cfg
}

// TestObjectsOfThePrimaryAreReadThroughTheStandby has random traffic through the primary's storage before and while the mirror runs, and then reads everything through both.
func TestObjectsOfThePrimaryAreReadThroughTheStandby(t *testing.T) {
	for i, p := range pairings {
		t.Run(p.name, func(t *testing.T) {
			primary, standby, cfg := p.start(t)
			var all []*writers
			for j, k := range kinds {
				w := newWriters(primary.direct(k), uint64(100*i+j+1), 2)
				w.run(15)
				all = append(all, w)
			}
			m := mirror(primary, standby, cfg)
			m.sync()
			total := 0
			for _, w := range all {
				w.run(15)
			}
			m.sync()
			for _, w := range all {
				for reading, l := range standby.layers(w.layer.kind) {
					n := mustAgree(t, w.layer, l)
					if n == 0 {
						t.Errorf("no objects of %s", l.resource)
					}
					if reading == "direct" {
						total += n
					}
				}
			}
			if guarded := m.guarded(); len(guarded) != 0 {
				t.Errorf("guarded: %v", guarded)
			}
			t.Logf("%d objects compared, each by List and Get, directly and by the cache", total)
			m.stop()
			if _, err := etcdmirror.Promote(primary.ctx, standby.client, mirrorName, etcdmirror.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, k := range []kind{configMaps, secrets} {
				mustServe(t, standby.cached(k))
			}
		})
	}
}

// mustAgree compares all objects of a kind on both sides, by List, and by Get of each. They may differ in resourceVersion only, which is the mod_revision in their own etcd.
func mustAgree(t *testing.T, primary, standby *layer) int {
	t.Helper()
	theirs, _ := primary.mustList(metav1.ListOptions{})
	ours, info := standby.mustList(metav1.ListOptions{})
	if len(theirs) != len(ours) {
		t.Errorf("%s: %d objects at the primary, %d at the standby", primary.resource, len(theirs), len(ours))
		return 0
	}
	for i := range theirs {
		key, _ := standby.keyOf(ours[i])
		resp, err := standby.c.client.Get(standby.c.ctx, standby.c.prefix+key)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%s is not in the standby's etcd: %v", key, err)
		}
		version := ours[i].(metav1.Object).GetResourceVersion()
		if version != strconv.FormatInt(resp.Kvs[0].ModRevision, 10) {
			t.Errorf("%s has resourceVersion %s and mod_revision %d", key, version, resp.Kvs[0].ModRevision)
		}
		if number(version) > number(info.GetResourceVersion()) {
			t.Errorf("%s has resourceVersion %s in a list of %s", key, version, info.GetResourceVersion())
		}
		for _, from := range []string{"", "0"} { // the etcd, and the cache where there is one
			got := standby.object()
			if err := standby.Get(standby.c.ctx, key, storage.GetOptions{ResourceVersion: from}, got); err != nil {
				t.Errorf("get %s: %v", key, err)
			} else if !equality.Semantic.DeepEqual(ours[i], got) {
				t.Errorf("%s: Get and List differ: %s", key, cmp.Diff(ours[i], got))
			}
		}
		if diff := cmp.Diff(unversioned(theirs[i]), unversioned(ours[i])); diff != "" {
			t.Errorf("%s differs (-primary +standby):\n%s", key, diff)
		}
	}
	return len(ours)
}

func number(version string) int64 {
	n, _ := strconv.ParseInt(version, 10, 64)
	return n
}

func unversioned(obj runtime.Object) runtime.Object {
	c := obj.DeepCopyObject()
	c.(metav1.Object).SetResourceVersion("")
	return c
}

// mustServe changes and deletes mirrored objects and makes a new one, as the standby's users do after a promotion.
func mustServe(t *testing.T, l *layer) {
	t.Helper()
	items, _ := l.mustList(metav1.ListOptions{})
	r := rand.New(rand.NewPCG(1, 1))
	key, _ := l.keyOf(items[0])
	uid, version := items[0].(metav1.Object).GetUID(), items[0].(metav1.Object).GetResourceVersion()
	out := l.object()
	change := func(in runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
		l.change(r, in, 1_000_000)
		return in, nil, nil
	}
	if err := l.GuaranteedUpdate(l.c.ctx, key, out, false, &storage.Preconditions{UID: &uid, ResourceVersion: &version}, change, items[0]); err != nil {
		t.Errorf("update %s: %v", key, err)
	}
	if err := l.GuaranteedUpdate(l.c.ctx, key, l.object(), false, &storage.Preconditions{ResourceVersion: &version}, change, nil); err == nil {
		t.Errorf("%s was updated by an old resourceVersion", key)
	}
	if err := l.Delete(l.c.ctx, key, l.object(), &storage.Preconditions{UID: &uid}, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Errorf("delete %s: %v", key, err)
	}
	l.create(l.make(r, "team-0", "new", 1_000_001))
	after, _ := l.mustList(metav1.ListOptions{})
	if len(after) != len(items) {
		t.Errorf("%s: %d objects after one was deleted and one made of %d", l.resource, len(after), len(items))
	}
}

// TestPagesOfAListBelongTogether reads a list in pages through the standby while the mirror writes: the continue token's revision is one of the standby's.
func TestPagesOfAListBelongTogether(t *testing.T) {
	primary, standby := newCluster(t, "/registry", ""), newCluster(t, "/registry", "")
	w := newWriters(primary.direct(configMaps), 7, 4)
	w.run(40)
	m := mirror(primary, standby, etcdmirror.Config{})
	m.sync()
	for reading, l := range standby.layers(configMaps) {
		t.Run(reading, func(t *testing.T) {
			var pages []runtime.Object
			var at, next string
			n := 0
			for n = 1; ; n++ {
				items, info := l.mustList(metav1.ListOptions{Limit: 3, Continue: next})
				pages = append(pages, items...)
				if at == "" {
					at = info.GetResourceVersion()
				}
				if got := info.GetResourceVersion(); got != at {
					t.Errorf("page %d is of resourceVersion %s, the first of %s", n, got, at)
				}
				if next = info.GetContinue(); next == "" {
					break
				}
				w.run(5)
				m.sync()
			}
			want, _ := l.mustList(metav1.ListOptions{ResourceVersion: at, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
			now, info := l.mustList(metav1.ListOptions{})
			if n < 4 || len(pages) == 0 || info.GetResourceVersion() == at {
				t.Fatalf("%d pages with %d objects at %s, now %s", n, len(pages), at, info.GetResourceVersion())
			}
			if diff := cmp.Diff(want, pages); diff != "" {
				t.Errorf("the pages are not the list at %s (-list +pages):\n%s", at, diff)
			}
			if cmp.Equal(now, pages) {
				t.Error("nothing changed while the pages were read")
			}
		})
	}
}

// An object's time to live does not come along by default: the standby keeps what the primary's log has not deleted.
func TestTimeToLive(t *testing.T) {
	for _, c := range []struct {
		policy etcdmirror.LeasePolicy
		want   bool
	}{{etcdmirror.LeaseDrop, false}, {etcdmirror.LeaseMirror, true}} {
		t.Run(fmt.Sprint(c.want), func(t *testing.T) {
			primary, standby := newCluster(t, "/registry", ""), newCluster(t, "/registry", "")
			l := primary.direct(configMaps)
			obj := l.make(rand.New(rand.NewPCG(3, 3)), "team-0", "short-lived", 1)
			key, _ := l.keyOf(obj)
			if err := l.Create(l.c.ctx, key, obj, nil, uint64(time.Hour/time.Second)); err != nil {
				t.Fatal(err)
			}
			m := mirror(primary, standby, etcdmirror.Config{Leases: c.policy})
			m.sync()
			mustAgree(t, l, standby.direct(configMaps))
			resp, err := standby.client.Get(standby.ctx, "/registry"+key)
			if err != nil || len(resp.Kvs) != 1 || (resp.Kvs[0].Lease != 0) != c.want {
				t.Errorf("%v, %v: want a lease: %v", resp, err, c.want)
			}
		})
	}
}
