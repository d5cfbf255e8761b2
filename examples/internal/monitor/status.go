package monitor

import (
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// statusView is etcdmirror.Status in JSON. What mirror status tells as well has the same name there.
type statusView struct {
	Name    string           `json:"name"`
	State   etcdmirror.State `json:"state"`
	Reason  string           `json:"reason,omitempty"`
	Leading bool             `json:"leading"`
	Leader  string           `json:"leader"`
	Epoch   int64            `json:"epoch"`

	AppliedRevision  int64      `json:"appliedRevision"`
	SavedRevision    int64      `json:"savedRevision"`
	SourceHead       int64      `json:"sourceHead"`
	MissingRevisions int64      `json:"missingRevisions"`
	LagSeconds       float64    `json:"lagSeconds"`
	SourceContactAt  *time.Time `json:"sourceContactAt,omitempty"`
	TargetContactAt  *time.Time `json:"targetContactAt,omitempty"`
	TargetRevision   int64      `json:"targetRevision"`
	LastBulkRevision int64      `json:"lastBulkRevision"`

	Copy *copyView `json:"copy,omitempty"`

	Puts         int64 `json:"puts"`
	Deletes      int64 `json:"deletes"`
	Bytes        int64 `json:"bytes"`
	Filtered     int64 `json:"filtered"`
	Transactions int64 `json:"transactions"`
	Splits       int64 `json:"splits"`
	Resyncs      int64 `json:"resyncs"`
	Reconnects   int64 `json:"reconnects"`
	Repairs      int64 `json:"repairs"`
	Fights       int64 `json:"fights"`

	KeysHeld      int64 `json:"keysHeld"`
	LeaseCount    int   `json:"leaseCount"`
	ForeignCount  int   `json:"foreignCount"`
	GuardedCount  int   `json:"guardedCount"`
	DriftCount    int   `json:"driftCount"`
	DriftUnlisted bool  `json:"driftUnlisted,omitempty"`
	Trip          *Trip `json:"trip,omitempty"`

	Check checkView `json:"check"`
}

type copyView struct {
	Round    int        `json:"round"`
	Listed   int        `json:"listed"`
	ToWrite  int        `json:"toWrite"`
	Looked   int        `json:"looked"`
	ToDelete int        `json:"toDelete"`
	Deleted  int        `json:"deleted"`
	BeganAt  *time.Time `json:"beganAt"`
	EndedAt  *time.Time `json:"endedAt,omitempty"`
}

// Trip is etcdmirror.Trip in JSON.
type Trip struct {
	StoppedAt time.Time `json:"stoppedAt"`
	Keys      int64     `json:"keys"`
	Left      int64     `json:"left"`
	NextKey   string    `json:"nextKey"`
}

// NewTrip makes a view of a trip.
func NewTrip(t *etcdmirror.Trip) *Trip {
	return &Trip{StoppedAt: t.At, Keys: t.Keys, Left: t.Left, NextKey: t.Key}
}

func newStatusView(name string, s etcdmirror.Status, leading bool) statusView {
	v := statusView{Name: name, State: s.State, Reason: s.Reason, Leading: leading, Leader: s.Leader, Epoch: s.Epoch,
		AppliedRevision: s.AppliedRevision, SavedRevision: s.SavedRevision, SourceHead: s.SourceRevision, MissingRevisions: s.LagRevisions, LagSeconds: s.LagDuration.Seconds(),
		SourceContactAt: known(s.SourceContact), TargetContactAt: known(s.TargetContact), TargetRevision: s.TargetRevision, LastBulkRevision: s.LastBulkRevision,
		Puts: s.Puts, Deletes: s.Deletes, Bytes: s.Bytes, Filtered: s.Filtered, Transactions: s.Transactions, Splits: s.Splits, Resyncs: s.Resyncs, Reconnects: s.Reconnects,
		Repairs: s.Repairs, Fights: s.Fights,
		KeysHeld: s.Keys, LeaseCount: s.Leases, ForeignCount: s.Foreign, GuardedCount: s.Guarded, DriftCount: s.Drifted, DriftUnlisted: s.Unlisted}
	if c := s.Copy; !c.Began.IsZero() {
		v.Copy = &copyView{c.Round, c.Listed, c.ToWrite, c.Looked, c.ToDelete, c.Deleted, known(c.Began), known(c.Ended)}
	}
	if s.Trip != nil {
		v.Trip = NewTrip(s.Trip)
	}
	return v
}

// known is nil for a time that never was.
func known(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
}
