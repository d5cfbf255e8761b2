package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/testutil"
)

// What somebody does at the target behind everybody's back is found, each kind of damage by each check that has to see it.
func TestDamageIsFound(t *testing.T) {
	ctx := testutil.Context(t)
	opts, err := Options{Replicas: 1, Steps: 1}.complete()
	if err != nil {
		t.Fatal(err)
	}
	s := newSchedule(rand.Uint64()>>2, opts)
	s.plan.SourceMembers, s.plan.TargetMembers, s.plan.Before, s.plan.Keys = 1, 1, 200, 100
	s.plan.Own, s.plan.Drift, s.plan.Promote = true, false, false
	s.plan.Mirror.Space, s.plan.Mirror.Some, s.plan.Mirror.Drift, s.plan.Mirror.Guard = "same", false, false, false
	defer s.close()
	for _, part := range []func(context.Context) error{s.open, s.settle} {
		if err := part(ctx); err != nil {
			t.Fatalf("seed %d: %v", s.seed, err)
		}
	}
	for range 8 {
		if _, err := s.others.write(ctx, s.rng); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.settle(ctx); err != nil {
		t.Fatalf("seed %d: %v", s.seed, err)
	}
	if s.failed() {
		t.Fatalf("seed %d: violations before any damage: %q", s.seed, s.violations)
	}
	// From here on nobody repairs or notes anything.
	for _, r := range s.replicas {
		r.stop(true)
	}
	here, err := s.target.list(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var mirrored []string
	for key := range here {
		if s.plan.Mirror.inTargetSpace(key) && !strings.HasPrefix(key, s.others.dir) {
			mirrored = append(mirrored, key)
		}
	}
	if len(mirrored) < 2 {
		t.Fatalf("seed %d: only %d keys are mirrored", s.seed, len(mirrored))
	}
	gone, changed, surplus, own := mirrored[0], mirrored[1], "/registry/surplus", s.others.marker()
	for _, damage := range []func() error{
		func() error { _, err := s.target.client.Delete(ctx, gone); return err },
		func() error { _, err := s.target.client.Put(ctx, changed, "damaged"); return err },
		func() error { _, err := s.target.client.Put(ctx, surplus, "damaged"); return err },
		func() error { _, err := s.target.client.Delete(ctx, own); return err },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
	}
	survivors, either := s.others.survivors(s.source.recorder)
	wrong, _, err := s.compare(ctx, survivors, either)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.judge(ctx); err != nil {
		t.Fatal(err)
	}
	found := strings.Join(append(wrong, s.violations...), "\n")
	for _, want := range []string{
		fmt.Sprintf("missed key %q", gone), fmt.Sprintf("different key %q", changed), fmt.Sprintf("surplus key %q", surplus), fmt.Sprintf("the target's own key %q is gone", own),
		"convergence: 3 violations", "prefix consistency: 3 violations", "checkpoints: 3 violations", "order: 2 violations",
	} {
		if !strings.Contains(found, want) {
			t.Errorf("seed %d: not found: %s", s.seed, want)
		}
	}
	if t.Failed() {
		t.Log(found)
	}
}
