package keyfilter

// Policy answers, per resource, the questions that have no answer right for all sites. An empty field is the default that
// is documented with it. A filter sees keys and never values: where the right answer depends on a label or a spec, the
// comment says what the key alone can tell, and Config.Rules can name the objects for which that is wrong.
//
// A policy applies to objects outside of the excluded namespaces only.
type Policy struct {
	// Pods: default exclude. A mirrored Pod is bound to a node of the primary, and the standby's pod garbage collector
	// deletes it within minutes; the workload controllers of the standby make Pods of their own under other names.
	Pods Action `json:"pods,omitempty"`
	// PersistentVolumes: default exclude. A volume whose claim is not mirrored becomes Released, and with reclaim policy
	// Delete the standby's provisioner then deletes the primary's real volume. Include only if both sites reach the same
	// storage, and no such volume is claimed from an excluded namespace: the key of a volume does not show its claim.
	// Must be equal to PersistentVolumeClaims.
	PersistentVolumes Action `json:"persistentVolumes,omitempty"`
	// PersistentVolumeClaims: default exclude, as the volumes: a bound claim without its volume is Lost for good, while
	// StatefulSets make missing claims anew. Must be equal to PersistentVolumes.
	PersistentVolumeClaims Action `json:"persistentVolumeClaims,omitempty"`
	// Jobs: default exclude. A mirrored unfinished Job runs a second time on the standby; finished ones are history.
	Jobs Action `json:"jobs,omitempty"`
	// CronJobs: default exclude, since they would fire on both sides. Include them if the standby runs no
	// kube-controller-manager, or one without the cronjob controller, before the failover; otherwise keep their manifests
	// elsewhere. Whether a CronJob is suspended is not in its key.
	CronJobs Action `json:"cronJobs,omitempty"`
	// Endpoints: default exclude. Those of a Service with a selector are derived, and the standby's controller fights a
	// mirror over them; those without are user data, which the key does not tell apart: name them in a rule.
	// default/kubernetes is never mirrored.
	Endpoints Action `json:"endpoints,omitempty"`
	// EndpointSlices: default exclude, as Endpoints. Which controller manages a slice is a label, not in the key, and
	// generated names differ per cluster. default/kubernetes is never mirrored.
	EndpointSlices Action `json:"endpointSlices,omitempty"`
	// StorageClasses: default exclude. Storage back ends differ per site.
	StorageClasses Action `json:"storageClasses,omitempty"`
	// CSIDrivers: default exclude. They belong to the driver that is installed locally.
	CSIDrivers Action `json:"csiDrivers,omitempty"`
	// VolumeAttributesClasses: default exclude, as StorageClasses.
	VolumeAttributesClasses Action `json:"volumeAttributesClasses,omitempty"`
	// WebhookConfigurations, mutating and validating: default exclude. Their services and CA bundles often live in
	// excluded namespaces, and one that cannot be reached with failurePolicy Fail blocks API writes on the standby, after
	// a failover too. The service is not in the key.
	WebhookConfigurations Action `json:"webhookConfigurations,omitempty"`
	// FlowSchemas: default include for those made by users. The ones that every apiserver makes for itself are known by
	// name and never mirrored.
	FlowSchemas Action `json:"flowSchemas,omitempty"`
	// PriorityLevelConfigurations: default include for those made by users, as FlowSchemas, which refer to them.
	PriorityLevelConfigurations Action `json:"priorityLevelConfigurations,omitempty"`
	// ClusterTrustBundles: default include for those made by users. The one that holds the cluster's own CA
	// (kubernetes.io:kube-apiserver-serving:*) is known by name and never mirrored.
	ClusterTrustBundles Action `json:"clusterTrustBundles,omitempty"`
	// ResourceClaims: default exclude. Their status names devices of the primary's nodes; those made from a template are
	// made anew on the standby. Templates and DeviceClasses are mirrored.
	ResourceClaims Action `json:"resourceClaims,omitempty"`
	// ServiceCIDRs: default include for those made by users, because Services are mirrored with their cluster IPs and an
	// address outside of every ServiceCIDR is an error. The one called kubernetes comes from a flag of the apiserver and is
	// never mirrored.
	ServiceCIDRs Action `json:"serviceCIDRs,omitempty"`
	// AggregatedAPIServices: default exclude. An APIService whose service is missing breaks discovery and with it every
	// deletion of a namespace on the standby. Whether an APIService is aggregated (spec.service set) or made by the apiserver
	// for a CRD is not in its key: Include takes all but those of the built-in groups, and the standby makes the ones of its
	// CRDs by itself in any case. To take a single one, name it in a rule instead.
	AggregatedAPIServices Action `json:"aggregatedAPIServices,omitempty"`
	// PodSecurityPolicies: default include. They mean something up to Kubernetes 1.24 and are inert keys from 1.25 on.
	PodSecurityPolicies Action `json:"podSecurityPolicies,omitempty"`
	// OpenShiftOAuth, the OAuth clients, authorizations and tokens under /openshift.io: default exclude. They are tied to
	// the redirect URIs and secrets of one cluster's OAuth server. Identities are mirrored.
	OpenShiftOAuth Action `json:"openShiftOAuth,omitempty"`
	// AggregatedSubtrees, objects of aggregated apiservers that keep them inside of the kube-apiserver's prefix: default
	// exclude, and marked for attention. The excluded namespaces apply to them in any case.
	AggregatedSubtrees Action `json:"aggregatedSubtrees,omitempty"`
	// UnknownResources, objects whose resource is not in the table and whose group is therefore unknown: default exclude,
	// and marked for attention. A resource of a newer Kubernetes may be user data or state of one cluster, at about even
	// odds. On OpenShift nearly all that is under /openshift.io is of this kind. The excluded namespaces apply in any case.
	UnknownResources Action `json:"unknownResources,omitempty"`
	// Unclassified, keys under the prefix that the grammar cannot place: default exclude, and marked for attention.
	// Include copies them raw, with no regard to namespaces.
	Unclassified Action `json:"unclassified,omitempty"`
}

