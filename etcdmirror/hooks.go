package etcdmirror

import (
	"time"

	"github.com/understudy-dr/understudy/internal/hook"
)

// Hooks are called synchronously as things happen, from the mirror's own goroutines, some at the same time: they must be quick, must not block and must be safe for concurrent use.
// A nil func is skipped.
type Hooks struct {
	// State is called when the state or its reason changes.
	State func(StateInfo)
	// Leading is called when this instance begins to lead.
	Leading func(LeadingInfo)
	// Applied is called after each transaction that the target committed.
	Applied func(AppliedInfo)
	// Resync is called when a base copy or resync begins, and why.
	Resync func(ResyncInfo)
	// Guarded is called for each value that a guard or the transformation kept from the target.
	Guarded func(GuardedInfo)
	// Foreign is called for each key of the target's kept space that was found to be the target's own.
	Foreign func(ForeignInfo)
	// Drift is called for each mirrored key that was found to be changed or deleted at the target by others, once more when it was repaired, and when repairing it is given up.
	Drift func(DriftInfo)
	// Lease is called when something unusual happened to a lease, with LeaseMirror.
	Lease func(LeaseInfo)
	// Tripped is called when the guard against mass deletion stops the mirror.
	Tripped func(Trip)
}

// StateInfo is what Hooks.State gets.
type StateInfo struct {
	State  State
	Reason string // why, for StateWaiting and StateStopped
}

// LeadingInfo is what Hooks.Leading gets.
type LeadingInfo struct {
	Replica string
	Waited  time.Duration // for leadership
}

// AppliedInfo is what Hooks.Applied gets.
type AppliedInfo struct {
	SourceRevision int64 // the last source revision it brought to the target; 0 in a base copy or resync
	TargetRevision int64
	Puts, Deletes  int
	Bytes          int  // of keys and values
	Bulk           bool // may hold several keys of one resource
	Part           bool // one part of a source revision too large for the target, and not its last
	Duration       time.Duration

	takeover bool // the beginning of a term, which writes no data
}

// ResyncInfo is what Hooks.Resync gets.
type ResyncInfo struct {
	Base   bool  // no checkpoint existed
	Since  int64 // the source revision up to which the target is known to be right; 0: nothing is known
	Round  int   // 1 for the first; further rounds follow when the source compacted what had to be read
	Reason string
}

// GuardedInfo is what Hooks.Guarded gets.
type GuardedInfo struct {
	Key    string // at the source
	Reason string
}

// ForeignInfo is what Hooks.Foreign gets.
type ForeignInfo struct {
	Key string // at the target
}

// DriftKind says what others did to a mirrored key at the target.
type DriftKind string

const (
	// DriftChanged: its value was overwritten.
	DriftChanged DriftKind = "changed"
	// DriftDeleted: it was deleted.
	DriftDeleted DriftKind = "deleted"
	// DriftReplaced: it was deleted and made again.
	DriftReplaced DriftKind = "replaced"
	// DriftFought: as DriftChanged, but it was repaired so often that somebody keeps changing it back; it is left alone now.
	DriftFought DriftKind = "fought"
	// DriftRepaired: the target has the source's value again. Hooks only.
	DriftRepaired DriftKind = "repaired"
)

// DriftInfo is what Hooks.Drift gets and what Metadata lists.
type DriftInfo struct {
	Key            string // at the target
	Kind           DriftKind
	TargetRevision int64 // of the change, or, in Metadata, of the note about it
}

// LeaseKind says what happened to a lease.
type LeaseKind string

const (
	// LeaseCollided: the target has another lease under the ID; the source's keys get none.
	LeaseCollided LeaseKind = "collided"
	// LeaseLost: it ran out at the target though the source's may live; its keys are put back if so.
	LeaseLost LeaseKind = "lost"
	// LeaseReplaced: it has the source's full time to live now.
	LeaseReplaced LeaseKind = "replaced"
	// LeaseUnread: the source does not tell which keys have it; some may be without at the target.
	LeaseUnread LeaseKind = "unread"
)

// LeaseInfo is what Hooks.Lease gets.
type LeaseInfo struct {
	ID     int64
	Kind   LeaseKind
	Reason string
}

// JoinHooks calls each of several hooks in turn.
func JoinHooks(all ...Hooks) Hooks {
	return Hooks{
		State:   hook.Join(all, func(h Hooks) func(StateInfo) { return h.State }),
		Leading: hook.Join(all, func(h Hooks) func(LeadingInfo) { return h.Leading }),
		Applied: hook.Join(all, func(h Hooks) func(AppliedInfo) { return h.Applied }),
		Resync:  hook.Join(all, func(h Hooks) func(ResyncInfo) { return h.Resync }),
		Guarded: hook.Join(all, func(h Hooks) func(GuardedInfo) { return h.Guarded }),
		Foreign: hook.Join(all, func(h Hooks) func(ForeignInfo) { return h.Foreign }),
		Drift:   hook.Join(all, func(h Hooks) func(DriftInfo) { return h.Drift }),
		Lease:   hook.Join(all, func(h Hooks) func(LeaseInfo) { return h.Lease }),
		Tripped: hook.Join(all, func(h Hooks) func(Trip) { return h.Tripped }),
	}
}
