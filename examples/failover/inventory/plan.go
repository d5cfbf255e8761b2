package inventory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/runbook"
	"github.com/understudy-dr/understudy/failover/steps/dns"
	"github.com/understudy-dr/understudy/failover/steps/kube"
	"github.com/understudy-dr/understudy/failover/steps/kube/posture"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/keyfilter"
)

// pairs are the runbooks of a pair, stretches those of a stretched cluster.
var (
	pairs = []struct {
		name  string
		build func(runbook.Config) (failover.PlanConfig, error)
	}{
		{"setup", runbook.GlobalClusterSetup},
		{"switchover", runbook.GlobalClusterSwitchover},
		{"failover", runbook.GlobalClusterFailover},
		{"failback", runbook.GlobalClusterFailback},
		{"drill", runbook.Drill},
	}
	stretches = []struct {
		name  string
		build func(runbook.StretchConfig) (failover.PlanConfig, error)
	}{
		{"stretch-restore", runbook.StretchQuorumRestore},
		{"stretch-failback", runbook.StretchFailback},
	}
)

func isStretched(runbook string) bool {
	for _, p := range stretches {
		if p.name == runbook {
			return true
		}
	}
	return false
}

// Runbooks are the names that Plan knows.
func Runbooks() (names []string) {
	for _, p := range pairs {
		names = append(names, p.name)
	}
	for _, p := range stretches {
		names = append(names, p.name)
	}
	return names
}

