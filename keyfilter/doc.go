// Package keyfilter knows the grammar of the keys that Kubernetes apiservers keep in etcd, and decides which of them a
// mirror to another cluster may carry.
//
// Parse says what a key holds. A Filter, made by New, says whether the key is mirrored, by rules of which the first that
// matches decides. Match is for the hot path: it allocates nothing, and takes tens of nanoseconds for the keys of a cluster.
// Explain gives the same decision with the rule and its reason, and Hash identifies a set of rules, so that a mirror can tell
// that it was started with another one. Skips lists prefixes under which nothing is ever kept, which a reader of an etcd need
// not even watch.
//
// # Grammar
//
// The apiserver's prefix, path.Join("/", --etcd-prefix) + "/", is stripped and the rest is cut at its slashes:
//
//	<group>/<plural>/<name>                          first segment with a dot: a cluster-scoped custom resource, CRD or APIService
//	<group>/<plural>/<namespace>/<name>              a namespaced custom resource
//	<subtree>/<group>/<plural>/[<namespace>/]<name>  second segment with a dot as well: an aggregated apiserver's own subtree
//	services/specs/<namespace>/<name>                Services
//	services/endpoints/<namespace>/<name>            Endpoints
//	masterleases/… peerserverleases/… ranges/…       internal
//	<segment>/<name>                                 a cluster-scoped built-in resource
//	<segment>/<namespace>/<name>                     a namespaced built-in resource
//
// The segment is the plural except for controllers (replicationcontrollers), minions (nodes), ingress (ingresses) and
// podsecuritypolicy. compact_rev_key lies outside of the prefix. The group of a built-in resource is not in its key and
// comes from a table of all resources of Kubernetes 1.20 to 1.36. A resource of the table with the wrong number of segments
// is Unclassified, and so is everything that cannot be the key of an object: empty segments, ".", "..", "%", control
// characters, text that is not UTF-8, a namespace that is not a DNS label. A resource without a dot that is not in the table
// is placed by its shape, and its group is unknown (Key.GroupKnown).
//
// The same holds for OpenShift's kube-apiserver under /kubernetes.io; under /openshift.io a few resources have two segments,
// such as oauth/clients. It does not hold for kcp, which has one more level of logical clusters: do not use it there. An
// aggregated apiserver whose subtree looks like <group>/<plural>/… cannot be told from custom resources.
//
// # Rules
//
// The order is:
//
//  1. Fixed exclusions: keys outside of the prefixes and internal ones. Nothing overrules them.
//  2. Config.Rules, in their order.
//  3. The excluded namespaces: everything in them, and their Namespace objects.
//  4. State of one cluster: Nodes and what belongs to them, Events, Leases, allocated addresses, CA bundles such as
//     kube-root-ca.crt in every namespace, the kubernetes Service, and what every apiserver makes for itself: RBAC's system:*
//     roles, admin, edit, view and cluster-admin, priority classes system-*, flow control's defaults, the APIServices of
//     built-in groups.
//  5. Policy: the resources for which sites differ. Each field documents its default.
//  6. Everything else is the users' state and is mirrored.
//
// A filter sees keys and never values. What hangs on a label or a field of the object is approximated by the name, as the
// fields of Policy say in detail; a rule can name the objects for which that is wrong.
//
// An Include rule of step 2 decides for all that it selects, also for what step 4 would keep out, such as the leases in a
// namespace. To mirror an excluded namespace, take it off Config.ExcludedNamespaces rather than include it by a rule.
//
// New refuses what cannot be meant: a rule that repeats an earlier one or that an earlier one covers, selectors that no key
// can meet (a namespace for a cluster-scoped resource, a name with a slash), bad globs, unknown values.
//
// # What need not be read
//
// Most of what a cluster writes are Leases and Events, which the defaults drop as a whole. Skips names such resources by the
// prefix of their keys. Whoever uses the list must never see less than Match keeps, so a prefix is in it only if a rule that
// excludes all keys below it, malformed ones included, comes before any rule that might include one of them:
//
//   - a rule that includes by namespace or by name alone takes every resource off the list that may have such an object;
//     narrow it by groups and resources, to keep the others;
//   - a rule that includes a raw prefix takes off what lies below it and what it lies below;
//   - a rule that excludes a raw prefix puts it on, and goes in front of those that include;
//   - Policy.Unclassified include takes off everything, since a malformed key may lie anywhere.
//
// # YAML
//
// Load reads a Config from one strict YAML document. All fields may be left out; the fields are those of Config, Policy and
// Rule with a lower-case first letter.
//
//	# A filter for two sites that share their storage.
//	prefixes: [/registry]
//	excludedNamespaces:
//	- kube-system
//	- platform-*
//	policy:
//	  persistentVolumes: include
//	  persistentVolumeClaims: include
//	  cronJobs: include
//	rules:
//	- name: team-a-locks
//	  action: include
//	  reason: the lock holds business state
//	  groups: [coordination.k8s.io]
//	  resources: [leases]
//	  namespaces: [team-a]
//	  names: ["ledger-*"]
//	- name: scratch
//	  action: exclude
//	  reason: nobody misses it
//	  namespaces: ["scratch-*", playground]
//	- name: old-apiserver
//	  action: exclude
//	  reason: left over from an experiment
//	  prefixes: [/registry/wardle.example.com/]
//
// excludedNamespaces replaces the default list: left out it is DefaultExcludedNamespaces, and [] is none. A glob that begins
// with '*' has to be quoted in YAML.
package keyfilter
