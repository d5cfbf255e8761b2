// Package steprun runs steps of package failover through a real Runner, and gives the Runner up where a crash would, to hold steps against their contract: Contract does all that with one step that can be undone, Run with several steps.
package steprun

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// Lab is a journal in a folder of its own.
type Lab struct {
	t       testing.TB
	Journal string
	// Mode of the plans; "" is graceful.
	Mode failover.Mode
}

// New makes a lab.
func New(t testing.TB) *Lab {
	t.Helper()
	return &Lab{t: t, Journal: filepath.Join(t.TempDir(), "run.journal")}
}

// Plan makes a plan of steps.
func (l *Lab) Plan(steps ...failover.Step) *failover.Plan {
	l.t.Helper()
	p, err := failover.NewPlan(failover.PlanConfig{Name: "test", Mode: l.Mode, Steps: steps})
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *Lab) runner(steps ...failover.Step) *failover.Runner {
	l.t.Helper()
	r, err := failover.New(l.Plan(steps...), failover.Config{Journal: l.Journal, Poll: 10 * time.Millisecond})
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// Run runs the steps, or resumes.
func (l *Lab) Run(steps ...failover.Step) error {
	l.t.Helper()
	return l.runner(steps...).Run(testutil.Context(l.t))
}

// Undo undoes them.
func (l *Lab) Undo(steps ...failover.Step) error {
	l.t.Helper()
	return l.runner(steps...).Undo(testutil.Context(l.t), failover.UndoOptions{})
}

// DryRun looks at them; the first one's report is returned.
func (l *Lab) DryRun(steps ...failover.Step) failover.DryStep {
	l.t.Helper()
	report, err := l.Plan(steps...).DryRun(testutil.Context(l.t), failover.DryRunOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return report.Steps[0]
}

// Step tells how far the journal's first step is.
func (l *Lab) Step() failover.StepStatus {
	l.t.Helper()
	log, err := failover.ReadJournal(l.Journal)
	if err != nil {
		l.t.Fatal(err)
	}
	return log.Status().Steps[0]
}

// crash runs until the runner is given up before or after a call's effect, such as "before do " or "after undo ".
func (l *Lab) crash(at string, step failover.Step) {
	l.t.Helper()
	ctx, end := context.WithCancel(testutil.Context(l.t))
	defer end()
	r := newRun(l.t, l.Journal, step)
	r.stop = func(point string) bool {
		if point != at+step.Name() {
			return false
		}
		end()
		return true
	}
	run := r.Runner().Run
	if strings.HasSuffix(at, "undo ") {
		run = func(ctx context.Context) error { return r.Runner().Undo(ctx, failover.UndoOptions{}) }
	}
	if err := run(ctx); !errors.Is(err, failover.ErrInterrupted) {
		l.t.Fatalf("the runner that is given up returned %v", err)
	}
}

// count runs or undoes and tells how often Do and Undo acted.
func (l *Lab) count(undo bool, step failover.Step) map[string]int {
	l.t.Helper()
	r := newRun(l.t, l.Journal, step)
	run := r.Do
	if undo {
		run = r.Undo
	}
	if err := run(); err != nil {
		l.t.Fatal(err)
	}
	return map[string]int{"Do": r.calls["do "+step.Name()], "Undo": r.calls["undo "+step.Name()]}
}

// Contract holds an undoable step against its contract: a dry run changes nothing; Run and Undo lead to the effect and back to what was before; the same with a runner that dies at the intent, after the effect,
// and in the middle of undoing, after which nothing is done twice. make makes the step anew, as another process would. world is what the world looks like, as text. secrets must be in no journal.
func Contract(t *testing.T, make func() failover.Step, world func() string, secrets ...string) {
	t.Helper()
	before := world()
	is := func(when, want string) {
		t.Helper()
		if got := world(); got != want {
			t.Fatalf("%s the world is\n%s\nwant\n%s", when, got, want)
		}
	}
	if dry := New(t).DryRun(make()); dry.Would != "do" {
		t.Fatalf("a dry run says %+v", dry)
	}
	is("after a dry run", before)

	var journals []string
	lab := New(t)
	journals = append(journals, lab.Journal)
	lab.count(false, make())
	after := world()
	if after == before {
		t.Fatal("a run changed nothing")
	}
	if calls := New(t).count(false, make()); calls["Do"] != 0 {
		t.Errorf("Do was called though its effect was there")
	}
	lab.count(true, make())
	is("after an undo", before)

	lab = New(t)
	journals = append(journals, lab.Journal)
	lab.crash("before do ", make())
	is("after a crash at the intent", before)
	lab.count(false, make())
	is("after resuming from a crash at the intent", after)
	lab.count(true, make())
	is("after undoing that", before)

	lab = New(t)
	journals = append(journals, lab.Journal)
	lab.crash("after do ", make())
	is("after a crash that follows the effect", after)
	if calls := lab.count(false, make()); calls["Do"] != 0 {
		t.Errorf("after a crash that follows the effect Do was called again")
	}
	lab.crash("before undo ", make())
	is("after a crash at the intent to undo", after)
	lab.crash("after undo ", make())
	is("after a crash that follows undoing", before)
	if calls := lab.count(true, make()); calls["Undo"] != 0 {
		t.Errorf("after a crash that follows undoing Undo was called again")
	}
	is("in the end", before)

	for _, path := range journals {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) {
				t.Errorf("the journal holds a secret")
			}
		}
	}
}
