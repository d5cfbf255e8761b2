package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// NameEpochFence is the name of EpochFence's step.
const NameEpochFence = "epoch-fence"

// EpochFenceConfig says which standby is promoted.
type EpochFenceConfig struct {
	Name      string // "" is NameEpochFence
	Reference string
	Pair      Pair
	// RequireComplete refuses, also without the primary, a standby to which a copy was under way. Otherwise the variant without the primary takes it as it is: VerdictGate states before
	// what that loses, and asks for acceptance.
	RequireComplete bool
	// Drain is the name of the Drain step whose revision the primary must not have left; "" is NameDrain.
	Drain string
}

// EpochFence promotes the standby: whatever mirrored to it is refused from then on, by the standby itself, a write under way included. It needs no primary.
// With the primary, after a Drain, its Verify looks once more whether a kept key changed there since: then the switch would lose it, and the step fails while all can still be undone.
//
// Undo demotes it: the mirror begins anew and compares everything. That would lose what was written to the promoted standby, so Undo refuses as soon as a kept key changed there: the point
// of no return is passed by that fact. So take clients back first. In a drill, in which the primary stays what counts, Undo tells how many keys changed and demotes. What the primary deletes during
// a drill stays at the standby, where the mirror then takes it for the standby's own, unless it is told to delete such keys (etcdmirror.SurplusDelete): check after a drill.
func EpochFence(cfg EpochFenceConfig) (failover.Step, error) {
	c := checks{config: "EpochFenceConfig"}
	p := cfg.Pair.check(&c, false)
	if err := c.err(); err != nil {
		return nil, err
	}
	cfg.Drain = orDefault(cfg.Drain, NameDrain)
	return (&epochFence{cfg: cfg, pair: p}).step(), nil
}

type epochFence struct {
	cfg EpochFenceConfig
	*pair
	mode failover.Mode
}

func (e *epochFence) incomplete() bool {
	return e.mode == failover.ModeUngraceful && !e.cfg.RequireComplete
}

func (e *epochFence) step() failover.Step {
	undo := "Make it a standby again, unless somebody has written to it since"
	if e.mode == failover.ModeDrill {
		undo = "Make it a standby again; what was written to it in the drill is told, and the mirror puts it right"
	}
	f := failover.Funcs{
		Name: orDefault(e.cfg.Name, NameEpochFence),
		Description: failover.Description{
			Action: fmt.Sprintf("Promote the standby: refuse every write of mirror %s from now on", e.Mirror),
			Undo:   undo, Reference: e.cfg.Reference,
			Inputs: struct {
				Pair       pairInputs `json:"pair"`
				Drain      string     `json:"drain,omitempty"`
				Incomplete bool       `json:"incomplete,omitempty"`
				Drill      bool       `json:"drill,omitempty"`
			}{e.inputs, e.drainStep(), e.incomplete(), e.mode == failover.ModeDrill},
		},
		Observe: e.observe, Do: e.do, Undo: e.undo,
		Retry: failover.Retry{Attempts: 3},
	}
	if e.drainStep() != "" {
		f.Verify, f.Description.Verify = e.verify, "No mirrored key has changed at the primary since step "+e.cfg.Drain
	}
	if e.mode == "" {
		variant := func(mode failover.Mode) func() failover.Step {
			v := *e
			v.mode = mode
			return v.step
		}
		f.Ungraceful, f.Drill = variant(failover.ModeUngraceful), variant(failover.ModeDrill)
	}
	return f.Step()
}

