// Package faultproxy puts TCP proxies between a client and the members of an etcd cluster and disturbs what passes them.
//
// A Group has one proxy per member. Faults are switched on with Apply and off with Clear, at any time; they hit the
// connections that exist and those that come. Whatever happens, a connection delivers a prefix of what was sent, in
// order: after the first byte that was swallowed nothing follows but its end.
//
// Proxies know nothing of etcd or TLS: https endpoints stay https, and certificates for 127.0.0.1 stay good.
// The package does not import testing.
package faultproxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Kind is the kind of a fault.
type Kind string

const (
	// Delay holds what passes back for Latency plus up to Jitter. Bytes of one connection and direction keep their order.
	Delay Kind = "delay"
	// Limit lets no more than BytesPerSecond pass through a proxy, all its connections together, per direction.
	Limit Kind = "limit"
	// Refuse refuses new connections as a port does that nobody listens on. Existing connections go on.
	Refuse Kind = "refuse"
	// Reset ends every connection with a RST, new ones as soon as they are accepted.
	Reset Kind = "reset"
	// Drop ends every connection with a FIN towards both ends, new ones as soon as they are accepted.
	Drop Kind = "drop"
	// Blackhole swallows what would pass, the end of a connection included. New connections are accepted. When it is
	// cleared, the connections that lost something are reset; the others go on.
	Blackhole Kind = "blackhole"
	// Hold accepts new connections and lets them wait for the member until Batch of them have gathered in the group, or
	// until the fault ends. Then they are let through one after another, in another order than they came in.
	Hold Kind = "hold"
)

// Kinds are all kinds, in the order of their declaration.
func Kinds() []Kind { return []Kind{Delay, Limit, Refuse, Reset, Drop, Blackhole, Hold} }

// Direction is a direction of the bytes.
type Direction int

const (
	// Both directions.
	Both Direction = iota
	// Up is from the client to the member.
	Up
	// Down is from the member to the client.
	Down
)

// flows are the indices of a direction in a pair of flows: 0 is up, 1 is down.
func (d Direction) flows() []int {
	switch d {
	case Up:
		return []int{up}
	case Down:
		return []int{down}
	}
	return []int{up, down}
}

const up, down = 0, 1

// Fault says what to do to the connections of a proxy.
type Fault struct {
	Kind Kind
	// Direction of Delay, Limit and Blackhole; the other direction stays as it is. The zero value is both.
	Direction Direction
	// Latency and Jitter are for Delay; one of them must be positive.
	Latency, Jitter time.Duration
	// BytesPerSecond is for Limit and must be positive.
	BytesPerSecond int
	// Batch is for Hold; 0 holds connections back until the fault ends.
	Batch int
}

func (f Fault) check() error {
	var wrong string
	switch {
	case !slices.Contains(Kinds(), f.Kind):
		wrong = fmt.Sprintf("Kind %q is unknown: use one of %q", f.Kind, Kinds())
	case f.Direction < Both || f.Direction > Down:
		wrong = fmt.Sprintf("Direction %d is unknown: use Both, Up or Down", f.Direction)
	case f.Latency < 0 || f.Jitter < 0 || f.Kind == Delay && f.Latency+f.Jitter == 0:
		wrong = fmt.Sprintf("Latency %v and Jitter %v: use durations of which one is positive", f.Latency, f.Jitter)
	case f.BytesPerSecond < 0 || f.Kind == Limit && f.BytesPerSecond == 0:
		wrong = fmt.Sprintf("BytesPerSecond is %d: use a positive number", f.BytesPerSecond)
	case f.Batch < 0:
		wrong = fmt.Sprintf("Batch is %d: use 0 or the number of connections to gather", f.Batch)
	default:
		return nil
	}
	return errors.New("faultproxy: Fault." + wrong)
}

// Counter tells what one kind of fault did.
type Counter struct {
	Applied     int // how often it was switched on
	Connections int // that it hit: delayed, limited, ended, swallowed from or held back. Nobody sees a refused one.
	Bytes       int // that arrived at the proxy and never left it because of this fault; those of a connection that it ended are counted when both ends have gone
}

