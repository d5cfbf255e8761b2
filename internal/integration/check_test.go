package integration_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// TestCheckAndRepair checks under traffic, finds what was damaged and nothing else, and repairs it: also where a server streams no ranges and knows no progress.
func TestCheckAndRepair(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		p := newPair(t, c, 0, 0)
		for i := range 400 {
			p.source.put(p, objectKey(i), "value")
		}
		r := p.start(etcdmirror.Config{ProgressInterval: 10 * time.Millisecond, CheckpointInterval: 20 * time.Millisecond, Unchecked: true})
		p.sync(r)
		ctx, cancel := context.WithCancel(p.ctx)
		defer cancel()
		gen := traffic.New(traffic.Config{Seed: 1, NoLeases: true, Prefix: etcdmirror.DefaultPrefix + "busy/"})
		var writers sync.WaitGroup
		writers.Go(func() {
			for ctx.Err() == nil {
				if err := gen.Run(p.ctx, p.source.Client, 10); err != nil { // not with ctx: what is given up may be committed later
					t.Error(err)
					return
				}
			}
		})
		checker, err := drcheck.New(p.source.Client, p.target.Client, drcheck.Config{Name: mirrorName, Settle: 4 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		check := func(want drcheck.Count) *drcheck.Result {
			t.Helper()
			result, err := checker.Check(p.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if result.Count != want {
				t.Errorf("%+v, want %+v: %+v", result.Count, want, result.Differences)
			}
			return result
		}
		check(drcheck.Count{})
		if v, err := drcheck.ReadVerdict(p.ctx, p.target.Client, mirrorName); err != nil || v.LastEqual == nil {
			t.Errorf("%v, %+v: want a record of the equal check", err, v)
		}
		p.target.delete(p, objectKey(1))
		p.target.put(p, objectKey(2), "changed")
		p.target.put(p, objectKey(1000), "the target's own")
		result := check(drcheck.Count{Missed: 1, Different: 1, Surplus: 1})
		plan, err := checker.PlanRepair(p.ctx, result, drcheck.RepairOptions{DeleteSurplus: []string{objectKey(1000)}})
		if err != nil {
			t.Fatal(err)
		}
		if report, err := checker.Repair(p.ctx, plan); err != nil || report.Put != 2 || report.Deleted != 1 {
			t.Errorf("%v, %+v", err, report)
		}
		check(drcheck.Count{})
		cancel()
		writers.Wait()
		p.sync(r)
		p.mustEqual(0)
	})
}
