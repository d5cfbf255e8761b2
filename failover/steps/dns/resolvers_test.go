package dns

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

// silent takes packets and connections, and answers nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = pc.Close() })
	return l.Addr().String()
}

// resolver answers with records as they stand, or with a failure.
func resolver(t *testing.T, rcode int, records ...string) string {
	t.Helper()
	var all []mdns.RR
	for _, r := range records {
		rr, err := mdns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rr)
	}
	return serve(t, mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		r := new(mdns.Msg)
		r.SetRcode(q, rcode)
		for _, rr := range all {
			switch h := rr.Header(); {
			case h.Rrtype == mdns.TypeSOA:
				r.Ns = append(r.Ns, rr)
			case h.Rrtype == q.Question[0].Qtype || h.Rrtype == mdns.TypeCNAME:
				r.Answer = append(r.Answer, rr)
			}
		}
		_ = w.WriteMsg(r)
	}))
}

func TestWhatResolversSay(t *testing.T) {
	fresh := resolver(t, 0, platform+" 60 A 10.0.1.1", platform+" 60 AAAA 2001:db8::2")
	soa := "example.com. 900 SOA ns. hm. 1 2 3 4 77"
	for _, c := range []struct {
		resolver string
		data     []string
		state    failover.State
		parts    []string
	}{
		{fresh, []string{"10.0.1.1", "2001:db8::2"}, failover.Done, nil},
		{resolver(t, 0, platform+" 42 A 10.0.0.1"), []string{"10.0.1.1"}, failover.Pending, []string{"10.0.0.1 for another 42s"}},
		// IPv6 left behind: not done.
		{fresh, []string{"10.0.1.1"}, failover.Pending, []string{"2001:db8::2"}},
		{resolver(t, 0, platform+" 60 A 10.0.1.1"), []string{"10.0.1.1", "2001:db8::2"}, failover.Pending, nil},
		{resolver(t, mdns.RcodeNameError, soa), []string{"10.0.1.1"}, failover.Pending, []string{"the name does not exist for another 77s"}},
		{resolver(t, 0, soa), []string{"10.0.1.1"}, failover.Pending, []string{"no address for another 77s"}},
		{resolver(t, mdns.RcodeServerFailure), []string{"10.0.1.1"}, failover.Pending, []string{"it answers SERVFAIL"}},
		{resolver(t, mdns.RcodeRefused), []string{"10.0.1.1"}, failover.Pending, []string{"it answers REFUSED"}},
		{silent(t), []string{"10.0.1.1"}, failover.Pending, []string{"it cannot be reached: no answer within 100ms"}},
		{resolver(t, 0, platform+" 60 CNAME Two.example.com.", "two.example.com. 60 A 10.0.1.1"), []string{"two.example.com"}, failover.Done, nil},
		{resolver(t, mdns.RcodeNameError, platform+" 60 CNAME two.example.com."), []string{"two.example.com"}, failover.Done, nil},
		{resolver(t, 0, platform+" 60 CNAME one.example.com.", "one.example.com. 60 A 10.0.1.1"), []string{"10.0.1.1"}, failover.Pending, []string{"one.example.com."}},
	} {
		s := must(t)(Resolvers(ResolversConfig{Resolvers: []string{c.resolver}, Domain: platform, Data: c.data, Timeout: 100 * time.Millisecond}))
		look(t, s, c.state, append(c.parts, c.resolver)...)
		answers := failover.Done
		if len(c.parts) > 0 && strings.HasPrefix(c.parts[0], "it ") {
			answers = failover.Blocked
		}
		look(t, must(t)(ResolversAnswer(ResolversAnswerConfig{Resolvers: []string{c.resolver}, Domain: platform, Timeout: 100 * time.Millisecond})), answers, c.resolver)
	}
}

// The system's resolver knows the hosts file.
func TestSystemResolver(t *testing.T) {
	addrs, err := net.DefaultResolver.LookupNetIP(testutil.Context(t), "ip", "localhost")
	if err != nil {
		t.Skipf("localhost is not known here: %v", err)
	}
	var data []string
	for _, a := range addrs {
		if text := a.Unmap().String(); !strings.Contains(strings.Join(data, " "), text) {
			data = append(data, text)
		}
	}
	look(t, must(t)(Resolvers(ResolversConfig{Resolvers: []string{System}, Domain: "localhost", Data: data, Timeout: 20 * time.Second})), failover.Done)
	look(t, must(t)(Resolvers(ResolversConfig{Resolvers: []string{System}, Domain: "localhost", Data: []string{"10.0.1.1"}, Timeout: 20 * time.Second})), failover.Pending, "system: ")
}

