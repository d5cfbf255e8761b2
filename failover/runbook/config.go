package runbook

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
	"github.com/understudy-dr/understudy/failover/steps/kube/posture"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
	"github.com/understudy-dr/understudy/failover/steps/network"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// Config is a pair of clusters and all through which the runbooks act on them. It is the same for all runbooks of a pair: each uses what it needs.
// What is nil or empty is left out of the plans, or becomes a person's task, as the fields say.
type Config struct {
	// Plan is the name of the plan; "" is that of the runbook, such as "switchover".
	Plan string
	// Primary and Standby are the clusters in the roles that they have when the plan begins. Required.
	Primary, Standby Cluster
	// Domain is the platform access address. Required.
	Domain string

	// Mirror is the configuration with which the mirror runs: its name and which keys take part have to be those. Required.
	Mirror etcdmirror.Config
	// MirrorBack is that of the mirror in the other direction, which differs where values are transcoded; without a Name it is Mirror.
	MirrorBack etcdmirror.Config
	// Check is how the clusters are compared; without a Name it is made from Mirror, or MirrorBack. What it opens is what the primary of the plan's beginning stores, and its standby. Its Logger is used in any case.
	Check drcheck.Config
	// MaxCheckAge is how old a green check may be when the roles change; 0 is mirror.DefaultVerdictMaxAge.
	MaxCheckAge time.Duration
	// AcceptMissed, AcceptSurplus and AcceptDifferent are how many differences of each class a green check may have: those that a live standby makes.
	AcceptMissed, AcceptSurplus, AcceptDifferent int
	// PrimaryEnded, of a failover, is when the primary took its last write, if that is known.
	PrimaryEnded time.Time
	// RevisionMargin, RevisionMarginUngraceful and RevisionLimit are those of mirror.RevisionFence.
	RevisionMargin, RevisionMarginUngraceful, RevisionLimit int64
	// Differences is the file that a failback exports to: what the old primary wrote and the standby never had. DifferenceValues is a second one with the values, which are Secrets; "" exports none.
	Differences, DifferenceValues string

	// Posture is asked by GlobalClusterSetup whether the standby is fit to be mirrored into, before anything is; nil leaves that out.
	Posture *posture.GateConfig

	// DNS changes the domain's record; nil makes it a person's task.
	DNS *DNS
	// LookupFrom is where the domain is looked up from inside of the new primary; nil makes it a person's task.
	LookupFrom *LookupFrom

	// AtOldPrimary are steps at the old primary of a planned switch, when its clients are cut off: such as those that stop its controllers.
	AtOldPrimary []failover.Step
	// AtReturned are those at an old primary that has returned, before a failback makes it the standby.
	AtReturned []failover.Step
	// Inputs is more that the plan's hash has to cover, such as a digest of the inventory that the Config was made from.
	Inputs any
	// Before are steps before anything is changed, such as the check of the standby's log storage; AfterPromotion when the standby is promoted and before clients come, such as the start of its controllers;
	// AfterSwitch when they have come, such as Services. Their names are unique in the plan.
	Before, AfterPromotion, AfterSwitch []failover.Step

	// Approval is asked for before the plan acts.
	Approval failover.Approval
	// OnFailure is what happens when a step fails; "" is the runbook's own: a switchover and a drill undo, the others stop.
	OnFailure failover.FailurePolicy
	// WithoutRoot does not ask whether commands on the hosts can run as root, where none has to.
	WithoutRoot bool
	// SkipReverse ends a switchover when the clients have come: the old primary is not made the standby.
	SkipReverse bool
}

// Cluster is one of the two clusters.
type Cluster struct {
	// Name is what plans call it. Required: 1 to 40 letters, digits and '-'.
	Name string
	// VIPs are the addresses of its load balancer, IPv4 and IPv6. Required.
	VIPs []string
	// Ports are those that the virtual IPs forward; nil is network.DefaultPorts.
	Ports []int
	// Etcd is the client of its etcd. It must not go through the virtual IP: port 2379 is closed there in the course of a switch. Required, but for the primary of a failover.
	Etcd *clientv3.Client
	// Kube is its API; nil leaves out what needs it.
	Kube *kube.Cluster
	// Hosts are its control-plane nodes; nil leaves out what needs them.
	Hosts []nodes.Host
	// Balancers are its HAProxies; nil makes the forwarding of ports a person's task.
	Balancers []Balancer
	// APIServers are asked whether they are ready, and restarted behind the revision fence; nil makes that a person's task.
	APIServers []kube.APIServer
	// Gate is how it stops taking writes as the primary of a switchover; nil is mirror.AlarmGate of its etcd.
	Gate mirror.Gate
	// Mirror starts and stops the mirror of which this cluster is the standby. Required where the runbook does so.
	Mirror mirror.Control
	// Installation is what was given to its installer; GlobalClusterSetup needs it.
	Installation *Installation
	// EncryptionConfig is the path of its EncryptionConfiguration on the hosts; "" is DefaultEncryptionConfig.
	EncryptionConfig string
}

