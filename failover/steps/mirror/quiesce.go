package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// Gate is what keeps clients from writing to the primary, such as API servers that are stopped, a load balancer's frontend, or AlarmGate. It must be safe for concurrent use.
type Gate interface {
	// About says what it is, for plans: constant, without secrets.
	About() string
	// Closed reports whether writes are kept away. It changes nothing.
	Closed(ctx context.Context) (bool, error)
	// Close and Open are idempotent. After their return Closed tells the new state.
	Close(ctx context.Context) error
	Open(ctx context.Context) error
}

// GateFuncs is a Gate made of funcs, all of which are required.
type GateFuncs struct {
	Text     string // what About says
	IsClosed func(ctx context.Context) (bool, error)
	DoClose  func(ctx context.Context) error
	DoOpen   func(ctx context.Context) error
}

func (g GateFuncs) About() string                            { return g.Text }
func (g GateFuncs) Closed(ctx context.Context) (bool, error) { return g.IsClosed(ctx) }
func (g GateFuncs) Close(ctx context.Context) error          { return g.DoClose(ctx) }
func (g GateFuncs) Open(ctx context.Context) error           { return g.DoOpen(ctx) }

func (c *checks) gate(g Gate) {
	if f, ok := g.(GateFuncs); ok && (f.IsClosed == nil || f.DoClose == nil || f.DoOpen == nil) {
		c.bad("Gate lacks a func", "set IsClosed, DoClose and DoOpen")
		return
	}
	if g == nil {
		c.bad("Gate is nil", "pass what stops the primary's writers: GateFuncs, AlarmGate or a Gate of your own")
	} else if g.About() == "" {
		c.bad("Gate says nothing about itself", "let About name what is closed: the plan's hash covers it")
	}
}

// Defaults of Quiesce.
const (
	NameQuiesce          = "quiesce"
	DefaultQuiesceWindow = time.Second
	// DefaultQuiesceAttempts is how often Quiesce looks whether writes under way have ended.
	DefaultQuiesceAttempts = 5
)

// QuiesceConfig says how the primary stops taking writes. Pair.Primary is required.
type QuiesceConfig struct {
	Name      string // "" is NameQuiesce
	Reference string
	Pair      Pair
	Gate      Gate
	// Window is how long no kept key may change at the primary before it counts as quiet; 0 is DefaultQuiesceWindow. It is a part of the time without writes; what comes later Drain finds.
	Window time.Duration
	// Attempts is how many windows are tried; 0 is DefaultQuiesceAttempts.
	Attempts int
}

