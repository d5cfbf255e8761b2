package etcdmirror_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func (p *pair) grant(ttl int64) clientv3.LeaseID {
	p.t.Helper()
	resp, err := p.source.Grant(p.ctx, ttl)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.ID
}

func (p *pair) putLeased(key, value string, id clientv3.LeaseID) {
	p.t.Helper()
	if _, err := p.source.Put(p.ctx, key, value, clientv3.WithLease(id)); err != nil {
		p.t.Fatal(err)
	}
}

// mustHaveLeases fails unless each key has the same lease at both sides.
func (p *pair) mustHaveLeases(prefix string) {
	p.t.Helper()
	target := p.get(p.target, prefix)
	for key, kv := range p.get(p.source, prefix) {
		if theirs := target[key]; theirs == nil || theirs.Lease != kv.Lease {
			p.t.Errorf("key %q has lease %x at the source, at the target %+x", key, kv.Lease, theirs.GetLease())
		}
	}
}

// P13: keys keep their lease, with its ID and no more than its remaining time, in a base copy, in the tail and in a resync; a lease lives at the target while
// the source's does, and after a promotion it runs out.
func TestP13LeasesAreMirrored(t *testing.T) {
	t.Parallel() // it waits for leases
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	long, short := p.grant(3600), p.grant(4)
	keepAlive, stop := context.WithCancel(p.ctx)
	defer stop()
	alive, err := p.source.KeepAlive(keepAlive, short)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range alive {
		}
	}()
	for i := range 20 {
		p.putLeased(key(i), "v", []clientv3.LeaseID{0, long, short}[i%3])
	}
	// It saves no progress by itself, so that it does not learn of the promotion below by a write.
	cfg := etcdmirror.Config{Leases: etcdmirror.LeaseMirror, CheckpointInterval: time.Hour}
	r := p.start(cfg)
	p.sync(r)
	p.mustHaveLeases("/registry/")
	for i := 20; i < 40; i++ {
		p.putLeased(key(i), "v", []clientv3.LeaseID{0, long, short}[i%3])
	}
	p.putLeased(key(0), "v", long) // the value is the same
	p.putLeased(key(1), "v", 0)
	p.sync(r)
	p.mustHaveLeases("/registry/")
	r.stop()
	p.putLeased(key(0), "v", 0)
	p.putLeased(key(1), "v", long)
	p.compact(p.source)
	r = p.start(cfg)
	p.sync(r)
	p.mustHaveLeases("/registry/")
	ttl, err := p.target.TimeToLive(p.ctx, long)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := p.source.TimeToLive(p.ctx, long)
	if err != nil {
		t.Fatal(err)
	}
	if ttl.TTL > theirs.TTL+2 || ttl.TTL < theirs.TTL-60 {
		t.Errorf("%d seconds are left at the target, %d at the source", ttl.TTL, theirs.TTL)
	}

	// The short lease has been renewed at the source for longer than it lives by itself, and then is not.
	resp, err := p.source.TimeToLive(p.ctx, short)
	if err != nil || resp.GrantedTTL == 0 {
		t.Fatalf("the source's lease has ended: %v", err)
	}
	time.Sleep(5 * time.Second) // longer than the lease lives: the test is of that time
	p.sync(r)
	p.mustHaveLeases("/registry/")
	p.mustEqual("/registry/", nil)

	// After a promotion nobody keeps it alive at the target, whatever the source does.
	if _, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	for p.get(p.target, key(2))[key(2)] != nil {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.ctx.Done():
			t.Fatal("the lease still lives at the promoted target")
		}
	}
	if p.get(p.source, key(2))[key(2)] == nil {
		t.Error("the source's lease has ended too: nothing was tested")
	}
	if p.get(p.target, key(3+1))[key(3+1)] == nil {
		t.Error("a key with a long lease is gone")
	}
	p.put(p.source, key(50), "v")
	wantError(t, r.ended(p.ctx), etcdmirror.ErrPromoted)
}

// A mirror that was away while a lease ran out at the target finds its keys and puts them back, whatever the policy for drift.
func TestP13ALeaseThatRanOutWhileNobodyKeptIt(t *testing.T) {
	t.Parallel() // it waits for leases
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	lease := p.grant(3)
	keepAlive, stop := context.WithCancel(p.ctx)
	defer stop()
	alive, err := p.source.KeepAlive(keepAlive, lease)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range alive {
		}
	}()
	p.putLeased(key(0), "v", lease)
	cfg := etcdmirror.Config{Leases: etcdmirror.LeaseMirror, RepairDelay: time.Millisecond}
	r := p.start(cfg)
	p.sync(r)
	r.stop()
	for p.get(p.target, key(0))[key(0)] != nil {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.ctx.Done():
			t.Fatal("the lease did not run out")
		}
	}
	r = p.start(cfg)
	p.eventually(r, "the key", func(etcdmirror.Status) bool { return p.get(p.target, key(0))[key(0)] != nil })
	p.sync(r)
	p.mustHaveLeases("/registry/")
	stop()
	for p.get(p.source, key(0))[key(0)] != nil {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.ctx.Done():
			t.Fatal("the source's lease did not run out")
		}
	}
	p.sync(r)
	if p.get(p.target, key(0))[key(0)] != nil {
		t.Error("the key outlived its lease at the source")
	}
	// Other policies drop or bring leases by a comparison of everything.
	forever := p.grant(3600)
	p.putLeased(key(1), "v", forever)
	p.sync(r)
	r.stop()
	r = p.start(etcdmirror.Config{})
	p.sync(r)
	if kv := p.get(p.target, key(1))[key(1)]; kv.Lease != 0 {
		t.Error("a key keeps a lease that nobody keeps alive")
	}
	r.stop()
	p.putLeased(key(2), "v", forever)
	r = p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	r = p.start(cfg)
	p.sync(r)
	p.mustHaveLeases("/registry/")
}
