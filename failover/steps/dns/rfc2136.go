package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// DefaultTimeout bounds one question or change, from the connection to the answer.
const DefaultTimeout = 5 * time.Second

// Dialer opens connections. *net.Dialer is one; an *ssh.Client of golang.org/x/crypto/ssh is another, for Network tcp.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// RFC2136Config says how to change a zone by dynamic updates.
type RFC2136Config struct {
	// Server is the zone's primary server: host, host:port or [address]:port; 53 without a port. Required. Records are read from it as well.
	Server string
	// Network is "tcp" or "udp"; "" is "tcp", which tells a lost answer from a slow one. What does not fit into 512 bytes goes by tcp all the same.
	Network string
	// Zone is the zone's name; "" asks the server for the SOA record above the name each time.
	Zone string
	// Key signs questions and changes. Required.
	Key Key
	// Timeout bounds each question; 0 is DefaultTimeout.
	Timeout time.Duration
	// Dialer opens connections; nil is this machine's.
	Dialer Dialer
}

// RFC2136 makes a Provider that changes records by dynamic updates (RFC 2136), signed with TSIG (RFC 8945). It reads the key's file and contacts nobody.
//
// A change carries as prerequisites what the records were when they were read, type by type: the server makes it only if they still are the same, so a change by somebody else in between is noticed (ErrChanged).
// TTLs are not part of prerequisites: that somebody changed nothing but a TTL is not noticed. Answers have to be signed with the key as well; an unsigned one is trusted for a refusal only.
func RFC2136(cfg RFC2136Config) (Provider, error) {
	var errs configErrors
	server, err := serverAddress(cfg.Server)
	if err != nil {
		errs.add(fmt.Sprintf("Server %q: %v", cfg.Server, err), "give the primary server of the zone as host or host:port")
	}
	switch cfg.Network = cmp.Or(cfg.Network, "tcp"); cfg.Network {
	case "tcp", "udp":
	default:
		errs.add(fmt.Sprintf("Network %q is unknown", cfg.Network), `use "tcp" or "udp"`)
	}
	if cfg.Zone != "" {
		if cfg.Zone, err = canonicalName(cfg.Zone); err != nil {
			errs.add("Zone: "+err.Error(), "give the zone's name, or leave it empty to have it found")
		}
	}
	errs.positive("Timeout", &cfg.Timeout, DefaultTimeout)
	name, algorithm, secret, err := cfg.Key.load()
	if err != nil {
		errs.add("Key: "+err.Error(), "give the key that the server's configuration has for updates of the zone")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := &rfc2136{server: server, network: cfg.Network, zone: cfg.Zone, timeout: cfg.Timeout, dial: cfg.Dialer, keyName: name, algorithm: algorithm, secret: secret, now: time.Now}
	if p.dial == nil {
		p.dial = &net.Dialer{}
	}
	return p, nil
}

// serverAddress completes host to host:53.
func serverAddress(server string) (string, error) {
	if addr, err := netip.ParseAddr(server); err == nil {
		return net.JoinHostPort(addr.String(), "53"), nil
	}
	if !strings.Contains(server, ":") {
		server += ":53"
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return "", errors.New("it is no host:port")
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if _, err := canonicalName(host); err != nil {
			return "", err
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("port %q is not 1 to 65535", port)
	}
	return server, nil
}

type rfc2136 struct {
	server, network, zone      string
	timeout                    time.Duration
	dial                       Dialer
	keyName, algorithm, secret string
	now                        func() time.Time
}

// Format keeps the secret out of whatever prints a provider.
func (p *rfc2136) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "RFC 2136 at %s with key %s", p.server, p.keyName)
}

func (p *rfc2136) Describe() map[string]any {
	return map[string]any{"kind": "rfc2136", "server": p.server, "network": p.network, "zone": p.zone, "key": p.keyName, "algorithm": strings.TrimSuffix(p.algorithm, "."), "timeout": p.timeout.String()}
}

func (p *rfc2136) fail(kind error, what, hint string, cause error) error {
	return &Error{Kind: kind, Detail: fmt.Sprintf("%s of %s with key %s", what, p.server, p.keyName), Hint: hint, Cause: cause}
}

