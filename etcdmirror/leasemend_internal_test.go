package etcdmirror

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// shortened is a lease of the source that an earlier term granted too short, with keys.
func (w *leaseWorld) shortened(name string, keys int) (id int64, all []string) {
	w.t.Helper()
	id = w.grant(w.source, 0, 600)
	w.grant(w.target, id, 60)
	w.put(w.target, w.keys.lease()+leaseName(id), "", id)
	for i := range keys {
		key := fmt.Sprintf("/registry/%s/%03d", name, i)
		all = append(all, key)
		w.put(w.source, key, "v", id)
		w.put(w.target, key, "v", id)
	}
	return id, all
}

// caughtUp makes a term believe that the target equals the source.
func (r *leaseTerm) caughtUp() *leaseTerm {
	r.w.t.Helper()
	r.applied = r.w.put(r.w.source, "/elsewhere", "", 0)
	return r
}

func (r *leaseTerm) takeOver() *leaseTerm {
	r.w.t.Helper()
	if err := r.load(r.w.ctx); err != nil {
		r.w.t.Fatal(err)
	}
	return r.caughtUp().start()
}

func (w *leaseWorld) allEqual(keys []string) bool {
	w.t.Helper()
	for _, key := range keys {
		if !w.equal(key) {
			return false
		}
	}
	return true
}

// full reports whether the target's lease has all its keys, and the source's time to live or, if it was granted anew with the time that was left, most of it.
func (w *leaseWorld) full(id int64, keys []string) bool {
	w.t.Helper()
	there := w.ttl(w.target, id)
	return there.GrantedTTL >= 400 && len(there.Keys) == len(keys)+1 && w.whole(id) && w.allEqual(keys)
}

// detachedAfter is the number of a replacement's transaction that detaches the last key: the first one says that it begins.
func detachedAfter(keys []string) int { return 1 + len(keys) }

func TestShortLeaseIsReplacedWithItsKeys(t *testing.T) {
	t.Parallel()
	w := newLeaseWorldWith(t, minTxnOps)
	id, keys := w.shortened("events", 20)
	lone, none := w.shortened("none", 0)
	versions := map[string]int64{}
	for _, key := range keys {
		versions[key] = w.get(w.target, key).Version
	}
	r := w.term().takeOver()
	w.wait("the replacement", func() bool { return w.full(id, keys) && w.full(lone, none) })
	if a, b := w.ttl(w.target, id).GrantedTTL, w.ttl(w.target, lone).GrantedTTL; a != 600 || b != 600 {
		t.Errorf("granted %d s and %d s, 600 s at the source", a, b)
	}
	if d := w.deletions(); len(d) != 0 {
		t.Errorf("%q vanished", d)
	}
	revisions := map[int64]string{}
	for _, key := range keys {
		if kv := w.get(w.target, key); kv.Version != versions[key]+2 {
			t.Fatalf("%q was written %d times", key, kv.Version-versions[key])
		} else if other := revisions[kv.ModRevision]; other != "" {
			t.Fatalf("%q and %q were written in one revision", key, other)
		} else {
			revisions[kv.ModRevision] = key
		}
	}
	w.wait("the reports", func() bool { return r.reported(LeaseReplaced) == 2 })
	if n := r.reported(LeaseLost); n != 0 {
		t.Errorf("%d leases were lost", n)
	}
}

