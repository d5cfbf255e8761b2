package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// NameDrain is the name of Drain's step.
const NameDrain = "drain"

// KeyDrained is what Drain saves a Drained under, for failover.LoadFrom.
const KeyDrained = "drained"

// Drained is the primary's last revision, all of which the standby holds.
type Drained struct {
	// Revision is the primary's: all that it has committed up to there is at the standby. 0: not drained.
	Revision int64 `json:"revision"`
	// Head is the primary's last known revision. What came after Revision is none of what is mirrored.
	Head      int64     `json:"head"`
	ClusterID string    `json:"clusterID"` // the primary's, hexadecimal
	At        time.Time `json:"at"`        // by this host's clock
}

// Waiter waits until a mirror has applied a revision of the primary: *etcdmirror.Mirror and *engine.InProcess do.
type Waiter interface {
	WaitForRevision(ctx context.Context, revision int64) error
}

// drainRounds is how often Drain begins again because a kept key changed at the primary meanwhile, such as one whose lease ran out.
const drainRounds = 3

// DrainConfig says what is drained. Pair.Primary is required.
type DrainConfig struct {
	Name      string // "" is NameDrain
	Reference string
	Pair      Pair
	// Waiter is the mirror if it runs in this process: it saves its progress at once when asked, where otherwise the standby may learn of it up to the mirror's
	// CheckpointInterval (10 s) later. nil: the standby's records are enough.
	Waiter Waiter
	// Guarded is how many keys the mirror may have kept away from the standby, because their values could not be read there; more fail the step.
	Guarded int
	// Timeout bounds the waiting; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// Drain reads the primary's revision after Quiesce and waits until the standby holds all up to it. Then it looks whether a kept key changed at the primary meanwhile: if so it waits for
// that too, and fails if that does not end. So nothing that the primary has acknowledged is lost.
//
// It saves a Drained under KeyDrained. There is nothing to undo: that the standby is drained just counts no longer. Without the primary it is left out; in a drill it waits for what the
// primary had when it began, and lets it go on.
func Drain(cfg DrainConfig) (failover.Step, error) {
	c := checks{config: "DrainConfig"}
	p := cfg.Pair.check(&c, true)
	if cfg.Guarded < 0 {
		c.bad(fmt.Sprintf("Guarded is %d", cfg.Guarded), "use the number of keys that may be missing, or 0")
	}
	c.duration("Timeout", &cfg.Timeout, failover.DefaultTimeout)
	if err := c.err(); err != nil {
		return nil, err
	}
	return (&drain{cfg: cfg, pair: p}).step(), nil
}

type drain struct {
	cfg DrainConfig
	*pair
	drill bool
}

func (d *drain) step() failover.Step {
	f := failover.Funcs{
		Name: orDefault(d.cfg.Name, NameDrain),
		Description: failover.Description{
			Action:    "Wait until the standby holds all that the primary has committed, to the exact revision",
			Undo:      "Nothing to take back: waiting changed nothing",
			Reference: d.cfg.Reference,
			Inputs: struct {
				Pair      pairInputs `json:"pair"`
				Guarded   int        `json:"guarded"`
				InProcess bool       `json:"inProcess"`
				Drill     bool       `json:"drill,omitempty"`
			}{d.inputs, d.cfg.Guarded, d.cfg.Waiter != nil, d.drill},
		},
		Observe: d.observe, Do: d.do, Timeout: d.cfg.Timeout,
		Undo:       func(ctx context.Context) error { return failover.Save(ctx, KeyDrained, Drained{}) },
		Ungraceful: func() failover.Step { return nil },
	}
	if !d.drill {
		rehearsed := *d
		rehearsed.drill = true
		f.Drill = rehearsed.step
	}
	return f.Step()
}

func (d *drain) observe(ctx context.Context) (failover.Observation, error) {
	var drained Drained
	if _, err := failover.Load(ctx, KeyDrained, &drained); err != nil {
		return failover.Observation{}, err
	}
	st, err := d.state(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if drained.Revision == 0 {
		return pending("the standby holds the primary's revision %d; the last one is read when the primary is quiet", st.AppliedRevision), nil
	}
	if there, seen := d.holds(st, drained.Revision); !there {
		return pending("%s", seen), nil
	}
	if !d.drill {
		keys, head, err := d.moved(ctx, st, drained.Revision)
		switch {
		case err != nil:
			return failover.Observation{}, err
		case len(keys) > 0:
			return pending("at the primary %s changed after revision %d, up to %d: %s", plural(len(keys), "mirrored key"), drained.Revision, head, some(keys, len(keys))), nil
		}
	}
	return done("the standby holds all up to the primary's last revision, %d", drained.Revision), nil
}

// holds reports whether the standby holds all up to a revision, or says what is missing.
func (d *drain) holds(st State, revision int64) (bool, string) {
	exact := st.Phase == PhaseTail || st.Phase == PhasePromoted && st.Complete
	switch {
	case st.Phase == PhaseNone:
		return false, "the standby knows no mirror " + d.Mirror
	case st.Tripped:
		return false, "the guard against mass deletion has stopped the mirror: approve the deletion, or find out what it is about"
	case !exact:
		return false, fmt.Sprintf("the standby equals no revision of the primary: the mirror is in phase %s", st.Phase)
	case st.AppliedRevision < revision:
		who := ""
		if len(st.Replicas) == 0 {
			who = "; no instance of the mirror runs"
		}
		return false, fmt.Sprintf("the standby holds revision %d of %d%s", st.AppliedRevision, revision, who)
	case st.Guarded > d.cfg.Guarded:
		return false, fmt.Sprintf("the standby lacks the values of %s that the mirror kept away", plural(st.Guarded, "key"))
	}
	return true, ""
}

// nothingLeft reports whether the standby holds all up to a revision although its record does not say so: what the primary has written since the record is none of what is mirrored.
// A mirror writes that down only at its CheckpointInterval, and the time without writes is too short to wait for it.
func (d *drain) nothingLeft(ctx context.Context, st State, revision int64) (bool, error) {
	if there, _ := d.holds(st, st.AppliedRevision); !there {
		return false, nil
	}
	found, err := changes(ctx, d.Primary, d.RequestTimeout, st.AppliedRevision, revision, d.keys.Kept)
	if errors.Is(err, errForgotten) {
		return false, nil
	}
	return err == nil && len(found) == 0, err
}

func (d *drain) do(ctx context.Context) error {
	for round := 1; ; round++ {
		st, err := d.state(ctx)
		if err != nil {
			return err
		}
		head, err := d.primaryHead(ctx, st)
		if err != nil {
			return err
		}
		failover.Report(ctx, fmt.Sprintf("the primary is at revision %d, the standby holds %d", head, st.AppliedRevision))
		if d.cfg.Waiter != nil {
			if err := d.cfg.Waiter.WaitForRevision(ctx, head); err != nil && ctx.Err() == nil {
				failover.Note(ctx, "the mirror in this process does not tell its progress: "+err.Error()+"; going by the standby's records")
			}
		}
		if err := until(ctx, func(ctx context.Context) (bool, string, error) {
			st, err = d.state(ctx)
			if err != nil {
				return false, "", err
			}
			there, seen := d.holds(st, head)
			if !there {
				there, err = d.nothingLeft(ctx, st, head)
			}
			return there, seen, err
		}); err != nil {
			return err
		}
		last := head
		if !d.drill {
			keys, now, err := d.moved(ctx, st, head)
			switch {
			case err != nil:
				return err
			case len(keys) > 0 && round == drainRounds:
				return failover.Permanent(fmt.Errorf("the primary is still written to: %s changed after revision %d, up to %d: %s; stop what writes, and drain again",
					plural(len(keys), "mirrored key"), head, now, some(keys, len(keys))))
			case len(keys) > 0:
				failover.Note(ctx, fmt.Sprintf("%s changed at the primary meanwhile: %s; draining again", plural(len(keys), "mirrored key"), some(keys, len(keys))))
				continue
			}
			last = now
		}
		return failover.Save(ctx, KeyDrained, Drained{Revision: min(head, st.AppliedRevision), Head: last, ClusterID: st.SourceClusterID, At: time.Now().UTC().Round(time.Second)})
	}
}
