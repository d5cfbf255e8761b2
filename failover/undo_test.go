package failover_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

func TestUndoInReverseOrder(t *testing.T) {
	l := newLab(t)
	l.write("do:b")
	plan := l.plan(failover.PlanConfig{Steps: append(steps(l.effect("a"), l.effect("b"), l.effect("c")),
		failover.Check("gate", func(context.Context) (failover.Observation, error) {
			return failover.Observation{State: failover.Done}, nil
		}, failover.Description{}))})
	r := l.runner(plan, failover.Config{})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Undo(t.Context(), failover.UndoOptions{By: "lead", Reason: "wrong night"}); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:b", "do:a", "do:c", "undo:c", "undo:a") // b was not this run's doing
	l.wantStates(r, "a=undone b=already c=undone gate=passed")
	if s := r.Status(); s.Outcome != failover.OutcomeUndone {
		t.Errorf("outcome %s", s.Outcome)
	}
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{}), failover.ErrEnded, "", "undone")
	wantError(t, r.Run(t.Context()), failover.ErrEnded, "", "undone")
}

// Beyond the point of no return nothing is undone, unless only what came after is asked for.
func TestPointOfNoReturnIsNotPassedBackwards(t *testing.T) {
	build := func(l *lab) *failover.Runner {
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(l.effect("quiesce"), l.irreversible("fence"), l.effect("dns"), l.effect("pods"))}), failover.Config{})
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); !s.Passed || s.PointOfNoReturn != "fence" {
			t.Errorf("status: passed %v, %q", s.Passed, s.PointOfNoReturn)
		}
		return r
	}
	done := []string{"do:quiesce", "do:fence", "do:dns", "do:pods"}

	l := newLab(t)
	r := build(l)
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{}), failover.ErrPointOfNoReturn, "fence", "nothing was undone", `To: "fence"`)
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{To: "quiesce"}), failover.ErrPointOfNoReturn, "fence")
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{To: "nothing"}), failover.ErrConfig, "", `"nothing"`)
	l.wantLines(done...)
	if err := r.Undo(t.Context(), failover.UndoOptions{To: "dns"}); err != nil {
		t.Fatal(err)
	}
	l.wantLines(append(done, "undo:pods")...)
	// Then forward again, where only that step is missing.
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines(append(done, "undo:pods", "do:pods")...)

	l = newLab(t)
	r = build(l)
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{Partial: true}), failover.ErrPointOfNoReturn, "fence", "what came after is undone")
	l.wantLines(append(done, "undo:pods", "undo:dns")...)
	l.wantStates(r, "quiesce=done fence=done dns=undone pods=undone")
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines(append(done, "undo:pods", "undo:dns", "do:dns", "do:pods")...)
}

// Of a step without Undo that was begun and not finished, Observe decides whether the point was passed.
func TestABegunPointOfNoReturn(t *testing.T) {
	for _, c := range []struct {
		state  failover.State
		err    error
		passed bool
	}{{failover.Pending, nil, false}, {failover.Partial, nil, true}, {failover.Blocked, nil, true}, {"", errors.New("unreachable"), true}} {
		l := newLab(t)
		begun := false
		f := l.irreversible("fence")
		f.Observe = func(context.Context) (failover.Observation, error) {
			if !begun {
				return failover.Observation{State: failover.Pending}, nil
			}
			return failover.Observation{State: c.state, Detail: "after"}, c.err
		}
		f.Do = func(context.Context) error { begun = true; return errors.New("cut off") }
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(l.effect("quiesce"), f)}), failover.Config{})
		wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "fence", "cut off")
		err := r.Undo(t.Context(), failover.UndoOptions{})
		if c.passed {
			wantError(t, err, failover.ErrPointOfNoReturn, "fence", "it was begun")
			l.wantLines("do:quiesce")
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.state, err)
		}
		l.wantLines("do:quiesce", "undo:quiesce")
	}
}

func TestUndoOnFailure(t *testing.T) {
	stopped := errors.New("out of order")
	for name, c := range map[string]struct {
		third func(l *lab) failover.Step
		kind  error
	}{
		"Do": {func(l *lab) failover.Step {
			f := l.effect("c")
			f.Do = func(context.Context) error { return stopped }
			return f.Step()
		}, failover.ErrStepFailed},
		"Verify": {func(l *lab) failover.Step {
			f := l.effect("c")
			f.Do, f.Observe = nothing, func(context.Context) (failover.Observation, error) {
				return failover.Observation{State: failover.Done}, nil
			}
			f.Verify = func(context.Context) error { return stopped }
			return f.Step()
		}, failover.ErrNotVerified},
		"blocked": {func(l *lab) failover.Step {
			return failover.Check("c", func(context.Context) (failover.Observation, error) {
				return failover.Observation{State: failover.Blocked, Detail: "12 revisions behind"}, nil
			}, failover.Description{})
		}, failover.ErrBlocked},
	} {
		l := newLab(t)
		r := l.runner(l.plan(failover.PlanConfig{OnFailure: failover.FailureUndo, Steps: append(steps(l.effect("a"), l.effect("b")), c.third(l))}), failover.Config{})
		err := r.Run(t.Context())
		wantError(t, err, failover.ErrUndone, "")
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: the cause is missing: %v", name, err)
		}
		l.wantLines("do:a", "do:b", "undo:b", "undo:a")

		// After the point of no return it stops instead.
		l = newLab(t)
		r = l.runner(l.plan(failover.PlanConfig{OnFailure: failover.FailureUndo, Steps: append(steps(l.effect("a"), l.irreversible("b")), c.third(l))}), failover.Config{})
		err = r.Run(t.Context())
		wantError(t, err, c.kind, "c", "nothing is undone, because step b cannot be")
		if errors.Is(err, failover.ErrUndone) {
			t.Errorf("%s: %v", name, err)
		}
		l.wantLines("do:a", "do:b")
		if s := r.Status(); s.State != failover.RunStopped {
			t.Errorf("%s: %s", name, s.State)
		}
	}
}

