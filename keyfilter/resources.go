package keyfilter

import "strings"

// resource is one row of the layout table: where the kube-apiserver keeps the objects of one built-in resource.
type resource struct {
	segment    string // path between the etcd prefix and the namespace or name
	group      string // "" is the core group
	resource   string // plural as the API spells it
	namespaced bool
	openShift  bool // only under OpenShiftPrefix
	id         int  // index in builtin, so that a Filter can hold one decision list per resource
}

func (r *resource) scope() Scope {
	if r.namespaced {
		return Namespaced
	}
	return Cluster
}

// builtin lists every resource that the kube-apiserver (1.20 to 1.36) stores, its two aggregated layers included, and
// the resources of OpenShift's own apiservers whose path has a form of its own. For nearly all of them the segment is
// the plural and the group is not in the key, which is why this table is needed at all.
var builtin = index([]resource{
	{segment: "configmaps", resource: "configmaps", namespaced: true},
	{segment: "secrets", resource: "secrets", namespaced: true},
	{segment: "serviceaccounts", resource: "serviceaccounts", namespaced: true},
	{segment: "services/specs", resource: "services", namespaced: true},
	{segment: "services/endpoints", resource: "endpoints", namespaced: true},
	{segment: "pods", resource: "pods", namespaced: true},
	{segment: "podtemplates", resource: "podtemplates", namespaced: true},
	{segment: "controllers", resource: "replicationcontrollers", namespaced: true},
	// Events of the core group and of events.k8s.io share one storage; the group given is that of the storage.
	{segment: "events", resource: "events", namespaced: true},
	{segment: "limitranges", resource: "limitranges", namespaced: true},
	{segment: "resourcequotas", resource: "resourcequotas", namespaced: true},
	{segment: "persistentvolumeclaims", resource: "persistentvolumeclaims", namespaced: true},
	{segment: "namespaces", resource: "namespaces"},
	{segment: "minions", resource: "nodes"},
	{segment: "persistentvolumes", resource: "persistentvolumes"},

	{segment: "deployments", group: "apps", resource: "deployments", namespaced: true},
	{segment: "replicasets", group: "apps", resource: "replicasets", namespaced: true},
	{segment: "statefulsets", group: "apps", resource: "statefulsets", namespaced: true},
	{segment: "daemonsets", group: "apps", resource: "daemonsets", namespaced: true},
	{segment: "controllerrevisions", group: "apps", resource: "controllerrevisions", namespaced: true},
	{segment: "jobs", group: "batch", resource: "jobs", namespaced: true},
	{segment: "cronjobs", group: "batch", resource: "cronjobs", namespaced: true},
	{segment: "horizontalpodautoscalers", group: "autoscaling", resource: "horizontalpodautoscalers", namespaced: true},
	{segment: "poddisruptionbudgets", group: "policy", resource: "poddisruptionbudgets", namespaced: true},
	{segment: "podsecuritypolicy", group: "policy", resource: "podsecuritypolicies"},

	{segment: "leases", group: "coordination.k8s.io", resource: "leases", namespaced: true},
	{segment: "leasecandidates", group: "coordination.k8s.io", resource: "leasecandidates", namespaced: true},
	{segment: "endpointslices", group: "discovery.k8s.io", resource: "endpointslices", namespaced: true},
	{segment: "ingress", group: "networking.k8s.io", resource: "ingresses", namespaced: true},
	{segment: "ingressclasses", group: "networking.k8s.io", resource: "ingressclasses"},
	{segment: "networkpolicies", group: "networking.k8s.io", resource: "networkpolicies", namespaced: true},
	{segment: "ipaddresses", group: "networking.k8s.io", resource: "ipaddresses"},
	{segment: "servicecidrs", group: "networking.k8s.io", resource: "servicecidrs"},
	{segment: "clustercidrs", group: "networking.k8s.io", resource: "clustercidrs"},

	{segment: "roles", group: "rbac.authorization.k8s.io", resource: "roles", namespaced: true},
	{segment: "rolebindings", group: "rbac.authorization.k8s.io", resource: "rolebindings", namespaced: true},
	{segment: "clusterroles", group: "rbac.authorization.k8s.io", resource: "clusterroles"},
	{segment: "clusterrolebindings", group: "rbac.authorization.k8s.io", resource: "clusterrolebindings"},

	{segment: "priorityclasses", group: "scheduling.k8s.io", resource: "priorityclasses"},
	{segment: "workloads", group: "scheduling.k8s.io", resource: "workloads", namespaced: true},
	{segment: "podgroups", group: "scheduling.k8s.io", resource: "podgroups", namespaced: true},

	{segment: "storageclasses", group: "storage.k8s.io", resource: "storageclasses"},
	{segment: "csidrivers", group: "storage.k8s.io", resource: "csidrivers"},
	{segment: "csinodes", group: "storage.k8s.io", resource: "csinodes"},
	{segment: "volumeattachments", group: "storage.k8s.io", resource: "volumeattachments"},
	{segment: "csistoragecapacities", group: "storage.k8s.io", resource: "csistoragecapacities", namespaced: true},
	{segment: "volumeattributesclasses", group: "storage.k8s.io", resource: "volumeattributesclasses"},
	{segment: "runtimeclasses", group: "node.k8s.io", resource: "runtimeclasses"},

	{segment: "mutatingwebhookconfigurations", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations"},
	{segment: "validatingwebhookconfigurations", group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations"},
	{segment: "validatingadmissionpolicies", group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies"},
	{segment: "validatingadmissionpolicybindings", group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicybindings"},
	{segment: "mutatingadmissionpolicies", group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicies"},
	{segment: "mutatingadmissionpolicybindings", group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicybindings"},

	{segment: "flowschemas", group: "flowcontrol.apiserver.k8s.io", resource: "flowschemas"},
	{segment: "prioritylevelconfigurations", group: "flowcontrol.apiserver.k8s.io", resource: "prioritylevelconfigurations"},

	{segment: "certificatesigningrequests", group: "certificates.k8s.io", resource: "certificatesigningrequests"},
	{segment: "clustertrustbundles", group: "certificates.k8s.io", resource: "clustertrustbundles"},
	{segment: "podcertificaterequests", group: "certificates.k8s.io", resource: "podcertificaterequests", namespaced: true},

	{segment: "deviceclasses", group: "resource.k8s.io", resource: "deviceclasses"},
	{segment: "resourceclaims", group: "resource.k8s.io", resource: "resourceclaims", namespaced: true},
	{segment: "resourceclaimtemplates", group: "resource.k8s.io", resource: "resourceclaimtemplates", namespaced: true},
	{segment: "resourceslices", group: "resource.k8s.io", resource: "resourceslices"},
	{segment: "devicetaintrules", group: "resource.k8s.io", resource: "devicetaintrules"},
	{segment: "resourcepoolstatusrequests", group: "resource.k8s.io", resource: "resourcepoolstatusrequests"},
	{segment: "podschedulingcontexts", group: "resource.k8s.io", resource: "podschedulingcontexts", namespaced: true},
	{segment: "resourceclasses", group: "resource.k8s.io", resource: "resourceclasses"},

	{segment: "storageversions", group: "internal.apiserver.k8s.io", resource: "storageversions"},
	{segment: "storageversionmigrations", group: "storagemigration.k8s.io", resource: "storageversionmigrations"},

	// The aggregator and the extension apiserver put the group into the path, as for custom resources.
	{segment: "apiregistration.k8s.io/apiservices", group: "apiregistration.k8s.io", resource: "apiservices"},
	{segment: "apiextensions.k8s.io/customresourcedefinitions", group: "apiextensions.k8s.io", resource: "customresourcedefinitions"},

	// OpenShift, under OpenShiftPrefix only.
	{segment: "oauth/accesstokens", group: "oauth.openshift.io", resource: "oauthaccesstokens"},
	{segment: "oauth/authorizetokens", group: "oauth.openshift.io", resource: "oauthauthorizetokens"},
	{segment: "oauth/clients", group: "oauth.openshift.io", resource: "oauthclients"},
	{segment: "oauth/clientauthorizations", group: "oauth.openshift.io", resource: "oauthclientauthorizations"},
	{segment: "useridentities", group: "user.openshift.io", resource: "identities"},
})

// Lookups over builtin. All are read only after initialisation.
var (
	kubernetesSegments = map[string]*resource{} // by segment, for every prefix
	openShiftSegments  = map[string]*resource{} // by segment, under OpenShiftPrefix only
	builtinByPath      = map[string]*resource{} // by group "/" resource, the core group spelt "core"
	builtinGroups      = map[string]bool{}      // the groups of the table, the core group spelt "core"
	// storedElsewhere names plurals that are never a first segment, because the objects are kept under a historical one.
	storedElsewhere = map[string]bool{}
)

func init() {
	for i := range builtin {
		r := &builtin[i]
		if r.openShift = strings.HasSuffix(r.group, ".openshift.io"); r.openShift {
			openShiftSegments[r.segment] = r
		} else {
			kubernetesSegments[r.segment] = r
			if r.segment != r.resource && !strings.Contains(r.segment, ".") {
				storedElsewhere[r.resource] = true
			}
		}
		builtinByPath[selectorGroup(r.group)+"/"+r.resource] = r
		builtinGroups[selectorGroup(r.group)] = true
	}
}

// internalSegments are the first segments of what is bookkeeping and no API object.
var internalSegments = []string{"masterleases", "peerserverleases", "ranges"}

func index(rs []resource) []resource {
	for i := range rs {
		rs[i].id = i
	}
	return rs
}

// selectorGroup spells a group as rules do: there the core group needs a name, since an empty selector selects all.
func selectorGroup(group string) string {
	if group == "" {
		return CoreGroup
	}
	return group
}
