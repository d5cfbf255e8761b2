package failover_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestStepsInOrderEachOnce(t *testing.T) {
	l := newLab(t)
	l.write("do:b") // somebody has done it before
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(l.effect("a"), l.effect("b"), l.effect("c"))}), failover.Config{By: "test"})
	if s := r.Status(); s.State != failover.RunNew || s.Next() != "a" || states(s) != "a=pending b=pending c=pending" {
		t.Errorf("before: %+v", s)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:b", "do:a", "do:c")
	l.wantStates(r, "a=done b=already c=done")
	if s := r.Status(); s.State != failover.RunEnded || s.Outcome != failover.OutcomeCompleted || s.Next() != "" || s.Runner.By != "test" {
		t.Errorf("after: %+v", s)
	}
	wantError(t, r.Run(t.Context()), failover.ErrEnded, "", "completed")
}

func TestRetriesWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var at []time.Duration
		began := time.Now()
		f := l.effect("a")
		f.Retry = failover.Retry{Attempts: 5, First: time.Second, Max: 3 * time.Second}
		f.Do = func(context.Context) error {
			at = append(at, time.Since(began))
			if len(at) == 5 {
				l.write("do:a")
				return nil
			}
			return errors.New("not yet")
		}
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{})
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(at), "[0s 1s 3s 6s 9s]"; got != want {
			t.Errorf("attempts at %s, want %s", got, want)
		}
		if n := len(l.records(failover.RecordFailed)); n != 4 {
			t.Errorf("%d failures recorded", n)
		}
		if s := r.Status().Steps[0]; s.Attempts != 5 {
			t.Errorf("%d attempts in the status", s.Attempts)
		}
	})
}

func TestNoMoreAttemptsThanAllowed(t *testing.T) {
	for name, c := range map[string]struct {
		retry failover.Retry
		err   error
		want  int
	}{
		"default":   {failover.Retry{}, errors.New("no"), 1},
		"three":     {failover.Retry{Attempts: 3, First: time.Nanosecond, Max: time.Nanosecond}, errors.New("no"), 3},
		"permanent": {failover.Retry{Attempts: 3, First: time.Nanosecond, Max: time.Nanosecond}, failover.Permanent(errors.New("no")), 1},
	} {
		l := newLab(t)
		f := l.effect("a")
		f.Retry = c.retry
		f.Do = func(context.Context) error { l.write("try"); return c.err }
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f, l.effect("b"))}), failover.Config{})
		wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "a", "no")
		if n := l.count("try"); n != c.want {
			t.Errorf("%s: %d attempts, want %d", name, n, c.want)
		}
		l.wantStates(r, "a=failed b=pending")
		if s := r.Status(); s.State != failover.RunStopped || !strings.Contains(s.Detail, "no") {
			t.Errorf("%s: %s, %q", name, s.State, s.Detail)
		}
	}
}

// What Do returns does not decide: what can be seen does.
func TestObserveDecides(t *testing.T) {
	l := newLab(t)
	lost := l.effect("lost") // the answer is lost, the effect is there
	lost.Do = func(context.Context) error { l.write("do:lost"); return errors.New("connection reset") }
	idle := l.effect("idle")
	idle.Do = nothing // it says that all is well, and nothing is there
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(lost, idle)}), failover.Config{})
	wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "idle", "it returned, and Observe says pending")
	l.wantLines("do:lost")
	l.wantStates(r, "lost=done idle=failed")
	if d := r.Status().Steps[0].Detail; !strings.Contains(d, "connection reset") {
		t.Errorf("the lost answer is not recorded: %q", d)
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var overdue []failover.OverdueInfo
		f := l.effect("slow")
		f.Timeout = time.Minute
		f.Do = func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(10 * time.Second) // it does not return when it should
			return ctx.Err()
		}
		began := time.Now()
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{Hooks: failover.Hooks{Overdue: func(i failover.OverdueInfo) { overdue = append(overdue, i) }}})
		wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "slow", "did not end within 1m0s")
		if took := time.Since(began); took != 70*time.Second {
			t.Errorf("it took %v", took)
		}
		if len(overdue) != 1 || overdue[0] != (failover.OverdueInfo{Step: "slow", Call: "Do"}) {
			t.Errorf("overdue: %v", overdue)
		}
	})
}

func TestTimeoutOfObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		f := l.effect("blind")
		f.Observe = func(ctx context.Context) (failover.Observation, error) {
			<-ctx.Done()
			return failover.Observation{}, ctx.Err()
		}
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{ObserveTimeout: 7 * time.Second})
		wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "blind", "Observe did not end within 7s")
		l.wantLines()
	})
}

func TestVerifyFailsAndAfterwardsHolds(t *testing.T) {
	l := newLab(t)
	broken := true
	f := l.effect("a")
	f.Verify = func(context.Context) error {
		if broken {
			return errors.New("one resolver still has the old address")
		}
		return nil
	}
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f, l.effect("b"))}), failover.Config{})
	wantError(t, r.Run(t.Context()), failover.ErrNotVerified, "a", "one resolver")
	l.wantLines("do:a")
	broken = false
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b")
}

func TestBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		opens := time.Now().Add(time.Minute)
		f := l.effect("a")
		observe := f.Observe
		f.Observe = func(ctx context.Context) (failover.Observation, error) {
			if left := time.Until(opens); left > 0 {
				return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("opens in %v", left)}, nil
			}
			return observe(ctx)
		}
		plan := l.plan(failover.PlanConfig{Steps: steps(f)})
		wantError(t, l.runner(plan, failover.Config{}).Run(t.Context()), failover.ErrBlocked, "a", "opens in 1m0s")
		began := time.Now()
		wantError(t, l.runner(plan, failover.Config{BlockedWait: 30 * time.Second, Poll: time.Second}).Run(t.Context()), failover.ErrBlocked, "a", "opens in 30s")
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("it waited %v", took)
		}
		var waited []failover.Waiting
		r := l.runner(plan, failover.Config{BlockedWait: -1, Poll: time.Second, Hooks: failover.Hooks{Waiting: func(i failover.WaitingInfo) { waited = append(waited, i.Waiting) }}})
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.wantLines("do:a")
		if len(waited) != 1 || waited[0].For != failover.NeedCondition || waited[0].Step != "a" {
			t.Errorf("waited for %+v", waited)
		}
	})
}

// A context that ends stops at once, in each phase, and what follows goes on.
func TestInterruptedAndResumed(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	first := true
	f := l.effect("b")
	do := f.Do
	f.Do = func(c context.Context) error {
		if first {
			first = false
			cancel(errors.New("SIGTERM"))
			<-c.Done()
			return c.Err()
		}
		return do(c)
	}
	r := l.runner(l.plan(failover.PlanConfig{OnFailure: failover.FailureUndo, Steps: steps(l.effect("a"), f, l.effect("c"))}), failover.Config{})
	err := r.Run(ctx)
	wantError(t, err, failover.ErrInterrupted, "b", "SIGTERM")
	l.wantLines("do:a") // nothing is undone: nothing failed
	if s := l.log().Status(); s.State != failover.RunStopped || s.Next() != "b" {
		t.Errorf("%s, next %s", s.State, s.Next())
	}
	wantError(t, r.Run(ctx), failover.ErrInterrupted, "")
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b", "do:c")
}

func TestAPanicIsAFailure(t *testing.T) {
	l := newLab(t)
	f := l.effect("a")
	f.Do = func(context.Context) error { panic("index out of range") }
	wantError(t, l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{}).Run(t.Context()), failover.ErrStepFailed, "a", "panicked", "index out of range")
}

func TestAnUnknownStateIsAFailure(t *testing.T) {
	l := newLab(t)
	f := l.effect("a")
	f.Observe = func(context.Context) (failover.Observation, error) { return failover.Observation{}, nil }
	wantError(t, l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{}).Run(t.Context()), failover.ErrStepFailed, "a", "unknown state")
	l.wantLines()
}

