package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// UpdateAllowedConfig says which change a gate asks about.
type UpdateAllowedConfig struct {
	// Name is the step's name; "" is dns-update-allowed/DOMAIN.
	Name      string
	Reference string
	// Provider changes the zone. Required.
	Provider Provider
	// Domain is the name that is to be changed, and Data where it is to lead, as in RecordConfig. Both required.
	Domain string
	Data   []string
}

// UpdateAllowed makes a gate that passes when the key works and may make the change of a Record. It changes nothing: see Provider.Check. What is wrong is told apart: key, signature, clock, permission, zone, server.
func UpdateAllowed(cfg UpdateAllowedConfig) (failover.Step, error) {
	var errs configErrors
	if cfg.Provider == nil {
		errs.add("Provider is nil", "make one with RFC2136")
	}
	domain := errs.domain("Domain", cfg.Domain)
	after := errs.address("Data", domain, cfg.Data, DefaultTTL)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	observe := func(ctx context.Context) (failover.Observation, error) {
		err := cfg.Provider.Check(ctx, domain, after)
		switch {
		case errors.As(err, new(*Error)):
			return failover.Observation{State: failover.Blocked, Detail: err.Error()}, nil
		case err != nil:
			return failover.Observation{}, err
		}
		return failover.Observation{State: failover.Done, Detail: "the change of " + domain + " would be allowed"}, nil
	}
	return failover.Check(cmp.Or(cfg.Name, "dns-update-allowed/"+strings.TrimSuffix(domain, ".")), observe, failover.Description{
		Action: fmt.Sprintf("May %s be pointed at %s?", domain, after.data()), Reference: cfg.Reference,
		Inputs: map[string]any{"provider": cfg.Provider.Describe(), "domain": domain, "data": after.data()},
	}), nil
}

// LowerTTLConfig says which TTL a name's records are to have at most.
type LowerTTLConfig struct {
	// Name is the step's name; "" is dns-ttl/DOMAIN.
	Name      string
	Reference string
	// Provider changes the zone. Required.
	Provider Provider
	// Domain is the name. Required.
	Domain string
	// TTL is the longest that a set may have afterwards, in whole seconds; 0 is DefaultTTL.
	TTL time.Duration
}

// LowerTTL makes a step that lowers the TTLs of a name's addresses before they are changed, so that resolvers forget them soon. That holds only once the former TTL has passed: see CachesExpired.
// Undo puts the former TTLs back, whatever the addresses are by then. Where a plan went through, a Record with a TTL raises it again.
func LowerTTL(cfg LowerTTLConfig) (failover.Step, error) {
	var errs configErrors
	if cfg.Provider == nil {
		errs.add("Provider is nil", "make one with RFC2136")
	}
	domain := errs.domain("Domain", cfg.Domain)
	checkTTL(&errs, "TTL", cfg.TTL)
	ttl := cmp.Or(cfg.TTL, DefaultTTL)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &lowerTTL{provider: cfg.Provider, domain: domain, ttl: ttl}
	return failover.Funcs{
		Name: cmp.Or(cfg.Name, "dns-ttl/"+strings.TrimSuffix(domain, ".")),
		Description: failover.Description{
			Action: fmt.Sprintf("Lower the TTL of %s to at most %v", domain, ttl), Undo: "Put back the TTLs that were there before", Reference: cfg.Reference,
			Inputs: map[string]any{"provider": cfg.Provider.Describe(), "domain": domain, "ttl": ttl.String()},
		},
		Observe: s.observe, Do: s.do, Undo: s.undo, Retry: failover.Retry{Attempts: 3}, Timeout: 2 * time.Minute,
	}.Step(), nil
}

type lowerTTL struct {
	provider Provider
	domain   string
	ttl      time.Duration
}

func (s *lowerTTL) observe(ctx context.Context) (obs failover.Observation, err error) {
	now, err := s.provider.Lookup(ctx, s.domain)
	if err != nil {
		return obs, noRetry(err)
	}
	var saved Replaced
	if _, err := failover.Load(ctx, SavedKey, &saved); err != nil {
		return obs, err
	}
	obs = failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("%s leads to %s", s.domain, now)}
	switch {
	case len(now) == 0:
		obs.State = failover.Blocked
	case now.maxTTL() <= s.ttl && !(saved.Undone && saved.Before.maxTTL() <= s.ttl):
		obs.State = failover.Done
	}
	return obs, nil
}

