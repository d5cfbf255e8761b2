package etcdmirror_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// A key that the target's own cluster made just before the guard against mass deletion stopped the mirror outlives the restart and the resync after it.
func TestP5AForeignMarkOutlivesATrip(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 40 {
		p.put(p.source, key(i), "v")
	}
	var once sync.Once
	var r *running
	started := make(chan struct{})
	cfg := etcdmirror.Config{Deletions: etcdmirror.DeletionGuard{Share: 0.2, Count: 10}}
	first := cfg
	first.Hooks.Foreign = func(etcdmirror.ForeignInfo) {
		once.Do(func() {
			<-started
			rev := p.delete(p.source, "/registry/configmaps/", clientv3.WithPrefix())
			p.eventually(r, "the deletion at the mirror", func(s etcdmirror.Status) bool { return s.SourceRevision >= rev })
		})
	}
	r = p.start(first)
	close(started)
	p.sync(r)
	const own = "/registry/secrets/own/a"
	p.put(p.target, own, "own")
	p.eventually(r, "trip", tripped)
	r.stop()
	p.put(p.source, key(100), "v")
	p.compact(p.source)
	r = p.start(cfg)
	p.eventually(r, "trip again", tripped)
	if _, err := etcdmirror.Approve(p.ctx, p.target, "test"); err != nil {
		t.Fatal(err)
	}
	p.sync(r)
	if p.get(p.target, own)[own] == nil {
		t.Error("the target's own key was deleted")
	}
}

// As above, with a source revision that goes in parts.
func TestP5AForeignMarkOutlivesParts(t *testing.T) {
	p := newPair(t, embedetcd.Options{MaxRequestBytes: 8 << 20}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	var once, twice sync.Once
	big := make([]byte, 600<<10)
	var r *running
	started := make(chan struct{})
	cfg := etcdmirror.Config{}
	first := cfg
	first.Hooks.Foreign = func(etcdmirror.ForeignInfo) {
		once.Do(func() {
			var ops []clientv3.Op
			for i := range 6 {
				ops = append(ops, clientv3.OpPut(key(10+i), string(big)))
			}
			<-started
			resp, err := p.source.Txn(p.ctx).Then(ops...).Commit()
			if err != nil {
				t.Error(err)
				return
			}
			p.eventually(r, "the large revision at the mirror", func(s etcdmirror.Status) bool { return s.SourceRevision >= resp.Header.Revision })
		})
	}
	first.Hooks.Applied = func(i etcdmirror.AppliedInfo) {
		if i.Part && i.Puts > 0 {
			twice.Do(func() { <-started; r.cancel() })
		}
	}
	r = p.start(first)
	close(started)
	p.sync(r)
	const own = "/registry/secrets/own/a"
	p.put(p.target, own, "own")
	r.ended(p.ctx)
	p.put(p.source, key(1), "v")
	p.compact(p.source)
	r = p.start(cfg)
	p.sync(r)
	if p.get(p.target, own)[own] == nil {
		t.Error("the target's own key was deleted")
	}
}

// Many repairs at a target with few operations per transaction do not stop the mirror.
func TestRepairsAtATargetThatAllowsFewOperations(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{MaxTxnOps: 4})
	for i := range 8 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(etcdmirror.Config{CheckpointInterval: 100 * time.Millisecond})
	p.sync(r)
	for i := range 8 { // as eight repairs of one key each do
		p.delete(p.target, key(i))
		if _, err := p.target.Txn(p.ctx).Then(clientv3.OpPut(key(i), "v"), clientv3.OpPut(fmt.Sprintf("/understudy/test/repaired/%d", i), "")).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	p.put(p.source, key(9), "v")
	n := 0
	p.eventually(r, "end of what the repairs wrote down", func(s etcdmirror.Status) bool {
		n++
		p.put(p.source, key(9), fmt.Sprint(n))
		return len(p.get(p.target, "/understudy/test/repaired/")) == 0
	})
	p.sync(r)
	if s := r.Status(); s.Reconnects != 0 {
		t.Errorf("status %+v", s)
	}
}
