package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// FrontendsConfig says which frontends of an HAProxy a step turns on or off.
type FrontendsConfig struct {
	// Name is the step's name; "" is frontends-on/NAME or frontends-off/NAME with HAProxy.Name.
	Name      string
	Reference string
	HAProxy   HAProxy
	// Frontends are names of sections "frontend" or "listen". At least one.
	Frontends []string
	// EndSessions of FrontendsOff also ends the connections that go through the frontends. Without it they live on: a mirror that is connected to an etcd through a frontend stays connected.
	EndSessions bool
	// Endpoints are host:port that Verify looks at: after FrontendsOff none of them takes connections, after FrontendsOn each does. None: it looks at nothing.
	// Of a name all addresses count.
	Endpoints []string
	// OfPrimary marks the process as the primary's: an ungraceful plan takes one that cannot be reached as off, if FrontendsOff is asked, and leaves FrontendsOn out.
	OfPrimary bool
	// InDrill keeps the step in drills, which then turn real frontends off and on again. Without it they leave the step out.
	InDrill bool
}

const (
	frontendOn  = "on"
	frontendOff = "off"
	frontendEnd = "shut down for good"
)

// FrontendsOff makes a step that disables frontends. Their sockets stay bound but do not listen: on Linux new connections are refused. Connections that are there go on, unless EndSessions ends them.
// Undo enables those that were enabled before. It is Partial while only some are off.
func FrontendsOff(cfg FrontendsConfig) (failover.Step, error) { return frontendsStep(cfg, frontendOff) }

// FrontendsOn makes a step that enables frontends. It is blocked by one that was shut down: HAProxy cannot bring that back without a restart. Undo disables those that were disabled before.
func FrontendsOn(cfg FrontendsConfig) (failover.Step, error) { return frontendsStep(cfg, frontendOn) }

