package dns

import (
	"errors"
	"strings"
)

// Kinds of errors of a Provider. Test for them with errors.Is; details and a hint are in *Error.
var (
	// ErrKey: the server does not know the key's name, or not with this algorithm (BADKEY).
	ErrKey = errors.New("the TSIG key is not known to the server")
	// ErrSignature: the server has another secret under the key's name (BADSIG), or its answer is not signed as it should be.
	ErrSignature = errors.New("the TSIG signature is wrong")
	// ErrClock: the clocks of server and client differ by more than signatures allow (BADTIME).
	ErrClock = errors.New("the clocks differ too much")
	// ErrRefused: the server does not allow this to this key.
	ErrRefused = errors.New("the server refused")
	// ErrZone: the server has no authority over the zone or the name.
	ErrZone = errors.New("not the server's zone")
	// ErrUnreachable: the server did not answer.
	ErrUnreachable = errors.New("the server does not answer")
	// ErrChanged: the records are not what they were when they were read.
	ErrChanged = errors.New("the records were changed by somebody else")
	// ErrServer: the server answered otherwise than asked.
	ErrServer = errors.New("the server failed")
)

// Error says what went wrong and what to do about it.
type Error struct {
	Kind   error  // one of the Err variables
	Detail string // which server, and what it was asked
	Hint   string // what to do
	Cause  error  // or nil
}

func (e *Error) Error() string {
	parts := []string{e.Kind.Error()}
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	if e.Cause != nil {
		parts = append(parts, e.Cause.Error())
	}
	text := strings.Join(parts, ": ")
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap gives errors.Is and errors.As the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}