// policyField binds a field of Policy to its name, its default and what it selects.
type policyField struct {
	name     string
	fallback Action
	get      func(*Policy) Action
	selects  Rule   // selectors only
	include  string // reason when included
	exclude  string // reason when excluded
}

var policyFields = []policyField{
	{"pods", Exclude, func(p *Policy) Action { return p.Pods }, sel("", "pods"),
		"Pods are mirrored by policy", "bound to nodes of the primary; the standby's controllers make Pods of their own"},
	{"persistentVolumes", Exclude, func(p *Policy) Action { return p.PersistentVolumes }, sel("", "persistentvolumes"),
		"both sites reach the same storage, by policy", "a volume without its claim is released, and possibly deleted at the storage"},
	{"persistentVolumeClaims", Exclude, func(p *Policy) Action { return p.PersistentVolumeClaims }, sel("", "persistentvolumeclaims"),
		"both sites reach the same storage, by policy", "a bound claim without its volume is lost for good"},
	{"jobs", Exclude, func(p *Policy) Action { return p.Jobs }, sel("batch", "jobs"),
		"Jobs are mirrored by policy", "would run a second time on the standby"},
	{"cronJobs", Exclude, func(p *Policy) Action { return p.CronJobs }, sel("batch", "cronjobs"),
		"CronJobs are mirrored by policy", "would fire on both sides"},
	{"endpoints", Exclude, func(p *Policy) Action { return p.Endpoints }, sel("", "endpoints"),
		"Endpoints are mirrored by policy", "derived from Services by the standby's own controller"},
	{"endpointSlices", Exclude, func(p *Policy) Action { return p.EndpointSlices }, sel("discovery.k8s.io", "endpointslices"),
		"EndpointSlices are mirrored by policy", "derived from Services by the standby's own controller"},
	{"storageClasses", Exclude, func(p *Policy) Action { return p.StorageClasses }, sel("storage.k8s.io", "storageclasses"),
		"storage classes are the same on both sites, by policy", "storage back ends differ per site"},
	{"csiDrivers", Exclude, func(p *Policy) Action { return p.CSIDrivers }, sel("storage.k8s.io", "csidrivers"),
		"CSI drivers are the same on both sites, by policy", "belongs to the driver that is installed locally"},
	{"volumeAttributesClasses", Exclude, func(p *Policy) Action { return p.VolumeAttributesClasses }, sel("storage.k8s.io", "volumeattributesclasses"),
		"storage classes are the same on both sites, by policy", "storage back ends differ per site"},
	{"webhookConfigurations", Exclude, func(p *Policy) Action { return p.WebhookConfigurations },
		sel("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
		"webhooks are reachable from both sites, by policy", "a webhook that the standby cannot reach blocks its API"},
	{"flowSchemas", Include, func(p *Policy) Action { return p.FlowSchemas }, sel("flowcontrol.apiserver.k8s.io", "flowschemas"),
		"not one of the apiserver's own", "flow schemas are not mirrored, by policy"},
	{"priorityLevelConfigurations", Include, func(p *Policy) Action { return p.PriorityLevelConfigurations },
		sel("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
		"not one of the apiserver's own", "priority levels are not mirrored, by policy"},
	{"clusterTrustBundles", Include, func(p *Policy) Action { return p.ClusterTrustBundles }, sel("certificates.k8s.io", "clustertrustbundles"),
		"not the bundle of the cluster's own CA", "trust bundles are not mirrored, by policy"},
	{"resourceClaims", Exclude, func(p *Policy) Action { return p.ResourceClaims }, sel("resource.k8s.io", "resourceclaims"),
		"ResourceClaims are mirrored by policy", "allocated to devices of the primary's nodes"},
	{"serviceCIDRs", Include, func(p *Policy) Action { return p.ServiceCIDRs }, sel("networking.k8s.io", "servicecidrs"),
		"mirrored Services may have addresses of it", "service networks are not mirrored, by policy"},
	{"aggregatedAPIServices", Exclude, func(p *Policy) Action { return p.AggregatedAPIServices }, sel("apiregistration.k8s.io", "apiservices"),
		"not of a built-in group, and mirrored by policy", "made by the standby for its own CRDs, or served by something it may not have"},
	{"podSecurityPolicies", Include, func(p *Policy) Action { return p.PodSecurityPolicies }, sel("policy", "podsecuritypolicies"),
		"user state up to Kubernetes 1.24, inert later", "PodSecurityPolicies are not mirrored, by policy"},
	{"openShiftOAuth", Exclude, func(p *Policy) Action { return p.OpenShiftOAuth },
		sel("oauth.openshift.io", "oauthaccesstokens", "oauthauthorizetokens", "oauthclients", "oauthclientauthorizations"),
		"OAuth state is mirrored by policy", "tied to this cluster's OAuth server"},
	{"aggregatedSubtrees", Exclude, func(p *Policy) Action { return p.AggregatedSubtrees }, Rule{class: classAggregated},
		"subtrees of aggregated apiservers are mirrored by policy", "belongs to an aggregated apiserver, which the standby may not have"},
	{"unknownResources", Exclude, func(p *Policy) Action { return p.UnknownResources }, Rule{class: classUnknown},
		"unknown resources are mirrored by policy", "a resource that this version does not know: user data or state of one cluster"},
	{"unclassified", Exclude, func(p *Policy) Action { return p.Unclassified }, Rule{class: classUnclassified},
		"unclassified keys are mirrored by policy", "the grammar of Kubernetes keys does not place it"},
}

// sel is the selector of some resources of one group.
func sel(group string, resources ...string) Rule {
	return Rule{Groups: []string{selectorGroup(group)}, Resources: resources}
}

// action is the field's choice in p, the default filled in.
func (f *policyField) action(p *Policy) Action {
	if a := f.get(p); a != "" {
		return a
	}
	return f.fallback
}

// rule is the last rule but one for what the field selects.
func (f *policyField) rule(p *Policy) Rule {
	r := f.selects
	r.Name, r.Action, r.Reason = "policy/"+f.name, f.action(p), f.exclude
	if r.Action == Include {
		r.Reason = f.include
	}
	return r
}

// validate checks the values and the one pair of fields that must agree.
func (p *Policy) validate() []error {
	var errs []error
	for i := range policyFields {
		f := &policyFields[i]
		if a := f.get(p); a != "" && a != Include && a != Exclude {
			errs = append(errs, &ConfigError{Field: "policy." + f.name, Value: string(a), Problem: "is not a policy",
				Hint: "use include or exclude, or leave it out for " + string(f.fallback)})
		}
	}
	volumes, claims := p.PersistentVolumes, p.PersistentVolumeClaims
	if len(errs) == 0 && (volumes == Include) != (claims == Include) {
		errs = append(errs, &ConfigError{Field: "policy.persistentVolumes",
			Problem: "differs from policy.persistentVolumeClaims: a volume without its claim is released and may be deleted at the storage, a claim without its volume is lost",
			Hint:    "set both to the same value, and use rules for single objects"})
	}
	return errs
}
