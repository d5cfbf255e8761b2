package etcdmirror_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// stranger writes to the target as its own cluster does; an error fails the test.
type stranger struct {
	*traffic.Stranger
	p *pair
}

func newStranger(p *pair, dir string, seed uint64) stranger {
	return stranger{traffic.NewStranger(p.target, dir, seed), p}
}

func (s stranger) act() {
	s.p.t.Helper()
	if err := s.Act(s.p.ctx); err != nil {
		s.p.t.Fatal(err)
	}
}

func (s stranger) check() {
	s.p.t.Helper()
	if err := s.Check(s.p.ctx); err != nil {
		s.p.t.Error(err)
	}
}

// A key that the target's own cluster makes while the mirror runs outlives a resync that deletes what the source no longer has, also if the instance
// that saw it was killed, and if the target's log no longer tells of it.
func TestP5KeysMadeWhileTheMirrorRuns(t *testing.T) {
	for _, ending := range []string{"stopped", "killed"} {
		for _, compacted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, target compacted %v", ending, compacted), func(t *testing.T) {
				t.Parallel()
				p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
				for i := range 30 {
					p.put(p.source, key(i), "v")
				}
				var end func()
				if ending == "killed" {
					child := p.child()
					if err := child.WaitOutput(p.ctx, "state tail"); err != nil {
						t.Fatal(err)
					}
					end = child.Kill9
				} else {
					r := p.start(etcdmirror.Config{})
					p.sync(r)
					end = r.stop
				}
				own := newStranger(p, "/registry/secrets/own/", 1)
				for range 20 {
					own.act()
				}
				end()
				for range 20 {
					own.act()
				}
				for i := range 10 {
					p.delete(p.source, key(i))
				}
				p.compact(p.source)
				if compacted {
					p.compact(p.target)
				}
				r := p.start(etcdmirror.Config{})
				p.sync(r)
				if s := r.Status(); s.Resyncs != 1 || s.Foreign != own.Keys() {
					t.Errorf("%d copies, %d foreign keys, want 1 and %d", s.Resyncs, s.Foreign, own.Keys())
				}
				own.check()
				for key := range p.get(p.target, "/registry/secrets/own/") {
					p.delete(p.target, key)
				}
				p.mustEqual("/registry/", nil) // no zombies
				p.eventually(r, "foreign keys forgotten", func(s etcdmirror.Status) bool { return s.Foreign == 0 })
			})
		}
	}
}

// Where the target's log does not tell what happened while no mirror ran, a comparison of the keys does: without a copy.
func TestP5WhatTheTargetHasCompacted(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 10 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	p.put(p.target, "/registry/secrets/a", "the standby's own")
	p.put(p.target, "/registry/secrets/b", "the standby's own")
	p.eventually(r, "the foreign keys", func(s etcdmirror.Status) bool { return s.Foreign == 2 && len(p.metadata().Foreign) == 2 })
	r.stop()
	p.put(p.source, key(0), "w")
	p.put(p.source, key(10), "v")
	p.delete(p.source, key(1))
	p.delete(p.target, "/registry/secrets/a")
	p.put(p.target, "/registry/secrets/c", "the standby's own")
	p.delete(p.target, key(2))
	p.put(p.target, key(3), "changed")
	p.compact(p.target)
	r = p.start(etcdmirror.Config{RepairDelay: time.Millisecond})
	p.sync(r)
	p.eventually(r, "what others did", func(s etcdmirror.Status) bool {
		md := p.metadata()
		return slices.Equal(md.Foreign, []string{"/registry/secrets/b", "/registry/secrets/c"}) && s.Foreign == 2 && len(md.Drift) == 2 &&
			md.Drift[0].Kind == etcdmirror.DriftDeleted && md.Drift[0].Key == key(2) && md.Drift[1].Kind == etcdmirror.DriftChanged && md.Drift[1].Key == key(3)
	})
	if s := r.Status(); s.Resyncs != 0 {
		t.Errorf("%d copies", s.Resyncs)
	}
}

