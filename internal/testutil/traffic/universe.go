package traffic

import (
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// universe draws the keys.
func (g *Generator) universe() {
	seen := map[string]bool{}
	add := func(list *[]string, key string) {
		if !seen[key] {
			seen[key] = true
			*list = append(*list, key)
		}
	}
	p := g.cfg.Prefix
	for _, key := range []string{p + "\x00", p + "\xff", p + "\xff\xff/\xff", p + "/", p + "a\x00", p + "a", p + "namespaces/team-0"} {
		if len(g.inside) < g.cfg.Keys {
			add(&g.inside, key)
		}
	}
	resources := []string{"configmaps", "deployments", "replicasets", "secrets", "services/specs", "stable.example.com/widgets"}
	for len(g.inside) < g.cfg.Keys {
		if g.rng.IntN(10) == 0 {
			raw := make([]byte, 1+g.rng.IntN(12))
			for i := range raw {
				raw[i] = "\x00\x01/azA\x7f\x80\xc3\xfe\xff"[g.rng.IntN(11)] // much of it is no valid UTF-8
			}
			add(&g.inside, p+string(raw))
			continue
		}
		add(&g.inside, fmt.Sprintf("%s%s/team-%d/object-%d", p, resources[g.rng.IntN(len(resources))], g.rng.IntN(5), g.rng.IntN(g.cfg.Keys)))
	}
	if g.cfg.Inside {
		return
	}
	base := strings.TrimSuffix(p, "/")
	// Just before and after the prefix's range, which ends at clientv3.GetPrefixRangeEnd, and far from it.
	for _, key := range []string{
		base, base + "x/y", clientv3.GetPrefixRangeEnd(p), clientv3.GetPrefixRangeEnd(p) + "z",
		"\x00", "\xff\xff", "compact_rev_key", "unrelated/a", "unrelated/b",
	} {
		if key != "" && !strings.HasPrefix(key, p) {
			add(&g.outside, key)
		}
	}
}

// key draws a key below the prefix.
func (g *Generator) key() string { return g.inside[g.rng.IntN(len(g.inside))] }

// keys draws so many different keys, some of them outside of the prefix.
func (g *Generator) keys(n int) []string {
	all := len(g.inside) + len(g.outside)
	n = min(n, all)
	out := make([]string, 0, n)
	for _, i := range g.rng.Perm(all)[:n] {
		if i < len(g.inside) {
			out = append(out, g.inside[i])
		} else {
			out = append(out, g.outside[i-len(g.inside)])
		}
	}
	return out
}

// liveKey draws a key that exists, in an order that does not depend on Go's maps; "" if there is none.
func (g *Generator) liveKey() string {
	start := g.rng.IntN(len(g.inside))
	for i := range g.inside {
		if key := g.inside[(start+i)%len(g.inside)]; g.live[key].exists {
			return key
		}
	}
	return ""
}
