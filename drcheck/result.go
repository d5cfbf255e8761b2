package drcheck

import (
	"time"
)

// Class says how a key differs.
type Class string

const (
	// Missed: the key is in the source and not in the target.
	Missed Class = "missed"
	// Surplus: the key is in the target and not in the source.
	Surplus Class = "surplus"
	// Different: both sides have the key, with values that differ.
	Different Class = "different"
)

// Classes lists them in the order of reports.
var Classes = []Class{Missed, Surplus, Different}

// Reason says why a key differs, as far as that can be known.
type Reason string

const (
	// ReasonUnknown: nothing explains the difference.
	ReasonUnknown Reason = ""
	// ReasonInFlight: the source changed the key after the revision that the mirror has applied.
	ReasonInFlight Reason = "in-flight"
	// ReasonCopying: a base copy or resync had not finished when the check ended, so the target equals no revision of the source.
	ReasonCopying Reason = "copying"
	// ReasonGuarded: a guard of the mirror kept the value from the target; Detail has the guard's words.
	ReasonGuarded Reason = "guarded"
	// ReasonOwnerMissing: an owner of the object takes part and is not at the target, so the target's garbage collector deletes the object. Detail names the owner's key.
	ReasonOwnerMissing Reason = "owner-missing"
	// ReasonOwnerExcluded: the filter drops an owner of the object, so the target's garbage collector deletes the object. Detail names the owner's key.
	ReasonOwnerExcluded Reason = "owner-excluded"
	// ReasonMadeAtTarget: the target's own cluster made the key.
	ReasonMadeAtTarget Reason = "made-at-target"
	// ReasonChangedAtTarget: others changed or deleted the key at the target, and the mirror knows it.
	ReasonChangedAtTarget Reason = "changed-at-target"
	// ReasonPromoted: the target was promoted and changes on its own.
	ReasonPromoted Reason = "promoted"
	// ReasonStatus: only the object's status and managed fields differ.
	ReasonStatus Reason = "status"
	// ReasonManagedFields: only the object's managed fields differ.
	ReasonManagedFields Reason = "managed-fields"
	// ReasonExpired: the key has a lease at the source, and ran out at the target.
	ReasonExpired Reason = "expired"
	// ReasonUnreadable: the target's value cannot be read there: damaged, or encrypted with a key that the target's configuration lacks. Detail says which.
	ReasonUnreadable Reason = "unreadable"
)

// Difference is one key that differs.
type Difference struct {
	Class  Class  `json:"class"`
	Reason Reason `json:"reason,omitempty"`
	// Detail explains the reason, such as a guard's words or an owner's key. It never holds a value.
	Detail string `json:"detail,omitempty"`
	// Key is the target's key, SourceKey the source's; they differ under another prefix only.
	Key       string `json:"key"`
	SourceKey string `json:"sourceKey"`
	// SourceRevision and TargetRevision are the mod_revisions of the key on each side when it was last looked at; 0 where it is missing.
	SourceRevision int64 `json:"sourceRevision,omitempty"`
	TargetRevision int64 `json:"targetRevision,omitempty"`
	// Accepted is set where Config.AcceptMadeAtTarget says that this difference is none.
	Accepted bool `json:"accepted,omitempty"`
}

// Mode says what is compared.
type Mode string

const (
	// Content compares keys and values.
	Content Mode = "content"
	// KeysOnly compares keys and transfers no values but of those that differ: it finds no Different.
	KeysOnly Mode = "keys"
)

// Count is how many keys differ, by class, not counting accepted ones.
type Count struct {
	Missed    int `json:"missed"`
	Surplus   int `json:"surplus"`
	Different int `json:"different"`
	// Accepted are those that Config.AcceptMadeAtTarget sets aside.
	Accepted int `json:"accepted,omitempty"`
}

// Total is the number of keys that differ.
func (c Count) Total() int { return c.Missed + c.Surplus + c.Different }

func (c *Count) add(d Difference) {
	switch {
	case d.Accepted:
		c.Accepted++
	case d.Class == Missed:
		c.Missed++
	case d.Class == Surplus:
		c.Surplus++
	case d.Class == Different:
		c.Different++
	}
}

// ResourceCount is the part of one resource.
type ResourceCount struct {
	// Resource is what Config.Resource says of the keys, such as "pods" or "apps/deployments".
	Resource string `json:"resource"`
	// Keys is how many keys of the source take part.
	Keys int `json:"keys"`
	Count
}

// Result is what a check found.
type Result struct {
	Mode  Mode      `json:"mode"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`

	// SourceClusterID and TargetClusterID are hexadecimal, as etcdctl prints them.
	SourceClusterID string `json:"sourceClusterID"`
	TargetClusterID string `json:"targetClusterID"`
	// SourceRevision is the source's revision when the check began. If the result is Equal, the target holds all that the source held then; keys that changed during the check were compared at a later revision.
	SourceRevision int64 `json:"sourceRevision"`
	// TargetRevision is the target's revision when the check began.
	TargetRevision int64 `json:"targetRevision"`
	// Mirror is what the target said of the mirror when the check ended; nil without Config.Name.
	Mirror *MirrorState `json:"mirror,omitempty"`

	// SourceKeys and TargetKeys are the keys that take part, Filtered the source's others. Bytes were read of values.
	SourceKeys int   `json:"sourceKeys"`
	TargetKeys int   `json:"targetKeys"`
	Filtered   int   `json:"filtered"`
	Bytes      int64 `json:"bytes"`
	// Rechecked is how many keys were looked at more than once.
	Rechecked int `json:"rechecked"`

	// Equal is set when nothing differs but what was accepted.
	Equal bool  `json:"equal"`
	Count Count `json:"count"`
	// Resources has one entry for each resource, sorted by name.
	Resources []ResourceCount `json:"resources"`
	// Differences are sorted by class, in the order of Classes, and key. No more than Config.Limit of each class are listed; Count has them all.
	Differences []Difference `json:"differences"`
	// Unlisted is how many differences are not listed.
	Unlisted int `json:"unlisted,omitempty"`
	// Unconfirmed is how many differences were counted without a second look, because there were more than Config.MaxRechecks.
	Unconfirmed int `json:"unconfirmed,omitempty"`
}

// MirrorState is what a target tells of the mirror that writes to it.
type MirrorState struct {
	Name  string `json:"name"`
	Epoch int64  `json:"epoch"`
	// Phase is the checkpoint's: base, resync, tail, partial, promoted or armed.
	Phase string `json:"phase"`
	// AppliedRevision is the source revision that the target's kept state equals in phase tail, saved at AppliedAt.
	AppliedRevision int64     `json:"appliedRevision"`
	AppliedAt       time.Time `json:"appliedAt"`
	// SourceHead is the highest source revision that the mirror has seen, at SourceHeadAt.
	SourceHead   int64     `json:"sourceHead"`
	SourceHeadAt time.Time `json:"sourceHeadAt"`
}
