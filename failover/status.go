package failover

import "time"

// RunState is what a run is doing.
type RunState string

const (
	// RunNew: it has not begun.
	RunNew RunState = "new"
	// RunRunning: a runner carries out steps. RunUndoing: it undoes them. A journal alone cannot tell whether that runner still lives.
	RunRunning RunState = "running"
	RunUndoing RunState = "undoing"
	// RunWaiting: for what Waiting says.
	RunWaiting RunState = "waiting"
	// RunStopped: the runner stopped; the run can be resumed.
	RunStopped RunState = "stopped"
	// RunEnded: the run is over; Outcome says how.
	RunEnded RunState = "ended"
)

// StepState is what is going on with a step.
type StepState string

const (
	StepPending StepState = "pending" // its turn has not come
	StepRunning StepState = "running"
	StepWaiting StepState = "waiting" // for what Status.Waiting says
	StepBlocked StepState = "blocked"
	StepFailed  StepState = "failed" // the last attempt
	StepUndoing StepState = "undoing"
	StepUndone  StepState = "undone"
	StepLeftOut StepState = "left out" // has no part in the plan's mode

	StepDone      = StepState(OutcomeDone)
	StepAlready   = StepState(OutcomeAlready)
	StepPassed    = StepState(OutcomePassed)
	StepAccepted  = StepState(OutcomeAccepted)
	StepConfirmed = StepState(OutcomeConfirmed)
)

// Need is what a run waits for.
type Need string

const (
	// NeedApproval of a step, or of the plan: DecisionApprove.
	NeedApproval Need = "approval"
	// NeedAcceptance of a gate's stated loss: DecisionAccept.
	NeedAcceptance Need = "acceptance"
	// NeedConfirmation that a prompt was carried out: DecisionConfirm. NeedUndone: that it was taken back: DecisionUndone.
	NeedConfirmation Need = "confirmation"
	NeedUndone       Need = "undone"
	// NeedAction: a person has to do what a prompt asks; Observe sees when it is done.
	NeedAction Need = "action"
	// NeedCondition: for the world to change, as Detail says.
	NeedCondition Need = "condition"
)

// Waiting is what a run waits for.
type Waiting struct {
	Step   string // "": the plan as a whole
	For    Need
	Role   string // who has to decide; "" anybody
	Detail string
	Loss   string // with NeedAcceptance
	Since  time.Time
}

// Status is a copy of what is known of a run. Times are of the runner's host; zero means never.
type Status struct {
	Plan    string
	Title   string
	Hash    string
	Mode    Mode
	Journal string // its ID

	State   RunState
	Outcome Outcome // with RunEnded
	// Detail says why it stopped, or why it is being undone.
	Detail string
	Step   string // that was touched last
	// Waiting is what the run waits for, or did when its runner stopped.
	Waiting *Waiting

	Runs           int
	Runner         Identity
	Began, Updated time.Time
	Steps          []StepStatus
	// PointOfNoReturn is the first such step of the plan, and Passed whether one was carried out.
	PointOfNoReturn string
	Passed          bool

	// Copy is what is the matter with the copy in the etcd, "" if nothing is; CopyBehind is how many records it lacks, as far as a running runner knows.
	Copy       string
	CopyBehind int64
}

// StepStatus is one step of a Status.
type StepStatus struct {
	Name            string
	Kind            Kind
	Action          string
	State           StepState
	Detail          string // of the last observation, failure or result
	Progress        string // what the step itself says while it runs
	Overdue         bool   // its time is up and it has not returned
	Attempts        int
	Began, Ended    time.Time
	PointOfNoReturn bool
}

func (p *progress) status() Status {
	s := Status{Plan: p.doc.Name, Title: p.doc.Title, Hash: p.hash, Mode: p.doc.Mode, Journal: p.id, Step: p.current, Runs: p.runs, Runner: p.runner,
		Began: p.began, Updated: p.updated, Outcome: p.ended, PointOfNoReturn: p.doc.PointOfNoReturn(), Copy: p.copy, State: RunNew}
	switch {
	case p.ended != "":
		s.State = RunEnded
	case p.stopped != "":
		s.State, s.Detail = RunStopped, p.stopped
	case p.waiting != nil:
		s.State = RunWaiting
	case p.undo != nil:
		s.State, s.Detail = RunUndoing, p.failure
	case p.runs > 0:
		s.State = RunRunning
	}
	if p.waiting != nil {
		w := *p.waiting
		w.Role = p.doc.roleFor(w)
		s.Waiting = &w
	}
	for i, d := range p.doc.Steps {
		at := p.steps[i]
		s.Steps = append(s.Steps, StepStatus{Name: d.Name, Kind: d.Kind, Action: d.Action, State: at.state, Detail: at.detail, Attempts: at.attempts,
			Began: at.began, Ended: at.ended, PointOfNoReturn: d.PointOfNoReturn})
		s.Passed = s.Passed || d.PointOfNoReturn && at.passed()
	}
	return s
}

// passed reports whether the runner carried the step out.
func (s *stepProgress) passed() bool {
	return s.outcome == OutcomeDone || s.outcome == OutcomeConfirmed
}

// roleFor is the role that has to decide what is waited for.
func (d Document) roleFor(w Waiting) string {
	if w.Step == "" {
		if d.Approval != nil {
			return d.Approval.Role
		}
		return ""
	}
	for _, s := range d.Steps {
		switch {
		case s.Name != w.Step:
		case w.For == NeedApproval && s.Approval != nil:
			return s.Approval.Role
		case (w.For == NeedConfirmation || w.For == NeedAction || w.For == NeedUndone) && s.Prompt != nil:
			return s.Prompt.Role
		}
	}
	return ""
}

// Next is the first step that is not finished, or "".
func (s Status) Next() string {
	for _, step := range s.Steps {
		switch step.State {
		case StepDone, StepAlready, StepPassed, StepAccepted, StepConfirmed, StepLeftOut:
		default:
			return step.Name
		}
	}
	return ""
}
