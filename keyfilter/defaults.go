package keyfilter

import "slices"

// DefaultExcludedNamespaces returns the namespaces that stay with their cluster unless Config.ExcludedNamespaces says
// otherwise: those of the platform itself, its network and its add-ons, and Kubernetes' own four.
func DefaultExcludedNamespaces() []string {
	return []string{
		"cpaas-system", "cert-manager", "default", "global-credentials", "cpaas-system-global-credentials", "kube-ovn",
		"kube-public", "kube-system", "nsx-system", "cpaas-solution", "kube-node-lease", "kubevirt", "nativestor-system", "operators",
	}
}

// Defaults returns the rules that a Filter made from the zero Config walks, in order. They are for reading: a Filter
// always has them (as its Policy shapes them) behind Config.Rules.
func Defaults() []Rule {
	return slices.Concat(fixedRules(), defaultRules(DefaultExcludedNamespaces(), &Policy{}))
}

// fixedRules come before any rule of a user and cannot be overruled. The first is for keys outside of every prefix, the
// others are for the internal keys in the order of the constants internalCompact and so on.
func fixedRules() []Rule {
	return []Rule{
		{Name: "fixed/outside-prefix", Action: Exclude, Reason: "not under the etcd prefix of the apiserver"},
		{Name: "fixed/compact-revision", Action: Exclude, Prefixes: []string{CompactRevisionKey},
			Reason: "revision bookkeeping of this etcd; a foreign value misleads the standby's compactor"},
		{Name: "fixed/masterleases", Action: Exclude, Reason: "addresses of this cluster's apiservers; copied without a lease they stay for ever"},
		{Name: "fixed/peerserverleases", Action: Exclude, Reason: "addresses of this cluster's apiservers; the standby's would proxy to them"},
		{Name: "fixed/ranges", Action: Exclude, Reason: "allocation bitmaps of this cluster's service addresses and node ports"},
	}
}

// bootstrapFlowSchemas and bootstrapPriorityLevels are the names that apiservers since 1.20 make and keep reconciling.
var (
	bootstrapFlowSchemas = []string{"catch-all", "endpoint-controller", "exempt", "global-default", "kube-controller-manager",
		"kube-scheduler", "kube-system-service-accounts", "probes", "service-accounts", "system-leader-election", "system-node-high",
		"system-nodes", "workload-leader-election"}
	bootstrapPriorityLevels = []string{"catch-all", "exempt", "global-default", "leader-election", "node-high", "system",
		"workload-high", "workload-low"}
)

