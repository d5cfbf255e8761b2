package kubeobj

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
)

// kind is one resource of a data set. Objects of a kind are numbered; names, namespaces and UIDs follow from the number,
// so that a dependent can name its owner without anybody remembering it.
type kind struct {
	path             string // between the prefix and the namespace
	apiVersion, kind string
	name             string // of object i, with one %d
	json             bool   // stored as JSON: a custom resource
	encrypted        int    // every n-th is encrypted at rest; 0: none
	share            int    // of 100 namespaced objects
	owner            int    // the index of the owner's kind in its table; -1: none
	depth            int    // owners above it
}

const (
	serviceAccounts = iota
	configMaps
	secrets
	deployments
	services
	databases
	replicaSets
	endpointSlices
	backups
	databaseConfigs
	backupConfigs
)

// kinds are ordered by depth. The shares add up to 100.
var kinds = []kind{
	serviceAccounts: {"serviceaccounts", "v1", "ServiceAccount", "robot-%06d", false, 0, 4, -1, 0},
	configMaps:      {"configmaps", "v1", "ConfigMap", "settings-%06d", false, 0, 18, -1, 0},
	secrets:         {"secrets", "v1", "Secret", "credentials-%06d", false, 3, 20, -1, 0},
	deployments:     {"deployments", "apps/v1", "Deployment", "web-%06d", false, 0, 8, -1, 0},
	services:        {"services/specs", "v1", "Service", "service-%06d", false, 0, 6, -1, 0},
	databases:       {"stable.example.com/databases", "stable.example.com/v1", "Database", "db-%06d", true, 0, 6, -1, 0},
	replicaSets:     {"replicasets", "apps/v1", "ReplicaSet", "web-rs-%06d", false, 0, 14, deployments, 1},
	endpointSlices:  {"endpointslices", "discovery.k8s.io/v1", "EndpointSlice", "service-slice-%06d", false, 0, 6, services, 1},
	backups:         {"stable.example.com/backups", "stable.example.com/v1", "Backup", "backup-%06d", true, 0, 8, databases, 1},
	databaseConfigs: {"configmaps", "v1", "ConfigMap", "db-config-%06d", false, 0, 6, databases, 1},
	backupConfigs:   {"configmaps", "v1", "ConfigMap", "backup-config-%06d", false, 0, 4, backups, 2},
}

const (
	prefix        = "/registry/"
	maxNamespaces = 50
)

// item is one pair of a data set with the number of owners above it.
type item struct {
	key   string
	value []byte
	depth int
}

// Dataset yields n pairs as a cluster holds them: namespaces, CRDs, and below about 50 namespaces workloads with their owner
// references, custom resources as JSON, and Secrets of which some are encrypted. Owners come before their dependents.
// 90 % of the values have 1 to 2 KiB, the mean is about 2.3 KiB, the largest has 64 KiB.
func Dataset(rng *rand.Rand, n int) iter.Seq2[string, []byte] { return pairs(dataset(rng, n)) }

func pairs(items iter.Seq[item]) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for it := range items {
			if !yield(it.key, it.value) {
				return
			}
		}
	}
}

// dataset may be ranged over once: it draws from rng.
func dataset(rng *rand.Rand, n int) iter.Seq[item] {
	return func(yield func(item) bool) {
		s := newSet(rng, kinds, min(maxNamespaces, max(1, n/20)))
		var heads []item
		for i := range s.namespaces {
			heads = append(heads, s.head("namespaces/", "v1", "Namespace", namespace(i)))
		}
		for _, crd := range []string{"databases.stable.example.com", "backups.stable.example.com"} {
			heads = append(heads, s.head("apiextensions.k8s.io/customresourcedefinitions/", "apiextensions.k8s.io/v1", "CustomResourceDefinition", crd))
		}
		heads = heads[:min(n, len(heads))]
		for _, it := range heads {
			if !yield(it) {
				return
			}
		}
		s.share(n - len(heads))
		s.each(yield)
	}
}

