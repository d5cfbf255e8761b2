package failover_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

func approved(l *lab, a failover.Approval) *failover.Plan {
	f := l.effect("b")
	f.Approval = a
	return l.plan(failover.PlanConfig{Steps: steps(l.effect("a"), f)})
}

// inbox leaves a decision past the checks of Decide, as somebody with an editor would.
func (l *lab) inbox(d failover.Decision) {
	l.t.Helper()
	raw, err := json.Marshal(d)
	if err == nil {
		err = errors.Join(os.MkdirAll(l.journal+".inbox", 0o700), os.WriteFile(filepath.Join(l.journal+".inbox", d.ID+".json"), raw, 0o600))
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func TestApprovalIsWaitedForAndRecorded(t *testing.T) {
	l := newLab(t)
	plan := approved(l, failover.Approval{Role: "lead"})
	asked := make(chan failover.Waiting, 1)
	r := l.runner(plan, failover.Config{Hooks: failover.Hooks{Waiting: func(i failover.WaitingInfo) { asked <- i.Waiting }}})
	ended := make(chan error)
	go func() { ended <- r.Run(t.Context()) }()
	w := <-asked
	if w.Step != "b" || w.For != failover.NeedApproval || w.Role != "lead" {
		t.Errorf("asked for %+v", w)
	}
	l.wantLines("do:a")
	if s := r.Status(); s.State != failover.RunWaiting || s.Waiting == nil || s.Waiting.Role != "lead" || states(s) != "a=done b=waiting" {
		t.Errorf("status %+v", s)
	}
	d, err := failover.Decide(l.journal, failover.Decision{Kind: failover.DecisionApprove, Step: "b", By: "Mia", Role: "lead", PlanHash: plan.Hash(), Comment: "go"})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b")
	found := l.records(failover.RecordDecision)
	if len(found) != 1 || found[0].Decision.ID != d.ID || found[0].Decision.By != "Mia" || found[0].Decision.PlanHash != plan.Hash() || found[0].Decision.Comment != "go" {
		t.Errorf("recorded: %+v", found)
	}
}

// What does not count is refused where it is left, and also if it gets into the inbox all the same; the run goes on waiting.
func TestDecisionsThatDoNotCount(t *testing.T) {
	now := time.Now()
	good := failover.Decision{Kind: failover.DecisionApprove, Step: "b", By: "Mia", Role: "lead"}
	for name, c := range map[string]struct {
		change func(*failover.Decision)
		part   string
	}{
		"another plan":   {func(d *failover.Decision) { d.PlanHash = strings.Repeat("0", 64) }, "it is for plan 000000000000"},
		"no plan":        {func(d *failover.Decision) { d.PlanHash = "" }, "PlanHash is empty"},
		"another role":   {func(d *failover.Decision) { d.Role = "operator" }, `role "operator" decided, role "lead" is asked`},
		"nobody":         {func(d *failover.Decision) { d.By = "" }, "By is empty"},
		"old":            {func(d *failover.Decision) { d.At = now.Add(-31 * time.Minute) }, "it expired"},
		"expired":        {func(d *failover.Decision) { d.At, d.Expires = now.Add(-2*time.Minute), now.Add(-time.Minute) }, "it expired"},
		"future":         {func(d *failover.Decision) { d.At = now.Add(time.Hour) }, "in the future"},
		"no step":        {func(d *failover.Decision) { d.Step = "z" }, "no such step"},
		"a step without": {func(d *failover.Decision) { d.Step = "a" }, "does not ask"},
		"the plan":       {func(d *failover.Decision) { d.Step = "" }, "does not ask"},
		"a loss":         {func(d *failover.Decision) { d.Kind, d.Loss = failover.DecisionAccept, "x" }, "does not ask"},
		"no loss":        {func(d *failover.Decision) { d.Kind = failover.DecisionAccept }, "Loss is empty"},
		"confirm":        {func(d *failover.Decision) { d.Kind = failover.DecisionConfirm }, "does not ask"},
		"unknown":        {func(d *failover.Decision) { d.Kind = "veto" }, `"veto"`},
		"backwards":      {func(d *failover.Decision) { d.At, d.Expires = now, now.Add(-time.Hour) }, "before it was made"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			plan := approved(l, failover.Approval{Role: "lead", ValidFor: 30 * time.Minute})
			r := l.runner(plan, failover.Config{NoWait: true})
			wantError(t, r.Run(t.Context()), failover.ErrWaiting, "b", `approval by role "lead"`)
			d := good
			d.PlanHash = plan.Hash()
			c.change(&d)
			_, err := r.Decide(d)
			wantError(t, err, failover.ErrDecision, d.Step, c.part)
			if d.At.IsZero() {
				d.At = now
			}
			d.ID = "20260101-by-hand"
			l.inbox(d)
			wantError(t, r.Run(t.Context()), failover.ErrWaiting, "b")
			l.wantLines("do:a")
			if found := l.records(failover.RecordRefused); len(found) != 1 || !strings.Contains(found[0].Detail, c.part) || len(l.records(failover.RecordDecision)) != 0 {
				t.Errorf("recorded: %+v", found)
			}
			// Refused once, not each time.
			wantError(t, r.Run(t.Context()), failover.ErrWaiting, "b")
			if n := len(l.records(failover.RecordRefused)); n != 1 {
				t.Errorf("%d refusals", n)
			}
		})
	}
}

// An approval that was good when it was left may have run out when the step's turn comes.
func TestAnApprovalRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		plan := approved(l, failover.Approval{Role: "lead", ValidFor: time.Hour})
		approve := func() {
			if _, err := failover.Decide(l.journal, failover.Decision{Kind: failover.DecisionApprove, Step: "b", By: "Mia", Role: "lead", PlanHash: plan.Hash(), Expires: time.Now().Add(24 * time.Hour)}); err != nil {
				t.Fatal(err)
			}
		}
		slow := l.runner(plan, failover.Config{NoWait: true})
		wantError(t, slow.Run(t.Context()), failover.ErrWaiting, "b")
		approve()
		time.Sleep(time.Hour) // the plan's limit, whatever the decision says
		wantError(t, slow.Run(t.Context()), failover.ErrWaiting, "b")
		l.wantLines("do:a")
		approve()
		time.Sleep(59 * time.Minute)
		if err := slow.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.wantLines("do:a", "do:b")
	})
}

