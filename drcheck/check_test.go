package drcheck_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/drcheck"
)

// oracle says what a check must find between two maps.
func oracle(source, target map[string]string, cfg drcheck.Config, to func(string) string) (want map[string]drcheck.Class, sourceKeys, targetKeys int) {
	keep := func(key string) bool { return cfg.Keep == nil || cfg.Keep([]byte(key)) }
	want = map[string]drcheck.Class{}
	images := map[string]bool{}
	for key, value := range source {
		if !keep(key) {
			continue
		}
		sourceKeys++
		images[to(key)] = true
		theirs, ok := target[to(key)]
		switch {
		case !ok:
			want[to(key)] = drcheck.Missed
		default:
			targetKeys++
			if theirs != value && cfg.Mode != drcheck.KeysOnly {
				want[to(key)] = drcheck.Different
			}
		}
	}
	for key := range target {
		if !images[key] && keep(strings.TrimPrefix(key, "/copy")) {
			want[key] = drcheck.Surplus
			targetKeys++
		}
	}
	return want, sourceKeys, targetKeys
}

// TestAgainstAMap compares random contents of two etcds at rest with what two maps say, in every mode, prefix and filter.
func TestAgainstAMap(t *testing.T) {
	s := newSides(t)
	prefix := 0
	schedules(t, 8, func(t *testing.T, _ uint64, rng *rand.Rand) {
		prefix++
		cfg := drcheck.Config{Prefix: fmt.Sprintf("/s%d/", prefix), Settle: 30 * time.Millisecond, Mode: []drcheck.Mode{drcheck.Content, drcheck.KeysOnly}[rng.IntN(2)]}
		to := func(key string) string { return key }
		if rng.IntN(2) == 0 {
			cfg.TargetPrefix = "/copy" + cfg.Prefix
			to = func(key string) string { return "/copy" + key }
		}
		if rng.IntN(2) == 0 {
			cfg.Keep, cfg.KeepID = func(key []byte) bool { return !strings.Contains(string(key), "/pods/") }, "no pods"
		}
		cfg.Limit = []int{0, 3, 100_000}[rng.IntN(3)]
		source, target := map[string]string{}, map[string]string{}
		n := []int{0, 1, 50, 3000, 20_000}[rng.IntN(5)]
		for i := range n {
			key := fmt.Sprintf("%s%s/ns%d/name%06d", cfg.Prefix, []string{"pods", "secrets", "apps.example.com/things"}[rng.IntN(3)], rng.IntN(5), i)
			value := fmt.Sprint("value ", rng.Uint64())
			if i%5000 == 7 {
				value = strings.Repeat(value, 20_000)
			}
			source[key], target[to(key)] = value, value
			switch p := rng.IntN(1000); {
			case p < 10:
				delete(source, key)
			case p < 20:
				delete(target, to(key))
			case p < 30:
				target[to(key)] = value[:len(value)-1] + "#"
			}
		}
		s.fill(s.source, source)
		s.fill(s.target, target)
		want, sourceKeys, targetKeys := oracle(source, target, cfg, to)
		if rng.IntN(3) == 0 {
			cfg.MaxRechecks = 1 + len(want)/2
		}
		r := s.check(cfg)
		counts := map[drcheck.Class]int{}
		for _, class := range want {
			counts[class]++
		}
		got := map[drcheck.Class]int{drcheck.Missed: r.Count.Missed, drcheck.Surplus: r.Count.Surplus, drcheck.Different: r.Count.Different}
		for _, class := range drcheck.Classes {
			if counts[class] == 0 {
				delete(got, class)
				if r := map[drcheck.Class]int{drcheck.Missed: r.Count.Missed, drcheck.Surplus: r.Count.Surplus, drcheck.Different: r.Count.Different}[class]; r != 0 {
					t.Errorf("%d %s keys, want none", r, class)
				}
			}
		}
		if diff := cmp.Diff(counts, got); diff != "" {
			t.Errorf("counts: %s", diff)
		}
		if r.SourceKeys != sourceKeys || r.TargetKeys != targetKeys || r.Filtered != len(source)-sourceKeys || r.Equal != (len(want) == 0) {
			t.Errorf("%d and %d keys, %d filtered, equal %v; want %d, %d, %d", r.SourceKeys, r.TargetKeys, r.Filtered, r.Equal, sourceKeys, targetKeys, len(source)-sourceKeys)
		}
		limit := map[int]int{0: drcheck.DefaultLimit, 3: 3, 100_000: 100_000}[cfg.Limit]
		listed := map[drcheck.Class]int{}
		last := drcheck.Difference{}
		for _, d := range r.Differences {
			listed[d.Class]++
			if want[d.Key] != d.Class || to(d.SourceKey) != d.Key {
				t.Errorf("%s %q (source key %q), want %q", d.Class, d.Key, d.SourceKey, want[d.Key])
			}
			if d.Class == last.Class && d.Key <= last.Key {
				t.Errorf("%q comes after %q", d.Key, last.Key)
			}
			last = d
		}
		for class, n := range counts {
			if listed[class] != min(n, limit) {
				t.Errorf("%d of %d %s keys are listed, limit %d", listed[class], n, class, limit)
			}
		}
		if r.Unlisted != len(want)-len(r.Differences) {
			t.Errorf("%d unlisted of %d, %d listed", r.Unlisted, len(want), len(r.Differences))
		}
		sum := drcheck.Count{}
		keys := 0
		for _, c := range r.Resources {
			keys += c.Keys
			sum.Missed, sum.Surplus, sum.Different = sum.Missed+c.Missed, sum.Surplus+c.Surplus, sum.Different+c.Different
		}
		if sum != r.Count || keys != sourceKeys {
			t.Errorf("by resource: %+v of %d keys, want %+v of %d", sum, keys, r.Count, sourceKeys)
		}
	})
}

func TestBadConfig(t *testing.T) {
	s := newSides(t)
	for _, c := range []struct {
		cfg  drcheck.Config
		want string
	}{
		{drcheck.Config{Name: "No Name"}, "name"},
		{drcheck.Config{Mode: "some"}, `Mode "some" is unknown`},
		{drcheck.Config{Settle: -1}, "Settle -1ns is negative"},
		{drcheck.Config{RequestTimeout: -1}, "RequestTimeout -1ns is negative"},
		{drcheck.Config{MaxRechecks: -1}, "MaxRechecks -1 is negative"},
		{drcheck.Config{KeepID: "a"}, "KeepID is set without Keep"},
		{drcheck.Config{AllKeys: true, Prefix: "a"}, "AllKeys excludes Prefix"},
	} {
		_, err := drcheck.New(s.source, s.target, c.cfg)
		if !errors.Is(err, drcheck.ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
	if _, err := drcheck.New(nil, s.target, drcheck.Config{}); !errors.Is(err, drcheck.ErrConfig) {
		t.Errorf("no source: %v", err)
	}
	c, err := drcheck.New(s.source, s.source, drcheck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Check(s.ctx); !errors.Is(err, drcheck.ErrSameCluster) {
		t.Errorf("one cluster: %v", err)
	}
	if err := s.targetCluster.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.checker(drcheck.Config{RequestTimeout: 200 * time.Millisecond}).Check(s.ctx); !errors.Is(err, drcheck.ErrUnreachable) || !strings.Contains(err.Error(), "target") {
		t.Errorf("a target that is down: %v", err)
	}
}
