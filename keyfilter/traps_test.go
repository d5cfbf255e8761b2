package keyfilter

import "testing"

// trap is a key that is easily misread, with what the default filter has to make of it.
type trap struct {
	key     string
	want    Key
	include bool
	rule    string
}

func (tc trap) check(t *testing.T) {
	t.Helper()
	f := mustNew(t, Config{})
	e := f.Explain([]byte(tc.key))
	tc.want.Prefix, tc.want.GroupKnown = "/registry/", true
	tc.want.Scope = Cluster
	if tc.want.Namespace != "" {
		tc.want.Scope = Namespaced
	}
	if e.Key != tc.want {
		t.Errorf("%s:\n got %+v\nwant %+v", tc.key, e.Key, tc.want)
	}
	if e.Include != tc.include || e.Rule != tc.rule || f.Match([]byte(tc.key)) != tc.include {
		t.Errorf("%s: %v by %s, want %v by %s", tc.key, e.Include, e.Rule, tc.include, tc.rule)
	}
}

const userState = "default/user-state"

func TestTrapClusterScopedCustomResourceNamedDefault(t *testing.T) {
	trap{"/registry/stable.example.com/widgets/default", Key{ResourcePrefix: "stable.example.com/widgets", Group: "stable.example.com",
		Resource: "widgets", Name: "default"}, true, userState}.check(t)
	trap{"/registry/stable.example.com/widgets/kube-system", Key{ResourcePrefix: "stable.example.com/widgets", Group: "stable.example.com",
		Resource: "widgets", Name: "kube-system"}, true, userState}.check(t)
	// With one segment more it is a namespace.
	trap{"/registry/stable.example.com/widgets/default/w", Key{ResourcePrefix: "stable.example.com/widgets", Group: "stable.example.com",
		Resource: "widgets", Namespace: "default", Name: "w"}, false, "default/excluded-namespaces"}.check(t)
}

func TestTrapProjectNamedLikeExcludedNamespace(t *testing.T) {
	trap{"/registry/auth.cpaas.io/projects/cpaas-system", Key{ResourcePrefix: "auth.cpaas.io/projects", Group: "auth.cpaas.io",
		Resource: "projects", Name: "cpaas-system"}, true, userState}.check(t)
}

func TestTrapNamespaceWithExcludedOneAsPrefix(t *testing.T) {
	trap{"/registry/configmaps/default-tenant/cm1", Key{ResourcePrefix: "configmaps", Resource: "configmaps", Namespace: "default-tenant",
		Name: "cm1"}, true, userState}.check(t)
	trap{"/registry/namespaces/default-tenant", Key{ResourcePrefix: "namespaces", Resource: "namespaces", Name: "default-tenant"}, true, userState}.check(t)
	trap{"/registry/configmaps/default/cm1", Key{ResourcePrefix: "configmaps", Resource: "configmaps", Namespace: "default",
		Name: "cm1"}, false, "default/excluded-namespaces"}.check(t)
	trap{"/registry/configmaps/team-a/default", Key{ResourcePrefix: "configmaps", Resource: "configmaps", Namespace: "team-a",
		Name: "default"}, true, userState}.check(t)
	trap{"/registry/namespaces/default", Key{ResourcePrefix: "namespaces", Resource: "namespaces", Name: "default"}, false,
		"default/excluded-namespace-objects"}.check(t)
}

func TestTrapNamespacesCalledSpecsAndEndpoints(t *testing.T) {
	for _, ns := range []string{"specs", "endpoints"} {
		trap{"/registry/services/specs/" + ns + "/svc", Key{ResourcePrefix: "services/specs", Resource: "services", Namespace: ns, Name: "svc"},
			true, userState}.check(t)
		trap{"/registry/services/endpoints/" + ns + "/svc", Key{ResourcePrefix: "services/endpoints", Resource: "endpoints", Namespace: ns, Name: "svc"},
			false, "policy/endpoints"}.check(t)
		trap{"/registry/configmaps/" + ns + "/cm", Key{ResourcePrefix: "configmaps", Resource: "configmaps", Namespace: ns, Name: "cm"}, true, userState}.check(t)
		trap{"/registry/namespaces/" + ns, Key{ResourcePrefix: "namespaces", Resource: "namespaces", Name: ns}, true, userState}.check(t)
	}
}