// One that was taken into the journal runs out all the same.
func TestATakenApprovalRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		open := false
		f := l.effect("b")
		f.Approval = failover.Approval{Role: "lead", ValidFor: time.Hour}
		f.Retry = failover.Retry{Attempts: 2, First: 2 * time.Hour, Max: 2 * time.Hour}
		do := f.Do
		f.Do = func(ctx context.Context) error {
			if !open {
				return errors.New("closed")
			}
			return do(ctx)
		}
		plan := l.plan(failover.PlanConfig{Steps: steps(f)})
		if _, err := failover.Decide(l.journal, failover.Decision{Kind: failover.DecisionApprove, Step: "b", By: "Mia", Role: "lead", PlanHash: plan.Hash()}); err != nil {
			t.Fatal(err)
		}
		err := l.runner(plan, failover.Config{NoWait: true}).Run(t.Context())
		wantError(t, err, failover.ErrWaiting, "b", "the approval by Mia does not count any more")
		if n := len(l.records(failover.RecordIntent)); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestApprovalOfThePlanAndRejection(t *testing.T) {
	l := newLab(t)
	gate := failover.Check("gate", func(context.Context) (failover.Observation, error) {
		return failover.Observation{State: failover.Done}, nil
	}, failover.Description{})
	plan := l.plan(failover.PlanConfig{Approval: failover.Approval{Role: "lead"}, Steps: append([]failover.Step{gate}, steps(l.effect("a"), l.effect("b"))...)})
	r := l.runner(plan, failover.Config{NoWait: true})
	wantError(t, r.Run(t.Context()), failover.ErrWaiting, "", "approval")
	l.wantStates(r, "gate=passed a=pending b=pending")
	decide := func(kind failover.DecisionKind) {
		if _, err := r.Decide(failover.Decision{Kind: kind, By: "Mia", Role: "lead", PlanHash: plan.Hash(), Comment: "because"}); err != nil {
			t.Fatal(err)
		}
	}
	decide(failover.DecisionReject)
	wantError(t, r.Run(t.Context()), failover.ErrRejected, "", "Mia", "because")
	l.wantLines()
	decide(failover.DecisionApprove)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b")
}

func TestAuthorizeHasTheLastWord(t *testing.T) {
	l := newLab(t)
	plan := approved(l, failover.Approval{Role: "lead"})
	r := l.runner(plan, failover.Config{NoWait: true, Authorize: func(d failover.Decision) error {
		if d.By != "Mia" {
			return fmt.Errorf("%s is not on call", d.By)
		}
		return nil
	}})
	for _, by := range []string{"Tom", "Mia"} {
		if _, err := r.Decide(failover.Decision{Kind: failover.DecisionApprove, Step: "b", By: by, Role: "lead", PlanHash: plan.Hash()}); err != nil {
			t.Fatal(err)
		}
		err := r.Run(t.Context())
		if by == "Mia" && err != nil {
			t.Error(err)
		}
		if by == "Tom" {
			wantError(t, err, failover.ErrWaiting, "b")
		}
	}
	if found := l.records(failover.RecordRefused); len(found) != 1 || !strings.Contains(found[0].Detail, "Tom is not on call") {
		t.Errorf("%+v", found)
	}
}

