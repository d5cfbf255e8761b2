package keyspace

import (
	"strings"
)

// Kubernetes resources whose place in a copy is known from the key. Everything else follows its owners, read from the values (see etcdmirror's placer).
// The segments are those of the storage layer: SpecialDefaultResourcePrefixes and lower-case plurals.
const (
	segmentCRDs            = "apiextensions.k8s.io/customresourcedefinitions/"
	segmentNamespaces      = "namespaces/"
	segmentServiceAccounts = "serviceaccounts/"
)

// ownersFirst lists resources that own others of the list, so that most dependents find their owners already written.
// It saves reading values twice; the order itself is kept by UIDs.
var ownersFirst = []string{"deployments/", "statefulsets/", "daemonsets/", "cronjobs/", "jobs/", "replicasets/", "controllers/"}

// Rank is a key's place among the groups that are copied one after another.
type Rank int

// The ranks, in the order of a copy.
const (
	RankCRD Rank = iota
	RankNamespace
	RankServiceAccount
	RankOwners // and len(ownersFirst) more
)

// RankRest is the rank of everything that no group claims.
var RankRest = RankOwners + Rank(len(ownersFirst))

// Ranker finds ranks for keys below a source prefix.
type Ranker struct {
	prefix string
	// depth is how many leading segments may come before the resource's: 0 below a Kubernetes prefix, more when the whole key space is mirrored.
	depth int
}

// SourceRanks ranks the source's keys.
func (s *Space) SourceRanks() Ranker { return ranks(s.Source) }

// TargetRanks ranks the target's keys.
func (s *Space) TargetRanks() Ranker {
	r := s.SourceRanks()
	r.prefix = s.Target
	return r
}

func ranks(prefix string) Ranker {
	if prefix == "" {
		return Ranker{depth: 3}
	}
	return Ranker{prefix: prefix}
}

// Of returns the rank of a key and what follows its resource's segment.
func (r Ranker) Of(key string) (Rank, string) {
	rest := key[len(r.prefix):]
	for depth := 0; ; depth++ {
		if name, ok := strings.CutPrefix(rest, segmentCRDs); ok {
			return RankCRD, name
		}
		if name, ok := strings.CutPrefix(rest, segmentNamespaces); ok {
			return RankNamespace, name
		}
		if name, ok := strings.CutPrefix(rest, segmentServiceAccounts); ok {
			return RankServiceAccount, name
		}
		for i, segment := range ownersFirst {
			if strings.HasPrefix(rest, segment) {
				return RankOwners + Rank(i), ""
			}
		}
		var ok bool
		if depth >= r.depth {
			return RankRest, ""
		}
		if _, rest, ok = strings.Cut(rest, "/"); !ok {
			return RankRest, ""
		}
	}
}

// Resource returns the part of a key that its resource's keys share: the first segment below the prefix, and the second where the first is a group or is shared
// by two resources. It is a guess, for what needs no certainty.
func (r Ranker) Resource(key string) string {
	first := r.Segment(key)
	if name := first[strings.LastIndexByte(first, '/')+1:]; !strings.Contains(name, ".") && name != "services" {
		return first
	}
	rest := strings.TrimPrefix(key[len(first):], "/")
	second, _, _ := strings.Cut(rest, "/")
	return key[:len(key)-len(rest)+len(second)]
}

// Segment returns the part of a key that tells one resource's watchers from another's: its first segment below the prefix.
// It is coarser than a resource for groups of custom resources, which errs on the safe side.
func (r Ranker) Segment(key string) string {
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

// DeleteOrder arranges keys for deletion: what lives in namespaces and under definitions goes before these.
func (r Ranker) DeleteOrder(keys []string) [][]string {
	var groups [RankOwners + 1][]string
	for _, key := range keys {
		rank, _ := r.Of(key)
		rank = min(rank, RankOwners)
		groups[rank] = append(groups[rank], key)
	}
	var order [][]string
	for _, rank := range []Rank{RankOwners, RankServiceAccount, RankNamespace, RankCRD} {
		if len(groups[rank]) > 0 {
			order = append(order, groups[rank])
		}
	}
	return order
}
