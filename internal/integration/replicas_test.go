package integration_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// TestLeadersKilledUnderTraffic kills one leading process after the other in the middle of its writes. The next one takes over and goes on where the target is;
// in the end, the target's history shows nothing of it. An instance that ends properly is replaced at once.
func TestLeadersKilledUnderTraffic(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		schedules(t, 1, func(t *testing.T, seed uint64, rng *rand.Rand) {
			p := newRecordedPair(t, c, 1000, 0)
			p.addStranger(seed)
			gen := traffic.New(traffic.Config{Seed: seed, MaxTxnOps: 1000, MaxValue: 50 << 10})
			write := func(ops int) {
				t.Helper()
				if err := gen.Run(p.ctx, p.source.Client, ops); err != nil {
					t.Fatal(err)
				}
			}
			write(100)
			first, second := p.child("first"), (*proc.Proc)(nil)
			p.output(first, "leading", "state tail")
			second = p.child("second")
			p.output(second, `state replica: replica "first" leads`)
			third := p.start(etcdmirror.Config{Replica: "third", SessionTTL: time.Hour, Unchecked: true})
			third.eventually("wait", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateReplica && s.Leader == "first" })
			p.sync(third) // one that waits tells how far the leader is

			for _, leader := range []*proc.Proc{first, second} {
				until := p.target.head(p.pair) + int64(rng.IntN(60))
				for p.target.head(p.pair) < until {
					write(3)
					p.act(rng.IntN(2))
				}
				leader.Kill9()
				write(10)
				p.act(2)
				if leader == first {
					p.output(second, "leading", "state tail")
				}
			}
			third.eventually("take-over", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateTail && s.Leader == "third" })
			p.sync(third)

			// The session of the third instance would last for an hour.
			fourth := p.start(etcdmirror.Config{Replica: "fourth", Unchecked: true})
			fourth.eventually("wait", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateReplica && s.Leader == "third" })
			third.stop()
			write(10)
			p.sync(fourth)
			fourth.stop()
			p.check()
			p.mustHaveOwn()

			resyncs := third.Status().Resyncs + fourth.Status().Resyncs
			for _, state := range []etcdmirror.State{etcdmirror.StateBaseCopy, etcdmirror.StateResync} {
				if resyncs > 0 || strings.Contains(second.Output(), "state "+string(state)) {
					t.Errorf("an instance that took over copied again (%s)", state)
				}
			}
			if n := p.terms(); n != 4 {
				t.Errorf("%d terms of leadership, want 4", n)
			}
			t.Logf("%+v; %d keys of the target's own", gen.Stats(), p.own.Keys())
		})
	})
}

// terms counts those who wrote the checkpoint.
func (p *recordedPair) terms() int {
	p.t.Helper()
	writers := map[string]bool{}
	for _, rev := range p.to.Revisions() {
		for _, event := range rev.Events {
			if event.Key != p.oracle.CheckpointKey {
				continue
			}
			value, _ := event.Value.Bytes()
			c, err := checkpoint(value)
			if err != nil {
				p.t.Fatal(err)
			}
			writers[c.Writer] = true
		}
	}
	return len(writers)
}
