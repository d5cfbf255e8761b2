package drcheck_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// storm writes to the source from several sides until it is stopped: puts, deletes and transactions over many keys and, mostly, over few.
type storm struct {
	writes atomic.Int64
	stop   func()
}

func (s *sides) storm(seed uint64, writers int) *storm {
	ctx, cancel := context.WithCancel(s.ctx)
	st := &storm{}
	var wg sync.WaitGroup
	for w := range writers {
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := func() string {
					if rng.IntN(2) == 0 {
						return fmt.Sprintf("/registry/leases/hot/%d", rng.IntN(4))
					}
					return fmt.Sprintf("/registry/configmaps/ns%d/cm%05d", rng.IntN(20), rng.IntN(500))
				}
				var err error
				switch value := fmt.Sprint("value ", w, i); rng.IntN(10) {
				case 0, 1:
					_, err = s.source.Delete(ctx, key())
				case 2:
					a, b := key(), key()
					if a == b {
						continue
					}
					_, err = s.source.Txn(ctx).Then(clientv3.OpPut(a, value), clientv3.OpDelete(b)).Commit()
				default:
					_, err = s.source.Put(ctx, key(), value)
				}
				if err != nil && ctx.Err() == nil {
					s.t.Errorf("writer: %v", err)
					return
				}
				st.writes.Add(1)
			}
		})
	}
	st.stop = func() { cancel(); wg.Wait() }
	s.t.Cleanup(st.stop)
	return st
}

// damage spoils mirrored keys at the target and returns what a check must say of them.
func (s *sides) damage(n int, rng *rand.Rand) map[string]drcheck.Class {
	want := map[string]drcheck.Class{}
	for i := range n {
		key := fmt.Sprintf("/registry/secrets/still/%04d", i*7)
		switch rng.IntN(3) {
		case 0:
			s.delete(s.target, key)
			want[key] = drcheck.Missed
		case 1:
			s.put(s.target, key, "damaged")
			want[key] = drcheck.Different
		default:
			key += "-own"
			s.put(s.target, key, "the standby's own")
			want[key] = drcheck.Surplus
		}
	}
	return want
}

// TestNoFalseAlarmUnderTraffic checks again and again while the source changes as fast as it can, and the mirror follows, stops, starts and copies:
// what a check reports is what was damaged, no key more and none less.
func TestNoFalseAlarmUnderTraffic(t *testing.T) {
	schedules(t, 1, func(t *testing.T, seed uint64, rng *rand.Rand) {
		s := newSides(t)
		all := map[string]string{}
		for i := range 2000 {
			all[fmt.Sprintf("/registry/secrets/still/%04d", i)] = fmt.Sprint("value ", i)
		}
		s.fill(s.source, all)
		cfg := etcdmirror.Config{CheckpointInterval: 50 * time.Millisecond, ProgressInterval: 20 * time.Millisecond}
		m := s.mirror(cfg)
		s.sync(m)
		want := map[string]drcheck.Class{}
		check := func(mode drcheck.Mode) {
			t.Helper()
			// A mirror that is down or busy copying may keep the check waiting for as long as it likes: no clock decides.
			r := s.check(drcheck.Config{Name: "test", Mode: mode, Settle: 4 * time.Minute})
			got := map[string]drcheck.Class{}
			for _, d := range r.Differences {
				got[d.Key] = d.Class
				if d.Reason == drcheck.ReasonInFlight || d.Reason == drcheck.ReasonCopying {
					t.Errorf("%s %q is unsettled: %s", d.Class, d.Key, d.Reason)
				}
			}
			for key, class := range got {
				if want[key] != class {
					t.Errorf("false alarm: %s %q", class, key)
				}
			}
			for key, class := range want {
				if got[key] != class && (mode != drcheck.KeysOnly || class != drcheck.Different) {
					t.Errorf("not found: %s %q, got %q", class, key, got[key])
				}
			}
		}
		st := s.storm(seed, 8)
		for range 3 {
			check(drcheck.Content)
			check(drcheck.KeysOnly)
		}
		want = s.damage(20, rng)
		for range 3 {
			check(drcheck.Content)
			check(drcheck.KeysOnly)
		}
		// The mirror is away, and comes back while the check waits for it.
		m.stop()
		before := st.writes.Load()
		s.eventually("more writes", func() bool { return st.writes.Load() > before+200 })
		back := make(chan *running)
		go func() { back <- s.mirror(cfg) }()
		check(drcheck.Content)
		m = <-back
		// The source compacts what the mirror has not read: it copies while the check runs. What was damaged, that repairs.
		m.stop()
		before = st.writes.Load()
		s.eventually("more writes", func() bool { return st.writes.Load() > before+200 })
		s.compact(s.source)
		for key, class := range want {
			if class != drcheck.Surplus {
				delete(want, key)
			}
		}
		go func() { back <- s.mirror(cfg) }()
		check(drcheck.Content)
		<-back
		check(drcheck.Content)
		st.stop()
		t.Logf("%d writes", st.writes.Load())
	})
}

