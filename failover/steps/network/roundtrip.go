package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/failover"
)

// Defaults of RoundTripConfig.
const (
	DefaultRoundTripLimit   = 5 * time.Millisecond
	DefaultRoundTripSamples = 21
	DefaultRoundTripPause   = 20 * time.Millisecond
	DefaultRoundTripTimeout = time.Second
)

// RoundTripConfig says which round-trip times a gate measures.
type RoundTripConfig struct {
	// Name is the step's name; "" is round-trip.
	Name      string
	Reference string
	// Targets are host:port or [address]:port of servers that listen. Of a name all addresses are measured, of both families. Required.
	Targets []string
	// Limit is the highest median; 0 is DefaultRoundTripLimit, above which a stretched etcd and GlusterFS fail their health checks.
	Limit time.Duration
	// Samples are taken of each address; 0 is DefaultRoundTripSamples. Pause is between two; 0 is DefaultRoundTripPause. All of them, and one lookup, have to fit into Config.ObserveTimeout of the runner.
	Samples int
	Pause   time.Duration
	// Timeout bounds each sample and each lookup; 0 is DefaultRoundTripTimeout.
	Timeout time.Duration
	// Dialer opens the connections; nil is this machine's. One that opens them from elsewhere adds the way to there.
	Dialer Dialer
	// Lookup finds the addresses of names; nil asks this machine's resolver.
	Lookup LookupFunc
}

// RoundTrip makes a gate that passes when the median of the times that TCP connections to each address take to open is within a limit. That is a round trip: SYN there, SYN-ACK back.
//
// Why the median: noise only ever adds to a sample. The lowest sample tells of the line when it is idle, and would pass one that is congested half of the time; the highest fails a good line for one hiccup of a scheduler. The
// median is above the limit just if most connections are. A connection that fails counts as above any limit; one sample before the others, for neighbour tables and caches on the way, does not count.
// Lowest and highest are told, rounded up to 0.1 ms. The times are those from the machine that runs the plan: for times between two nodes run it on one of them.
func RoundTrip(cfg RoundTripConfig) (failover.Step, error) {
	var errs configErrors
	cfg.Targets = slices.Clone(cfg.Targets)
	if len(cfg.Targets) == 0 {
		errs.add("Targets is empty", "name at least one host:port")
	}
	for i, t := range cfg.Targets {
		if _, _, err := splitEndpoint(t); err != nil {
			errs.add(fmt.Sprintf("Targets[%d], %q: %v", i, t, err), "use host:port, or [address]:port with IPv6")
		}
		if slices.Contains(cfg.Targets[:i], t) {
			errs.add(fmt.Sprintf("Targets[%d], %q, is there twice", i, t), "name each once")
		}
	}
	errs.positive("Limit", &cfg.Limit, DefaultRoundTripLimit)
	errs.positive("Pause", &cfg.Pause, DefaultRoundTripPause)
	errs.positive("Timeout", &cfg.Timeout, DefaultRoundTripTimeout)
	errs.atLeastOne("Samples", &cfg.Samples, DefaultRoundTripSamples)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := newProber(cfg.Dialer, cfg.Lookup, cfg.Timeout, 1, 1)
	d := failover.Description{
		Action: fmt.Sprintf("Is the median round-trip time to %s at most %v?", list(cfg.Targets), cfg.Limit), Reference: cfg.Reference,
		Inputs: map[string]any{"targets": cfg.Targets, "limit": cfg.Limit.String(), "samples": cfg.Samples, "pause": cfg.Pause.String(), "timeout": cfg.Timeout.String(),
			"ownDialer": cfg.Dialer != nil, "ownLookup": cfg.Lookup != nil},
	}
	for _, t := range cfg.Targets {
		host, port, _ := splitEndpoint(t) // checked above
		d.Commands = append(d.Commands, fmt.Sprintf("nping --tcp-connect -p %d -c %d %s", port, cfg.Samples, host))
	}
	return failover.Check(cmp.Or(cfg.Name, "round-trip"), func(ctx context.Context) (failover.Observation, error) { return cfg.observe(ctx, p) }, d), nil
}

// splitEndpoint takes host:port apart.
func splitEndpoint(endpoint string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", 0, errors.New("it is no host:port")
	}
	if !validHost(host) {
		return "", 0, fmt.Errorf("%q is no IP address or host name", host)
	}
	if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not 1 to 65535", text)
	}
	return host, port, nil
}

// samples are the times of one address; a failed one is never.
type samples struct {
	target
	times []time.Duration
	err   error // of the last that failed
}

const never = time.Duration(math.MaxInt64)

// median of an even number is the upper of the two in the middle: most are not above it.
func (s *samples) median() time.Duration { return s.times[len(s.times)/2] }

func (s *samples) String() string {
	failed := 0
	for _, t := range s.times {
		if t == never {
			failed++
		}
	}
	text := fmt.Sprintf("%s:%d: median %s, lowest %s, highest %s of %d", s.hostText(), s.port, millis(s.median()), millis(s.times[0]), millis(s.times[len(s.times)-1]), len(s.times))
	if failed > 0 {
		text += fmt.Sprintf("; %d failed (%s)", failed, judge(s.err))
	}
	return text
}

// millis rounds up, so that what is above a limit of whole tenths reads so.
func millis(d time.Duration) string {
	if d == never {
		return "never"
	}
	const tenth = 100 * time.Microsecond
	return fmt.Sprintf("%.1f ms", float64((d+tenth-1)/tenth)/10)
}

func (cfg *RoundTripConfig) observe(ctx context.Context, p *prober) (failover.Observation, error) {
	var lost []string
	var all []*samples
	for _, t := range cfg.Targets {
		host, port, _ := splitEndpoint(t) // checked by RoundTrip
		addrs, failed := p.resolve(ctx, []string{host})
		if err := failed[host]; err != nil {
			lost = append(lost, fmt.Sprintf("%s: cannot be looked up: %v", host, err))
		}
		for _, addr := range addrs[host] {
			all = append(all, &samples{target: target{host, addr, port}})
		}
	}
	var group errgroup.Group
	for _, s := range all {
		group.Go(func() error { return s.take(ctx, p, cfg.Samples, cfg.Pause) })
	}
	if err := group.Wait(); err != nil {
		return failover.Observation{}, err
	}
	return cfg.decide(lost, all), nil
}

// decide holds the medians against the limit. lost are targets without an address.
func (cfg *RoundTripConfig) decide(lost []string, all []*samples) failover.Observation {
	obs := failover.Observation{State: failover.Done}
	if len(lost) > 0 {
		obs.State = failover.Blocked
	}
	parts := lost
	for _, s := range all {
		slices.Sort(s.times)
		text := s.String()
		if s.median() > cfg.Limit {
			obs.State, text = failover.Blocked, text+fmt.Sprintf(": above the limit of %v", cfg.Limit)
		}
		parts = append(parts, text)
	}
	obs.Detail = strings.Join(parts, " | ")
	return obs
}

// take measures, one connection after another.
func (s *samples) take(ctx context.Context, p *prober, n int, pause time.Duration) error {
	for i := range n + 1 {
		took, err := p.connect(ctx, s.endpoint())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			took, s.err = never, err
		}
		if i > 0 {
			s.times = append(s.times, took)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
