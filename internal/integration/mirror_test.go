package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

// TestRealClusterConverges copies the content of a Kubernetes cluster, follows changes to it, and catches up with more by the log and by a resync.
func TestRealClusterConverges(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		schedules(t, 1, func(t *testing.T, _ uint64, rng *rand.Rand) {
			p := newRecordedPair(t, c, 0, 0)
			if err := realcluster.Load(p.ctx, p.source.Client, realcluster.LoadOptions{LeaseTTL: 36000}); err != nil {
				t.Fatal(err)
			}
			objects, err := realcluster.Objects()
			if err != nil {
				t.Fatal(err)
			}
			r := p.start(etcdmirror.Config{})
			r.eventually("tail", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateTail })
			if n := p.mustEqual(0); n != len(objects)-1 { // compact_rev_key lies outside of the prefix
				t.Errorf("%d keys compared, the cluster has %d objects", n, len(objects))
			}
			warned := strings.Contains(r.log.String(), "a source member's progress notifications cannot be trusted")
			if want := p.source.server != nil && !p.source.server.orderedProgress(); warned != want {
				t.Errorf("warning of the source's progress notifications: %v, want %v", warned, want)
			}

			live := map[string][]byte{}
			for _, o := range objects {
				live[o.Key] = o.Value
			}
			change := func() {
				for _, o := range objects {
					action := rng.IntN(10)
					switch now := live[o.Key]; {
					case action > 2:
						continue
					case action == 2 && now != nil:
						live[o.Key] = updated(now, byte(rng.IntN(100)))
						p.source.put(p.pair, o.Key, string(live[o.Key]))
						continue
					}
					p.source.delete(p.pair, o.Key) // it may have been deleted before
					live[o.Key] = nil
					if action > 0 {
						live[o.Key] = reborn(t, o.Value, kubeobj.UID(rng))
						p.source.put(p.pair, o.Key, string(live[o.Key]))
					}
				}
			}
			change()
			p.sync(r)
			p.mustEqual(0)

			r.stop()
			change()
			r = p.start(etcdmirror.Config{})
			p.sync(r)
			p.mustEqual(0)
			if s := r.Status(); s.Resyncs != 0 {
				t.Errorf("%d copies after a restart, want none", s.Resyncs)
			}

			r.stop()
			change()
			p.compact(p.source)
			change()
			r = p.start(etcdmirror.Config{})
			p.sync(r)
			p.mustEqual(0)
			if s := r.Status(); s.Resyncs != 1 || s.Foreign != 0 || s.Guarded != 0 {
				t.Errorf("status %+v after a compaction, want one resync and no foreign or guarded keys", s)
			}
			r.stop()
			p.check()
		})
	})
}

// reborn is an object's value with another UID, as if it had been deleted and made again. Values without a UID stay as they are.
func reborn(t *testing.T, value []byte, uid string) []byte {
	t.Helper()
	old, _ := identify(value)
	if old == "" {
		return value
	}
	if len(old) != len(uid) {
		t.Fatalf("UID %q of %d characters: another length would break the encoding", old, len(old))
	}
	return bytes.ReplaceAll(value, []byte(old), []byte(uid))
}

// updated is a value with a change that decoders pass over: a space in JSON, an unknown field in protobuf.
func updated(value []byte, n byte) []byte {
	if bytes.HasPrefix(value, []byte("{")) {
		return append(bytes.Clone(value), ' ')
	}
	const tag = 15 << 3 // field 15, a number
	return append(bytes.Clone(value), tag, n)
}

