// Package nodes has steps that run commands and install files on machines, by ssh or on this one, and the Host that other steps act through.
package nodes

import "context"

// Host is a machine on which commands run. It is safe for concurrent use.
type Host interface {
	// Name is what plans and journals call it: an address or a host name.
	Name() string
	// Run runs a program and waits for it. An error says that it could not be run to its end, or that this is unknown; a program that ended with another status than 0 is no error.
	Run(ctx context.Context, cmd Command) (Result, error)
}

// Command is a program with its arguments. There is no shell between: say sh -c where one is needed.
type Command struct {
	Args  []string
	Stdin []byte
	// Root runs it as root, by sudo -n where the user is not root.
	Root bool
}

// Result is what a program that ended left.
type Result struct {
	// Stdout and Stderr are what it printed, up to MaxOutput bytes each; Truncated is set if it was more. They may hold secrets: mask them before they are shown.
	Stdout, Stderr string
	Truncated      bool
	Exit           int
}

// MaxOutput bounds what is kept of each stream of a command.
const MaxOutput = 1 << 20
