package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// ServerState is what a step sets servers to.
type ServerState string

const (
	// ServerReady gets connections, as far as its health check allows.
	ServerReady ServerState = ready
	// ServerDrain gets no new connections but those that stick to it; it is still checked.
	ServerDrain ServerState = drain
	// ServerMaint gets no new connections and is not checked.
	ServerMaint ServerState = maint
)

// DefaultServersUpWithin is how long Verify of ServersConfig waits for health checks.
const DefaultServersUpWithin = 30 * time.Second

// ServersConfig says which servers of an HAProxy a step puts into which state.
type ServersConfig struct {
	// Name is the step's name; "" is servers-STATE/NAME with HAProxy.Name.
	Name      string
	Reference string
	HAProxy   HAProxy
	// Servers are backend/server. At least one.
	Servers []string
	// State is what they are set to. Required.
	State ServerState
	// EndSessions, not with ServerReady, also ends the connections to the servers. Without it they live on.
	EndSessions bool
	// UpWithin is how long Verify waits, after ServerReady, until each server gets connections; 0 is DefaultServersUpWithin, below 0 does not look.
	UpWithin time.Duration
	// OfPrimary marks the process as the primary's: an ungraceful plan takes one that cannot be reached as out of service, and leaves ServerReady out.
	OfPrimary bool
	// InDrill keeps the step in drills. Without it they leave it out.
	InDrill bool
}

// Servers makes a step that sets the administrative state of servers. Undo sets each back to what it was. It is Partial while only some of what it has to change is changed.
func Servers(cfg ServersConfig) (failover.Step, error) {
	var errs configErrors
	cfg.HAProxy.complete(&errs)
	cfg.Servers = slices.Clone(cfg.Servers)
	if len(cfg.Servers) == 0 {
		errs.add("Servers is empty", "name at least one as backend/server")
	}
	for i, s := range cfg.Servers {
		backend, server, ok := strings.Cut(s, "/")
		if !ok || !proxyName.MatchString(backend) || !proxyName.MatchString(server) {
			errs.add(fmt.Sprintf("Servers[%d], %q, is no backend/server", i, s), "use the names in the configuration")
		}
		if slices.Contains(cfg.Servers[:i], s) {
			errs.add(fmt.Sprintf("Servers[%d], %q, is there twice", i, s), "name each once")
		}
	}
	switch cfg.State {
	case ServerReady:
		if cfg.EndSessions {
			errs.add("EndSessions is set with ServerReady", "unset it")
		}
	case ServerDrain, ServerMaint:
	default:
		errs.add(fmt.Sprintf("State %q is unknown", cfg.State), "use ServerReady, ServerDrain or ServerMaint")
	}
	cfg.UpWithin = cmp.Or(cfg.UpWithin, DefaultServersUpWithin)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &servers{cfg: cfg, h: &cfg.HAProxy}
	s.g = &toggles{names: cfg.Servers, want: string(cfg.State), read: s.read, set: s.set}
	f := failover.Funcs{
		Name: cmp.Or(cfg.Name, "servers-"+string(cfg.State)+"/"+cfg.HAProxy.Name),
		Description: failover.Description{
			Action: fmt.Sprintf("Set servers %s of HAProxy %s to %s", list(cfg.Servers), cfg.HAProxy.Name, cfg.State), Reference: cfg.Reference,
			Undo: "Put those that were changed back to what they were",
			Inputs: map[string]any{"haproxy": cfg.HAProxy.inputs(), "servers": cfg.Servers, "want": cfg.State, "endSessions": cfg.EndSessions,
				"upWithin": cfg.UpWithin.String(), "ofPrimary": cfg.OfPrimary, "inDrill": cfg.InDrill},
		},
		Observe: s.observe, Do: s.do, Undo: s.g.undo,
		Retry: failover.Retry{Attempts: 3}, Timeout: time.Minute + max(cfg.UpWithin, 0),
	}
	for _, name := range cfg.Servers {
		f.Description.Commands = append(f.Description.Commands, cfg.HAProxy.byHand(fmt.Sprintf("set server %s state %s", name, cfg.State)))
	}
	if cfg.EndSessions {
		for _, name := range cfg.Servers {
			f.Description.Commands = append(f.Description.Commands, cfg.HAProxy.byHand("shutdown sessions server "+name))
		}
	}
	if cfg.State == ServerReady && cfg.UpWithin > 0 {
		f.Verify, f.Description.Verify = s.verify, fmt.Sprintf("Each server gets connections within %v", cfg.UpWithin)
	}
	if !cfg.InDrill {
		f.Drill = leftOut
	}
	switch {
	case cfg.OfPrimary && cfg.State == ServerReady:
		f.Ungraceful = leftOut
	case cfg.OfPrimary:
		variant := f
		variant.Observe = withoutProcess(s.observe)
		f.Ungraceful = variant.Step
	}
	return f.Step(), nil
}

