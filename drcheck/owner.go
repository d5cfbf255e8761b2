package drcheck

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// ownerReference names an owner of an object as metadata.ownerReferences does.
type ownerReference struct {
	APIVersion, Kind, Name, UID string
}

// Field numbers of owner references in an object's metadata, and of what is in them.
const (
	metaOwnerReferences = 13
	ownerKind           = 1
	ownerName           = 3
	ownerUID            = 4
	ownerAPIVersion     = 5
)

// readOwners returns the owner references of a stored object that have a UID; nil when the value cannot be read.
func readOwners(value []byte) []ownerReference {
	if kubemeta.Protobuf(value) {
		return protobufOwners(value)
	}
	meta, _ := decodeFields(value)[fieldMetadata].(map[string]any)
	references, _ := meta["ownerReferences"].([]any)
	var owners []ownerReference
	for _, reference := range references {
		fields, _ := reference.(map[string]any)
		var o ownerReference
		o.APIVersion, _ = fields["apiVersion"].(string)
		o.Kind, _ = fields["kind"].(string)
		o.Name, _ = fields["name"].(string)
		o.UID, _ = fields["uid"].(string)
		if o.UID != "" {
			owners = append(owners, o)
		}
	}
	return owners
}

func protobufOwners(value []byte) (owners []ownerReference) {
	s, ok := splitObject(value)
	if !ok {
		return nil
	}
	for _, f := range s.meta {
		if f.num != metaOwnerReferences {
			continue
		}
		var o ownerReference
		kubemeta.EachField(f.content, func(num protowire.Number, _ protowire.Type, content []byte) bool {
			switch num {
			case ownerKind:
				o.Kind = string(content)
			case ownerName:
				o.Name = string(content)
			case ownerUID:
				o.UID = string(content)
			case ownerAPIVersion:
				o.APIVersion = string(content)
			}
			return true
		})
		if o.UID != "" {
			owners = append(owners, o)
		}
	}
	return owners
}

// ownerKeys returns the storage keys under which an apiserver may keep an owner, the likeliest first: a reference names the kind, a key the resource. There are 12 at most.
// What is found under one of them is the owner only if it has the UID.
//
// The prefix is that of the objects' keys (--etcd-prefix), the namespace the dependent's, "" if it has none: an owner is in the same namespace or in none.
// A reference that names no object gives nil.
func ownerKeys(prefix string, namespace string, o ownerReference) []string {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil || gv.Version == "" || !isSegment(o.Kind) || !isSegment(o.Name) || gv.Group != "" && !isSegment(gv.Group) {
		return nil
	}
	var keys []string
	prefix = strings.TrimSuffix(prefix, "/") + "/"
	if prefix == ownOfOpenShift {
		prefix = kubeOfOpenShift
	}
	for _, dir := range ownerDirs(prefix, gv.Group, o.Kind) {
		if isSegment(namespace) {
			keys = append(keys, dir+namespace+"/"+o.Name)
		}
		keys = append(keys, dir+o.Name)
	}
	return keys
}

// isSegment reports whether a name can be part of a key.
func isSegment(name string) bool { return name != "" && len(content.IsPathSegmentName(name)) == 0 }

// On OpenShift two kinds of apiservers share the etcd: kube-apiserver, and OpenShift's own for some of the groups that end with .openshift.io. Owners are on either side.
const (
	kubeOfOpenShift = "/kubernetes.io/"
	ownOfOpenShift  = "/openshift.io/"
)

// ownerDirs returns where the objects of a kind may be, with a slash at the end.
func ownerDirs(prefix, group, kind string) []string {
	if dir, ok := irregularDirs[schema.GroupKind{Group: group, Kind: kind}]; ok {
		return []string{prefix + dir + "/"}
	}
	// Groups without a dot are built in: a CustomResourceDefinition must have one. Of the others kube-apiserver keeps its own resources without the group,
	// custom resources with it. A group may be newer than this table, so that both are tried.
	plain, grouped := prefix, prefix+group+"/"
	if prefix == kubeOfOpenShift && strings.HasSuffix(group, ".openshift.io") {
		plain = ownOfOpenShift
	}
	parents := []string{grouped, plain}
	switch {
	case !strings.Contains(group, "."):
		parents = []string{plain}
	case slices.Contains(builtinGroups, group):
		parents = []string{plain, grouped}
	}
	var dirs []string
	for _, parent := range parents {
		for _, plural := range plurals(strings.ToLower(kind)) {
			dirs = append(dirs, parent+plural+"/")
		}
	}
	return dirs
}

// irregularDirs are the resources of kube-apiserver that are not kept under their plural.
var irregularDirs = map[schema.GroupKind]string{
	{Kind: "Node"}:                                                    "minions",
	{Kind: "Service"}:                                                 "services/specs",
	{Kind: "Endpoints"}:                                               "services/endpoints",
	{Kind: "ReplicationController"}:                                   "controllers",
	{Group: "networking.k8s.io", Kind: "Ingress"}:                     "ingress",
	{Group: "extensions", Kind: "Ingress"}:                            "ingress",
	{Group: "policy", Kind: "PodSecurityPolicy"}:                      "podsecuritypolicy",
	{Group: "extensions", Kind: "PodSecurityPolicy"}:                  "podsecuritypolicy",
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:             "apiregistration.k8s.io/apiservices",
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: "apiextensions.k8s.io/customresourcedefinitions",
}

// builtinGroups are the groups with a dot whose resources kube-apiserver keeps without the group.
var builtinGroups = []string{
	"admissionregistration.k8s.io", "certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io", "flowcontrol.apiserver.k8s.io",
	"internal.apiserver.k8s.io", "lifecycle.k8s.io", "networking.k8s.io", "node.k8s.io", "rbac.authorization.k8s.io", "resource.k8s.io", "scheduling.k8s.io",
	"storage.k8s.io", "storagemigration.k8s.io",
}

// plurals guesses the resource of a kind in lower case, up to three times. English decides for most kinds, and authors of custom resources for some.
func plurals(kind string) []string {
	const vowels = "aeiou"
	last := len(kind) - 1
	switch {
	case strings.HasSuffix(kind, "s"):
		return []string{kind + "es", kind}
	case strings.HasSuffix(kind, "x"), strings.HasSuffix(kind, "z"), strings.HasSuffix(kind, "ch"), strings.HasSuffix(kind, "sh"):
		return []string{kind + "es", kind, kind + "s"}
	case strings.HasSuffix(kind, "y") && last > 0 && !strings.Contains(vowels, kind[last-1:last]):
		return []string{kind[:last] + "ies", kind, kind + "s"}
	case strings.HasSuffix(kind, "y"):
		return []string{kind + "s", kind[:last] + "ies", kind}
	}
	return []string{kind + "s", kind, kind + "es"}
}
