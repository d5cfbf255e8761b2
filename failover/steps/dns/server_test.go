package dns

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/daemon"
)

func TestMain(m *testing.M) { testutil.Main(m) }

const (
	zone     = "example.com."
	platform = "platform.example.com."
)

// The secrets of the test's keys, which no journal may hold.
var (
	goodSecret  = Secret("0123456789abcdef0123456789abcdef")
	otherSecret = Secret("fedcba9876543210fedcba9876543210")
	goodKey     = Key{Name: "update-key", Secret: goodSecret}
	powerless   = Key{Name: "powerless", Algorithm: "hmac-sha512", Secret: otherSecret}
)

// authority is a server of the zone: one in this process, or a BIND.
type authority struct {
	addr string
	// log is what a server of this process has seen change; nil of a BIND.
	serial func() uint32
}

func provider(t testing.TB, cfg RFC2136Config) *rfc2136 {
	t.Helper()
	p, err := RFC2136(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*rfc2136)
}

func (a *authority) provider(t testing.TB) *rfc2136 {
	return provider(t, RFC2136Config{Server: a.addr, Key: goodKey})
}

// each runs a test against both.
func each(t *testing.T, test func(t *testing.T, a *authority)) {
	t.Run("in-process", func(t *testing.T) { test(t, startZone(t)) })
	t.Run("BIND", func(t *testing.T) { test(t, startBIND(t)) })
}

// put sets the address of a name, past what is tested.
func (a *authority) put(t testing.TB, name string, records ...string) {
	t.Helper()
	m := new(mdns.Msg)
	m.SetUpdate(zone)
	m.RemoveName([]mdns.RR{&mdns.ANY{Hdr: mdns.RR_Header{Name: name}}})
	for _, r := range records {
		rr, err := mdns.NewRR(name + " " + r)
		if err != nil {
			t.Fatal(err)
		}
		m.Insert([]mdns.RR{rr})
	}
	p := provider(t, RFC2136Config{Server: a.addr, Key: Key{Name: "all-key", Secret: otherSecret}})
	r, err := p.exchange(testutil.Context(t), "put", "tcp", m)
	if err != nil || r.Rcode != mdns.RcodeSuccess {
		t.Fatalf("put %v: %v, %v", records, r, err)
	}
}