func TestBeginPolicies(t *testing.T) {
	l := newLab(t)
	plan := l.plan(failover.PlanConfig{Steps: steps(l.effect("a"))})
	wantError(t, l.runner(plan, failover.Config{Begin: failover.ResumeOnly}).Run(t.Context()), failover.ErrNoJournal, "")
	wantError(t, l.runner(plan, failover.Config{}).Undo(t.Context(), failover.UndoOptions{}), failover.ErrNoJournal, "")
	if _, err := os.Stat(l.journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if err := l.runner(plan, failover.Config{Begin: failover.BeginOnly}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, l.runner(plan, failover.Config{Begin: failover.BeginOnly}).Run(t.Context()), failover.ErrJournalExists, "")
	wantError(t, l.runner(plan, failover.Config{Journal: filepath.Join(l.dir, "none", "x")}).Run(t.Context()), failover.ErrJournal, "", "none")
}

// Two runners on one journal: the second is refused while the first lives, in this process or another, and let in at once when the first was killed.
func TestTwoRunnersOnOneJournal(t *testing.T) {
	ctx := testutil.Context(t)
	l := newLab(t)
	inside, release := make(chan struct{}), make(chan struct{})
	f := l.effect("a")
	do := f.Do
	f.Do = func(ctx context.Context) error { close(inside); <-release; return do(ctx) }
	plan := l.plan(failover.PlanConfig{Steps: steps(f)})
	first, second := l.runner(plan, failover.Config{By: "the first"}), l.runner(plan, failover.Config{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := first.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-inside
	before, err := os.ReadFile(l.journal)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, first.Run(ctx), failover.ErrBusy, "")
	wantError(t, second.Run(ctx), failover.ErrBusy, "", "the first", fmt.Sprint(os.Getpid()))
	wantError(t, second.Undo(ctx, failover.UndoOptions{}), failover.ErrBusy, "")
	p := proc.Start(t, "runner", []string{"DIR=" + l.dir})
	_ = p.Wait(ctx)
	wantResult(t, p, "another process", "busy")
	if after, err := os.ReadFile(l.journal); err != nil || string(after) != string(before) {
		t.Errorf("those who were refused wrote: %v", err)
	}
	close(release)
	wg.Wait()
	l.wantLines("do:a")
}

func TestStepsKeepWhatTheySave(t *testing.T) {
	l := newLab(t)
	type before struct{ TTL int }
	fail := true
	a := l.effect("a")
	a.Observe = func(ctx context.Context) (failover.Observation, error) {
		if err := failover.Save(ctx, "k", 1); !errors.Is(err, failover.ErrReadOnly) {
			t.Errorf("Save within Observe: %v", err)
		}
		failover.Note(ctx, "unseen")
		return l.effect("a").Observe(ctx)
	}
	var leaked context.Context
	a.Do = func(ctx context.Context) error {
		leaked = ctx
		failover.Note(ctx, "two lines\nof output")
		failover.Report(ctx, "1 of 2")
		if err := failover.Save(ctx, "before", before{TTL: 300}); err != nil {
			return err
		}
		l.write("do:a")
		return nil
	}
	var undone before
	a.Undo = func(ctx context.Context) error {
		found, err := failover.Load(ctx, "before", &undone)
		if !found || err != nil {
			return fmt.Errorf("found %v: %w", found, err)
		}
		l.write("undo:a")
		return nil
	}
	b := l.effect("b")
	b.Do = func(ctx context.Context) error {
		var v before
		if found, err := failover.LoadFrom(ctx, "a", "before", &v); !found || err != nil || v.TTL != 300 {
			t.Errorf("LoadFrom: %v %v %v", found, err, v)
		}
		if _, err := failover.LoadFrom(ctx, "a", "before", new([]int)); err == nil {
			t.Error("a wrong type was filled")
		}
		if found, _ := failover.Load(ctx, "before", &v); found {
			t.Error("b has what a saved")
		}
		if err := failover.Save(ctx, "large", strings.Repeat("x", 65<<10)); err == nil {
			t.Error("a large value was saved")
		}
		if at, ok := failover.Began(ctx); !ok || time.Since(at) > time.Hour {
			t.Errorf("began %v, %v", at, ok)
		}
		if fail {
			return errors.New("not yet")
		}
		return l.effect("b").Do(ctx)
	}
	plan := l.plan(failover.PlanConfig{Steps: steps(a, b)})
	var progress []failover.ProgressInfo
	r := l.runner(plan, failover.Config{Hooks: failover.Hooks{Progress: func(i failover.ProgressInfo) { progress = append(progress, i) }}})
	wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "b")
	if err := failover.Save(leaked, "late", 1); !errors.Is(err, failover.ErrReadOnly) {
		t.Errorf("Save after Do has returned: %v", err)
	}
	if len(progress) != 1 || progress[0].Text != "1 of 2" {
		t.Errorf("progress %v", progress)
	}
	if notes := l.records(failover.RecordNote); len(notes) != 1 || notes[0].Detail != "two lines\nof output" {
		t.Errorf("notes %+v", notes)
	}
	// Another process would read it from the journal.
	if err := l.runner(plan, failover.Config{}).Undo(t.Context(), failover.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	if undone.TTL != 300 {
		t.Errorf("undo got %+v", undone)
	}
	if err := failover.Save(t.Context(), "x", 1); !errors.Is(err, failover.ErrReadOnly) {
		t.Errorf("Save outside of a runner: %v", err)
	}
}

// A step that restarts something is done when that something is younger than the step's beginning, also after a crash.
func TestBeganTellsWhatIsYounger(t *testing.T) {
	l := newLab(t)
	started := time.Now().Add(-time.Hour)
	f := failover.Funcs{Name: "restart", Observe: func(ctx context.Context) (failover.Observation, error) {
		if began, ok := failover.Began(ctx); ok && !started.Before(began) {
			return failover.Observation{State: failover.Done}, nil
		}
		return failover.Observation{State: failover.Pending}, nil
	}, Do: func(context.Context) error { started = time.Now(); l.write("restart"); return nil }}
	if err := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("restart")
}

// What is finished stays finished: a later step, or the world, may have changed what it left, and doing it again is nobody's wish.
func TestFinishedStepsAreLeftAlone(t *testing.T) {
	l := newLab(t)
	looked := 0
	a, b := l.effect("a"), l.effect("b")
	observe := a.Observe
	a.Observe = func(ctx context.Context) (failover.Observation, error) { looked++; return observe(ctx) }
	do, fail := b.Do, true
	b.Do = func(ctx context.Context) error {
		if fail {
			return errors.New("not yet")
		}
		return do(ctx)
	}
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(a, b)}), failover.Config{})
	wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "b")
	l.write("undo:a") // somebody takes it back
	fail, looked = false, 0
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "undo:a", "do:b")
	if looked != 0 {
		t.Errorf("it was looked at %d times", looked)
	}
}
