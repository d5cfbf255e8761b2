package etcdmirror

import (
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

// defaultServiceAccount is what every namespace has.
const defaultServiceAccount = "default"

// copyOrder arranges entries, which come in key order, for copying. glued items must share a transaction with the one before:
// a live controller-manager makes a ServiceAccount "default" as soon as it sees a namespace.
// ends are the positions at which everything before must be committed before anything after is sent.
// What comes after ServiceAccounts is arranged by the levels of its resources, see ownerLevels; nil: by what usually owns others.
func copyOrder(r keyspace.Ranker, entries []entry, levels map[string]int) (order []int32, glued map[int32]bool, ends []int) {
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
	if len(levels) > 0 && len(order) > 0 {
		first := 0
		if len(ends) > 0 {
			first = ends[len(ends)-1]
		}
		copy(order[first:], byLevel(r, entries, order[first:], levels))
	}
	return order, glued, ends
}

// byLevel arranges entries by the levels of their resources, and leaves the order within each.
func byLevel(r keyspace.Ranker, entries []entry, group []int32, levels map[string]int) []int32 {
	groups := map[int][]int32{}
	for _, run := range resourceRuns(r, entries, group) {
		level := levels[r.Resource(entries[run[0]].key)]
		groups[level] = append(groups[level], run...)
	}
	ordered := make([]int32, 0, len(group))
	for _, level := range slices.Sorted(maps.Keys(groups)) {
		ordered = append(ordered, groups[level]...)
	}
	return ordered
}

// resourceRuns divides entries where another resource begins.
func resourceRuns(r keyspace.Ranker, entries []entry, group []int32) (runs [][]int32) {
	if len(group) == 0 {
		return nil
	}
	begin, resource := 0, ""
	for j, i := range group {
		key := entries[i].key
		if j > 0 && strings.HasPrefix(key, resource) && (len(key) == len(resource) || key[len(resource)] == '/') {
			continue
		}
		if j > 0 {
			runs = append(runs, group[begin:j])
		}
		begin, resource = j, r.Resource(key)
	}
	return append(runs, group[begin:])
}
