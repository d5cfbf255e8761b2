package keyfilter

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// rule makes a rule that is valid as soon as it selects something.
func rule(name string, selectors Rule) Rule {
	selectors.Name, selectors.Reason = name, "because"
	if selectors.Action == "" {
		selectors.Action = Include
	}
	return selectors
}

func TestNewRefuses(t *testing.T) {
	core, leases := []string{"core"}, Rule{Groups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}}
	named := func(names ...string) Rule { return Rule{Names: names} }
	in := func(ns ...string) Rule { return Rule{Namespaces: ns} }
	below := func(prefixes ...string) Rule { return Rule{Prefixes: prefixes} }
	for _, tc := range []struct {
		name string
		cfg  Config
		want []string // in the error
	}{
		{"empty prefix", Config{Prefixes: []string{""}}, []string{"prefixes[0]", "is empty"}},
		{"prefix twice", Config{Prefixes: []string{"/a", "a/"}}, []string{"prefixes[1]", `"a/"`, "twice"}},
		{"prefix with NUL", Config{Prefixes: []string{"/a", "/b\x00"}}, []string{"prefixes[1]", "control character"}},
		{"excluded namespace", Config{ExcludedNamespaces: []string{"a", "Team_A"}}, []string{"excludedNamespaces[1]", `"Team_A"`, "not a namespace's name"}},
		{"excluded namespace with a slash", Config{ExcludedNamespaces: []string{"a*/b"}}, []string{"excludedNamespaces[0]"}},
		{"excluded namespace twice", Config{ExcludedNamespaces: []string{"a", `\a`}}, []string{"excludedNamespaces[1]", "twice"}},
		{"excluded namespace empty", Config{ExcludedNamespaces: []string{""}}, []string{"excludedNamespaces[0]", "is empty"}},
		{"policy value", Config{Policy: Policy{Jobs: "Include", FlowSchemas: "no"}}, []string{"policy.jobs", `"Include"`, "policy.flowSchemas", "leave it out for include"}},
		{"volumes without claims", Config{Policy: Policy{PersistentVolumes: Include}}, []string{"policy.persistentVolumes", "policy.persistentVolumeClaims"}},
		{"claims without volumes", Config{Policy: Policy{PersistentVolumeClaims: Include, PersistentVolumes: Exclude}}, []string{"policy.persistentVolumes"}},

		{"no name", Config{Rules: []Rule{rule("", in("a"))}}, []string{"rules[0].name", "is missing"}},
		{"name of a default rule", Config{Rules: []Rule{rule("default/events", in("a"))}}, []string{"rules[0].name", "is not a rule name"}},
		{"long name", Config{Rules: []Rule{rule(strings.Repeat("x", 64), in("a"))}}, []string{"is not a rule name"}},
		{"name twice", Config{Rules: []Rule{rule("a", in("a")), rule("a", in("b"))}}, []string{`rules[1].name (rule "a")`, "rules[0]"}},
		{"no action", Config{Rules: []Rule{{Name: "a", Reason: "r", Namespaces: []string{"x"}}}}, []string{"rules[0].action", "is missing"}},
		{"unknown action", Config{Rules: []Rule{{Name: "a", Reason: "r", Action: "skip", Namespaces: []string{"x"}}}}, []string{`"skip"`, "is not an action"}},
		{"no reason", Config{Rules: []Rule{{Name: "a", Action: Include, Reason: " ", Namespaces: []string{"x"}}}}, []string{"rules[0].reason"}},
		{"no selector", Config{Rules: []Rule{rule("a", Rule{})}}, []string{`rules[0] (rule "a")`, "selects nothing"}},
		{"prefix and name", Config{Rules: []Rule{rule("a", Rule{Names: []string{"x"}, Prefixes: []string{"/registry/x"}})}}, []string{"prefixes", "cannot be combined"}},
		{"resource without group", Config{Rules: []Rule{rule("a", Rule{Resources: []string{"deployments"}})}}, []string{"rules[0].resources", "add groups: [apps]"}},
		{"segment without group", Config{Rules: []Rule{rule("a", Rule{Resources: []string{"minions"}})}}, []string{"add groups: [core], where it is called nodes"}},
		{"unknown resource without group", Config{Rules: []Rule{rule("a", Rule{Resources: []string{"widgets"}})}}, []string{`groups: ["*"]`}},

		{"bad glob", Config{Rules: []Rule{rule("a", named(`x\`))}}, []string{"rules[0].names[0]", "ends in a backslash"}},
		{"empty selector", Config{Rules: []Rule{rule("a", named("a", ""))}}, []string{"rules[0].names[1]", "is empty"}},
		{"control character", Config{Rules: []Rule{rule("a", named("a\x00"))}}, []string{"control character"}},
		{"not UTF-8", Config{Rules: []Rule{rule("a", named("\xff"))}}, []string{"not UTF-8"}},
		{"selector twice", Config{Rules: []Rule{rule("a", named("x**", "x*"))}}, []string{"rules[0].names[1]", "twice"}},
		{"name with a slash", Config{Rules: []Rule{rule("a", named("*/x"))}}, []string{"can never match: no object"}},
		{"name with a percent", Config{Rules: []Rule{rule("a", named("a%"))}}, []string{"can never match: no object"}},
		{"name dot dot", Config{Rules: []Rule{rule("a", named(".."))}}, []string{"can never match: no object"}},
		{"group of no storage", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"extensions"}})}}, []string{`"extensions" can never match`, `"core"`}},
		{"group in capitals", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"*.Example.com"}})}}, []string{"is not an API group"}},
		{"group with empty label", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"a..b"}})}}, []string{"is not an API group"}},
		{"resource in capitals", Config{Rules: []Rule{rule("a", Rule{Groups: core, Resources: []string{"Pods"}})}}, []string{"not the plural"}},
		{"resource with group", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"apps"}, Resources: []string{"deployments.apps"}})}}, []string{"not the plural"}},
		{"resource of another group", Config{Rules: []Rule{rule("a", Rule{Groups: core, Resources: []string{"pods", "deployments"}})}},
			[]string{`rules[0].resources[1] (rule "a"): "deployments" can never match`, "it is in groups: [apps]"}},
		{"group without a resource", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"core", "batch"}, Resources: []string{"pods"}})}},
			[]string{`rules[0].groups[1] (rule "a"): "batch" can never match`}},
		{"namespaces of a cluster-scoped resource", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"roles", "clusterroles"}, Namespaces: []string{"x"}})}},
			[]string{`rules[0].resources[1]`, "cluster-scoped", "select by names"}},
		{"namespaces of namespaces", Config{Rules: []Rule{rule("a", Rule{Groups: core, Resources: []string{"namespaces"}, Namespaces: []string{"x"}})}}, []string{"cluster-scoped"}},
		{"namespaces of CRDs", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Namespaces: []string{"*"}})}}, []string{"cluster-scoped"}},

		{"prefix outside", Config{Rules: []Rule{rule("a", below("/registry2/x"))}}, []string{"rules[0].prefixes[0]", "not under an etcd prefix of the filter (/registry/)"}},
		{"prefix of another apiserver", Config{Prefixes: []string{"kubernetes.io"}, Rules: []Rule{rule("a", below("/registry/"))}}, []string{"not under an etcd prefix"}},
		{"compact_rev_key", Config{Rules: []Rule{rule("a", below("compact_rev_key"))}}, []string{"not under an etcd prefix"}},
		{"internal prefix", Config{Rules: []Rule{rule("a", below("/registry/pods", "/registry/masterleases/"))}}, []string{"prefixes[1]", "internal"}},
		{"internal key", Config{Rules: []Rule{rule("a", below("/registry/ranges/serviceips"))}}, []string{"internal"}},
		{"prefix twice in a rule", Config{Rules: []Rule{rule("a", below("/registry/x", "/registry/x"))}}, []string{"prefixes[1]", "twice"}},
		{"empty prefix in a rule", Config{Rules: []Rule{rule("a", below(""))}}, []string{"prefixes[0]", "is empty"}},

		{"same selectors", Config{Rules: []Rule{rule("a", in("x", "y")), rule("b", in("y", "x"))}}, []string{"rules[1]", `repeats rule "a"`}},
		{"include and exclude both", Config{Rules: []Rule{rule("a", leases), rule("b", Rule{Action: Exclude, Groups: leases.Groups, Resources: leases.Resources})}},
			[]string{"rules[1]", `selects the same as rule "a", which says include while this one says exclude`}},
		{"covered by a glob", Config{Rules: []Rule{rule("a", in("team-*")), rule("b", Rule{Namespaces: []string{"team-a"}, Names: []string{"x"}})}}, []string{"rules[1]", `rule "a" before it`}},
		{"covered by a list", Config{Rules: []Rule{rule("a", in("x", "y")), rule("b", in("x"))}}, []string{"rules[1]", "can never match"}},
		{"covered by everything", Config{Rules: []Rule{rule("a", Rule{Groups: []string{"*"}}), rule("b", leases)}}, []string{"can never match"}},
		{"covered by a prefix", Config{Rules: []Rule{rule("a", below("/registry/x")), rule("b", below("/registry/x/y/"))}}, []string{"can never match"}},
		{"covered by the whole prefix", Config{Rules: []Rule{rule("a", below("/registry/")), rule("b", leases)}}, []string{"can never match"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := New(tc.cfg)
			if err == nil || f != nil {
				t.Fatalf("accepted: %v", f)
			}
			var ce *ConfigError
			if !errors.Is(err, ErrConfig) || !errors.As(err, &ce) || ce.Hint == "" {
				t.Errorf("%v, want a ConfigError with a hint", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

// TestNewAccepts are configurations near to those above that are right.
func TestNewAccepts(t *testing.T) {
	for name, cfg := range map[string]Config{
		"root prefix":                   {Prefixes: []string{"/"}},
		"prefix inside of another":      {Prefixes: []string{"/registry", "/registry/wardle.example.com"}},
		"no excluded namespace":         {ExcludedNamespaces: []string{}},
		"volumes and claims":            {Policy: Policy{PersistentVolumes: Include, PersistentVolumeClaims: Include}},
		"custom resource called nodes":  {Rules: []Rule{rule("a", Rule{Groups: []string{"metrics.example.com"}, Resources: []string{"nodes"}, Namespaces: []string{"x"}})}},
		"any group's nodes":             {Rules: []Rule{rule("a", Rule{Groups: []string{"*"}, Resources: []string{"nodes"}, Namespaces: []string{"x"}})}},
		"groups and their resources":    {Rules: []Rule{rule("a", Rule{Groups: []string{"core", "apps"}, Resources: []string{"pods", "deployments"}, Namespaces: []string{"x"}})}},
		"custom resource of k8s group":  {Rules: []Rule{rule("a", Rule{Groups: []string{"storage.k8s.io"}, Resources: []string{"volumesnapshots"}})}},
		"name that looks like a glob":   {Rules: []Rule{rule("a", Rule{Names: []string{`\*`, "*x", `a\?`}})}},
		"narrow before wide":            {Rules: []Rule{rule("a", Rule{Namespaces: []string{"team-a"}}), rule("b", Rule{Namespaces: []string{"team-*"}})}},
		"overlapping":                   {Rules: []Rule{rule("a", Rule{Namespaces: []string{"x", "y"}}), rule("b", Rule{Namespaces: []string{"y", "z"}})}},
		"all namespaced, then all":      {Rules: []Rule{rule("a", Rule{Namespaces: []string{"*"}}), rule("b", Rule{Groups: []string{"*"}})}},
		"all objects, then a prefix":    {Rules: []Rule{rule("a", Rule{Groups: []string{"*"}}), rule("b", Rule{Prefixes: []string{"/registry/x/y/z/"}})}},
		"prefix without its slash":      {Rules: []Rule{rule("a", Rule{Prefixes: []string{"/registry"}})}},
		"prefix below, then at the key": {Rules: []Rule{rule("a", Rule{Prefixes: []string{"/registry/x/"}}), rule("b", Rule{Prefixes: []string{"/registry/x"}})}},
	} {
		if _, err := New(cfg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNewReportsEverything: all that is wrong comes back at once.
func TestNewReportsEverything(t *testing.T) {
	_, err := New(Config{Rules: []Rule{rule("a", Rule{}), {Name: "b"}, rule("c", Rule{Namespaces: []string{"X", "Y"}})}})
	for _, want := range []string{"rules[0]", "rules[1].action", "rules[1].reason", "rules[2].namespaces[0]", "rules[2].namespaces[1]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %s", err, want)
		}
	}
}

// TestUnreachableIsSound: a rule is refused as unreachable only if indeed no key reaches it. The refused pair is put
// together without validation, and many keys are tried.
func TestUnreachableIsSound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := newGenerator(seed)
	etcd := []string{"/registry/"}
	refused := 0
	for range 20_000 {
		a, b := g.rule("a").normalized(), g.rule("b").normalized()
		if len(validateRules([]Rule{a}, etcd)) > 0 || len(validateRules([]Rule{b}, etcd)) > 0 || !a.covers(&b, etcd) {
			continue
		}
		refused++
		f := unvalidated(Config{Rules: []Rule{a, b}})
		for range 50 {
			if key := g.key(); f.Explain(key).Rule == "b" {
				t.Fatalf("%+v is said to cover %+v, which key %q reaches", a, b, key)
			}
		}
	}
	if refused < 500 {
		t.Fatalf("only %d pairs were refused: the generator proves little", refused)
	}
}
