package drcheck

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// CheckRecord is what checks leave at the target, as JSON under /understudy/<name>/check, so that ReadVerdict knows of them when the source is dead.
// A checker replaces an outcome by a newer one of the same kind only, and writes nothing to a target that was promoted.
type CheckRecord struct {
	Version int `json:"v"`
	// SourceClusterID, Epoch, CheckpointCreated (the target revision that made the checkpoint's key), KeepID and TransformID are those of the mirror that was checked.
	// The record of another mirror, or of another life of this one, tells nothing.
	SourceClusterID   string `json:"sourceClusterID"`
	Epoch             int64  `json:"epoch"`
	CheckpointCreated int64  `json:"checkpointCreated"`
	KeepID            string `json:"keepID,omitempty"`
	TransformID       string `json:"transformID,omitempty"`
	// LastEqual is the newest check that found keys and values equal, LastEqualKeys the newest that compared keys only and found them equal,
	// LastDiffers the newest of either mode that found a difference; nil: none has.
	LastEqual     *CheckOutcome `json:"lastEqual,omitempty"`
	LastEqualKeys *CheckOutcome `json:"lastEqualKeys,omitempty"`
	LastDiffers   *CheckOutcome `json:"lastDiffers,omitempty"`
}

// CheckOutcome is what one check found. The fields are those of its Result.
type CheckOutcome struct {
	Equal bool `json:"equal"`
	Mode  Mode `json:"mode"`
	// Began and Ended are by the clock of the checker's host.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// SourceRevision is the source's revision at Began: if Equal, the target was proven to hold what the source held then.
	SourceRevision int64 `json:"sourceRevision"`
	TargetRevision int64 `json:"targetRevision"`
	// Keys is how many of the source's took part.
	Keys int `json:"keys"`
	// Count is how many differed, and how many differences were accepted.
	Count
}

// newer orders checks by the revisions they began at, which unlike clocks are the same for every checker.
func (o *CheckOutcome) newer(than *CheckOutcome) bool {
	return cmp.Or(cmp.Compare(o.SourceRevision, than.SourceRevision), cmp.Compare(o.TargetRevision, than.TargetRevision), o.Ended.Compare(than.Ended)) > 0
}

// note takes in an outcome and reports whether it changed the record.
func (r *CheckRecord) note(o *CheckOutcome) bool {
	kind := &r.LastDiffers
	switch {
	case o.Equal && o.Mode == KeysOnly:
		kind = &r.LastEqualKeys
	case o.Equal:
		kind = &r.LastEqual
	}
	if *kind != nil && !o.newer(*kind) {
		return false
	}
	*kind = o
	return true
}

// Verdict is what a standby alone can tell about itself and its primary, dead or alive. Times of the mirror are by the clock of its host.
type Verdict struct {
	MirrorState
	// Now is when the verdict was read, by the clock of this host.
	Now time.Time `json:"now"`
	// Promoted is set when the target was promoted: then AppliedRevision and all else is what the mirror had left.
	Promoted bool `json:"promoted"`
	// Complete is set when the target equals, or when it was promoted equalled, the source at exactly AppliedRevision, but for the keys counted below.
	// It is not while a base copy or resync, or a source revision too large for one transaction, is being written.
	Complete bool `json:"complete"`
	// MissingRevisions is how many source revisions the mirror saw and did not apply. Not all of them need to hold keys that take part.
	MissingRevisions int64 `json:"missingRevisions"`
	// Keys is how many keys the mirror holds at the target.
	Keys int64 `json:"keys"`
	// Foreign is how many keys of the kept space the target's own cluster made, Guarded how many have a value at the source that the mirror kept away,
	// Drifted how many others changed or deleted at the target.
	Foreign int `json:"foreign"`
	Guarded int `json:"guarded"`
	Drifted int `json:"drifted"`
	// DriftUnlisted is set when more keys have drifted than Drifted counts, or when deletions during a copy have not been looked for.
	DriftUnlisted bool `json:"driftUnlisted,omitempty"`
	// Tripped is set when the mirror's guard against mass deletion had stopped it: AppliedRevision stays behind until somebody approves.
	Tripped bool `json:"tripped,omitempty"`
	// HoldsUntil is the latest moment of which it is known that all that the source had committed by then is at the target, but for the keys counted above; zero: there is none.
	// HoldsBy says where that is known from: see the By constants.
	HoldsUntil time.Time `json:"holdsUntil,omitzero"`
	HoldsBy    HoldsBy   `json:"holdsBy,omitempty"`
	// LastEqual, LastEqualKeys and LastDiffers are the newest outcomes of checks; see CheckRecord. nil: none is known.
	LastEqual     *CheckOutcome `json:"lastEqual,omitempty"`
	LastEqualKeys *CheckOutcome `json:"lastEqualKeys,omitempty"`
	LastDiffers   *CheckOutcome `json:"lastDiffers,omitempty"`
	// ChecksUnreadable is set when there is a record of checks that this version cannot read.
	ChecksUnreadable bool `json:"checksUnreadable,omitempty"`
}

