// Command mirror mirrors the etcd of a primary Kubernetes cluster into the live etcd of a standby, and switches roles.
//
//	mirror run      mirror until stopped (SIGTERM or SIGINT); again to end at once
//	mirror status   what the target tells about its mirrors; works with a dead source
//	mirror promote  make the target a primary: every write of its mirror is refused from then on
//	mirror demote   make a promoted target a standby again
//	mirror approve  let a mirror follow a mass deletion that has stopped it
//	mirror demo     all of it with two etcds inside this process; needs nothing installed
//	mirror version  what this binary was built from
//	mirror help     these, or the flags of one: mirror help run
//
// Each setting is a flag, an environment variable (UNDERSTUDY_SOURCE_ENDPOINTS for --source-endpoints) or a field of the
// YAML file given by --config (source-endpoints). A flag wins over the environment, the environment over the file.
//
// Exit codes:
//
//	0    ended cleanly; promote: the target is promoted, now or before
//	1    any other failure, such as an unknown mirror or an incomplete copy
//	2    bad usage or configuration; nothing was changed
//	3    an etcd is unreachable: no answer, or the TLS handshake failed
//	4    an etcd refused the user: login or permission
//	5    fenced: the target was promoted, or the mirror's metadata was removed
//	6    refused identity: same cluster, swapped direction, another or rewound source, other prefixes
//	7    nothing to do: demote: the target is not promoted; approve: no approval is waited for
//	130  interrupted: run by a second signal, other commands by the first
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// console is where a command writes.
type console struct {
	out io.Writer // results
	err io.Writer // log, progress, errors
}

// command is one word behind the program's name.
type command struct {
	name, summary string
	// settings are for the help; nil for a command without flags.
	settings func() *connect.Settings
	run      func(ctx context.Context, c console, args []string) error
}

func commands() []command {
	return []command{
		{"run", "mirror until stopped", func() *connect.Settings { return newRunFlags().settings }, runMirror},
		{"status", "what the target tells about its mirrors", func() *connect.Settings { return newStatusFlags().settings }, runStatus},
		{"promote", "make the target a primary, fencing its mirror", func() *connect.Settings { return newPromoteFlags().settings }, runPromote},
		{"demote", "make a promoted target a standby again", func() *connect.Settings { return newConfirmFlags().settings }, runDemote},
		{"approve", "let a mirror follow a mass deletion that has stopped it", func() *connect.Settings { return newConfirmFlags().settings }, runApprove},
		{"demo", "see all of it with two etcds inside this process", nil, runDemo},
		{"version", "what this binary was built from", nil, runVersion},
	}
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup asks for
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Whoever reads the output may go away; a mirror goes on, and a demo still cleans up.
	signal.Ignore(syscall.SIGPIPE)
	go obey(signals, cancel, os.Exit)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// obey ends the program cleanly on the first signal and at once on the second.
func obey(signals <-chan os.Signal, cancel func(), exit func(int)) {
	<-signals
	cancel()
	<-signals
	exit(exitInterrupted)
}

// run is the program without the process: it ends when the command is done or ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := dispatch(ctx, console{stdout, stderr}, args)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(stderr, "mirror: %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	return exitCode(err)
}

func dispatch(ctx context.Context, c console, args []string) error {
	if len(args) == 0 {
		printHelp(c.err)
		return badUsage("", "no command", "give one of those above")
	}
	name, rest := args[0], args[1:]
	switch {
	case name == "help" || name == "-h" || name == "-help" || name == "--help":
		return help(c.out, rest)
	case strings.HasPrefix(name, "-"):
		return badUsage("", "the command comes first", "write mirror run --flag value")
	}
	for _, cmd := range commands() {
		if cmd.name != name {
			continue
		}
		if err := cmd.run(ctx, c, rest); !errors.Is(err, flag.ErrHelp) {
			return err
		}
		return help(c.out, []string{name})
	}
	return badUsage("", fmt.Sprintf("%q is no command", name), "see mirror help")
}

func runVersion(_ context.Context, c console, args []string) error {
	if len(args) > 0 {
		return badUsage("", "version takes no arguments", "run mirror version")
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this binary holds no build information; build it with the go command and module support")
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	fmt.Fprintf(c.out, "understudy mirror %s\n", or(info.Main.Version, "(unknown version)"))
	if revision := settings["vcs.revision"]; revision != "" {
		modified := ""
		if settings["vcs.modified"] == "true" {
			modified = ", modified"
		}
		fmt.Fprintf(c.out, "commit  %s of %s%s\n", revision, settings["vcs.time"], modified)
	}
	fmt.Fprintf(c.out, "built   %s %s/%s\n", info.GoVersion, settings["GOOS"], settings["GOARCH"])
	for _, dep := range info.Deps {
		if dep.Path == "go.etcd.io/etcd/client/v3" {
			fmt.Fprintf(c.out, "etcd    client %s\n", dep.Version)
		}
	}
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
