package failover_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/failover"
)

func TestRenderings(t *testing.T) {
	p := switchover(t, nil)
	for name, write := range map[string]func(*bytes.Buffer) error{
		"plan.txt":  func(b *bytes.Buffer) error { return p.WriteTable(b) },
		"plan.json": func(b *bytes.Buffer) error { return p.WriteJSON(b) },
		"plan.md":   func(b *bytes.Buffer) error { return p.WriteMarkdown(b) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
	ungraceful := switchover(t, func(c *failover.PlanConfig) { c.Mode, c.Title, c.OnFailure = failover.ModeUngraceful, "", "" })
	var b bytes.Buffer
	if err := errors.Join(ungraceful.WriteTable(&b), ungraceful.WriteMarkdown(&b)); err != nil {
		t.Fatal(err)
	}
	golden(t, "ungraceful.txt", b.Bytes())
}

// Texts of steps stay texts: they neither end a table's row nor a block of code.
func TestMarkdownCannotBeBrokenOutOf(t *testing.T) {
	f := failover.Funcs{Name: "a", Observe: pending, Do: nothing, Description: failover.Description{
		Action: "x | y\n| z\n# heading\n<script>", Commands: []string{"echo ```", "```` rm"}}}
	p, err := failover.NewPlan(failover.PlanConfig{Name: "p", Title: "a\n# b", Steps: steps(f)})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Contains(text, "<script>") || strings.Contains(text, "\n# heading") || strings.Contains(text, "\n# b") || !strings.Contains(text, "\n`````\necho ```\n```` rm\n`````\n") {
		t.Errorf("broken out:\n%s", text)
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "| 1 |") && strings.Count(strings.ReplaceAll(line, `\|`, ""), "|") != 8 {
			t.Errorf("row %q", line)
		}
	}
}

// timeline is a journal's, without what differs from run to run.
func timeline(t *testing.T, l *lab) []byte {
	t.Helper()
	var b bytes.Buffer
	log := l.log()
	if err := log.WriteTimeline(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, fmt.Sprintf("process %d on %s", os.Getpid(), host), "process P on HOST")
	text = strings.ReplaceAll(text, log.ID(), "JOURNAL")
	text = strings.ReplaceAll(strings.ReplaceAll(text, log.Hash(), "HASH"), failover.ShortHash(log.Hash()), "HASH")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \+\d\d:\d\d:\d\d`).ReplaceAllString(text, "2026-01-02 03:04:05  +00:00:00")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(text, "2026-01-02T03:04:05Z")
	return regexp.MustCompile(`at \d\d:\d\d:\d\d`).ReplaceAll([]byte(text), []byte("at 03:04:05"))
}

func TestTimeline(t *testing.T) {
	l := newLab(t)
	a, b := l.effect("a"), l.effect("b")
	a.Approval = failover.Approval{Role: "lead"}
	do := a.Do
	a.Do = func(ctx context.Context) error {
		failover.Note(ctx, "2 pods\ndeleted")
		return errors.Join(failover.Save(ctx, "k", 1), do(ctx))
	}
	fail := true
	b.Do = func(context.Context) error {
		if fail {
			return errors.New("connection refused")
		}
		return nil
	}
	plan := l.plan(failover.PlanConfig{Mode: failover.ModeUngraceful, Steps: []failover.Step{
		failover.Check("verdict", func(context.Context) (failover.Observation, error) {
			return failover.Observation{State: failover.Blocked, Detail: "behind", Loss: "at most 12 revisions"}, nil
		}, failover.Description{}), a.Step(), b.Step()}})
	r := l.runner(plan, failover.Config{NoWait: true, By: "Tom"})
	_ = r.Run(t.Context())
	for _, d := range []failover.Decision{
		{Kind: failover.DecisionAccept, Step: "verdict", Loss: "at most 12 revisions", By: "Mia"},
		{Kind: failover.DecisionApprove, Step: "a", By: "Mia", Role: "lead", Comment: "go"},
	} {
		d.PlanHash = plan.Hash()
		if _, err := r.Decide(d); err != nil {
			t.Fatal(err)
		}
	}
	l.inbox(failover.Decision{ID: "x", Kind: failover.DecisionApprove, Step: "a", By: "Eve", Role: "intern", PlanHash: plan.Hash(), At: l.log().Status().Began})
	wantError(t, r.Run(t.Context()), failover.ErrStepFailed, "b")
	golden(t, "timeline-stopped.txt", timeline(t, l))
	if err := r.Undo(t.Context(), failover.UndoOptions{By: "Mia", Reason: "the primary is back"}); err != nil {
		t.Fatal(err)
	}
	golden(t, "timeline-undone.txt", timeline(t, l))
}

// Hooks see each record as it is written, Status is a copy, and logs have what happens.
func TestHooksStatusAndLog(t *testing.T) {
	l := newLab(t)
	var kinds []string
	var logged bytes.Buffer
	var r *failover.Runner
	hooks := failover.Hooks{
		Recorded: func(i failover.RecordedInfo) {
			kinds = append(kinds, string(i.Record.Kind))
			if got := len(l.log().Records); got != int(i.Record.Seq) {
				t.Errorf("record %d is not in the file: %d are", i.Record.Seq, got)
			}
			s := r.Status()
			s.Steps[0].Name = "changed"
			if r.Status().Steps[0].Name != "a" {
				t.Error("the status is no copy")
			}
		},
	}
	observed := 0
	r = l.runner(l.plan(failover.PlanConfig{Steps: steps(l.effect("a"))}), failover.Config{
		Hooks:  failover.JoinHooks(hooks, failover.Hooks{Observed: func(failover.ObservedInfo) { observed++ }}),
		Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(kinds, " "), "plan run observed intent observed done end"; got != want {
		t.Errorf("hooks saw %q, want %q", got, want)
	}
	if observed != 3 {
		t.Errorf("%d observations", observed)
	}
	for _, part := range []string{"kind=intent", "step=a", "outcome=done", "plan=test"} {
		if !strings.Contains(logged.String(), part) {
			t.Errorf("the log has no %s:\n%s", part, logged.String())
		}
	}
}

// What a step saves, which may be large and is not for everyone's eyes, appears in neither logs nor renderings.
func TestSavedValuesAreNotShown(t *testing.T) {
	l := newLab(t)
	var logged bytes.Buffer
	f := l.effect("a")
	do := f.Do
	f.Do = func(ctx context.Context) error {
		return errors.Join(failover.Save(ctx, "before", "tsig-1234"), do(ctx))
	}
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := logged.String() + string(timeline(t, l)) + fmt.Sprintf("%+v", r.Status()); strings.Contains(text, "tsig-1234") {
		t.Errorf("shown:\n%s", text)
	}
}
