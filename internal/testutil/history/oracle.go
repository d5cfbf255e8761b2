package history

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// Options say what a mirror is to do, in terms of keys. Source keys are mapped once; all else speaks of target keys.
type Options struct {
	// Keep selects the source keys that are mirrored. nil keeps all.
	Keep func(key []byte) bool
	// MapKey gives the target key of a kept source key; false leaves the key out. nil keeps keys as they are.
	MapKey func(sourceKey string) (targetKey string, ok bool)
	// InTargetSpace selects the target keys that hold the copy. nil selects all but CheckpointKey.
	InTargetSpace func(targetKey string) bool
	// Ignore leaves target keys out of every comparison, such as those that the target's own cluster made. nil leaves out none.
	Ignore func(targetKey string) bool
	// Foreign tells target revisions that the mirror did not write. What they put is compared at the next checkpoint but
	// not held against the mirror's order. nil means that the mirror wrote all.
	Foreign func(targetRev int64) bool
	// Equal tells whether a target's put holds what the source's put holds. nil compares the values.
	Equal func(source, target *Event) bool

	// CheckpointKey is the target key that Decode reads.
	CheckpointKey string
	// Decode reads a checkpoint: the source revision that the target holds, and whether it holds exactly that
	// (false while a base copy or resync runs); ok is false for what cannot be read.
	Decode func(value []byte) (sourceRev int64, consistent bool, ok bool)
	// Epoch reads the epoch from a checkpoint; the source revision may go back with a new epoch only. nil knows one epoch.
	Epoch func(value []byte) int64
}

// Kind is the kind of a violation.
type Kind string

const (
	KindNoCheckpoint    Kind = "no consistent checkpoint was ever written: nothing was checked"
	KindBadCheckpoint   Kind = "the checkpoint cannot be read"
	KindGone            Kind = "the checkpoint was deleted"
	KindAhead           Kind = "the checkpoint is ahead of what the source's recorder has seen"
	KindMissed          Kind = "the key is in the source and not in the target"
	KindSurplus         Kind = "the key is in the target and not in the source"
	KindDifferent       Kind = "the key differs from the source"
	KindOwnerAbsent     Kind = "the object was put before an owner that lives in the source"
	KindOverwritten     Kind = "the object was overwritten by another incarnation of its key"
	KindUnknownValue    Kind = "the source never held what was put, between this checkpoint and the one before"
	KindRevisionBack    Kind = "the checkpoint's source revision went back within one epoch"
	KindEpochBack       Kind = "the checkpoint's epoch went back"
	KindNotCheckpointed Kind = "data changed in a consistent phase without the checkpoint"
)

// Violation is one broken promise. It never holds a value.
type Violation struct {
	Kind      Kind
	TargetRev int64  // where it shows
	SourceRev int64  // of the checkpoint that it is judged by; 0: none
	Key       string // of the target; "": none
	Detail    string // names another key or revision; may be empty
}

func (v Violation) String() string {
	s := fmt.Sprintf("target revision %d, source revision %d, key %q: %s", v.TargetRev, v.SourceRev, v.Key, v.Kind)
	if v.Detail != "" {
		s += " (" + v.Detail + ")"
	}
	return s
}

// maxViolations are listed; more are counted.
const maxViolations = 20

// ViolationsError lists what a check found.
type ViolationsError struct {
	Check      string
	Violations []Violation // the first ones
	Total      int
}

func (e *ViolationsError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d violations", e.Check, e.Total)
	for _, v := range e.Violations {
		b.WriteString("\n\t" + v.String())
	}
	if more := e.Total - len(e.Violations); more > 0 {
		fmt.Fprintf(&b, "\n\tand %d more", more)
	}
	return b.String()
}

func (e *ViolationsError) add(v Violation) {
	if e.Total++; len(e.Violations) < maxViolations {
		e.Violations = append(e.Violations, v)
	}
}

func (e *ViolationsError) result() error {
	if e.Total == 0 {
		return nil
	}
	return e
}

// CheckAll runs CheckPrefixConsistency, CheckOrder and CheckCheckpoints.
func CheckAll(source, target *Recorder, o Options) error {
	return errors.Join(CheckPrefixConsistency(source, target, o), CheckOrder(source, target, o), CheckCheckpoints(target, o))
}

// mapped is the target key of a source key; false for keys that are not mirrored.
func (o *Options) mapped(sourceKey string) (string, bool) {
	if o.Keep != nil && !o.Keep([]byte(sourceKey)) {
		return "", false
	}
	if o.MapKey != nil {
		return o.MapKey(sourceKey)
	}
	return sourceKey, true
}

// compared tells the target keys that hold the mirror's copy.
func (o *Options) compared(targetKey string) bool {
	if targetKey == o.CheckpointKey || (o.Ignore != nil && o.Ignore(targetKey)) {
		return false
	}
	return o.InTargetSpace == nil || o.InTargetSpace(targetKey)
}

func (o *Options) foreign(targetRev int64) bool { return o.Foreign != nil && o.Foreign(targetRev) }

func (o *Options) equal(source, target *Event) bool {
	if o.Equal != nil {
		return o.Equal(source, target)
	}
	return source.Value.Equal(target.Value)
}

// checkpoint is one write of the checkpoint key.
type checkpoint struct {
	targetRev, sourceRev, epoch int64
	consistent                  bool
	bad                         Kind // "": readable
}

// checkpoints reads the checkpoint key's history.
func (o *Options) checkpoints(target *Recorder) []checkpoint {
	var out []checkpoint
	for _, rev := range target.Revisions() {
		for i := range rev.Events {
			e := &rev.Events[i]
			if e.Key != o.CheckpointKey {
				continue
			}
			c := checkpoint{targetRev: rev.Rev}
			value, whole := e.Value.Bytes()
			switch {
			case e.Delete:
				c.bad = KindGone
			case !whole:
				c.bad = KindBadCheckpoint // larger than Config.HashOver
			default:
				var ok bool
				if c.sourceRev, c.consistent, ok = o.Decode(value); !ok {
					c.bad, c.consistent = KindBadCheckpoint, false
				} else if o.Epoch != nil {
					c.epoch = o.Epoch(value)
				}
			}
			out = append(out, c)
		}
	}
	return out
}

// sourceIndex finds the source's events of a target key.
type sourceIndex map[string][]*Event

func (o *Options) index(source *Recorder) sourceIndex {
	x := sourceIndex{}
	for _, rev := range source.Revisions() {
		for i := range rev.Events {
			if key, ok := o.mapped(rev.Events[i].Key); ok {
				x[key] = append(x[key], &rev.Events[i])
			}
		}
	}
	return x
}

// during calls yield for the puts of a key that were its state at some revision from lo to hi.
func (x sourceIndex) during(key string, lo, hi int64, yield func(*Event)) {
	events := x[key]
	// The first event that may matter is the last one at or before lo.
	i := sort.Search(len(events), func(i int) bool { return events[i].Mod > lo })
	for i = max(0, i-1); i < len(events) && events[i].Mod <= hi; i++ {
		if !events[i].Delete {
			yield(events[i])
		}
	}
}
