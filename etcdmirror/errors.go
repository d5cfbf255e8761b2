package etcdmirror

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// Kinds of errors. Test for them with errors.Is; details and a hint are in *Error.
var (
	// ErrConfig: a field of Config or an argument is unusable. Nothing was contacted.
	ErrConfig = errors.New("invalid configuration")
	// ErrUnreachable: an etcd did not answer within the request timeout when Run began.
	ErrUnreachable = errors.New("etcd unreachable")
	// ErrPermission: an etcd refused the mirror's user.
	ErrPermission = errors.New("permission missing")
	// ErrSameCluster: source and target are one cluster.
	ErrSameCluster = errors.New("source and target are the same cluster")
	// ErrSwapped: the source is itself the standby of the target: the direction is swapped.
	ErrSwapped = errors.New("source is a standby of the target")
	// ErrSourceChanged: the checkpoint belongs to another source cluster.
	ErrSourceChanged = errors.New("another source cluster")
	// ErrSourceRewound: the source's revision is below the checkpoint: it was restored from a backup.
	ErrSourceRewound = errors.New("source rewound")
	// ErrPrefixChanged: the checkpoint belongs to other prefixes.
	ErrPrefixChanged = errors.New("prefixes changed")
	// ErrFenced: the target was promoted, or the mirror's metadata was removed; every write of this instance is refused.
	ErrFenced = errors.New("fenced")
	// ErrPromoted: the target was promoted and is nobody's standby until Demote.
	ErrPromoted = errors.New("target is promoted")
	// ErrNotPromoted: the target is not promoted, so it cannot be demoted.
	ErrNotPromoted = errors.New("target is not promoted")
	// ErrNoMirror: the target has no metadata of a mirror with this name.
	ErrNoMirror = errors.New("no such mirror")
	// ErrIncomplete: the base copy or a resync has not finished, so the target equals no single revision of the source.
	ErrIncomplete = errors.New("copy incomplete")
	// ErrMetadata: the mirror's metadata at the target cannot be read by this version.
	ErrMetadata = errors.New("unreadable metadata")
	// ErrNotTripped: the guard against mass deletion has not stopped the mirror.
	ErrNotTripped = errors.New("nothing to approve")
	// ErrStopped: Run has returned.
	ErrStopped = errors.New("mirror stopped")
	// ErrAlreadyRun: Run was called before; make a new Mirror.
	ErrAlreadyRun = errors.New("run called twice")
)

// Error says what went wrong, where, and what to do about it.
type Error struct {
	Kind   error  // one of the Err variables
	Side   string // "source", "target" or ""
	Detail string // what was found
	Hint   string // what to do
	Cause  error  // what an etcd answered, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Side != "" {
		b.WriteString(e.Side + ": ")
	}
	b.WriteString(e.Kind.Error())
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// FencedError is returned when the target refuses a mirror's writes for good. It matches ErrFenced, and ErrPromoted when a promotion was the reason.
type FencedError struct {
	Name    string // the mirror
	Epoch   int64  // the epoch this instance wrote in
	Current int64  // the epoch found at the target
	// Promoted is set when the target was promoted; otherwise the metadata was removed.
	Promoted bool
}

func (e *FencedError) Error() string {
	if e.Promoted {
		return fmt.Sprintf("fenced: target was promoted in epoch %d, mirror %q wrote in epoch %d; it must not be started again before the roles are settled (see Demote)", e.Current, e.Name, e.Epoch)
	}
	return fmt.Sprintf("fenced: the metadata of mirror %q was removed from the target while it ran; start it again to begin with a base copy", e.Name)
}

// Is makes errors.Is work for ErrFenced and ErrPromoted.
func (e *FencedError) Is(target error) bool {
	return target == ErrFenced || e.Promoted && target == ErrPromoted
}

// noSpace says what to do about a full database.
const noSpace = "database space exceeded: compact and defragment it or raise --quota-backend-bytes, then disarm the NOSPACE alarm"

// explain is an error's text in the words of an operator, where etcd's own are too short.
func explain(err error) string {
	switch etcdrpc.Classify(err) {
	case etcdrpc.NoSpace:
		return noSpace
	case etcdrpc.Denied:
		return fmt.Sprintf("%v; check user, password, client certificate and role", err)
	}
	text := err.Error()
	if strings.Contains(text, "no leader") {
		return text + ": most of its members are down or cut off"
	}
	return cmp.Or(text, "unknown error")
}
