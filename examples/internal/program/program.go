// Package program is the frame of the example programs: commands with flags, their help, exit codes and signals.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// Interrupted is the exit code of a program that signals ended before it was done.
const Interrupted = 130

// Console is where a command writes.
type Console struct {
	Out io.Writer // results
	Err io.Writer // log, progress, errors
}

// Command is one word behind the program's name.
type Command struct {
	Name, Summary string
	// Settings are for the help; nil for a command without flags.
	Settings func() *connect.Settings
	// Run does it. An error that matches flag.ErrHelp shows the command's help.
	Run func(ctx context.Context, c Console, args []string) error
}

// Exit is the exit code of a kind of errors.
type Exit struct {
	Kind error
	Code int
}

// Code is an error without a message, which gives its exit code to a program whose output has said all.
type Code int

func (c Code) Error() string { return "" }

// Program is a main function's description of itself.
type Program struct {
	// Name is what its users type.
	Name string
	// About is the first line of the help.
	About string
	// Commands, but for version and help, which every program has, in the order of the help.
	Commands []Command
	// Details are what the help of a command says beside its flags, by name.
	Details map[string]string
	// SettingsHelp says where settings may come from, ExitHelp lists the exit codes.
	SettingsHelp, ExitHelp string
	// Exits give errors their exit codes; the first that fits counts. Failure is the code of all others.
	Exits   []Exit
	Failure int
}

// Main runs the program and ends the process.
func (p *Program) Main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup asks for
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Whoever reads the output may go away; a command goes on, and cleans up.
	signal.Ignore(syscall.SIGPIPE)
	go Obey(signals, cancel, os.Exit)
	os.Exit(p.Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Obey ends a program cleanly on the first signal and at once on the second.
func Obey(signals <-chan os.Signal, cancel func(), exit func(int)) {
	<-signals
	cancel()
	<-signals
	exit(Interrupted)
}

// Run is the program without the process: it ends when the command is done or ctx ends, and returns the exit code.
func (p *Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := p.dispatch(ctx, Console{stdout, stderr}, args)
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(stderr, "%s: %s\n", p.Name, strings.TrimSuffix(line, "\n"))
		}
	}
	return p.ExitCode(err)
}

// ExitCode is the exit code that an error of a command leads to.
func (p *Program) ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[Code](err); ok {
		return int(code)
	}
	for _, e := range p.Exits {
		if errors.Is(err, e.Kind) {
			return e.Code
		}
	}
	return p.Failure
}

// commands are all commands.
func (p *Program) commands() []Command {
	return append(p.Commands[:len(p.Commands):len(p.Commands)], Command{"version", "what this binary was built from", nil, p.version})
}

func (p *Program) dispatch(ctx context.Context, c Console, args []string) error {
	if len(args) == 0 {
		p.printHelp(c.Err)
		return connect.Usage("", "no command", "give one of those above")
	}
	name, rest := args[0], args[1:]
	switch {
	case name == "help" || isHelp(name):
		return p.help(c.Out, rest)
	case strings.HasPrefix(name, "-"):
		return connect.Usage("", "the command comes first", fmt.Sprintf("write %s %s --flag value", p.Name, p.Commands[0].Name))
	}
	for _, cmd := range p.commands() {
		if cmd.Name != name {
			continue
		}
		if err := cmd.Run(ctx, c, rest); !errors.Is(err, flag.ErrHelp) {
			return err
		}
		return p.help(c.Out, []string{name})
	}
	return connect.Usage("", fmt.Sprintf("%q is no command", name), "see "+p.Name+" help")
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

// NoArguments refuses arguments of a command that takes none, but for a call for help.
func NoArguments(program, command string, args []string) error {
	switch {
	case len(args) == 1 && isHelp(args[0]):
		return flag.ErrHelp
	case len(args) > 0:
		return connect.Usage("", command+" takes no arguments", "run "+program+" "+command)
	}
	return nil
}
