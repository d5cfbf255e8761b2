package nodes

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Host is a machine on which commands run. It is safe for concurrent use.
type Host interface {
	// Name is what plans and journals call it: an address or a host name.
	Name() string
	// Run runs a program and waits for it. An error says that it could not be run to its end, or that this is unknown (see Error); a program that ended with another status than 0 is no error.
	Run(ctx context.Context, cmd Command) (Result, error)
}

// Command is a program with its arguments. There is no shell between: say sh -c where one is needed.
type Command struct {
	Args  []string
	Stdin []byte
	// Root runs it as root, by sudo -n where the user is not root.
	Root bool
	// Timeout bounds it; 0 is the host's CommandTimeout.
	Timeout time.Duration
}

// String is the command as one could type it, without its standard input. It may hold secrets: mask it before it is shown.
func (c Command) String() string {
	line := words(c.Args, plainWord)
	if c.Root {
		line = "sudo " + line
	}
	return line
}

// Result is what a program that ended left.
type Result struct {
	// Stdout and Stderr are what it printed, up to MaxOutput bytes each; Truncated is set if it was more. They may hold secrets: mask them before they are shown.
	Stdout, Stderr string
	Truncated      bool
	// Exit is its status; 127 where there is no such program, 126 where it cannot be executed.
	Exit int
}

// MaxOutput bounds what is kept of each stream of a command.
const MaxOutput = 1 << 20

// Defaults of hosts.
const (
	DefaultCommandTimeout = 2 * time.Minute
	DefaultConnectTimeout = 15 * time.Second
	DefaultKeepAlive      = 5 * time.Second
)

// killGrace is how long a program has to end after SIGTERM, and again after SIGKILL.
const killGrace = 3 * time.Second

func (c Command) check(host string) error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return &Error{Kind: ErrNotStarted, Host: host, Detail: "Command.Args names no program", Hint: "give the program and its arguments"}
	}
	for i, arg := range c.Args {
		if strings.ContainsRune(arg, 0) {
			return &Error{Kind: ErrNotStarted, Host: host, Detail: fmt.Sprintf("Command.Args[%d] has a NUL byte", i), Hint: "give it on the standard input"}
		}
	}
	return nil
}

// hostName is what names of steps can hold.
var hostName = regexp.MustCompile(`^[a-zA-Z0-9._:@\[\]-]{1,100}$`)

// quote makes a text one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var harmless = regexp.MustCompile(`^[a-zA-Z0-9_./:=@%+,-]+$`)

// plainWord quotes only where it is needed: for people to read.
func plainWord(s string) string {
	if harmless.MatchString(s) {
		return s
	}
	return quote(s)
}

func words(args []string, quote func(string) string) string {
	all := make([]string, len(args))
	for i, arg := range args {
		all[i] = quote(arg)
	}
	return strings.Join(all, " ")
}
