package mirror

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// Verdicts is what checks and the standby tell of the pair: engine.Verdicts has it from package drcheck. It must be safe for concurrent use.
type Verdicts interface {
	// Standing reads what the standby alone tells. It writes nothing and needs no primary. Found is false if the standby knows no mirror of the name.
	Standing(ctx context.Context) (v Standing, found bool, err error)
	// Check compares the two sides and leaves its outcome where Standing finds it.
	Check(ctx context.Context) (Outcome, error)
}

// Outcome is what a check found. It has no values, and no keys.
type Outcome struct {
	Equal bool `json:"equal"` // but for what was accepted
	// Content is set when values were compared, not keys alone.
	Content bool `json:"content"`
	// Began is when the check began, by the clock of its host, with the primary at SourceRevision.
	Began           time.Time `json:"began"`
	SourceRevision  int64     `json:"sourceRevision"`
	SourceClusterID string    `json:"sourceClusterID,omitempty"`
	Keys            int       `json:"keys"`
	Missed          int       `json:"missed"`
	Surplus         int       `json:"surplus"`
	Different       int       `json:"different"`
	Accepted        int       `json:"accepted"`
}

// counts says what differs.
func (o Outcome) counts() string {
	text := fmt.Sprintf("%d missed, %d surplus, %d different of %s", o.Missed, o.Surplus, o.Different, plural(o.Keys, "key"))
	if o.Accepted > 0 {
		text += fmt.Sprintf(", %d accepted", o.Accepted)
	}
	return text
}

// Standing is what the standby alone tells: drcheck.Verdict has the same fields, described in full.
type Standing struct {
	Phase            Phase
	Complete         bool // it equals the primary at AppliedRevision
	AppliedRevision  int64
	SourceHead       int64
	MissingRevisions int64     // seen and not applied
	HoldsUntil       time.Time // all that the primary had committed by then is there; zero: no such moment is known
	Guarded, Drifted int
	Unlisted         bool // more may have drifted
	Tripped          bool
	// LastEqual, LastEqualKeys (of checks that compared no values) and LastDiffers are the newest outcomes of checks; nil: none.
	LastEqual, LastEqualKeys, LastDiffers *Outcome
}

// Defaults of VerdictGate.
const (
	NameVerdict          = "verdict"
	DefaultVerdictMaxAge = 5 * time.Minute
)