// A gate's loss can be accepted in an ungraceful plan only, word for word, and who did it when is in the journal.
func TestAcceptanceOfALoss(t *testing.T) {
	loss := "at most 12 revisions"
	build := func(l *lab, mode failover.Mode) *failover.Plan {
		return l.plan(failover.PlanConfig{Mode: mode, Steps: []failover.Step{
			failover.Check("verdict", func(context.Context) (failover.Observation, error) {
				return failover.Observation{State: failover.Blocked, Detail: "the copy is 3 s old", Loss: loss}, nil
			}, failover.Description{}), l.effect("fence").Step()}})
	}
	l := newLab(t)
	plan := build(l, failover.ModeGraceful)
	wantError(t, l.runner(plan, failover.Config{NoWait: true}).Run(t.Context()), failover.ErrBlocked, "verdict", "the copy is 3 s old")
	_, err := failover.Decide(l.journal, failover.Decision{Kind: failover.DecisionAccept, Step: "verdict", By: "Mia", Loss: loss, PlanHash: plan.Hash()})
	wantError(t, err, failover.ErrDecision, "verdict", "ungraceful")

	l = newLab(t)
	plan = build(l, failover.ModeUngraceful)
	r := l.runner(plan, failover.Config{NoWait: true})
	accept := func(text string) {
		if _, err := r.Decide(failover.Decision{Kind: failover.DecisionAccept, Step: "verdict", By: "Mia", Role: "lead", Loss: text, PlanHash: plan.Hash()}); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, r.Run(t.Context()), failover.ErrWaiting, "verdict", "acceptance", loss)
	accept("at most 1 revision")
	wantError(t, r.Run(t.Context()), failover.ErrWaiting, "verdict")
	accept(loss)
	loss = "at most 13 revisions" // it grew meanwhile
	wantError(t, r.Run(t.Context()), failover.ErrWaiting, "verdict", "13")
	l.wantLines()
	accept(loss)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:fence")
	l.wantStates(r, "verdict=accepted fence=done")
	for _, done := range l.records(failover.RecordDone) {
		if done.Step == "verdict" && (done.Loss != loss || done.Decision == nil || done.Decision.By != "Mia" || done.Decision.At.IsZero()) {
			t.Errorf("recorded: %+v", done)
		}
	}
}

func TestAPromptThatCanBeSeen(t *testing.T) {
	l := newLab(t)
	asked := make(chan struct{})
	plan := l.plan(failover.PlanConfig{Steps: []failover.Step{checkedPrompt{l.effect("cable").Step()}, l.effect("after").Step()}})
	r := l.runner(plan, failover.Config{Hooks: failover.Hooks{Waiting: func(failover.WaitingInfo) { close(asked) }}})
	_, err := r.Decide(failover.Decision{Kind: failover.DecisionConfirm, Step: "cable", By: "me", PlanHash: plan.Hash()})
	if err != nil { // before the journal exists, what the plan asks is unknown
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- r.Run(t.Context()) }()
	<-asked
	if n := len(l.records(failover.RecordRefused)); n != 1 {
		t.Errorf("saying that it was done counts although it can be seen: %d refusals", n)
	}
	l.wantLines()
	l.write("do:cable")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	l.wantStates(r, "cable=confirmed after=done")
}

// checkedPrompt is a person's task that Observe can see; it is not made from funcs alone.
type checkedPrompt struct{ failover.Step }

func (checkedPrompt) Prompt() failover.Prompt {
	return failover.Prompt{Text: "Plug the cable in", Checked: true}
}

func TestFilesThatAreNoDecisions(t *testing.T) {
	l := newLab(t)
	plan := approved(l, failover.Approval{Role: "lead"})
	if err := os.MkdirAll(l.journal+".inbox", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a.json": "{", "b.json": `{"id":"other"}`, "c.json": `{"id":"c","vote":1}`, "d.txt": "hello", ".e.json": "{}", "f.json": strings.Repeat(" ", 100<<10)} {
		if err := os.WriteFile(filepath.Join(l.journal+".inbox", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := l.runner(plan, failover.Config{NoWait: true})
	wantError(t, r.Run(t.Context()), failover.ErrWaiting, "b")
	if _, err := r.Decide(failover.Decision{Kind: failover.DecisionApprove, Step: "b", By: "Mia", Role: "lead", PlanHash: plan.Hash()}); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b")
}
