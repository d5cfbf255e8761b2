package program

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/understudy-dr/understudy/examples/internal/connect"
)

func (p *Program) printHelp(w io.Writer) {
	fmt.Fprintf(w, "%s\n\nUsage: %s <command> [flags]\n\nCommands:\n", p.About, p.Name)
	width := len("version") + 2
	for _, cmd := range p.commands() {
		width = max(width, len(cmd.Name)+2)
	}
	for _, cmd := range p.commands() {
		fmt.Fprintf(w, "  %-*s%s\n", width, cmd.Name, cmd.Summary)
	}
	fmt.Fprintf(w, "  %-*sthis, or the flags of a command: %s help %s\n\n%s\n%s", width, "help", p.Name, p.Commands[0].Name, p.SettingsHelp, p.ExitHelp)
}

func (p *Program) help(w io.Writer, args []string) error {
	if len(args) == 0 {
		p.printHelp(w)
		return nil
	}
	for _, cmd := range p.commands() {
		if cmd.Name != args[0] {
			continue
		}
		fmt.Fprintf(w, "%s %s: %s\n", p.Name, cmd.Name, cmd.Summary)
		if text := p.Details[cmd.Name]; text != "" {
			fmt.Fprintf(w, "\n%s", text)
		}
		if cmd.Settings != nil {
			fmt.Fprint(w, "\nFlags:\n")
			printFlags(w, cmd.Settings())
			fmt.Fprintf(w, "\n%s", p.SettingsHelp)
		}
		return nil
	}
	return connect.Usage("", fmt.Sprintf("%q is no command", args[0]), "see "+p.Name+" help")
}

// printFlags lists flags, each with its description below it.
func printFlags(w io.Writer, s *connect.Settings) {
	s.Flags.VisitAll(func(f *flag.Flag) {
		value, description := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			description += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  %s\n        %s\n", strings.TrimSpace("--"+f.Name+" "+value), description)
	})
}