// set is a data set in the making.
type set struct {
	rng        *rand.Rand
	salt       [2]uint64
	kinds      []kind
	namespaces int
	counts     []int // objects of each kind
}

func newSet(rng *rand.Rand, kinds []kind, namespaces int) *set {
	return &set{rng: rng, salt: [2]uint64{rng.Uint64(), rng.Uint64()}, kinds: kinds, namespaces: namespaces, counts: make([]int, len(kinds))}
}

// share gives each kind its part of n objects; what rounding leaves goes to ConfigMaps or whatever comes second.
func (s *set) share(n int) {
	left := n
	for k, spec := range s.kinds {
		s.counts[k] = n * spec.share / 100
		left -= s.counts[k]
	}
	s.counts[1] += left
}

func (s *set) each(yield func(item) bool) {
	for k, spec := range s.kinds {
		for i := range s.counts[k] {
			o := s.object(k, i)
			it := item{key: prefix + spec.path + "/" + o.Namespace + "/" + o.Name, depth: spec.depth}
			switch {
			case spec.encrypted > 0 && i%spec.encrypted == 0:
				it.value = o.Encrypted("aescbc", "key1")
			case spec.json:
				it.value = o.JSON()
			default:
				it.value = o.Protobuf()
			}
			if !yield(it) {
				return
			}
		}
	}
}

func (s *set) object(k, i int) Object {
	o := s.identity(k, i)
	if owner := s.kinds[k].owner; owner >= 0 && s.counts[owner] > 0 {
		o.Owners = []Owner{s.identity(owner, i%s.counts[owner]).AsOwner()}
	}
	o.Labels = map[string]string{"app.kubernetes.io/name": o.Name, "app.kubernetes.io/part-of": o.Namespace}
	o.Generation, o.Fill = 1, s.rng.Uint64()
	bare := bareSize
	if s.kinds[k].json {
		bare += 150
	}
	o.Padding = max(0, valueSize(s.rng)-bare)
	return o
}

// identity is object i of a kind without content. Dependents live in the namespace of their owner.
func (s *set) identity(k, i int) Object {
	spec := s.kinds[k]
	o := Object{APIVersion: spec.apiVersion, Kind: spec.kind, Name: fmt.Sprintf(spec.name, i)}
	rootKind, root := k, i
	for s.kinds[rootKind].owner >= 0 && s.counts[s.kinds[rootKind].owner] > 0 {
		rootKind = s.kinds[rootKind].owner
		root %= s.counts[rootKind]
	}
	o.Namespace = namespace(int(mix(s.salt[0], uint64(rootKind)<<40|uint64(root)) % uint64(s.namespaces)))
	id := uint64(k)<<40 | uint64(i)
	o.UID = uidOf(mix(s.salt[0], ^id), mix(s.salt[1], ^id))
	return o
}

// head is a cluster-scoped object.
func (s *set) head(path, apiVersion, kind, name string) item {
	o := Object{
		APIVersion: apiVersion, Kind: kind, Name: name, UID: UID(s.rng),
		Labels: map[string]string{"kubernetes.io/metadata.name": name}, Padding: 800, Fill: s.rng.Uint64(),
	}
	value := o.Protobuf
	if kind == "CustomResourceDefinition" {
		value = o.JSON
	}
	return item{key: prefix + path + name, value: value()}
}

func namespace(i int) string { return fmt.Sprintf("team-%02d", i) }

// valueSize draws the size of a value in bytes: 90 % between 1 and 2 KiB, 2 % smaller, the rest a tail to 64 KiB.
func valueSize(rng *rand.Rand) int {
	const kib = 1024
	switch p := rng.IntN(100); {
	case p < 90:
		return kib*11/10 + rng.IntN(kib*8/10)
	case p < 92:
		return 400 + rng.IntN(500)
	default:
		u := rng.Float64()
		return int(2.2 * kib * math.Pow(29, math.Pow(u, 2.2)))
	}
}

// mix scatters an index over 64 bits (the finaliser of SplitMix64).
func mix(salt, x uint64) uint64 {
	x += salt
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
