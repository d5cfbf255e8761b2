package failover

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// MarshalJSON gives {"hash": …, "plan": …}, the plan being its Document. docs/failover-plan.md describes it, and how the hash is computed from it.
func (p *Plan) MarshalJSON() ([]byte, error) {
	return canonical(struct {
		Hash string   `json:"hash"`
		Plan Document `json:"plan"`
	}{p.hash, p.doc})
}

// WriteJSON writes what MarshalJSON gives, for people's eyes.
func (p *Plan) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(p)
}

// WriteTable writes the plan as a table for terminals.
func (p *Plan) WriteTable(w io.Writer) error {
	d := p.doc
	var b strings.Builder
	fmt.Fprintf(&b, "Plan %s (%s)", d.Name, d.Mode)
	if d.Title != "" {
		fmt.Fprintf(&b, ": %s", oneLine(d.Title))
	}
	fmt.Fprintf(&b, "\nHash %s\n", p.hash)
	if d.Approval != nil {
		fmt.Fprintf(&b, "Approval by role %q, good for %s, before the first act\n", d.Approval.Role, shortDuration(d.Approval.ValidFor))
	}
	fmt.Fprintf(&b, "If a step fails: %s\n\n", failureText(d))
	rows := []row{{cells: []string{"#", "STEP", "KIND", "WHAT", "APPROVAL", "TIMEOUT", "UNDO"}}}
	for i, s := range d.Steps {
		r := row{cells: []string{fmt.Sprint(i + 1), s.Name, "left out", "", "", "", ""}}
		if !s.LeftOut {
			approval := "-"
			if s.Approval != nil {
				approval = s.Approval.Role
			}
			r.cells = []string{fmt.Sprint(i + 1), s.Name, string(s.Kind), cmp.Or(oneLine(s.what()), "-"), oneLine(approval), shortDuration(s.Timeout), undoWord(s)}
		}
		if s.PointOfNoReturn && s.Name == d.PointOfNoReturn() {
			r.above = []string{"   --- point of no return ---"}
		}
		rows = append(rows, r)
	}
	writeRows(&b, rows)
	_, err := io.WriteString(w, b.String())
	return err
}

// row is a line of a table, with lines above and below that do not count for its columns.
type row struct {
	cells        []string
	above, below []string
}

func writeRows(b *strings.Builder, rows []row) {
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r.cells, "\t"))
	}
	_ = t.Flush() // into memory
	for i, line := range strings.Split(strings.TrimSuffix(aligned.String(), "\n"), "\n") {
		for _, text := range rows[i].above {
			b.WriteString(text + "\n")
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		for _, text := range rows[i].below {
			b.WriteString(text + "\n")
		}
	}
}

func (s StepDocument) what() string {
	if s.Prompt != nil {
		return s.Prompt.Text
	}
	return s.Action
}

func undoWord(s StepDocument) string {
	switch {
	case s.Kind == KindGate || s.Kind == KindPrompt && !s.Undoable && !s.PointOfNoReturn:
		return "-"
	case s.PointOfNoReturn:
		return "no"
	}
	return "yes"
}

func failureText(d Document) string {
	switch {
	case d.OnFailure == FailureUndo && d.PointOfNoReturn() != "":
		return "undo, before step " + d.PointOfNoReturn() + " is carried out; stop after it"
	case d.OnFailure == FailureUndo:
		return "undo"
	}
	return "stop"
}

// shortDuration drops the zero parts at the end of a duration's text: 10m0s is 10m.
func shortDuration(text string) string {
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// WriteTimeline writes what the journal tells, record by record, with the time since the run's beginning.
func (l *Log) WriteTimeline(w io.Writer) error {
	var b strings.Builder
	s := l.Status()
	fmt.Fprintf(&b, "Plan %s (%s), run %s\nHash %s\n%s\n\n", s.Plan, s.Mode, s.Journal, s.Hash, stateText(s))
	rows := []row{{cells: []string{"TIME (UTC)", "SINCE", "STEP", "WHAT"}}}
	for _, r := range l.Records {
		rows = append(rows, row{cells: []string{r.At.UTC().Format("2006-01-02 15:04:05"), sinceText(r.At.Sub(s.Began)), cmp.Or(r.Step, "-"), oneLine(r.Summary())}})
	}
	writeRows(&b, rows)
	if l.Torn {
		b.WriteString("\nA last line was not written to its end: a runner is at it, or was killed.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sinceText(d time.Duration) string {
	return fmt.Sprintf("+%02d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

func stateText(s Status) string {
	text := "State: " + string(s.State)
	switch {
	case s.State == RunEnded:
		text += ", " + string(s.Outcome)
	case s.Waiting != nil:
		text += strings.TrimRight(fmt.Sprintf(" for %s %s", s.Waiting.For, byRole(s.Waiting.Role)), " ")
		if s.Waiting.Step != "" {
			text += " at step " + s.Waiting.Step
		}
	case s.Detail != "":
		text += ": " + oneLine(s.Detail)
	}
	return text
}

// Summary says in a sentence what a record says.
func (r Record) Summary() string {
	detail := ""
	if r.Detail != "" {
		detail = ": " + r.Detail
	}
	switch r.Kind {
	case RecordPlan:
		return fmt.Sprintf("journal %s of plan %s", r.Journal, ShortHash(r.Hash))
	case RecordRun:
		return "run by " + r.Runner.String()
	case RecordObserved:
		return "seen: " + string(r.State) + detail
	case RecordWaiting:
		text := "waiting for " + string(r.For) + detail
		if r.Loss != "" {
			text += "; loss: " + r.Loss
		}
		return text
	case RecordDecision, RecordRefused:
		return decisionText(r)
	case RecordIntent:
		return fmt.Sprintf("begins (attempt %d)", r.Attempt)
	case RecordFailed:
		return "failed" + detail
	case RecordDone:
		if r.Loss != "" {
			detail = ": " + r.Loss + "; " + r.Detail
		}
		return string(r.Outcome) + detail
	case RecordNote:
		return r.Detail
	case RecordSaved:
		return "saved " + r.Key
	case RecordUndo:
		text := "undo begins" + detail
		if r.Undo.Reason != "" {
			text += " (" + r.Undo.Reason + ")"
		}
		if r.Undo.To != "" {
			text += ", down to step " + r.Undo.To
		}
		if r.Undo.By != "" {
			text += ", by " + r.Undo.By
		}
		return text
	case RecordUndoIntent:
		return fmt.Sprintf("undo begins (attempt %d)", r.Attempt)
	case RecordUndone:
		return "undone" + detail
	case RecordUndoEnd:
		return "undo ends" + detail
	case RecordStopped:
		return "stopped" + detail
	case RecordCopy:
		return "copy" + detail
	case RecordEnd:
		return "ended: " + string(r.Outcome)
	}
	return string(r.Kind) + detail
}

func decisionText(r Record) string {
	d := r.Decision
	text := fmt.Sprintf("%s by %s", d.Kind, d.By)
	if d.Role != "" {
		text += " as " + d.Role
	}
	text += " at " + d.At.UTC().Format("15:04:05")
	if d.Loss != "" {
		text += ": " + d.Loss
	}
	if d.Comment != "" {
		text += " (" + d.Comment + ")"
	}
	if r.Kind == RecordRefused {
		text += " REFUSED: " + r.Detail
	}
	return text
}
