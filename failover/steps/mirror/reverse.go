package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// NameStartReverse is the name of StartReverse's step.
const NameStartReverse = "start-reverse"

// StartReverseConfig says which mirror starts.
type StartReverseConfig struct {
	Name      string // "" is NameStartReverse
	Reference string
	// Pair is the new one: its Primary is the promoted standby, its Standby the old primary. Both are required.
	Pair    Pair
	Control Control // of the mirror from the new primary to the old one
	// Differences, of a failback, is the DifferenceReport whose file has to be whole, and the old primary unchanged since, before anything is overwritten. nil: nothing to report, as after a
	// Drain; the old primary must not have been written to.
	Differences *DifferenceReportConfig
	// PointOfNoReturn makes the step one that cannot be undone: for a failback, where what the old primary wrote for itself is overwritten.
	PointOfNoReturn bool
	// Timeout bounds the waiting for the copy; 0 is DefaultReverseTimeout.
	Timeout time.Duration
}

// DefaultReverseTimeout leaves time for a first copy.
const DefaultReverseTimeout = time.Hour

// StartReverse makes the old primary the standby: it demotes it, where an earlier switch has promoted it, starts the mirror from the new primary and waits until its copy is complete.
// What the old primary has and the new one has not is overwritten; keys that it made for itself stay unless the mirror's configuration says otherwise (etcdmirror.SurplusDelete).
//
// Undo stops the mirror and fences the old primary against it, so that the first mirror can run again. What was copied stays: it is the new primary's content. Without the primary, and
// in a drill, the step is left out.
func StartReverse(cfg StartReverseConfig) (failover.Step, error) {
	c := checks{config: "StartReverseConfig"}
	p := cfg.Pair.check(&c, true)
	c.control(cfg.Control)
	c.duration("Timeout", &cfg.Timeout, DefaultReverseTimeout)
	var report *differences
	if cfg.Differences != nil {
		report = newDifferences(*cfg.Differences, &c)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	r := &reverse{cfg: cfg, pair: p, report: report}
	file := ""
	if report != nil {
		file = report.cfg.Path
	}
	f := failover.Funcs{
		Name: orDefault(cfg.Name, NameStartReverse),
		Description: failover.Description{
			Action:    fmt.Sprintf("Start mirror %s (%s) into its standby, which is demoted before if it was promoted, and wait until the copy is complete", p.Mirror, cfg.Control.About()),
			Reference: cfg.Reference,
			Inputs: struct {
				Pair            pairInputs `json:"pair"`
				Control         string     `json:"control"`
				Differences     string     `json:"differences,omitempty"`
				PointOfNoReturn bool       `json:"pointOfNoReturn,omitempty"`
			}{p.inputs, cfg.Control.About(), file, cfg.PointOfNoReturn},
		},
		Observe: r.observe, Do: r.do, Timeout: cfg.Timeout, Retry: failover.Retry{Attempts: 2},
		Ungraceful: func() failover.Step { return nil },
		Drill:      func() failover.Step { return nil },
	}
	if !cfg.PointOfNoReturn {
		f.Undo = r.undo
		f.Description.Undo = "Stop that mirror and fence the old primary against it; what it has copied stays"
	}
	return f.Step(), nil
}

type reverse struct {
	cfg StartReverseConfig
	*pair
	report *differences
}

func (r *reverse) observe(ctx context.Context) (failover.Observation, error) {
	running, err := r.cfg.Control.Running(ctx)
	if err != nil {
		return failover.Observation{}, fmt.Errorf("looking at %s: %w", r.cfg.Control.About(), err)
	}
	st, err := r.state(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	idle := st.Phase == PhaseNone || st.Phase == PhasePromoted || st.Phase == PhaseArmed
	if !running {
		if idle {
			return pending("mirror %s does not run (%s)", r.Mirror, r.cfg.Control.About()), nil
		}
		return partial("mirror %s does not run, and has its standby already: phase %s, revision %d", r.Mirror, st.Phase, st.AppliedRevision), nil
	}
	if idle {
		return partial("mirror %s runs and has not begun to copy", r.Mirror), nil
	}
	if _, err := r.primaryHead(ctx, st); err != nil { // another source than the new primary
		return failover.Observation{}, err
	}
	if st.Phase != PhaseTail {
		return partial("mirror %s copies: phase %s", r.Mirror, st.Phase), nil
	}
	return done("mirror %s follows: revision %d of its primary is applied", r.Mirror, st.AppliedRevision), nil
}

// keyOverwrites is saved before the mirror starts.
const keyOverwrites = "overwrites"

func (r *reverse) do(ctx context.Context) error {
	st, err := r.state(ctx)
	if err != nil {
		return err
	}
	var overwrites bool // the mirror may have begun to: then the old primary is no longer what the report tells of
	if _, err := failover.Load(ctx, keyOverwrites, &overwrites); err != nil {
		return err
	}
	if r.report != nil && !overwrites {
		obs, err := r.report.look(ctx)
		switch {
		case err != nil:
			return err
		case obs.State != failover.Done:
			return failover.Permanent(fmt.Errorf("nothing may be overwritten before what the old primary wrote is in %s: %s", r.report.cfg.Path, obs.Detail))
		}
	}
	if err := failover.Save(ctx, keyOverwrites, true); err != nil {
		return err
	}
	if st.Phase == PhasePromoted {
		if err := r.Records.Demote(ctx); err != nil {
			return err
		}
	}
	if err := r.cfg.Control.Start(ctx); err != nil {
		return err
	}
	return r.follows(ctx, r.cfg.Control)
}

func (r *reverse) undo(ctx context.Context) error {
	if err := r.cfg.Control.Stop(ctx); err != nil {
		return err
	}
	if err := until(ctx, func(ctx context.Context) (bool, string, error) {
		st, err := r.state(ctx)
		return len(st.Replicas) == 0, "registered at the old primary is still " + some(st.Replicas, len(st.Replicas)), err
	}); err != nil {
		return err
	}
	st, err := r.state(ctx)
	if err != nil || st.Phase == PhaseNone || st.Phase == PhasePromoted || st.Phase == PhaseArmed {
		return err
	}
	return r.Records.Promote(ctx, true)
}
