package keyfilter

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// defaultSkips is what the default filter never keeps anything of, to be read line by line: a wrong one loses data.
const defaultSkips = `leases events masterleases minions pods endpointslices services/endpoints jobs
	apiregistration.k8s.io/apiservices certificatesigningrequests clustercidrs cronjobs csidrivers csinodes csistoragecapacities devicetaintrules
	ipaddresses leasecandidates mutatingwebhookconfigurations peerserverleases persistentvolumeclaims persistentvolumes podcertificaterequests
	podschedulingcontexts ranges resourceclaims resourceclasses resourcepoolstatusrequests resourceslices storageclasses storageversionmigrations
	storageversions validatingwebhookconfigurations volumeattachments volumeattributesclasses`

func TestSkipsOfDefaultFilter(t *testing.T) {
	f := mustNew(t, Config{})
	var want []string
	for _, path := range strings.Fields(defaultSkips) {
		want = append(want, "/registry/"+path+"/")
	}
	got := f.Skips("/registry/")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Nothing that could be in the list is missing: of all other resources this filter keeps something.
	for path := range kubernetesSegments {
		if p := "/registry/" + path + "/"; !slices.Contains(got, p) && !f.Match([]byte(p+"team-a/witness")) && !f.Match([]byte(p+"witness")) {
			t.Errorf("%s is not in the list, and neither witness is kept", p)
		}
	}
	// Most of what a cluster writes, and of what it holds, lies below them.
	for _, c := range []struct {
		begin string
		want  int
	}{{"", len(want)}, {"/registry/e", 2}, {"/registry/events/", 1}, {"/registry/events/team-a/", 0}, {"/registry", len(want)}, {"/other/", 0}} {
		if got := f.Skips(c.begin); len(got) != c.want {
			t.Errorf("below %q: %d prefixes, want %d: %v", c.begin, len(got), c.want, got)
		}
	}
}

