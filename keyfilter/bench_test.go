package keyfilter

import (
	"maps"
	"slices"
	"testing"
)

// benchKeys are keys of every kind of decision list.
var benchKeys = map[string]string{
	"Event":        "/registry/events/team-a/d1.18e9d21a659e3bce",
	"ConfigMap":    "/registry/configmaps/team-a/settings",
	"Excluded":     "/registry/configmaps/kube-system/settings",
	"Service":      "/registry/services/specs/team-a/svc1",
	"ClusterRole":  "/registry/clusterroles/team-a-reader",
	"APIService":   "/registry/apiregistration.k8s.io/apiservices/v1.stable.example.com",
	"Custom":       "/registry/stable.example.com/gadgets/team-a/g1",
	"Aggregated":   "/registry/wardle.example.com/wardle.example.com/flunders/team-a/f1",
	"Unknown":      "/registry/newthings/team-a/n1",
	"Unclassified": "/registry/pods/p1",
	"Outside":      "/understudy/mirror/checkpoint",
	"NonASCII":     "/registry/roles/team-a/größe",
}

// userRules is a configuration of some size, with globs.
func userRules(n int) []Rule {
	var rules []Rule
	for i := range n {
		id := string(rune('a'+i/26)) + string(rune('a'+i%26))
		rules = append(rules, rule("rule-"+id, Rule{Groups: []string{"group-" + id + ".example.com"}, Namespaces: []string{"ns-" + id + "-*"}, Names: []string{"*-" + id + "-?*"}}))
	}
	return rules
}

func BenchmarkMatch(b *testing.B) {
	def := mustNew(b, Config{})
	large := mustNew(b, Config{Rules: userRules(100)})
	for _, name := range slices.Sorted(maps.Keys(benchKeys)) {
		key := []byte(benchKeys[name])
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				def.Match(key)
			}
		})
	}
	for _, name := range []string{"ConfigMap", "Custom"} {
		key := []byte(benchKeys[name])
		b.Run("100Rules/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				large.Match(key)
			}
		})
	}
	// One key of a real cluster after the other.
	keys := clusterKeys(b)
	raw := make([][]byte, len(keys))
	for i := range keys {
		raw[i] = []byte(keys[i])
	}
	for name, f := range map[string]*Filter{"Cluster": def, "100Rules/Cluster": large} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			kept := 0
			for b.Loop() {
				for _, key := range raw {
					if f.Match(key) {
						kept++
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(raw)), "ns/key")
			if kept != 74*b.N { // by the golden file
				b.Errorf("%d keys were kept in %d rounds", kept, b.N)
			}
		})
	}
}