func frontendsStep(cfg FrontendsConfig, want string) (failover.Step, error) {
	var errs configErrors
	cfg.HAProxy.complete(&errs)
	cfg.Frontends, cfg.Endpoints = slices.Clone(cfg.Frontends), slices.Clone(cfg.Endpoints)
	if len(cfg.Frontends) == 0 {
		errs.add("Frontends is empty", "name at least one")
	}
	for i, f := range cfg.Frontends {
		if !proxyName.MatchString(f) {
			errs.add(fmt.Sprintf("Frontends[%d], %q, is no name of a frontend", i, f), "use the name in its section's first line")
		}
		if slices.Contains(cfg.Frontends[:i], f) {
			errs.add(fmt.Sprintf("Frontends[%d], %q, is there twice", i, f), "name each once")
		}
	}
	for i, e := range cfg.Endpoints {
		if _, _, err := splitEndpoint(e); err != nil {
			errs.add(fmt.Sprintf("Endpoints[%d], %q: %v", i, e, err), "use host:port, or [address]:port with IPv6")
		}
	}
	if cfg.EndSessions && want == frontendOn {
		errs.add("EndSessions is set of FrontendsOn", "unset it, or use FrontendsOff")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &frontends{cfg: cfg, h: &cfg.HAProxy}
	s.g = &toggles{names: cfg.Frontends, want: want, read: s.read, set: s.set}
	verb := "enable"
	if want == frontendOff {
		verb = "disable"
		s.g.is = func(state string) bool { return state == frontendOff || state == frontendEnd }
	}
	f := failover.Funcs{
		Name: cmp.Or(cfg.Name, "frontends-"+want+"/"+cfg.HAProxy.Name),
		Description: failover.Description{
			Action: fmt.Sprintf("Turn %s frontends %s of HAProxy %s", want, list(cfg.Frontends), cfg.HAProxy.Name), Reference: cfg.Reference,
			Undo: "Put those that were changed back to what they were",
			Inputs: map[string]any{"haproxy": cfg.HAProxy.inputs(), "frontends": cfg.Frontends, "want": want, "endSessions": cfg.EndSessions,
				"endpoints": cfg.Endpoints, "ofPrimary": cfg.OfPrimary, "inDrill": cfg.InDrill},
		},
		Observe: s.observe, Do: s.do, Undo: s.g.undo,
		Retry: failover.Retry{Attempts: 3}, Timeout: time.Minute,
	}
	for _, name := range cfg.Frontends {
		f.Description.Commands = append(f.Description.Commands, cfg.HAProxy.byHand(verb+" frontend "+name))
	}
	if cfg.EndSessions {
		f.Description.Commands = append(f.Description.Commands, cfg.HAProxy.byHand("show sess"), cfg.HAProxy.byHand("shutdown session ID"))
	}
	if len(cfg.Endpoints) > 0 {
		f.Verify, f.Description.Verify = s.verify, fmt.Sprintf("%s take connections: %v", list(cfg.Endpoints), want == frontendOn)
	}
	if !cfg.InDrill {
		f.Drill = leftOut
	}
	switch {
	case cfg.OfPrimary && want == frontendOn:
		f.Ungraceful = leftOut
	case cfg.OfPrimary:
		variant := f
		variant.Observe = withoutProcess(s.observe)
		f.Ungraceful = variant.Step
	}
	return f.Step(), nil
}

type frontends struct {
	cfg FrontendsConfig
	h   *HAProxy
	g   *toggles
}

func (s *frontends) read(ctx context.Context) (states map[string]string, blocked []string, err error) {
	answer, err := s.h.ask(ctx, "show stat -1 1 -1") // frontends alone
	if err != nil {
		return nil, nil, err
	}
	all, err := parseStat(answer)
	if err != nil {
		return nil, nil, fmt.Errorf("%w %s: %w", ErrHAProxy, s.h.Name, err)
	}
	states = map[string]string{}
	for _, name := range s.cfg.Frontends {
		switch status, there := all[name+"/FRONTEND"]; {
		case !there:
			blocked = append(blocked, fmt.Sprintf("there is no frontend %q", name))
		case status == "OPEN", status == "FULL":
			states[name] = frontendOn
		case status == "PAUSED":
			states[name] = frontendOff
		case status == "STOP":
			states[name] = frontendEnd
			if s.g.want == frontendOn {
				blocked = append(blocked, name+" comes back only by a restart of HAProxy")
			}
		default:
			blocked = append(blocked, fmt.Sprintf("the status %q of %s is not known", status, name))
		}
	}
	return states, blocked, nil
}

func (s *frontends) set(ctx context.Context, name, state string) error {
	switch state {
	case frontendOn:
		return s.h.order(ctx, "enable frontend "+name, "All sockets are already enabled.")
	case frontendOff:
		return s.h.order(ctx, "disable frontend "+name, "All sockets are already disabled.")
	}
	return failover.Permanent(fmt.Errorf("frontend %s was %s: that cannot be set again", name, state))
}

func (s *frontends) observe(ctx context.Context) (failover.Observation, error) {
	obs, err := s.g.observe(ctx)
	if err != nil {
		return obs, err
	}
	if obs.State == failover.Done && s.cfg.EndSessions {
		ids, err := s.sessions(ctx)
		if err != nil {
			return obs, err
		}
		if len(ids) > 0 { // this has to be done even where the frontends were off before
			obs.State, obs.Detail = failover.Partial, fmt.Sprintf("%s; %d sessions go on", obs.Detail, len(ids))
		}
	}
	if obs.State == failover.Pending || obs.State == failover.Partial {
		why, err := s.h.locked(ctx)
		if err != nil {
			return obs, err
		}
		if why != "" {
			obs.State, obs.Detail = failover.Blocked, obs.Detail+"; "+why
		}
	}
	return obs, nil
}

func (s *frontends) sessions(ctx context.Context) ([]string, error) {
	answer, err := s.h.ask(ctx, "show sess")
	return parseSessions(answer, s.cfg.Frontends), err
}

func (s *frontends) do(ctx context.Context) error {
	if err := s.g.do(ctx); err != nil || !s.cfg.EndSessions {
		return err
	}
	// A session may take a moment to end, and one that was being accepted shows up late.
	for {
		ids, err := s.sessions(ctx)
		if err != nil || len(ids) == 0 {
			return err
		}
		failover.Report(ctx, fmt.Sprintf("%d sessions to end", len(ids)))
		for _, id := range ids {
			if err := s.h.order(ctx, "shutdown session "+id, "No such session (use 'show sess')."); err != nil {
				return err
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%d sessions have not ended: %w", len(ids), err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verify looks at the endpoints as clients see them.
func (s *frontends) verify(ctx context.Context) error {
	p := newProber(nil, nil, DefaultPortTimeout, DefaultPortAttempts, DefaultPortParallel)
	wantOpen := s.g.want == frontendOn
	var targets []target
	for _, e := range s.cfg.Endpoints {
		host, port, _ := splitEndpoint(e) // checked by frontendsStep
		addrs, failed := p.resolve(ctx, []string{host})
		if err := failed[host]; err != nil {
			return fmt.Errorf("%s cannot be looked up: %w", host, err)
		}
		for _, addr := range addrs[host] {
			targets = append(targets, target{host, addr, port})
		}
	}
	found, err := p.look(ctx, targets)
	if err != nil {
		return err
	}
	for _, f := range found {
		if wantOpen != (f.verdict == open) || !wantOpen && !f.verdict.closed() {
			return fmt.Errorf("want the frontends %s, and see: %s", s.g.want, p.describe(found))
		}
	}
	return nil
}
