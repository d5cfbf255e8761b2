package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/failover"
)

// planFlags are the settings of failover plan and failover dry-run.
type planFlags struct {
	*planSource
	journal string
	output  mirrorflags.Choice
}

func newPlanFlags() *planFlags {
	f := &planFlags{planSource: newPlanSource(), output: mirrorflags.Choice{Words: []string{"table", "markdown", "json"}}}
	f.settings.Flags.Var(&f.output, "output", "form of the plan, `table|markdown|json`")
	f.settings.FlagOnly("output")
	return f
}

func newDryRunFlags() *planFlags {
	f := &planFlags{planSource: newPlanSource(), output: mirrorflags.Choice{Words: []string{"text", "json"}}}
	f.settings.Flags.Var(&f.output, "output", "form of the answer, `text|json`")
	f.settings.Flags.StringVar(&f.journal, "journal", "", "`file` with the journal of a run of this plan that has begun; empty: it has not")
	f.settings.FlagOnly("output")
	return f
}

// runPlan is failover plan.
func runPlan(ctx context.Context, c program.Console, args []string) error {
	f := newPlanFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	b, err := f.build(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	switch f.output.String() {
	case "json":
		return b.plan.WriteJSON(c.Out)
	case "markdown":
		return b.plan.WriteMarkdown(c.Out)
	}
	return b.plan.WriteTable(c.Out)
}

// runDryRun is failover dry-run.
func runDryRun(ctx context.Context, c program.Console, args []string) error {
	f := newDryRunFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	b, err := f.build(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	report, err := b.plan.DryRun(ctx, failover.DryRunOptions{Journal: f.journal})
	if err != nil {
		return err
	}
	if f.output.String() == "json" {
		enc := json.NewEncoder(c.Out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		err = report.WriteText(c.Out)
	}
	if err == nil && !report.Ready {
		err = program.Code(exitNotReady)
	}
	return err
}

// needJournal refuses a command without a journal.
func needJournal(s *connect.Settings, path string) error {
	if path == "" {
		return connect.Usage(s.Where("journal"), "is missing", "give the path of the run's journal, such as /var/lib/understudy/switchover.journal")
	}
	return nil
}

func journalVar(s *connect.Settings, p *string) {
	s.Flags.StringVar(p, "journal", "", "`file` with the journal of the run")
}

func byVar(s *connect.Settings, p *string) {
	s.Flags.StringVar(p, "by", decider(), "`name` of who does this, for the record")
}
