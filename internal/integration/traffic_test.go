package integration_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// TestConsistencyUnderRandomTraffic stops and starts the mirror and compacts both sides in every phase, while the target's own cluster has keys
// of its own between the mirrored ones. Then it holds the whole history of the target against the whole history of the source.
func TestConsistencyUnderRandomTraffic(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		schedules(t, 3, func(t *testing.T, seed uint64, rng *rand.Rand) {
			p := newRecordedPair(t, c, 1000, []int{0, 16, 1000}[rng.IntN(3)])
			cfg := p.config(rng)
			p.addStranger(seed)
			gen := traffic.New(traffic.Config{Seed: seed, MaxTxnOps: 1000, MaxValue: 100 << 10})
			write := func(ops int) {
				t.Helper()
				if err := gen.Run(p.ctx, p.source.Client, ops); err != nil {
					t.Fatal(err)
				}
			}
			compactor := &traffic.Compactor{Client: p.source.Client, Seed: seed, Every: 1 + rng.IntN(40), Before: p.recordedSource}
			write(rng.IntN(200)) // the base copy has something to do
			faults := map[string]int{}
			r := p.start(cfg)
			for step := range 40 {
				write(1 + rng.IntN(10))
				p.act(rng.IntN(3))
				if err := compactor.Step(p.ctx, step, gen.Stats().Revision); err != nil {
					t.Fatal(err)
				}
				fault := rng.IntN(20)
				switch step { // each fault happens at least once
				case 13:
					fault = 0
				case 26:
					fault = 1
				}
				switch fault {
				case 0:
					faults["restart"]++
					r.stop()
					r = p.start(cfg)
				case 1:
					faults["outage with compaction"]++
					r.stop()
					write(20)
					p.compact(p.source)
					r = p.start(cfg)
				case 2:
					p.sync(r)
				case 3:
					faults["target compacted"]++
					p.compact(p.target)
				}
			}
			p.sync(r)
			s := r.Status()
			r.stop()
			p.check()
			p.mustHaveOwn()
			t.Logf("%+v; compactions %d, faults %v; %d copies in the last run, %d splits, %d keys of the target's own", gen.Stats(), compactor.Compactions(), faults, s.Resyncs, s.Splits, p.own.Keys())
		})
	})
}

// TestServersKilledUnderTraffic kills the installed server in the middle of traffic, as source, target, or both sides one after the other and at once.
// The mirror says what it waits for and continues without copying again once the server is back on its data, also if it had to be elected again because its session was over
// by then. Only a base copy that was interrupted in this way begins anew.
func TestServersKilledUnderTraffic(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		schedules(t, 2, func(t *testing.T, seed uint64, rng *rand.Rand) {
			p := newRecordedPair(t, c, 1000, 0)
			cfg := p.config(rng)
			cfg.RequestTimeout = 2 * time.Second // it is waited out now and then
			cfg.SessionTTL = []time.Duration{time.Second, time.Hour}[rng.IntN(2)]
			var terms atomic.Int64
			cfg.Hooks.Leading = func(etcdmirror.LeadingInfo) { terms.Add(1) }
			p.addStranger(seed)
			victims := [][]*side{p.installed(), p.installed(), p.installed()}
			if both := p.installed(); len(both) == 2 {
				victims[0], victims[1] = both[:1], both[1:]
			}
			rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })

			var killAt int
			var reached chan struct{}
			gen := traffic.New(traffic.Config{Seed: seed, MaxTxnOps: 1000, MaxValue: 100 << 10, Between: func(_ context.Context, op int, _ int64) error {
				if op == killAt {
					close(reached)
				}
				return nil
			}})
			killAt = -1
			if err := gen.Run(p.ctx, p.source.Client, 200); err != nil {
				t.Fatal(err)
			}
			r := p.start(cfg)
			copied := rng.IntN(2) == 0
			if copied {
				p.sync(r)
			} else { // the first kill may come in the middle of the base copy
				r.started()
			}
			for _, sides := range victims {
				const ops = 60
				reached, killAt = make(chan struct{}), gen.Stats().Ops+rng.IntN(ops/2)
				written := make(chan error, 1)
				go func() { written <- gen.Run(p.ctx, p.source.Client, ops) }()
				select {
				case <-reached: // the traffic goes on meanwhile
				case err := <-written:
					t.Fatalf("the traffic ended early: %v", err)
				}
				for _, s := range sides {
					s.server.kill()
				}
				finish := func() {
					t.Helper()
					if err := <-written; err != nil {
						t.Fatal(err)
					}
				}
				sourceDown := sides[0] == p.source
				if !sourceDown {
					finish()
					p.mark() // the mirror has something to write for certain
				}
				r.eventually("wait for the killed server", func(s etcdmirror.Status) bool {
					if s.State != etcdmirror.StateWaiting {
						return false
					}
					for _, side := range sides {
						if strings.Contains(s.Reason, side.role) {
							return true
						}
					}
					return false
				})
				for _, s := range sides {
					s.server.restart(p.ctx)
				}
				p.act(3) // also before the mirror has found the target again
				if sourceDown {
					finish()
				}
				p.sync(r)
			}
			s := r.Status()
			r.stop()
			p.check()
			p.mustHaveOwn()
			if s.State == etcdmirror.StateWaiting || s.LagRevisions != 0 {
				t.Errorf("status %+v after all is applied", s)
			}
			most := terms.Load()
			if copied || cfg.SessionTTL == time.Hour {
				most = 1
			}
			if s.Resyncs < 1 || s.Resyncs > most {
				t.Errorf("%d copies begun in %d terms of leadership, want the base copy, at most %d times", s.Resyncs, terms.Load(), most)
			}
			if c.source && s.Reconnects == 0 {
				t.Error("the watch was never opened again: the source was not missed")
			}
			t.Logf("%+v; reconnects %d, terms of leadership %d", gen.Stats(), s.Reconnects, terms.Load())
		})
	})
}