// HoldsBy says where Verdict.HoldsUntil is known from.
type HoldsBy string

const (
	// ByMirror: the mirror had applied all that the source had when they last were in contact.
	ByMirror HoldsBy = "mirror"
	// ByHistory: the mirror was behind, but an earlier checkpoint, which the target's etcd has not compacted yet, tells of a source revision that is applied now.
	ByHistory HoldsBy = "history"
	// ByCheck: a check saw the source, by the clock of the checker's host.
	ByCheck HoldsBy = "check"
)

// ReadVerdict reads what the target tells about the named mirror and its source. It needs no source, and writes nothing.
// ErrConfig, ErrNoMirror, ErrMetadata, ErrUnreachable or ErrPermission.
func ReadVerdict(ctx context.Context, target *clientv3.Client, name string) (*Verdict, error) {
	if target == nil {
		return nil, &Error{Kind: ErrConfig, Detail: "target client is nil", Hint: "pass a clientv3 client"}
	}
	if err := validateName(name); err != nil {
		return nil, err
	}
	view, err := readMirror(ctx, target, DefaultRequestTimeout, name)
	if err != nil {
		return nil, err
	}
	v := view.verdict()
	if err := v.findHolds(view, func() (time.Time, error) { return earlierHead(ctx, target, view) }); err != nil {
		return nil, err
	}
	v.Now = time.Now().UTC()
	return v, nil
}

// verdict is what the view tells by itself.
func (m *mirrorView) verdict() *Verdict {
	checks := m.checks()
	return &Verdict{MirrorState: m.MirrorState, Promoted: m.Phase == phasePromoted, Complete: m.exact() && m.Phase != phasePartial,
		MissingRevisions: max(m.SourceHead-m.AppliedRevision, 0), Keys: m.keys,
		Foreign: len(m.foreign), Guarded: len(m.guarded), Drifted: len(m.drifted), DriftUnlisted: m.unlisted || m.unscanned, Tripped: m.tripped,
		LastEqual: checks.LastEqual, LastEqualKeys: checks.LastEqualKeys, LastDiffers: checks.LastDiffers, ChecksUnreadable: m.checkUnknown != nil}
}

// findHolds finds HoldsUntil. It rests on facts of one form: at this time the source was at this revision. If the target holds that revision, it holds all that was committed by that time.
//
// While the target equals a revision, the facts are the checkpoint's SourceHeadAt, that of earlier checkpoints, and the beginnings of checks. AppliedAt is none: a mirror that is catching up
// writes checkpoints now for what the source did hours ago. While a copy is being written there is no such revision, and what is known is what a check has seen with its own eyes.
func (v *Verdict) findHolds(m *mirrorView, earlier func() (time.Time, error)) error {
	fact := func(at time.Time, by HoldsBy) {
		if at.After(v.HoldsUntil) {
			v.HoldsUntil, v.HoldsBy = at, by
		}
	}
	if v.LastEqual != nil {
		fact(v.LastEqual.Began, ByCheck)
	}
	if !m.exact() {
		return nil
	}
	for _, o := range []*CheckOutcome{v.LastEqualKeys, v.LastDiffers} {
		if o != nil && o.SourceRevision <= v.AppliedRevision {
			fact(o.Began, ByCheck)
		}
	}
	if v.MissingRevisions == 0 {
		fact(v.SourceHeadAt, ByMirror)
		return nil
	}
	at, err := earlier()
	fact(at, ByHistory)
	return err
}

// earlierHead looks for the last checkpoint whose SourceHead is applied by now, and returns its SourceHeadAt; zero if the target's etcd has none any more.
// Within an epoch the head never falls, so the search halves the target's revisions.
func earlierHead(ctx context.Context, target *clientv3.Client, m *mirrorView) (at time.Time, err error) {
	epoch := m.emptyRecord().Epoch
	low, high := m.checkpointCreated-1, m.checkpointRevision // at low the head is applied or nothing is known, at high it is not
	for high-low > 1 {
		mid := low + (high-low)/2
		then, err := readCheckpoint(ctx, target, DefaultRequestTimeout, m.Name, mid)
		switch {
		case err != nil && etcdrpc.Classify(err) == etcdrpc.Compacted:
			low = mid
		case err != nil:
			return time.Time{}, err
		case then.Epoch < epoch:
			low = mid
		case then.SourceHead <= m.AppliedRevision:
			at, low = then.SourceHeadAt, mid
		default:
			high = max(then.checkpointRevision, low+1)
		}
	}
	return at, nil
}

