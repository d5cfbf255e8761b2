package dns

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

var secrets = []string{string(goodSecret), base64.StdEncoding.EncodeToString(goodSecret)}

// Every kind of change, there and back, with a runner that dies on the way: addresses of both families, CNAMEs, and from one to the other.
func TestRecordThereAndBack(t *testing.T) {
	each(t, func(t *testing.T, a *authority) {
		for _, c := range []struct {
			before []string
			data   []string
			ttl    time.Duration
			after  string
		}{
			{[]string{"300 A 10.0.0.1"}, []string{"10.0.1.1"}, 0, "A 10.0.1.1 (300s)"},
			{[]string{"300 A 10.0.0.1", "300 A 10.0.0.2", "200 AAAA 2001:db8::1"}, []string{"10.0.1.2", "10.0.1.1"}, 30 * time.Second, "A 10.0.1.1 10.0.1.2 (30s)"},
			{[]string{"300 CNAME one.example.com."}, []string{"10.0.1.1", "2001:db8::2"}, 0, "A 10.0.1.1 (300s), AAAA 2001:db8::2 (300s)"},
			{[]string{"300 A 10.0.0.1"}, []string{"two.example.com"}, 0, "CNAME two.example.com. (300s)"},
			{nil, []string{"10.0.1.1"}, 0, "A 10.0.1.1 (60s)"},
			{[]string{"300 A 10.0.1.1"}, []string{"10.0.1.1"}, 30 * time.Second, "A 10.0.1.1 (30s)"},
			{[]string{"300 A 10.0.1.1", "300 A 10.0.0.1"}, []string{"10.0.1.1"}, 0, "A 10.0.1.1 (300s)"},
		} {
			t.Run(c.after, func(t *testing.T) {
				a.put(t, platform, c.before...)
				world := func() string { return a.world(t, platform) }
				cfg := RecordConfig{Provider: a.provider(t), Domain: "Platform.example.com", Data: c.data, TTL: c.ttl}
				steprun.Contract(t, func() failover.Step { return must(t)(Record(cfg)) }, world, secrets...)
				if err := steprun.New(t).Run(must(t)(Record(cfg))); err != nil {
					t.Fatal(err)
				}
				if got := world(); got != c.after {
					t.Errorf("the name leads to %s, want %s", got, c.after)
				}
			})
		}
	})
}

// Somebody changes the record between the look and the change: theirs stays, and the step says so.
func TestAConcurrentChangeIsNoticed(t *testing.T) {
	each(t, func(t *testing.T, a *authority) {
		p := a.provider(t)
		ctx := testutil.Context(t)
		for _, theirs := range [][]string{{"300 A 10.9.9.9"}, {"300 A 10.0.0.1", "300 A 10.9.9.9"}, {"300 A 10.0.0.1", "300 AAAA 2001:db8::9"}, {"300 CNAME their.example.com."}, nil} {
			a.put(t, platform, "300 A 10.0.0.1")
			before, err := p.Lookup(ctx, platform)
			if err != nil {
				t.Fatal(err)
			}
			a.put(t, platform, theirs...)
			want := a.world(t, platform)
			after := Address{{Type: "A", TTL: time.Minute, Data: []string{"10.0.1.1"}}}
			if err := p.Replace(ctx, platform, before, after); !errors.Is(err, ErrChanged) {
				t.Errorf("over %v: got %v, want ErrChanged", theirs, err)
			}
			if got := a.world(t, platform); got != want {
				t.Errorf("over %v: the name leads to %s, want %s", theirs, got, want)
			}
		}
		// Undoing leaves what somebody else has set since.
		a.put(t, platform, "300 A 10.0.0.1")
		step := must(t)(Record(RecordConfig{Provider: p, Domain: platform, Data: []string{"10.0.1.1"}}))
		lab := steprun.New(t)
		if err := lab.Run(step); err != nil {
			t.Fatal(err)
		}
		a.put(t, platform, "300 A 10.9.9.9")
		if err := lab.Undo(step); err != nil {
			t.Error(err)
		}
		if got := a.world(t, platform); got != "A 10.9.9.9 (300s)" {
			t.Errorf("after undoing the name leads to %s", got)
		}
	})
}

func TestRecordThatTheServerLeavesOut(t *testing.T) {
	each(t, func(t *testing.T, a *authority) {
		// A CNAME beside a TXT record: the server takes the change and leaves the CNAME out.
		a.put(t, platform, "300 A 10.0.0.1", "300 TXT note")
		err := steprun.New(t).Run(must(t)(Record(RecordConfig{Provider: a.provider(t), Domain: platform, Data: []string{"two.example.com"}})))
		if !errors.Is(err, failover.ErrStepFailed) {
			t.Errorf("got %v, want ErrStepFailed", err)
		}
	})
}

