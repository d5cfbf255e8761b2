package drcheck

import (
	"errors"
	"strings"
)

// Kinds of errors. Test for them with errors.Is; details and a hint are in *Error.
var (
	// ErrConfig: a field of Config or an argument is unusable. Nothing was contacted.
	ErrConfig = errors.New("invalid configuration")
	// ErrUnreachable: an etcd did not answer within the request timeout.
	ErrUnreachable = errors.New("etcd unreachable")
	// ErrPermission: an etcd refused the checker's user.
	ErrPermission = errors.New("permission missing")
	// ErrSameCluster: source and target are one cluster.
	ErrSameCluster = errors.New("source and target are the same cluster")
	// ErrOtherMirror: the target's mirror belongs to another source, other prefixes, another filter or another transformation than the check.
	ErrOtherMirror = errors.New("the mirror is not the one to be checked")
	// ErrNoMirror: the target has no metadata of a mirror with this name.
	ErrNoMirror = errors.New("no such mirror")
	// ErrPromoted: the target was promoted: it is nobody's standby, and is not repaired.
	ErrPromoted = errors.New("target is promoted")
	// ErrMetadata: the mirror's metadata at the target cannot be read by this version.
	ErrMetadata = errors.New("unreadable metadata")
	// ErrTooMany: a repair would delete more keys than its limit.
	ErrTooMany = errors.New("too many deletions")
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
