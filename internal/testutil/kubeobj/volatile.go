package kubeobj

import (
	"iter"
	"math/rand/v2"
)

// volatileKinds are what a running cluster writes by itself. The ReplicaSets are there to own the Pods.
var volatileKinds = []kind{
	{"replicasets", "apps/v1", "ReplicaSet", "burst-rs-%06d", false, 0, 5, -1, 0},
	{"events", "v1", "Event", "burst.%012x", false, 0, 45, -1, 0},
	{"leases", "coordination.k8s.io/v1", "Lease", "holder-%06d", false, 0, 20, -1, 0},
	{"pods", "v1", "Pod", "burst-pod-%06d", false, 0, 30, 0, 1},
}

// Volatile yields n pairs of the kinds that a cluster writes by itself and that mirrors may leave out: Events, Leases, Pods,
// and the ReplicaSets that own the Pods. Their names differ from those of Dataset; owners come first.
func Volatile(rng *rand.Rand, n int) iter.Seq2[string, []byte] {
	return pairs(func(yield func(item) bool) {
		s := newSet(rng, volatileKinds, maxNamespaces)
		s.share(n)
		s.each(yield)
	})
}
