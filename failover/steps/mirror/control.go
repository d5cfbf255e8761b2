package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// Control starts and stops one mirror, wherever it runs. It must be safe for concurrent use.
type Control interface {
	// About says what it is, such as "systemd unit understudy-mirror on 10.0.0.5", for plans: constant, without secrets.
	About() string
	Running(ctx context.Context) (bool, error)
	// Start and Stop are idempotent. After their return Running tells the new state; what a mirror does from then on its records tell.
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// Failure is offered by a Control that knows why its mirror ended by itself: nil if it did not.
type Failure interface{ Failure() error }

// ControlFuncs is a Control made of funcs, all of which are required.
type ControlFuncs struct {
	Text      string // what About says
	IsRunning func(ctx context.Context) (bool, error)
	DoStart   func(ctx context.Context) error
	DoStop    func(ctx context.Context) error
}

func (f ControlFuncs) About() string                             { return f.Text }
func (f ControlFuncs) Running(ctx context.Context) (bool, error) { return f.IsRunning(ctx) }
func (f ControlFuncs) Start(ctx context.Context) error           { return f.DoStart(ctx) }
func (f ControlFuncs) Stop(ctx context.Context) error            { return f.DoStop(ctx) }

func (c *checks) control(control Control) {
	if f, ok := control.(ControlFuncs); ok && (f.IsRunning == nil || f.DoStart == nil || f.DoStop == nil) {
		c.bad("Control lacks a func", "set IsRunning, DoStart and DoStop")
		return
	}
	if control == nil {
		c.bad("Control is nil", "pass what starts and stops the mirror: ControlFuncs, engine.InProcess or a Control of your own")
	} else if control.About() == "" {
		c.bad("Control says nothing about itself", "let About name what is started and stopped: the plan's hash covers it")
	}
}

// ended is why a mirror that should run does not.
func ended(control Control) error {
	if f, ok := control.(Failure); ok {
		if err := f.Failure(); err != nil {
			return failover.Permanent(fmt.Errorf("the mirror ended: %w", err))
		}
	}
	return failover.Permanent(fmt.Errorf("the mirror (%s) does not run: look at its log", control.About()))
}

// NameStopMirror is the name of StopMirror's step.
const NameStopMirror = "stop-mirror"

// StopMirrorConfig says which mirror stops.
type StopMirrorConfig struct {
	Name      string // "" is NameStopMirror
	Reference string
	Pair      Pair
	Control   Control
	// Timeout bounds the waiting for its end, and in Undo for its copy; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// StopMirror stops the mirror and waits until no instance of it is registered at the standby, so that one that was forgotten is found. Undo starts it again and waits until its copy is complete:
// what the primary deletes while a mirror begins anew could stay at the standby.
//
// It comes after Drain and before EpochFence: so undoing demotes the standby first, then starts the mirror, and then lets the primary take writes.
func StopMirror(cfg StopMirrorConfig) (failover.Step, error) {
	c := checks{config: "StopMirrorConfig"}
	p := cfg.Pair.check(&c, false)
	c.control(cfg.Control)
	c.duration("Timeout", &cfg.Timeout, failover.DefaultTimeout)
	if err := c.err(); err != nil {
		return nil, err
	}
	return (&stopMirror{cfg: cfg, pair: p}).step(), nil
}

type stopMirror struct {
	cfg StopMirrorConfig
	*pair
	// alone is set in a plan without the primary: the mirror may have run beside it, on a machine that cannot be asked any more. What is registered at the standby counts then, and the epoch fence refuses the rest.
	alone bool
}

func (m *stopMirror) step() failover.Step {
	cfg, p := m.cfg, m.pair
	observe := func(ctx context.Context) (failover.Observation, error) {
		if is, err := withdrawn(ctx); err != nil || is {
			return pending("undone: not looked at"), err
		}
		running, err := cfg.Control.Running(ctx)
		switch {
		case err != nil && m.alone:
			failover.Report(ctx, fmt.Sprintf("%s cannot be asked: going by what is registered at the standby", cfg.Control.About()))
		case err != nil:
			return failover.Observation{}, fmt.Errorf("looking at %s: %w", cfg.Control.About(), err)
		case running:
			return pending("mirror %s runs (%s)", p.Mirror, cfg.Control.About()), nil
		}
		st, err := p.state(ctx)
		switch {
		case err != nil:
			return failover.Observation{}, err
		case len(st.Replicas) > 0:
			return partial("%s is stopped, and registered at the standby is still %s: another instance, or one whose session has not ended yet", cfg.Control.About(), some(st.Replicas, len(st.Replicas))), nil
		}
		return done("no instance of mirror %s runs", p.Mirror), nil
	}
	f := failover.Funcs{
		Name: orDefault(cfg.Name, NameStopMirror),
		Description: failover.Description{
			Action:    fmt.Sprintf("Stop mirror %s (%s), and wait until no instance is registered at the standby", p.Mirror, cfg.Control.About()),
			Undo:      "Start it again, and wait until its copy is complete",
			Reference: cfg.Reference,
			Inputs: struct {
				Pair    pairInputs `json:"pair"`
				Control string     `json:"control"`
				Alone   bool       `json:"alone,omitempty"`
			}{p.inputs, cfg.Control.About(), m.alone},
		},
		Observe: observe,
		Do: func(ctx context.Context) error {
			if err := begins(ctx); err != nil {
				return err
			}
			if err := cfg.Control.Stop(ctx); err != nil {
				if !m.alone {
					return err
				}
				failover.Note(ctx, "the mirror cannot be stopped where it runs, if it does: "+err.Error())
			}
			return until(ctx, func(ctx context.Context) (bool, string, error) {
				obs, err := observe(ctx)
				return obs.State == failover.Done, obs.Detail, err
			})
		},
		Undo: func(ctx context.Context) error {
			err := cfg.Control.Start(ctx)
			if m.alone { // without its source it does not get far
				if err != nil {
					failover.Note(ctx, "the mirror could not be started again: "+err.Error())
				}
				return failover.Save(ctx, keyWithdrawn, true)
			}
			if err != nil {
				return err
			}
			return p.follows(ctx, cfg.Control)
		},
		Timeout: cfg.Timeout, Retry: failover.Retry{Attempts: 2},
	}
	if !m.alone {
		f.Ungraceful = (&stopMirror{cfg: cfg, pair: p, alone: true}).step
	}
	return f.Step()
}

// follows waits until a mirror that was started follows its source.
func (p *pair) follows(ctx context.Context, control Control) error {
	return until(ctx, func(ctx context.Context) (bool, string, error) {
		running, err := control.Running(ctx)
		if err == nil && !running {
			err = ended(control)
		}
		if err != nil {
			return false, "", err
		}
		st, err := p.state(ctx)
		return len(st.Replicas) > 0 && st.Phase == PhaseTail, fmt.Sprintf("mirror %s runs, in phase %s", p.Mirror, st.Phase), err
	})
}
