package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/failover"
)

// Defaults of ResolversConfig.
const (
	DefaultResolverTimeout = 2 * time.Second
	DefaultResolverSamples = 3
	DefaultResolverMargin  = 10 * time.Second
	DefaultResolversWithin = time.Hour
	DefaultResolverPoll    = time.Second
)

// ResolversConfig says which resolvers have to agree on a name's address.
type ResolversConfig struct {
	// Name is the step's name; "" is dns-resolvers/DOMAIN.
	Name      string
	Reference string
	// Resolvers are IP addresses or address:port, or System for this machine's own. Required.
	Resolvers []string
	// Domain is the name, and Data where it leads, as in RecordConfig. Both required.
	Domain string
	Data   []string
	// Change is the name of the Record step whose change is looked for: it knows when that was, and which TTL the former records had.
	Change string
	// OldTTL is the TTL of the former records where no step knows it. Without Change and OldTTL the step waits for Within.
	OldTTL time.Duration
	// Margin is how much longer than the old TTL a resolver may take; 0 is DefaultResolverMargin. After that one which disagrees blocks the step.
	Margin time.Duration
	// Within is how long Do waits at most; 0 is DefaultResolversWithin.
	Within time.Duration
	// Timeout bounds each question; 0 is DefaultResolverTimeout. Samples is how often a resolver is asked each time; 0 is DefaultResolverSamples: behind one address there may be several with a cache each, and all have to agree.
	Timeout time.Duration
	Samples int
	// Poll is the pause between two looks; 0 is DefaultResolverPoll.
	Poll time.Duration
	// InDrill keeps the step in drills: set it where Record has a DrillDomain, and Domain is that.
	InDrill bool
}

