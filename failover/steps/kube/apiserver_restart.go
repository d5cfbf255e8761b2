package kube

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// Restarter restarts one API server's process where it runs, such as by the removal of its container on its node. It may return before the server is back.
type Restarter interface {
	Restart(ctx context.Context) error
}

// RestartFunc makes a Restarter from a func.
type RestartFunc func(ctx context.Context) error

// Restart calls f.
func (f RestartFunc) Restart(ctx context.Context) error { return f(ctx) }

// APIServer is an API server that can be restarted.
type APIServer struct {
	// Address is the server itself, host:port, not what balances between servers.
	Address string
	// How says in the plan how it is restarted, such as "crictl rm on 192.0.2.1"; required, as is Restarter.
	How       string
	Restarter Restarter
}

// RestartAPIServersConfig is the configuration of RestartAPIServers. Cluster and Servers are required.
type RestartAPIServersConfig struct {
	// Name of the steps, to which a slash and the server's address are added; "" is restart-apiserver/ and the cluster.
	Name string
	// Reference says where the steps come from.
	Reference string
	// Cluster whose certificates and credentials are used; they have to be good for /metrics. Its own address is not used.
	Cluster *Cluster
	// Servers in the order of their restarts; all of the cluster, so that a restart can see whether another one serves.
	Servers []APIServer
	// EvenIfLast restarts a server also while none of the others is ready. Without it that blocks the step, if there are others.
	EvenIfLast bool
	// Timeout is how long one attempt may take, until the server is ready again; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// RestartAPIServers makes a step for each API server: restart it, and wait until another process of it is ready.
//
// When the process began, the server's own metrics tell; that is saved before the restart, so a crash between leads to no second one. A server that is not reachable is restarted, too:
// then any process that answers afterwards is taken for a new one.
func RestartAPIServers(cfg RestartAPIServersConfig) ([]failover.Step, error) {
	const kind = "RestartAPIServersConfig"
	var p problems
	addresses := make([]string, len(cfg.Servers))
	for i, s := range cfg.Servers {
		addresses[i] = s.Address
		p.require(s.Restarter != nil, fmt.Sprintf("%s.Servers[%d].Restarter", kind, i), "is nil", "say how the server is restarted")
		p.require(s.How != "", fmt.Sprintf("%s.Servers[%d].How", kind, i), "is empty", "say in words how the server is restarted: it is what an approval covers")
	}
	clusters := p.servers(kind, cfg.Cluster, addresses)
	p.require(cfg.Timeout >= 0, kind+".Timeout", "is negative", "use a positive one, or 0 for the default")
	if err := p.err(); err != nil {
		return nil, err
	}
	var steps []failover.Step
	for i, server := range cfg.Servers {
		s := serverRestart{Cluster: clusters[i], restarter: server.Restarter, evenIfLast: cfg.EvenIfLast}
		for j, other := range clusters {
			if j != i {
				s.others = append(s.others, other)
			}
		}
		steps = append(steps, failover.Funcs{
			Name:    nameOf(cmp.Or(cfg.Name, nameOf("restart-apiserver", cfg.Cluster.name)), nameServer(server.Address)),
			Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: cfg.Timeout,
			Description: failover.Description{
				Action:    fmt.Sprintf("Restart the API server %s of %s and wait until it is ready", server.Address, cfg.Cluster.name),
				Commands:  []string{"# " + server.How, shell("kubectl", "--server", "https://"+server.Address, "get", "--raw", "/readyz")},
				Undo:      "nothing is to be taken back: the server runs as it did",
				Reference: cfg.Reference,
				Inputs:    map[string]any{"cluster": cfg.Cluster.name, "server": server.Address, "servers": addresses, "how": server.How, "evenIfLast": cfg.EvenIfLast},
			},
		}.Step())
	}
	return steps, nil
}

type serverRestart struct {
	*Cluster
	restarter  Restarter
	others     []*Cluster
	evenIfLast bool
}

// process is what a restart saves before it begins.
type process struct {
	Undone bool `json:"undone,omitempty"`
	// Started is when the process began that is to end; 0 if it was not to be reached. Then only Restarted tells that it was restarted.
	Started   float64 `json:"started"`
	Restarted bool    `json:"restarted,omitempty"`
}

// drift is by how much the time that one process tells may change: some servers work it out anew from a clock that is being set.
const drift = 2.0

// ended reports whether a process that began at a time is another one than before.
func (p process) ended(now float64) bool {
	if p.Started == 0 {
		return p.Restarted
	}
	return now > p.Started+drift
}

func (s serverRestart) load(ctx context.Context) (before process, begun bool, err error) {
	begun, err = failover.Load(ctx, keyBefore, &before)
	return before, begun && !before.Undone, err
}

func (s serverRestart) observe(ctx context.Context) (failover.Observation, error) {
	before, begun, err := s.load(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if !begun {
		if len(s.others) > 0 && !s.evenIfLast {
			var last string
			for _, other := range s.others {
				if last = other.healthy(ctx, "/readyz"); last == "" {
					break
				}
			}
			if last != "" {
				return failover.Observation{State: failover.Blocked, Detail: "no other API server is ready, so this one must not be restarted; of one: " + last}, nil
			}
		}
		return failover.Observation{State: failover.Pending, Detail: "to be restarted"}, nil
	}
	now, err := s.started(ctx)
	if err != nil {
		return failover.Observation{State: failover.Partial, Detail: "it does not answer: " + err.Error()}, nil
	}
	if !before.ended(now) {
		return failover.Observation{State: failover.Pending, Detail: "its process began " + startedAt(now)}, nil
	}
	if why := s.healthy(ctx, "/readyz"); why != "" {
		return failover.Observation{State: failover.Partial, Detail: why}, nil
	}
	return failover.Observation{State: failover.Done, Detail: "its process began " + startedAt(now) + " and is ready"}, nil
}

func (s serverRestart) do(ctx context.Context) error {
	before, begun, err := s.load(ctx)
	if err != nil {
		return err
	}
	if !begun {
		before = process{}
		if before.Started, err = s.started(ctx); err != nil {
			failover.Note(ctx, "before the restart it does not answer: "+err.Error())
		}
		if err := failover.Save(ctx, keyBefore, before); err != nil {
			return err
		}
	}
	// One that does not answer may be about to come back from the restart before a crash; another restart costs no more than time.
	if now, err := s.started(ctx); err != nil || !before.ended(now) {
		if err := s.restarter.Restart(ctx); err != nil {
			return fmt.Errorf("restart: %w", err)
		}
		if before.Started == 0 {
			before.Restarted = true
			if err := failover.Save(ctx, keyBefore, before); err != nil {
				return err
			}
		}
	}
	return s.await(ctx, func(ctx context.Context) (bool, string, error) {
		o, err := s.observe(ctx)
		return o.State == failover.Done, o.Detail, err
	})
}

func (s serverRestart) undo(ctx context.Context) error {
	return failover.Save(ctx, keyBefore, process{Undone: true})
}