// TestLargeTransaction mirrors a transaction of 500 operations to targets that allow fewer: as one target revision where nesting
// can carry it, in parts where not.
func TestLargeTransaction(t *testing.T) {
	const ops = 500
	key := func(i int) string { return fmt.Sprintf("%sconfigmaps/team/object-%03d", etcdmirror.DefaultPrefix, i) }
	combinations(t, func(t *testing.T, c combination) {
		for _, limits := range []struct {
			targetOps int
			split     bool
		}{{0, false}, {16, true}, {1000, false}} {
			t.Run(fmt.Sprint("max-txn-ops ", limits.targetOps), func(t *testing.T) {
				p := newPair(t, c, 1000, limits.targetOps)
				r := p.start(etcdmirror.Config{})
				p.sync(r)
				puts := make([]clientv3.Op, ops)
				for i := range puts {
					puts[i] = clientv3.OpPut(key(i), fmt.Sprint("value ", i))
				}
				p.source.txn(p, puts...)
				p.sync(r)
				p.mustEqual(0)
				for i := range puts { // the second holds puts and deletes
					if i%3 == 0 {
						puts[i] = clientv3.OpDelete(key(i))
					}
				}
				p.source.txn(p, puts...)
				p.sync(r)
				s := r.Status()
				r.stop()
				if n := p.mustEqual(0); n != ops-(ops+2)/3+p.marks {
					t.Errorf("%d keys", n)
				}
				revisions := map[int64]bool{}
				for key, kv := range p.target.state(p, 0) {
					if strings.HasPrefix(key, etcdmirror.DefaultPrefix+"configmaps/") {
						revisions[kv.ModRevision] = true
					}
				}
				if split := len(revisions) > 1; split != limits.split || split != (s.Splits > 0) {
					t.Errorf("%d target revisions and %d splits", len(revisions), s.Splits)
				}
			})
		}
	})
}

// TestPromotion promotes a target under traffic, which stops the mirror at one exact source revision, and makes it a standby again.
func TestPromotion(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		p := newRecordedPair(t, c, 0, 0)
		key := func(i int) string { return fmt.Sprintf("%sconfigmaps/team/object-%d", etcdmirror.DefaultPrefix, i%40) }
		p.source.put(p.pair, key(0), "first")
		r := p.start(etcdmirror.Config{})
		p.sync(r)

		// The source keeps changing, so that the mirror writes all the time, also while the fence is raised.
		ctx, stop := context.WithCancel(p.ctx)
		defer stop()
		written := make(chan error, 1)
		go func() {
			var err error
			for n := 0; err == nil; n++ {
				_, err = p.source.Put(ctx, key(n), fmt.Sprint("value ", n))
			}
			written <- err
		}()
		r.eventually("traffic", func(s etcdmirror.Status) bool { return s.Puts > 50 })
		promotion, err := etcdmirror.Promote(p.ctx, p.target.Client, mirrorName, etcdmirror.PromoteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-r.done:
		case <-p.ctx.Done():
			t.Fatalf("Run did not end; status %+v", r.Status())
		}
		stop()
		if err := <-written; !errors.Is(err, context.Canceled) {
			t.Fatalf("the traffic ended with %v", err)
		}
		var fenced *etcdmirror.FencedError
		if !errors.As(r.err, &fenced) || !errors.Is(r.err, etcdmirror.ErrPromoted) || fenced.Current != promotion.Epoch {
			t.Errorf("Run ended with %v; promotion %+v", r.err, promotion)
		}
		if !promotion.Complete || promotion.SourceHead < promotion.SourceRevision {
			t.Errorf("promotion %+v", promotion)
		}
		p.mustEqual(promotion.SourceRevision)
		refused := p.start(etcdmirror.Config{})
		<-refused.done
		if !errors.Is(refused.err, etcdmirror.ErrPromoted) {
			t.Errorf("a mirror to a promoted target ended with %v", refused.err)
		}
		p.mustRest(promotion.TargetRevision)

		if err := etcdmirror.Demote(p.ctx, p.target.Client, mirrorName); err != nil {
			t.Fatal(err)
		}
		r = p.start(etcdmirror.Config{})
		p.sync(r)
		if s := r.Status(); s.Epoch <= promotion.Epoch {
			t.Errorf("status %+v after a promotion in epoch %d", s, promotion.Epoch)
		}
		r.stop()
		p.mustEqual(0)
	})
}

// mustRest fails the test if anything but metadata was written to the target after a revision.
func (p *recordedPair) mustRest(rev int64) {
	p.t.Helper()
	p.catchUp(p.target)
	for _, r := range p.to.Revisions() {
		for _, event := range r.Events {
			if r.Rev > rev && !strings.HasPrefix(event.Key, etcdmirror.MetadataPrefix) {
				p.t.Errorf("key %q was written at revision %d, after revision %d", event.Key, r.Rev, rev)
			}
		}
	}
}
