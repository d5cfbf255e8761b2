package etcdmirror_test

import (
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// Keys that the target's own cluster makes, and mirrored ones that it deletes, in the middle of a base copy.
func TestP5KeysMadeDuringTheBaseCopy(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	const keys = 400
	for i := range keys {
		p.put(p.source, key(i), "v")
	}
	own := newStranger(p, "/registry/secrets/own/", 1)
	var once, twice sync.Once
	victim := ""
	r := p.start(etcdmirror.Config{BatchOps: 10, Drift: etcdmirror.DriftRepair, RepairDelay: time.Millisecond, Hooks: etcdmirror.Hooks{
		Applied: func(i etcdmirror.AppliedInfo) {
			if i.Puts == 0 {
				return
			}
			once.Do(func() {
				for range 10 {
					own.act()
				}
			})
			twice.Do(func() { // the garbage collector, say
				for k := range p.get(p.target, "/registry/configmaps/") {
					victim = k
				}
				p.delete(p.target, victim)
			})
		},
	}})
	p.sync(r)
	p.eventually(r, "repair", func(s etcdmirror.Status) bool { return s.Repairs == 1 && s.Drifted == 0 })
	if s := r.Status(); s.Foreign != own.Keys() {
		t.Errorf("%d foreign keys, want %d", s.Foreign, own.Keys())
	}
	if md := p.metadata(); len(md.Foreign) != own.Keys() {
		t.Errorf("%d foreign keys are recorded, want %d", len(md.Foreign), own.Keys())
	}
	own.check()
	for key := range p.get(p.target, "/registry/secrets/own/") {
		p.delete(p.target, key)
	}
	p.mustEqual("/registry/", nil)
	if left := p.get(p.target, "/understudy/test/own/"); len(left) != 0 {
		t.Errorf("%d notes of the copy are left", len(left))
	}
}

// A deletion that only a comparison of keys can tell, because it came while a copy ran, is found by the next term too if this one ends before it has compared them.
func TestP5ADeletionDuringACopyOutlivesTheTerm(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 50 {
		p.put(p.source, key(i), "v")
	}
	var once sync.Once
	var r *running
	begun := make(chan struct{})
	r = p.start(etcdmirror.Config{BatchOps: 10, Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		<-begun
		if i.Puts > 0 {
			once.Do(func() {
				for k := range p.get(p.target, "/registry/") {
					p.delete(p.target, k)
					break
				}
			})
		}
		if i.SourceRevision > 0 { // the checkpoint that ends the copy
			r.cancel()
		}
	}}})
	close(begun)
	<-r.done
	if n := len(p.get(p.target, "/registry/")); n != 49 {
		t.Fatalf("%d keys at the target, want 49", n)
	}
	r = p.start(etcdmirror.Config{})
	p.eventually(r, "drift", func(s etcdmirror.Status) bool { return s.Drifted == 1 })
	p.eventually(r, "its note", func(etcdmirror.Status) bool {
		md := p.metadata()
		return len(md.Drift) == 1 && md.Drift[0].Kind == etcdmirror.DriftDeleted && !md.Checkpoint.Unscanned
	})
}

// What a guard keeps away is guarded, and no drift: also where keys are compared because a copy could not tell what was deleted while it ran.
func TestAGuardedKeyHasNotDrifted(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "poison")
	p.put(p.source, key(1), "v")
	r := p.start(etcdmirror.Config{Guards: []etcdmirror.Guard{poisonGuard}, Unchecked: true})
	p.sync(r)
	p.eventually(r, "end of the comparison", func(etcdmirror.Status) bool { return !p.metadata().Checkpoint.Unscanned })
	if s, md := r.Status(), p.metadata(); s.Drifted != 0 || len(md.Drift) != 0 || s.Guarded != 1 {
		t.Errorf("%d drifted, %d guarded; noted %+v", s.Drifted, s.Guarded, md.Drift)
	}
}

// A key of the target's own that its cluster deletes in the middle of a copy is forgotten.
func TestP5AKeyThatVanishesDuringACopy(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 50 {
		p.put(p.source, key(i), "v")
	}
	const short = "/registry/secrets/short-lived"
	p.put(p.target, short, "the standby's own")
	var once sync.Once
	r := p.start(etcdmirror.Config{Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		if i.Puts > 0 {
			once.Do(func() { p.delete(p.target, short) })
		}
	}}})
	p.sync(r)
	if md := p.metadata(); len(md.Foreign) != 0 || r.Status().Foreign != 0 {
		t.Errorf("listed as the target's own: %q", md.Foreign)
	}
	p.mustEqual("/registry/", nil)
}

// What the target's own cluster makes in the place of a zombie, between the listing of a resync and its deletes, is not deleted in the zombie's stead.
func TestP5AReplacedZombie(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{MaxTxnOps: 16})
	for i := range 100 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	for i := range 50 {
		p.delete(p.source, key(i))
	}
	p.put(p.source, key(60), "w")
	p.compact(p.source)
	var once sync.Once
	r = p.start(etcdmirror.Config{Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		if i.Puts > 0 { // puts come before deletes
			once.Do(func() {
				p.delete(p.target, key(7))
				p.put(p.target, key(7), "another object")
			})
		}
	}}})
	p.sync(r)
	if kv := p.get(p.target, key(7))[key(7)]; kv == nil || string(kv.Value) != "another object" {
		t.Fatal("the target's own object was deleted")
	}
	p.eventually(r, "the mark", func(s etcdmirror.Status) bool { return s.Foreign == 1 && len(p.metadata().Foreign) == 1 })
	p.delete(p.target, key(7))
	p.mustEqual("/registry/", nil)
}
