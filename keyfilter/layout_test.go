package keyfilter

import (
	"strings"
	"testing"
)

// onePolicy returns a Policy with one resource's field set. Volumes and claims go together.
func onePolicy(t *testing.T, resource string, a Action) Policy {
	t.Helper()
	var p Policy
	switch resource {
	case "pods":
		p.Pods = a
	case "persistentvolumes", "persistentvolumeclaims":
		p.PersistentVolumes, p.PersistentVolumeClaims = a, a
	case "jobs":
		p.Jobs = a
	case "cronjobs":
		p.CronJobs = a
	case "endpoints":
		p.Endpoints = a
	case "endpointslices":
		p.EndpointSlices = a
	case "storageclasses":
		p.StorageClasses = a
	case "csidrivers":
		p.CSIDrivers = a
	case "volumeattributesclasses":
		p.VolumeAttributesClasses = a
	case "mutatingwebhookconfigurations", "validatingwebhookconfigurations":
		p.WebhookConfigurations = a
	case "flowschemas":
		p.FlowSchemas = a
	case "prioritylevelconfigurations":
		p.PriorityLevelConfigurations = a
	case "clustertrustbundles":
		p.ClusterTrustBundles = a
	case "resourceclaims":
		p.ResourceClaims = a
	case "servicecidrs":
		p.ServiceCIDRs = a
	case "apiservices":
		p.AggregatedAPIServices = a
	case "podsecuritypolicies":
		p.PodSecurityPolicies = a
	case "aggregated":
		p.AggregatedSubtrees = a
	default:
		t.Fatalf("the layout table leaves %s to a policy, and there is none", resource)
	}
	return p
}

// defaultOf is the documented default of each choice of the layout table, written down here a second time.
var defaultOf = map[string]bool{
	"pods": false, "persistentvolumes": false, "persistentvolumeclaims": false, "jobs": false, "cronjobs": false, "endpoints": false,
	"endpointslices": false, "storageclasses": false, "csidrivers": false, "volumeattributesclasses": false,
	"mutatingwebhookconfigurations": false, "validatingwebhookconfigurations": false, "resourceclaims": false, "apiservices": false,
	"aggregated": false, "flowschemas": true, "prioritylevelconfigurations": true, "clustertrustbundles": true, "servicecidrs": true,
	"podsecuritypolicies": true,
}

// ownExceptions are the names that stay with the cluster although their resource is mirrored, or may be.
var ownExceptions = map[string][]string{
	"configmaps":                  {"team-a/kube-root-ca.crt", "team-a/openshift-service-ca.crt", "team-a/istio-ca-root-cert"},
	"services":                    {"default/kubernetes"},
	"endpoints":                   {"default/kubernetes"},
	"endpointslices":              {"default/kubernetes"},
	"namespaces":                  {"default", "kube-system", "cpaas-system", "operators"},
	"clusterroles":                {"admin", "edit", "view", "cluster-admin", "system:node"},
	"clusterrolebindings":         {"cluster-admin", "system:node"},
	"priorityclasses":             {"system-node-critical"},
	"flowschemas":                 {"exempt", "catch-all", "service-accounts"},
	"prioritylevelconfigurations": {"exempt", "catch-all", "workload-low"},
	"clustertrustbundles":         {"kubernetes.io:kube-apiserver-serving:abc"},
	"servicecidrs":                {"kubernetes"},
	"apiservices":                 {"v1.", "v1.apps", "v1.networking.k8s.io"},
}

