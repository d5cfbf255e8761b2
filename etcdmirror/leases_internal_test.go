package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// renew keeps a lease of the source alive until the returned func is called.
func (w *leaseWorld) renew(id int64) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, _ = etcdrpc.Do(w.ctx, time.Second, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
				return w.source.KeepAliveOnce(ctx, clientv3.LeaseID(id))
			})
			select {
			case <-time.After(300 * time.Millisecond):
			case <-quit:
				return
			}
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { close(quit) }); <-done }
	w.t.Cleanup(stop)
	return stop
}

func TestLeaseHasTheRemainingTimeUnderItsID(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	r := w.term()
	for _, ttl := range []int64{5, 3600} {
		id := w.grant(w.source, 0, ttl)
		before := w.ttl(w.source, id).TTL
		if ttl == 5 {
			w.wait("most of the lease's time to be over", func() bool { before = w.ttl(w.source, id).TTL; return before <= 2 })
		}
		got, err := r.ensure(w.ctx, id)
		if err != nil || got != id && !w.gone(w.source, id) {
			t.Fatalf("ensure: %x, %v; want %x", got, err, id)
		}
		if got == 0 {
			continue // a slow machine: it ended before it was asked for
		}
		there := w.ttl(w.target, id)
		if there.GrantedTTL == 0 && w.gone(w.source, id) {
			continue
		}
		if there.GrantedTTL > before+1 || there.GrantedTTL < 1 {
			t.Errorf("granted %d s of %d s at the target, with at most %d s left at the source", there.GrantedTTL, ttl, before+1)
		}
		if len(there.Keys) != 1 || !w.whole(id) {
			t.Errorf("the lease has the keys %q, want that of the metadata", there.Keys)
		}
	}
}

func TestLeaseIsGrantedOnce(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	r := w.term()
	id := w.grant(w.source, 0, 600)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if got, err := r.ensure(w.ctx, id); err != nil || got != id {
				t.Errorf("ensure: %x, %v", got, err)
			}
		})
	}
	group.Wait()
	if n := r.calls.counts()["Lease/LeaseGrant"]; n != 1 {
		t.Errorf("%d grants", n)
	}
	if calls := fmt.Sprint(r.calls.counts()); calls != "map[KV/Txn:1 Lease/LeaseGrant:1]" {
		t.Errorf("calls of the target: %s", calls)
	}
	if r.count() != 1 {
		t.Errorf("%d leases are counted", r.count())
	}
}

func TestLeaseGoneAtTheSource(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	r := w.term()
	id := w.grant(w.source, 0, 600)
	key := "/registry/events/a"
	if _, err := w.source.Revoke(w.ctx, clientv3.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := r.ensure(w.ctx, id); err != nil || got != 0 {
			t.Fatalf("ensure of a lease that is gone: %x, %v", got, err)
		}
	}
	if n := r.calls.counts()["Lease/LeaseGrant"]; n != 0 {
		t.Errorf("%d grants of a lease that is gone", n)
	}
	if !r.matches(id, 0) || r.matches(id, id+1) || r.matches(0, id) || !r.matches(id, id) {
		t.Error("a key of a lease that is gone should have none")
	}
	// Somebody grants it again under its ID, and a key comes while it is still held for gone.
	w.grant(w.source, id, 600)
	rev := w.put(w.source, key, "v", id)
	event := &clientv3.Event{Kv: w.get(w.source, key)}
	if err := r.apply(w.ctx, event); err != nil {
		t.Fatal(err)
	}
	r.start()
	w.wait("the key to get its lease", func() bool { return w.equal(key) })
	w.wait("the lease's mark", func() bool { return w.whole(id) })
	if r.applied != rev || len(w.deletions()) != 0 {
		t.Errorf("applied %d of %d, deleted %q", r.applied, rev, w.deletions())
	}
	// And one that is gone for good is forgotten.
	other := w.grant(w.source, 0, 600)
	if _, err := w.source.Revoke(w.ctx, clientv3.LeaseID(other)); err != nil {
		t.Fatal(err)
	}
	if got, err := r.ensure(w.ctx, other); err != nil || got != 0 {
		t.Fatalf("ensure: %x, %v", got, err)
	}
	w.wait("it to be forgotten", func() bool { _, known := r.get(other); return !known })
}

func TestLeaseThatTheTargetHasAlready(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	for _, c := range []struct {
		name    string
		prepare func(id int64)
		ours    bool
	}{
		{"an earlier term's", func(id int64) {
			w.put(w.target, w.keys.lease()+leaseName(id), "", id)
			w.put(w.target, "/registry/events/ours", "v", id)
		}, true},
		{"one whose replacement was interrupted", func(id int64) {
			w.put(w.target, w.keys.lease()+leaseName(id), leaseUnsettled, 0)
			w.put(w.target, "/registry/events/ours", "v", id)
		}, true},
		{"one whose grant was not written down", func(int64) {}, true},
		{"another's", func(id int64) { w.put(w.target, "/registry/events/theirs", "v", id) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.term()
			id := w.grant(w.source, 0, 600)
			w.grant(w.target, id, 500)
			c.prepare(id)
			got, err := r.ensure(w.ctx, id)
			if want := map[bool]int64{true: id}[c.ours]; err != nil || got != want {
				t.Fatalf("ensure: %x, %v; want %x", got, err, want)
			}
			if r.matches(id, 0) == c.ours {
				t.Errorf("matches without a lease: %v", !c.ours)
			}
			if n := r.reported(LeaseCollided); n > 0 == c.ours {
				t.Errorf("%d reports of a collision", n)
			}
			if w.ttl(w.target, id).GrantedTTL != 500 {
				t.Error("the lease was touched")
			}
			if kv := w.get(w.target, w.keys.lease()+leaseName(id)); (kv != nil) != c.ours {
				t.Errorf("written down: %v", kv != nil)
			}
		})
	}
}