func (e *epochFence) observe(ctx context.Context) (failover.Observation, error) {
	st, err := e.state(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	switch {
	case st.Phase == PhaseNone:
		return blocked("the standby knows no mirror %s: check the name and that the endpoints are the standby's", e.Mirror), nil
	case st.Phase == PhasePromoted && st.Complete:
		return done("promoted in epoch %d, at exactly the primary's revision %d", st.Epoch, st.AppliedRevision), nil
	case st.Phase == PhasePromoted:
		return done("promoted in epoch %d while a copy was under way: it equals no revision of the primary", st.Epoch), nil
	case st.Phase == PhaseArmed:
		return blocked("mirror %s was demoted and has not run since: there is no copy to promote", e.Mirror), nil
	case st.Phase != PhaseTail && !e.incomplete():
		return blocked("a copy by mirror %s is under way (phase %s): let it finish", e.Mirror, st.Phase), nil
	}
	return pending("mirror %s writes in epoch %d, phase %s", e.Mirror, st.Epoch, st.Phase), nil
}

// drainStep is the name of the step after which the primary must not have changed; "" if there is none.
func (e *epochFence) drainStep() string {
	if e.mode != "" || e.Primary == nil {
		return ""
	}
	return e.cfg.Drain
}

func (e *epochFence) verify(ctx context.Context) error {
	var drained Drained
	if _, err := failover.LoadFrom(ctx, e.cfg.Drain, KeyDrained, &drained); err != nil || drained.Revision == 0 {
		return err // no such step in this plan
	}
	st, err := e.state(ctx)
	if err != nil {
		return err
	}
	keys, head, err := e.moved(ctx, st, drained.Head)
	if err == nil && len(keys) > 0 {
		err = failover.Permanent(fmt.Errorf("after the drain, at revision %d, the primary was written to again: %s changed up to revision %d: %s; the standby lacks that: undo, stop what writes, and begin again",
			drained.Head, plural(len(keys), "mirrored key"), head, some(keys, len(keys))))
	}
	return err
}

// keyHeld is what Do saves for Undo.
const keyHeld = "held"

// held is which keys took part at the standby when it was promoted. It is saved just before as well, in case the runner does not come to saving it after.
type held struct {
	Revision int64  `json:"revision"` // the promotion's, or one before
	Applied  int64  `json:"applied"`  // what the mirror had applied
	Keys     int    `json:"keys"`
	Digest   string `json:"digest"`
}

func (e *epochFence) do(ctx context.Context) error {
	before, err := e.state(ctx)
	if err != nil {
		return err
	}
	if before.Phase != PhasePromoted {
		_, head, err := e.standbyHead(ctx)
		if err != nil {
			return err
		}
		h, _, _, err := e.digest(ctx, head, head)
		if err != nil {
			return err
		}
		h.Applied = before.AppliedRevision
		if err := failover.Save(ctx, keyHeld, h); err != nil {
			return err
		}
	}
	if err := e.Records.Promote(ctx, e.incomplete()); err != nil {
		return err
	}
	st, err := e.state(ctx)
	if err != nil {
		return err
	}
	failover.Note(ctx, fmt.Sprintf("promoted in epoch %d; the primary's revision %d is applied, %d was seen", st.Epoch, st.AppliedRevision, st.SourceHead))
	h, _, exact, err := e.digest(ctx, st.Revision, st.Revision)
	if err != nil || !exact {
		failover.Note(ctx, "the keys of the standby could not be listed as they were at the promotion; undoing goes by those just before")
		return nil
	}
	h.Applied = st.AppliedRevision
	return failover.Save(ctx, keyHeld, h)
}

// digest lists which keys take part at the standby at a revision, and those of them that were written after another. exact tells that it was read at that revision.
func (e *epochFence) digest(ctx context.Context, at, since int64) (h held, written []string, exact bool, err error) {
	begin, end := keyspace.Bounds(e.keys.Target)
	pin := kvstream.NewPin(begin, at)
	cursor := e.standby.Keys(begin, end, pin)
	defer cursor.Close()
	sum := sha256.New()
	h.Revision = since
	for {
		kv, err := cursor.Next(ctx)
		if err != nil {
			return held{}, nil, false, fmt.Errorf("listing the standby's keys: %w", err)
		}
		if kv == nil {
			h.Digest = hex.EncodeToString(sum.Sum(nil))
			return h, written, !pin.Moved(), nil
		}
		if !e.keys.KeptAtTarget(kv.Key) {
			continue
		}
		if kv.ModRevision > since {
			written = append(written, string(kv.Key))
		}
		h.Keys++
		_, _ = fmt.Fprintf(sum, "%d:%s", len(kv.Key), kv.Key)
	}
}

// changed says what was written to the standby's kept keys since its promotion; "" if nothing was.
func (e *epochFence) changed(ctx context.Context, st State) (string, error) {
	_, head, err := e.standbyHead(ctx)
	if err != nil {
		return "", err
	}
	now, written, _, err := e.digest(ctx, head, st.Revision) // of a later revision it tells as well
	if err != nil {
		return "", err
	}
	if len(written) > 0 {
		return fmt.Sprintf("%s written: %s", plural(len(written), "key"), some(written, len(written))), nil
	}
	var then held
	ok, err := failover.Load(ctx, keyHeld, &then)
	if err != nil {
		return "", err
	}
	if !ok || then.Revision != st.Revision {
		at, _, exact, err := e.digest(ctx, st.Revision, st.Revision)
		switch {
		case err != nil:
			return "", err
		case exact:
			then = at
		case !ok || then.Revision > st.Revision || then.Applied != st.AppliedRevision: // the mirror changed keys between
			return "what was deleted cannot be told any more, because its log is compacted", nil
		}
	}
	// Nothing was put, so what differs was deleted.
	switch {
	case now.Digest == then.Digest:
		return "", nil
	case now.Keys < then.Keys:
		return fmt.Sprintf("%s deleted", plural(then.Keys-now.Keys, "key")), nil
	}
	return "its keys are not those of the promotion", nil
}

func (e *epochFence) undo(ctx context.Context) error {
	st, err := e.state(ctx)
	if err != nil {
		return err
	}
	if st.Phase != PhasePromoted {
		return nil // demoted already, or never promoted
	}
	change, err := e.changed(ctx, st)
	switch {
	case err != nil:
		return err
	case change != "" && e.mode == failover.ModeDrill:
		failover.Note(ctx, "since the promotion, at the standby: "+change+"; the mirror compares everything when it begins anew")
	case change != "":
		return &failover.Error{Kind: failover.ErrPointOfNoReturn, Detail: fmt.Sprintf("the promoted standby has been written to since the promotion at its revision %d: %s; undoing the promotion would lose that", st.Revision, change),
			Hint: "go on, or switch back by another plan"}
	}
	if err := e.Records.Demote(ctx); err != nil {
		return err
	}
	// Between the look and the demotion somebody may have written. It cannot be taken back, but it is not to go unnoticed.
	if change == "" {
		if change, err = e.changed(ctx, State{Revision: st.Revision}); err == nil && change != "" {
			failover.Note(ctx, "written in the moment of the demotion, at the standby: "+change+"; compare these keys by hand")
		}
	}
	return nil
}