// defaultRules is the layout table as rules: what belongs to one cluster is excluded by name, the policies decide what
// depends, and what is left is the users' state.
func defaultRules(namespaces []string, policy *Policy) []Rule {
	var rules []Rule
	add := func(name, reason string, selectors Rule) {
		selectors.Name, selectors.Action, selectors.Reason = "default/"+name, Exclude, reason
		rules = append(rules, selectors)
	}
	named := func(r Rule, names ...string) Rule { r.Names = names; return r }
	in := func(r Rule, namespaces ...string) Rule { r.Namespaces = namespaces; return r }

	if len(namespaces) > 0 {
		add("excluded-namespaces", "the namespace is excluded", Rule{Namespaces: namespaces})
		add("excluded-namespace-objects", "the namespace is excluded, and so is the Namespace object itself", named(sel("", "namespaces"), namespaces...))
	}
	add("bootstrap-namespaces", "made by every apiserver for itself; the UID of kube-system identifies the cluster",
		named(sel("", "namespaces"), "default", "kube-node-lease", "kube-public", "kube-system"))

	add("events", "noise that expires by a lease of this etcd", sel("", "events"))
	add("leases", "leader election and heartbeats of this cluster; a copy takes the standby's leaders down",
		sel("coordination.k8s.io", "leases", "leasecandidates"))
	add("nodes", "nodes of this cluster; controllers and scheduler would act on ghosts", sel("", "nodes"))
	add("node-state", "belongs to the nodes of this cluster", sel("storage.k8s.io", "csinodes", "volumeattachments", "csistoragecapacities"))
	add("node-certificates", "would be approved, signed or cleaned up with the standby's own CA",
		sel("certificates.k8s.io", "certificatesigningrequests", "podcertificaterequests"))
	add("node-devices", "describes devices of the nodes of this cluster",
		sel("resource.k8s.io", "resourceslices", "devicetaintrules", "resourcepoolstatusrequests"))
	add("service-addresses", "allocations of this cluster; the standby makes its own for mirrored Services", sel("networking.k8s.io", "ipaddresses"))
	add("service-network", "comes from a flag of this cluster's apiserver", named(sel("networking.k8s.io", "servicecidrs"), "kubernetes"))
	add("apiserver-service", "leads to this cluster's apiservers",
		in(named(sel("", "services", "endpoints"), "kubernetes"), "default"))
	add("apiserver-endpointslice", "leads to this cluster's apiservers",
		in(named(sel("discovery.k8s.io", "endpointslices"), "kubernetes"), "default"))
	add("ca-bundles", "holds this cluster's CA; its publisher and a mirror would overwrite each other for ever",
		named(sel("", "configmaps"), "kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert"))
	add("cluster-configmaps", "written by this cluster's own components about itself",
		in(named(sel("", "configmaps"), "extension-apiserver-authentication", "kube-apiserver-legacy-service-account-token-tracking"), "kube-system"))
	add("cluster-info", "leads to this cluster's apiservers", in(named(sel("", "configmaps"), "cluster-info"), "kube-public"))
	add("bootstrap-roles", "made by every apiserver for its own version",
		in(named(sel("rbac.authorization.k8s.io", "roles", "rolebindings"), "system:*", "extension-apiserver-authentication-reader"), "kube-system", "kube-public"))
	add("bootstrap-clusterroles", "made by every apiserver for its own version",
		named(sel("rbac.authorization.k8s.io", "clusterroles"), "system:*", "admin", "edit", "view", "cluster-admin"))
	add("bootstrap-clusterrolebindings", "made by every apiserver for its own version",
		named(sel("rbac.authorization.k8s.io", "clusterrolebindings"), "system:*", "cluster-admin"))
	add("bootstrap-priorityclasses", "made by every apiserver for itself", named(sel("scheduling.k8s.io", "priorityclasses"), "system-*"))
	add("bootstrap-flowschemas", "made and reconciled by every apiserver for its own version",
		named(sel("flowcontrol.apiserver.k8s.io", "flowschemas"), bootstrapFlowSchemas...))
	add("bootstrap-prioritylevels", "made and reconciled by every apiserver for its own version",
		named(sel("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"), bootstrapPriorityLevels...))
	add("cluster-trust-bundle", "holds this cluster's own CA", named(sel("certificates.k8s.io", "clustertrustbundles"), "kubernetes.io:kube-apiserver-serving:*"))
	add("builtin-apiservices", "made by every apiserver for what it serves itself", named(sel("apiregistration.k8s.io", "apiservices"), builtinAPIServices()...))
	add("storage-versions", "lists this cluster's apiservers", sel("internal.apiserver.k8s.io", "storageversions"))
	add("storage-migrations", "would rewrite every object on the standby", sel("storagemigration.k8s.io", "storageversionmigrations"))
	add("removed-clustercidrs", "an API that was removed again", sel("networking.k8s.io", "clustercidrs"))
	add("removed-device-apis", "an API that was removed again", sel("resource.k8s.io", "podschedulingcontexts", "resourceclasses"))

	for i := range policyFields {
		rules = append(rules, policyFields[i].rule(policy))
	}
	return append(rules, Rule{Name: "default/user-state", Action: Include, Reason: "no rule excludes it", Groups: []string{"*"}})
}

// builtinVersions are the versions that groups of the kube-apiserver have had since 1.20.
var builtinVersions = []string{"v1", "v1alpha1", "v1alpha2", "v1alpha3", "v1beta1", "v1beta2", "v1beta3", "v2", "v2alpha1", "v2beta1", "v2beta2"}

// builtinAPIServices are the names <version>.<group> of what a kube-apiserver may serve itself. They are exact, because a
// glob such as "v*.metrics.k8s.io" would also take the API of an add-on.
func builtinAPIServices() []string {
	groups := map[string]bool{"authentication.k8s.io": true, "authorization.k8s.io": true, "events.k8s.io": true, "extensions": true}
	for i := range builtin {
		if e := &builtin[i]; e.group != "" && !e.openShift {
			groups[e.group] = true
		}
	}
	names := []string{"v1."} // the core group
	for g := range groups {
		for _, v := range builtinVersions {
			names = append(names, v+"."+g)
		}
	}
	slices.Sort(names)
	return names
}
