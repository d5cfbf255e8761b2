package keyfilter

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// usualFilters are for keys of any kind: by defaults, with everything included that can be, with nested prefixes, and by
// random rules that are the same in every run.
func usualFilters(t testing.TB) []*Filter {
	g := newGenerator(7)
	everything := Policy{UnknownResources: Include, AggregatedSubtrees: Include, Unclassified: Include, Pods: Include, Endpoints: Include, AggregatedAPIServices: Include}
	filters := []*Filter{
		mustNew(t, Config{}),
		mustNew(t, Config{ExcludedNamespaces: []string{}, Policy: everything}),
		mustNew(t, Config{Prefixes: []string{"/registry", "/registry/pods", "/registry/a.b", "/openshift.io", "/"}, Policy: Policy{UnknownResources: Include, OpenShiftOAuth: Include}}),
		mustNew(t, Config{Prefixes: []string{"/registry", "/registry/leases/ns"}, Rules: []Rule{rule("l", Rule{Groups: []string{"coordination.k8s.io"}, Names: []string{"x*"}})}}),
		mustNew(t, Config{Prefixes: []string{"/größe%", "/registry"}}),
	}
	for range 20 {
		cfg := g.configuration()
		cfg.Prefixes = g.etcdPrefixes()
		filters = append(filters, unvalidated(cfg))
	}
	return filters
}

// checkUsual compares the short way with the long one: Match with Explain and with the oracle, and placeUsual with scan.
func checkUsual(t testing.TB, f *Filter, key string) (placed, dropped bool) {
	t.Helper()
	checkAgainstReference(t, f, key)
	which := f.under([]byte(key))
	if which < 0 {
		return false, false
	}
	var short, long parts
	prefix := f.prefixes[which]
	placed, dropped = short.placeUsual([]byte(key[len(prefix):]), f.whole[which])
	long.scan(prefix, []byte(key))
	long.resLen = 0 // of Explain only
	if !placed {
		long = parts{}
	}
	if diff := cmp.Diff(long, short, cmp.AllowUnexported(parts{}, resource{})); diff != "" {
		t.Fatalf("prefix %q key %q: scan and the short way differ (-scan +short):\n%s", prefix, key, diff)
	}
	return placed, dropped
}

// TestMatchByPrefix: what is dropped as a whole under one etcd prefix may be kept under another.
func TestMatchByPrefix(t *testing.T) {
	for _, kept := range []string{"/registry", "/kubernetes.io"} {
		f := mustNew(t, Config{Prefixes: []string{"/registry", "/kubernetes.io"}, Rules: []Rule{rule("pods", Rule{Prefixes: []string{kept + "/pods/ns"}})}})
		for _, prefix := range f.Prefixes() {
			if key := prefix + "pods/ns/p"; f.Match([]byte(key)) != (prefix == kept+"/") {
				t.Errorf("%s, of which %s/pods/ns is kept: %v", key, kept, f.Match([]byte(key)))
			}
			if slices.Contains(f.Skips(""), prefix+"pods/") == (prefix == kept+"/") {
				t.Errorf("%spods/ is skipped, or is not, though %s/pods/ns is kept", prefix, kept)
			}
		}
	}
}

// spoil puts a byte at each place of a key, also one too many.
func spoil(key string, b byte) (spoilt []string) {
	for i := range len(key) + 1 {
		spoilt = append(spoilt, key[:i]+string([]byte{b})+key[i:])
		if i < len(key) {
			spoilt = append(spoilt, key[:i]+string([]byte{b})+key[i+1:])
		}
	}
	return spoilt
}

// TestUsualKeys: nearly all keys of a cluster take the short way, which places and drops as the long one.
func TestUsualKeys(t *testing.T) {
	filters := usualFilters(t)
	placed, dropped := 0, 0
	keys := clusterKeys(t)
	for n, key := range keys {
		for i, f := range filters {
			if i > 4 && n%8 != 0 {
				continue
			}
			p, d := checkUsual(t, f, key)
			if i == 0 && p {
				placed++
			}
			if i == 0 && d {
				dropped++
			}
		}
	}
	if placed+dropped < 480 || dropped < 150 {
		t.Errorf("of %d keys %d were placed and %d dropped by the short way", len(keys), placed, dropped)
	}
}

// TestSpoiltKeys: one byte in the wrong place, anywhere.
func TestSpoiltKeys(t *testing.T) {
	f := mustNew(t, Config{ExcludedNamespaces: []string{}, Policy: Policy{Unclassified: Include, Pods: Include}})
	strict := mustNew(t, Config{Policy: Policy{AggregatedAPIServices: Include}})
	for _, key := range []string{"/registry/roles/ns/name-of-role", "/registry/namespaces/n1", "/registry/services/specs/ns/s", "/registry/a.b/things/ns/t1", "/registry/a.b/things/t.23456789",
		"/registry/apiregistration.k8s.io/apiservices/v1.a.b"} {
		for _, b := range []byte("/.-%: ~a0Z_\x00\x1f\x7f\x80\xc3\xff") {
			for _, s := range spoil(key, b) {
				checkUsual(t, f, s)
				checkUsual(t, strict, s)
			}
		}
		for b := range 256 { // each byte in the middle, and at the end
			checkUsual(t, f, key+string([]byte{byte(b)}))
			checkUsual(t, f, key[:len(key)-1]+string([]byte{byte(b)})+strings.Repeat("a", 9))
		}
	}
}

// FuzzMatch compares the two ways for random rules and keys, also for keys below what is skipped.
func FuzzMatch(f *testing.F) {
	filters := usualFilters(f)
	for i, key := range clusterKeys(f) {
		if i%16 == 0 {
			f.Add(uint8(i), []byte(key))
		}
	}
	g := newGenerator(8)
	for i := range 200 {
		f.Add(uint8(i), g.key())
	}
	for i, tail := range []string{"", "x", "ns/x", "ns/x/y", "a.b/news/ns/x", "/", "ns/", "%", "\xff"} {
		f.Add(uint8(i), []byte(tail))
	}
	skips := make([][]string, len(filters))
	for i, filter := range filters {
		skips[i] = filter.Skips("")
	}
	f.Fuzz(func(t *testing.T, which uint8, key []byte) {
		i := int(which) % len(filters)
		checkUsual(t, filters[i], string(key))
		checkUsual(t, filters[i], filters[i].prefixes[0]+string(key))
		for _, s := range skips[i] {
			checkDropped(t, filters[i], s, s+string(key))
		}
		if at := slices.IndexFunc(skips[i], func(s string) bool { return strings.HasPrefix(string(key), s) }); at >= 0 {
			checkDropped(t, filters[i], skips[i][at], string(key))
		}
	})
}