// TestLayoutTable asserts every row of the layout table: what the key means, and what the default filter and both settings
// of the policy make of it.
func TestLayoutTable(t *testing.T) {
	def := mustNew(t, Config{})
	// Without excluded namespaces default/kubernetes and its kind have to be kept out by rules of their own.
	open := mustNew(t, Config{ExcludedNamespaces: []string{}})
	policies := 0
	for _, row := range loadLayout() {
		t.Run(row.pattern, func(t *testing.T) {
			switch {
			case row.scope == "Internal":
				key := fill(row.pattern)
				if e := def.Explain([]byte(key)); e.Include || e.Key.Scope != Internal || !strings.HasPrefix(e.Rule, "fixed/") || e.Key.Path() != key {
					t.Errorf("%s: %+v, want internal and excluded for good", key, e)
				}
				return
			case strings.Contains(row.pattern, " and "): // OpenShift's two prefixes, no pattern of one key
				checkOpenShiftRow(t)
				return
			case strings.Contains(row.pattern, "["): // an aggregated apiserver's subtree, both shapes
				for _, key := range []string{"/registry/wardle.example.com/wardle.k8s.example.com/flunders/team-a/f", "/registry/wardle.example.com/wardle.k8s.example.com/fischers/f"} {
					want := Key{Prefix: "/registry/", ResourcePrefix: "wardle.example.com/wardle.k8s.example.com/flunders", Subtree: "wardle.example.com",
						Group: "wardle.k8s.example.com", GroupKnown: true, Resource: "flunders", Namespace: "team-a", Name: "f", Scope: Namespaced}
					if strings.Contains(key, "fischers") {
						want.ResourcePrefix, want.Resource = "wardle.example.com/wardle.k8s.example.com/fischers", "fischers"
						want.Namespace, want.Scope = "", Cluster
					}
					checkRow(t, def, key, want, defaultOf["aggregated"])
					checkBoth(t, "aggregated", key)
				}
				if e := def.Explain([]byte("/registry/wardle.example.com/wardle.k8s.example.com/flunders/team-a/f")); !e.Attention {
					t.Error("an excluded subtree is not marked for attention")
				}
				return
			}
			policies += checkObjectRow(t, row, def, open)
		})
	}
	if policies != len(defaultOf)-1 { // the subtrees have a row of their own kind
		t.Errorf("%d rows were checked in both settings, want %d", policies, len(defaultOf)-1)
	}
}

// checkObjectRow returns 1 if the row leaves the decision to a policy.
func checkObjectRow(t *testing.T, row layoutRow, def, open *Filter) int {
	t.Helper()
	key := fill(row.pattern)
	segment, _, _ := strings.Cut(strings.TrimPrefix(row.pattern, "/registry/"), "/<")
	group, _, _ := strings.Cut(row.group, " ")
	want := Key{Prefix: "/registry/", ResourcePrefix: segment, Group: group, GroupKnown: true, Resource: row.resource, Scope: Cluster}
	switch {
	case row.group == "any CRD group":
		want.ResourcePrefix, want.Group, want.Resource = "stable.example.com/widgets", "stable.example.com", "widgets"
	case row.resource == "events":
		want.Group = ""
	}
	tail := strings.Split(strings.TrimPrefix(key, "/registry/"+want.ResourcePrefix+"/"), "/")
	want.Name = tail[len(tail)-1]
	if row.scope == "Namespaced" {
		want.Scope, want.Namespace = Namespaced, "team-a"
	}
	mirror, policy := false, 0
	switch {
	case strings.Contains(row.mirror, "depends") || strings.HasPrefix(row.mirror, "yes if"):
		mirror, policy = defaultOf[row.resource], 1
		if _, ok := defaultOf[row.resource]; !ok {
			t.Fatalf("no documented default for %s", row.resource)
		}
	case strings.HasPrefix(row.mirror, "yes"):
		mirror = true
	case strings.HasPrefix(row.mirror, "no"):
	default:
		t.Fatalf("the table says %q, which this test does not understand", row.mirror)
	}
	checkRow(t, def, key, want, mirror)
	if policy == 1 {
		checkBoth(t, row.resource, key)
	}
	if strings.HasPrefix(row.mirror, "yes, not") && len(ownExceptions[row.resource]) == 0 {
		t.Errorf("the table has exceptions (%s), the test none", row.mirror)
	}
	if row.group == "any CRD group" {
		return policy
	}
	for _, name := range ownExceptions[row.resource] {
		own := "/registry/" + segment + "/" + name
		if def.Match([]byte(own)) {
			t.Errorf("%s is mirrored by default", own)
		}
		if policy == 1 && mustNew(t, Config{Policy: onePolicy(t, row.resource, Include), ExcludedNamespaces: []string{}}).Match([]byte(own)) {
			t.Errorf("%s is mirrored by the policy, which is for others", own)
		}
		if open.Match([]byte(own)) && row.resource != "namespaces" {
			t.Errorf("%s is mirrored only because its namespace is not excluded", own)
		}
	}
	// In an excluded namespace nothing is mirrored, whatever the policies say.
	if row.scope == "Namespaced" {
		inside := strings.Replace(key, "/team-a/", "/kube-system/", 1)
		if def.Match([]byte(inside)) {
			t.Errorf("%s is mirrored", inside)
		}
		if policy == 1 && mustNew(t, Config{Policy: onePolicy(t, row.resource, Include)}).Match([]byte(inside)) {
			t.Errorf("%s is mirrored by a policy", inside)
		}
	}
	return policy
}

