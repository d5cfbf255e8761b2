package kubestorage

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// unmerged keeps the tail from merging revisions, however slow the machine is.
func unmerged(cfg etcdmirror.Config) etcdmirror.Config {
	cfg.MergeBehind, cfg.MergeAfter = 1<<30, time.Hour
	return cfg
}

// TestWatchSeesEachChangeOnce watches the standby's storage from its resourceVersion under random traffic at the primary, in one go, and cut off and resumed after every few events.
// The oracle is what was written, object by object. Where a mirror that is behind merges revisions, some writes of an object are not seen, and nothing else is lost.
func TestWatchSeesEachChangeOnce(t *testing.T) {
	for i, k := range []kind{configMaps, secrets, widgets} {
		t.Run(k.resource.Resource, func(t *testing.T) {
			primary, standby := newCluster(t, "/registry", encrypts("aescbc key1=P")), newCluster(t, "/registry", encrypts("secretbox key1=S"))
			transcoder, err := encryption.NewTranscoder(primary.codec(), standby.codec())
			if err != nil {
				t.Fatal(err)
			}
			layers := standby.layers(k)
			for _, c := range []struct {
				name     string
				cfg      etcdmirror.Config
				most     int // events between two interruptions; 0: none
				readings []string
				check    func(t *testing.T, written, seen history)
			}{
				{"in one go", unmerged(etcdmirror.Config{}), 0, []string{"direct", "cached"}, mustEqualHistory},
				{"resumed", unmerged(etcdmirror.Config{}), 12, []string{"direct", "cached"}, mustEqualHistory},
				{"merged", etcdmirror.Config{MergeBehind: 1}, 0, []string{"direct"}, mustCondense},
			} {
				c.cfg.Transform = transcoder
				m := mirror(primary, standby, c.cfg)
				m.sync()
				for j, reading := range c.readings {
					t.Run(c.name+" "+reading, func(t *testing.T) {
						l := layers[reading]
						seed := uint64(100*i + 10*j + c.most + 1)
						w := newWriters(primary.direct(k), seed, 3)
						_, info := l.mustList(metav1.ListOptions{})
						s := &seen{l: l, from: info.GetResourceVersion(), history: history{}}
						var written sync.WaitGroup
						written.Go(func() {
							w.run(50)
							w.end()
						})
						r := rand.New(rand.NewPCG(seed, 1))
						s.readAll(func() int {
							if c.most == 0 {
								return 0
							}
							return 1 + r.IntN(c.most)
						})
						written.Wait()
						c.check(t, w.history(), s.history)
						t.Logf("%d of %d writes seen", s.history.events(), w.history().events())
						clear(t, primary, k)
						m.sync()
					})
				}
				m.stop()
			}
		})
	}
}

// clear deletes all objects of a kind, so that the next writers begin with none.
func clear(t *testing.T, c *cluster, k kind) {
	t.Helper()
	if _, err := c.client.Delete(c.ctx, c.prefix+k.prefix+"/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
}

// TestSeveralKeysOfOneRevision shows why the tail does not merge revisions that touch one resource: a watch that is cut off between two events of one
// revision cannot say where it was, and never gets the rest.
func TestSeveralKeysOfOneRevision(t *testing.T) {
	standby := newCluster(t, "/registry", "")
	for reading, l := range standby.layers(configMaps) {
		t.Run(reading, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 5))
			_, info := l.mustList(metav1.ListOptions{})
			before := info.GetResourceVersion()
			var ops []clientv3.Op
			for i := range 3 {
				obj := l.make(r, "team-0", fmt.Sprintf("%s-%d", reading, i), int64(i))
				key, _ := l.keyOf(obj)
				ops = append(ops, clientv3.OpPut(standby.prefix+key, encode(t, l, obj)))
			}
			if _, err := standby.client.Txn(standby.ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
			whole := &seen{l: l, from: before, history: history{}}
			whole.read(l.mustWatch(before), 3)
			if len(whole.history) != 3 {
				t.Fatalf("a watch from %s saw %v", before, whole.history)
			}
			w := &writers{layer: l, seed: 5}
			cut := &seen{l: l, from: before, history: history{}}
			open := l.mustWatch(before)
			cut.read(open, 1)
			open.Stop()
			open = l.mustWatch(cut.from)
			w.end()
			cut.read(open, 0)
			if len(cut.history) != 1 {
				t.Errorf("a watch that was cut off within a revision and resumed saw %v: it used to lose the rest", cut.history)
			}
			clear(t, standby, configMaps)
		})
	}
}

