package etcdmirror

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/hook"
)

// State is what a Mirror is doing.
type State string

const (
	// StateIdle: Run has not been called.
	StateIdle State = "idle"
	// StateStarting: Run checks both sides before its first write.
	StateStarting State = "starting"
	// StateReplica: another instance of this mirror leads; this one waits to take over.
	StateReplica State = "replica"
	// StateBaseCopy: the first copy of the source's kept keys is under way.
	StateBaseCopy State = "base copy"
	// StateResync: the difference to the source is being written, after a compaction or a changed filter.
	StateResync State = "resync"
	// StateCatchingUp: the tail is behind and merges source revisions.
	StateCatchingUp State = "catching up"
	// StateTail: the source is followed live.
	StateTail State = "tail"
	// StateWaiting: nothing moves until something outside changes; the reason says what.
	StateWaiting State = "waiting"
	// StateStopped: Run has returned; the reason says why.
	StateStopped State = "stopped"
)

// Status is a copy of what a Mirror knows. Times are of the mirror's host; zero means never.
type Status struct {
	State  State
	Reason string // for StateWaiting and StateStopped
	Epoch  int64

	// SourceRevision is the highest source revision seen; AppliedRevision the one that the target's kept state equals (0 before the base copy is done).
	// SavedRevision is the applied revision that the checkpoint at the target has; it follows AppliedRevision at once after a change and at intervals otherwise.
	SourceRevision  int64
	AppliedRevision int64
	SavedRevision   int64
	// LagRevisions is the difference; LagDuration is how long the applied revision has been behind the source's.
	LagRevisions int64
	LagDuration  time.Duration
	// SourceContact and TargetContact are when each side last answered.
	SourceContact time.Time
	TargetContact time.Time
	// TargetRevision is that of the mirror's last transaction; LastBulkRevision that of the last one which may hold several keys of one resource.
	TargetRevision   int64
	LastBulkRevision int64

	// Copy tells how far a base copy or resync is.
	Copy CopyStatus

	// Counters since Run began.
	Puts, Deletes int64
	Bytes         int64 // of keys and values written
	Filtered      int64 // source keys and events that the filter dropped
	Transactions  int64 // committed at the target
	Splits        int64 // source revisions applied in parts because the target's limits are smaller
	Resyncs       int64 // base copies and resyncs begun
	Reconnects    int64 // watch streams opened again

	Repairs int64 // keys put back that others had changed or deleted at the target
	Fights  int64 // keys of which repairing was given up

	// Foreign, Guarded and Drifted count the keys that Metadata lists.
	Foreign, Guarded, Drifted int
	// Unlisted is set when more keys have drifted than are listed (10,000).
	Unlisted bool
	// Leases is how many leases the mirror keeps at the target, with LeaseMirror.
	Leases int
	// Keys is how many keys the mirror holds at the target.
	Keys int64
	// Trip is set while the guard against mass deletion stops the mirror.
	Trip *Trip
	// Leader is the replica that writes, as far as this one knows.
	Leader string
}

// CopyStatus is how far a base copy or resync is. Everything is zero before the first.
type CopyStatus struct {
	Round    int // 1 for the first
	Listed   int // kept keys seen at the source in this round
	ToWrite  int // of these, keys that may have to be written
	Looked   int // keys of ToWrite looked at: found equal, gone, waiting for an owner, or on their way to the target
	ToDelete int // keys of the target that the source no longer has
	Deleted  int
	Began    time.Time // this round
	Ended    time.Time // the last round; zero while one is under way
}

// tracker holds the status and wakes those who wait for a revision.
type tracker struct {
	hooks Hooks

	mu      sync.Mutex
	s       Status
	behind  time.Time     // when the applied revision fell behind, zero while it is not
	changed chan struct{} // closed and replaced when applied or state changes
	resume  State         // the state to return to after waiting
	waiters int           // calls of WaitForRevision under way
	leases  *leases       // of this term; nil if leases are dropped
}

func newTracker(hooks Hooks) *tracker {
	return &tracker{hooks: hooks, s: Status{State: StateIdle}, changed: make(chan struct{})}
}

func (t *tracker) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	if s.AppliedRevision > 0 && s.SourceRevision > s.AppliedRevision {
		s.LagRevisions = s.SourceRevision - s.AppliedRevision
		if !t.behind.IsZero() {
			s.LagDuration = time.Since(t.behind)
		}
	}
	return s
}

// keeps notes where leases are kept.
func (t *tracker) keeps(l *leases) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leases = l
}

// leaseCount is how many leases are kept at the target.
func (t *tracker) leaseCount() int {
	t.mu.Lock()
	l := t.leases
	t.mu.Unlock()
	if l == nil {
		return 0
	}
	return l.count()
}

// update changes the status under the lock.
func (t *tracker) update(change func(*Status)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.s)
}

func (t *tracker) setState(state State, reason string) {
	t.mu.Lock()
	if t.s.State == StateStopped || t.s.State == state && t.s.Reason == reason {
		t.mu.Unlock()
		return
	}
	if state == StateWaiting && t.s.State != StateWaiting {
		t.resume = t.s.State
	}
	t.s.State, t.s.Reason = state, reason
	t.wake()
	t.mu.Unlock()
	hook.Call(t.hooks.State, StateInfo{state, reason})
}

// waiting shows why nothing moves; working returns to what was going on.
func (t *tracker) waiting(reason string) { t.setState(StateWaiting, reason) }

func (t *tracker) working() {
	t.mu.Lock()
	waiting, state := t.s.State == StateWaiting, t.resume
	t.mu.Unlock()
	if waiting {
		t.setState(state, "")
	}
}

// reached ends the waiting for a side that answers again.
func (t *tracker) reached(side string) {
	t.mu.Lock()
	waited := t.s.State == StateWaiting && strings.HasPrefix(t.s.Reason, side+":")
	t.mu.Unlock()
	if waited {
		t.working()
	}
}

// head notes a source revision seen.
func (t *tracker) head(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.s.SourceContact = now
	if rev > t.s.SourceRevision {
		t.s.SourceRevision = rev
	}
	if t.behind.IsZero() && t.s.AppliedRevision > 0 && t.s.SourceRevision > t.s.AppliedRevision {
		t.behind = now
	}
}

// applied notes that the target equals the source at rev.
func (t *tracker) applied(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.AppliedRevision = rev
	t.s.SourceRevision = max(t.s.SourceRevision, rev)
	t.behind = time.Time{}
	if t.s.SourceRevision > rev {
		t.behind = time.Now()
	}
	t.wake()
}

func (t *tracker) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// wait returns when done says so, ctx ends, or the mirror has stopped. It calls nudge from time to time.
func (t *tracker) wait(ctx context.Context, done func(Status) bool, nudge func()) error {
	const nudgeInterval = 100 * time.Millisecond
	tick := time.NewTicker(nudgeInterval)
	defer tick.Stop()
	nudge()
	t.mu.Lock()
	t.waiters++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.waiters--
		t.mu.Unlock()
	}()
	for {
		t.mu.Lock()
		s, changed := t.s, t.changed
		t.mu.Unlock()
		if done(s) {
			return nil
		}
		if s.State == StateStopped {
			return &Error{Kind: ErrStopped, Detail: s.Reason}
		}
		select {
		case <-changed:
		case <-tick.C:
			nudge()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// saved notes that the checkpoint at the target has a source revision.
func (t *tracker) saved(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.SavedRevision = rev
	t.wake()
}

// waited reports whether somebody waits for a revision, so that progress is worth saving at once.
func (t *tracker) waited() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiters > 0
}
