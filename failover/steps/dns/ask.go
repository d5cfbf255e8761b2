package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// System names this machine's own resolver, hosts file included, among the resolvers of a Config.
const System = "system"

// reply is what one resolver says of a name.
type reply struct {
	resolver string
	err      error // it did not answer, or answered with a failure
	missing  bool  // it says that the name does not exist
	address  Address
	// left is how long it may go on saying so without asking again; 0 if it does not tell, as the system's resolver.
	left time.Duration
}

func (r reply) String() string {
	switch {
	case r.err != nil:
		return fmt.Sprintf("%s: %v", r.resolver, r.err)
	case r.missing:
		return fmt.Sprintf("%s: the name does not exist%s", r.resolver, r.forAnother())
	case len(r.address) == 0:
		return fmt.Sprintf("%s: no address%s", r.resolver, r.forAnother())
	}
	return fmt.Sprintf("%s: %s%s", r.resolver, r.address.data(), r.forAnother())
}

func (r reply) forAnother() string {
	if r.left == 0 {
		return ""
	}
	return fmt.Sprintf(" for another %ds", int(r.left.Seconds()))
}

// agrees reports whether a resolver leads to an address: the same addresses of both families, or the same CNAME whatever addresses that has.
func (r reply) agrees(want Address) bool {
	if r.err != nil || r.missing {
		return false
	}
	if cname := want.set("CNAME"); len(cname.Data) > 0 {
		return slices.Equal(r.address.set("CNAME").Data, cname.Data)
	}
	return r.address.sameData(want)
}

// askResolver asks a resolver for the addresses of a name, in both families.
func askResolver(ctx context.Context, resolver, name string, timeout time.Duration) reply {
	if resolver == System {
		return askSystem(ctx, name, timeout)
	}
	r := reply{resolver: resolver}
	var all []mdns.RR
	var negative []time.Duration
	for _, kind := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		m, err := query(ctx, resolver, name, kind, timeout)
		if err != nil {
			r.err = err
			return r
		}
		r.missing = r.missing || m.Rcode == mdns.RcodeNameError
		found := addressOf(name, m.Answer)
		all = append(all, m.Answer...)
		if len(found) == 0 {
			// How long an absence is kept: RFC 2308.
			for _, rr := range m.Ns {
				if soa, ok := rr.(*mdns.SOA); ok {
					negative = append(negative, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second)
				}
			}
		}
	}
	r.address = addressOf(name, all)
	// A CNAME's target that does not exist is answered with the CNAME and "name error".
	r.missing = r.missing && len(r.address) == 0
	r.left = r.address.maxTTL()
	for _, n := range negative {
		r.left = max(r.left, n)
	}
	return r
}

// query asks by UDP, twice because packets are lost, and by TCP if the answer does not fit.
func query(ctx context.Context, resolver, name string, kind uint16, timeout time.Duration) (m *mdns.Msg, err error) {
	for _, network := range []string{"udp", "udp", "tcp"} {
		q := new(mdns.Msg)
		q.SetQuestion(name, kind)
		c := &mdns.Client{Net: network, Timeout: timeout}
		if m, _, err = c.ExchangeContext(ctx, q, resolver); err == nil && !m.Truncated {
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	var timedOut net.Error
	switch {
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return nil, fmt.Errorf("it cannot be reached: no answer within %v", timeout)
	case err != nil:
		return nil, fmt.Errorf("it cannot be reached: %w", err)
	case m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError:
		return nil, fmt.Errorf("it answers %s", mdns.RcodeToString[m.Rcode])
	}
	return m, nil
}

// askSystem asks as programs on this machine do.
func askSystem(ctx context.Context, name string, timeout time.Duration) reply {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := reply{resolver: System}
	host := strings.TrimSuffix(name, ".") // as programs say it: hosts files have names without a final dot
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	var missing *net.DNSError
	switch {
	case errors.As(err, &missing) && missing.IsNotFound:
		r.missing = true
		return r
	case err != nil:
		r.err = err
		return r
	}
	var all []mdns.RR
	for _, ip := range found {
		kind := "A"
		if ip = ip.Unmap().WithZone(""); ip.Is6() {
			kind = "AAAA"
		}
		all = append(all, Set{Type: kind, Data: []string{ip.String()}}.records(name)...)
	}
	r.address = addressOf(name, all)
	// The addresses of a CNAME are those of its target: that is all that the system tells.
	if canonical, err := net.DefaultResolver.LookupCNAME(ctx, host); err == nil && mdns.CanonicalName(canonical) != name {
		r.address = append(r.address, Set{Type: "CNAME", Data: []string{mdns.CanonicalName(canonical)}})
	}
	return r
}

// resolvers checks and completes a list of resolvers.
func (c *configErrors) resolvers(all []string) []string {
	if len(all) == 0 {
		c.add("Resolvers is empty", `name at least one as address or address:port, or "system"`)
	}
	var complete []string
	for i, r := range all {
		if r != System {
			at, err := serverAddress(r)
			if host, _, splitErr := net.SplitHostPort(at); err == nil && splitErr == nil {
				_, err = netip.ParseAddr(host)
			}
			if err != nil {
				c.add(fmt.Sprintf("Resolvers[%d], %q, is no IP address or address:port", i, r), `a resolver is named by its address, because names need one; or use "system"`)
			}
			r = at
		}
		if slices.Contains(complete, r) {
			c.add(fmt.Sprintf("Resolvers[%d], %q, is there twice", i, r), "name each once")
		}
		complete = append(complete, r)
	}
	return complete
}

func joinReplies(all []reply) string {
	var parts []string
	for _, r := range all {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, " | ")
}
