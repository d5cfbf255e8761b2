package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// Defaults of PortsConfig.
const (
	DefaultPortTimeout  = 2 * time.Second
	DefaultPortAttempts = 3
	DefaultPortParallel = 16
)

// DefaultPorts are those that a platform's virtual IP forwards to its control-plane nodes.
func DefaultPorts() []int { return []int{80, 443, 6443, 2379, 11443} }

// PortsConfig says which TCP ports a gate looks at.
type PortsConfig struct {
	// Name is the step's name; "" is ports-open or ports-closed.
	Name      string
	Reference string
	// Addresses are IPv4 and IPv6 addresses and host names. Of a name all addresses are looked at, of both families. Required.
	Addresses []string
	// Ports; nil is DefaultPorts.
	Ports []int
	// Timeout bounds each attempt and each lookup; 0 is DefaultPortTimeout. A port that does not answer by then is filtered.
	Timeout time.Duration
	// Attempts is how often a port is tried until it is open; 0 is DefaultPortAttempts. A single connection makes a port open: PortsOpen forgives a lost packet, and PortsClosed none that came through.
	Attempts int
	// Parallel is how many connections are tried at a time; 0 is DefaultPortParallel.
	Parallel int
	// OfPrimary marks the ports as the primary's: an ungraceful plan leaves the gate out.
	OfPrimary bool
	// Dialer opens the connections; nil is this machine's.
	Dialer Dialer
	// Lookup finds the addresses of names; nil asks this machine's resolver.
	Lookup LookupFunc
}

// PortsOpen makes a gate that passes when every port of every address takes connections. It completes a TCP handshake and says nothing: behind a proxy in TCP mode, an open port does not tell that a server is there.
func PortsOpen(cfg PortsConfig) (failover.Step, error) { return portsGate(cfg, true) }

// PortsClosed makes a gate that passes when no port of any address takes connections, at any attempt: refused by the machine, filtered by something on the way that does not answer, or unreachable.
// It does not pass when this machine cannot tell, because it has no route or no address for a name.
func PortsClosed(cfg PortsConfig) (failover.Step, error) { return portsGate(cfg, false) }

func portsGate(cfg PortsConfig, wantOpen bool) (failover.Step, error) {
	var errs configErrors
	cfg.Addresses, cfg.Ports = slices.Clone(cfg.Addresses), slices.Clone(cfg.Ports)
	errs.addresses("Addresses", cfg.Addresses)
	if cfg.Ports == nil {
		cfg.Ports = DefaultPorts()
	}
	if len(cfg.Ports) == 0 {
		errs.add("Ports is empty", "leave it nil for the default, or name at least one")
	}
	for i, port := range cfg.Ports {
		switch {
		case port < 1 || port > 65535:
			errs.add(fmt.Sprintf("Ports[%d] is %d", i, port), "use 1 to 65535")
		case slices.Contains(cfg.Ports[:i], port):
			errs.add(fmt.Sprintf("Ports[%d], %d, is there twice", i, port), "name each once")
		}
	}
	errs.positive("Timeout", &cfg.Timeout, DefaultPortTimeout)
	errs.atLeastOne("Attempts", &cfg.Attempts, DefaultPortAttempts)
	errs.atLeastOne("Parallel", &cfg.Parallel, DefaultPortParallel)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := newProber(cfg.Dialer, cfg.Lookup, cfg.Timeout, cfg.Attempts, cfg.Parallel)
	name, is := cmp.Or(cfg.Name, "ports-closed"), "closed"
	if wantOpen {
		name, is = cmp.Or(cfg.Name, "ports-open"), "open"
	}
	d := failover.Description{
		Action:    fmt.Sprintf("Are TCP ports %s of %s %s?", list(cfg.Ports), list(cfg.Addresses), is),
		Reference: cfg.Reference,
		Inputs: map[string]any{"addresses": cfg.Addresses, "ports": cfg.Ports, "want": is, "timeout": cfg.Timeout.String(), "attempts": cfg.Attempts,
			"ownDialer": cfg.Dialer != nil, "ownLookup": cfg.Lookup != nil},
	}
	for _, a := range cfg.Addresses {
		for _, port := range cfg.Ports {
			d.Commands = append(d.Commands, fmt.Sprintf("nc -vz -w %d %s %d", max(1, int(cfg.Timeout.Seconds())), a, port))
		}
	}
	observe := func(ctx context.Context) (failover.Observation, error) {
		return p.gate(ctx, cfg.Addresses, cfg.Ports, wantOpen)
	}
	gate := failover.Check(name, observe, d)
	if cfg.OfPrimary {
		return withoutPrimary{Gate: gate.(failover.Gate), Description: d}, nil
	}
	return gate, nil
}

// withoutPrimary is a gate that an ungraceful plan leaves out.
type withoutPrimary struct {
	failover.Gate
	failover.Description
}

func (g withoutPrimary) Describe() failover.Description { return g.Description }
func (withoutPrimary) WithoutPrimary() failover.Step    { return nil }

func newProber(dial Dialer, lookup LookupFunc, timeout time.Duration, attempts, parallel int) *prober {
	if dial == nil {
		dial = &net.Dialer{}
	}
	if lookup == nil {
		lookup = lookupSystem
	}
	return &prober{dial: dial, lookup: lookup, timeout: timeout, attempts: attempts, parallel: parallel}
}

// addresses checks that each is an address or a host name.
func (c *configErrors) addresses(field string, all []string) {
	if len(all) == 0 {
		c.add(field+" is empty", "name at least one address or host name")
	}
	for i, a := range all {
		if slices.Contains(all[:i], a) {
			c.add(fmt.Sprintf("%s[%d], %q, is there twice", field, i, a), "name each once")
		}
		if !validHost(a) {
			c.add(fmt.Sprintf("%s[%d], %q, is no IP address or host name", field, i, a), "use 10.0.0.1, 2001:db8::1 (without brackets) or a name, without a port")
		}
	}
}

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
	}
	// What is all digits and dots is an address that is wrong.
	return host != "" && len(host) < 254 && !strings.HasPrefix(host, "-") && strings.IndexFunc(host, func(r rune) bool { return !plain(r) }) < 0 &&
		strings.Trim(host, "0123456789.") != ""
}

func (p *prober) gate(ctx context.Context, hosts []string, ports []int, wantOpen bool) (failover.Observation, error) {
	addrs, failed := p.resolve(ctx, hosts)
	var targets []target
	for _, host := range hosts {
		for _, addr := range addrs[host] {
			for _, port := range ports {
				targets = append(targets, target{host, addr, port})
			}
		}
	}
	found, err := p.look(ctx, targets)
	if err != nil {
		return failover.Observation{}, err
	}
	ok := len(failed) == 0
	for _, f := range found {
		ok = ok && (wantOpen && f.verdict == open || !wantOpen && f.verdict.closed())
	}
	var parts []string
	for _, host := range slices.Sorted(maps.Keys(failed)) {
		parts = append(parts, fmt.Sprintf("%s: cannot be looked up: %v", host, failed[host]))
	}
	if text := p.describe(found); text != "" {
		parts = append(parts, text)
	}
	obs := failover.Observation{State: failover.Blocked, Detail: strings.Join(parts, " | ")}
	if ok {
		obs.State = failover.Done
	}
	return obs, nil
}