// TestSkipsGiveWay: what a single key may be kept of is not in the list, whoever keeps it, and the rest stays.
func TestSkipsGiveWay(t *testing.T) {
	include := func(r Rule) Config { return Config{Rules: []Rule{rule("i", r)}} }
	exclude := func(r Rule) Config {
		r = rule("e", r)
		r.Action = Exclude
		return Config{Rules: []Rule{r}}
	}
	then := func(a, b Config) Config { b.Rules = append(slices.Clone(a.Rules), b.Rules...); return b }
	leases := Rule{Groups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}}
	named := func(r Rule, names ...string) Rule { r.Names = names; return r }
	in := func(r Rule, namespaces ...string) Rule { r.Namespaces = namespaces; return r }
	// Of all policies these include groups by default.
	noGroups := Policy{FlowSchemas: Exclude, PriorityLevelConfigurations: Exclude, ClusterTrustBundles: Exclude, ServiceCIDRs: Exclude, PodSecurityPolicies: Exclude}
	for name, c := range map[string]struct {
		cfg        Config
		with, lack string // by their path below /registry/, the etcd prefix
		all        bool   // with is the whole list
	}{
		"a resource":              {include(leases), "events leasecandidates", "leases", false},
		"one name":                {include(named(leases, "ledger")), "events", "leases", false},
		"names by glob":           {include(named(leases, "l?dger-*")), "events", "leases", false},
		"one namespace":           {include(in(leases, "team-a")), "events", "leases", false},
		"namespaces by glob":      {include(in(leases, "team-*")), "events", "leases", false},
		"a namespace of anything": {include(Rule{Namespaces: []string{"team-a"}}), "minions masterleases ranges csinodes", "leases events pods services/endpoints", false},
		"a name of anything":      {include(Rule{Names: []string{"ledger"}}), "masterleases peerserverleases ranges", "leases events minions", true},
		"a group by glob":         {include(Rule{Groups: []string{"coord*"}}), "events", "leases leasecandidates", false},
		"a resource by glob":      {include(Rule{Groups: []string{"*"}, Resources: []string{"*ases"}}), "events leasecandidates", "leases", false},
		"a raw prefix":            {include(Rule{Prefixes: []string{"/registry/leases/team-a"}}), "events leasecandidates", "leases", false},
		"a raw prefix of a name":  {include(Rule{Prefixes: []string{"/registry/events/a/b/c/"}}), "leases", "events", false},
		"a raw prefix above":      {include(Rule{Prefixes: []string{"/registry"}}), "", "leases events masterleases ranges", true},
		"a policy":                {Config{Policy: Policy{Pods: Include}}, "leases events", "pods", false},
		"unclassified keys":       {Config{Policy: Policy{Unclassified: Include}}, "", "leases events masterleases ranges", true},
		"unknown resources":       {Config{Policy: Policy{UnknownResources: Include}}, defaultSkips, "", true},
		"aggregated subtrees":     {Config{Policy: Policy{AggregatedSubtrees: Include}}, defaultSkips, "", true},
		"excluded before":         {then(exclude(leases), include(Rule{Names: []string{"ledger"}})), "leases masterleases", "leasecandidates events", false},
		"excluded in part":        {then(exclude(in(leases, "*-a")), include(Rule{Names: []string{"ledger"}})), "masterleases", "leases events", false},
		"excluded in namespaces":  {then(exclude(in(leases, "*")), include(Rule{Names: []string{"ledger"}})), "masterleases leases", "events", false},
		"a resource excluded":     {exclude(Rule{Groups: []string{"core"}, Resources: []string{"secrets"}}), "secrets leases", "configmaps", false},
		"a group excluded":        {exclude(Rule{Groups: []string{"apps"}}), "deployments daemonsets controllerrevisions leases", "configmaps", false},
		// A subtree a.b may hold any group, such as the ones that policies include.
		"a custom group":            {exclude(Rule{Groups: []string{"a.b"}}), "leases", "a.b", false},
		"a group and no subtrees":   {withPolicy(exclude(Rule{Groups: []string{"a.b"}}), noGroups), "a.b leases", "", false},
		"a part and no subtrees":    {withPolicy(exclude(Rule{Groups: []string{"a.b"}, Names: []string{"x"}}), noGroups), "leases", "a.b", false},
		"a group by its raw prefix": {exclude(Rule{Prefixes: []string{"/registry/a.b"}}), "a.b leases", "", false},
		"a custom resource":         {exclude(Rule{Groups: []string{"a.b"}, Resources: []string{"things"}}), "a.b/things", "a.b a.b/thing", false},
		"a custom group in part":    {exclude(Rule{Groups: []string{"a.b"}, Names: []string{"x"}}), "leases", "a.b", false},
		"a group as a subtree":      {withPolicy(exclude(Rule{Groups: []string{"a.b"}}), Policy{AggregatedSubtrees: Include}), "leases", "a.b", false},
		"a custom group kept":       {then(include(Rule{Groups: []string{"a.b"}, Names: []string{"x"}}), exclude(Rule{Groups: []string{"a.b"}})), "leases", "a.b", false},
		"another group kept below":  {then(include(Rule{Groups: []string{"c.d"}}), exclude(Rule{Groups: []string{"a.b"}})), "leases", "a.b", false},
		"a group in namespaces":     {withPolicy(exclude(in(Rule{Groups: []string{"a.b"}}, "*")), noGroups), "leases", "a.b", false},
		"raw, a custom one kept":    {then(include(Rule{Groups: []string{"a.b"}, Names: []string{"x"}}), exclude(Rule{Prefixes: []string{"/registry/a.b/things"}})), "leases", "a.b/things", false},
		"raw, a subtree's one kept": {then(include(Rule{Groups: []string{"c.d"}, Names: []string{"x"}}), exclude(Rule{Prefixes: []string{"/registry/a.b/c.d"}})), "leases", "a.b/c.d", false},
		"raw, an unknown one kept":  {then(include(Rule{Groups: []string{"*"}, Resources: []string{"new"}}), exclude(Rule{Prefixes: []string{"/registry/new", "/registry/newer"}})), "newer", "new", false},
		"all raw, a group kept":     {then(include(Rule{Groups: []string{"a.b"}}), exclude(Rule{Prefixes: []string{"/registry"}})), "leases secrets", ". a.b", false},
		"raw, half a segment":       {exclude(Rule{Prefixes: []string{"/registry/secre"}}), "secre leases", "secrets", false},
		"a raw prefix excluded":     {exclude(Rule{Prefixes: []string{"/registry/foo", "/registry/configmaps/team-a/", "/registry/leases/x"}}), "foo configmaps/team-a leases", "configmaps leases/x", false},
		"raw before unclassified":   {withPolicy(exclude(Rule{Prefixes: []string{"/registry/events"}}), Policy{Unclassified: Include}), "events", "leases", true},
		"everything":                {exclude(Rule{Prefixes: []string{"/registry"}}), ".", "leases", true},
		"all of services":           {exclude(Rule{Groups: []string{"core"}}), "services secrets", "services/endpoints services/specs", false},
		"a prefix within":           {Config{Prefixes: []string{"/registry", "/registry/events", "/registry/pods/x"}}, "leases events/leases", "events pods events/events/x", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustNew(t, c.cfg).Skips("/registry/")
			for i := range got {
				if got[i] = strings.TrimSuffix(strings.TrimPrefix(got[i], "/registry/"), "/"); got[i] == "" {
					got[i] = "."
				}
			}
			for _, p := range strings.Fields(c.with) {
				if !slices.Contains(got, p) {
					t.Errorf("%s is not in %v", p, got)
				}
			}
			for _, p := range strings.Fields(c.lack) {
				if slices.Contains(got, p) {
					t.Errorf("%s is in %v", p, got)
				}
			}
			if n := len(strings.Fields(c.with)); c.all && len(got) != n {
				t.Errorf("%d prefixes, want %d: %v", len(got), n, got)
			}
		})
	}
}