// world is the zone's content about a name.
func (a *authority) world(t testing.TB, name string) string {
	t.Helper()
	now, err := a.provider(t).Lookup(testutil.Context(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return now.String()
}

// BIND

func free(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func startBIND(t testing.TB) *authority {
	t.Helper()
	addr := daemon.BIND(t, func(dir string) string {
		text := "$TTL 60\n@ SOA ns admin 1 3600 600 86400 2\n@ NS ns\nns A 127.0.0.1\nsub NS ns.sub\nns.sub A 127.0.0.1\n*.wild A 192.0.2.77\n"
		if err := os.WriteFile(filepath.Join(dir, "zone.db"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var keys strings.Builder
		for name, key := range map[string]Key{"update-key": goodKey, "powerless": powerless, "all-key": {Secret: otherSecret}} {
			algorithm := key.Algorithm
			if algorithm == "" {
				algorithm = "hmac-sha256"
			}
			fmt.Fprintf(&keys, "key \"%s\" { algorithm %s; secret \"%s\"; };\n", name, algorithm, base64.StdEncoding.EncodeToString(key.Secret))
		}
		return keys.String() + `zone "example.com" { type primary; file "zone.db"; update-policy { grant update-key zonesub A AAAA CNAME; grant all-key zonesub ANY; }; };`
	}, "recursion no;")
	a := &authority{addr: addr}
	a.serial = func() uint32 { return serialOf(t, addr) }
	return a
}

func serialOf(t testing.TB, addr string) uint32 {
	t.Helper()
	m, err := query(testutil.Context(t), addr, zone, mdns.TypeSOA, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return m.Answer[0].(*mdns.SOA).Serial
}

// cache starts a BIND that asks an authority and remembers.
func (a *authority) cache(t testing.TB) string {
	_, port, _ := net.SplitHostPort(a.addr)
	return daemon.BIND(t, func(string) string {
		return fmt.Sprintf(`zone "example.com" { type forward; forward only; forwarders { 127.0.0.1 port %s; }; };`, port)
	}, "recursion yes; allow-recursion { any; };")
}

// The server in this process: a zone with dynamic updates and TSIG, as far as RFC 2136 goes for sets of addresses.

type memoryZone struct {
	mu     sync.Mutex
	names  map[string][]mdns.RR
	serial uint32
}

func startZone(t testing.TB) *authority {
	t.Helper()
	z := &memoryZone{names: map[string][]mdns.RR{}, serial: 1}
	for _, text := range []string{"example.com. 60 SOA ns.example.com. admin.example.com. 1 3600 600 86400 2", "ns.example.com. 60 A 127.0.0.1"} {
		rr, err := mdns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		z.names[rr.Header().Name] = append(z.names[rr.Header().Name], rr)
	}
	addr := serve(t, z)
	return &authority{addr: addr, serial: func() uint32 { z.mu.Lock(); defer z.mu.Unlock(); return z.serial }}
}

// serve runs a handler by UDP and TCP on one port.
func serve(t testing.TB, h mdns.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*mdns.Server{{Listener: l}, {PacketConn: pc}} {
		s.Handler = h
		s.MsgAcceptFunc = func(mdns.Header) mdns.MsgAcceptAction { return mdns.MsgAccept }
		s.TsigSecret = map[string]string{}
		for name, secret := range map[string]Secret{"update-key.": goodSecret, "powerless.": otherSecret, "all-key.": otherSecret} {
			s.TsigSecret[name] = base64.StdEncoding.EncodeToString(secret)
		}
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-ended
		})
	}
	return l.Addr().String()
}

func (z *memoryZone) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	r := new(mdns.Msg)
	r.SetReply(q)
	r.Authoritative = true
	key := q.IsTsig()
	if key != nil {
		fault := uint16(0)
		switch err := w.TsigStatus(); {
		case errors.Is(err, mdns.ErrTime):
			fault = mdns.RcodeBadTime
		case errors.Is(err, mdns.ErrSecret):
			fault = mdns.RcodeBadKey
		case err != nil:
			fault = mdns.RcodeBadSig
		}
		if fault != 0 { // such an answer is not signed
			r.Rcode = mdns.RcodeNotAuth
			r.Extra = append(r.Extra, &mdns.TSIG{Hdr: mdns.RR_Header{Name: key.Hdr.Name, Rrtype: mdns.TypeTSIG, Class: mdns.ClassANY}, Algorithm: key.Algorithm, TimeSigned: key.TimeSigned,
				Fudge: 300, OrigId: q.Id, Error: fault, OtherLen: 6, OtherData: fmt.Sprintf("%012x", time.Now().Unix())})
			raw, _ := r.Pack()
			_, _ = w.Write(raw)
			return
		}
		r.SetTsig(key.Hdr.Name, key.Algorithm, 300, time.Now().Unix())
	}
	name := mdns.CanonicalName(q.Question[0].Name)
	switch {
	case !mdns.IsSubDomain(zone, name):
		r.Rcode, r.Authoritative = mdns.RcodeRefused, false
		if q.Opcode == mdns.OpcodeUpdate {
			r.Rcode = mdns.RcodeNotAuth
		}
	case q.Opcode == mdns.OpcodeUpdate:
		r.Rcode = z.update(q, key)
	default:
		for _, rr := range z.names[name] {
			if t := rr.Header().Rrtype; t == q.Question[0].Qtype || t == mdns.TypeCNAME {
				r.Answer = append(r.Answer, rr)
			}
		}
		if len(r.Answer) == 0 {
			r.Ns = z.names[zone][:1]
			if len(z.names[name]) == 0 {
				r.Rcode = mdns.RcodeNameError
			}
		}
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && r.Len() > mdns.MinMsgSize {
		r.Answer, r.Truncated = nil, true
	}
	_ = w.WriteMsg(r)
}

func (z *memoryZone) set(name string, kind uint16) (all []mdns.RR) {
	for _, rr := range z.names[name] {
		if rr.Header().Rrtype == kind {
			all = append(all, rr)
		}
	}
	return all
}

func (z *memoryZone) update(q *mdns.Msg, key *mdns.TSIG) int {
	if key == nil || key.Hdr.Name == "powerless." {
		return mdns.RcodeRefused
	}
	exact := map[string][]mdns.RR{}
	for _, rr := range q.Answer { // prerequisites
		h := rr.Header()
		id := fmt.Sprintf("%s %d", mdns.CanonicalName(h.Name), h.Rrtype)
		switch h.Class {
		case mdns.ClassNONE:
			if len(z.set(mdns.CanonicalName(h.Name), h.Rrtype)) > 0 {
				return mdns.RcodeYXRrset
			}
		case mdns.ClassINET:
			exact[id] = append(exact[id], rr)
		}
	}
	for _, want := range exact {
		have := z.set(mdns.CanonicalName(want[0].Header().Name), want[0].Header().Rrtype)
		n := 0
		for _, w := range want {
			for _, h := range have {
				if mdns.IsDuplicate(w, h) {
					n++
				}
			}
		}
		if n != len(have) || n != len(want) {
			return mdns.RcodeNXRrset
		}
	}
	changed := false
	for _, rr := range q.Ns {
		h := rr.Header()
		name := mdns.CanonicalName(h.Name)
		keep := func(other mdns.RR) bool { return true }
		switch h.Class {
		case mdns.ClassANY:
			keep = func(other mdns.RR) bool { return h.Rrtype != mdns.TypeANY && other.Header().Rrtype != h.Rrtype }
		case mdns.ClassNONE:
			probe := mdns.Copy(rr)
			probe.Header().Class = mdns.ClassINET
			keep = func(other mdns.RR) bool { return !mdns.IsDuplicate(probe, other) }
		case mdns.ClassINET: // beside a CNAME, or as one beside others, it is left out
			others := len(z.names[name]) - len(z.set(name, h.Rrtype))
			if others > 0 && (h.Rrtype == mdns.TypeCNAME || len(z.set(name, mdns.TypeCNAME)) > 0) {
				continue
			}
			z.names[name] = append(z.names[name], mdns.Copy(rr))
			changed = true
			continue
		}
		var kept []mdns.RR
		for _, other := range z.names[name] {
			if keep(other) {
				kept = append(kept, other)
			}
		}
		changed = changed || len(kept) != len(z.names[name])
		z.names[name] = kept
	}
	if changed {
		z.serial++
	}
	return mdns.RcodeSuccess
}

// Shared checks.

func must(t testing.TB) func(failover.Step, error) failover.Step {
	return func(s failover.Step, err error) failover.Step {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func look(t *testing.T, s failover.Step, state failover.State, parts ...string) {
	t.Helper()
	obs, err := s.Observe(testutil.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if obs.State != state {
		t.Errorf("%s is %s (%s), want %s", s.Name(), obs.State, obs.Detail, state)
	}
	for _, part := range parts {
		if !strings.Contains(obs.Detail, part) {
			t.Errorf("the detail does not say %q: %s", part, obs.Detail)
		}
	}
}

func wantConfig(t *testing.T, err error, field string) {
	t.Helper()
	var e *failover.Error
	if !errors.Is(err, failover.ErrConfig) || !errors.As(err, &e) || !strings.Contains(err.Error(), field) || e.Hint == "" {
		t.Errorf("got %v, want ErrConfig that names %s, with a hint", err, field)
	}
	if err != nil && (strings.Contains(err.Error(), string(goodSecret)) || bytes.Contains([]byte(err.Error()), []byte(base64.StdEncoding.EncodeToString(goodSecret)))) {
		t.Errorf("the error shows the secret: %v", err)
	}
}
