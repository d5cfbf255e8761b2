package failover

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// DryRunOptions say how a dry run looks. The zero value looks at a plan that has not begun.
type DryRunOptions struct {
	// Journal is the path of a journal of this plan: what its run has finished is told, and what its steps have saved they see. It is read, without its lock.
	Journal string
	// ObserveTimeout bounds each call of Observe; 0 is DefaultObserveTimeout.
	ObserveTimeout time.Duration
}

// DryRunReport is what a dry run has found.
type DryRunReport struct {
	Plan string    `json:"plan"`
	Hash string    `json:"hash"`
	Mode Mode      `json:"mode"`
	At   time.Time `json:"at"`
	// Ready is set when nothing that was seen keeps the run from its first act: what comes later may look otherwise when its turn comes.
	Ready bool      `json:"ready"`
	Steps []DryStep `json:"steps"`
}

// DryStep is one step of a DryRunReport.
type DryStep struct {
	Name   string `json:"name"`
	State  State  `json:"state,omitempty"` // "" if Observe failed or was not asked
	Detail string `json:"detail,omitempty"`
	Loss   string `json:"loss,omitempty"`
	Error  string `json:"error,omitempty"`
	// Would says what a run would do with the step if its turn came now. Action and Commands are what Do does; set only where it would be called.
	Would    string   `json:"would"`
	Action   string   `json:"action,omitempty"`
	Commands []string `json:"commands,omitempty"`
	Finished Outcome  `json:"finished,omitempty"` // by the journal's run
}

// DryRun asks every step for real and tells what a run would do. It calls neither Do nor Verify nor Undo, and writes nothing anywhere: no journal is made, locked or changed.
// An error tells that ctx ended or that the journal cannot be used; what fails in steps is in the report.
func (p *Plan) DryRun(ctx context.Context, opts DryRunOptions) (*DryRunReport, error) {
	if opts.ObserveTimeout < 0 {
		return nil, badConfig(fmt.Sprintf("ObserveTimeout is %v", opts.ObserveTimeout), "use a positive one, or 0 for the default")
	}
	state := planned(p)
	if opts.Journal != "" {
		log, err := ReadJournal(opts.Journal)
		if err != nil {
			return nil, err
		}
		if log.Hash() != p.hash {
			return nil, planChanged(log.state.doc, p.doc, log.Hash(), p.hash)
		}
		state = log.state
	}
	report := &DryRunReport{Plan: p.doc.Name, Hash: p.hash, Mode: p.doc.Mode, At: time.Now().UTC().Round(0), Ready: true}
	acts := false
	for i, d := range p.doc.Steps {
		if err := interrupted(ctx, d.Name); err != nil {
			return nil, err
		}
		step := DryStep{Name: d.Name, Finished: state.steps[i].outcome}
		if d.LeftOut {
			step.Would = "nothing: left out in mode " + string(p.doc.Mode)
		} else {
			obs, err := p.look(ctx, i, state, cmp.Or(opts.ObserveTimeout, DefaultObserveTimeout))
			step.describe(p.doc, d, obs, err)
			if change := p.changed(i); change != "" {
				step.Error, step.Would = "the plan changed: "+change, "refuse"
			}
			stuck := step.Would == "refuse" || strings.HasPrefix(step.Would, "stop")
			if step.Finished == "" && stuck && !acts {
				report.Ready = false
			}
			acts = acts || step.Finished == "" && !stuck && d.Kind != KindGate && obs.State != Done
		}
		report.Steps = append(report.Steps, step)
	}
	return report, nil
}

// look observes a step, with what the journal holds of it and without a way to write.
func (p *Plan) look(ctx context.Context, i int, state *progress, timeout time.Duration) (obs Observation, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	w := &world{step: p.doc.Steps[i].Name, load: state.load, report: func(string) {}, began: func() time.Time { return state.steps[i].began }}
	defer w.close()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("Observe panicked: %v", r)
		}
	}()
	return checkObservation(p.steps[i].Observe(context.WithValue(ctx, worldKey{}, w)))
}

func (s *DryStep) describe(doc Document, d StepDocument, obs Observation, err error) {
	s.State, s.Detail, s.Loss = obs.State, obs.Detail, obs.Loss
	approvals := ""
	if d.Approval != nil {
		approvals = fmt.Sprintf(", once role %q approves", d.Approval.Role)
	}
	switch {
	case err != nil:
		s.Error, s.Would = clean(err.Error()), "stop: it cannot be observed"
	case s.Finished != "":
		s.Would = "nothing: finished (" + string(s.Finished) + ")"
	case obs.State == Done:
		s.Would = "nothing: it is done"
	case d.Kind == KindGate && obs.State == Blocked && obs.Loss != "" && doc.Mode == ModeUngraceful:
		s.Would = "wait until the stated loss is accepted"
	case d.Kind == KindPrompt && d.Prompt.Checked:
		s.Would, s.Action = "wait until a person has done it", d.Prompt.Text
	case d.Kind == KindPrompt:
		s.Would, s.Action = "wait until a person confirms it", d.Prompt.Text
	case d.Kind == KindGate || obs.State == Blocked:
		s.Would = "stop: blocked"
	default:
		s.Would, s.Action, s.Commands = "do"+approvals, cmp.Or(d.Action, "(the step does not say what it does)"), d.Commands
	}
}

// WriteText writes the report for people.
func (r *DryRunReport) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Dry run of plan %s (%s, %s): nothing was changed.\n\n", r.Plan, r.Mode, ShortHash(r.Hash))
	rows := []row{{cells: []string{"#", "STEP", "NOW", "WOULD"}}}
	for i, s := range r.Steps {
		line := row{cells: []string{fmt.Sprint(i + 1), s.Name, cmp.Or(string(s.State), "-"), s.Would}}
		for _, l := range []struct{ label, text string }{{"sees", s.Detail}, {"loss", s.Loss}, {"error", s.Error}, {"does", s.Action}} {
			if l.text != "" {
				line.below = append(line.below, fmt.Sprintf("     %s: %s", l.label, oneLine(l.text)))
			}
		}
		for _, c := range s.Commands {
			line.below = append(line.below, "     $ "+oneLine(c))
		}
		rows = append(rows, line)
	}
	writeRows(&b, rows)
	if r.Ready {
		b.WriteString("\nReady: nothing that was seen keeps the run from its first act. Later steps are seen again when their turn comes.\n")
	} else {
		b.WriteString("\nNot ready: see above.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine is a text for one line of a table.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
