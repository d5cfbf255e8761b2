package etcdmirror

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/kvstream"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
)

// Resources come after those that own them, custom resources too, as the objects of a large copy tell; all entries stay, and what keys rank stays first.
func TestP10ResourcesComeAfterTheirOwners(t *testing.T) {
	ctx := testutil.Context(t)
	client := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	if err := kubeobj.LoadDataset(ctx, client, levelsFrom+500, 8); err != nil {
		t.Fatal(err)
	}
	m, err := New(client, client, Config{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(ctx, DefaultPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	r := &copyRound{m: m, pin: kvstream.NewPin(DefaultPrefix, resp.Header.Revision)}
	for i, kv := range resp.Kvs {
		r.entries = append(r.entries, entry{key: string(kv.Key), create: kv.CreateRevision, pos: int64(i)})
	}
	levels, err := r.ownerLevels(ctx)
	if err != nil {
		t.Fatal(err)
	}
	order, glued, ends := copyOrder(m.ranks, r.entries, levels)
	plain, plainGlued, plainEnds := copyOrder(m.ranks, r.entries, nil)
	if !slices.Equal(slices.Sorted(slices.Values(order)), slices.Sorted(slices.Values(plain))) || len(glued) != len(plainGlued) || !slices.Equal(ends, plainEnds) {
		t.Error("entries, or the groups before, are not what they are without levels")
	}
	if first := ends[len(ends)-1]; !slices.Equal(order[:first], plain[:first]) {
		t.Error("what keys rank has moved")
	}
	first, last := map[string]int{}, map[string]int{}
	for place, i := range order {
		resource := strings.TrimPrefix(m.ranks.Resource(r.entries[i].key), DefaultPrefix)
		if _, seen := first[resource]; !seen {
			first[resource] = place
		}
		last[resource] = place
	}
	for _, pair := range [][2]string{{"stable.example.com/databases", "stable.example.com/backups"}, {"stable.example.com/backups", "configmaps"},
		{"services/specs", "endpointslices"}, {"deployments", "replicasets"}} {
		if last[pair[0]] == 0 || first[pair[1]] < last[pair[0]] {
			t.Errorf("%s from %d, %s until %d", pair[1], first[pair[1]], pair[0], last[pair[0]])
		}
	}
	r.entries = r.entries[:levelsFrom-1]
	if levels, err := r.ownerLevels(ctx); levels != nil || err != nil {
		t.Errorf("for a small copy: %v, %v", levels, err)
	}
}

// Levels of random graphs: an owner without a cycle back stands above what it owns, and cycles end.
func TestLevelsOfAnyGraph(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	names := []string{"a", "b", "c", "d", "e", "f", "g"}
	object := func(name string, owners ...string) []byte {
		o := kubeobj.Object{APIVersion: "example.com/v1", Kind: name, Name: "x", UID: "u"}
		for _, owner := range owners {
			o.Owners = append(o.Owners, kubeobj.Owner{APIVersion: "example.com/v1", Kind: owner, Name: "x", UID: "o"})
		}
		if rng.IntN(2) == 0 {
			return o.JSON()
		}
		return o.Protobuf()
	}
	for range 500 {
		g := newOwnerGraph()
		owns := map[[2]string]bool{}
		for _, name := range names {
			var owners []string
			for range rng.IntN(3) {
				owner := names[rng.IntN(len(names))]
				owners = append(owners, owner)
				owns[[2]string{owner, name}] = true
			}
			g.add(name, object(name, owners...))
		}
		reach := map[[2]string]bool{}
		for k := range owns {
			reach[k] = true
		}
		for _, via := range names {
			for _, from := range names {
				for _, to := range names {
					if reach[[2]string{from, via}] && reach[[2]string{via, to}] {
						reach[[2]string{from, to}] = true
					}
				}
			}
		}
		levels := g.levels()
		for pair := range owns {
			cyclic := false // nothing is said of what hangs on a cycle
			for _, name := range names {
				cyclic = cyclic || reach[[2]string{name, name}] && (name == pair[1] || reach[[2]string{name, pair[1]}])
			}
			if !cyclic && levels[pair[0]] >= levels[pair[1]] {
				t.Fatalf("seed %d: %s owns %s: levels %v", seed, pair[0], pair[1], levels)
			}
		}
	}
}