// exchange sends a signed message and returns the answer, whose signature was checked. what is for errors.
func (p *rfc2136) exchange(ctx context.Context, what, network string, m *mdns.Msg) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if m.Len() > mdns.MinMsgSize { // a change may be larger than what every server takes in a packet
		network = "tcp"
	}
	const reach = "check address, port, firewall, and that the server runs"
	conn, err := p.dial.DialContext(ctx, network, p.server)
	if err != nil {
		return nil, p.fail(ErrUnreachable, what, reach, err)
	}
	defer conn.Close()
	// Connections of ssh know no deadlines: closing ends their calls as well.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	co := &mdns.Conn{Conn: conn, UDPSize: 4096, TsigSecret: map[string]string{p.keyName: p.secret}}
	m.SetTsig(p.keyName, p.algorithm, 300, p.now().Unix())
	if err := co.WriteMsg(m); err != nil {
		return nil, p.fail(ErrUnreachable, what, reach, err)
	}
	r, err := co.ReadMsg()
	for err == nil && r.Id != m.Id && network == "udp" { // a late answer, or a forged one
		r, err = co.ReadMsg()
	}
	if ctx.Err() != nil {
		return nil, p.fail(ErrUnreachable, what, reach, fmt.Errorf("no answer within %v", p.timeout))
	}
	if r == nil {
		return nil, p.fail(ErrUnreachable, what, reach, err)
	}
	if err := p.signature(what, r, err); err != nil {
		return nil, err
	}
	if r.Id != m.Id || !r.Response || r.Opcode != m.Opcode {
		return nil, p.fail(ErrServer, what, "check what listens there", errors.New("the answer is to another question"))
	}
	if r.Truncated && network == "udp" {
		m.Extra = nil
		return p.exchange(ctx, what, "tcp", m)
	}
	return r, nil
}

// signature looks at what the answer says of the signatures, its own and the question's. err is what checking the answer's said.
func (p *rfc2136) signature(what string, r *mdns.Msg, err error) error {
	t := r.IsTsig()
	if t == nil {
		switch {
		case err != nil:
			return p.fail(ErrServer, what, "check what listens there", err)
		case r.Rcode == mdns.RcodeSuccess || r.Rcode == mdns.RcodeNameError:
			return p.fail(ErrSignature, what, "the server must be one that knows TSIG: check that nothing in between answers", errors.New("the answer is not signed"))
		}
		return nil // a refusal
	}
	switch t.Error {
	case mdns.RcodeBadKey:
		return p.fail(ErrKey, what, "compare the key's name and algorithm with those in the server's configuration", nil)
	case mdns.RcodeBadSig, mdns.RcodeBadTrunc:
		return p.fail(ErrSignature, what, "compare the secret with that in the server's configuration", nil)
	case mdns.RcodeBadTime:
		return p.fail(ErrClock, what, "set the clocks of both machines by NTP", p.skew(t))
	}
	switch {
	case errors.Is(err, mdns.ErrTime):
		return p.fail(ErrClock, what, "set the clocks of both machines by NTP", nil)
	case errors.Is(err, mdns.ErrAuth) && r.Rcode == mdns.RcodeNotAuth && t.Error == mdns.RcodeSuccess:
		return nil // the library takes every NOTAUTH for a fault of the signature, and here it is a refusal
	case err != nil:
		return p.fail(ErrSignature, what, "compare name, algorithm and secret with those in the server's configuration", err)
	}
	return nil
}

// skew tells how far the clocks are apart, from the server's time in a BADTIME answer.
func (p *rfc2136) skew(t *mdns.TSIG) error {
	at, err := strconv.ParseInt(t.OtherData, 16, 64)
	if err != nil || len(t.OtherData) != 12 {
		return nil
	}
	d := p.now().Sub(time.Unix(at, 0)).Round(time.Second)
	if d < 0 {
		return fmt.Errorf("this machine's clock is %v behind the server's", -d)
	}
	return fmt.Errorf("this machine's clock is %v ahead of the server's", d)
}

// ask asks the server for the records of a name and type, with authority.
func (p *rfc2136) ask(ctx context.Context, name string, kind uint16) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetQuestion(name, kind)
	m.RecursionDesired = false
	what := fmt.Sprintf("question for %s %s", name, mdns.TypeToString[kind])
	r, err := p.exchange(ctx, what, p.network, m)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Rcode == mdns.RcodeRefused:
		return nil, p.fail(ErrRefused, what, "check that the zone is the server's and that this machine and key may ask", nil)
	case r.Rcode != mdns.RcodeSuccess && r.Rcode != mdns.RcodeNameError:
		return nil, p.fail(ErrServer, what, "look into the server's log", errors.New(mdns.RcodeToString[r.Rcode]))
	case !r.Authoritative:
		return nil, p.fail(ErrZone, what, "name the zone's primary server, no resolver, and a name that is not delegated away", nil)
	}
	return r, nil
}

func (p *rfc2136) Lookup(ctx context.Context, name string) (Address, error) {
	var all []mdns.RR
	for _, kind := range []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypeCNAME} {
		r, err := p.ask(ctx, name, kind)
		if err != nil {
			return nil, err
		}
		all = append(all, r.Answer...)
	}
	return addressOf(name, all), nil
}