type servers struct {
	cfg ServersConfig
	h   *HAProxy
	g   *toggles
}

func (s *servers) read(ctx context.Context) (states map[string]string, blocked []string, err error) {
	answer, err := s.h.ask(ctx, "show servers state")
	if err != nil {
		return nil, nil, err
	}
	all, err := parseServers(answer)
	if err != nil {
		return nil, nil, fmt.Errorf("%w %s: %w", ErrHAProxy, s.h.Name, err)
	}
	states = map[string]string{}
	for _, name := range s.cfg.Servers {
		if state, ok := all[name]; ok {
			states[name] = state
		} else {
			blocked = append(blocked, fmt.Sprintf("there is no server %q", name))
		}
	}
	return states, blocked, nil
}

func (s *servers) set(ctx context.Context, name, state string) error {
	return s.h.order(ctx, fmt.Sprintf("set server %s state %s", name, state))
}

func (s *servers) observe(ctx context.Context) (failover.Observation, error) {
	obs, err := s.g.observe(ctx)
	if err != nil {
		return obs, err
	}
	if obs.State == failover.Done && s.cfg.EndSessions {
		n, err := s.sessions(ctx)
		if err != nil {
			return obs, err
		}
		if n > 0 {
			obs.State, obs.Detail = failover.Partial, fmt.Sprintf("%s; %d sessions go on", obs.Detail, n)
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

// sessions counts those of the servers.
func (s *servers) sessions(ctx context.Context) (n int, err error) {
	answer, err := s.h.ask(ctx, "show sess")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(answer) {
		fields := map[string]string{}
		for _, field := range strings.Fields(line) {
			if name, value, ok := strings.Cut(field, "="); ok && fields[name] == "" {
				fields[name] = value
			}
		}
		if slices.Contains(s.cfg.Servers, fields["be"]+"/"+fields["srv"]) {
			n++
		}
	}
	return n, nil
}

func (s *servers) do(ctx context.Context) error {
	if err := s.g.do(ctx); err != nil || !s.cfg.EndSessions {
		return err
	}
	for {
		n, err := s.sessions(ctx)
		if err != nil || n == 0 {
			return err
		}
		failover.Report(ctx, fmt.Sprintf("%d sessions to end", n))
		for _, name := range s.cfg.Servers {
			if err := s.h.order(ctx, "shutdown sessions server "+name); err != nil {
				return err
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%d sessions have not ended: %w", n, err)
		}
	}
}

// verify waits for health checks. A server that was just set ready counts as up until its first check fails: "UP 1/3" is such a state, and "UP" one in which all checks have passed.
func (s *servers) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UpWithin)
	defer cancel()
	down := []string{"nothing was seen"}
	for {
		answer, err := s.h.ask(ctx, "show stat -1 4 -1") // servers alone
		var all map[string]string
		if err == nil {
			all, err = parseStat(answer)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			down = nil
			for _, name := range s.cfg.Servers {
				if is := all[name]; is != "UP" && is != "no check" {
					down = append(down, name+" is "+is)
				}
			}
			if len(down) == 0 {
				return nil
			}
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("after %v not all servers are up: %s", s.cfg.UpWithin, list(down))
		}
	}
}
