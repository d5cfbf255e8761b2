package encryption

// The resources that kube-apiserver stores in etcd, to tell a misspelt one: kube-apiserver takes any name, and then encrypts nothing.
var (
	coreResources = set("configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes", "persistentvolumeclaims", "persistentvolumes", "pods", "podtemplates",
		"replicationcontrollers", "resourcequotas", "secrets", "serviceaccounts", "services")
	// groupOf has the group of resources that are often written without it.
	groupOf = map[string]string{
		"daemonsets": "apps", "deployments": "apps", "replicasets": "apps", "statefulsets": "apps", "controllerrevisions": "apps",
		"jobs": "batch", "cronjobs": "batch", "horizontalpodautoscalers": "autoscaling", "poddisruptionbudgets": "policy",
		"leases": "coordination.k8s.io", "endpointslices": "discovery.k8s.io",
		"ingresses": "networking.k8s.io", "ingressclasses": "networking.k8s.io", "networkpolicies": "networking.k8s.io",
		"roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io", "clusterroles": "rbac.authorization.k8s.io", "clusterrolebindings": "rbac.authorization.k8s.io",
		"priorityclasses": "scheduling.k8s.io", "storageclasses": "storage.k8s.io", "volumeattachments": "storage.k8s.io", "csidrivers": "storage.k8s.io", "csinodes": "storage.k8s.io",
		"mutatingwebhookconfigurations": "admissionregistration.k8s.io", "validatingwebhookconfigurations": "admissionregistration.k8s.io",
		"certificatesigningrequests": "certificates.k8s.io", "resourceclaims": "resource.k8s.io", "resourceclaimtemplates": "resource.k8s.io",
		"customresourcedefinitions": "apiextensions.k8s.io", "apiservices": "apiregistration.k8s.io",
		"oauthaccesstokens": "oauth.openshift.io", "oauthauthorizetokens": "oauth.openshift.io", "routes": "route.openshift.io",
	}
)

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, name := range names {
		m[name] = true
	}
	return m
}

// misspelt says what is odd about the name of a resource, "" if nothing is.
func misspelt(s spec) string {
	switch {
	case s.Resource == "*" || coreResources[s.Resource] && s.Group == "":
		return ""
	case s.Resource == "":
		return "names no resource, so that nothing is encrypted by it"
	case indexSlash(s.Resource) || indexSlash(s.Group):
		return "is a subresource or has a slash, but what is stored is the resource itself: name that"
	case groupOf[s.Resource] != "" && s.Group != groupOf[s.Resource] && s.Group == "":
		return "is no resource of the core group; write " + s.Resource + "." + groupOf[s.Resource]
	case coreResources[s.Resource+"s"] && s.Group == "":
		return "is no resource; write " + s.Resource + "s"
	case s.Group == "":
		return "is no resource of the core group that kube-apiserver stores, so that nothing is encrypted by it; others are written as resource.group"
	case s.Group == "core" || s.Group == "v1":
		return "is in no group that exists; resources of the core group are written without one"
	case groupOf[s.Resource+"s"] == s.Group:
		return "is no resource; write " + s.Resource + "s." + s.Group
	}
	return ""
}

func indexSlash(s string) bool {
	for i := range len(s) {
		if s[i] == '/' {
			return true
		}
	}
	return false
}
