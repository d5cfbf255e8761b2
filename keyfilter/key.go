package keyfilter

import (
	"path"
	"strings"
	"unicode/utf8"
)

const (
	// DefaultPrefix is the kube-apiserver's default --etcd-prefix.
	DefaultPrefix = "/registry"
	// OpenShiftPrefix is the --etcd-prefix of OpenShift's own apiservers. Below it, and only there, a few resources
	// have a path of two segments (oauth/clients). OpenShift's kube-apiserver uses "/kubernetes.io", with no rules of its own.
	OpenShiftPrefix = "/openshift.io"
	// CompactRevisionKey is the one key that a kube-apiserver keeps outside of its prefix.
	CompactRevisionKey = "compact_rev_key"
)

// Scope says what kind of thing a key holds.
type Scope uint8

const (
	// Unclassified is a key under the prefix that the grammar cannot place; Key.Reason says why. It is the zero value, so
	// that a forgotten case is never taken for an object.
	Unclassified Scope = iota
	// Namespaced is an object of a namespace.
	Namespaced
	// Cluster is an object without a namespace.
	Cluster
	// Internal is bookkeeping of the apiserver or etcd's compactor, no API object: masterleases, peerserverleases,
	// ranges, compact_rev_key.
	Internal
	// Outside is a key that is not under the prefix.
	Outside
)

// String returns the scope's name in lower case.
func (s Scope) String() string {
	switch s {
	case Unclassified:
		return "unclassified"
	case Namespaced:
		return "namespaced"
	case Cluster:
		return "cluster"
	case Internal:
		return "internal"
	case Outside:
		return "outside"
	}
	return "invalid"
}

// Key is what a key of etcd says about the object it holds. The fields of an Unclassified or Outside key are empty,
// Prefix (Unclassified) and Reason apart: nothing is guessed.
type Key struct {
	// Prefix is the etcd prefix with both slashes, "/registry/". Empty for keys outside of it.
	Prefix string
	// ResourcePrefix is the path between Prefix and the namespace or name, without slashes at its ends: "pods",
	// "services/specs", "stable.example.com/widgets". The kube-apiserver keeps one watch cache per ResourcePrefix.
	ResourcePrefix string
	// Subtree is the first segment of ResourcePrefix if the key belongs to an aggregated apiserver that keeps its
	// objects inside of the prefix of the kube-apiserver, and empty otherwise.
	Subtree string
	// Group is the API group; empty is the core group if GroupKnown, and unknown if not.
	Group string
	// GroupKnown is false for a resource without a dot in its path that is not in the table: a resource newer than this
	// package, or one of another apiserver. Its scope follows from the number of segments, its group from nothing.
	GroupKnown bool
	// Resource is the plural as the API spells it: "nodes", although the key says "minions".
	Resource string
	// Namespace is empty unless Scope is Namespaced.
	Namespace string
	// Name is the object's name. For Internal keys it is the rest of the path.
	Name string
	// Scope tells objects from other keys.
	Scope Scope
	// Reason says why a key is Unclassified or Outside. Empty otherwise.
	Reason string
}

// Path puts the key together again. It is the exact key for all scopes but Unclassified and Outside, for which it is empty.
func (k Key) Path() string {
	switch k.Scope {
	case Namespaced:
		return k.Prefix + k.ResourcePrefix + "/" + k.Namespace + "/" + k.Name
	case Cluster:
		return k.Prefix + k.ResourcePrefix + "/" + k.Name
	case Internal:
		if k.Name == "" {
			return k.ResourcePrefix
		}
		return k.Prefix + k.ResourcePrefix + "/" + k.Name
	}
	return ""
}

