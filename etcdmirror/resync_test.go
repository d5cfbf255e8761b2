package etcdmirror_test

import (
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// TestP4NoLostDelete: deletes in an outage longer than the source's history leave no zombie, and nothing that is equal is written again.
func TestP4NoLostDelete(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 300 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	for i := 0; i < 300; i += 3 {
		p.delete(p.source, key(i))
	}
	for i := 1; i < 300; i += 30 {
		p.put(p.source, key(i), "changed")
	}
	p.put(p.source, key(1000), "new")
	p.compact(p.source)
	rec := &recorder{}
	r = p.start(etcdmirror.Config{Hooks: rec.hooks()})
	p.sync(r)
	p.mustEqual("/registry/", nil)
	s := r.Status()
	if s.Puts != 11 || s.Deletes != 100 || s.Foreign != 0 {
		t.Errorf("%d puts, %d deletes, %d foreign keys; want 11, 100, 0", s.Puts, s.Deletes, s.Foreign)
	}
	r.stop()
	if len(rec.resyncs) != 1 || rec.resyncs[0].Base || rec.resyncs[0].Since == 0 {
		t.Errorf("resyncs %+v", rec.resyncs)
	}
}

// The watch of a running mirror is overtaken by a compaction.
func TestP4CompactionWhileTheSourceWasOutOfReach(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 50 {
		p.put(p.source, key(i), "v")
	}
	proxied, gate := gated(t, p.sourceCluster)
	direct := p.source
	p.source = proxied
	r := p.start(etcdmirror.Config{})
	p.source = direct
	p.sync(r)
	gate.close()
	for i := range 25 {
		p.delete(p.source, key(i))
	}
	p.compact(p.source)
	gate.open()
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if s := r.Status(); s.Deletes != 25 || s.Resyncs != 2 {
		t.Errorf("%d deletes, %d copies", s.Deletes, s.Resyncs)
	}
}

// An object deleted and made again under the same key while the log is lost is deleted and put, in two revisions.
func TestP10AnotherObjectUnderTheSameKeyAfterAnOutage(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "first object")
	p.put(p.source, key(2), "stays")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	before := p.get(p.target, key(1))[key(1)]
	p.delete(p.source, key(1))
	p.put(p.source, key(1), "second object")
	p.put(p.source, key(2), "changed")
	p.compact(p.source)
	r = p.start(etcdmirror.Config{})
	p.sync(r)
	p.mustEqual("/registry/", nil)
	after := p.get(p.target, key(1))[key(1)]
	if after.CreateRevision <= before.CreateRevision || after.Version != 1 {
		t.Errorf("the object was overwritten: created in %d, then %d, version %d", before.CreateRevision, after.CreateRevision, after.Version)
	}
	if kv := p.get(p.target, key(2))[key(2)]; kv.Version != 2 {
		t.Errorf("the changed object was not overwritten: version %d", kv.Version)
	}
}

// The target's own keys are told from zombies (P5 as far as no watch of the target is needed).
func TestForeignKeysAreKeptAndZombiesAreNot(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.target, key(100), "the standby's own, from before")
	p.put(p.target, key(1), "the standby's own, but the source has one too")
	for i := range 10 {
		p.put(p.source, key(i), "v")
	}
	rec := &recorder{}
	r := p.start(etcdmirror.Config{Hooks: rec.hooks()})
	p.sync(r)
	r.stop()
	p.put(p.target, key(101), "the standby's own, made while no mirror ran")
	p.delete(p.source, key(5))
	p.put(p.source, key(100), "now the source has it too")
	p.compact(p.source)
	r = p.start(etcdmirror.Config{Hooks: rec.hooks()})
	p.sync(r)
	if kv := p.get(p.target, key(101))[key(101)]; kv == nil {
		t.Fatal("a key of the target's own was deleted")
	}
	if got := r.Status().Foreign; got != 1 {
		t.Errorf("%d foreign keys", got)
	}
	if md := p.metadata(); len(md.Foreign) != 1 || md.Foreign[0] != key(101) {
		t.Errorf("recorded foreign keys %q", md.Foreign)
	}
	r.stop()
	if len(rec.foreign) != 2 {
		t.Errorf("reported foreign keys %q", rec.foreign)
	}

	// In the tail too the source's object takes the place of the target's, as another object.
	r = p.start(etcdmirror.Config{})
	p.put(p.source, key(101), "now the source has it too")
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if kv := p.get(p.target, key(101))[key(101)]; kv.Version != 1 {
		t.Errorf("a foreign object was overwritten: version %d", kv.Version)
	}
	if md := p.metadata(); len(md.Foreign) != 0 || r.Status().Foreign != 0 {
		t.Errorf("foreign keys left: %q", md.Foreign)
	}
	r.stop()

	// Told to, a copy deletes what the source does not have.
	p.put(p.target, key(102), "the standby's own")
	p.put(p.source, key(1), "w")
	p.put(p.source, key(2), "w")
	p.compact(p.source)
	r = p.start(etcdmirror.Config{Surplus: etcdmirror.SurplusDelete})
	p.sync(r)
	p.mustEqual("/registry/", nil)
}
