package integration_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

func objectKey(i int) string {
	return fmt.Sprintf("%sconfigmaps/team/object-%03d", etcdmirror.DefaultPrefix, i)
}

// metadata is what the target tells about the mirror.
func (p *pair) metadata() *etcdmirror.Metadata {
	p.t.Helper()
	md, err := etcdmirror.ReadMetadata(p.ctx, p.target.Client, mirrorName)
	if err != nil {
		p.t.Fatal(err)
	}
	return md
}

// TestDrift touches mirrored keys at the target while both sides are quiet, so that nothing but the touch itself tells the mirror of it: first it is reported, also by the
// next instance and after the target was away; then it is repaired, though the source has compacted the revision that the mirror knows.
func TestDrift(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		p := newPair(t, c, 0, 0)
		for i := range 6 {
			p.source.put(p, objectKey(i), "value")
		}
		fast := etcdmirror.Config{RepairDelay: time.Millisecond, RequestTimeout: 2 * time.Second, ProgressInterval: 10 * time.Millisecond, CheckpointInterval: 20 * time.Millisecond}
		r := p.start(fast)
		p.sync(r)
		p.target.delete(p, objectKey(0))
		p.target.put(p, objectKey(1), "changed")
		p.target.delete(p, objectKey(2))
		p.target.put(p, objectKey(2), "replaced")
		p.target.put(p, objectKey(3), "changed and changed back")
		p.target.put(p, objectKey(3), "value")
		want := map[string]etcdmirror.DriftKind{objectKey(0): etcdmirror.DriftDeleted, objectKey(1): etcdmirror.DriftChanged, objectKey(2): etcdmirror.DriftReplaced}
		listed := func(etcdmirror.Status) bool {
			got := map[string]etcdmirror.DriftKind{}
			for _, d := range p.metadata().Drift {
				got[d.Key] = d.Kind
			}
			return maps.Equal(got, want)
		}
		r.eventually("drift", listed)

		if p.target.server != nil {
			p.target.server.kill()
			p.target.server.restart(p.ctx)
			p.target.delete(p, objectKey(4)) // the mirror may not be back yet
		} else {
			r.stop()
			p.target.delete(p, objectKey(4))
			r = p.start(fast)
		}
		want[objectKey(4)] = etcdmirror.DriftDeleted
		r.eventually("drift after an outage", listed)
		if s := r.Status(); s.Repairs != 0 || p.target.state(p, 0)[objectKey(0)] != nil {
			t.Errorf("something was put back without being asked for; status %+v", s)
		}
		r.stop()

		fast.Drift = etcdmirror.DriftRepair
		r = p.start(fast)
		r.eventually("repair", func(s etcdmirror.Status) bool { return s.Repairs == 4 && s.Drifted == 0 })
		p.mustEqual(0)
		for i := range 5 { // beyond the prefix, so that the mirror is not told how far the source is unless by notifications of progress
			p.source.put(p, fmt.Sprint("elsewhere/", i), "value")
		}
		p.source.compact(p, p.source.head(p))
		p.target.delete(p, objectKey(5))
		r.eventually("repair after a compaction", func(s etcdmirror.Status) bool { return s.Repairs == 5 && s.Drifted == 0 })
		if n := p.mustEqual(0); n != 6+p.marks {
			t.Errorf("%d keys", n)
		}
		r.eventually("end of the list", func(etcdmirror.Status) bool { return len(p.metadata().Drift) == 0 && len(p.metadata().Foreign) == 0 })
		if s := r.Status(); s.Resyncs != 0 {
			t.Errorf("%d copies, want none", s.Resyncs)
		}
	})
}