// Parse reads a key by the grammar of the package documentation. prefix is the apiserver's --etcd-prefix, with or without
// slashes at its ends; empty is DefaultPrefix. Every key has a result, and a key that the grammar cannot place is
// Unclassified with a Reason. The error is a *ConfigError about the prefix, never about the key.
func Parse(prefix string, key []byte) (Key, error) {
	norm, err := normalizePrefix(prefix)
	if err != nil {
		return Key{}, err
	}
	var p parts
	p.scan(norm, key)
	return p.key(norm, key), nil
}

// normalizePrefix does what the apiserver does with --etcd-prefix: path.Join("/", prefix) + "/".
func normalizePrefix(prefix string) (string, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	for _, r := range prefix {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return "", &ConfigError{Field: "prefix", Value: prefix, Problem: "has a control character or is not UTF-8",
				Hint: "give the apiserver's --etcd-prefix, for example " + DefaultPrefix}
		}
	}
	joined := path.Join("/", prefix)
	if !strings.HasSuffix(joined, "/") {
		joined += "/"
	}
	return joined, nil
}

// Reasons of Unclassified and Outside keys. Constants, because Match must not allocate.
const (
	whyOutside       = "not under the etcd prefix"
	whyEmptySegment  = "an empty path segment, or a slash at the end"
	whyDotSegment    = "a path segment '.' or '..', which no Kubernetes name can be"
	whyPercent       = "a '%', which no Kubernetes name can contain"
	whyControl       = "a control character or NUL"
	whyUTF8          = "not valid UTF-8"
	whyOneSegment    = "one path segment only: a resource without a name"
	whyTooDeep       = "more path segments than any object has"
	whyServices      = "below services only specs/<namespace>/<name> and endpoints/<namespace>/<name> exist"
	whyWantCluster   = "a namespace, but the resource is cluster-scoped"
	whyWantNamespace = "the wrong number of segments for a resource that is namespaced"
	whyNamespace     = "the segment in the namespace's place is not a DNS label"
	whyResource      = "the segment in the resource's place is not a DNS label"
	whyGroup         = "the first segment has a dot but is not a valid API group"
	whyElsewhere     = "a built-in resource that is stored under another path segment"
	whyNoName        = "an API group and a resource without a name"
	whySubtree       = "inside the subtree of an aggregated apiserver, but not group/resource/[namespace/]name"
	whyOpenShift     = "a path of OpenShift 3 or an unknown one below a segment that OpenShift groups resources under"
)

// Indices of the internal segments, also those of a Filter's fixed rules.
const (
	internalCompact = iota
	internalMasterLeases
	internalPeerServerLeases
	internalRanges
	internalCount
)

// parts is the allocation-free form of Key: sub-slices of the key, and a pointer into the table.
type parts struct {
	entry    *resource // nil for custom and unknown resources
	group    []byte    // of a custom resource; entry has the others
	resource []byte    // of a custom or unknown resource
	ns, name []byte
	why      string
	resLen   int // length of the resource prefix within the key
	subLen   int // length of the subtree's segment
	internal int
	scope    Scope
}

// key makes the exported form. It copies: nothing of raw is kept.
func (p *parts) key(prefix string, raw []byte) Key {
	k := Key{Scope: p.scope, Reason: p.why}
	if p.scope == Outside {
		return k
	}
	if p.scope == Internal && p.internal == internalCompact {
		k.ResourcePrefix = CompactRevisionKey
		return k
	}
	k.Prefix = prefix
	if p.scope == Unclassified {
		return k
	}
	rest := raw[len(prefix):]
	k.ResourcePrefix = string(rest[:p.resLen])
	k.Subtree = string(rest[:p.subLen])
	k.Namespace, k.Name = string(p.ns), string(p.name)
	switch {
	case p.scope == Internal:
		k.Resource = k.ResourcePrefix
	case p.entry != nil:
		k.Group, k.GroupKnown, k.Resource = p.entry.group, true, p.entry.resource
	default:
		k.Group, k.GroupKnown, k.Resource = string(p.group), len(p.group) > 0, string(p.resource)
	}
	return k
}