// DefaultEncryptionConfig is where the installer keeps it.
const DefaultEncryptionConfig = "/etc/kubernetes/encryption-provider.conf"

// Balancer is an HAProxy process in front of a cluster, with the names of its frontends.
type Balancer struct {
	network.HAProxy
	// Clients are the frontends by which users and clients of the API come: ports 80, 443, 6443 and 11443. Etcd are those by which the mirror of the other cluster comes: port 2379.
	Clients, Etcd []string
}

// LookupFrom is a workload, such as "deployment/sentry", in whose Pods the domain is looked up; see kube.ResolveInside.
type LookupFrom struct {
	Namespace, Workload, Container string
	DNSNamespace, DNSSelector      string
}

// EtcdPort is the one that virtual IPs forward for the mirror.
const EtcdPort = 2379

// checks collects what is wrong with a Config.
type checks struct{ errs []error }

func (c *checks) bad(detail, hint string) {
	c.errs = append(c.errs, &failover.Error{Kind: failover.ErrConfig, Detail: "Config." + detail, Hint: hint})
}

// needs says what a runbook cannot do without.
type needs struct {
	primaryEtcd          bool
	toStandby, toPrimary bool // the mirrors' controls
}

// check validates what all runbooks need, and fills in defaults.
func (cfg *Config) check(n needs) error {
	var c checks
	if cfg.Domain == "" {
		c.bad("Domain is empty", "give the platform access address")
	} else if !isDomain(cfg.Domain) {
		c.bad(fmt.Sprintf("Domain %q is no domain", cfg.Domain), "give a domain without scheme, port and path")
	}
	cfg.Primary.check(&c, "Primary", n.primaryEtcd)
	cfg.Standby.check(&c, "Standby", true)
	if cfg.Primary.Name == cfg.Standby.Name && cfg.Primary.Name != "" {
		c.bad(fmt.Sprintf("Primary and Standby are both %q", cfg.Primary.Name), "name two clusters")
	}
	if cfg.Primary.Etcd != nil && cfg.Standby.Etcd != nil {
		if cfg.Primary.Etcd == cfg.Standby.Etcd {
			c.bad("Primary.Etcd and Standby.Etcd are one client", "give a client of each etcd")
		}
		for _, e := range cfg.Primary.Etcd.Endpoints() {
			if slices.Contains(cfg.Standby.Etcd.Endpoints(), e) {
				c.bad(fmt.Sprintf("Primary.Etcd and Standby.Etcd share the endpoint %s", e), "give each cluster its own etcd")
			}
		}
	}
	for _, v := range cfg.Primary.VIPs {
		if isOneOf(v, cfg.Standby.VIPs) {
			c.bad(fmt.Sprintf("Primary.VIPs and Standby.VIPs share %s", v), "give each cluster a virtual IP of its own")
		}
	}
	if err := etcdmirror.ValidateName(cfg.Mirror.Name); err != nil {
		c.bad(fmt.Sprintf("Mirror.Name %q is no mirror name", cfg.Mirror.Name), "give the name under which the mirror runs")
	}
	if n.toStandby && cfg.Standby.Mirror == nil {
		c.bad("Standby.Mirror is nil", "pass what starts and stops the mirror to the standby")
	}
	if n.toPrimary && cfg.Primary.Mirror == nil {
		c.bad("Primary.Mirror is nil", "pass what starts and stops the mirror to the primary, as it runs after the switch")
	}
	if cfg.DNS != nil {
		cfg.DNS.check(&c)
	}
	if cfg.MirrorBack.Name == "" {
		cfg.MirrorBack = cfg.Mirror
	} else if cfg.MirrorBack.Name != cfg.Mirror.Name {
		c.bad(fmt.Sprintf("MirrorBack.Name is %q and Mirror.Name %q", cfg.MirrorBack.Name, cfg.Mirror.Name), "use one name: each lives at its own standby")
	}
	if cfg.Check.Name != "" && cfg.Check.Name != cfg.Mirror.Name {
		c.bad(fmt.Sprintf("Check.Name is %q and Mirror.Name %q", cfg.Check.Name, cfg.Mirror.Name), "use one name")
	}
	return errors.Join(c.errs...)
}

