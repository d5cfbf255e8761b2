// Command drcheck proves that a standby's etcd holds what the primary's holds, tells what is lost if the primary is dead, and puts right what differs.
//
//	drcheck check    compare source and target, while both are in use
//	drcheck verdict  what the target alone can tell: how much is lost at most, and when the two were last proven equal
//	drcheck repair   put at the target what it lacks; without --apply it only says what it would do
//	drcheck version  what this binary was built from
//	drcheck help     these, or the flags of one: drcheck help check
//
// Each setting is a flag, an environment variable (UNDERSTUDY_SOURCE_ENDPOINTS for --source-endpoints) or a field of the
// YAML file given by --config (source-endpoints), which may be that of mirror run. A flag wins over the environment, the environment over the file.
//
// Exit codes:
//
//	0    check, repair: source and target are equal; verdict: it was told
//	1    check, repair: they differ
//	2    there is no answer: bad usage, an etcd that is unreachable or refuses the user, another mirror, a promoted target
//	130  interrupted
package main

import (
	"context"
	"io"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// Exit codes; the package comment documents them.
const (
	exitDiffers  = 1
	exitNoAnswer = 2
)

func main() { drcheckProgram().Main() }

// run is the program without the process: it ends when the command is done or ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return drcheckProgram().Run(ctx, args, stdout, stderr)
}

// drcheckProgram describes the program.
func drcheckProgram() *program.Program {
	return &program.Program{Name: "drcheck", About: "drcheck proves that a standby's etcd holds what the primary's holds.",
		Commands: []program.Command{
			{Name: "check", Summary: "compare source and target, while both are in use", Settings: func() *connect.Settings { return newCheckFlags().settings }, Run: runCheck},
			{Name: "verdict", Summary: "what the target alone can tell; works with a dead source", Settings: func() *connect.Settings { return newVerdictFlags().Settings }, Run: runVerdict},
			{Name: "repair", Summary: "put at the target what it lacks; without --apply only say so", Settings: func() *connect.Settings { return newRepairFlags().settings }, Run: runRepair},
		},
		Details: details, SettingsHelp: mirrorflags.SettingsHelp, ExitHelp: exitHelp,
		Exits: []program.Exit{{Kind: context.Canceled, Code: program.Interrupted}}, Failure: exitNoAnswer}
}