func (s *lowerTTL) do(ctx context.Context) error {
	now, err := s.provider.Lookup(ctx, s.domain)
	if err != nil {
		return noRetry(err)
	}
	var saved Replaced
	known, err := failover.Load(ctx, SavedKey, &saved)
	switch {
	case err != nil:
		return err
	case len(now) == 0:
		return failover.Permanent(fmt.Errorf("%s has no address", s.domain))
	case now.maxTTL() <= s.ttl && known && !saved.Undone:
		return nil
	case now.maxTTL() <= s.ttl:
		return failover.Save(ctx, SavedKey, Replaced{Domain: s.domain, Before: now, After: now, At: time.Now().UTC()})
	}
	after := now.withTTL(0)
	for i := range after {
		after[i].TTL = min(now[i].TTL, s.ttl)
	}
	return replace(ctx, s.provider, s.domain, now, after)
}

func (s *lowerTTL) undo(ctx context.Context) error {
	now, err := s.provider.Lookup(ctx, s.domain)
	if err != nil {
		return noRetry(err)
	}
	return putBack(ctx, s.provider, s.domain, now, func(saved Replaced) Address {
		back := now.withTTL(0)
		for i := range back {
			// A type that was not there before gets the longest TTL of what was.
			back[i].TTL = max(now[i].TTL, cmp.Or(saved.Before.set(back[i].Type).TTL, saved.Before.maxTTL()))
		}
		return back
	})
}

// CachesExpiredConfig says after which change a step waits.
type CachesExpiredConfig struct {
	// Name is the step's name; "" is dns-caches-expired.
	Name      string
	Reference string
	// Change is the name of the LowerTTL or Record step. Required.
	Change string
}

// CachesExpired makes a step that waits until the TTL that a change replaced has passed since: no resolver that keeps to TTLs knows the former records any more. If the change was found done, there is nothing to wait for.
// Undoing it does nothing but note that it is not waited for any more.
func CachesExpired(cfg CachesExpiredConfig) (failover.Step, error) {
	if cfg.Change == "" {
		var errs configErrors
		errs.add("Change is empty", "give the name of the step that changes the records")
		return nil, errs[0]
	}
	observe := func(ctx context.Context) (obs failover.Observation, err error) {
		var saved Replaced
		known, err := failover.LoadFrom(ctx, cfg.Change, SavedKey, &saved)
		if err != nil {
			return obs, err
		}
		until := saved.At.Add(saved.Before.maxTTL())
		if known && !saved.Undone && !saved.Before.equal(saved.After) && time.Now().Before(until) {
			return failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("until %s caches may hold what step %s replaced", until.Format(time.RFC3339), cfg.Change)}, nil
		}
		var undone bool
		if _, err := failover.Load(ctx, waitKey, &undone); err != nil || undone {
			return failover.Observation{State: failover.Pending, Detail: "it is not waited for any more"}, err
		}
		return failover.Observation{State: failover.Done, Detail: "no cache may hold what step " + cfg.Change + " replaced"}, nil
	}
	return failover.Funcs{
		Name: cmp.Or(cfg.Name, "dns-caches-expired"), Observe: observe, Timeout: longestTTL,
		Description: failover.Description{Action: "Wait until the TTLs have passed that step " + cfg.Change + " replaced", Reference: cfg.Reference,
			Undo: "Nothing to take back: waiting changed nothing", Inputs: map[string]any{"change": cfg.Change}},
		Do: func(ctx context.Context) error {
			if err := failover.Save(ctx, waitKey, false); err != nil {
				return err
			}
			for {
				obs, err := observe(ctx)
				if err != nil || obs.State == failover.Done {
					return err
				}
				failover.Report(ctx, obs.Detail)
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Second):
				}
			}
		},
		Undo: func(ctx context.Context) error { return failover.Save(ctx, waitKey, true) },
	}.Step(), nil
}

// longestTTL bounds the wait for a TTL: records with a longer one are not for a name that has to move.
const longestTTL = 25 * time.Hour
