package etcdmirror_test

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func tripped(s etcdmirror.Status) bool { return s.Trip != nil && s.State == etcdmirror.StateWaiting }

// P12: an emptied source does not empty the target before somebody has approved it; what was approved goes on from where it stopped, and no further.
func TestP12MassDeletion(t *testing.T) {
	const keys = 200
	guard := etcdmirror.DeletionGuard{Share: 0.2, Count: 30}
	cases := map[string]struct {
		delete  func(p *pair, from, to int)
		compact bool
	}{
		"in one revision": {delete: func(p *pair, from, to int) {
			for ; from < to; from += 100 {
				ops := []clientv3.Op{}
				for i := from; i < min(from+100, to); i++ {
					ops = append(ops, clientv3.OpDelete(key(i)))
				}
				if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
					p.t.Fatal(err)
				}
			}
		}},
		"one by one": {delete: func(p *pair, from, to int) {
			for ; from < to; from++ {
				p.delete(p.source, key(from))
			}
		}},
		"found by a resync": {compact: true, delete: func(p *pair, from, to int) {
			for ; from < to; from++ {
				p.delete(p.source, key(from))
			}
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
			for i := range keys {
				p.put(p.source, key(i), "v")
			}
			r := p.start(etcdmirror.Config{Deletions: guard})
			p.sync(r)
			_, err := etcdmirror.Approve(p.ctx, p.target, "test")
			wantError(t, err, etcdmirror.ErrNotTripped)
			// Replacing keys is no loss.
			for i := range keys {
				p.delete(p.source, key(i))
				p.put(p.source, key(keys+i), "v")
			}
			p.sync(r)
			if c.compact {
				r.stop()
			}
			c.delete(p, keys, keys+keys*3/4)
			if c.compact {
				p.compact(p.source)
				r = p.start(etcdmirror.Config{Deletions: guard})
			}
			p.eventually(r, "trip", tripped)
			if n := len(p.get(p.target, "/registry/")); n <= keys*4/5 || n > keys {
				t.Errorf("%d of %d keys are left at the target", n, keys)
			}
			md := p.metadata()
			if md.Trip == nil || md.Trip.Keys != keys || md.Trip.Left > keys*4/5 || md.Trip.Key == "" {
				t.Fatalf("recorded: %+v", md.Trip)
			}

			// A restart is no approval.
			r.stop()
			r = p.start(etcdmirror.Config{Deletions: guard})
			p.eventually(r, "trip again", tripped)
			if n := len(p.get(p.target, "/registry/")); n <= keys*4/5 {
				t.Errorf("after a restart %d of %d keys are left at the target", n, keys)
			}
			if _, err := etcdmirror.Approve(p.ctx, p.target, "test"); err != nil {
				t.Fatal(err)
			}
			p.sync(r)
			p.mustEqual("/registry/", nil)
			if md := p.metadata(); md.Trip != nil || r.Status().Trip != nil {
				t.Errorf("still recorded: %+v", md.Trip)
			}
			if n := len(p.get(p.target, "/understudy/test/approval")); n != 0 {
				t.Error("the approval is still there")
			}

			// The approval was for that, and for nothing later.
			for i := range 200 {
				p.put(p.source, key(1000+i), "v")
			}
			p.sync(r)
			for i := range 200 {
				p.delete(p.source, key(1000+i))
			}
			p.eventually(r, "another trip", tripped)
			// A promotion is not held up.
			if _, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
			wantError(t, r.ended(p.ctx), etcdmirror.ErrPromoted)
			_, err = etcdmirror.Approve(p.ctx, p.target, "test")
			wantError(t, err, etcdmirror.ErrPromoted)
		})
	}
}

// A source that gets its keys back while the mirror is away needs no approval.
func TestP12ARestoredSourceContinues(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	cfg := etcdmirror.Config{Deletions: etcdmirror.DeletionGuard{Share: 0.5, Count: 10, Window: time.Hour}}
	for i := range 40 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(cfg)
	p.sync(r)
	p.delete(p.source, "/registry/", clientv3.WithPrefix())
	p.eventually(r, "trip", tripped)
	r.stop()
	for i := range 40 {
		p.put(p.source, key(i), "v")
	}
	p.compact(p.source)
	r = p.start(cfg)
	p.sync(r)
	p.mustEqual("/registry/", nil)
	p.eventually(r, "the record's end", func(etcdmirror.Status) bool { return p.metadata().Trip == nil })
}

// What is left of a mass deletion may be few keys. A restart counts them together with those before.
func TestP12ARestartIsNoApproval(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	cfg := etcdmirror.Config{Deletions: etcdmirror.DeletionGuard{Share: 0.2, Count: 30}}
	for i := range 200 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(cfg)
	p.sync(r)
	for i := range 45 {
		p.delete(p.source, key(i))
		if i < 39 {
			p.sync(r) // one group of one delete each
		}
	}
	for range 3 {
		p.eventually(r, "trip", tripped)
		if n := len(p.get(p.target, "/registry/")); n != 161 {
			t.Errorf("%d keys are left at the target, want 161", n)
		}
		r.stop()
		r = p.start(cfg)
	}
	p.eventually(r, "trip", tripped)
	if _, err := etcdmirror.Approve(p.ctx, p.target, "test"); err != nil {
		t.Fatal(err)
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
}
