package failover

import (
	"context"
	"time"
)

// Step is one step of a plan. What a Step can do beyond this it says by the optional interfaces Describer, Verifier, Undoer, Ungraceful, Driller, Approver, Timeouter,
// Retrier, Gate and Prompter. Funcs makes one from funcs.
//
// A Runner calls one method of one step at a time. Each gets a context that ends when its time is up; it must return soon after.
// What Observe says after Do and Undo is held against their contract: a step that acts without effect is found out.
type Step interface {
	// Name is the step's name, unique in its plan and constant: 1 to 128 of a-z, A-Z, 0-9 and '.', '_', '-', '/', ':', '@', beginning and ending with a letter or digit.
	Name() string
	// Observe looks at the world and says how far the step's effect is there. It is read only, and is called at any time and any number of times: by a dry run, before and after Do and
	// Undo, and after a crash, when it alone decides whether Do has happened. An error is a failed attempt.
	Observe(ctx context.Context) (Observation, error)
	// Do brings the effect about. It is idempotent: after a crash or a failure within, or of what Observe called Pending or Partial, it is called again.
	// It does not return nil before its effect can be observed: after it Observe says Done.
	Do(ctx context.Context) error
}

// State is how far a step's effect is there.
type State string

const (
	// Pending: nothing of the effect is there. A step without Undo may say so only while nothing has happened that cannot be taken back.
	Pending State = "pending"
	// Partial: some of the effect is there; Do and Undo both have something to do.
	Partial State = "partial"
	// Done: the effect is there, whoever brought it about.
	Done State = "done"
	// Blocked: Do cannot or must not be called as things are; Detail says why.
	Blocked State = "blocked"
)

// Observation is what Observe sees. It goes into the journal: it must not hold secrets.
type Observation struct {
	State State
	// Detail says what was seen, in a line: required when Blocked.
	Detail string
	// Loss, of a blocked Gate, states what is lost if the plan goes on all the same, such as "at most 12 revisions; nothing after 2026-03-04T03:14:05Z is known".
	// In an ungraceful plan somebody can accept it; otherwise the gate is hard. It must read the same as long as the loss is the same: moments, not ages.
	Loss string
}

// Describer says what a step does, for the plan's hash, dry runs, renderings and approvals. It is called when the plan is made, and again before the step acts:
// a step that then describes itself otherwise is refused with ErrPlanChanged. Only what is described is covered by the hash and by approvals.
type Describer interface{ Describe() Description }

// Description says what a step does. It must not hold secrets: name where they come from instead.
type Description struct {
	// Action says what Do does, in a sentence; of a gate or prompt what is asked.
	Action string
	// Commands are what is run or sent, line by line, where a person could do the same by hand.
	Commands []string
	// Verify and Undo say what Verify looks at and what Undo does.
	Verify string
	Undo   string
	// Reference says where the step comes from, such as a paragraph of a procedure.
	Reference string
	// Inputs is all that decides what the step does. It must marshal to a JSON object: a struct or map. nil: none.
	Inputs any
}

// Verifier has a second look once a step is done: at the purpose, where Observe looks at the effect. It is read only.
// An error fails the step, and with Config.Retries beyond; the effect stays unless the plan asks to undo.
type Verifier interface {
	Verify(ctx context.Context) error
}

// Undoer takes the effect of Do back. A step that acts and is no Undoer is a point of no return: the plan says so, and refuses to undo beyond it.
type Undoer interface {
	// Undo is idempotent; it is called also after a Do that failed or was interrupted. After it Observe says Pending or Blocked.
	// An error that matches ErrPointOfNoReturn says that the effect cannot be taken back any more: undoing ends there, and the run can go forward.
	Undo(ctx context.Context) error
}

// Ungraceful gives the variant of a step for a plan without the primary.
type Ungraceful interface {
	// WithoutPrimary returns the variant, which keeps the step's name; nil leaves the step out.
	WithoutPrimary() Step
}

// Driller gives the variant of a step for a drill.
type Driller interface {
	// ForDrill returns the variant, which keeps the step's name; nil leaves the step out.
	ForDrill() Step
}

// Approver asks for a person's approval before Do.
type Approver interface{ Approval() Approval }

// Approval says who has to approve, and for how long that is good. The zero value asks for none.
type Approval struct {
	// Role of the person; required.
	Role string
	// ValidFor is how old an approval may be when what it approves begins; 0 is DefaultApprovalValidFor.
	ValidFor time.Duration
}

// Timeouter bounds each call of Do, Undo and Verify; without it, or with 0, DefaultTimeout does.
type Timeouter interface{ Timeout() time.Duration }

// Retrier says how often Do, Undo and Verify are tried within one run.
type Retrier interface{ Retry() Retry }

// Retry is how failed attempts are repeated. The zero value is one attempt.
type Retry struct {
	// Attempts in all; 0 is 1.
	Attempts int
	// First is the pause after the first failed attempt; it doubles up to Max. 0 is DefaultRetryFirst and DefaultRetryMax.
	First, Max time.Duration
}

// Gate is a step that only looks: Do is never called. The plan goes on when Observe says Done; Pending and Partial count as Blocked.
type Gate interface {
	Step
	// Gate marks the step.
	Gate()
}

// Prompter is a step for a person: Do is never called; the run waits until somebody confirms that it was done (DecisionConfirm).
type Prompter interface{ Prompt() Prompt }

// Prompt is what a person is asked to do.
type Prompt struct {
	// Text says what to do; required.
	Text string
	// Role of the person; "" anybody.
	Role string
	// Checked is set when Observe can see whether it was done: then that is waited for, and nobody has to confirm.
	Checked bool
	// Undo says how a person takes it back; they are asked to confirm that, too (DecisionUndone). "" makes the step a point of no return, unless Harmless.
	Undo string
	// Harmless is set when there is nothing to take back, such as for a look at a web page.
	Harmless bool
}

// Defaults of steps.
const (
	DefaultTimeout          = 10 * time.Minute
	DefaultApprovalValidFor = time.Hour
	DefaultRetryFirst       = time.Second
	DefaultRetryMax         = 30 * time.Second
)

// pause is how long to wait after a number of failed attempts.
func (r Retry) pause(failed int) time.Duration {
	p := r.First
	for ; failed > 1 && p < r.Max; failed-- {
		p *= 2
	}
	return min(p, r.Max)
}
