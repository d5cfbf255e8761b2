package failover

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// progress is what the records of a journal add up to. A runner holds it up to date record by record, and gets the same from a journal that it reads.
type progress struct {
	id    string
	doc   Document
	hash  string
	index map[string]int
	steps []stepProgress

	decisions []taken
	seen      map[string]bool // IDs of decisions, refused ones included

	runs    int
	runner  Identity
	began   time.Time
	updated time.Time
	seq     int64
	current string // the step of the last record that had one
	waiting *Waiting
	stopped string // why the last runner stopped; "" while it has not
	failure string // why undoing began
	undo    *UndoOptions
	undoSeq int64
	finally Outcome // of the run when undoing is over
	ended   Outcome
	copy    string
}

type taken struct {
	Decision
	seq int64
}

type stepProgress struct {
	state    StepState
	outcome  Outcome // "" while it is not finished
	intent   bool    // Do was about to be called, and the step is not undone since
	undoing  bool    // Undo was about to be called, and the step is not undone since
	attempts int     // of Do
	undos    int     // attempts of Undo
	began    time.Time
	ended    time.Time
	detail   string
	reset    int64 // the record that undid it last
	saved    map[string]json.RawMessage
}

// replay adds up a journal's records.
func replay(path string, records []Record) (*progress, error) {
	p := &progress{}
	for i, r := range records {
		if err := p.apply(r); err != nil {
			return nil, damaged(path, i+1, err.Error())
		}
	}
	return p, nil
}

// apply takes in the next record.
func (p *progress) apply(r Record) error {
	if (r.Kind == RecordPlan) != (r.Seq == 1) {
		return fmt.Errorf("a record of kind %q is not expected here", r.Kind)
	}
	if p.ended != "" && !r.Kind.afterEnd(p.ended) {
		return fmt.Errorf("a record of kind %q after the end", r.Kind)
	}
	p.seq, p.updated = r.Seq, r.At
	var s *stepProgress
	if r.Step != "" {
		i, ok := p.index[r.Step]
		if !ok && r.Kind != RecordRefused {
			return fmt.Errorf("the plan has no step %q", r.Step)
		}
		if ok {
			s = &p.steps[i]
		}
		if r.Kind != RecordRefused && r.Kind != RecordDecision {
			p.current = r.Step
		}
	}
	if s == nil && r.Kind.needsStep() {
		return fmt.Errorf("a record of kind %q names no step", r.Kind)
	}
	if r.Kind != RecordDecision && r.Kind != RecordRefused && r.Kind != RecordCopy && r.Kind != RecordStopped {
		p.waiting = nil
	}
	switch r.Kind {
	case RecordPlan:
		return p.begin(r)
	case RecordRun:
		if r.Runner == nil {
			return fmt.Errorf("a run without a runner")
		}
		p.runs, p.runner, p.stopped = p.runs+1, *r.Runner, ""
	case RecordDecision, RecordRefused:
		return p.decide(r)
	case RecordUndo:
		if r.Undo == nil {
			return fmt.Errorf("an undo without options")
		}
		p.undo, p.undoSeq, p.failure, p.ended = r.Undo, r.Seq, r.Detail, ""
		p.finally = OutcomeUndone
		if r.Outcome != "" {
			p.finally = r.Outcome
		}
	case RecordUndoEnd:
		p.undo = nil
	case RecordStopped:
		p.stopped = r.Detail // what was waited for is still to be decided
	case RecordCopy:
		if p.copy = r.Detail; r.Detail == copyReached {
			p.copy = ""
		}
	case RecordEnd:
		p.ended, p.undo = r.Outcome, nil
	default:
		return s.apply(p, r)
	}
	return nil
}

// afterEnd reports whether such a record may follow the end: a completed run can still be undone.
func (k RecordKind) afterEnd(how Outcome) bool {
	return k == RecordCopy || how == OutcomeCompleted && (k == RecordRun || k == RecordUndo || k == RecordStopped)
}

func (k RecordKind) needsStep() bool {
	switch k {
	case RecordPlan, RecordRun, RecordDecision, RecordRefused, RecordUndo, RecordUndoEnd, RecordStopped, RecordCopy, RecordEnd, RecordWaiting:
		return false
	}
	return true
}

func (p *progress) begin(r Record) error {
	if r.Plan == nil || r.Hash == "" || r.Journal == "" || len(r.Plan.Steps) == 0 {
		return fmt.Errorf("the first record has no plan")
	}
	if err := r.Plan.validate(); err != nil {
		return err
	}
	if r.Plan.Hash() != r.Hash {
		return fmt.Errorf("the plan does not have the hash %s", r.Hash)
	}
	*p = progress{id: r.Journal, doc: *r.Plan, hash: r.Hash, began: r.At, updated: r.At, seq: r.Seq, index: map[string]int{}, seen: map[string]bool{},
		steps: make([]stepProgress, len(r.Plan.Steps))}
	for i, s := range p.doc.Steps {
		p.index[s.Name] = i
		p.steps[i].state = StepPending
		if s.LeftOut {
			p.steps[i].state = StepLeftOut
		}
	}
	return nil
}

func (p *progress) decide(r Record) error {
	if r.Decision == nil {
		return fmt.Errorf("a decision is missing")
	}
	p.seen[r.Decision.ID] = true
	if r.Kind == RecordDecision {
		p.decisions = append(p.decisions, taken{*r.Decision, r.Seq})
	}
	return nil
}

func (s *stepProgress) apply(p *progress, r Record) error {
	switch r.Kind {
	case RecordObserved:
		s.detail = r.Detail
		if r.State == Blocked {
			s.state = StepBlocked
		} else if s.state == StepBlocked {
			s.state = StepPending
		}
	case RecordWaiting:
		p.waiting = &Waiting{Step: r.Step, For: r.For, Detail: r.Detail, Loss: r.Loss, Since: r.At}
		if s != nil {
			s.state = StepWaiting
		}
	case RecordIntent:
		s.state, s.intent, s.undoing, s.attempts, s.detail = StepRunning, true, false, r.Attempt, ""
		if s.began.IsZero() {
			s.began = r.At
		}
	case RecordFailed:
		s.state, s.detail = StepFailed, r.Detail
	case RecordDone:
		s.state, s.outcome, s.ended, s.detail = StepState(r.Outcome), r.Outcome, r.At, r.Detail
	case RecordNote:
	case RecordSaved:
		if s.saved == nil {
			s.saved = map[string]json.RawMessage{}
		}
		s.saved[r.Key] = r.Value
	case RecordUndoIntent:
		s.state, s.undoing, s.undos, s.detail = StepUndoing, true, r.Attempt, ""
	case RecordUndone:
		// What was saved stays for the record of what was there before; a later Do overwrites it.
		*s = stepProgress{state: StepUndone, attempts: s.attempts, undos: s.undos, ended: r.At, detail: r.Detail, reset: r.Seq, saved: s.saved}
	default:
		return fmt.Errorf("record kind %q is of another version", r.Kind)
	}
	return nil
}

// decision is the latest decision of one of the kinds on a step that was taken after a record; nil if there is none.
func (p *progress) decision(step string, after int64, kinds ...DecisionKind) *Decision {
	for i := len(p.decisions) - 1; i >= 0; i-- {
		d := &p.decisions[i]
		if d.seq > after && d.Step == step && slices.Contains(kinds, d.Kind) {
			return &d.Decision
		}
	}
	return nil
}