// TestBulkPhasesAreKnown lets a backlog be merged: then a standby revision holds several keys of one resource, a watch that is resumed inside of one loses events, and Status says up to which
// revision that is so. From there on, and from any revision with MergeBehind out of reach, every resumption is complete.
func TestBulkPhasesAreKnown(t *testing.T) {
	for _, c := range []struct {
		name  string
		cfg   etcdmirror.Config
		bulk  bool
		check func(t *testing.T, written, seen history)
	}{
		{"merged", etcdmirror.Config{MergeBehind: 32, MergeAfter: time.Hour}, true, mustCondense},
		{"one by one", unmerged(etcdmirror.Config{}), false, mustEqualHistory},
	} {
		t.Run(c.name, func(t *testing.T) {
			primary, standby := newCluster(t, "/registry", ""), newCluster(t, "/registry", "")
			m := mirror(primary, standby, c.cfg)
			m.sync()
			m.stop() // the backlog comes while nobody mirrors
			l := standby.direct(configMaps)
			before := standby.revision()
			w := newWriters(primary.direct(configMaps), 11, 4)
			w.run(20)
			m = mirror(primary, standby, c.cfg)
			m.sync()
			// Merging goes on for a while after it was of use. Writes one by one come after it.
			bulk := m.Status().LastBulkRevision
			for after := 0; after < 8; after++ {
				if err := w.write(w.each[0]); err != nil {
					t.Fatal(err)
				}
				m.sync()
				if got := m.Status().LastBulkRevision; got != bulk {
					bulk, after = got, -1
					time.Sleep(20 * time.Millisecond) // a poll
				}
			}
			w.end()
			m.sync()
			revisions := keysByRevision(t, standby, before, configMaps)
			several := 0
			for revision, keys := range revisions {
				if keys > 1 {
					several++
					if revision > bulk {
						t.Errorf("revision %d holds %d keys, and the last bulk revision is %d", revision, keys, bulk)
					}
				}
			}
			if (several > 0) != c.bulk {
				t.Fatalf("%d of %d revisions hold several keys of the resource", several, len(revisions))
			}
			from := func(revision int64, each int) history {
				s := &seen{l: l, from: strconv.FormatInt(revision, 10), history: history{}}
				s.readAll(func() int { return each })
				return s.history
			}
			whole := from(before, 0)
			c.check(t, w.history(), whole)
			cut := from(before, 3)
			if c.bulk {
				if cut.events() >= whole.events() {
					t.Errorf("a watch resumed within bulk revisions saw %d of %d events: it used to lose some", cut.events(), whole.events())
				}
				whole, cut = from(bulk, 0), from(bulk, 3)
				if whole.events() == 0 {
					t.Error("nothing came after the last bulk revision")
				}
			}
			if diff := cmp.Diff(whole, cut); diff != "" {
				t.Errorf("resumed after every third event, the last bulk revision being %d:\n%s", bulk, diff)
			}
		})
	}
}

// keysByRevision counts the keys of a kind in each revision after a given one.
func keysByRevision(t *testing.T, c *cluster, after int64, k kind) map[int64]int {
	t.Helper()
	end := c.revision()
	counts := map[int64]int{}
	for resp := range c.client.Watch(c.ctx, c.prefix+k.prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithProgressNotify()) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.Events {
			counts[e.Kv.ModRevision]++
			if string(e.Kv.Key) == c.prefix+k.key("team-0", last) {
				return counts
			}
		}
		if resp.Header.Revision > end && len(resp.Events) == 0 {
			return counts
		}
	}
	t.Fatal("the watch of the etcd ended")
	return nil
}

// TestFutureResourceVersion is what happens to a client that moves to a standby whose revision is lower than the primary's: a list is refused, but a watch is accepted and blind, until
// the standby's own revision has passed it. An old resourceVersion that the standby has compacted is refused, which makes a client list again: that is what a fence of the revision is for.
func TestFutureResourceVersion(t *testing.T) {
	for _, reading := range []string{"direct", "cached"} {
		t.Run(reading, func(t *testing.T) {
			t.Parallel() // a list from the future takes the cache seconds
			standby := newCluster(t, "/registry", "")
			l := standby.layers(configMaps)[reading]
			r := rand.New(rand.NewPCG(9, 9))
			future := standby.revision() + 100
			blind := l.mustWatch(strconv.FormatInt(future, 10))
			_, info := l.mustList(metav1.ListOptions{})
			sighted := &seen{l: l, from: info.GetResourceVersion(), history: history{}}
			for i := range 5 {
				l.create(l.make(r, "team-0", fmt.Sprintf("unseen-%d", i), int64(i)))
			}
			sighted.read(l.mustWatch(sighted.from), 5)
			if len(sighted.history) != 5 {
				t.Fatalf("saw %v", sighted.history)
			}
			if _, _, err := l.tryList(metav1.ListOptions{ResourceVersion: strconv.FormatInt(future, 10), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}); !storage.IsTooLargeResourceVersion(err) {
				t.Errorf("a list from the future: %v", err)
			}
			standby.raise(future + 1)
			l.create(l.make(r, "team-0", "first-seen", 6))
			select {
			case e := <-blind.ResultChan():
				if o, ok := e.Object.(metav1.Object); !ok || e.Type != watch.Added || o.GetName() != "first-seen" {
					t.Errorf("a watch from the future brought %s %v first: it used to be blind to the five before", e.Type, e.Object)
				}
			case <-standby.ctx.Done():
				t.Fatal("a watch from the future brings nothing even after its resourceVersion")
			}
			if reading == "cached" {
				return // its window is the cache's memory, which a restart of the apiserver empties
			}
			if _, err := standby.client.Compact(standby.ctx, standby.revision()); err != nil {
				t.Fatal(err)
			}
			select {
			case e := <-l.mustWatch(sighted.from).ResultChan():
				if e.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) && !apierrors.IsGone(apierrors.FromObject(e.Object)) {
					t.Errorf("a watch from below the compaction: %s %v", e.Type, e.Object)
				}
			case <-standby.ctx.Done():
				t.Fatal("a watch from below the compaction says nothing")
			}
		})
	}
}