// Options describe a group.
type Options struct {
	// Seed determines every random decision: the jitter of each connection by its number, and the order in which held
	// connections are let through.
	Seed uint64
	// Targets are the members' client URLs, or host:port.
	Targets []string
}

// Group is a set of proxies, one per target. Its methods may be called from several goroutines.
type Group struct {
	seed    uint64
	proxies []*Proxy
	running sync.WaitGroup

	mu     sync.Mutex // guards all that changes, of the proxies and connections too
	closed bool
	rng    *rand.Rand
	held   []*conn // in the order of their arrival
}

// Start runs a proxy for each target on a port of 127.0.0.1.
func Start(opts Options) (*Group, error) {
	if len(opts.Targets) == 0 {
		return nil, errors.New("faultproxy: Options.Targets is empty: name the members' endpoints")
	}
	g := &Group{seed: opts.Seed, rng: rand.New(rand.NewPCG(opts.Seed, 0))}
	for i, target := range opts.Targets {
		p, err := newProxy(g, i, target)
		if err != nil {
			g.Close()
			return nil, err
		}
		g.proxies = append(g.proxies, p)
	}
	return g, nil
}

// address splits a target into what comes before host:port, and host:port.
func address(target string) (scheme, hostPort string, err error) {
	hostPort = target
	if u, parseErr := url.Parse(target); parseErr == nil && u.Host != "" {
		scheme, hostPort = u.Scheme+"://", u.Host
	}
	_, port, err := net.SplitHostPort(hostPort)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", "", fmt.Errorf("faultproxy: Options.Targets: %q: use host:port or a URL with both: %w", target, err)
	}
	return scheme, hostPort, nil
}

// Endpoints are the proxies' endpoints in the order of the targets, with the targets' schemes.
func (g *Group) Endpoints() []string {
	endpoints := make([]string, len(g.proxies))
	for i, p := range g.proxies {
		endpoints[i] = p.Endpoint()
	}
	return endpoints
}

// Proxy is the proxy of target i.
func (g *Group) Proxy(i int) *Proxy { return g.proxies[i] }

// Apply switches a fault on at every proxy, or changes it.
func (g *Group) Apply(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.proxies {
		p.apply(f)
	}
	return nil
}

// Clear ends the faults of the kinds, or all faults if none is named, at every proxy.
func (g *Group) Clear(kinds ...Kind) { g.clear(g.proxies, kinds) }

// Counters tell what each kind of fault did, at all proxies together.
func (g *Group) Counters() map[Kind]Counter {
	sum := map[Kind]Counter{}
	for _, p := range g.proxies {
		for kind, n := range p.Counters() {
			s := sum[kind]
			sum[kind] = Counter{s.Applied + n.Applied, s.Connections + n.Connections, s.Bytes + n.Bytes}
		}
	}
	return sum
}

// Close ends all connections and waits until nothing of the group is left. Further calls do nothing.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	for _, p := range g.proxies {
		p.close()
	}
	g.mu.Unlock()
	g.running.Wait()
}

// clear ends faults at some proxies. Connections that were held are let through in one common order.
func (g *Group) clear(proxies []*Proxy, kinds []Kind) {
	if len(kinds) == 0 {
		kinds = Kinds()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	free := map[*Proxy]bool{}
	for _, p := range proxies {
		for _, kind := range kinds {
			p.clearKind(kind)
		}
		free[p] = !p.holds
	}
	var through, still []*conn
	for _, c := range g.held {
		if free[c.proxy] {
			through = append(through, c)
		} else {
			still = append(still, c)
		}
	}
	g.held = still
	g.letThrough(through)
}

// letThrough connects held connections to their members, one after another, in another order. It does not wait for them.
func (g *Group) letThrough(conns []*conn) {
	if len(conns) == 0 {
		return
	}
	order := g.rng.Perm(len(conns))
	for len(order) > 1 && slices.IsSorted(order) {
		order = g.rng.Perm(len(conns))
	}
	g.running.Go(func() {
		for _, i := range order {
			conns[i].dial()
			g.running.Go(conns[i].run)
		}
	})
}
