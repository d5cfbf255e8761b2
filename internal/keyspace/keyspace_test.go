package keyspace_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

func TestSettings(t *testing.T) {
	keep := func([]byte) bool { return true }
	for name, c := range map[string]struct {
		settings       keyspace.Settings
		source, target string
		problem        string
	}{
		"defaults":              {keyspace.Settings{}, "/registry/", "/registry/", ""},
		"another prefix":        {keyspace.Settings{Prefix: "/kube"}, "/kube", "/kube", ""},
		"renamed":               {keyspace.Settings{TargetPrefix: "/copy/"}, "/registry/", "/copy/", ""},
		"stripped":              {keyspace.Settings{StripPrefix: true}, "/registry/", "", ""},
		"all keys":              {keyspace.Settings{AllKeys: true}, "", "", ""},
		"all keys below one":    {keyspace.Settings{AllKeys: true, TargetPrefix: "a/"}, "", "a/", ""},
		"all and a prefix":      {keyspace.Settings{AllKeys: true, Prefix: "a"}, "a", "a", "AllKeys excludes Prefix"},
		"stripped and renamed":  {keyspace.Settings{StripPrefix: true, TargetPrefix: "a"}, "/registry/", "a", "StripPrefix excludes TargetPrefix"},
		"source in metadata":    {keyspace.Settings{Prefix: "/understudy/a/", TargetPrefix: "b"}, "/understudy/a/", "b", "Prefix lies below /understudy/"},
		"target in metadata":    {keyspace.Settings{TargetPrefix: "/understudy/a/"}, "/registry/", "/understudy/a/", "TargetPrefix lies below /understudy/"},
		"filter without its ID": {keyspace.Settings{Keep: keep}, "/registry/", "/registry/", "KeepID is empty"},
		"ID without filter":     {keyspace.Settings{KeepID: "a"}, "/registry/", "/registry/", "KeepID is set without Keep"},
	} {
		space, problems := c.settings.Space()
		if space.Source != c.source || space.Target != c.target {
			t.Errorf("%s: %q to %q, want %q to %q", name, space.Source, space.Target, c.source, c.target)
		}
		switch {
		case c.problem == "" && len(problems) > 0:
			t.Errorf("%s: %v", name, problems)
		case c.problem != "" && (len(problems) != 1 || !strings.Contains(problems[0].Detail, c.problem) || problems[0].Hint == ""):
			t.Errorf("%s: %v, want %q", name, problems, c.problem)
		}
	}
}

// Names go to the target and back, and nothing that takes part becomes metadata or nothing.
func TestNamesGoThereAndBack(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	prefixes := []string{"", "/", "/u", "/understudy", "/registry/", "/understu"}
	text := func() string {
		parts := []string{"/", "understudy", "u", "nderstudy/", "registry", "\x00", "a", "/understudy/"}
		var b strings.Builder
		for range rng.IntN(4) {
			b.WriteString(parts[rng.IntN(len(parts))])
		}
		return b.String()
	}
	reserved := 0
	for range 100_000 {
		s := keyspace.Space{Source: prefixes[rng.IntN(len(prefixes))], Target: prefixes[rng.IntN(len(prefixes))]}
		key := s.Source + text()
		if key == "" {
			continue
		}
		there := s.ToTarget(key)
		if back := s.ToSource(there); back != key {
			t.Fatalf("seed %d: %+v: %q became %q and %q", seed, s, key, there, back)
		}
		want := there == "" || strings.HasPrefix(key, keyspace.MetadataPrefix) || strings.HasPrefix(there, keyspace.MetadataPrefix)
		if s.Reserved([]byte(key)) != want || s.Kept([]byte(key)) == want {
			t.Fatalf("seed %d: %+v: %q to %q: reserved %v, kept %v", seed, s, key, there, s.Reserved([]byte(key)), s.Kept([]byte(key)))
		}
		if there != "" && s.KeptAtTarget([]byte(there)) == want {
			t.Fatalf("seed %d: %+v: %q at the target: kept %v", seed, s, there, !want)
		}
		if want {
			reserved++
		}
	}
	if reserved < 1000 {
		t.Errorf("only %d of the keys were reserved", reserved)
	}
}

// Whatever a mirror may be called, its metadata lies in the range, and nothing else does.
func TestMirrorsRange(t *testing.T) {
	begin, end := keyspace.MirrorsRange()
	for c := rune(0); c < 0x100; c++ {
		name := string(c)
		key := keyspace.MetadataPrefix + name + "/checkpoint"
		if in := begin <= key && key < end; keyspace.ValidName(name) && !in {
			t.Errorf("%q lies outside", key)
		}
	}
	for _, name := range []string{".failover", "-", "", "{"} {
		if key := keyspace.MetadataPrefix + name + "/"; begin <= key && key < end {
			t.Errorf("%q lies inside", key)
		}
	}
}