func TestRecordFromAndDrills(t *testing.T) {
	a := startZone(t)
	a.put(t, platform, "300 A 10.0.0.1")
	a.put(t, "drill.example.com.", "300 A 10.0.0.1")
	cfg := RecordConfig{Provider: a.provider(t), Domain: platform, Data: []string{"10.0.1.1"}, From: []string{"10.0.0.7"}}
	look(t, must(t)(Record(cfg)), failover.Blocked, "A 10.0.0.1", "not to 10.0.0.7 as expected")
	cfg.From = []string{"10.0.0.1"}
	look(t, must(t)(Record(cfg)), failover.Pending)

	// A drill leaves the real name alone: left out, or with a name of its own.
	serial := a.serial()
	drill := func(cfg RecordConfig) error {
		lab := steprun.New(t)
		lab.Mode = failover.ModeDrill
		return lab.Run(must(t)(Record(cfg)))
	}
	if err := drill(cfg); err != nil {
		t.Error(err)
	}
	if a.serial() != serial {
		t.Error("a drill changed the zone")
	}
	cfg.DrillDomain = "drill.example.com"
	if err := drill(cfg); err != nil {
		t.Error(err)
	}
	if a.serial() != serial+2 {
		t.Errorf("a drill with a name of its own made %d changes, want there and back", a.serial()-serial)
	}
	if got := a.world(t, platform) + a.world(t, "drill.example.com."); got != "A 10.0.0.1 (300s)A 10.0.0.1 (300s)" {
		t.Error(got)
	}
}

func TestLowerTTL(t *testing.T) {
	each(t, func(t *testing.T, a *authority) {
		a.put(t, platform, "3600 A 10.0.0.1", "30 AAAA 2001:db8::1")
		cfg := LowerTTLConfig{Provider: a.provider(t), Domain: platform}
		steprun.Contract(t, func() failover.Step { return must(t)(LowerTTL(cfg)) }, func() string { return a.world(t, platform) }, secrets...)

		lower := must(t)(LowerTTL(cfg))
		lab := steprun.New(t)
		if err := lab.Run(lower); err != nil {
			t.Fatal(err)
		}
		if got := a.world(t, platform); got != "A 10.0.0.1 (60s), AAAA 2001:db8::1 (30s)" {
			t.Error(got)
		}
		// Undone after the address has changed: the TTL of before, the address of now.
		a.put(t, platform, "60 A 10.0.1.1")
		if err := lab.Undo(lower); err != nil {
			t.Fatal(err)
		}
		if got := a.world(t, platform); got != "A 10.0.1.1 (3600s)" {
			t.Error(got)
		}
	})
}

// The plan waits until the former TTL has passed, however patient its runner is.
func TestCachesExpire(t *testing.T) {
	a := startZone(t)
	a.put(t, platform, "3 A 10.0.0.1")
	lower := must(t)(LowerTTL(LowerTTLConfig{Provider: a.provider(t), Domain: platform, TTL: time.Second}))
	expired := must(t)(CachesExpired(CachesExpiredConfig{Change: "dns-ttl/platform.example.com"}))
	lab, began := steprun.New(t), time.Now()
	if err := lab.Run(lower, expired); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("caches may hold the former record for 3 s, and the plan waited %v", took)
	}
	if err := lab.Undo(lower, expired); err != nil {
		t.Fatal(err)
	}
	if got := a.world(t, platform); got != "A 10.0.0.1 (3s)" {
		t.Error(got)
	}
}