// Loss is what is lost at most if the source is.
type Loss struct {
	// Revisions is how many source revisions the mirror saw and did not apply: these are missing for certain, though not all need to hold keys that take part.
	// What the source did after the mirror last heard of it comes on top, and cannot be counted.
	Revisions int64 `json:"revisions"`
	// Since bounds the loss in time: nothing that the source had committed by then is lost. Zero: no such moment is known, everything may be.
	Since time.Time `json:"since,omitzero"`
	// Window is how long before the disaster that is: what the source committed within it may be lost. 0 if Since is zero or after the disaster.
	Window time.Duration `json:"window"`
}

// Loss says what is lost at most if the source took its last write at the time of the disaster; the zero time stands for Now.
//
// Since is HoldsUntil, the bound that holds whether the mirror was behind or not. If it had applied all it saw, Since is when it last heard of the source; if not, the time at which the source's
// revision is known to have been one that is applied now. AppliedAt is no bound: a mirror that is catching up writes
// checkpoints now for what the source did hours ago. Three things limit what Since promises: it is by the clock of the mirror's host, or the checker's
// (HoldsBy), so that Window is as wrong as that clock is against the disaster's; what the mirror heard may be older by the time that the answer took, and by what the answering member
// of the source lagged behind the others, usually milliseconds; and it is about the mirror's own writing, not about the marked keys, or what others did at the target since.
func (v *Verdict) Loss(disaster time.Time) Loss {
	if disaster.IsZero() {
		disaster = v.Now
	}
	l := Loss{Revisions: v.MissingRevisions, Since: v.HoldsUntil}
	if !l.Since.IsZero() {
		l.Window = max(disaster.Sub(l.Since), 0)
	}
	return l
}

// WriteText writes the verdict for an operator: first what is lost at most, last what the verdict cannot know.
func (v *Verdict) WriteText(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Mirror %q, as the standby's etcd tells it at %s", v.Name, stamp(v.Now))
	line("%s", v.summary())
	line("\nState\n  %s", v.state())
	if v.Phase != phaseArmed {
		line("  Phase %s, epoch %d, %s, saved at %s.", v.Phase, v.Epoch, plural(v.Keys, "key"), v.when(v.AppliedAt))
		line("  The mirror last heard of the primary at %s: revision %d.", v.when(v.SourceHeadAt), v.SourceHead)
	}
	if v.Tripped {
		line("  The guard against mass deletion stopped the mirror: the standby has keys that the primary deleted.")
	}
	for _, set := range []struct {
		n    int
		what string
	}{
		{v.Guarded, "guarded: the mirror kept the primary's value away, the standby has an older one or none"},
		{v.Foreign, "foreign: made by the standby's own cluster"},
		{v.Drifted, "drifted: changed or deleted at the standby by others"},
	} {
		if set.n > 0 {
			line("  %d %s", set.n, set.what)
		}
	}
	if v.DriftUnlisted {
		line("  more may have drifted than is counted")
	}
	v.writeLoss(line)
	v.writeChecks(line)
	v.writeLimits(line)
	_, err := io.WriteString(w, b.String())
	return err
}

// summary is the verdict in one line.
func (v *Verdict) summary() string {
	if v.Phase == phaseArmed {
		return "The standby was promoted and made a standby again, and no mirror has run since: it tells nothing of a primary."
	}
	proven := "never proven equal"
	if v.LastEqual != nil {
		proven = "last proven equal at " + stamp(v.LastEqual.Began)
	}
	lost := "an unknown time of its writes"
	if !v.HoldsUntil.IsZero() {
		lost = "what it wrote after " + v.when(v.HoldsUntil)
	}
	return fmt.Sprintf("If the primary is gone, at most %s and %s are lost; %s.", plural(v.MissingRevisions, "known revision"), lost, proven)
}