// A step can find out while it is undone that it cannot be: the undoing ends there, and the run goes forward, doing again what was undone.
func TestAStepRefusesToBeUndone(t *testing.T) {
	for _, how := range []string{"asked", "on failure"} {
		t.Run(how, func(t *testing.T) {
			l := newLab(t)
			broken := how == "on failure"
			fence := l.effect("fence")
			fence.Retry = failover.Retry{Attempts: 5}
			fence.Undo = func(context.Context) error {
				return &failover.Error{Kind: failover.ErrPointOfNoReturn, Detail: "somebody has written"}
			}
			last := l.effect("last")
			do := last.Do
			last.Do = func(ctx context.Context) error {
				if broken {
					return errors.New("not today")
				}
				return do(ctx)
			}
			plan := l.plan(failover.PlanConfig{OnFailure: failover.FailureUndo, Steps: steps(l.effect("quiesce"), fence, l.effect("dns"), last)})
			r := l.runner(plan, failover.Config{})
			err := r.Run(t.Context())
			if how == "asked" {
				if err != nil {
					t.Fatal(err)
				}
				err = r.Undo(t.Context(), failover.UndoOptions{})
			}
			wantError(t, err, failover.ErrPointOfNoReturn, "fence", "cannot be undone any more", "somebody has written")
			broken = false
			if err := l.runner(plan, failover.Config{}).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := []string{"do:quiesce", "do:fence", "do:dns", "do:last", "undo:last", "undo:dns", "do:dns", "do:last"}
			if how == "on failure" {
				want = []string{"do:quiesce", "do:fence", "do:dns", "undo:dns", "do:dns", "do:last"}
			}
			l.wantLines(want...)
		})
	}
}

func TestUndoThatFails(t *testing.T) {
	l := newLab(t)
	broken := true
	a, b := l.effect("a"), l.effect("b")
	undo := a.Undo
	a.Undo = func(ctx context.Context) error {
		if broken {
			return errors.New("the primary does not answer")
		}
		return undo(ctx)
	}
	a.Retry = failover.Retry{Attempts: 2, First: time.Nanosecond, Max: time.Nanosecond}
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(a, b)}), failover.Config{})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{}), failover.ErrUndoFailed, "a", "the primary does not answer")
	if n := len(l.records(failover.RecordUndoIntent)); n != 3 {
		t.Errorf("%d intents: want one of b and two of a", n)
	}
	l.wantLines("do:a", "do:b", "undo:b")
	broken = false
	// Run goes on with what was under way.
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b", "undo:b", "undo:a")
	if s := r.Status(); s.Outcome != failover.OutcomeUndone {
		t.Errorf("%s %s", s.State, s.Outcome)
	}
}

// An Undo that changes nothing is found out.
func TestUndoIsObserved(t *testing.T) {
	l := newLab(t)
	f := l.effect("a")
	f.Undo = nothing
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{}), failover.ErrUndoFailed, "a", "it returned, and Observe says done")
}

func TestADrillLeavesNothingBehind(t *testing.T) {
	l := newLab(t)
	look := make(chan struct{})
	plan := l.plan(failover.PlanConfig{Mode: failover.ModeDrill, Steps: append(steps(l.effect("a"), l.effect("b")),
		failover.Ask("look", failover.Prompt{Text: "Look around", Harmless: true}, failover.Description{}))})
	r := l.runner(plan, failover.Config{Hooks: failover.Hooks{Waiting: func(failover.WaitingInfo) { close(look) }}})
	go func() {
		<-look
		if got := fmt.Sprint(l.lines()); got != "[do:a do:b]" {
			t.Errorf("during the drill: %s", got)
		}
		if _, err := r.Decide(failover.Decision{Kind: failover.DecisionConfirm, Step: "look", By: "me", PlanHash: plan.Hash()}); err != nil {
			t.Error(err)
		}
	}()
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b", "undo:b", "undo:a")
	if s := r.Status(); s.Outcome != failover.OutcomeRehearsed {
		t.Errorf("%s %s", s.State, s.Outcome)
	}
}

func TestAPromptIsTakenBack(t *testing.T) {
	l := newLab(t)
	plan := l.plan(failover.PlanConfig{Steps: []failover.Step{l.effect("a").Step(), failover.Ask("call", failover.Prompt{Text: "Call them", Undo: "Call them again"}, failover.Description{})}})
	decide := func(kind failover.DecisionKind) {
		t.Helper()
		if _, err := failover.Decide(l.journal, failover.Decision{Kind: kind, Step: "call", By: "me", PlanHash: plan.Hash()}); err != nil {
			t.Fatal(err)
		}
	}
	r := l.runner(plan, failover.Config{NoWait: true})
	wantError(t, r.Run(t.Context()), failover.ErrWaiting, "call", "confirmation", "Call them")
	decide(failover.DecisionConfirm)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantStates(r, "a=done call=confirmed")
	wantError(t, r.Undo(t.Context(), failover.UndoOptions{}), failover.ErrWaiting, "call", "undone", "Call them again")
	decide(failover.DecisionUndone)
	if err := r.Undo(t.Context(), failover.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "undo:a")
	l.wantStates(r, "a=undone call=undone")
}