// What is wrong is told apart and named before anything is changed, and the check itself changes nothing.
func TestWhatIsWrongIsNamed(t *testing.T) {
	each(t, func(t *testing.T, a *authority) {
		a.put(t, platform, "300 A 192.0.2.1", "300 A 192.0.2.2")
		serial := a.serial()
		clock := func(d time.Duration) func(*rfc2136) {
			return func(p *rfc2136) { p.now = func() time.Time { return time.Now().Add(d) } }
		}
		for _, c := range []struct {
			name   string
			cfg    RFC2136Config
			with   func(*rfc2136)
			domain string
			want   error
			text   string
		}{
			{"fine", RFC2136Config{Key: goodKey}, nil, platform, nil, ""},
			{"fine by udp", RFC2136Config{Key: goodKey, Network: "udp"}, nil, platform, nil, ""},
			{"fine with the zone", RFC2136Config{Key: goodKey, Zone: zone}, nil, platform, nil, ""},
			{"unknown key", RFC2136Config{Key: Key{Name: "nosuch", Secret: goodSecret}}, nil, platform, ErrKey, "compare the key's name"},
			{"another secret", RFC2136Config{Key: Key{Name: "update-key", Secret: otherSecret}}, nil, platform, ErrSignature, "compare the secret"},
			{"fast clock", RFC2136Config{Key: goodKey}, clock(time.Hour), platform, ErrClock, "ahead of the server's"},
			{"slow clock", RFC2136Config{Key: goodKey}, clock(-time.Hour), platform, ErrClock, "behind the server's"},
			{"no permission", RFC2136Config{Key: powerless}, nil, platform, ErrRefused, "update-policy"},
			{"another zone", RFC2136Config{Key: goodKey}, nil, "platform.example.org.", ErrRefused, "check that the zone is the server's"},
			{"zone given wrongly", RFC2136Config{Key: goodKey, Zone: "com"}, nil, platform, ErrZone, "NOTAUTH"},
			{"nobody there", RFC2136Config{Key: goodKey, Server: fmt.Sprintf("127.0.0.1:%d", free(t))}, nil, platform, ErrUnreachable, "check address, port"},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.cfg.Server == "" {
					c.cfg.Server = a.addr
				}
				p := provider(t, c.cfg)
				if c.with != nil {
					c.with(p)
				}
				err := p.Check(testutil.Context(t), c.domain, Address{{Type: "A", Data: []string{"10.0.1.1"}}, {Type: "AAAA", Data: []string{"2001:db8::1"}}})
				if !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Fatalf("got %v, want %v", err, c.want)
				}
				step := must(t)(UpdateAllowed(UpdateAllowedConfig{Provider: p, Domain: c.domain, Data: []string{"10.0.1.1"}}))
				if c.want == nil {
					look(t, step, failover.Done)
				} else {
					look(t, step, failover.Blocked, c.text, c.want.Error())
					var e *Error
					if !errors.As(err, &e) || e.Hint == "" || !strings.Contains(err.Error(), c.cfg.Server) {
						t.Errorf("no hint or no server: %v", err)
					}
				}
			})
		}
		if got := a.serial(); got != serial {
			t.Errorf("the checks changed the zone: serial %d, then %d", serial, got)
		}
		if got := a.world(t, platform); got != "A 192.0.2.1 192.0.2.2 (300s)" {
			t.Errorf("the checks changed the name: %s", got)
		}
	})
}

// A server that takes a question and never answers does not hold the plan up.
func TestServerThatHangs(t *testing.T) {
	addr := silent(t)
	p := provider(t, RFC2136Config{Server: addr, Key: goodKey, Timeout: 100 * time.Millisecond})
	if _, err := p.Lookup(testutil.Context(t), platform); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Errorf("got %v", err)
	}
}

// An answer that nobody has signed is no proof of a change, whoever sent it.
func TestUnsignedAnswers(t *testing.T) {
	rcode := mdns.RcodeSuccess
	addr := serve(t, mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		r := new(mdns.Msg)
		r.SetRcode(q, rcode)
		r.Authoritative = true
		_ = w.WriteMsg(r)
	}))
	p := provider(t, RFC2136Config{Server: addr, Key: goodKey, Zone: zone})
	to := Address{{Type: "A", TTL: time.Minute, Data: []string{"10.0.1.1"}}}
	if err := p.Replace(testutil.Context(t), platform, nil, to); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("got %v, want ErrSignature", err)
	}
	if now, err := p.Lookup(testutil.Context(t), platform); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v, %v, want ErrSignature", now, err)
	}
	rcode = mdns.RcodeRefused
	if err := p.Replace(testutil.Context(t), platform, nil, to); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

// A set that does not fit a packet is asked for by TCP.
func TestAnswersThatAreCutOff(t *testing.T) {
	each(t, func(t *testing.T, a *authority) {
		var records, data []string
		for i := range 60 { // a BIND takes 100 at most
			records = append(records, fmt.Sprintf("300 AAAA 2001:db8::%x", i+1))
			data = append(data, fmt.Sprintf("2001:db8::%x", i+1))
		}
		a.put(t, platform, records...)
		p := provider(t, RFC2136Config{Server: a.addr, Key: goodKey, Network: "udp"})
		now, err := p.Lookup(testutil.Context(t), platform)
		if err != nil || len(now.set("AAAA").Data) != len(data) {
			t.Fatalf("got %d addresses, %v, want %d", len(now.set("AAAA").Data), err, len(data))
		}
		look(t, must(t)(Resolvers(ResolversConfig{Resolvers: []string{a.addr}, Domain: platform, Data: data, Timeout: 10 * time.Second})), failover.Done)
		if err := p.Check(testutil.Context(t), platform, now); err != nil {
			t.Error(err)
		}
	})
}