// zoneOf finds the zone that a name is in: the owner of the SOA record that the server has for it, or for the name above.
func (p *rfc2136) zoneOf(ctx context.Context, name string) (string, error) {
	if p.zone != "" {
		if !mdns.IsSubDomain(p.zone, name) {
			return "", p.fail(ErrZone, "change of "+name, fmt.Sprintf("the zone is given as %s: name the one that it is in", p.zone), nil)
		}
		return p.zone, nil
	}
	for at := name; ; {
		r, err := p.ask(ctx, at, mdns.TypeSOA)
		if err != nil {
			return "", err
		}
		for _, rr := range append(r.Answer, r.Ns...) {
			if soa, ok := rr.(*mdns.SOA); ok && mdns.IsSubDomain(soa.Hdr.Name, name) {
				return mdns.CanonicalName(soa.Hdr.Name), nil
			}
		}
		// A name with a CNAME has no SOA record in its answer.
		i, end := mdns.NextLabel(at, 0)
		if end {
			return "", p.fail(ErrZone, "change of "+name, "give the zone", errors.New("no SOA record was found"))
		}
		at = at[i:]
	}
}

// update sends a change whose prerequisite is that the name has one address.
func (p *rfc2136) update(ctx context.Context, name string, before Address, change func(m *mdns.Msg)) error {
	zone, err := p.zoneOf(ctx, name)
	if err != nil {
		return err
	}
	m := new(mdns.Msg)
	m.SetUpdate(zone)
	for _, kind := range addressTypes() {
		if set := before.set(kind); len(set.Data) > 0 {
			m.Used(set.records(name))
		} else {
			m.RRsetNotUsed([]mdns.RR{&mdns.ANY{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.StringToType[kind]}}})
		}
	}
	change(m)
	what := fmt.Sprintf("change of %s in zone %s", name, zone)
	r, err := p.exchange(ctx, what, p.network, m)
	if err != nil {
		return err
	}
	switch r.Rcode {
	case mdns.RcodeSuccess:
		return nil
	case mdns.RcodeRefused:
		return p.fail(ErrRefused, what, "allow this key to change the name (BIND: update-policy or allow-update of the zone)", nil)
	case mdns.RcodeNotAuth, mdns.RcodeNotZone:
		return p.fail(ErrZone, what, "check zone and server: only the zone's primary takes changes", errors.New(mdns.RcodeToString[r.Rcode]))
	case mdns.RcodeNXRrset, mdns.RcodeYXRrset, mdns.RcodeNameError, mdns.RcodeYXDomain:
		return p.fail(ErrChanged, what, "look at the records and try again; a name that a wildcard answers for has no records of its own: make them first", errors.New(mdns.RcodeToString[r.Rcode]))
	}
	return p.fail(ErrServer, what, "look into the server's log", errors.New(mdns.RcodeToString[r.Rcode]))
}

// Replace removes the sets before and inserts those after, in one message: a set that only changes its TTL is removed as well, because not every server changes the TTL of a record that is there.
func (p *rfc2136) Replace(ctx context.Context, name string, before, after Address) error {
	return p.update(ctx, name, before, func(m *mdns.Msg) {
		for _, set := range before {
			m.RemoveRRset(set.records(name)[:1])
		}
		for _, set := range after {
			m.Insert(set.records(name))
		}
	})
}

// Check sends a change of the types that Replace would change, which removes records that are not there: servers look at what a key may do name by name and type by type, and would allow an empty change to everybody.
// That the records are not there is a prerequisite of the change itself.
func (p *rfc2136) Check(ctx context.Context, name string, after Address) error {
	before, err := p.Lookup(ctx, name)
	if err != nil {
		return err
	}
	return p.update(ctx, name, before, func(m *mdns.Msg) {
		for _, kind := range addressTypes() {
			if len(before.set(kind).Data)+len(after.set(kind).Data) > 0 {
				m.Remove(Set{Type: kind, Data: []string{absent(before.set(kind))}}.records(name))
			}
		}
	})
}

// absent is data that a set does not have, from what is set aside for documentation (RFC 5737, RFC 3849) and never to exist (RFC 6761).
func absent(set Set) string {
	has := map[string]bool{}
	for _, d := range set.Data {
		has[d] = true
	}
	for i := 1; ; i++ {
		var data string
		switch set.Type {
		case "A":
			data = fmt.Sprintf("192.0.2.%d", i%256)
			if i > 255 {
				data = fmt.Sprintf("198.51.100.%d", i%256)
			}
		case "AAAA":
			data = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)).String()
		default:
			data = fmt.Sprintf("probe-%d.invalid.", i)
		}
		if !has[data] {
			return data
		}
	}
}