// What others do to mirrored keys is reported and left alone, until the source changes the key.
func TestDriftIsReported(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for i := range 4 {
		p.put(p.source, key(i), "v")
	}
	rec := &recorder{}
	r := p.start(etcdmirror.Config{Hooks: rec.hooks(), RepairDelay: time.Millisecond})
	p.sync(r)
	p.delete(p.target, key(0))
	p.put(p.target, key(1), "changed")
	p.delete(p.target, key(2))
	p.put(p.target, key(2), "replaced")
	p.put(p.target, key(3), "changed and changed back")
	p.put(p.target, key(3), "v")
	want := map[string]etcdmirror.DriftKind{key(0): etcdmirror.DriftDeleted, key(1): etcdmirror.DriftChanged, key(2): etcdmirror.DriftReplaced}
	listed := func() map[string]etcdmirror.DriftKind {
		got := map[string]etcdmirror.DriftKind{}
		for _, d := range p.metadata().Drift {
			got[d.Key] = d.Kind
		}
		return got
	}
	p.eventually(r, "drift", func(s etcdmirror.Status) bool { return maps.Equal(listed(), want) && s.Drifted == len(want) })
	if kv := p.get(p.target, key(0))[key(0)]; kv != nil {
		t.Error("a deleted key was put back")
	}
	r.stop()

	// Another instance knows it, and the source's changes end it.
	r = p.start(etcdmirror.Config{})
	p.eventually(r, "drift of before", func(s etcdmirror.Status) bool { return s.Drifted == len(want) })
	for i := range 3 {
		p.put(p.source, key(i), "w")
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
	p.eventually(r, "end of the drift", func(s etcdmirror.Status) bool {
		return s.Drifted == 0 && s.Foreign == 0 && len(p.metadata().Drift) == 0 && len(p.metadata().Foreign) == 0
	})
	if kv := p.get(p.target, key(2))[key(2)]; kv.Version != 1 {
		t.Errorf("what was made in the place of a mirrored object was overwritten: version %d", kv.Version)
	}
	if len(rec.drift) < 3 {
		t.Errorf("reported: %+v", rec.drift)
	}
}

// What the source deletes does not take with it what the target's own cluster made in its place.
func TestP5AReplacedKeyOutlivesItsNamesake(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	p.delete(p.target, key(0))
	p.put(p.target, key(0), "another object")
	p.eventually(r, "drift", func(s etcdmirror.Status) bool { return s.Foreign == 1 && s.Drifted == 1 })
	p.delete(p.source, key(0))
	p.sync(r)
	if kv := p.get(p.target, key(0))[key(0)]; kv == nil || string(kv.Value) != "another object" {
		t.Error("the target's own object was deleted")
	}
	p.eventually(r, "end of the drift", func(s etcdmirror.Status) bool { return s.Foreign == 1 && s.Drifted == 0 })
}

// Two controllers that each put things right do not fight for ever.
func TestDriftRepairGivesUpAFight(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(0), "v")
	p.put(p.source, key(1), "v")
	rec := &recorder{}
	r := p.start(etcdmirror.Config{Drift: etcdmirror.DriftRepair, RepairDelay: time.Millisecond, RepairLimit: 3, Hooks: rec.hooks()})
	p.sync(r)
	p.delete(p.target, key(1))
	ctx, cancel := context.WithCancel(p.ctx)
	fought := make(chan int)
	go func() { // the other controller
		n := 0
		for resp := range p.target.Watch(ctx, key(0)) {
			for _, e := range resp.Events {
				if string(e.Kv.Value) == "v" {
					n++
					_, _ = p.target.Put(ctx, key(0), "mine")
				}
			}
		}
		fought <- n
	}()
	p.put(p.target, key(0), "mine")
	p.eventually(r, "an end of the fight", func(s etcdmirror.Status) bool { return s.Fights == 1 && s.Repairs == 4 })
	p.eventually(r, "the note", func(etcdmirror.Status) bool {
		md := p.metadata()
		return len(md.Drift) == 1 && md.Drift[0].Kind == etcdmirror.DriftFought && md.Drift[0].Key == key(0)
	})
	if kv := p.get(p.target, key(1))[key(1)]; kv == nil || string(kv.Value) != "v" {
		t.Error("the other key was not put back")
	}
	cancel()
	if n := <-fought; n != 3 {
		t.Errorf("put back %d times, want 3", n)
	}
	// The source has the last word.
	p.put(p.source, key(0), "w")
	p.sync(r)
	p.mustEqual("/registry/", nil)
	p.eventually(r, "end of the drift", func(s etcdmirror.Status) bool { return s.Drifted == 0 })
}

