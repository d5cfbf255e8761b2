package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// The decision is the median's: one hiccup passes, a line that is slow most of the time does not.
func TestTheMedianDecides(t *testing.T) {
	ms := time.Millisecond
	for _, c := range []struct {
		times []time.Duration
		want  failover.State
		text  string
	}{
		{[]time.Duration{ms, 900 * ms, ms, 1100 * time.Microsecond, ms}, failover.Done, "median 1.0 ms, lowest 1.0 ms, highest 900.0 ms of 5"},
		{[]time.Duration{ms, 6 * ms, 6 * ms, ms, 7 * ms}, failover.Blocked, "median 6.0 ms, lowest 1.0 ms, highest 7.0 ms of 5: above the limit of 5ms"},
		{[]time.Duration{ms, never, never, ms, ms}, failover.Done, "highest never of 5; 2 failed (refused)"},
		{[]time.Duration{ms, never, never, never, ms}, failover.Blocked, "median never"},
		{[]time.Duration{5*ms + 1, 5 * ms, ms, 5*ms + 1, 5*ms + 1}, failover.Blocked, "median 5.1 ms"},
		{[]time.Duration{5 * ms, 5 * ms, 5 * ms, 9 * ms, 9 * ms}, failover.Done, "median 5.0 ms"},
		{[]time.Duration{ms, ms, 6 * ms, 6 * ms}, failover.Blocked, "median 6.0 ms"},
	} {
		s := samples{target: target{"10.0.0.1", netip.MustParseAddr("10.0.0.1"), 2379}}
		for _, d := range c.times {
			if d == never {
				s.err = syscall.ECONNREFUSED
			}
		}
		s.times = c.times
		cfg := RoundTripConfig{Limit: DefaultRoundTripLimit}
		obs := cfg.decide(nil, []*samples{&s})
		if obs.State != c.want || !strings.Contains(obs.Detail, c.text) {
			t.Errorf("%v: %s: %s; want %s: %s", c.times, obs.State, obs.Detail, c.want, c.text)
		}
	}
}

func TestRoundTripMeasuresConnections(t *testing.T) {
	port := listen(t, "127.0.0.1:0")
	cfg := RoundTripConfig{Targets: []string{endpoint("127.0.0.1", port)}, Samples: 5, Pause: time.Millisecond, Limit: 10 * time.Second, Timeout: 20 * time.Second}
	look(t, must(t)(RoundTrip(cfg)), failover.Done, "median ", "of 5")
	// A way that takes longer than the limit, whatever this machine is busy with. The first connection does not count.
	var mu sync.Mutex
	n := 0
	cfg.Limit = 5 * time.Millisecond
	cfg.Dialer = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		n++
		mu.Unlock()
		time.Sleep(8 * time.Millisecond)
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	look(t, must(t)(RoundTrip(cfg)), failover.Blocked, "above the limit of 5ms", "of 5")
	if n != 6 {
		t.Errorf("%d connections, want 5 and one before", n)
	}
	// Nobody there.
	cfg.Dialer, cfg.Targets = nil, []string{endpoint("127.0.0.1", closedPort(t))}
	look(t, must(t)(RoundTrip(cfg)), failover.Blocked, "median never", "5 failed (refused)")
	cfg.Targets = []string{"gone.example.com:2379"}
	cfg.Lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	look(t, must(t)(RoundTrip(cfg)), failover.Blocked, "gone.example.com: cannot be looked up")
}

func TestRoundTripConfig(t *testing.T) {
	for field, cfg := range map[string]RoundTripConfig{
		"Targets is empty": {}, "Targets[0]": {Targets: []string{"10.0.0.1"}}, "Targets[1]": {Targets: []string{"a:1", "a:1"}}, `port "0"`: {Targets: []string{"a:0"}},
		"Limit": {Targets: []string{"a:1"}, Limit: -1}, "Samples": {Targets: []string{"a:1"}, Samples: -1}, "Pause": {Targets: []string{"a:1"}, Pause: -1},
	} {
		_, err := RoundTrip(cfg)
		wantConfig(t, err, field)
	}
}
