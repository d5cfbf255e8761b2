package runbook

import (
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/dns"
)

// DNS is how the domain's record is changed, and who is asked whether it did.
type DNS struct {
	// Provider changes the record: dns.RFC2136, or another. Required.
	Provider dns.Provider
	// Resolvers are those of users and workload clusters, address or address:port, or dns.System. Required.
	Resolvers []string
	// TTL is the record's after a switch; 0 leaves it as it was.
	TTL time.Duration
	// SwitchTTL is what it is lowered to before a planned switch, which then waits until the former TTL has passed; 0 leaves it as it is: resolvers may lead to the old primary for that long.
	SwitchTTL time.Duration
	// DrillDomain is a name that drills change in place of the domain; "" changes none.
	DrillDomain string
}

// Names of steps that others refer to.
const (
	stepRecord   = "dns-record"
	stepLowerTTL = "dns-ttl"
)

func (d *DNS) check(c *checks) {
	if d.Provider == nil {
		c.bad("DNS.Provider is nil", "make one with dns.RFC2136, or leave DNS out: then a person changes the record")
	}
	if len(d.Resolvers) == 0 {
		c.bad("DNS.Resolvers is empty", "name those that users and workload clusters ask")
	}
}

// preflight asks whether everything that a change needs is there.
func (d *DNS) preflight(l *list, domain string, from, to *Cluster, mode failover.Mode) {
	l.add(dns.UpdateAllowed(dns.UpdateAllowedConfig{Name: "dns-allowed", Reference: refPreflight, Provider: d.Provider, Domain: domain, Data: to.VIPs}))
	answer, err := dns.ResolversAnswer(dns.ResolversAnswerConfig{Name: "dns-resolvers-answer", Reference: refPreflight, Resolvers: d.Resolvers, Domain: domain})
	if mode == failover.ModeUngraceful {
		l.add(told(answer, err)) // some may have died with the primary
	} else {
		l.add(answer, err)
	}
	record, err := dns.Record(d.record(domain, from, to))
	l.add(look("dns-leads", record, err))
}

func (d *DNS) record(domain string, from, to *Cluster) dns.RecordConfig {
	return dns.RecordConfig{Name: stepRecord, Reference: refDR + "5", Provider: d.Provider, Domain: domain, Data: to.VIPs, TTL: d.TTL, From: from.VIPs, DrillDomain: d.DrillDomain}
}

// lower makes resolvers forget the record soon.
func (d *DNS) lower(l *list, domain string) {
	if d.SwitchTTL == 0 {
		return
	}
	l.add(dns.LowerTTL(dns.LowerTTLConfig{Name: stepLowerTTL, Reference: refDR + "5", Provider: d.Provider, Domain: domain, TTL: d.SwitchTTL}))
	l.add(dns.CachesExpired(dns.CachesExpiredConfig{Name: "dns-caches-expired", Reference: refDR + "5", Change: stepLowerTTL}))
}

// point leads the domain to a cluster, and waits until the resolvers know.
func (d *DNS) point(l *list, domain string, from, to *Cluster, mode failover.Mode) {
	l.add(dns.Record(d.record(domain, from, to)))
	wait := dns.ResolversConfig{Name: "dns-resolvers", Reference: refDR + "6", Resolvers: d.Resolvers, Domain: domain, Data: to.VIPs, Change: stepRecord}
	if mode == failover.ModeDrill {
		wait.Domain, wait.InDrill = d.DrillDomain, true
	}
	step, err := dns.Resolvers(wait)
	if mode == failover.ModeUngraceful {
		l.add(acceptable(step, "clients of resolvers that do not answer, or do not lead to the new primary yet, do not find it by themselves", err))
		return
	}
	l.add(step, err)
}

// atSetup leads the domain to the cluster that is being installed. Without DNS a person does.
func (d *DNS) atSetup(l *list, name, reference, domain string, to *Cluster) {
	if d == nil {
		l.ask(name, fmt.Sprintf("Point %s to %s", domain, strings.Join(to.VIPs, ", ")), reference, failover.Prompt{Undo: "Point it where it led before"})
		return
	}
	l.add(dns.Record(dns.RecordConfig{Name: name, Reference: reference, Provider: d.Provider, Domain: domain, Data: to.VIPs, TTL: d.SwitchTTL}))
	l.add(dns.Resolvers(dns.ResolversConfig{Name: name + "/resolvers", Reference: reference, Resolvers: d.Resolvers, Domain: domain, Data: to.VIPs, Change: name}))
}