func (v *Verdict) state() string {
	marked := ""
	if v.Guarded+v.Foreign+v.Drifted > 0 || v.DriftUnlisted {
		marked = ", but for the keys counted below"
	}
	right := ""
	if v.AppliedRevision > 0 {
		right = fmt.Sprintf(" Right is only what the primary has not changed since revision %d.", v.AppliedRevision)
	}
	switch {
	case v.Phase == phaseArmed:
		return "The next mirror compares everything with its source."
	case v.Promoted && v.Complete:
		return fmt.Sprintf("The standby was promoted: no mirror writes to it any more. It held exactly what the primary held at revision %d%s.", v.AppliedRevision, marked)
	case v.Promoted:
		return "The standby was promoted: no mirror writes to it any more. It was being copied to, or a part of a large revision was written: it equalled no revision." + right
	case v.Complete:
		return fmt.Sprintf("The standby holds exactly what the primary held at revision %d%s.", v.AppliedRevision, marked)
	case v.Phase == phasePartial:
		return fmt.Sprintf("The standby holds what the primary held at revision %d, and a part of the next revision, which was too large for one transaction.", v.AppliedRevision)
	}
	return "The standby is being copied to: it equals no revision, and keys may be missing, stale, or deleted at the primary long ago." + right
}

func (v *Verdict) writeLoss(line func(string, ...any)) {
	if v.Phase == phaseArmed {
		return
	}
	line("\nLost with the primary, at most")
	exact := v.Complete || v.Phase == phasePartial
	switch {
	case v.MissingRevisions == 0:
		line("  no revision that the mirror saw")
	case exact:
		line("  %s after revision %d, which the mirror saw and did not apply (not all need to hold keys that are mirrored)", plural(v.MissingRevisions, "revision"), v.AppliedRevision)
	default:
		line("  what the copy had not brought yet of the %s after revision %d that the mirror saw", plural(v.MissingRevisions, "revision"), v.AppliedRevision)
	}
	switch from := map[HoldsBy]string{ByMirror: "the mirror's last contact", ByHistory: "by an earlier checkpoint", ByCheck: "by a check"}[v.HoldsBy]; {
	case !v.HoldsUntil.IsZero():
		line("  what the primary wrote after %s (%s): %s until now, less if it failed earlier", stamp(v.HoldsUntil), from, upwards(v.Loss(v.Now).Window))
	case exact:
		line("  what the primary wrote after revision %d: when it did so is not known", v.AppliedRevision)
	default:
		line("  what the primary wrote at any time: no moment is known at which the standby held everything")
	}
}

func (v *Verdict) writeChecks(line func(string, ...any)) {
	if v.Phase == phaseArmed {
		return
	}
	line("\nChecks")
	outcome := func(what string, o *CheckOutcome) {
		if o != nil {
			line("  %s at %s, at the primary's revision %d, with %s", what, v.when(o.Began), o.SourceRevision, plural(int64(o.Keys), "key"))
		}
	}
	outcome("last proven equal", v.LastEqual)
	outcome("last proven equal by keys alone, without values,", v.LastEqualKeys)
	outcome("last differed", v.LastDiffers)
	if o := v.LastDiffers; o != nil {
		line("    %d missed, %d surplus, %d different", o.Missed, o.Surplus, o.Different)
		if v.LastEqual == nil || o.newer(v.LastEqual) {
			line("    and not proven equal since")
		}
	}
	if v.LastEqual == nil {
		line("  no check of keys and values has found the two sides equal")
	}
	if v.ChecksUnreadable {
		line("  the record of checks cannot be read by this version")
	}
}

// writeLimits says what nobody can conclude from the verdict.
func (v *Verdict) writeLimits(line func(string, ...any)) {
	line("\nWhat this cannot know")
	if v.Phase == phaseArmed {
		line("  - what the standby's own cluster made of it, and which primary it is to follow")
		return
	}
	line("  - what the primary did after %s; an answer that was on its way then, or a member that lagged behind, makes that a little earlier", stamp(v.SourceHeadAt))
	if v.Promoted {
		line("  - what the standby's own cluster has changed since it was promoted")
	} else {
		line("  - what others changed at the standby after %s: the mirror may not have noted it", stamp(v.AppliedAt))
	}
	if v.Guarded > 0 {
		line("  - what the primary held under %s", plural(int64(v.Guarded), "guarded key"))
	}
	if !v.Complete && v.Phase != phasePartial {
		line("  - which keys are wrong: the copy had not ended")
	}
	line("  - whether the clocks agree: times are by the clock of the mirror's host, those of checks by the checker's, now by this host's")
}

// when is a moment and how long ago it was.
func (v *Verdict) when(t time.Time) string {
	if t.After(v.Now) {
		return fmt.Sprintf("%s (%s ahead of this host's clock)", stamp(t), upwards(t.Sub(v.Now)))
	}
	return fmt.Sprintf("%s (%s ago)", stamp(t), upwards(v.Now.Sub(t)))
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// upwards rounds to whole seconds, never down: what may be lost is not to look less.
func upwards(d time.Duration) string {
	return (d + time.Second - time.Nanosecond).Truncate(time.Second).String()
}