func withPolicy(cfg Config, p Policy) Config { cfg.Policy = p; return cfg }

// etcdPrefixes are random prefixes of which one may lie in another, or look like a resource.
func (g *generator) etcdPrefixes() []string {
	if g.rnd.IntN(2) == 0 {
		return nil
	}
	return append(g.some("/registry", "/registry/a.b", "/registry/pods", "/registry/leases/ns", "/openshift.io", "/", "/registry/services"), "/registry/c.d.e")
}

// tail is something hostile to follow a prefix.
func (g *generator) tail() string {
	var segments []string
	for range g.rnd.IntN(6) {
		segments = append(segments, g.one("ns", "x", "default", "kube-system", "default-tenant", "s:a", "system:a", "pods", "leases", "news", "specs", "endpoints", "apiservices", "clients",
			"a.b", "c.d.e", "x.y", "a", "s", "", ".", "..", "%", "\x00", "\xff", "größe", "Ns", "-", "kubernetes", "v1.a.b", strings.Repeat("a", 64), "compact_rev_key"))
	}
	tail := strings.Join(segments, "/")
	if n := len(tail); n > 0 && g.rnd.IntN(8) == 0 {
		b := []byte(tail)
		b[g.rnd.IntN(n)] = byte(g.rnd.IntN(256))
		tail = string(b)
	}
	return tail
}

// checkSkips states what holds for every list of a filter.
func checkSkips(t testing.TB, f *Filter, skips []string, prefix string) {
	t.Helper()
	for i, s := range skips {
		if !strings.HasPrefix(s, prefix) || !strings.HasSuffix(s, "/") {
			t.Fatalf("%q is not below %q, or does not end in a slash", s, prefix)
		}
		for j := range skips {
			if i != j && strings.HasPrefix(skips[j], s) {
				t.Fatalf("%q contains %q", s, skips[j])
			}
		}
	}
	if again := f.Skips(prefix); !slices.Equal(skips, again) {
		t.Fatalf("%v, and the second time %v", skips, again)
	}
}

// checkDropped states what holds for a key below a prefix that is skipped.
func checkDropped(t testing.TB, f *Filter, skip, key string) {
	t.Helper()
	if e := f.Explain([]byte(key)); e.Include || f.Match([]byte(key)) {
		t.Fatalf("%q is to be skipped, but %q is kept by %s\nrules: %+v", skip, key, e.Rule, f.Rules()[5:])
	}
}

// TestSkipsKeepNothing: whatever the rules and the etcd prefixes, no conceivable key below a prefix that is skipped is kept.
func TestSkipsKeepNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := newGenerator(seed)
	found, lists := map[string]int{}, map[int]int{}
	for range 400 {
		cfg := g.configuration()
		cfg.Prefixes = g.etcdPrefixes()
		if g.rnd.IntN(4) > 0 {
			cfg.Policy.Unclassified = Exclude // or hardly anything can be skipped
		}
		if g.rnd.IntN(4) == 0 {
			p := &cfg.Policy // or groups hardly ever
			p.FlowSchemas, p.PriorityLevelConfigurations, p.ClusterTrustBundles, p.ServiceCIDRs, p.PodSecurityPolicies = Exclude, Exclude, Exclude, Exclude, Exclude
			p.AggregatedSubtrees = Exclude
			cfg.Rules = append([]Rule{{Name: "group", Action: Exclude, Reason: "generated", Groups: g.some("a.b", "c.d.e")}}, cfg.Rules...)
		}
		f := unvalidated(cfg)
		prefix := g.one("/registry/", "/registry/a.b/", "/registry/p", "/")
		checkSkips(t, f, f.Skips(prefix), prefix)
		skips := f.Skips("")
		checkSkips(t, f, skips, "")
		lists[len(skips)]++
		for i, s := range skips {
			found[s]++
			for range 25 {
				checkDropped(t, f, s, s+g.tail())
			}
			if i == 0 {
				checkAgainstReference(t, f, s+g.tail())
			}
		}
	}
	for kind, prefixes := range map[string][]string{"a resource": {"/registry/leases/", "/registry/pods/"}, "internal keys": {"/registry/masterleases/"}, "a path of two segments": {"/registry/services/endpoints/"},
		"a group": {"/registry/a.b/", "/registry/c.d.e/"}, "a custom resource": {"/registry/a.b/pods/", "/registry/a.b/leases/"}, "a raw prefix": {"/registry/new/", "/registry/pods/ns/"},
		"a built-in group": {"/registry/apiregistration.k8s.io/apiservices/"}, "OpenShift": {"/openshift.io/oauth/clients/"}} {
		if !slices.ContainsFunc(prefixes, func(s string) bool { return found[s] > 0 }) {
			t.Errorf("%s was never skipped: the generator proves little", kind)
		}
	}
	if len(lists) < 20 || lists[0] == 0 {
		t.Errorf("lists of few lengths: %v", lists)
	}
}
