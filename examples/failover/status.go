package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/examples/internal/screen"
	"github.com/understudy-dr/understudy/failover"
)

// statusFlags are the settings of failover status.
type statusFlags struct {
	settings        *connect.Settings
	journal         string
	timeline, watch bool
	output          mirrorflags.Choice
}

func newStatusFlags() *statusFlags {
	f := &statusFlags{settings: connect.NewSettings(envPrefix), output: mirrorflags.Choice{Words: []string{"text", "json"}}}
	fs := f.settings.Flags
	journalVar(f.settings, &f.journal)
	fs.BoolVar(&f.timeline, "timeline", false, "show what happened, record by record")
	fs.BoolVar(&f.watch, "watch", false, "on a terminal, follow the run until it ends or is interrupted")
	fs.Var(&f.output, "output", "form of the answer, `text|json`")
	f.settings.FlagOnly("timeline", "watch", "output")
	return f
}

// runStatus is failover status.
func runStatus(ctx context.Context, c program.Console, args []string) error {
	f := newStatusFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if err := needJournal(f.settings, f.journal); err != nil {
		return err
	}
	log, err := failover.ReadJournal(f.journal)
	switch {
	case err != nil:
		return err
	case f.output.String() == "json":
		enc := json.NewEncoder(c.Out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(newStatusView(log.Status()))
	case f.timeline:
		return log.WriteTimeline(c.Out)
	case f.watch:
		return f.follow(ctx, c)
	}
	return printStatus(c.Out, f.journal, log.Status())
}

// follow shows the run as the journal tells it, until it ends.
func (f *statusFlags) follow(ctx context.Context, c program.Console) error {
	live := screen.New(c.Out)
	if !live.Terminal {
		return connect.Usage("--watch", "the output is no terminal", "use failover status, or follow the log of failover run")
	}
	v := view{journal: f.journal, painter: screen.PainterFor(c.Out)}
	tick := time.NewTicker(viewInterval)
	defer tick.Stop()
	defer live.Show()
	for {
		log, err := failover.ReadJournal(f.journal)
		if err != nil {
			return err
		}
		s := log.Status()
		if s.State == failover.RunEnded {
			live.Show()
			return printStatus(c.Out, f.journal, s)
		}
		live.Show(v.lines(s, time.Now(), live.Rows())...)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// printStatus tells people how far a run is.
func printStatus(w io.Writer, journal string, s failover.Status) error {
	v := view{journal: journal, painter: screen.PainterFor(w)}
	for _, line := range v.lines(s, s.Updated, 0) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// statusView is a status in JSON. The names of its fields are documented in the help and stay.
type statusView struct {
	Plan    string            `json:"plan"`
	Title   string            `json:"title,omitempty"`
	Hash    string            `json:"hash"`
	Mode    failover.Mode     `json:"mode"`
	Journal string            `json:"journal"`
	State   failover.RunState `json:"state"`
	Outcome failover.Outcome  `json:"outcome,omitempty"`
	Detail  string            `json:"detail,omitempty"`
	Step    string            `json:"step,omitempty"`
	Next    string            `json:"next,omitempty"`
	Waiting *waitingView      `json:"waiting,omitempty"`
	Runs    int               `json:"runs"`
	Began   time.Time         `json:"began,omitzero"`
	Updated time.Time         `json:"updated,omitzero"`
	Steps   []stepView        `json:"steps"`
	Return  *pointOfNoReturn  `json:"pointOfNoReturn,omitempty"`
}

type pointOfNoReturn struct {
	Step   string `json:"step"`
	Passed bool   `json:"passed"`
}

type waitingView struct {
	Step   string        `json:"step,omitempty"`
	For    failover.Need `json:"for"`
	Role   string        `json:"role,omitempty"`
	Detail string        `json:"detail,omitempty"`
	Loss   string        `json:"loss,omitempty"`
	Since  time.Time     `json:"since,omitzero"`
}

type stepView struct {
	Name     string             `json:"name"`
	Kind     failover.Kind      `json:"kind"`
	State    failover.StepState `json:"state"`
	Detail   string             `json:"detail,omitempty"`
	Attempts int                `json:"attempts"`
	Began    time.Time          `json:"began,omitzero"`
	Ended    time.Time          `json:"ended,omitzero"`
}

func newStatusView(s failover.Status) statusView {
	v := statusView{Plan: s.Plan, Title: s.Title, Hash: s.Hash, Mode: s.Mode, Journal: s.Journal, State: s.State, Outcome: s.Outcome, Detail: s.Detail, Step: s.Step, Next: s.Next(),
		Runs: s.Runs, Began: s.Began, Updated: s.Updated}
	if s.Waiting != nil {
		v.Waiting = &waitingView{Step: s.Waiting.Step, For: s.Waiting.For, Role: s.Waiting.Role, Detail: s.Waiting.Detail, Loss: s.Waiting.Loss, Since: s.Waiting.Since}
	}
	if s.PointOfNoReturn != "" {
		v.Return = &pointOfNoReturn{s.PointOfNoReturn, s.Passed}
	}
	for _, step := range s.Steps {
		v.Steps = append(v.Steps, stepView{step.Name, step.Kind, step.State, step.Detail, step.Attempts, step.Began, step.Ended})
	}
	return v
}