func TestTrapCustomResourceCalledPods(t *testing.T) {
	trap{"/registry/metrics.example.com/pods/team-a/p1", Key{ResourcePrefix: "metrics.example.com/pods", Group: "metrics.example.com", Resource: "pods",
		Namespace: "team-a", Name: "p1"}, true, userState}.check(t)
	trap{"/registry/pods/team-a/p1", Key{ResourcePrefix: "pods", Resource: "pods", Namespace: "team-a", Name: "p1"}, false, "policy/pods"}.check(t)
	trap{"/registry/apiextensions.k8s.io/customresourcedefinitions/pods.metrics.example.com", Key{
		ResourcePrefix: "apiextensions.k8s.io/customresourcedefinitions", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions",
		Name: "pods.metrics.example.com"}, true, userState}.check(t)
	// Nor do leases of somebody's own API count as leases.
	trap{"/registry/parking.example.com/leases/team-a/l", Key{ResourcePrefix: "parking.example.com/leases", Group: "parking.example.com",
		Resource: "leases", Namespace: "team-a", Name: "l"}, true, userState}.check(t)
}

func TestTrapRBACNamesWithColons(t *testing.T) {
	rbac := "rbac.authorization.k8s.io"
	trap{"/registry/clusterroles/system:controller:node-controller", Key{ResourcePrefix: "clusterroles", Group: rbac, Resource: "clusterroles",
		Name: "system:controller:node-controller"}, false, "default/bootstrap-clusterroles"}.check(t)
	trap{"/registry/clusterroles/team:system:reader", Key{ResourcePrefix: "clusterroles", Group: rbac, Resource: "clusterroles",
		Name: "team:system:reader"}, true, userState}.check(t)
	trap{"/registry/clusterroles/admin", Key{ResourcePrefix: "clusterroles", Group: rbac, Resource: "clusterroles", Name: "admin"}, false,
		"default/bootstrap-clusterroles"}.check(t)
	// Only cluster-admin has a bootstrap binding; one called admin is somebody's own.
	trap{"/registry/clusterrolebindings/admin", Key{ResourcePrefix: "clusterrolebindings", Group: rbac, Resource: "clusterrolebindings", Name: "admin"},
		true, userState}.check(t)
	trap{"/registry/roles/team-a/system:mine", Key{ResourcePrefix: "roles", Group: rbac, Resource: "roles", Namespace: "team-a", Name: "system:mine"},
		true, userState}.check(t)
}

func TestTrapCoreAPIServiceEndsInDot(t *testing.T) {
	group, prefix := "apiregistration.k8s.io", "apiregistration.k8s.io/apiservices"
	trap{"/registry/apiregistration.k8s.io/apiservices/v1.", Key{ResourcePrefix: prefix, Group: group, Resource: "apiservices", Name: "v1."}, false,
		"default/builtin-apiservices"}.check(t)
	// An add-on's API whose group ends like a built-in one.
	trap{"/registry/apiregistration.k8s.io/apiservices/v1beta1.metrics.k8s.io", Key{ResourcePrefix: prefix, Group: group, Resource: "apiservices",
		Name: "v1beta1.metrics.k8s.io"}, false, "policy/aggregatedAPIServices"}.check(t)
}

func TestTrapPriorityClassDefault(t *testing.T) {
	trap{"/registry/priorityclasses/default", Key{ResourcePrefix: "priorityclasses", Group: "scheduling.k8s.io", Resource: "priorityclasses", Name: "default"},
		true, userState}.check(t)
	trap{"/registry/priorityclasses/system-node-critical", Key{ResourcePrefix: "priorityclasses", Group: "scheduling.k8s.io", Resource: "priorityclasses",
		Name: "system-node-critical"}, false, "default/bootstrap-priorityclasses"}.check(t)
}

func TestTrapStorageVersionNamedLikeAnotherResource(t *testing.T) {
	trap{"/registry/storageversions/core.configmaps", Key{ResourcePrefix: "storageversions", Group: "internal.apiserver.k8s.io", Resource: "storageversions",
		Name: "core.configmaps"}, false, "default/storage-versions"}.check(t)
}
