package etcdmirror

import (
	"slices"
	"strings"
)

// Kubernetes resources whose place in a copy is known from the key. Everything else follows its owners, read from the values (see placer).
// The segments are those of the storage layer: SpecialDefaultResourcePrefixes and lower-case plurals.
const (
	segmentCRDs            = "apiextensions.k8s.io/customresourcedefinitions/"
	segmentNamespaces      = "namespaces/"
	segmentServiceAccounts = "serviceaccounts/"
	defaultServiceAccount  = "default"
)

// ownersFirst lists resources that own others of the list, so that most dependents find their owners already written.
// It saves reading values twice; the order itself is kept by UIDs.
var ownersFirst = []string{"deployments/", "statefulsets/", "daemonsets/", "cronjobs/", "jobs/", "replicasets/", "controllers/"}

// rank is a key's place among the groups that are copied one after another.
type rank int

const (
	rankCRD rank = iota
	rankNamespace
	rankServiceAccount
	rankOwners // and len(ownersFirst) more
)

// rankRest is the rank of everything that no group claims.
var rankRest = rankOwners + rank(len(ownersFirst))

// ranker finds ranks for keys below a source prefix.
type ranker struct {
	prefix string
	// depth is how many leading segments may come before the resource's: 0 below a Kubernetes prefix, more when the whole key space is mirrored.
	depth int
}

func (m *Mirror) ranker() ranker {
	if m.cfg.AllKeys {
		return ranker{depth: 3}
	}
	return ranker{prefix: m.keys.source}
}

// of returns the rank of a key and what follows its resource's segment.
func (r ranker) of(key string) (rank, string) {
	rest := key[len(r.prefix):]
	for depth := 0; ; depth++ {
		if name, ok := strings.CutPrefix(rest, segmentCRDs); ok {
			return rankCRD, name
		}
		if name, ok := strings.CutPrefix(rest, segmentNamespaces); ok {
			return rankNamespace, name
		}
		if name, ok := strings.CutPrefix(rest, segmentServiceAccounts); ok {
			return rankServiceAccount, name
		}
		for i, segment := range ownersFirst {
			if strings.HasPrefix(rest, segment) {
				return rankOwners + rank(i), ""
			}
		}
		var ok bool
		if depth >= r.depth {
			return rankRest, ""
		}
		if _, rest, ok = strings.Cut(rest, "/"); !ok {
			return rankRest, ""
		}
	}
}

// segment returns the part of a key that tells one resource's watchers from another's: its first segment below the prefix.
// It is coarser than a resource for groups of custom resources, which errs on the safe side.
func (r ranker) segment(key string) string {
	rest := key[len(r.prefix):]
	for depth := 0; depth < r.depth; depth++ {
		_, after, ok := strings.Cut(rest, "/")
		if !ok {
			break
		}
		rest = after
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return key[:len(key)-len(rest)+i]
	}
	return key
}

// copyOrder arranges entries, which come in key order, for copying. glued items must share a transaction with the one before:
// a live controller-manager makes a ServiceAccount "default" as soon as it sees a namespace.
// ends are the positions at which everything before must be committed before anything after is sent.
func (r ranker) copyOrder(entries []entry) (order []int32, glued map[int32]bool, ends []int) {
	groups := make([][]int32, rankRest+1)
	defaults := map[string]int32{} // namespace -> its ServiceAccount "default"
	var names []string             // of namespaces, in the order of their group
	for i := range entries {
		rank, name := r.of(entries[i].key)
		if rank == rankServiceAccount {
			if ns, sa, ok := strings.Cut(name, "/"); ok && sa == defaultServiceAccount {
				defaults[ns] = int32(i)
			}
		}
		if rank == rankNamespace {
			names = append(names, name)
		}
		groups[rank] = append(groups[rank], int32(i))
	}
	order = make([]int32, 0, len(entries))
	glued = map[int32]bool{}
	for rank, group := range groups {
		switch rank := rank; {
		case rank == int(rankNamespace):
			for j, i := range group {
				order = append(order, i)
				if sa, ok := defaults[names[j]]; ok {
					order = append(order, sa)
					glued[sa] = true
				}
			}
		case rank == int(rankServiceAccount):
			order = append(order, slices.DeleteFunc(group, func(i int32) bool { return glued[i] })...)
		default:
			order = append(order, group...)
		}
		if rank <= int(rankServiceAccount) && len(order) > 0 {
			ends = append(ends, len(order))
		}
	}
	return order, glued, ends
}

// deleteOrder arranges keys for deletion: what lives in namespaces and under definitions goes before these.
func (r ranker) deleteOrder(keys []string) [][]string {
	var groups [rankOwners + 1][]string
	for _, key := range keys {
		rank, _ := r.of(key)
		rank = min(rank, rankOwners)
		groups[rank] = append(groups[rank], key)
	}
	var order [][]string
	for _, rank := range []rank{rankOwners, rankServiceAccount, rankNamespace, rankCRD} {
		if len(groups[rank]) > 0 {
			order = append(order, groups[rank])
		}
	}
	return order
}
