package failover

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes the plan as a runbook for a change ticket: what is done in which order, by what, how it is undone, and boxes to tick for who follows it by hand.
func (p *Plan) WriteMarkdown(w io.Writer) error {
	d := p.doc
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", markdown(cmp.Or(d.Title, d.Name)))
	if d.Purpose != "" {
		fmt.Fprintf(&b, "%s\n\n", markdown(d.Purpose))
	}
	fmt.Fprintf(&b, "| | |\n|---|---|\n| Plan | `%s` |\n| Hash | `%s` |\n| Mode | %s |\n", d.Name, p.hash, modeText(d.Mode))
	if d.Approval != nil {
		fmt.Fprintf(&b, "| Approval | by role %s, good for %s, before the first act |\n", markdown(oneLine(d.Approval.Role)), shortDuration(d.Approval.ValidFor))
	}
	fmt.Fprintf(&b, "| If a step fails | %s |\n", markdown(failureText(d)))
	if point := d.PointOfNoReturn(); point != "" {
		fmt.Fprintf(&b, "| Point of no return | step `%s`: what comes before it can be undone until it is carried out |\n", point)
	} else {
		b.WriteString("| Point of no return | none: every step can be undone |\n")
	}
	b.WriteString("\n")
	writeInputs(&b, "", d.Inputs)
	b.WriteString("## Steps\n\n| # | Step | Kind | What | Approval | Timeout | Undo |\n|---|---|---|---|---|---|---|\n")
	for i, s := range d.Steps {
		if s.LeftOut {
			fmt.Fprintf(&b, "| %d | `%s` | left out | | | | |\n", i+1, s.Name)
			continue
		}
		approval := ""
		if s.Approval != nil {
			approval = markdown(oneLine(s.Approval.Role))
		}
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s | %s | %s | %s |\n", i+1, s.Name, s.Kind, markdown(oneLine(s.what())), approval, shortDuration(s.Timeout), undoMark(s))
	}
	for i, s := range d.Steps {
		if !s.LeftOut {
			writeStep(&b, i+1, s)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func modeText(m Mode) string {
	switch m {
	case ModeUngraceful:
		return "ungraceful: without the primary; stated losses can be accepted"
	case ModeDrill:
		return "drill: everything is undone afterwards"
	}
	return "graceful: planned, with both sides alive"
}

func undoMark(s StepDocument) string {
	if s.PointOfNoReturn {
		return "**no**"
	}
	return undoWord(s)
}

func writeStep(b *strings.Builder, number int, s StepDocument) {
	fmt.Fprintf(b, "\n### %d. `%s`\n\n", number, s.Name)
	if s.PointOfNoReturn {
		b.WriteString("> **Point of no return**: this step cannot be undone.\n\n")
	}
	if s.Variant != "" {
		fmt.Fprintf(b, "This is the step's variant for mode %s.\n\n", s.Variant)
	}
	if s.Action != "" {
		fmt.Fprintf(b, "%s\n\n", markdown(s.Action))
	}
	if s.Prompt != nil {
		role := "Somebody"
		if s.Prompt.Role != "" {
			role = "Role " + markdown(oneLine(s.Prompt.Role))
		}
		fmt.Fprintf(b, "%s does this by hand: %s\n\n", role, markdown(s.Prompt.Text))
	}
	if len(s.Commands) > 0 {
		writeBlock(b, "", strings.Join(s.Commands, "\n"))
	}
	writeInputs(b, "Inputs:\n\n", s.Inputs)
	for _, line := range []struct {
		label, text string
		show        bool
	}{
		{"Verified by", s.Verify, s.Verified || s.Verify != ""},
		{"Undone by", undoText(s), s.Undoable},
		{"Approved by", approvalText(s.Approval), s.Approval != nil},
		{"Tried", retryText(s.Retry), s.Retry != nil},
		{"From", s.Reference, s.Reference != ""},
	} {
		if line.show {
			fmt.Fprintf(b, "- %s: %s\n", line.label, markdown(cmp.Or(line.text, "not described")))
		}
	}
	fmt.Fprintf(b, "- [ ] done at ____ by ____\n")
}

func undoText(s StepDocument) string {
	if s.Prompt != nil && s.Prompt.Undo != "" {
		return s.Prompt.Undo
	}
	return s.Undo
}

func approvalText(a *ApprovalDocument) string {
	if a == nil {
		return ""
	}
	return fmt.Sprintf("role %s, good for %s", a.Role, shortDuration(a.ValidFor))
}

func retryText(r *RetryDocument) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("up to %d times, with pauses from %s to %s", r.Attempts, shortDuration(r.First), shortDuration(r.Max))
}

func writeInputs(b *strings.Builder, title string, inputs json.RawMessage) {
	if inputs == nil {
		return
	}
	var indented bytes.Buffer
	if json.Indent(&indented, inputs, "", "  ") != nil {
		return // canonical JSON always has a form
	}
	b.WriteString(title)
	writeBlock(b, "json", indented.String())
}

// writeBlock writes a block of code, with a fence that the text does not hold.
func writeBlock(b *strings.Builder, language, text string) {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	fmt.Fprintf(b, "%s%s\n%s\n%s\n\n", fence, language, text, fence)
}

var markdownEscapes = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "|", `\|`, "<", "&lt;", ">", "&gt;", "[", `\[`, "]", `\]`, "#", `\#`, "!", `\!`, "~", `\~`, "\n", "  \n")

// markdown writes a text so that it stays text, wherever it comes from.
func markdown(text string) string { return markdownEscapes.Replace(text) }
