package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Dialer opens connections. *net.Dialer is one, and *ssh.Client of golang.org/x/crypto/ssh is another, which opens them from a machine that it is connected to.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// LookupFunc returns all addresses of a host name, of both families.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

func lookupSystem(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// verdict is what a port turned out to be.
type verdict string

const (
	open verdict = "open"
	// refused: the machine, or a firewall in its name, answered that nothing listens.
	refused verdict = "refused"
	// filtered: nothing answered in time.
	filtered verdict = "filtered"
	// unreachable: a router, or this machine's neighbour table, says that the machine cannot be reached.
	unreachable verdict = "unreachable"
	// unknown: this machine could not ask, so nothing is known.
	unknown verdict = "unknown"
)

// closed reports whether a client would get no connection.
func (v verdict) closed() bool { return v == refused || v == filtered || v == unreachable }

func judge(err error) verdict {
	var timeout net.Error
	switch {
	case err == nil:
		return open
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return unreachable
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return filtered
	}
	return unknown // ENETUNREACH, EPERM, EMFILE, …: the question never left this machine
}

// prober connects to ports.
type prober struct {
	dial     Dialer
	lookup   LookupFunc
	timeout  time.Duration // of one connection and of one lookup
	attempts int
	parallel int
}

// target is one port of one address.
type target struct {
	host string // as configured
	addr netip.Addr
	port int
}

func (t target) endpoint() string { return net.JoinHostPort(t.addr.String(), strconv.Itoa(t.port)) }

// host is the target's address, with the name it was looked up by.
func (t target) hostText() string {
	if t.host == t.addr.String() {
		return t.host
	}
	return fmt.Sprintf("%s (%s)", t.host, t.addr)
}

// finding is what became of a target.
type finding struct {
	target
	verdict verdict
	attempt int // at which it was decided
	err     error
}

// resolve returns the addresses of each host. A host that has none is in failed, with the reason.
func (p *prober) resolve(ctx context.Context, hosts []string) (addrs map[string][]netip.Addr, failed map[string]error) {
	addrs, failed = map[string][]netip.Addr{}, map[string]error{}
	for _, host := range hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			addrs[host] = []netip.Addr{addr.Unmap()}
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, p.timeout)
		found, err := p.lookup(ctx, host)
		cancel()
		if err == nil && len(found) == 0 {
			err = errors.New("it has no address")
		}
		if err != nil {
			failed[host] = err
			continue
		}
		for i := range found {
			found[i] = found[i].Unmap()
		}
		slices.SortFunc(found, netip.Addr.Compare)
		addrs[host] = slices.Compact(found)
	}
	return addrs, failed
}

// connect opens a connection and closes it at once. It returns how long opening took.
func (p *prober) connect(ctx context.Context, endpoint string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	start := time.Now()
	conn, err := p.dial.DialContext(ctx, "tcp", endpoint)
	took := time.Since(start)
	if err != nil {
		return took, err
	}
	_ = conn.Close() // it was opened: that is all
	return took, nil
}

// look tries each target until one attempt finds it open, or all found it closed. It stops early when ctx ends: with its error.
func (p *prober) look(ctx context.Context, targets []target) ([]finding, error) {
	found := make([]finding, len(targets))
	var group errgroup.Group
	group.SetLimit(p.parallel)
	for i, t := range targets {
		group.Go(func() error {
			f := finding{target: t}
			for f.attempt < p.attempts && ctx.Err() == nil && f.verdict != open {
				f.attempt++
				_, f.err = p.connect(ctx, t.endpoint())
				f.verdict = judge(f.err)
			}
			found[i] = f
			return nil
		})
	}
	_ = group.Wait() // its funcs return nil
	return found, ctx.Err()
}

// describe says what was found, a part per address: the ports by what they are.
func (p *prober) describe(found []finding) string {
	var order []string
	ports := map[string]map[string][]string{}
	for _, f := range found {
		host := f.hostText()
		if ports[host] == nil {
			ports[host] = map[string][]string{}
			order = append(order, host)
		}
		is := string(f.verdict)
		switch {
		case f.verdict == open && f.attempt > 1:
			is = fmt.Sprintf("open at attempt %d", f.attempt)
		case f.verdict == filtered:
			is = fmt.Sprintf("filtered (no answer in %v)", p.timeout)
		case f.verdict == unknown:
			is = fmt.Sprintf("unknown (%v)", f.err)
		}
		ports[host][is] = append(ports[host][is], strconv.Itoa(f.port))
	}
	var parts []string
	for _, host := range order {
		var states []string
		for is, of := range ports[host] {
			states = append(states, fmt.Sprintf("%s %s", list(of), is))
		}
		slices.Sort(states)
		parts = append(parts, host+": "+strings.Join(states, "; "))
	}
	return strings.Join(parts, " | ")
}