// Behind one address several caches: all of them count.
func TestOneOfSeveralCachesIsBehind(t *testing.T) {
	n := 0
	addr := serve(t, mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		r := new(mdns.Msg)
		r.SetReply(q)
		if q.Question[0].Qtype == mdns.TypeA {
			n++
			ip := "10.0.1.1"
			if n%3 == 0 {
				ip = "10.0.0.1"
			}
			rr, _ := mdns.NewRR(platform + " 60 A " + ip)
			r.Answer = append(r.Answer, rr)
		}
		_ = w.WriteMsg(r)
	}))
	look(t, must(t)(Resolvers(ResolversConfig{Resolvers: []string{addr}, Domain: platform, Data: []string{"10.0.1.1"}})), failover.Pending, "10.0.0.1")
}

// A real cache in front of a real authority: it answers the former record until its TTL has passed, and the step waits just for that. One that never learns is named.
func TestResolversWaitForTheTTL(t *testing.T) {
	a := startBIND(t)
	cache := a.cache(t)
	ctx := testutil.Context(t)
	a.put(t, platform, "3 A 10.0.0.1")
	for _, kind := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		if _, err := query(ctx, cache, platform, kind, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	record := must(t)(Record(RecordConfig{Provider: a.provider(t), Domain: platform, Data: []string{"10.0.1.1", "2001:db8::2"}}))
	cfg := ResolversConfig{Resolvers: []string{cache, a.addr}, Domain: platform, Data: []string{"10.0.1.1", "2001:db8::2"}, Change: record.Name(), Margin: time.Minute, Poll: 100 * time.Millisecond}
	wait := must(t)(Resolvers(cfg))
	look(t, wait, failover.Pending, cache+": 10.0.0.1")
	lab := steprun.New(t)
	if err := lab.Run(record, wait); err != nil {
		t.Fatal(err)
	}
	look(t, wait, failover.Done, cache+": 10.0.1.1, 2001:db8::2 for another ")
	if err := lab.Undo(record, wait); err != nil {
		t.Fatal(err)
	}
	if got := a.world(t, platform); got != "A 10.0.0.1 (3s)" {
		t.Errorf("after undoing the name leads to %s", got)
	}

	stuck := resolver(t, 0, platform+" 3600 A 10.0.0.1")
	cfg.Resolvers, cfg.Margin = []string{a.addr, stuck}, time.Millisecond
	late := must(t)(Resolvers(cfg))
	lab = steprun.New(t)
	err := lab.Run(record, late)
	if !errors.Is(err, failover.ErrStepFailed) && !errors.Is(err, failover.ErrBlocked) || !strings.Contains(err.Error(), stuck+" should agree since") || strings.Contains(err.Error(), a.addr+" should") {
		t.Errorf("got %v, want that %s is named", err, stuck)
	}
	// Resumed, it is blocked at once; undone, it is out of the way.
	if err := lab.Run(record, late); !errors.Is(err, failover.ErrBlocked) {
		t.Errorf("resumed: got %v, want ErrBlocked", err)
	}
	if err := lab.Undo(record, late); err != nil {
		t.Error(err)
	}
}

// A name that did not exist: its absence is cached, and the step waits for that to be forgotten.
func TestAbsenceIsCached(t *testing.T) {
	a := startBIND(t)
	cache := a.cache(t)
	a.put(t, platform)
	if m, err := query(testutil.Context(t), cache, platform, mdns.TypeA, 10*time.Second); err != nil || m.Rcode != mdns.RcodeNameError {
		t.Fatal(m, err)
	}
	record := must(t)(Record(RecordConfig{Provider: a.provider(t), Domain: platform, Data: []string{"10.0.1.1"}}))
	wait := must(t)(Resolvers(ResolversConfig{Resolvers: []string{cache}, Domain: platform, Data: []string{"10.0.1.1"}, Change: record.Name(), Poll: 100 * time.Millisecond}))
	look(t, wait, failover.Pending, "the name does not exist for another ")
	if err := steprun.New(t).Run(record, wait); err != nil {
		t.Fatal(err)
	}
}