func checkRow(t *testing.T, f *Filter, key string, want Key, mirror bool) {
	t.Helper()
	e := f.Explain([]byte(key))
	if e.Key != want {
		t.Errorf("%s:\n got %+v\nwant %+v", key, e.Key, want)
	}
	if e.Include != mirror || f.Match([]byte(key)) != mirror {
		t.Errorf("%s: mirrored %v by %s, want %v", key, e.Include, e.Rule, mirror)
	}
	if e.Reason == "" || e.Rule == "" {
		t.Errorf("%s: no reason or no rule: %+v", key, e)
	}
	checkAgainstReference(t, f, key)
}

// checkBoth asserts that a policy decides about key in both settings, and that the explanation names it.
func checkBoth(t *testing.T, resource, key string) {
	t.Helper()
	for _, a := range []Action{Include, Exclude} {
		f := mustNew(t, Config{Policy: onePolicy(t, resource, a)})
		if e := f.Explain([]byte(key)); e.Include != (a == Include) || !strings.HasPrefix(e.Rule, "policy/") {
			t.Errorf("%s with the policy %s: %+v", key, a, e)
		}
		checkAgainstReference(t, f, key)
	}
}

func checkOpenShiftRow(t *testing.T) {
	t.Helper()
	cfg := Config{Prefixes: []string{"kubernetes.io", "openshift.io"}}
	def := mustNew(t, cfg)
	cfg.Policy.OpenShiftOAuth = Include
	oauth := mustNew(t, cfg)
	cfg.Policy = Policy{UnknownResources: Include}
	all := mustNew(t, cfg)
	for _, tc := range []struct {
		key             string
		def, oauth, all bool
	}{
		{"/kubernetes.io/configmaps/team-a/cm", true, true, true},
		{"/kubernetes.io/configmaps/kube-system/cm", false, false, false},
		{"/kubernetes.io/minions/n", false, false, false},
		{"/kubernetes.io/masterleases/192.0.2.1", false, false, false},
		{"/kubernetes.io/stable.example.com/widgets/w", true, true, true},
		{"/openshift.io/oauth/accesstokens/t", false, true, false},
		{"/openshift.io/oauth/authorizetokens/t", false, true, false},
		{"/openshift.io/oauth/clients/c", false, true, false},
		{"/openshift.io/oauth/clientauthorizations/c", false, true, false},
		{"/openshift.io/useridentities/i", true, true, true},
		{"/openshift.io/routes/team-a/r", false, false, true},
		{"/openshift.io/routes/kube-system/r", false, false, false},
		{"/openshift.io/authorization/cluster/policies/default", false, false, false},
		{"/openshift.io/registry/sdnnetworks/default", false, false, false},
		{"/registry/configmaps/team-a/cm", false, false, false},
	} {
		for i, f := range []*Filter{def, oauth, all} {
			if want := []bool{tc.def, tc.oauth, tc.all}[i]; f.Match([]byte(tc.key)) != want {
				t.Errorf("filter %d, %s: %+v, want %v", i, tc.key, f.Explain([]byte(tc.key)), want)
			}
			checkAgainstReference(t, f, tc.key)
		}
	}
}

// fill makes a key of a pattern of the layout table.
func fill(pattern string) string {
	return strings.NewReplacer("<ns>", "team-a", "<name>", "obj1", "<group-with-dot>", "stable.example.com", "<plural>.<group>", "widgets.stable.example.com",
		"<plural>", "widgets", "<version>.<group>", "v1alpha1.wardle.example.com", "<apiserver-ip>", "192.0.2.10", "<apiserver-identity>", "apiserver-abc").Replace(pattern)
}

// TestTableIsTheLayout: the table in the code has no row that the layout lacks, and the other way round.
func TestTableIsTheLayout(t *testing.T) {
	n := 0
	for _, e := range builtin {
		if e.openShift {
			continue
		}
		n++
		if strings.Contains(e.group, ".") && !strings.HasSuffix(e.group, string(builtinGroupSuffix)) {
			t.Errorf("group %s does not end in %s, on which the scanner relies", e.group, builtinGroupSuffix)
		}
		if want, ok := refTable()[e.segment]; !ok || want != (refResource{e.group, e.resource, e.namespaced}) {
			t.Errorf("%s: %+v, the layout has %+v", e.segment, e, want)
		}
	}
	if n != len(refTable()) {
		t.Errorf("%d resources, the layout has %d", n, len(refTable()))
	}
}
