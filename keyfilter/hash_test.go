package keyfilter

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestHashGolden: the hash is stored next to a mirror's checkpoint, and another one means a resync. Whoever changes the
// rules, the table or the grammar changes it on purpose.
func TestHashGolden(t *testing.T) {
	for want, cfg := range map[string]Config{
		"046697a8675bb1795b84b5dea36313ba157099c13ceac3dbb86637d28673d3a4": {},
		"b3b0f3e1e9fe9c138a9ef0a46c4ce040943f363e4d5e707ad926a2341a89d447": exampleConfig,
	} {
		if got := mustNew(t, cfg).Hash(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestHashIgnoresSpelling: what means the same by construction has one hash.
func TestHashIgnoresSpelling(t *testing.T) {
	want := mustNew(t, exampleConfig).Hash()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		cfg := exampleConfig
		cfg.Prefixes = []string{"registry//"}
		cfg.ExcludedNamespaces = []string{"platform-**", `kube\-system`}
		rnd.Shuffle(2, func(i, j int) {
			cfg.ExcludedNamespaces[i], cfg.ExcludedNamespaces[j] = cfg.ExcludedNamespaces[j], cfg.ExcludedNamespaces[i]
		})
		cfg.Policy.Pods, cfg.Policy.FlowSchemas = Exclude, Include // the defaults, said aloud
		cfg.Rules = slices.Clone(cfg.Rules)
		cfg.Rules[1].Namespaces = []string{"playground", "scratch-*"}
		cfg.Rules[0].Reason = "in other words"
		if got := mustNew(t, cfg).Hash(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	if got, want := mustNew(t, Config{ExcludedNamespaces: DefaultExcludedNamespaces(), Prefixes: []string{DefaultPrefix}}).Hash(), mustNew(t, Config{}).Hash(); got != want {
		t.Errorf("the defaults said aloud: %s, want %s", got, want)
	}
	a := mustNew(t, Config{Prefixes: []string{"/kubernetes.io", "/openshift.io"}}).Hash()
	if b := mustNew(t, Config{Prefixes: []string{"/openshift.io", "/kubernetes.io"}}).Hash(); a != b {
		t.Error("the order of the prefixes changes the hash")
	}
}

// TestHashSeesEveryChange: everything else that can be changed changes the hash, and no two changes give the same one.
func TestHashSeesEveryChange(t *testing.T) {
	seen := map[string]int{mustNew(t, exampleConfig).Hash(): -1}
	change := func(i int, edit func(*Config)) {
		cfg := exampleConfig
		cfg.Rules = slices.Clone(cfg.Rules)
		edit(&cfg)
		h := mustNew(t, cfg).Hash()
		if j, ok := seen[h]; ok {
			t.Errorf("change %d has the hash of %d", i, j)
		}
		seen[h] = i
	}
	edits := []func(*Config){
		func(c *Config) { *c = Config{} },
		func(c *Config) { c.Prefixes = []string{"/registry", "/openshift.io"} },
		func(c *Config) { c.Prefixes = []string{"/"} },
		func(c *Config) { c.ExcludedNamespaces = nil },
		func(c *Config) { c.ExcludedNamespaces = []string{} },
		func(c *Config) { c.ExcludedNamespaces = []string{"kube-system"} },
		func(c *Config) { c.ExcludedNamespaces = []string{"kube-system", "platform-?"} },
		func(c *Config) { c.Rules = nil },
		func(c *Config) { c.Rules = c.Rules[:2] },
		func(c *Config) { c.Rules[0], c.Rules[1] = c.Rules[1], c.Rules[0] },
		func(c *Config) { c.Rules[0].Name = "other" },
		func(c *Config) { c.Rules[0].Action = Exclude },
		func(c *Config) { c.Rules[0].Groups = []string{"*"} },
		func(c *Config) { c.Rules[0].Resources = []string{"leases", "leasecandidates"} },
		func(c *Config) { c.Rules[0].Namespaces = []string{"team-b"} },
		func(c *Config) { c.Rules[0].Namespaces = nil },
		func(c *Config) { c.Rules[0].Names = []string{"ledger-"} },
		func(c *Config) { c.Rules[0].Names, c.Rules[0].Namespaces = c.Rules[0].Namespaces, c.Rules[0].Names },
		func(c *Config) { c.Rules[2].Prefixes = []string{"/registry/wardle.example.com"} },
	}
	for i, edit := range edits {
		change(i, edit)
	}
	for i := range policyFields {
		change(len(edits)+i, func(c *Config) {
			*c = Config{Policy: flipped(i)}
		})
	}
}

// flipped is a Policy in which the field i is not its default.
func flipped(i int) Policy {
	opposite := map[Action]Action{Include: Exclude, Exclude: Include}
	set := func(p *Policy, name string, a Action) {
		for _, f := range []struct {
			name string
			ptr  *Action
		}{
			{"pods", &p.Pods}, {"persistentVolumes", &p.PersistentVolumes}, {"jobs", &p.Jobs}, {"cronJobs", &p.CronJobs}, {"endpoints", &p.Endpoints},
			{"endpointSlices", &p.EndpointSlices}, {"storageClasses", &p.StorageClasses}, {"csiDrivers", &p.CSIDrivers},
			{"volumeAttributesClasses", &p.VolumeAttributesClasses}, {"webhookConfigurations", &p.WebhookConfigurations}, {"flowSchemas", &p.FlowSchemas},
			{"priorityLevelConfigurations", &p.PriorityLevelConfigurations}, {"clusterTrustBundles", &p.ClusterTrustBundles},
			{"resourceClaims", &p.ResourceClaims}, {"serviceCIDRs", &p.ServiceCIDRs}, {"aggregatedAPIServices", &p.AggregatedAPIServices},
			{"podSecurityPolicies", &p.PodSecurityPolicies}, {"openShiftOAuth", &p.OpenShiftOAuth}, {"aggregatedSubtrees", &p.AggregatedSubtrees},
			{"unknownResources", &p.UnknownResources}, {"unclassified", &p.Unclassified},
		} {
			if f.name == name {
				*f.ptr = a
			}
		}
	}
	var p Policy
	f := policyFields[i]
	set(&p, f.name, opposite[f.fallback])
	switch f.name {
	case "persistentVolumes":
		p.PersistentVolumeClaims = p.PersistentVolumes
	case "persistentVolumeClaims": // only possible together; the other one of the pair is told apart by the pods
		p.PersistentVolumes, p.PersistentVolumeClaims, p.Pods = Include, Include, Include
	}
	return p
}
