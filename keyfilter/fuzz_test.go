package keyfilter

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var fuzzPrefixes = []string{"/registry", "/kubernetes.io", "/openshift.io", "/", "a/b/"}

// checkParse states the invariants of Parse for any key.
func checkParse(t testing.TB, prefix string, key []byte) {
	t.Helper()
	k, err := Parse(prefix, key)
	if err != nil {
		t.Fatalf("prefix %q: %v", prefix, err)
	}
	if diff := cmp.Diff(refParse(prefix, string(key)), k, cmpopts.IgnoreFields(Key{}, "Reason")); diff != "" {
		t.Fatalf("prefix %q key %q (-want +got):\n%s", prefix, key, diff)
	}
	switch k.Scope {
	case Unclassified, Outside:
		if k.Reason == "" || k.Path() != "" {
			t.Fatalf("prefix %q key %q: %s without a reason, or with a path: %+v", prefix, key, k.Scope, k)
		}
	default:
		if k.Reason != "" || k.Path() != string(key) {
			t.Fatalf("prefix %q key %q: puts together to %q, reason %q", prefix, key, k.Path(), k.Reason)
		}
	}
}

func FuzzParse(f *testing.F) {
	for i, key := range malformedKeys {
		f.Add(uint8(i), []byte(key.key))
	}
	for i, key := range clusterKeys(f) {
		if i%8 == 0 {
			f.Add(uint8(0), []byte(key))
		}
	}
	for _, key := range []string{"/openshift.io/oauth/clients/c", "/openshift.io/useridentities/ldap:u", "/openshift.io/authorization/local/roles/ns/r", "/a/b/pods/x/y"} {
		for i := range fuzzPrefixes {
			f.Add(uint8(i), []byte(key))
		}
	}
	filters := make([]*Filter, len(fuzzPrefixes))
	for i, p := range fuzzPrefixes {
		filters[i] = mustNew(f, Config{
			Prefixes: []string{p},
			Policy:   Policy{UnknownResources: Include, AggregatedSubtrees: Include},
			Rules: []Rule{
				{Name: "a", Action: Exclude, Reason: "r", Groups: []string{"*.example.com"}, Resources: []string{"w*s"}, Names: []string{"d?fault", "*:*"}},
				{Name: "b", Action: Include, Reason: "r", Groups: []string{"*"}, Namespaces: []string{"team-*"}, Resources: []string{"pods", "jobs"}},
			},
		})
	}
	f.Fuzz(func(t *testing.T, which uint8, key []byte) {
		i := int(which) % len(fuzzPrefixes)
		checkParse(t, fuzzPrefixes[i], key)
		// Once more below the prefix, which random keys seldom hit.
		under := append([]byte(filters[i].Prefixes()[0]), key...)
		checkParse(t, fuzzPrefixes[i], under)
		checkAgainstReference(t, filters[i], string(key))
		checkAgainstReference(t, filters[i], string(under))
	})
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(exampleYAML))
	f.Add([]byte("{}"))
	f.Add([]byte("excludedNamespaces: []\n"))
	f.Add([]byte("--- # one\nprefixes: [/a]\n..."))
	for _, tc := range badYAML {
		if len(tc.text) < 1000 { // a seed of a megabyte is all that the fuzzer would then work on
			f.Add([]byte(tc.text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Load(bytes.NewReader(text))
		if err != nil {
			return
		}
		hash := mustNew(t, cfg).Hash()
		again, err := cfg.YAML()
		if err != nil {
			t.Fatal(err)
		}
		cfg2, err := Load(bytes.NewReader(again))
		if err != nil {
			t.Fatalf("what was loaded from\n%q\nand written as\n%q\ndoes not load: %v", text, again, err)
		}
		if got := mustNew(t, cfg2).Hash(); got != hash {
			t.Fatalf("hash %s, after a round trip %s:\n%q\n%q", hash, got, text, again)
		}
	})
}

func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"*", ""}, {"a*b?c", "axxbyc"}, {"*??", "€"}, {`\*\?\\`, `*?\`}, {"**a**", "bab"}, {"system:*", "system::x"}, {"*a*b", "aab"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, glob, s string) {
		checkGlob(t, glob, s)
	})
}
