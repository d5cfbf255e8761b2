package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/examples/internal/screen"
	"github.com/understudy-dr/understudy/failover"
)

// runFlags are the settings of failover run, resume and undo.
type runFlags struct {
	*planSource
	journal, by string
	noWait      bool
	blockedWait time.Duration
	log         mirrorflags.Choice

	undo failover.UndoOptions // of failover undo
}

func newRunFlags() *runFlags {
	f := &runFlags{planSource: newPlanSource(), log: mirrorflags.Choice{Words: []string{"text", "json"}}}
	fs := f.settings.Flags
	journalVar(f.settings, &f.journal)
	byVar(f.settings, &f.by)
	fs.BoolVar(&f.noWait, "no-wait", false, "end with exit code 3 instead of waiting for a person; go on with failover resume")
	fs.DurationVar(&f.blockedWait, "blocked-wait", 0, "how `long` a blocked step is looked at again before the run stops; negative: for ever")
	fs.Var(&f.log, "log-format", "form of the log, `text|json`")
	return f
}

func newUndoFlags() *runFlags {
	f := newRunFlags()
	fs := f.settings.Flags
	fs.StringVar(&f.undo.To, "to", "", "`name` of the last step that stays; empty: everything is undone")
	fs.BoolVar(&f.undo.Partial, "partial", false, "undo what came after the point of no return, and stop there")
	fs.StringVar(&f.undo.Reason, "reason", "", "`text` for the record")
	f.settings.FlagOnly("to", "partial", "reason")
	return f
}

func runRun(ctx context.Context, c program.Console, args []string) error {
	return newRunFlags().carryOut(ctx, c, args, failover.BeginOrResume, (*failover.Runner).Run)
}

func runResume(ctx context.Context, c program.Console, args []string) error {
	return newRunFlags().carryOut(ctx, c, args, failover.ResumeOnly, (*failover.Runner).Run)
}

func runUndo(ctx context.Context, c program.Console, args []string) error {
	f := newUndoFlags()
	return f.carryOut(ctx, c, args, failover.ResumeOnly, func(r *failover.Runner, ctx context.Context) error {
		f.undo.By = f.by
		return r.Undo(ctx, f.undo)
	})
}

// carryOut makes the plan and lets a runner work at it, in view.
func (f *runFlags) carryOut(ctx context.Context, c program.Console, args []string, begin failover.BeginPolicy, work func(*failover.Runner, context.Context) error) error {
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if err := needJournal(f.settings, f.journal); err != nil {
		return err
	}
	b, err := f.build(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	live := screen.New(c.Err)
	log := slog.New(f.handler(live))
	cfg := failover.Config{Journal: f.journal, Copy: b.copy, Begin: begin, By: f.by, NoWait: f.noWait, BlockedWait: f.blockedWait, Logger: log}
	if live.Terminal {
		cfg.Logger = slog.New(slog.NewTextHandler(live, &slog.HandlerOptions{Level: slog.LevelWarn})) // the steps are in view
	}
	cfg.Hooks.Waiting = func(i failover.WaitingInfo) {
		if command := decideCommand(f.journal, b.plan.Hash(), i.Waiting); command != "" && !live.Terminal {
			log.Warn("waiting for a person", "for", waitingText(i.Waiting), "command", command)
		}
	}
	r, err := failover.New(b.plan, cfg)
	if err != nil {
		return err
	}
	following, stop := context.WithCancel(context.Background())
	var followed sync.WaitGroup
	if live.Terminal {
		followed.Go(func() { view{journal: f.journal, painter: screen.PainterFor(c.Err)}.follow(following, live, r.Status) })
	}
	err = work(r, ctx)
	stop()
	followed.Wait()
	return errors.Join(err, printStatus(c.Out, f.journal, r.Status()))
}

func (f *runFlags) handler(live *screen.Screen) slog.Handler {
	if f.log.String() == "json" {
		return slog.NewJSONHandler(live, nil)
	}
	return slog.NewTextHandler(live, nil)
}

// usage is an error about a setting of the plan's source.
func (f *planSource) usage(setting, problem, hint string) error {
	return connect.Usage(f.settings.Where(setting), problem, hint)
}