// TestCompactionDuringTheCheck compacts both sides all the time: reads go on at newer revisions, and nothing is reported that does not differ.
func TestCompactionDuringTheCheck(t *testing.T) {
	s := newSides(t)
	all := map[string]string{}
	for i := range 20_000 {
		all[fmt.Sprintf("/registry/secrets/still/%05d", i)] = fmt.Sprint("value ", i)
	}
	s.fill(s.source, all)
	m := s.mirror(etcdmirror.Config{})
	s.sync(m)
	st := s.storm(1, 4)
	ctx, cancel := context.WithCancel(s.ctx)
	var wg sync.WaitGroup
	compactions := atomic.Int64{}
	for _, c := range []*clientv3.Client{s.source, s.target} {
		wg.Go(func() {
			last := int64(0)
			for ctx.Err() == nil {
				// Keep as much as a look needs behind the mirror, however slow that is: what it has not read yet is another test's matter.
				rev := s.revision(c)
				if c == s.source {
					rev = min(rev, m.Status().SavedRevision)
				}
				if rev -= 300; rev > last {
					last = rev + 50
					if _, err := c.Compact(ctx, rev); err == nil {
						compactions.Add(1)
					}
				}
			}
		})
	}
	for n, compacted := 0, false; n < 3 || !compacted; n++ {
		before := compactions.Load()
		r := s.check(drcheck.Config{Name: "test", Settle: 4 * time.Minute})
		if !r.Equal {
			t.Errorf("%+v", r.Differences)
		}
		compacted = compacted || compactions.Load() > before
	}
	cancel()
	wg.Wait()
	st.stop()
}

// A server that restarts while it is read does not spoil the check.
func TestARestartDuringTheCheck(t *testing.T) {
	for _, mode := range []drcheck.Mode{drcheck.Content, drcheck.KeysOnly} {
		s := newSides(t)
		all := map[string]string{}
		for i := range 20_000 { // more than is on its way when the server stops
			all[fmt.Sprintf("/registry/secrets/ns/%05d", i)] = fmt.Sprint("value ", i)
		}
		s.fill(s.source, all)
		s.fill(s.target, all)
		restarts := 0
		r := s.check(drcheck.Config{Mode: mode, RequestTimeout: 30 * time.Second, Resource: func(key string) string {
			if strings.HasSuffix(key, "/06000") && restarts == 0 {
				restarts++
				if err := errors.Join(s.targetCluster.StopMember(0), s.targetCluster.StartMember(s.ctx, 0, nil)); err != nil {
					t.Error(err)
				}
			}
			return "all"
		}})
		if !r.Equal || r.SourceKeys != len(all) || r.TargetKeys != len(all) || restarts != 1 {
			t.Errorf("%s: %+v, %d restarts", mode, r, restarts)
		}
	}
}