// VerdictGateConfig says what has to be right before the roles change.
type VerdictGateConfig struct {
	Name      string // "" is NameVerdict
	Reference string
	Pair      Pair // Primary is required, but for a plan without it
	Verdicts  Verdicts
	// MaxAge is how old a check may be that counts; 0 is DefaultVerdictMaxAge. Its age is from its beginning by the clock of the host that checked to now by the clock of this one; a check that
	// began in the future counts as too old, so that a wrong clock leads to another check.
	MaxAge time.Duration
	// Missed, Surplus and Different are how many differences of each class are expected and do not count.
	Missed, Surplus, Different int
	// KeysOnly accepts a check that compared no values.
	KeysOnly bool
	// PrimaryEnded, for a plan without the primary, is when it took its last write, if that is known; zero: it is not.
	PrimaryEnded time.Time
	// Timeout bounds one check; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// VerdictGate lets a plan go on when the standby is proven to hold what the primary holds: a check of the running pair, not older than MaxAge and without unexpected differences. Where there is none
// it makes one; differences fail the step, and resuming checks again. There is nothing to undo.
//
// Without the primary, in an ungraceful plan, it becomes a gate that goes by what the standby alone tells: it is blocked, with the loss in words that somebody can accept, unless nothing can be lost.
func VerdictGate(cfg VerdictGateConfig) (failover.Step, error) {
	c := checks{config: "VerdictGateConfig"}
	p := cfg.Pair.check(&c, false)
	if cfg.Verdicts == nil {
		c.bad("Verdicts is nil", "use engine.Verdicts, or an implementation for another check")
	}
	c.duration("MaxAge", &cfg.MaxAge, DefaultVerdictMaxAge)
	c.duration("Timeout", &cfg.Timeout, failover.DefaultTimeout)
	for _, n := range []struct {
		field string
		value int
	}{{"Missed", cfg.Missed}, {"Surplus", cfg.Surplus}, {"Different", cfg.Different}} {
		if n.value < 0 {
			c.bad(fmt.Sprintf("%s is %d", n.field, n.value), "use the number of differences that are expected, or 0")
		}
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	v := &verdict{cfg: cfg, pair: p}
	return failover.Funcs{
		Name:        orDefault(cfg.Name, NameVerdict),
		Description: v.describe("Check that the standby holds what the primary holds, unless a check of the last "+cfg.MaxAge.String()+" has shown it", "Nothing to take back: a check changes nothing but its record"),
		Observe:     v.observe, Do: v.do, Undo: withdraw, Timeout: cfg.Timeout,
		Ungraceful: func() failover.Step {
			return failover.Check(orDefault(cfg.Name, NameVerdict), v.alone, v.describe("What is lost if the standby takes over as it is?", ""))
		},
	}.Step(), nil
}

type verdict struct {
	cfg VerdictGateConfig
	*pair
}

func (v *verdict) describe(action, undo string) failover.Description {
	ended := ""
	if !v.cfg.PrimaryEnded.IsZero() {
		ended = v.cfg.PrimaryEnded.UTC().Format(time.RFC3339Nano)
	}
	return failover.Description{Action: action, Undo: undo, Reference: v.cfg.Reference, Inputs: struct {
		Pair         pairInputs `json:"pair"`
		MaxAge       string     `json:"maxAge"`
		Missed       int        `json:"missed"`
		Surplus      int        `json:"surplus"`
		Different    int        `json:"different"`
		KeysOnly     bool       `json:"keysOnly,omitempty"`
		PrimaryEnded string     `json:"primaryEnded,omitempty"`
	}{v.inputs, v.cfg.MaxAge.String(), v.cfg.Missed, v.cfg.Surplus, v.cfg.Different, v.cfg.KeysOnly, ended}}
}

const keyOutcome = "outcome"

// green reports whether an outcome lets the plan go on; else why not.
func (v *verdict) green(o Outcome, sourceID string) (bool, string) {
	age := time.Since(o.Began)
	switch {
	case o.SourceClusterID != "" && sourceID != "" && o.SourceClusterID != sourceID:
		return false, fmt.Sprintf("the check was of primary %s, the mirror's is %s", o.SourceClusterID, sourceID)
	case o.Missed > v.cfg.Missed || o.Surplus > v.cfg.Surplus || o.Different > v.cfg.Different:
		return false, fmt.Sprintf("the check of %s found %s", stamp(o.Began), o.counts())
	case !o.Content && !v.cfg.KeysOnly:
		return false, fmt.Sprintf("the check of %s compared no values", stamp(o.Began))
	case age < 0:
		return false, fmt.Sprintf("the check of %s lies in the future: the clocks of its host and of this one disagree", stamp(o.Began))
	case age > v.cfg.MaxAge:
		return false, fmt.Sprintf("the last check, of %s, is older than %v", stamp(o.Began), v.cfg.MaxAge)
	}
	return true, fmt.Sprintf("the check of %s, at the primary's revision %d, found %s", stamp(o.Began), o.SourceRevision, o.counts())
}

func (v *verdict) observe(ctx context.Context) (failover.Observation, error) {
	if is, err := withdrawn(ctx); err != nil {
		return failover.Observation{}, err
	} else if is {
		return pending("to be checked again: the plan was undone"), nil
	}
	if v.Primary == nil {
		return blocked("there is no client of the primary to compare with: set Pair.Primary, or use an ungraceful plan"), nil
	}
	st, err := v.state(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if _, err := v.primaryHead(ctx, st); err != nil {
		return failover.Observation{}, err
	}
	switch {
	case st.Phase == PhaseNone:
		return blocked("the standby knows no mirror %s: check the name and that the endpoints are the standby's", v.Mirror), nil
	case st.Phase == PhasePromoted:
		return blocked("the standby is promoted already, in epoch %d: it is nobody's standby", st.Epoch), nil
	case st.Tripped:
		return blocked("the guard against mass deletion has stopped mirror %s: approve the deletion, or find out what it is about", v.Mirror), nil
	case st.Phase != PhaseTail:
		return blocked("mirror %s is in phase %s: the standby equals no revision of the primary yet", v.Mirror, st.Phase), nil
	}
	last, err := v.last(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if last == nil {
		return pending("no check has been made"), nil
	}
	ok, seen := v.green(*last, st.SourceClusterID)
	if !ok {
		return pending("%s", seen), nil
	}
	return done("%s", seen), nil
}

// last is the newest outcome that is known, of those in the standby and this step's own.
func (v *verdict) last(ctx context.Context) (*Outcome, error) {
	standing, _, err := v.cfg.Verdicts.Standing(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the verdict: %w", err)
	}
	var own Outcome
	known := []*Outcome{standing.LastEqual, standing.LastDiffers}
	if v.cfg.KeysOnly {
		known = append(known, standing.LastEqualKeys)
	}
	ok, err := failover.Load(ctx, keyOutcome, &own)
	if err != nil {
		return nil, err
	}
	if ok {
		known = append(known, &own)
	}
	var last *Outcome
	for _, o := range known {
		if o != nil && (last == nil || o.SourceRevision > last.SourceRevision || o.SourceRevision == last.SourceRevision && o.Began.After(last.Began)) {
			last = o
		}
	}
	return last, nil
}

func (v *verdict) do(ctx context.Context) error {
	if err := begins(ctx); err != nil {
		return err
	}
	o, err := v.cfg.Verdicts.Check(ctx)
	if err != nil {
		return fmt.Errorf("checking: %w", err)
	}
	if err := failover.Save(ctx, keyOutcome, o); err != nil {
		return err
	}
	failover.Note(ctx, fmt.Sprintf("checked at the primary's revision %d: %s", o.SourceRevision, o.counts()))
	if ok, seen := v.green(o, ""); !ok {
		return failover.Permanent(fmt.Errorf("%s: look at the check's report, repair, and resume", seen))
	}
	return nil
}

// alone is the gate for a plan without the primary.
func (v *verdict) alone(ctx context.Context) (failover.Observation, error) {
	s, found, err := v.cfg.Verdicts.Standing(ctx)
	switch {
	case err != nil:
		return failover.Observation{}, fmt.Errorf("reading the verdict: %w", err)
	case !found:
		return blocked("the standby knows no mirror %s: check the name and that the endpoints are the standby's", v.Mirror), nil
	case s.Phase == PhaseArmed:
		return blocked("mirror %s was demoted and has not run since: the standby tells nothing of a primary", v.Mirror), nil
	}
	loss := v.loss(s)
	if loss == "" {
		return done("the standby holds all that the primary committed until its end at %s: revision %d", stamp(v.cfg.PrimaryEnded), s.AppliedRevision), nil
	}
	proven := "no check of keys and values has found the two equal"
	if s.LastEqual != nil {
		proven = fmt.Sprintf("last proven equal at %s, at the primary's revision %d", stamp(s.LastEqual.Began), s.LastEqual.SourceRevision)
	}
	return failover.Observation{State: failover.Blocked, Loss: loss,
		Detail: fmt.Sprintf("the standby holds the primary's revision %d of %d seen; %s", s.AppliedRevision, s.SourceHead, proven)}, nil
}

// loss says what is lost at most; "" if nothing can be. It reads the same as long as the standby tells the same.
func (v *verdict) loss(s Standing) string {
	var lost []string
	add := func(format string, args ...any) { lost = append(lost, fmt.Sprintf(format, args...)) }
	exact := s.Complete || s.Phase == PhasePartial
	switch {
	case !exact:
		add("the copy was not complete: the standby equals no revision of the primary, keys may be missing, stale, or deleted long ago")
	case s.MissingRevisions > 0:
		add("%s that the mirror saw and did not apply", plural(s.MissingRevisions, "revision"))
	}
	switch ended := v.cfg.PrimaryEnded; {
	case s.HoldsUntil.IsZero():
		add("no moment is known at which the standby held everything")
	case ended.IsZero():
		add("what the primary committed after %s", stamp(s.HoldsUntil))
	case ended.After(s.HoldsUntil):
		add("what the primary committed from %s to its end at %s", stamp(s.HoldsUntil), stamp(ended))
	}
	if s.Tripped {
		add("a mass deletion that the guard has stopped")
	}
	if s.Guarded > 0 {
		add("the values of %s that the mirror kept away", plural(s.Guarded, "key"))
	}
	switch {
	case s.Unlisted:
		add("more than %s changed at the standby by others", plural(s.Drifted, "key"))
	case s.Drifted > 0:
		add("%s changed at the standby by others", plural(s.Drifted, "key"))
	}
	if d := s.LastDiffers; d != nil && (s.LastEqual == nil || d.SourceRevision > s.LastEqual.SourceRevision) &&
		(d.Missed > v.cfg.Missed || d.Surplus > v.cfg.Surplus || d.Different > v.cfg.Different) {
		add("what the last check, of %s, found: %s", stamp(d.Began), d.counts())
	}
	if len(lost) == 0 {
		return ""
	}
	return "at most: " + strings.Join(lost, "; ")
}
