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
	"io"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

func main() { mirror().Main() }

// run is the program without the process: it ends when the command is done or ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return mirror().Run(ctx, args, stdout, stderr)
}

// mirror describes the program.
func mirror() *program.Program {
	return &program.Program{Name: "mirror", About: "mirror keeps a standby's etcd equal to a primary's, and switches roles.",
		Commands: []program.Command{
			{Name: "run", Summary: "mirror until stopped", Settings: func() *connect.Settings { return mirrorflags.NewRun().Settings }, Run: runMirror},
			{Name: "status", Summary: "what the target tells about its mirrors", Settings: func() *connect.Settings { return newStatusFlags().Settings }, Run: runStatus},
			{Name: "promote", Summary: "make the target a primary, fencing its mirror", Settings: func() *connect.Settings { return newPromoteFlags().Settings }, Run: runPromote},
			{Name: "demote", Summary: "make a promoted target a standby again", Settings: func() *connect.Settings { return newConfirmFlags().Settings }, Run: runDemote},
			{Name: "approve", Summary: "let a mirror follow a mass deletion that has stopped it", Settings: func() *connect.Settings { return newConfirmFlags().Settings }, Run: runApprove},
			{Name: "demo", Summary: "see all of it with two etcds inside this process", Run: runDemo},
		},
		Details: details, SettingsHelp: mirrorflags.SettingsHelp, ExitHelp: exitHelp, Exits: exits, Failure: exitFailure}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