func TestLeaseThatEndsBeforeItsFirstKey(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	r := w.term()
	id := w.grant(w.source, 0, 600)
	if _, err := r.ensure(w.ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.target.Revoke(w.ctx, clientv3.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
	w.put(w.source, "/registry/events/a", "v", id)
	if err := r.write(w.ctx, w.get(w.source, "/registry/events/a")); err != nil {
		t.Fatal(err)
	}
	if !w.equal("/registry/events/a") || r.reported(LeaseLost) != 1 {
		t.Errorf("the key has not got its lease, or %d reports of a loss", r.reported(LeaseLost))
	}
	// Its answer was lost, and the fence has moved: nothing is written down.
	other := w.grant(w.source, 0, 600)
	w.promote()
	if got, err := r.ensure(w.ctx, other); !errors.Is(err, ErrFenced) || got != 0 {
		t.Errorf("ensure after a promotion: %x, %v", got, err)
	}
	r.fenced.Store(w.fence.Load())
	if got, err := r.ensure(w.ctx, other); err != nil || got != other || !w.whole(other) {
		t.Errorf("ensure of a lease that was granted and not written down: %x, %v", got, err)
	}
}

// A lease that the source keeps alive for longer than its time keeps its keys at the target, and ends with the source's.
func TestLeaseLivesAsLongAsTheSources(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	const renewed, dying = "/registry/masterleases/renewed", "/registry/masterleases/dying"
	const ttl = 6
	ids := map[string]int64{renewed: w.grant(w.source, 0, ttl), dying: w.grant(w.source, 0, 3)}
	w.renew(ids[renewed])
	stop := w.renew(ids[dying])
	r := w.term().start()
	r.tail(1)
	began := time.Now()
	for key, id := range ids {
		w.put(w.source, key, "v", id)
	}
	w.wait("the keys", func() bool { return w.equal(renewed) && w.equal(dying) })
	stop()
	w.wait("the end of the lease that is not renewed", func() bool { return w.gone(w.source, ids[dying]) })
	w.wait("the key's end at the target", func() bool { return w.get(w.target, dying) == nil })
	w.wait("the lease's end at the target", func() bool { return w.gone(w.target, ids[dying]) && !w.whole(ids[dying]) })
	w.wait("the lease to be forgotten", func() bool { _, known := r.get(ids[dying]); return !known })
	w.wait("more than the renewed lease's time", func() bool { return time.Since(began) > (ttl+2)*time.Second })
	if slices.Contains(w.deletions(), renewed) || !w.equal(renewed) {
		t.Errorf("a key vanished though the source's lease lives; %d leases were lost", r.reported(LeaseLost))
	}
}

// After a promotion leases run out though the source's live, whether the mirror has noticed it or not.
func TestLeaseRunsOutAfterAPromotion(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	id := w.grant(w.source, 0, 3)
	w.renew(id)
	key := "/registry/masterleases/a"
	w.put(w.source, key, "v", id)
	r := w.term().caughtUp().start()
	w.wait("the key", func() bool { return r.write(w.ctx, w.get(w.source, key)) == nil && w.equal(key) })
	w.wait("a keepalive", func() bool { return r.calls.counts()["Lease/LeaseKeepAlive"] > 0 })
	w.promote()
	w.wait("the lease to run out", func() bool { return w.gone(w.target, id) })
	if w.gone(w.source, id) || w.get(w.target, key) != nil {
		t.Error("the source's lease should live, and the key at the target should not")
	}
	// Nor does a key that is on its way when the promotion comes.
	if got, err := r.again(w.ctx, id); !errors.Is(err, ErrFenced) || got != 0 {
		t.Errorf("again: %x, %v", got, err)
	}
	w.wait("an attempt to put the key back", func() bool { e, _ := r.get(id); return e.mend != 0 && r.calls.counts()["KV/Txn"] > 3 })
	r.stop()
	if w.get(w.target, key) != nil || len(w.ttl(w.target, id).Keys) != 0 {
		t.Error("the key came back after the promotion")
	}
}

// Without answers of the source nothing is kept alive. What ran out meanwhile comes back with the source.
func TestLeaseOfALostSource(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	r := w.term()
	r.timeout = time.Second
	r.start()
	id := w.grant(w.source, 0, 3)
	w.renew(id)
	key := "/registry/masterleases/a"
	r.tail(1)
	w.put(w.source, key, "v", id)
	w.wait("the key", func() bool { return w.equal(key) })
	if err := w.sourceCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	kept := r.calls.counts()["Lease/LeaseKeepAlive"]
	w.wait("the lease to run out", func() bool { return w.gone(w.target, id) })
	if w.get(w.target, key) != nil {
		t.Error("the key outlives its lease")
	}
	if n := r.calls.counts()["Lease/LeaseKeepAlive"] - kept; n > 1 { // one for an answer that had just come
		t.Errorf("kept alive %d times after the source was lost", n)
	}
	if err := w.sourceCluster.StartMember(w.ctx, 0, nil); err != nil {
		t.Fatal(err)
	}
	w.wait("the key to come back", func() bool { return w.equal(key) })
	w.wait("the lease's mark", func() bool { return w.whole(id) })
	if r.reported(LeaseLost) == 0 {
		t.Error("the loss was not reported")
	}
}
