// Package rollout has steps that carry out a roll-out of encryption keys over both clusters: one for each phase of an encryption.Rollout, in its order.
//
// An apiserver that is left behind loses values, so each phase is a step that is done only when the phase itself says so: every apiserver runs with its file by the hash that it
// tells, no value needs an old key, the etcd has forgotten the old revisions. Files are put in place and loaded on one apiserver after the other.
//
// # No way back
//
// Stopping and starting the mirror can be undone. Installing a file, relabelling and rewriting cannot: once an apiserver has written with a key, taking the key out loses what it wrote, and whether
// one has, nobody can tell in time. These steps are points of no return, and the plan says so. A roll-out that stops half-way is no emergency: in each phase every apiserver reads every value. Go on
// when the cause is put right.
//
// Plans, journals and errors hold names of keys and hashes of files, no key.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/failover"
)

// Config is a roll-out as steps.
type Config struct {
	// Name is in front of the phases' names in the steps' names; "" is "encryption".
	Name      string
	Reference string
	// Plan is what PlanRollout returned. Required.
	Plan *encryption.Rollout
	// Effects are what the phases act through; those that the plan's phases need are required.
	Effects encryption.Effects
	// Timeout bounds each phase; 0 is DefaultTimeout. Rewriting takes as long as the number of values and the rate of encryption.InPlaceConfig ask for.
	Timeout time.Duration
	// Approval is asked for before each phase without a way back; the zero value asks for none.
	Approval failover.Approval
}

// DefaultTimeout is enough for the compaction that an apiserver orders every five minutes, twice.
const DefaultTimeout = 30 * time.Minute

// Steps makes the steps. Errors match failover.ErrConfig.
func Steps(cfg Config) ([]failover.Step, error) {
	var errs []error
	bad := func(detail, hint string) {
		errs = append(errs, &failover.Error{Kind: failover.ErrConfig, Detail: "Config." + detail, Hint: hint})
	}
	if cfg.Plan == nil || len(cfg.Plan.Phases) == 0 {
		bad("Plan has no phases", "give what encryption.PlanRollout returned")
	}
	if cfg.Timeout < 0 {
		bad("Timeout is negative", "leave it 0 for the default")
	}
	if cfg.Plan != nil {
		needs := map[string]string{}
		for _, p := range cfg.Plan.Phases {
			for _, need := range lacking(cfg.Effects, p.Kind) {
				if needs[need] == "" {
					needs[need] = p.Name
					bad(fmt.Sprintf("Effects.%s is missing, which phase %s acts through", need, p.Name), "give one")
				}
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "encryption"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	var all []failover.Step
	for i := range cfg.Plan.Phases {
		phase := cfg.Plan.Phases[i]
		all = append(all, (&step{phase: &phase, effects: cfg.Effects}).make(cfg))
	}
	return all, nil
}

// lacking names the effects that a kind of phase needs and does not have.
func lacking(e encryption.Effects, kind encryption.PhaseKind) (names []string) {
	switch kind {
	case encryption.PhaseStopMirror, encryption.PhaseStartMirror:
		if e.Mirror == nil {
			names = append(names, "Mirror")
		}
	case encryption.PhaseInstall:
		if e.Files == nil {
			names = append(names, "Files")
		}
		if e.Loaded == nil {
			names = append(names, "Loaded")
		}
	default:
		if e.Values == nil {
			names = append(names, "Values")
		}
	}
	return names
}

// step is one phase.
type step struct {
	phase   *encryption.Phase
	effects encryption.Effects
}

const savedRunning = "running"

func (s *step) make(cfg Config) failover.Step {
	p := s.phase
	f := failover.Funcs{Name: cfg.Name + "/" + p.Name, Observe: s.observe, Do: func(ctx context.Context) error { return s.do(ctx) }, Timeout: cfg.Timeout,
		Description: failover.Description{Action: fmt.Sprintf("%s (%s)", capital(p.Title), p.Why), Verify: strings.Join(p.Verify, "; "), Reference: cfg.Reference, Inputs: p}}
	for _, file := range p.Files {
		f.Description.Commands = append(f.Description.Commands, fmt.Sprintf("%s of the %s: install %s, %s, have it loaded", file.Apiserver.Name, file.Cluster, file.Apiserver.Path, file.Hash))
	}
	for _, r := range p.Relabels {
		f.Description.Commands = append(f.Description.Commands, fmt.Sprintf("relabel values of the %s: %s to %s", p.Cluster, r.From, r.To))
	}
	switch p.Kind {
	case encryption.PhaseAudit:
		return failover.Check(f.Name, f.Observe, f.Description)
	case encryption.PhaseStopMirror:
		f.Description.Undo = "Start the mirror if it ran"
		f.Undo = s.undoStop
	case encryption.PhaseStartMirror:
		f.Description.Undo = "Stop the mirror"
		f.Undo = s.effects.Mirror.Stop
	default:
		f.Description.Undo = "None: values may have been written with keys that going back would take away"
		f.Approval = cfg.Approval
		if p.Kind == encryption.PhaseCompaction {
			f.Description.Undo, f.Approval = "None: the etcd has forgotten the old revisions", failover.Approval{}
		}
	}
	return f.Step()
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func (s *step) observe(ctx context.Context) (failover.Observation, error) {
	err := s.phase.Check(ctx, s.effects)
	switch {
	case err == nil:
		return failover.Observation{State: failover.Done, Detail: strings.Join(s.phase.Verify, "; ")}, nil
	case !errors.Is(err, encryption.ErrNotReached) && !errors.Is(err, encryption.ErrNotLoaded):
		return failover.Observation{}, err
	}
	o := failover.Observation{State: failover.Pending, Detail: strings.ReplaceAll(err.Error(), "\n", "; ")}
	_, begun := failover.Began(ctx)
	switch s.phase.Kind {
	case encryption.PhaseStopMirror, encryption.PhaseStartMirror:
	case encryption.PhaseAudit:
		o.State = failover.Blocked
	case encryption.PhaseInstall:
		for _, file := range s.phase.Files {
			if s.effects.Loaded.Verify(ctx, file) == nil {
				o.State = failover.Partial
			}
		}
		if begun { // a file may be in place that is not loaded
			o.State = failover.Partial
		}
	default:
		if begun { // some values may be changed
			o.State = failover.Partial
		}
	}
	return o, nil
}

func (s *step) do(ctx context.Context) error {
	if s.phase.Kind == encryption.PhaseStopMirror {
		running, err := s.effects.Mirror.Running(ctx)
		if err != nil {
			return err
		}
		var saved bool
		if known, err := failover.Load(ctx, savedRunning, &saved); err != nil {
			return err
		} else if !known || running {
			if err := failover.Save(ctx, savedRunning, running); err != nil {
				return err
			}
		}
	}
	return s.phase.Do(ctx, s.effects)
}

func (s *step) undoStop(ctx context.Context) error {
	var running bool
	if _, err := failover.Load(ctx, savedRunning, &running); err != nil || !running {
		return err
	}
	return s.effects.Mirror.Start(ctx)
}
