package etcdmirror

import (
	"context"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// An object waits until its owners are placed, and one that waited is read twice where there are many. Resources are therefore copied after those that own them,
// as far as a few objects of each tell: custom resources may own anything, and nobody's list knows them. The order itself never depends on this guess.

const (
	// levelsFrom is how many entries make the guess worth its reads: of fewer, those that wait mostly fit into maxStash.
	levelsFrom = 16_000
	// levelSamples is how many objects of a resource are looked at.
	levelSamples = 24
)

// ownerLevels returns, for resources that are owned by others, how many of these stand above them in a chain; nil for a copy so small that it does not matter.
func (r *copyRound) ownerLevels(ctx context.Context) (map[string]int, error) {
	if len(r.entries) < levelsFrom {
		return nil, nil
	}
	var samples []int32
	all := make([]int32, len(r.entries))
	for i := range all {
		all[i] = int32(i)
	}
	for _, run := range resourceRuns(r.m.ranks, r.entries, all) {
		step := max(1, len(run)/levelSamples)
		for j := step / 2; j < len(run); j += step {
			samples = append(samples, run[j])
		}
	}
	g := newOwnerGraph()
	err := r.m.sources.Fetch(ctx, entryList{r.entries, samples}, r.pin, func(first int, kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			if kv != nil {
				g.add(r.m.ranks.Resource(string(kv.Key)), kv.Value)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g.levels(), nil
}

// ownerGraph is what samples tell of resources.
type ownerGraph struct {
	kinds  map[kubemeta.Kind]string          // the resource that holds a kind
	owners map[string]map[kubemeta.Kind]bool // of a resource's objects
}

func newOwnerGraph() *ownerGraph {
	return &ownerGraph{kinds: map[kubemeta.Kind]string{}, owners: map[string]map[kubemeta.Kind]bool{}}
}

func (g *ownerGraph) add(resource string, value []byte) {
	own, owners, ok := kubemeta.Kinds(value)
	if !ok {
		return
	}
	g.kinds[own] = resource
	for _, owner := range owners {
		if g.owners[resource] == nil {
			g.owners[resource] = map[kubemeta.Kind]bool{}
		}
		g.owners[resource][owner] = true
	}
}

// above returns the resources that own a resource's objects, in order.
func (g *ownerGraph) above(resource string) (owners []string) {
	for kind := range g.owners[resource] {
		if of, known := g.kinds[kind]; known {
			owners = append(owners, of)
		}
	}
	slices.Sort(owners)
	return owners
}

// levels returns the length of the longest chain of owning resources above each; of a cycle, one link does not count.
func (g *ownerGraph) levels() map[string]int {
	levels := map[string]int{}
	under := map[string]bool{} // being visited
	var visit func(resource string) int
	visit = func(resource string) int {
		if level, done := levels[resource]; done {
			return level
		}
		under[resource] = true
		level := 0
		for _, owner := range g.above(resource) {
			if !under[owner] {
				level = max(level, 1+visit(owner))
			}
		}
		delete(under, resource)
		levels[resource] = level
		return level
	}
	for _, resource := range slices.Sorted(maps.Keys(g.owners)) {
		visit(resource)
	}
	return levels
}
