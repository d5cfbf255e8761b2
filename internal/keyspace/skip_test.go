package keyspace_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

// What is skipped takes no part, and the ranges hold exactly what the first prefixes leave.
func TestSkip(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	text := func(n int) string {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = "/ab\x00\xff"[rng.IntN(5)]
		}
		return string(b)
	}
	below := func(prefixes []string, key string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(key, p) {
				return true
			}
		}
		return false
	}
	skipped, split := 0, 0
	for range 3000 {
		source := []string{"", "/", "/registry/", "\xff\xff"}[rng.IntN(4)]
		var skip []string
		for range rng.IntN(6) {
			skip = append(skip, source+text(3)+string("/ab\xff"[rng.IntN(4)]))
		}
		space, problems := keyspace.Settings{Prefix: source, AllKeys: source == "", TargetPrefix: "/copy/", Skip: skip}.Space()
		if len(problems) > 0 {
			t.Fatalf("seed %d: %q: %v", seed, skip, problems)
		}
		most := 1 + rng.IntN(6)
		ranges := space.Ranges(most)
		if len(ranges) > most {
			t.Fatalf("seed %d: %d ranges, want %d at most", seed, len(ranges), most)
		}
		if len(ranges) > 1 {
			split++
		}
		for range 60 {
			key := source + text(6)
			if key == "" || key == source && source == "" {
				continue
			}
			if below(skip, key) {
				skipped++
			}
			if got, want := space.Kept([]byte(key)), !below(skip, key) && !space.Reserved([]byte(key)); got != want {
				t.Fatalf("seed %d: skip %q: %q kept: %v, want %v", seed, skip, key, got, want)
			}
			in := 0
			for _, r := range ranges {
				if key >= r.Begin && (r.End == "\x00" || key < r.End) {
					in++
				}
			}
			want := 1
			if below(skip[:min(len(skip), most-1)], key) {
				want = 0
			}
			if in != want {
				t.Fatalf("seed %d: skip %q, %d at most: %q is in %d of the ranges %q, want %d", seed, skip, most, key, in, ranges, want)
			}
		}
	}
	if skipped < 1000 || split < 1000 {
		t.Errorf("%d keys were skipped, %d spaces divided: too few to tell", skipped, split)
	}
	for _, wrong := range []string{"/registry/", "/reg", "", "/other/"} {
		_, problems := keyspace.Settings{Skip: []string{"/registry/events/", wrong}}.Space()
		if len(problems) != 1 || !strings.Contains(problems[0].Detail, "Skip[1]") || problems[0].Hint == "" {
			t.Errorf("%q: %v", wrong, problems)
		}
	}
}
