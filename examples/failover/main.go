// Command failover carries out the switch of roles of two clusters, and the recovery of a stretched cluster that lost its quorum, as plans: looked at first, approved, journaled, resumed after a crash, undone.
//
//	failover plan     show the plan of a runbook: as a table, a runbook in Markdown, or JSON
//	failover dry-run  look at everything for real, and change nothing
//	failover run      carry the plan out, or go on with it
//	failover resume   go on with a run that was interrupted
//	failover approve  decide: approve, reject, accept a loss, confirm a task
//	failover undo     take back what a run has done
//	failover status   what a journal tells: how far the run is, and what it waits for
//	failover inventory  an inventory with comments, from which to begin
//	failover version  what this binary was built from
//	failover help     these, or the flags of one: failover help run
//
// The clusters, and all through which they are reached, are in an inventory: a YAML file; failover inventory prints one with comments. It holds no secret, but names of files that do.
// Each setting is a flag or an environment variable (UNDERSTUDY_INVENTORY for --inventory). A flag wins over the environment.
//
// Exit codes:
//
//	0    done; dry-run: nothing keeps the run from its first act; status: read
//	1    the run stopped: a step is blocked, failed, was rejected or is not verified; it can be resumed or undone
//	2    bad usage, an unusable inventory or journal, a plan that changed; nothing was changed
//	3    with --no-wait: the run waits for a person
//	4    dry-run: something keeps the run from its first act
//	5    it failed, and everything was undone
//	130  interrupted; it can be resumed
package main

import (
	"context"
	"io"

	"github.com/understudy-dr/understudy/examples/failover/inventory"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/failover"
)

// Exit codes; the package comment documents them.
const (
	exitStopped  = 1
	exitUsage    = 2
	exitWaiting  = 3
	exitNotReady = 4
	exitUndone   = 5
)

func main() { failoverProgram().Main() }

// run is the program without the process: it ends when the command is done or ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return failoverProgram().Run(ctx, args, stdout, stderr)
}

// failoverProgram describes the program.
func failoverProgram() *program.Program {
	return &program.Program{Name: "failover", About: "failover carries out the switch of roles of two clusters as a plan that survives a crash.",
		Commands: []program.Command{
			{Name: "plan", Summary: "show the plan of a runbook", Settings: func() *connect.Settings { return newPlanFlags().settings }, Run: runPlan},
			{Name: "dry-run", Summary: "look at everything for real, and change nothing", Settings: func() *connect.Settings { return newDryRunFlags().settings }, Run: runDryRun},
			{Name: "run", Summary: "carry the plan out, or go on with it", Settings: func() *connect.Settings { return newRunFlags().settings }, Run: runRun},
			{Name: "resume", Summary: "go on with a run that was interrupted", Settings: func() *connect.Settings { return newRunFlags().settings }, Run: runResume},
			{Name: "approve", Summary: "decide: approve, reject, accept a loss, confirm a task", Settings: func() *connect.Settings { return newApproveFlags().settings }, Run: runApprove},
			{Name: "undo", Summary: "take back what a run has done", Settings: func() *connect.Settings { return newUndoFlags().settings }, Run: runUndo},
			{Name: "status", Summary: "how far a run is, and what it waits for", Settings: func() *connect.Settings { return newStatusFlags().settings }, Run: runStatus},
			{Name: "inventory", Summary: "an inventory with comments, from which to begin", Run: func(_ context.Context, c program.Console, args []string) error {
				if err := program.NoArguments("failover", "inventory", args); err != nil {
					return err
				}
				_, err := io.WriteString(c.Out, inventory.Example)
				return err
			}},
		},
		Details: details, SettingsHelp: settingsHelp, ExitHelp: exitHelp,
		Exits: []program.Exit{
			{Kind: failover.ErrUndone, Code: exitUndone},
			{Kind: failover.ErrWaiting, Code: exitWaiting},
			{Kind: failover.ErrInterrupted, Code: program.Interrupted},
			{Kind: context.Canceled, Code: program.Interrupted},
			{Kind: connect.ErrUsage, Code: exitUsage},
			{Kind: failover.ErrConfig, Code: exitUsage},
			{Kind: failover.ErrPlanChanged, Code: exitUsage},
			{Kind: failover.ErrDecision, Code: exitUsage},
			{Kind: failover.ErrBusy, Code: exitUsage},
			{Kind: failover.ErrJournal, Code: exitUsage},
			{Kind: failover.ErrJournalExists, Code: exitUsage},
			{Kind: failover.ErrJournalLost, Code: exitUsage},
			{Kind: failover.ErrNoJournal, Code: exitUsage},
			{Kind: failover.ErrEnded, Code: exitUsage},
		}, Failure: exitStopped}
}