// Quiesce closes the gate and shows that no kept key changes at the primary any more. What still writes is named by its keys. Undo opens the gate.
// Without the primary, and in a drill, which leaves the primary at work, it is left out.
func Quiesce(cfg QuiesceConfig) (failover.Step, error) {
	c := checks{config: "QuiesceConfig"}
	p := cfg.Pair.check(&c, true)
	c.gate(cfg.Gate)
	c.duration("Window", &cfg.Window, DefaultQuiesceWindow)
	if cfg.Window > failover.DefaultObserveTimeout/2 {
		c.bad(fmt.Sprintf("Window is %v", cfg.Window), fmt.Sprintf("an observation takes so long: use at most %v", failover.DefaultObserveTimeout/2))
	}
	attempts := int64(cfg.Attempts)
	c.number("Attempts", &attempts, DefaultQuiesceAttempts)
	if err := c.err(); err != nil {
		return nil, err
	}
	const keyClosing = "closing"
	return failover.Funcs{
		Name: orDefault(cfg.Name, NameQuiesce),
		Description: failover.Description{
			Action:    fmt.Sprintf("Stop writes to the primary by %s, until no mirrored key changes for %v", cfg.Gate.About(), cfg.Window),
			Undo:      "Let the primary take writes again by " + cfg.Gate.About(),
			Reference: cfg.Reference,
			Inputs: struct {
				Pair     pairInputs `json:"pair"`
				Gate     string     `json:"gate"`
				Window   string     `json:"window"`
				Attempts int64      `json:"attempts"`
			}{p.inputs, cfg.Gate.About(), cfg.Window.String(), attempts},
		},
		Observe: func(ctx context.Context) (failover.Observation, error) {
			closed, err := cfg.Gate.Closed(ctx)
			if err != nil {
				return failover.Observation{}, fmt.Errorf("looking at %s: %w", cfg.Gate.About(), err)
			}
			if !closed {
				return pending("%s lets writes through", cfg.Gate.About()), nil
			}
			st, err := p.state(ctx)
			if err != nil {
				return failover.Observation{}, err
			}
			keys, head, err := p.still(ctx, st, cfg.Window)
			if err != nil {
				return failover.Observation{}, err
			}
			if len(keys) == 0 {
				return done("%s is closed, and no mirrored key changed within %v up to revision %d", cfg.Gate.About(), cfg.Window, head), nil
			}
			text := fmt.Sprintf("%s is closed, and the primary is still written to: within %v %s changed: %s", cfg.Gate.About(), cfg.Window, plural(len(keys), "mirrored key"), some(keys, len(keys)))
			var ours bool
			if _, err := failover.Load(ctx, keyClosing, &ours); err != nil {
				return failover.Observation{}, err
			}
			if !ours { // nothing that this step did, or could take back
				return blocked("%s; find out who writes past it", text), nil
			}
			return partial("%s", text), nil
		},
		Do: func(ctx context.Context) error {
			if err := failover.Save(ctx, keyClosing, true); err != nil {
				return err
			}
			return cfg.Gate.Close(ctx)
		},
		Undo:  cfg.Gate.Open,
		Retry: failover.Retry{Attempts: int(attempts), First: 250 * time.Millisecond, Max: 5 * time.Second},
		// A dead primary takes no writes, and a drill does not touch it.
		Ungraceful: func() failover.Step { return nil },
		Drill:      func() failover.Step { return nil },
	}.Step(), nil
}

// still waits for a window and lists the kept keys that changed at the primary within it.
func (p *pair) still(ctx context.Context, st State, window time.Duration) (keys []string, head int64, err error) {
	before, err := p.primaryHead(ctx, st)
	if err != nil {
		return nil, 0, err
	}
	select {
	case <-time.After(window):
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	return p.moved(ctx, st, before)
}

func orDefault(name, zero string) string {
	if name == "" {
		return zero
	}
	return name
}

// NameReopen is the name of Reopen's step.
const NameReopen = "reopen"

// ReopenConfig says which gate is opened again.
type ReopenConfig struct {
	Name      string // "" is NameReopen
	Reference string
	Gate      Gate
}

// Reopen opens a gate that Quiesce closed and that is in the way of what comes next: AlarmGate would keep the mirror in the other direction from writing to the old primary.
// The old primary's own clients must be kept away by then. Undo closes it. Without the primary, and in a drill, it is left out.
func Reopen(cfg ReopenConfig) (failover.Step, error) {
	c := checks{config: "ReopenConfig"}
	c.gate(cfg.Gate)
	if err := c.err(); err != nil {
		return nil, err
	}
	return failover.Funcs{
		Name: orDefault(cfg.Name, NameReopen),
		Description: failover.Description{
			Action: "Let the old primary's etcd take writes again by " + cfg.Gate.About(), Undo: "Stop writes again by " + cfg.Gate.About(),
			Reference: cfg.Reference, Inputs: map[string]any{"gate": cfg.Gate.About()},
		},
		Observe: func(ctx context.Context) (failover.Observation, error) {
			closed, err := cfg.Gate.Closed(ctx)
			switch {
			case err != nil:
				return failover.Observation{}, fmt.Errorf("looking at %s: %w", cfg.Gate.About(), err)
			case closed:
				return pending("%s is closed", cfg.Gate.About()), nil
			}
			return done("%s is open", cfg.Gate.About()), nil
		},
		Do:         cfg.Gate.Open,
		Undo:       cfg.Gate.Close,
		Ungraceful: func() failover.Step { return nil },
		Drill:      func() failover.Step { return nil },
	}.Step(), nil
}
