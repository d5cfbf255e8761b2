package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/examples/internal/screen"
	"github.com/understudy-dr/understudy/failover"
)

// viewInterval is how often the live view is drawn.
const viewInterval = 200 * time.Millisecond

// view shows a run on a terminal: a line for each step, with what is going on below.
type view struct {
	journal string
	painter screen.Painter
}

// follow draws the status until ctx ends, and leaves the last one on the screen.
func (v view) follow(ctx context.Context, s *screen.Screen, status func() failover.Status) {
	tick := time.NewTicker(viewInterval)
	defer tick.Stop()
	for {
		s.Show(v.lines(status(), time.Now(), s.Rows())...)
		select {
		case <-ctx.Done():
			s.Show()
			return
		case <-tick.C:
		}
	}
}

// look is how a state of a step is shown.
func look(s failover.StepState) (word, colour string) {
	switch s {
	case failover.StepDone, failover.StepPassed, failover.StepConfirmed:
		return "done", screen.Green
	case failover.StepAlready:
		return "already", screen.Green
	case failover.StepAccepted:
		return "accepted", screen.Yellow
	case failover.StepRunning, failover.StepUndoing:
		return string(s), screen.Cyan
	case failover.StepWaiting, failover.StepBlocked:
		return string(s), screen.Yellow
	case failover.StepFailed:
		return "failed", screen.Red
	case failover.StepUndone, failover.StepLeftOut:
		return string(s), screen.Dim
	}
	return "", screen.Dim
}

// lines are the view of a status at a time. Of a long plan what is around the current step is shown; rows is how many lines there are, 0 if that is not known.
func (v view) lines(s failover.Status, now time.Time, rows int) []string {
	head := fmt.Sprintf("%s  %s  %s  %s", v.painter.Paint(screen.Bold, s.Plan), s.Mode, failover.ShortHash(s.Hash), s.State)
	if s.Outcome != "" {
		head += ": " + string(s.Outcome)
	}
	if !s.Began.IsZero() {
		head += "  since " + s.Began.Local().Format("15:04:05")
	}
	below := v.below(s)
	width := 0
	for _, step := range s.Steps {
		width = max(width, len(step.Name))
	}
	var steps []string
	for i, step := range s.Steps {
		steps = append(steps, v.step(i, len(s.Steps), width, step, now))
	}
	if room := rows - 1 - len(below); rows > 0 && len(steps) > room {
		steps = window(steps, slices.IndexFunc(s.Steps, func(step failover.StepStatus) bool { return step.Name == cmp.Or(s.Step, s.Next()) }), room)
	}
	return append(append([]string{head}, steps...), below...)
}

// window is what fits of the steps around one of them. What does not fit is counted.
func window(steps []string, around, room int) []string {
	room = max(room, 3) - 2 // the lines that count
	first := min(max(around-room/3, 0), len(steps)-room)
	last := first + room
	var shown []string
	if first > 0 {
		shown = append(shown, fmt.Sprintf("  … %d before", first))
	}
	shown = append(shown, steps[first:last]...)
	if last < len(steps) {
		shown = append(shown, fmt.Sprintf("  … %d more", len(steps)-last))
	}
	return shown
}

func (v view) step(i, n, width int, s failover.StepStatus, now time.Time) string {
	word, colour := look(s.State)
	took := ""
	switch {
	case s.Began.IsZero():
	case !s.Ended.IsZero():
		took = duration(s.Ended.Sub(s.Began))
	default:
		took = duration(now.Sub(s.Began))
	}
	text := cmp.Or(s.Progress, s.Detail)
	if word == "" {
		text = s.Action
	}
	if s.Overdue {
		text = "overdue: " + text
	}
	if s.Attempts > 1 {
		text = fmt.Sprintf("attempt %d: %s", s.Attempts, text)
	}
	digits := len(fmt.Sprint(n))
	line := fmt.Sprintf(" %*d  %-*s  %s  %7s  ", digits, i+1, width, s.Name, v.painter.Paint(colour, fmt.Sprintf("%-8s", word)), took)
	if s.PointOfNoReturn {
		text = "[no return] " + text
	}
	if word == "" {
		text = v.painter.Paint(screen.Dim, text)
	}
	return strings.TrimRight(line+text, " ")
}

// below says what the run waits for, and what to type.
func (v view) below(s failover.Status) (lines []string) {
	if s.Detail != "" && s.Outcome == "" {
		lines = append(lines, v.painter.Paint(screen.Yellow, string(s.State)+": ")+s.Detail)
	}
	if s.Copy != "" {
		lines = append(lines, v.painter.Paint(screen.Yellow, "copy of the journal: ")+s.Copy)
	}
	if s.Waiting != nil {
		lines = append(lines, v.painter.Paint(screen.Yellow, "waiting: ")+waitingText(*s.Waiting))
		if command := decideCommand(v.journal, s.Hash, *s.Waiting); command != "" {
			lines = append(lines, "  "+command)
		}
	}
	return lines
}

// waitingText says what is waited for.
func waitingText(w failover.Waiting) string {
	what := cmp.Or(w.Step, "the plan")
	text := fmt.Sprintf("%s, %s", what, w.For)
	if w.Role != "" {
		text += fmt.Sprintf(" by role %q", w.Role)
	}
	if w.Loss != "" {
		text += "; lost: " + w.Loss
	}
	if w.Detail != "" {
		text += "; " + w.Detail
	}
	return text
}

// decideCommand is what a person types to decide, "" where there is nothing to decide.
func decideCommand(journal, hash string, w failover.Waiting) string {
	command := fmt.Sprintf("failover approve --journal %s --hash %s", quote(journal), failover.ShortHash(hash))
	if w.Step != "" {
		command += " --step " + w.Step
	}
	switch w.For {
	case failover.NeedApproval:
	case failover.NeedAcceptance:
		command += " --accept-loss " + quote(w.Loss)
	case failover.NeedConfirmation:
		command += " --confirm"
	case failover.NeedUndone:
		command += " --undone"
	default:
		return ""
	}
	if w.Role != "" {
		command += " --role " + quote(w.Role)
	}
	return command
}

// quote quotes a word for a shell where that is needed.
func quote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+,=", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// duration is a time in a form that is read at a glance.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
