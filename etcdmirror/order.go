package etcdmirror

import (
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

// defaultServiceAccount is what every namespace has.
const defaultServiceAccount = "default"

// copyOrder arranges entries, which come in key order, for copying. glued items must share a transaction with the one before:
// a live controller-manager makes a ServiceAccount "default" as soon as it sees a namespace.
// ends are the positions at which everything before must be committed before anything after is sent.
func copyOrder(r keyspace.Ranker, entries []entry) (order []int32, glued map[int32]bool, ends []int) {
	groups := make([][]int32, keyspace.RankRest+1)
	defaults := map[string]int32{} // namespace -> its ServiceAccount "default"
	var names []string             // of namespaces, in the order of their group
	for i := range entries {
		rank, name := r.Of(entries[i].key)
		if rank == keyspace.RankServiceAccount {
			if ns, sa, ok := strings.Cut(name, "/"); ok && sa == defaultServiceAccount {
				defaults[ns] = int32(i)
			}
		}
		if rank == keyspace.RankNamespace {
			names = append(names, name)
		}
		groups[rank] = append(groups[rank], int32(i))
	}
	order = make([]int32, 0, len(entries))
	glued = map[int32]bool{}
	for rank, group := range groups {
		switch rank := rank; {
		case rank == int(keyspace.RankNamespace):
			for j, i := range group {
				order = append(order, i)
				if sa, ok := defaults[names[j]]; ok {
					order = append(order, sa)
					glued[sa] = true
				}
			}
		case rank == int(keyspace.RankServiceAccount):
			order = append(order, slices.DeleteFunc(group, func(i int32) bool { return glued[i] })...)
		default:
			order = append(order, group...)
		}
		if rank <= int(keyspace.RankServiceAccount) && len(order) > 0 {
			ends = append(ends, len(order))
		}
	}
	return order, glued, ends
}
