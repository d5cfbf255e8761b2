package keyfilter

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// generator makes rules and keys of few words, so that they meet often.
type generator struct{ rnd *rand.Rand }

func newGenerator(seed uint64) *generator { return &generator{rand.New(rand.NewPCG(seed, 1))} }

func (g *generator) one(words ...string) string { return words[g.rnd.IntN(len(words))] }

func (g *generator) some(words ...string) []string {
	var out []string
	for range g.rnd.IntN(3) + 1 {
		if w := g.one(words...); !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

func (g *generator) rule(name string) Rule {
	r := Rule{Name: name, Action: Action(g.one("include", "exclude")), Reason: "generated"}
	if g.rnd.IntN(5) == 0 {
		r.Prefixes = g.some("/registry", "/registry/", "/registry/pods", "/registry/pods/", "/registry/pods/ns", "/registry/services/specs", "/registry/a.b", "/registry/a.b/pods/ns/x", "/registry/new")
		return r
	}
	if g.rnd.IntN(3) > 0 {
		r.Groups = g.some("core", "apps", "a.b", "c.d.e", "*", "*.b", "a*", "?.b", "rbac.authorization.k8s.io", "coordination.k8s.io")
		if g.rnd.IntN(2) == 0 {
			r.Resources = g.some("pods", "services", "deployments", "nodes", "roles", "leases", "news", "p*", "*s", "?ews", "*")
		}
	}
	if g.rnd.IntN(2) == 0 {
		r.Namespaces = g.some("ns", "default", "kube-system", "n?", "ns*", "*", "*s", "default-tenant")
	}
	if g.rnd.IntN(2) == 0 {
		r.Names = g.some("x", "ns", "default", "system:*", "s*:a", "*", "?", "kube*t", `\*`)
	}
	return r
}

// configuration makes one of some rules and any policies.
func (g *generator) configuration() (cfg Config) {
	policy := reflect.ValueOf(&cfg.Policy).Elem()
	for i := range policy.NumField() {
		policy.Field(i).SetString(g.one("", "include", "exclude"))
	}
	for i := range g.rnd.IntN(5) {
		cfg.Rules = append(cfg.Rules, g.rule("user-"+string(rune('a'+i))))
	}
	return cfg
}

func (g *generator) key() []byte {
	n := g.rnd.IntN(6)
	segs := []string{""}
	if g.rnd.IntN(20) > 0 {
		segs = append(segs, "registry")
	}
	if g.rnd.IntN(8) == 0 {
		segs = append(segs, g.one("a.b", "c.d.e", "x.y"))
	}
	segs = append(segs, g.one("pods", "services/specs", "services/endpoints", "deployments", "minions", "nodes", "roles", "leases", "new", "news", "a.b/pods", "a.b/news",
		"c.d.e/pods", "c.d.e/roles", "namespaces", "rbac.authorization.k8s.io/roles", "x.y/leases", "configmaps", "ranges", "clusterroles", "apiregistration.k8s.io/apiservices"))
	if n > 0 {
		segs = append(segs, g.one("ns", "default", "kube-system", "default-tenant", "nss", "*", "Ns", ""))
	}
	if n > 1 {
		segs = append(segs, g.one("x", "ns", "default", "system:a", "system:b:a", "kube-root-ca.crt", "*", "y", "kubernetes", "%"))
	}
	if n > 4 {
		segs = append(segs, "deep")
	}
	return []byte(strings.Join(segs, "/"))
}

// unvalidated builds a Filter without asking whether it makes sense, so that property tests need not avoid what New refuses.
func unvalidated(cfg Config) *Filter {
	f := &Filter{}
	f.prefixes, _ = validatePrefixes(cfg.Prefixes)
	for _, r := range fixedRules() {
		f.fixed = append(f.fixed, compileRule(r.normalized()))
	}
	for _, r := range slices.Concat(cfg.Rules, defaultRules(DefaultExcludedNamespaces(), &cfg.Policy)) {
		f.rules = append(f.rules, compileRule(r.normalized()))
	}
	f.compile()
	return f
}

// TestMatchAgainstReference compares Match and Explain with the plain walk over the rules, for random rules and keys.
func TestMatchAgainstReference(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := newGenerator(seed)
	byRule := map[string]int{}
	for range 1000 {
		f := unvalidated(g.configuration())
		for range 30 {
			key := string(g.key())
			byRule[f.Explain([]byte(key)).Rule]++
			checkAgainstReference(t, f, key)
		}
	}
	for _, rule := range []string{"user-a", "user-b", "user-c", "user-d", "default/user-state", "default/excluded-namespaces", "default/excluded-namespace-objects",
		"default/leases", "default/ca-bundles", "policy/pods", "policy/unknownResources", "policy/aggregatedSubtrees", "policy/unclassified", "fixed/ranges", "fixed/outside-prefix"} {
		if byRule[rule] == 0 {
			t.Errorf("no key was decided by %s: the generator proves little", rule)
		}
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	for name, f := range map[string]*Filter{
		"default": mustNew(t, Config{}),
		"large": mustNew(t, Config{Rules: userRules(100), Prefixes: []string{"/kubernetes.io", "/registry", "/openshift.io"},
			Policy: Policy{AggregatedAPIServices: Include, UnknownResources: Include, AggregatedSubtrees: Include}}),
	} {
		keys := clusterKeys(t)
		for _, key := range benchKeys {
			keys = append(keys, key)
		}
		for _, tc := range malformedKeys {
			keys = append(keys, tc.key)
		}
		for _, key := range keys {
			raw := []byte(key)
			if n := testing.AllocsPerRun(10, func() { f.Match(raw) }); n != 0 {
				t.Errorf("%s filter, %q: %v allocations", name, key, n)
			}
		}
	}
}

// TestConcurrentUse gives the race detector something to look at.
func TestConcurrentUse(t *testing.T) {
	f := mustNew(t, exampleConfig)
	keys := clusterKeys(t)
	want := make([]bool, len(keys))
	for i, key := range keys {
		want[i] = f.Match([]byte(key))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, key := range keys {
				if f.Match([]byte(key)) != want[i] || f.Explain([]byte(key)).Include != want[i] || len(f.Rules()) == 0 {
					t.Errorf("%s: another decision", key)
				}
			}
		})
	}
	wg.Wait()
}

// TestNewCopies: changing the Config, the key or a result afterwards changes nothing.
func TestNewCopies(t *testing.T) {
	cfg := Config{ExcludedNamespaces: []string{"a"}, Rules: []Rule{rule("r", Rule{Action: Exclude, Namespaces: []string{"b"}})}}
	f := mustNew(t, cfg)
	hash := f.Hash()
	cfg.ExcludedNamespaces[0], cfg.Rules[0].Namespaces[0] = "x", "y"
	for _, r := range f.Rules() {
		for _, list := range [][]string{r.Groups, r.Resources, r.Namespaces, r.Names, r.Prefixes} {
			clear(list)
		}
	}
	f.Prefixes()[0] = "/"
	Defaults()[5].Namespaces[0] = "z"
	DefaultExcludedNamespaces()[0] = "z"
	for key, want := range map[string]bool{"/registry/secrets/a/s": false, "/registry/secrets/b/s": false, "/registry/secrets/x/s": true, "/registry/secrets/y/s": true} {
		if f.Match([]byte(key)) != want {
			t.Errorf("%s: %+v, want %v", key, f.Explain([]byte(key)), want)
		}
	}
	if f.computeHash() != hash {
		t.Error("the hash changed")
	}
	key := []byte("/registry/secrets/b/s")
	e := f.Explain(key)
	clear(key)
	if e.Key.Path() != "/registry/secrets/b/s" {
		t.Errorf("an explanation changed with the key: %+v", e)
	}
}

func TestExcludedNamespaces(t *testing.T) {
	f := mustNew(t, Config{ExcludedNamespaces: []string{"platform-*", "tmp"}})
	for key, want := range map[string]bool{
		"/registry/secrets/platform-a/s": false, "/registry/namespaces/platform-a": false, "/registry/a.b/things/platform-a/t": false,
		"/registry/secrets/platform/s": true, "/registry/namespaces/platform": true, "/registry/a.b/things/platform-a": true,
		"/registry/secrets/tmp/s": false, "/registry/namespaces/tmp": false, "/registry/namespaces/tmp2": true,
		// The list replaces the default one; Kubernetes' own Namespace objects stay where they are all the same.
		"/registry/secrets/kube-system/s": true, "/registry/secrets/default/s": true,
		"/registry/namespaces/kube-system": false, "/registry/namespaces/default": false, "/registry/namespaces/operators": true,
		// And so does what the apiserver keeps in them about itself.
		"/registry/configmaps/kube-system/extension-apiserver-authentication":   false,
		"/registry/roles/kube-system/extension-apiserver-authentication-reader": false,
		"/registry/rolebindings/kube-public/system:controller:bootstrap-signer": false,
		"/registry/configmaps/kube-public/cluster-info":                         false,
		"/registry/leases/kube-system/kube-controller-manager":                  false,
		"/registry/services/specs/default/kubernetes":                           false,
		"/registry/rolebindings/kube-system/mine":                               true,
	} {
		if f.Match([]byte(key)) != want {
			t.Errorf("%s: %+v, want %v", key, f.Explain([]byte(key)), want)
		}
	}
}

// TestSeedNamespaces: the fourteen, each with an object in it and its Namespace.
func TestSeedNamespaces(t *testing.T) {
	want := strings.Fields("cpaas-system cert-manager default global-credentials cpaas-system-global-credentials kube-ovn kube-public kube-system " +
		"nsx-system cpaas-solution kube-node-lease kubevirt nativestor-system operators")
	if got := DefaultExcludedNamespaces(); !slices.Equal(got, want) || len(got) != 14 {
		t.Fatalf("%v, want %v", got, want)
	}
	f := mustNew(t, Config{})
	for _, ns := range want {
		for _, key := range []string{"/registry/secrets/" + ns + "/s", "/registry/stable.example.com/gadgets/" + ns + "/g", "/registry/namespaces/" + ns} {
			if f.Match([]byte(key)) || f.Match([]byte(strings.Replace(key, ns, "team-a", 1))) == false {
				t.Errorf("%s: %+v", key, f.Explain([]byte(key)))
			}
		}
	}
}

// TestInternalCannotBeIncluded: no rule reaches what would make one apiserver act on another one's bookkeeping.
func TestInternalCannotBeIncluded(t *testing.T) {
	f := mustNew(t, Config{
		Policy: Policy{Unclassified: Include, UnknownResources: Include},
		Rules:  []Rule{rule("all", Rule{Prefixes: []string{"/registry/"}})},
	})
	for _, key := range []string{"/registry/masterleases/192.0.2.1", "/registry/masterleases/a/b", "/registry/peerserverleases/x", "/registry/ranges/serviceips", "compact_rev_key", "/other/x"} {
		if e := f.Explain([]byte(key)); e.Include || e.Attention || !strings.HasPrefix(e.Rule, "fixed/") {
			t.Errorf("%s: %+v", key, e)
		}
	}
	if !f.Match([]byte("/registry/pods/odd")) || !f.Match([]byte("/registry/events/default/e")) {
		t.Error("the rule for everything does not match everything else")
	}
}

func TestUnclassifiedPolicies(t *testing.T) {
	odd, unknown, inside := "/registry/pods/p1", "/registry/newthings/team-a/n", "/registry/newthings/kube-system/n"
	f := mustNew(t, Config{})
	for key, policy := range map[string]string{odd: "policy/unclassified", unknown: "policy/unknownResources"} {
		if e := f.Explain([]byte(key)); e.Include || !e.Attention || e.Rule != policy {
			t.Errorf("%s: %+v, want %s, for attention", key, e, policy)
		}
	}
	if e := f.Explain([]byte(inside)); e.Include || e.Attention || e.Rule != "default/excluded-namespaces" {
		t.Errorf("%s: %+v", inside, e)
	}
	f = mustNew(t, Config{Policy: Policy{Unclassified: Include, UnknownResources: Include}})
	for key, want := range map[string]bool{odd: true, unknown: true, inside: false} {
		if e := f.Explain([]byte(key)); e.Include != want || e.Attention {
			t.Errorf("%s: %+v, want %v and no attention", key, e, want)
		}
	}
	// A rule reaches an unknown resource by its plural in any group, and an unclassified key by its prefix.
	f = mustNew(t, Config{Rules: []Rule{rule("new", Rule{Groups: []string{"*"}, Resources: []string{"newthings"}}), rule("odd", Rule{Prefixes: []string{odd}})}})
	for key, want := range map[string]string{unknown: "new", odd: "odd", odd + "1": "policy/unclassified"} {
		if e := f.Explain([]byte(key)); e.Rule != want {
			t.Errorf("%s: %+v, want rule %s", key, e, want)
		}
	}
}

// TestNestedPrefix: the subtree of an aggregated apiserver, given as a prefix of its own, is read by the grammar.
func TestNestedPrefix(t *testing.T) {
	f := mustNew(t, Config{Prefixes: []string{"/registry", "/registry/wardle.example.com"}})
	e := f.Explain([]byte("/registry/wardle.example.com/wardle.example.com/flunders/team-a/f"))
	want := Key{Prefix: "/registry/wardle.example.com/", ResourcePrefix: "wardle.example.com/flunders", Group: "wardle.example.com", GroupKnown: true,
		Resource: "flunders", Namespace: "team-a", Name: "f", Scope: Namespaced}
	if e.Key != want || !e.Include {
		t.Errorf("%+v", e)
	}
	if !slices.Equal(f.Prefixes(), []string{"/registry/wardle.example.com/", "/registry/"}) {
		t.Errorf("prefixes %v, want the longest first", f.Prefixes())
	}
	if !f.Match([]byte("/registry/secrets/team-a/s")) || f.Match([]byte("/registry/wardle.example.com/wardle.example.com/flunders/default/f")) {
		t.Error("the outer prefix or the excluded namespaces do not work")
	}
}

// TestEveryPolicyField: each field of Policy has its row, its name in YAML, and an effect.
func TestEveryPolicyField(t *testing.T) {
	typ := reflect.TypeFor[Policy]()
	if typ.NumField() != len(policyFields) {
		t.Fatalf("%d fields, %d rows", typ.NumField(), len(policyFields))
	}
	for i := range typ.NumField() {
		var p Policy
		reflect.ValueOf(&p).Elem().Field(i).SetString(string(Include))
		row := &policyFields[i]
		if tag, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); tag != row.name || row.get(&p) != Include {
			t.Errorf("field %s: its row is %s", typ.Field(i).Name, row.name)
		}
		if r := row.rule(&p); r.Action != Include || r.Reason != row.include || r.Name != "policy/"+row.name {
			t.Errorf("%s: %+v", row.name, r)
		}
		if r := row.rule(&Policy{}); r.Action != row.fallback || r.Reason == "" {
			t.Errorf("%s: %+v", row.name, r)
		}
	}
}

// TestDefaultsAreTheRules: Defaults is what a Filter of the zero Config walks, and each rule has a name and a reason.
func TestDefaultsAreTheRules(t *testing.T) {
	f := mustNew(t, Config{})
	got, want := f.Rules(), Defaults()
	if len(got) != len(want) {
		t.Fatalf("%d rules, want %d", len(got), len(want))
	}
	seen := map[string]bool{}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i].normalized()) {
			t.Errorf("rule %d: %+v, want %+v", i, got[i], want[i])
		}
		if r := got[i]; r.Reason == "" || seen[r.Name] || !strings.Contains(r.Name, "/") || r.Action != Include && r.Action != Exclude {
			t.Errorf("rule %d: %+v", i, r)
		}
		seen[got[i].Name] = true
	}
}