func TestDelegationsAndWildcards(t *testing.T) {
	a := startBIND(t)
	p := a.provider(t)
	if _, err := p.Lookup(testutil.Context(t), "x.sub.example.com."); !errors.Is(err, ErrZone) {
		t.Errorf("below a delegation: got %v, want ErrZone", err)
	}
	// A wildcard's answer is no record of the name: the change is refused, and says why.
	err := p.Replace(testutil.Context(t), "a.wild.example.com.", Address{{Type: "A", TTL: time.Minute, Data: []string{"192.0.2.77"}}}, Address{{Type: "A", TTL: time.Minute, Data: []string{"10.0.1.1"}}})
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "wildcard") {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	p := provider(t, RFC2136Config{Server: "127.0.0.1", Key: goodKey})
	raw, err := json.Marshal(goodKey)
	if err != nil {
		t.Fatal(err)
	}
	described, err := json.Marshal(p.Describe())
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %x %q %s %s %v %+v %#v", goodKey, goodKey, goodKey, goodKey.Secret, goodKey.Secret, goodKey.Secret, raw, described, p, p, p)
	for _, s := range append(secrets, fmt.Sprintf("%x", []byte(goodSecret)), "48, 49") {
		if strings.Contains(shown, s) {
			t.Errorf("a secret is shown in %s", shown)
		}
	}
}

func TestConfigs(t *testing.T) {
	ok := RFC2136Config{Server: "127.0.0.1", Key: goodKey}
	for field, change := range map[string]func(*RFC2136Config){
		"Server": func(c *RFC2136Config) { c.Server = "" }, `port "x"`: func(c *RFC2136Config) { c.Server = "a:x" }, "Network": func(c *RFC2136Config) { c.Network = "tls" },
		"Zone": func(c *RFC2136Config) { c.Zone = "a b" }, "Timeout": func(c *RFC2136Config) { c.Timeout = -1 }, "Key: its Name": func(c *RFC2136Config) { c.Key.Name = "" },
		"Secret is empty": func(c *RFC2136Config) { c.Key.Secret = nil }, "hmac-md5, which is forbidden": func(c *RFC2136Config) { c.Key.Algorithm = "HMAC-MD5.SIG-ALG.REG.INT." },
		`"rot13" is unknown`: func(c *RFC2136Config) { c.Key.Algorithm = "rot13" }, "a File and other fields": func(c *RFC2136Config) { c.Key.File = "/x" },
	} {
		cfg := ok
		change(&cfg)
		_, err := RFC2136(cfg)
		wantConfig(t, err, field)
	}
	p := provider(t, ok)
	for field, cfg := range map[string]RecordConfig{
		"Provider": {Domain: "a.b", Data: []string{"10.0.0.1"}}, "Domain": {Provider: p, Data: []string{"10.0.0.1"}}, "Data": {Provider: p, Domain: "a.b"}, "stands alone": {Provider: p, Domain: "a.b", Data: []string{"10.0.0.1", "c.d"}},
		"twice": {Provider: p, Domain: "a.b", Data: []string{"10.0.0.1", "10.0.0.1"}}, "the name itself": {Provider: p, Domain: "a.b", Data: []string{"A.b."}}, "TTL": {Provider: p, Domain: "a.b", Data: []string{"10.0.0.1"}, TTL: 1500 * time.Millisecond},
		"From": {Provider: p, Domain: "a.b", Data: []string{"10.0.0.1"}, From: []string{"?"}}, "DrillDomain": {Provider: p, Domain: "a.b", Data: []string{"10.0.0.1"}, DrillDomain: "a.b"},
		"no host name": {Provider: p, Domain: "a.b", Data: []string{"10.0.0.256"}}, "IPv4 address in IPv6": {Provider: p, Domain: "a.b", Data: []string{"::ffff:10.0.0.1"}},
	} {
		_, err := Record(cfg)
		wantConfig(t, err, field)
	}
	for field, cfg := range map[string]ResolversConfig{
		"Resolvers is empty": {Domain: "a.b", Data: []string{"10.0.0.1"}}, "Resolvers[0]": {Resolvers: []string{"dns.example.com"}, Domain: "a.b", Data: []string{"10.0.0.1"}}, "Resolvers[1]": {Resolvers: []string{"10.0.0.1", "10.0.0.1:53"}, Domain: "a.b", Data: []string{"10.0.0.1"}},
		"Margin": {Resolvers: []string{"::1"}, Domain: "a.b", Data: []string{"10.0.0.1"}, Margin: -1}, "Samples": {Resolvers: []string{"[::1]:5353"}, Domain: "a.b", Data: []string{"10.0.0.1"}, Samples: -1},
	} {
		_, err := Resolvers(cfg)
		wantConfig(t, err, field)
	}
	_, err := CachesExpired(CachesExpiredConfig{})
	wantConfig(t, err, "Change")
}
