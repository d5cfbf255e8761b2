package connect

import (
	"errors"
	"strings"
)

// Kinds of errors; test for them with errors.Is.
var (
	// ErrUsage: a setting is missing, unknown or unusable. Nothing was contacted.
	ErrUsage = errors.New("usage")
	// ErrUnreachable: no endpoint answered, or none completed the TLS handshake.
	ErrUnreachable = errors.New("unreachable")
	// ErrDenied: the cluster answered and refused the user.
	ErrDenied = errors.New("denied")
)

// Error is one thing that is wrong. It never contains a password.
type Error struct {
	Kind    error  // one of the Err variables
	Setting string // as the user gave it: "--source-key", "UNDERSTUDY_SOURCE_KEY", "mirror.yaml: source-key"; "" if it is about none
	Problem string // what is wrong
	Hint    string // what to do
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Setting != "" {
		b.WriteString(e.Setting + ": ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Usage makes an Error of kind ErrUsage.
func Usage(setting, problem, hint string) error {
	return &Error{Kind: ErrUsage, Setting: setting, Problem: problem, Hint: hint}
}
