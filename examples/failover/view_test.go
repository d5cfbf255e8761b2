package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func status(states ...failover.StepState) failover.Status {
	s := failover.Status{Plan: "switchover", Mode: failover.ModeGraceful, Hash: strings.Repeat("ab", 32), State: failover.RunRunning, Began: noon}
	for i, state := range states {
		step := failover.StepStatus{Name: fmt.Sprintf("step-%02d", i+1), Action: "act", State: state, Detail: "seen"}
		if state != failover.StepPending {
			step.Began = noon
		}
		if state == failover.StepDone {
			step.Ended = noon.Add(1500 * time.Millisecond)
		}
		s.Steps = append(s.Steps, step)
	}
	return s
}

func TestView(t *testing.T) {
	s := status(failover.StepDone, failover.StepAlready, failover.StepRunning, failover.StepPending)
	s.Step, s.Steps[2].Progress, s.Steps[2].Attempts, s.Steps[3].PointOfNoReturn = "step-03", "12 to go", 2, true
	got := strings.Join(view{journal: "j"}.lines(s, noon.Add(75*time.Second), 0), "\n")
	want := `switchover  graceful  abababababab  running  since ` + noon.Local().Format("15:04:05") + `
 1  step-01  done         1.5s  seen
 2  step-02  already     1m15s  seen
 3  step-03  running     1m15s  attempt 2: 12 to go
 4  step-04                     [no return] act`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What a run waits for is told with the command that ends the waiting.
func TestViewOfWaiting(t *testing.T) {
	for need, want := range map[failover.Need]string{
		failover.NeedApproval:     "failover approve --journal '/a b' --hash abababababab --step step-01 --role boss",
		failover.NeedAcceptance:   `failover approve --journal '/a b' --hash abababababab --step step-01 --accept-loss '12 of "them", it'\''s sure' --role boss`,
		failover.NeedConfirmation: "failover approve --journal '/a b' --hash abababababab --step step-01 --confirm --role boss",
		failover.NeedUndone:       "failover approve --journal '/a b' --hash abababababab --step step-01 --undone --role boss",
		failover.NeedAction:       "",
		failover.NeedCondition:    "",
	} {
		s := status(failover.StepWaiting)
		s.Waiting = &failover.Waiting{Step: "step-01", For: need, Role: "boss"}
		if need == failover.NeedAcceptance {
			s.Waiting.Loss = `12 of "them", it's sure`
		}
		lines := view{journal: "/a b"}.lines(s, noon, 0)
		if want == "" {
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "waiting: step-01, "+string(need)) {
				t.Errorf("%s: %q", need, last)
			}
		} else if last := strings.TrimSpace(lines[len(lines)-1]); last != want {
			t.Errorf("%s: %q, want %q", need, last, want)
		}
	}
}

// Of a long plan the current step is always shown, in as many lines as there are.
func TestViewOfALongPlan(t *testing.T) {
	states := make([]failover.StepState, 40)
	for at := range states {
		for i := range states {
			states[i] = failover.StepPending
			if i < at {
				states[i] = failover.StepDone
			}
		}
		states[at] = failover.StepRunning
		for _, rows := range []int{6, 10, 24, 41, 50} {
			s := status(states...)
			s.Step = s.Steps[at].Name
			lines := view{}.lines(s, noon, rows)
			text := strings.Join(lines, "\n")
			if len(lines) > rows || !strings.Contains(text, s.Step) {
				t.Fatalf("step %d, %d rows:\n%s", at+1, rows, text)
			}
			if rows > len(states) && len(lines) != len(states)+1 {
				t.Fatalf("%d rows are not used:\n%s", rows, text)
			}
		}
	}
}
