package runbook

import (
	"fmt"
	"net/netip"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

// platform is the namespace of the platform's own services.
const platform = "cpaas-system"

// Services are the restarts at a cluster that has become the primary, each of what is installed: log storage, monitoring, cluster-transformer (global cluster DR, disaster recovery process, step 8).
// They are for Config.AfterSwitch.
func Services(k *kube.Cluster) ([]failover.Step, error) {
	return restarts(k, refDR+"8", []service{
		{"elasticsearch", "service_name=cpaas-elasticsearch"},
		{"monitoring", "service_name in (alertmanager,vmselect,vminsert)"},
		{"cluster-transformer", "service_name=cluster-transformer"},
	})
}

// SetupServices are the restarts at a standby once it is mirrored into (process, step 3). They are for Config.AfterSwitch of GlobalClusterSetup.
func SetupServices(k *kube.Cluster) ([]failover.Step, error) {
	return restarts(k, refSetup+"3", []service{
		{"elasticsearch", "service_name=cpaas-elasticsearch"},
		{"monitoring", "service_name in (alertmanager,vmselect,vminsert)"},
	})
}

// WorkloadServices are the restarts at a workload cluster that sends monitoring data to the primary (disaster recovery process, step 9). They are for Config.AfterSwitch.
func WorkloadServices(k *kube.Cluster) ([]failover.Step, error) {
	return restarts(k, refDR+"9", []service{{"warlock", "service_name=warlock"}})
}

// service is a set of Pods in the platform's namespace.
type service struct{ name, selector string }

func restarts(k *kube.Cluster, reference string, services []service) ([]failover.Step, error) {
	var l list
	for _, s := range services {
		cfg := kube.RestartPodsConfig{Reference: reference, Cluster: k, Namespace: platform, Selector: s.selector, IfInstalled: true}
		if k != nil {
			cfg.Name = "restart/" + k.Name() + "/" + s.name
		}
		l.add(kube.RestartPods(cfg))
	}
	return l.steps, l.err()
}

// ready is a gate at each API server.
func (k *Cluster) ready(l *list) {
	if k.Kube == nil || len(k.APIServers) == 0 {
		return
	}
	var servers []string
	for _, s := range k.APIServers {
		servers = append(servers, s.Address)
	}
	l.all(kube.APIServersReady(kube.APIServersReadyConfig{Name: "apiserver-ready", Reference: refPreflight, Cluster: k.Kube, Servers: servers}))
}

// restartAPIServers drops what the watch caches of the cluster's API servers know of before the revision fence.
func (k *Cluster) restartAPIServers(l *list) {
	if k.Kube == nil || len(k.APIServers) == 0 {
		l.ask("restart-apiservers", fmt.Sprintf("Restart the API servers of %s one by one, each when the one before is ready: their watch caches know revisions of before the fence", k.Name), refFence, failover.Prompt{Harmless: true})
		return
	}
	l.all(kube.RestartAPIServers(kube.RestartAPIServersConfig{Name: "restart-apiserver", Reference: refFence, Cluster: k.Kube, Servers: k.APIServers}))
}

// lookup asks inside of the new primary where the domain leads.
func (cfg *Config) lookup(l *list) {
	from := cfg.LookupFrom
	if from == nil || cfg.Standby.Kube == nil {
		l.ask("lookup-inside", fmt.Sprintf("Look up %s in a Pod of %s; if it does not lead to the new primary, restart CoreDNS and look again", cfg.Domain, cfg.Standby.Name), refDR+"6", failover.Prompt{Harmless: true})
		return
	}
	var want []netip.Addr
	for _, v := range cfg.Standby.VIPs {
		if a, err := netip.ParseAddr(v); err == nil {
			want = append(want, a)
		}
	}
	l.add(kube.ResolveInside(kube.ResolveInsideConfig{Name: "lookup-inside", Reference: refDR + "6", Cluster: cfg.Standby.Kube, Namespace: from.Namespace, Workload: from.Workload, Container: from.Container,
		Domain: cfg.Domain, Want: want, DNSNamespace: from.DNSNamespace, DNSSelector: from.DNSSelector}))
}
