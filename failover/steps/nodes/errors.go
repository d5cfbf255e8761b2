package nodes

import (
	"errors"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// Kinds of errors of hosts. Test for them with errors.Is; details and a hint are in *Error.
var (
	// ErrUnreachable: there is no connection. Nothing has run.
	ErrUnreachable = errors.New("host unreachable")
	// ErrHostKeyUnknown: no known_hosts file has a key of the host. Nothing has run.
	ErrHostKeyUnknown = errors.New("host key unknown")
	// ErrHostKeyChanged: the host shows another key than the one in known_hosts. Nothing has run.
	ErrHostKeyChanged = errors.New("host key differs from the known one")
	// ErrHostKeyRevoked: the key that the host shows is marked as revoked in known_hosts. Nothing has run.
	ErrHostKeyRevoked = errors.New("host key is revoked")
	// ErrAuth: the host does not take the user's keys, or they cannot be used. Nothing has run.
	ErrAuth = errors.New("login refused")
	// ErrSudo: the user may not become root without a password. The program has not run.
	ErrSudo = errors.New("sudo refused")
	// ErrNotStarted: the command cannot be started as it is. Nothing has run.
	ErrNotStarted = errors.New("command not started")
	// ErrSignal: the program was ended by a signal; Error.Signal names it.
	ErrSignal = errors.New("command ended by a signal")
	// ErrCancelled: the context, or the time for the command, ended, and the program was ended. What it had done until then is done.
	ErrCancelled = errors.New("command cancelled")
	// ErrOutcomeUnknown: nobody knows whether the program ran to its end, or runs on.
	ErrOutcomeUnknown = errors.New("outcome of the command unknown")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("host closed")
)

// Error says what went wrong with a command on a host.
type Error struct {
	Kind   error  // one of the Err variables
	Host   string // its name
	Detail string // what was found
	Hint   string // what to do
	Signal string // of ErrSignal, such as "KILL"
	Cause  error  // what the system answered, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Host + ": " + e.Kind.Error())
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

func badConfig(detail, hint string) error {
	return &failover.Error{Kind: failover.ErrConfig, Detail: detail, Hint: hint}
}