// Resolvers makes a step that waits until every resolver leads the name to its address. It changes nothing. It is pending while a resolver may still hold what it once got, and blocked as soon as one disagrees for
// longer than the former TTL and a margin: Detail names it. What a resolver says, and for how much longer, is in the detail; that holds for an absence, too, which resolvers keep as long as the zone's SOA record says.
// One that cannot be reached blocks after the same time.
//
// Undoing it does nothing but note that it is not waited for any more.
func Resolvers(cfg ResolversConfig) (failover.Step, error) {
	var errs configErrors
	cfg.Resolvers = errs.resolvers(cfg.Resolvers)
	s := &resolvers{cfg: cfg}
	s.domain = errs.domain("Domain", cfg.Domain)
	s.want = errs.address("Data", s.domain, cfg.Data, DefaultTTL)
	checkTTL(&errs, "OldTTL", cfg.OldTTL)
	errs.positive("Margin", &s.cfg.Margin, DefaultResolverMargin)
	errs.positive("Within", &s.cfg.Within, DefaultResolversWithin)
	errs.positive("Timeout", &s.cfg.Timeout, DefaultResolverTimeout)
	errs.positive("Poll", &s.cfg.Poll, DefaultResolverPoll)
	if s.cfg.Samples = cmp.Or(cfg.Samples, DefaultResolverSamples); s.cfg.Samples < 0 {
		errs.add(fmt.Sprintf("Samples is %d", cfg.Samples), "use a positive one, or 0 for the default")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f := failover.Funcs{
		Name: cmp.Or(cfg.Name, "dns-resolvers/"+strings.TrimSuffix(s.domain, ".")),
		Description: failover.Description{
			Action: fmt.Sprintf("Wait until %s lead %s to %s", strings.Join(cfg.Resolvers, ", "), s.domain, s.want.data()), Undo: "Nothing: it changes nothing", Reference: cfg.Reference,
			Inputs: map[string]any{"resolvers": cfg.Resolvers, "domain": s.domain, "data": s.want.data(), "change": cfg.Change, "oldTTL": cfg.OldTTL.String(), "margin": s.cfg.Margin.String(),
				"within": s.cfg.Within.String(), "timeout": s.cfg.Timeout.String(), "samples": s.cfg.Samples, "inDrill": cfg.InDrill},
		},
		Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: s.cfg.Within + time.Minute,
	}
	for _, r := range cfg.Resolvers {
		f.Description.Commands = append(f.Description.Commands, byHand(r, s.domain)...)
	}
	if !cfg.InDrill {
		f.Drill = leftOut
	}
	return f.Step(), nil
}

// byHand is how a person asks a resolver.
func byHand(resolver, domain string) []string {
	if resolver == System {
		return []string{"getent ahosts " + domain}
	}
	i := strings.LastIndex(resolver, ":")
	at := fmt.Sprintf("dig +noall +answer @%s -p %s %s ", strings.Trim(resolver[:i], "[]"), resolver[i+1:], domain)
	return []string{at + "A", at + "AAAA"}
}

type resolvers struct {
	cfg    ResolversConfig
	domain string
	want   Address
}

// waitKey is the key under which a step saves that it is not waited for any more.
const waitKey = "given up"

// askAll asks each resolver as often as it has to. Of each, the first answer that disagrees counts.
func askAll(ctx context.Context, all []string, domain string, want Address, samples int, timeout time.Duration) ([]reply, error) {
	replies := make([]reply, len(all))
	var group errgroup.Group
	for i, resolver := range all {
		group.Go(func() error {
			for range samples {
				replies[i] = askResolver(ctx, resolver, domain, timeout)
				if !replies[i].agrees(want) {
					break
				}
			}
			return nil
		})
	}
	_ = group.Wait() // its funcs return nil
	return replies, ctx.Err()
}

// patience is until when a resolver may disagree; zero if that is not known yet.
func (s *resolvers) patience(ctx context.Context) (time.Time, error) {
	began, _ := failover.Began(ctx)
	if s.cfg.Change != "" {
		var saved Replaced
		known, err := failover.LoadFrom(ctx, s.cfg.Change, SavedKey, &saved)
		switch {
		case err != nil:
			return time.Time{}, err
		case known && saved.Undone:
			return time.Time{}, nil
		case known && len(saved.Before) > 0:
			return saved.At.Add(max(saved.Before.maxTTL(), s.cfg.OldTTL) + s.cfg.Margin), nil
		case known: // there was nothing: an absence is kept as long as the zone says, which each answer tells
			return time.Time{}, nil
		}
	}
	if began.IsZero() || s.cfg.OldTTL == 0 {
		return time.Time{}, nil
	}
	return began.Add(s.cfg.OldTTL + s.cfg.Margin), nil
}

func (s *resolvers) observe(ctx context.Context) (obs failover.Observation, err error) {
	var given bool
	if _, err := failover.Load(ctx, waitKey, &given); err != nil {
		return obs, err
	}
	until, err := s.patience(ctx)
	if err != nil {
		return obs, err
	}
	replies, err := askAll(ctx, s.cfg.Resolvers, s.domain, s.want, s.cfg.Samples, s.cfg.Timeout)
	if err != nil {
		return obs, err
	}
	var late []string
	agree := true
	for _, r := range replies {
		if !r.agrees(s.want) {
			agree = false
			late = append(late, r.resolver)
		}
	}
	obs = failover.Observation{State: failover.Pending, Detail: joinReplies(replies)}
	switch {
	case given:
		obs.Detail = "not waited for any more: " + obs.Detail
	case agree:
		obs.State = failover.Done
	case !until.IsZero() && time.Now().After(until):
		obs.State, obs.Detail = failover.Blocked, fmt.Sprintf("%s should agree since %s: flush its cache (BIND: rndc flushname %s), look whether it asks another server or view: %s",
			strings.Join(late, ", "), until.UTC().Format(time.RFC3339), s.domain, obs.Detail)
	}
	return obs, nil
}

func (s *resolvers) do(ctx context.Context) error {
	var given bool
	if _, err := failover.Load(ctx, waitKey, &given); err != nil {
		return err
	}
	if given {
		if err := failover.Save(ctx, waitKey, false); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(s.cfg.Within)
	for {
		obs, err := s.observe(ctx)
		switch {
		case err != nil:
			return err
		case obs.State == failover.Done:
			return nil
		case obs.State == failover.Blocked:
			return failover.Permanent(errors.New(obs.Detail))
		case time.Now().After(deadline):
			return failover.Permanent(fmt.Errorf("after %v: %s", s.cfg.Within, obs.Detail))
		}
		failover.Report(ctx, obs.Detail)
		select {
		case <-time.After(s.cfg.Poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *resolvers) undo(ctx context.Context) error { return failover.Save(ctx, waitKey, true) }

// ResolversAnswerConfig says which resolvers a gate asks.
type ResolversAnswerConfig struct {
	// Name is the step's name; "" is dns-resolvers-answer/DOMAIN.
	Name      string
	Reference string
	// Resolvers are as in ResolversConfig, and Domain is what they are asked for. Both required.
	Resolvers []string
	Domain    string
	// Timeout bounds each question; 0 is DefaultResolverTimeout.
	Timeout time.Duration
}

// ResolversAnswer makes a gate that passes when every resolver answers, whatever it says: that the name does not exist is an answer, a failure is none.
func ResolversAnswer(cfg ResolversAnswerConfig) (failover.Step, error) {
	var errs configErrors
	cfg.Resolvers = errs.resolvers(cfg.Resolvers)
	domain := errs.domain("Domain", cfg.Domain)
	errs.positive("Timeout", &cfg.Timeout, DefaultResolverTimeout)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	observe := func(ctx context.Context) (obs failover.Observation, err error) {
		replies, err := askAll(ctx, cfg.Resolvers, domain, nil, 1, cfg.Timeout)
		if err != nil {
			return obs, err
		}
		obs = failover.Observation{State: failover.Done, Detail: joinReplies(replies)}
		for _, r := range replies {
			if r.err != nil {
				obs.State = failover.Blocked
			}
		}
		return obs, nil
	}
	d := failover.Description{Action: fmt.Sprintf("Do resolvers %s answer for %s?", strings.Join(cfg.Resolvers, ", "), domain), Reference: cfg.Reference,
		Inputs: map[string]any{"resolvers": cfg.Resolvers, "domain": domain, "timeout": cfg.Timeout.String()}}
	for _, r := range cfg.Resolvers {
		d.Commands = append(d.Commands, byHand(r, domain)...)
	}
	return failover.Check(cmp.Or(cfg.Name, "dns-resolvers-answer/"+strings.TrimSuffix(domain, ".")), observe, d), nil
}
