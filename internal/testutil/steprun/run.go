package steprun

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// Run is a plan with its journal.
type Run struct {
	t       testing.TB
	plan    *failover.Plan
	Journal string
	calls   map[string]int // of Do and Undo that returned nil, by "do " or "undo " and the step's name
	stop    func(point string) bool
}

// NewRun makes a plan of steps, with a journal in a folder of its own.
func NewRun(t testing.TB, steps ...failover.Step) *Run {
	t.Helper()
	return newRun(t, filepath.Join(t.TempDir(), "run.journal"), steps...)
}

func newRun(t testing.TB, journal string, steps ...failover.Step) *Run {
	t.Helper()
	r := &Run{t: t, Journal: journal, calls: map[string]int{}, stop: func(string) bool { return false }}
	var all []failover.Step
	for _, s := range steps {
		if _, gate := s.(failover.Gate); gate {
			all = append(all, s)
			continue
		}
		u, undoes := s.(failover.Undoer)
		w := watched{s, r}
		if undoes {
			all = append(all, undoable{w, u})
		} else {
			all = append(all, w)
		}
	}
	// What a step made from funcs can do, the plan knows of itself alone.
	known, err := failover.NewPlan(failover.PlanConfig{Name: "test", Steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range known.Document().Steps {
		if u, ok := all[i].(undoable); ok && !s.Undoable {
			all[i] = u.watched
		}
	}
	if r.plan, err = failover.NewPlan(failover.PlanConfig{Name: "test", Steps: all}); err != nil {
		t.Fatal(err)
	}
	return r
}

// Plan is the plan.
func (r *Run) Plan() *failover.Plan { return r.plan }

// Runner makes a runner on the journal.
func (r *Run) Runner() *failover.Runner {
	r.t.Helper()
	runner, err := failover.New(r.plan, failover.Config{Journal: r.Journal, Poll: 5 * time.Millisecond, NoWait: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return runner
}

// Do carries the plan out, without a disturbance.
func (r *Run) Do() error { return r.Runner().Run(testutil.Context(r.t)) }

// Undo undoes it.
func (r *Run) Undo() error {
	return r.Runner().Undo(testutil.Context(r.t), failover.UndoOptions{})
}

// DoKilled carries the plan out with runners that are given up before and after each Do: the intent is written, and nothing, or everything, has happened. Each Do has to act once.
func (r *Run) DoKilled() {
	r.t.Helper()
	r.killed("do ", func(ctx context.Context, runner *failover.Runner) error { return runner.Run(ctx) })
}

// UndoKilled is DoKilled for Undo.
func (r *Run) UndoKilled() {
	r.t.Helper()
	r.killed("undo ", func(ctx context.Context, runner *failover.Runner) error {
		return runner.Undo(ctx, failover.UndoOptions{})
	})
}

func (r *Run) killed(verb string, run func(ctx context.Context, runner *failover.Runner) error) {
	r.t.Helper()
	done := map[string]bool{}
	r.calls = map[string]int{}
	kills := 0
	for {
		ctx, cancel := context.WithCancel(testutil.Context(r.t))
		stopped := false
		r.stop = func(point string) bool {
			if done[point] {
				return false
			}
			done[point], stopped = true, true
			cancel()
			return true
		}
		err := run(ctx, r.Runner())
		over := ctx.Err() != nil && !stopped
		cancel()
		if over {
			r.t.Fatalf("%sdid not end in time: %v", verb, err)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, failover.ErrInterrupted) {
			r.t.Fatalf("%safter %d kills: %v", verb, kills, err)
		}
		kills++
	}
	r.stop = func(string) bool { return false }
	for call, n := range r.calls {
		if n != 1 || !done["before "+call] || !done["after "+call] {
			r.t.Errorf("%s was carried out %d times, given up before %v and after %v", call, n, done["before "+call], done["after "+call])
		}
	}
	if len(r.calls) == 0 {
		r.t.Errorf("%sno step acted", verb)
	}
}

// DryRun observes every step and returns the report as text.
func (r *Run) DryRun() *failover.DryRunReport {
	r.t.Helper()
	report, err := r.plan.DryRun(testutil.Context(r.t), failover.DryRunOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// Texts is everything that the plan and the journal say, in which no secret may be.
func (r *Run) Texts() string {
	r.t.Helper()
	var b strings.Builder
	if err := r.plan.WriteMarkdown(&b); err != nil {
		r.t.Fatal(err)
	}
	if err := r.plan.WriteJSON(&b); err != nil {
		r.t.Fatal(err)
	}
	log, err := failover.ReadJournal(r.Journal)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, rec := range log.Records {
		b.WriteString(rec.Detail + "\n" + string(rec.Value) + "\n")
	}
	return b.String()
}

// watched is a step whose calls are counted and interrupted.
type watched struct {
	failover.Step
	r *Run
}

func (w watched) Describe() failover.Description {
	return w.Step.(failover.Describer).Describe()
}

func (w watched) Timeout() time.Duration {
	if t, ok := w.Step.(failover.Timeouter); ok {
		return t.Timeout()
	}
	return 0
}

func (w watched) Do(ctx context.Context) error { return w.call(ctx, "do ", w.Step.Do) }

func (w watched) call(ctx context.Context, verb string, f func(ctx context.Context) error) error {
	point := verb + w.Name()
	if w.r.stop("before " + point) {
		return ctx.Err()
	}
	if err := f(ctx); err != nil {
		return err
	}
	w.r.calls[point]++
	if w.r.stop("after " + point) {
		return ctx.Err()
	}
	return nil
}

type undoable struct {
	watched
	u failover.Undoer
}

func (u undoable) Undo(ctx context.Context) error { return u.call(ctx, "undo ", u.u.Undo) }
