package keyfilter_test

import (
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/keyfilter"
)

func ExampleParse() {
	for _, key := range []string{
		"/registry/deployments/team-a/web",
		"/registry/services/specs/team-a/web",
		"/registry/minions/node-1",
		"/registry/stable.example.com/widgets/default",
		"/registry/masterleases/192.0.2.10",
		"/registry/pods/web",
		"compact_rev_key",
	} {
		k, err := keyfilter.Parse("/registry", []byte(key))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s", key, k.Scope)
		switch k.Scope {
		case keyfilter.Namespaced, keyfilter.Cluster:
			fmt.Printf(", group %q, resource %s, namespace %q, name %s", k.Group, k.Resource, k.Namespace, k.Name)
		case keyfilter.Unclassified:
			fmt.Printf(": %s", k.Reason)
		}
		fmt.Println()
	}
	// Output:
	// /registry/deployments/team-a/web: namespaced, group "apps", resource deployments, namespace "team-a", name web
	// /registry/services/specs/team-a/web: namespaced, group "", resource services, namespace "team-a", name web
	// /registry/minions/node-1: cluster, group "", resource nodes, namespace "", name node-1
	// /registry/stable.example.com/widgets/default: cluster, group "stable.example.com", resource widgets, namespace "", name default
	// /registry/masterleases/192.0.2.10: internal
	// /registry/pods/web: unclassified: the wrong number of segments for a resource that is namespaced
	// compact_rev_key: internal
}

func ExampleNew() {
	filter, err := keyfilter.New(keyfilter.Config{
		Policy: keyfilter.Policy{CronJobs: keyfilter.Include},
		Rules: []keyfilter.Rule{{
			Name: "scratch", Action: keyfilter.Exclude, Reason: "nobody misses it",
			Namespaces: []string{"scratch-*"},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range []string{
		"/registry/secrets/team-a/password",
		"/registry/secrets/scratch-1/password",
		"/registry/cronjobs/team-a/nightly",
		"/registry/leases/team-a/lock",
		"/registry/configmaps/default/settings",
		"/registry/configmaps/default-tenant/settings",
	} {
		fmt.Println(filter.Match([]byte(key)), key)
	}
	// Output:
	// true /registry/secrets/team-a/password
	// false /registry/secrets/scratch-1/password
	// true /registry/cronjobs/team-a/nightly
	// false /registry/leases/team-a/lock
	// false /registry/configmaps/default/settings
	// true /registry/configmaps/default-tenant/settings
}

func ExampleNew_refused() {
	_, err := keyfilter.New(keyfilter.Config{Rules: []keyfilter.Rule{{
		Name: "nodes", Action: keyfilter.Exclude, Reason: "not ours",
		Groups: []string{"core"}, Resources: []string{"nodes"}, Namespaces: []string{"team-a"},
	}}})
	fmt.Println(strings.ReplaceAll(err.Error(), "; ", ";\n"))
	// Output:
	// keyfilter: rules[0].resources[0] (rule "nodes"): "nodes" can never match: it is cluster-scoped, and the rule selects by namespaces;
	// select by names instead of namespaces
}

func ExampleFilter_Explain() {
	filter, err := keyfilter.New(keyfilter.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range []string{
		"/registry/configmaps/team-a/kube-root-ca.crt",
		"/registry/namespaces/kube-system",
		"/registry/newthings/team-a/thing",
		"/registry/ingress/team-a/web",
	} {
		e := filter.Explain([]byte(key))
		fmt.Printf("%s\n  include %v, attention %v: %s (%s)\n", key, e.Include, e.Attention, e.Reason, e.Rule)
	}
	// Output:
	// /registry/configmaps/team-a/kube-root-ca.crt
	//   include false, attention false: holds this cluster's CA; its publisher and a mirror would overwrite each other for ever (default/ca-bundles)
	// /registry/namespaces/kube-system
	//   include false, attention false: the namespace is excluded, and so is the Namespace object itself (default/excluded-namespace-objects)
	// /registry/newthings/team-a/thing
	//   include false, attention true: a resource that this version does not know: user data or state of one cluster (policy/unknownResources)
	// /registry/ingress/team-a/web
	//   include true, attention false: no rule excludes it (default/user-state)
}

func ExampleFilter_Skips() {
	filter, err := keyfilter.New(keyfilter.Config{Rules: []keyfilter.Rule{{
		Name: "reports", Action: keyfilter.Exclude, Reason: "made anew by their controller, and many",
		Prefixes: []string{"/registry/reports.example.com"},
	}, {
		Name: "ledger", Action: keyfilter.Include, Reason: "the lock holds business state",
		Groups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Names: []string{"ledger-*"},
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Leases are not among them, for the sake of the ledger's.
	for _, prefix := range filter.Skips("/registry/") {
		switch prefix {
		case "/registry/events/", "/registry/masterleases/", "/registry/minions/", "/registry/leases/", "/registry/reports.example.com/":
			fmt.Println(prefix)
		}
	}
	// Output:
	// /registry/events/
	// /registry/masterleases/
	// /registry/minions/
	// /registry/reports.example.com/
}

func ExampleLoad() {
	cfg, err := keyfilter.Load(strings.NewReader(`
policy:
  pods: include
rules:
- name: scratch
  action: exclude
  reason: nobody misses it
  namespaces: ["scratch-*"]
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	filter, err := keyfilter.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(filter.Match([]byte("/registry/pods/team-a/web-0")), filter.Match([]byte("/registry/pods/scratch-1/web-0")))

	_, err = keyfilter.Load(strings.NewReader("policy:\n  pods: maybe\n"))
	fmt.Println(err)
	// Output:
	// true false
	// keyfilter: policy.pods: "maybe" is not a policy; use include or exclude, or leave it out for exclude
}