// Plan makes the plan of a runbook. Errors name the field.
func (s *Site) Plan(name string) (*failover.Plan, error) {
	var cfg failover.PlanConfig
	var err error
	for _, p := range pairs {
		if p.name == name {
			if len(s.inv.Clusters) == 0 {
				s.bad("clusters", "is missing", "describe the two clusters")
				return nil, errors.Join(s.errs...)
			}
			var c runbook.Config
			if c, err = s.Config(name); err == nil {
				cfg, err = p.build(c)
			}
		}
	}
	for _, p := range stretches {
		if p.name == name {
			if s.inv.Stretch == nil {
				s.bad("stretch", "is missing", "describe the stretched cluster")
				return nil, errors.Join(s.errs...)
			}
			var c runbook.StretchConfig
			if c, err = s.Stretch(); err == nil {
				cfg, err = p.build(c)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return failover.NewPlan(cfg)
}

// Config is the inventory as the runbooks of a pair take it.
func (s *Site) Config(name string) (runbook.Config, error) {
	inv := s.inv
	cfg := runbook.Config{Domain: inv.Domain, MaxCheckAge: inv.MaxCheckAge, RevisionMargin: inv.RevisionMargin, RevisionMarginUngraceful: inv.RevisionMarginUngraceful, RevisionLimit: inv.RevisionLimit, SkipReverse: inv.SkipReverse, WithoutRoot: inv.WithoutRoot,
		Differences: s.path(inv.Differences), DifferenceValues: s.path(inv.DifferenceValues)}
	cfg.Primary, cfg.Standby = s.cluster(inv.Primary), s.cluster(inv.Standby)
	cfg.Mirror = s.mirror()
	cfg.AcceptMissed, cfg.AcceptSurplus, cfg.AcceptDifferent = inv.AcceptMissed, inv.AcceptSurplus, inv.AcceptDifferent
	cfg.PrimaryEnded, _ = inv.primaryEnded() // Load has looked at it
	cfg.Inputs = inv.digest()
	if inv.Approval != nil {
		cfg.Approval = failover.Approval{Role: inv.Approval.Role, ValidFor: inv.Approval.ValidFor}
	}
	if d := inv.DNS; d != nil {
		provider, err := dns.RFC2136(dns.RFC2136Config{Server: d.Server, Zone: d.Zone, Key: dns.Key{File: s.path(d.KeyFile)}})
		s.failed("dns", err)
		cfg.DNS = &runbook.DNS{Provider: provider, Resolvers: d.Resolvers, TTL: d.TTL, SwitchTTL: d.SwitchTTL, DrillDomain: d.DrillDomain}
	}
	if l := inv.LookupFrom; l != nil {
		cfg.LookupFrom = &runbook.LookupFrom{Namespace: l.Namespace, Workload: l.Workload, Container: l.Container, DNSNamespace: l.DNSNamespace, DNSSelector: l.DNSSelector}
	}
	for i, c := range inv.Before {
		step := nodes.CommandConfig{Name: c.Name, Action: c.Action, Host: s.hosts[c.Host], Check: command(c.Root, c.Check), Do: command(c.Root, c.Do)}
		if len(c.Undo) > 0 {
			undo := command(c.Root, c.Undo)
			step.Undo = &undo
		}
		cfg.Before = s.take(cfg.Before, fmt.Sprintf("before[%d]", i), one(nodes.CommandStep(step)))
	}
	cfg.Posture = s.posture(cfg.Mirror)
	s.promoted(&cfg)
	cfg.AtOldPrimary = s.stopped(inv.Primary, cfg.Primary.Hosts)
	if name == "failback" {
		cfg.AtReturned = s.stopped(inv.Standby, cfg.Standby.Hosts)
	}
	s.services(&cfg, name)
	return cfg, errors.Join(s.errs...)
}

// made is what a func that makes steps returns.
type made struct {
	steps []failover.Step
	err   error
}

func one(step failover.Step, err error) made        { return made{[]failover.Step{step}, err} }
func several(steps []failover.Step, err error) made { return made{steps, err} }

// take adds steps to others, or notes what is wrong with them.
func (s *Site) take(all []failover.Step, field string, m made) []failover.Step {
	if m.err != nil {
		s.failed(field, m.err)
		return all
	}
	return append(all, m.steps...)
}

// mirror is the configuration with which the mirror runs, as far as plans need it.
func (s *Site) mirror() etcdmirror.Config {
	var rules keyfilter.Config
	if s.inv.Mirror.Rules != "" {
		var err error
		if rules, err = keyfilter.LoadFile(s.path(s.inv.Mirror.Rules)); err != nil {
			s.failed("mirror.rules", err)
			return etcdmirror.Config{}
		}
	}
	filter, err := keyfilter.New(rules)
	if err != nil {
		s.failed("mirror.rules", err)
		return etcdmirror.Config{}
	}
	skip := slices.DeleteFunc(filter.Skips(etcdmirror.DefaultPrefix), func(prefix string) bool { return prefix == etcdmirror.DefaultPrefix })
	return etcdmirror.Config{Name: s.inv.Mirror.Name, Keep: filter.Match, KeepID: filter.Hash(), Skip: skip}
}

func (s *Site) cluster(name string) runbook.Cluster {
	c := s.inv.Clusters[name]
	at := "clusters." + name
	k := runbook.Cluster{Name: name, VIPs: c.VIPs, Ports: c.Ports, Etcd: s.etcds[name], Kube: s.kubernetes(at+".kubeconfig", name, c.Kubeconfig, c.Context),
		Gate: s.gate(c.Gate), Mirror: s.control(c.Mirror), EncryptionConfig: c.EncryptionConfig}
	for _, h := range c.Hosts {
		k.Hosts = append(k.Hosts, s.hosts[h.Name])
	}
	for _, h := range c.HAProxy {
		k.Balancers = append(k.Balancers, runbook.Balancer{HAProxy: haproxy(h), Clients: h.Clients, Etcd: h.Etcd})
	}
	for _, a := range c.APIServers {
		k.APIServers = append(k.APIServers, s.apiServer(a))
	}
	if c.Installation != nil {
		k.Installation = s.installation(at+".installation", c.Installation)
	}
	return k
}

// removeContainer makes the kubelet start the API server's container anew.
const removeContainer = `id=$(crictl ps --name '^kube-apiserver$' --quiet --no-trunc) && [ -n "$id" ] && crictl rm --force $id`

func (s *Site) apiServer(a APIServer) kube.APIServer {
	args := a.Restart
	if len(args) == 0 {
		args = []string{"sh", "-c", removeContainer}
	}
	host := s.hosts[a.Host]
	cmd := command(true, args)
	return kube.APIServer{Address: a.Address, How: fmt.Sprintf("%s on %s", masked(args), host.Name()), Restarter: kube.RestartFunc(func(ctx context.Context) error { return run(ctx, host, cmd) })}
}

func (s *Site) installation(at string, in *Installation) *runbook.Installation {
	return &runbook.Installation{PlatformAddress: in.PlatformAddress, OtherPlatformAddresses: in.OtherPlatformAddresses, ClusterEndpoint: in.ClusterEndpoint, HTTPPort: in.HTTPPort, HTTPSPort: in.HTTPSPort,
		SelfBuiltVIP: in.SelfBuiltVIP, Architectures: in.Architectures, PackageArchitectures: in.PackageArchitectures, Components: in.Components,
		Certificate: runbook.Certificate{SelfSigned: in.SelfSigned, Chain: s.read(at+".certFile", in.CertFile), Key: runbook.Secret(s.read(at+".keyFile", in.KeyFile))},
		Registry:    runbook.Registry{Platform: in.PlatformRegistry, Address: in.RegistryAddress, Username: in.RegistryUsername, Password: runbook.Secret(s.line(at+".registryPasswordFile", in.RegistryPasswordFile))},
		AdminUser:   in.AdminUser, AdminPassword: runbook.Secret(s.line(at+".adminPasswordFile", in.AdminPasswordFile))}
}

// posture compares the clusters before the first copy; nil without the kubeconfigs of both.
func (s *Site) posture(m etcdmirror.Config) *posture.GateConfig {
	primary, standby := s.inv.Clusters[s.inv.Primary], s.inv.Clusters[s.inv.Standby]
	if primary.Kubeconfig == "" || standby.Kubeconfig == "" {
		return nil
	}
	cfg := &posture.GateConfig{Accept: s.inv.AcceptPosture, Config: posture.Config{PrimaryEtcd: s.etcds[s.inv.Primary], StandbyEtcd: s.etcds[s.inv.Standby], Keep: m.Keep}}
	var err error
	if cfg.Primary, err = kube.Kubeconfig(s.path(primary.Kubeconfig), primary.Context); err != nil {
		return nil // it is named where the cluster is
	}
	if cfg.Standby, err = kube.Kubeconfig(s.path(standby.Kubeconfig), standby.Context); err != nil {
		return nil
	}
	return cfg
}

// promoted are the static Pods that start at the new primary.
func (s *Site) promoted(cfg *runbook.Config) {
	for i, p := range s.inv.Clusters[s.inv.Standby].OnPromote {
		field := fmt.Sprintf("clusters.%s.onPromote[%d]", s.inv.Standby, i)
		ready := func(ctx context.Context, h nodes.Host) error { return run(ctx, h, command(true, p.Ready)) }
		cfg.AfterPromotion = s.take(cfg.AfterPromotion, field, several(nodes.StartStaticPod(nodes.StaticPodConfig{Reference: "Understudy: controllers start at promotion", Hosts: cfg.Standby.Hosts,
			Container: p.Container, Manifest: p.Manifest, Ready: ready, ReadyCheck: masked(p.Ready)})))
	}
}

// stopped are the static Pods that run only at a primary, as they stop at the old one.
func (s *Site) stopped(name string, hosts []nodes.Host) (steps []failover.Step) {
	for i, p := range s.inv.Clusters[name].OnPromote {
		steps = s.take(steps, fmt.Sprintf("clusters.%s.onPromote[%d]", name, i), several(nodes.StopStaticPod(nodes.StaticPodConfig{Reference: "Understudy: controllers run at the primary only", Hosts: hosts,
			Container: p.Container, Manifest: p.Manifest})))
	}
	return steps
}

// digest stands for all that the inventory says about the pair, in the plan's hash: addresses of hosts and every command included.
func (inv *Inventory) digest() any {
	pair := *inv
	pair.Stretch = nil
	text, err := json.Marshal(pair)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(text)
	return map[string]string{"inventory": hex.EncodeToString(sum[:])}
}

// services are what restarts when clients have come.
func (s *Site) services(cfg *runbook.Config, name string) {
	inv := s.inv
	k := cfg.Standby.Kube
	if inv.PlatformServices {
		if k == nil {
			s.bad("clusters."+inv.Standby+".kubeconfig", "is missing", "give one, or set platformServices to false")
			return
		}
		restarts := runbook.Services
		if name == "setup" {
			restarts = runbook.SetupServices
		}
		cfg.AfterSwitch = s.take(cfg.AfterSwitch, "platformServices", several(restarts(k)))
	}
	if name == "setup" { // the others are about a switch
		return
	}
	for i, service := range inv.Services {
		cfg.AfterSwitch = s.take(cfg.AfterSwitch, fmt.Sprintf("services[%d]", i), one(kube.RestartPods(kube.RestartPodsConfig{Name: service.Name, Cluster: k, Namespace: service.Namespace,
			Selector: service.Selector, IfInstalled: service.Optional})))
	}
	for i, w := range inv.Workloads {
		field := fmt.Sprintf("workloads[%d]", i)
		if w.Kubeconfig == "" {
			s.bad(field+".kubeconfig", "is missing", "give that of the workload cluster")
			continue
		}
		if cluster := s.kubernetes(field+".kubeconfig", w.Name, w.Kubeconfig, w.Context); cluster != nil {
			cfg.AfterSwitch = s.take(cfg.AfterSwitch, field, several(runbook.WorkloadServices(cluster)))
		}
	}
}