// TestRepairUnderRandomTraffic lets the target's own cluster change and delete mirrored keys under traffic, while the mirror and the servers come and go and both sides are
// compacted. Nothing that the source writes afterwards helps: in the end every key has to have been put back by the mirror itself.
func TestRepairUnderRandomTraffic(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		schedules(t, 2, func(t *testing.T, seed uint64, rng *rand.Rand) {
			p := newRecordedPair(t, c, 1000, 0)
			cfg := p.config(rng)
			cfg.Drift, cfg.RepairDelay, cfg.RepairLimit = etcdmirror.DriftRepair, time.Millisecond, 1<<20
			cfg.RequestTimeout = 2 * time.Second
			p.addStranger(seed)
			gen := traffic.New(traffic.Config{Seed: seed, MaxTxnOps: 1000, MaxValue: 20 << 10})
			write := func(ops int) {
				t.Helper()
				if err := gen.Run(p.ctx, p.source.Client, ops); err != nil {
					t.Fatal(err)
				}
			}
			damage := func(times int) {
				t.Helper()
				for range times {
					if err := p.own.Damage(p.ctx, p.targetPrefix, p.mirrored); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(150)
			r := p.start(cfg)
			away := func(meanwhile func()) {
				r.stop()
				meanwhile()
				r = p.start(cfg)
			}
			faults := map[string]int{}
			for step := range 40 {
				write(1 + rng.IntN(5))
				p.act(rng.IntN(2))
				damage(rng.IntN(3))
				fault := rng.IntN(16)
				switch step { // each fault happens at least once
				case 6, 12, 18, 24, 30:
					fault = step/6 - 1
				}
				switch fault {
				case 0:
					faults["restart"]++
					away(func() { damage(2) })
				case 1:
					faults["target compacted while away"]++
					away(func() { damage(2); p.compact(p.target) })
				case 2:
					faults["source compacted while away"]++
					away(func() { write(5); damage(2); p.compact(p.source) })
				case 3:
					faults["target compacted"]++
					damage(2)
					p.compact(p.target)
				case 4:
					if p.target.server != nil {
						faults["target killed"]++
						r.started()
						p.target.server.kill()
						p.target.server.restart(p.ctx)
						damage(2) // the mirror may not be back yet
						if rng.IntN(2) == 0 {
							p.compact(p.target)
						}
					}
				case 5:
					p.sync(r)
				}
			}
			p.sync(r)
			damage(3)
			r.eventually("end of the drift", func(s etcdmirror.Status) bool { return s.Drifted == 0 && p.converged() == nil })
			s := r.Status()
			r.stop()
			if err := p.converged(); err != nil {
				t.Error(err)
			}
			p.mustHaveOwn()
			t.Logf("%+v; faults %v, damages %d, repairs in the last run %d, fights %d, %d keys of the target's own", gen.Stats(), faults, p.own.Damages(), s.Repairs, s.Fights, p.own.Keys())
		})
	})
}

// TestForeignKeysSurviveAResync makes keys at the target while the mirror runs, while it is killed, and while it is away, and then lets it compare everything: it has to
// delete what the source has lost, and nothing else.
func TestForeignKeysSurviveAResync(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		p := newPair(t, c, 0, 0)
		p.own = traffic.NewStranger(p.target.Client, etcdmirror.DefaultPrefix+"secrets/own/", 1)
		for i := range 60 {
			p.source.put(p, objectKey(i), "value")
		}
		child := p.child("killed")
		p.output(child, "state tail")
		p.act(15)
		child.Kill9()
		p.act(15)
		for round, compactTarget := range []bool{false, true} {
			for i := range 20 {
				p.source.delete(p, objectKey(20*round+i))
			}
			p.source.compact(p, p.source.head(p))
			if compactTarget {
				p.target.compact(p, p.target.head(p))
			}
			r := p.start(etcdmirror.Config{})
			p.sync(r)
			if s := r.Status(); s.Resyncs != 1 || s.Foreign != p.own.Keys() || s.Drifted != 0 {
				t.Errorf("round %d: %d copies, %d foreign and %d drifted keys, want 1, %d and 0", round, s.Resyncs, s.Foreign, s.Drifted, p.own.Keys())
			}
			if n := p.mustEqual(0); n != 40-20*round+p.marks {
				t.Errorf("round %d: %d keys", round, n)
			}
			p.mustHaveOwn()
			p.act(15)
			if p.target.server != nil {
				p.target.server.kill()
				p.target.server.restart(p.ctx)
				p.act(15)
			}
			r.eventually("notice of each own key", func(s etcdmirror.Status) bool {
				return s.Foreign == p.own.Keys() && len(p.metadata().Foreign) == p.own.Keys()
			})
			r.stop()
			p.act(15)
		}
	})
}