func (k *Cluster) check(c *checks, field string, etcd bool) {
	if !clusterName(k.Name) {
		c.bad(fmt.Sprintf("%s.Name %q is no name", field, k.Name), "use 1 to 40 letters, digits and '-'")
	}
	if len(k.VIPs) == 0 {
		c.bad(field+".VIPs is empty", "give the addresses of the cluster's load balancer")
	}
	for i, v := range k.VIPs {
		if !isAddress(v) {
			c.bad(fmt.Sprintf("%s.VIPs[%d], %q, is no address", field, i, v), "give an IPv4 or IPv6 address")
		}
	}
	if k.Etcd == nil && etcd {
		c.bad(field+".Etcd is nil", "pass a clientv3 client of the cluster's etcd")
	}
	if k.Etcd != nil {
		for _, e := range k.Etcd.Endpoints() {
			if isOneOf(hostOf(e), k.VIPs) {
				c.bad(fmt.Sprintf("%s.Etcd goes through the virtual IP: %s", field, e), "give the addresses of the members: the virtual IP's port 2379 is closed in a switch")
			}
		}
	}
	names := map[string]bool{}
	for i, b := range k.Balancers {
		if names[b.Name] {
			c.bad(fmt.Sprintf("%s.Balancers[%d].Name %q is there twice", field, i, b.Name), "name each process once")
		}
		names[b.Name] = true
		if len(b.Clients)+len(b.Etcd) == 0 {
			c.bad(fmt.Sprintf("%s.Balancers[%d] has no frontends", field, i), "name its frontends")
		}
	}
	k.EncryptionConfig = cmp.Or(k.EncryptionConfig, DefaultEncryptionConfig)
	if k.Ports == nil {
		k.Ports = network.DefaultPorts()
	}
}

// pair is the mirror from one cluster to the other.
func (cfg *Config) pair(from, to *Cluster) mirror.Pair {
	return engine.Pair(from.Etcd, to.Etcd, cfg.mirror(from))
}

// mirror is the configuration of the mirror from a cluster to the other.
func (cfg *Config) mirror(from *Cluster) etcdmirror.Config {
	if from.Name == cfg.Primary.Name {
		return cfg.Mirror
	}
	return cfg.MirrorBack
}

// checkOf is how the two sides of the mirror from a cluster are compared.
func (cfg *Config) checkOf(from *Cluster) drcheck.Config {
	if cfg.Check.Name != "" {
		check := cfg.Check
		if from.Name != cfg.Primary.Name {
			check.OpenSource, check.OpenTarget = check.OpenTarget, check.OpenSource
			check.Transform = transformer(cfg.MirrorBack)
		}
		return check
	}
	m := cfg.mirror(from)
	return drcheck.Config{Name: m.Name, Prefix: m.Prefix, AllKeys: m.AllKeys, TargetPrefix: m.TargetPrefix, StripPrefix: m.StripPrefix, Keep: m.Keep, KeepID: m.KeepID, Skip: m.Skip,
		RequestTimeout: m.RequestTimeout, Logger: cfg.Check.Logger, Transform: transformer(m)}
}

// transformer is a mirror's, as a check takes it: none is nil.
func transformer(m etcdmirror.Config) drcheck.Transformer {
	if m.Transform == nil {
		return nil
	}
	return m.Transform
}

// verdicts are checks of a pair.
func (cfg *Config) verdicts(from, to *Cluster) (mirror.Verdicts, error) {
	return engine.NewVerdicts(from.Etcd, to.Etcd, cfg.checkOf(from))
}

// reversed is the Config with the roles as they are after a switch.
func (cfg Config) reversed() Config {
	cfg.Primary, cfg.Standby = cfg.Standby, cfg.Primary
	cfg.Mirror, cfg.MirrorBack = cfg.MirrorBack, cfg.Mirror
	cfg.Check.OpenSource, cfg.Check.OpenTarget = cfg.Check.OpenTarget, cfg.Check.OpenSource
	cfg.Check.Transform = transformer(cfg.Mirror)
	return cfg
}