// A replacement may be cut off after any of its requests, executed or not: no key vanishes, and the next term ends what was begun.
func TestReplacementSurvivesACrashAnywhere(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	for _, lost := range []bool{false, true} {
		ended := false
		for crash := 1; !ended; crash++ {
			id, keys := w.shortened(fmt.Sprintf("crash-%v-%d", lost, crash), 2)
			first := w.term()
			first.calls.crash, first.calls.lost = crash, lost
			if first.load(w.ctx) == nil {
				first.caughtUp().start()
			}
			w.wait("the crash, or the end", func() bool {
				ended = w.full(id, keys) && first.reported(LeaseReplaced) > 0
				return ended || first.calls.crashed()
			})
			first.stop()
			w.promote() // the next term's fence
			if !ended {
				second := w.term().takeOver()
				w.wait(fmt.Sprintf("the next term's work after a crash at call %d (answer lost: %v)", crash, lost), func() bool { return w.full(id, keys) })
				second.stop()
			}
			if d := w.deletions(); len(d) != 0 {
				t.Fatalf("crash at call %d (answer lost: %v): %q vanished", crash, lost, d)
			}
			// Out of the way of the next round's load.
			if _, err := w.target.Revoke(w.ctx, clientv3.LeaseID(id)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.source.Revoke(w.ctx, clientv3.LeaseID(id)); err != nil {
				t.Fatal(err)
			}
			w.deletions()
			w.mu.Lock()
			w.deleted = nil
			w.mu.Unlock()
			if ended && crash < 12 {
				t.Errorf("the replacement took %d calls: too few to be one", crash-1)
			}
		}
	}
}

// A promotion in the middle of a replacement leaves the keys, and nothing is revoked or granted after it.
func TestPromotionDuringAReplacement(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	id, keys := w.shortened("events", 3)
	r := w.term()
	promoted := make(chan struct{})
	r.after = func(commits int) {
		if commits == detachedAfter(keys) {
			w.promote()
			close(promoted)
		}
	}
	r.takeOver()
	<-promoted
	_ = r.serially(w.ctx, func(context.Context) error { return nil }) // the attempt has ended
	r.stop()
	if calls := r.calls.counts(); calls["Lease/LeaseRevoke"] != 0 || calls["Lease/LeaseGrant"] != 0 {
		t.Errorf("calls of the target: %v", calls)
	}
	if d := w.deletions(); len(d) != 0 {
		t.Errorf("%q vanished", d)
	}
	if w.ttl(w.target, id).GrantedTTL != 60 {
		t.Error("the lease was replaced after the promotion")
	}
}

// Keys that somebody changes between being detached and attached are compared with the source's.
func TestKeysThatChangeDuringAReplacement(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	for name, change := range map[string]func(key string){
		"changed": func(key string) { w.put(w.target, key, "theirs", 0) },
		"deleted": func(key string) {
			if _, err := w.target.Delete(w.ctx, key); err != nil {
				t.Error(err)
			}
		},
	} {
		id, keys := w.shortened(name, 5)
		r := w.term()
		r.after = func(commits int) {
			if commits == detachedAfter(keys) {
				change(keys[0])
			}
		}
		r.takeOver()
		w.wait("the "+name+" key to be as at the source", func() bool { return w.full(id, keys) })
		r.stop()
	}
	if d := w.deletions(); len(d) != 1 || d[0] != "/registry/deleted/000" {
		t.Errorf("%q vanished", d)
	}
}

// A key that is attached while the others are detached keeps the lease from being revoked.
func TestLeaseWithAKeyIsNotRevoked(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	id, keys := w.shortened("events", 2)
	r := w.term()
	r.after = func(commits int) {
		if commits == detachedAfter(keys) {
			w.put(w.target, "/registry/theirs", "v", id)
		}
	}
	r.takeOver()
	w.wait("the keys to be attached again", func() bool { return w.allEqual(keys) && w.whole(id) })
	r.stop()
	if calls := r.calls.counts(); calls["Lease/LeaseRevoke"] != 0 {
		t.Errorf("calls of the target: %v", calls)
	}
	if d := w.deletions(); len(d) != 0 {
		t.Errorf("%q vanished", d)
	}
}

// A lease that vanishes at the target while the source's lives is granted again, with its keys; those that the tail has still to bring it leaves to the tail.
func TestLostLeaseIsRestored(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	id := w.grant(w.source, 0, 600)
	var keys []string
	for i := range 3 {
		keys = append(keys, fmt.Sprintf("/registry/events/%d", i))
		w.put(w.source, keys[i], "v", id)
	}
	r := w.term().caughtUp()
	for _, key := range keys {
		if err := r.write(w.ctx, w.get(w.source, key)); err != nil {
			t.Fatal(err)
		}
	}
	w.put(w.source, "/registry/events/later", "v", id)
	if _, err := w.target.Revoke(w.ctx, clientv3.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
	r.start()
	if got, err := r.again(w.ctx, id); err != nil || got != id {
		t.Fatalf("again: %x, %v", got, err)
	}
	w.wait("the keys to come back", func() bool { return w.allEqual(keys) })
	w.wait("nothing to be left to do", func() bool { e, _ := r.get(id); return e.mend == 0 && !e.queued })
	if w.get(w.target, "/registry/events/later") != nil {
		t.Error("a key was written ahead of the tail")
	}
	if r.reported(LeaseLost) != 1 || !w.whole(id) {
		t.Errorf("%d reports of a loss; written down: %v", r.reported(LeaseLost), w.whole(id))
	}
}

// What is left of an interrupted replacement is cleared when the source's lease is gone, or none of its keys takes part.
func TestRemainsOfReplacementsAreCleared(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	gone, empty := int64(77), w.grant(w.source, 0, 600)
	for _, id := range []int64{gone, empty} {
		w.put(w.target, w.keys.lease()+leaseName(id), leaseUnsettled, 0)
	}
	r := w.term().takeOver()
	w.wait("the metadata to be cleared", func() bool {
		resp, err := w.target.Get(w.ctx, w.keys.lease(), clientv3.WithPrefix())
		return err == nil && len(resp.Kvs) == 0
	})
	w.wait("them to be forgotten", func() bool {
		r.leases.mu.Lock()
		defer r.leases.mu.Unlock()
		return len(r.byID) == 0
	})
	if calls := r.calls.counts(); calls["Lease/LeaseGrant"] != 0 {
		t.Errorf("calls of the target: %v", calls)
	}
}

// A source that does not tell the keys of a lease leaves it without what would need them, and is reported.
func TestSourceThatDoesNotTellTheKeys(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	id := w.grant(w.source, 0, 600)
	w.put(w.source, "/registry/events/a", "v", id)
	w.put(w.source, "/secret", "v", id)
	w.put(w.target, w.keys.lease()+leaseName(id), leaseUnsettled, 0)
	guest := w.withGuest()
	r := w.term()
	r.leases.source = guest
	if err := r.load(w.ctx); err != nil {
		t.Fatal(err)
	}
	r.start()
	w.wait("the report", func() bool { return r.reported(LeaseUnread) == 1 })
	w.wait("it to be given up", func() bool { _, known := r.get(id); return !known })
	r.mu.Lock()
	defer r.mu.Unlock()
	if !strings.Contains(r.reports[0].Reason, "permission denied") {
		t.Errorf("the reason is %q", r.reports[0].Reason)
	}
}

// withGuest turns authentication on at the source; the guest may read /registry/ only.
func (w *leaseWorld) withGuest() *clientv3.Client {
	w.t.Helper()
	must := func(_ any, err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	must(w.source.RoleAdd(w.ctx, "root"))
	must(w.source.RoleAdd(w.ctx, "guest"))
	must(w.source.RoleGrantPermission(w.ctx, "guest", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead)))
	for _, user := range []string{"root", "guest"} {
		must(w.source.UserAdd(w.ctx, user, user))
		must(w.source.UserGrantRole(w.ctx, user, user))
	}
	must(w.source.AuthEnable(w.ctx))
	cfg := w.sourceConfig
	cfg.Username, cfg.Password = "guest", "guest"
	return w.connect(cfg)
}