// TestRepairUnderRandomTraffic lets others delete and change mirrored keys at random, restarts the mirror, compacts both sides, and expects equality in the end.
func TestRepairUnderRandomTraffic(t *testing.T) {
	schedules(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{})
		cfg := p.randomConfig(rng)
		cfg.Drift, cfg.RepairDelay, cfg.RepairLimit = etcdmirror.DriftRepair, time.Millisecond, 1<<20
		target, source, keep := p.targetPrefix(cfg), p.sourcePrefix(cfg), p.oracle.Keep
		own := newStranger(p.pair, target+"secrets/own/", seed)
		p.oracle.Ignore = own.Owns
		mirrored := func(key string) bool {
			return !own.Owns(key) && !strings.HasPrefix(key, etcdmirror.MetadataPrefix) && keep([]byte(source+key[len(target):]))
		}
		gen := traffic.New(traffic.Config{Seed: seed, MaxTxnOps: 1000, MaxValue: 20 << 10, NoLeases: true})
		write := func(ops int) {
			t.Helper()
			if err := gen.Run(p.ctx, p.source, ops); err != nil {
				t.Fatal(err)
			}
		}
		write(200)
		r := p.start(cfg)
		for range 40 {
			write(1 + rng.IntN(5))
			for range rng.IntN(3) {
				own.act()
			}
			for range rng.IntN(4) {
				if err := own.Damage(p.ctx, target, mirrored); err != nil {
					t.Fatal(err)
				}
			}
			switch rng.IntN(12) {
			case 0:
				r.stop()
				write(rng.IntN(10))
				r = p.start(cfg)
			case 1:
				r.stop()
				p.compactRecorded(p.target, p.to)
				r = p.start(cfg)
			case 2:
				r.stop()
				write(10)
				p.compactRecorded(p.source, p.from)
				r = p.start(cfg)
			case 3:
				p.sync(r)
			}
		}
		p.sync(r)
		var differs error
		t.Cleanup(func() {
			if differs != nil {
				t.Log(differs)
			}
		})
		p.eventually(r, "end of the drift", func(s etcdmirror.Status) bool {
			differs = p.converged()
			return s.Drifted == 0 && differs == nil
		})
		p.sync(r)
		s := r.Status()
		r.stop()
		if err := p.converged(); err != nil {
			t.Error(err)
		}
		own.check()
		t.Logf("%+v; %d times damaged, %d repairs in the last run, %d keys of its own", gen.Stats(), own.Damages(), s.Repairs, own.Keys())
	})
}

// While the watch of the target is lost the mirror goes on writing, and what it wrote is never taken for the target's own: neither when the watch comes back
// in another term and reads what was written before, nor by a resync.
func TestP5OwnWritesThatTheWatchHasNotSeen(t *testing.T) {
	const before, blind = 10, 200 // more than a checkpoint lists
	for _, how := range []string{"tail", "resync"} {
		t.Run(how, func(t *testing.T) {
			p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
			direct := p.target
			cfg := p.targetCluster.ClientConfig()
			cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainStreamInterceptor(
				func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					if strings.HasSuffix(method, "/Watch") {
						return nil, status.Error(codes.Unavailable, "lost")
					}
					return streamer(ctx, desc, cc, method, opts...)
				}))
			p.target = connect(t, cfg)
			for i := range before {
				p.put(p.source, key(i), "v")
			}
			r := p.start(etcdmirror.Config{MergeBehind: 1 << 30})
			p.sync(r)
			for i := range blind {
				p.put(p.source, key(before+i), "v")
			}
			p.sync(r)
			p.put(direct, "/registry/secrets/own", "the standby's")
			p.sync(r)
			r.stop()
			p.target = direct
			if how == "resync" {
				for i := range blind {
					p.delete(p.source, key(before+i))
				}
				p.compact(p.source)
				p.compact(p.target)
			}
			r = p.start(etcdmirror.Config{})
			p.sync(r)
			p.eventually(r, "the foreign key", func(s etcdmirror.Status) bool { return s.Foreign > 0 && len(p.metadata().Foreign) > 0 })
			if md := p.metadata(); len(md.Foreign) != 1 || len(md.Drift) != 0 {
				t.Errorf("%d foreign and %d drifted keys, want one foreign key", len(md.Foreign), len(md.Drift))
			}
			p.eventually(r, "the end of the notes", func(etcdmirror.Status) bool {
				return len(p.get(p.target, "/understudy/test/own/")) == 0 || how == "tail" && p.put(p.source, key(0), "w") > 0
			})
			p.sync(r)
			p.delete(p.target, "/registry/secrets/own")
			p.mustEqual("/registry/", nil)
		})
	}
}
