package failover

import (
	"context"
	"errors"
	"fmt"
)

// passedPoint is the last step after a given one that was carried out and cannot be undone; -1 if none was. why says how that is known.
func (s *session) passedPoint(ctx context.Context, after int) (passed int, why string) {
	for i := len(s.plan.doc.Steps) - 1; i > after; i-- {
		d, at := s.plan.doc.Steps[i], s.state().steps[i]
		switch {
		case !d.PointOfNoReturn || !at.intent:
			continue
		case at.outcome != "":
			return i, "it was carried out"
		case d.Kind == KindPrompt: // nobody confirmed it
			continue
		}
		obs, err := s.observe(ctx, i)
		switch {
		case err != nil:
			return i, "it was begun, and what became of it cannot be seen: " + err.Error()
		case obs.State != Pending:
			return i, fmt.Sprintf("it was begun, and is %s: %s", obs.State, obs.Detail)
		}
	}
	return -1, ""
}

// undo begins to undo.
func (s *session) undo(ctx context.Context, opts UndoOptions) error {
	after := -1
	if opts.To != "" {
		if after = s.plan.index(opts.To); after < 0 {
			return badConfig(fmt.Sprintf("UndoOptions.To %q is no step of the plan", opts.To), "name the last step that stays done")
		}
	}
	// Observing needs the session in the journal, because it is recorded.
	if err := s.begin(); err != nil {
		return err
	}
	if passed, why := s.passedPoint(ctx, after); passed >= 0 && !opts.Partial {
		if err := s.stops(ctx, passed, nil); err != nil {
			return err
		}
		return s.pointOfNoReturn(passed, why)
	}
	return s.undoAll(ctx, Record{Kind: RecordUndo, Undo: &opts})
}

func (s *session) pointOfNoReturn(passed int, why string) error {
	name := s.plan.doc.Steps[passed].Name
	hint := "go on with the plan"
	for i := len(s.plan.doc.Steps) - 1; i > passed; i-- {
		if at := s.state().steps[i]; at.intent {
			hint += fmt.Sprintf("; what came after can be undone down to it (To: %q), where that makes sense", name)
			break
		}
	}
	return &Error{Kind: ErrPointOfNoReturn, Step: name, Detail: why + "; nothing was undone", Hint: hint}
}

// resumeUndo goes on with what another session began.
func (s *session) resumeUndo(ctx context.Context) error {
	cause := s.state().failure
	if err := s.undoAll(ctx, Record{}); err != nil {
		return err
	}
	if cause != "" {
		return s.undone(errors.New(cause))
	}
	return nil
}

// undoAll undoes what was done, last first. begin is the record that begins it; without a kind it was begun before.
func (s *session) undoAll(ctx context.Context, begin Record) error {
	if begin.Kind != "" {
		if err := s.append(begin); err != nil {
			return err
		}
	}
	opts := *s.state().undo
	after := s.plan.index(opts.To)
	for i := len(s.plan.doc.Steps) - 1; i > after; i-- {
		d, at := s.plan.doc.Steps[i], s.state().steps[i]
		if !at.intent {
			continue // not this runner's doing
		}
		if err := interrupted(ctx, d.Name); err != nil {
			return err
		}
		if d.PointOfNoReturn {
			passed, why := s.passedPoint(ctx, i-1)
			if passed < 0 {
				if err := s.append(Record{Kind: RecordUndone, Step: d.Name, Detail: "nothing of it was there"}); err != nil {
					return err
				}
				continue
			}
			if err := s.stops(ctx, i, nil); err != nil {
				return err
			}
			if err := s.append(Record{Kind: RecordUndoEnd, Detail: "step " + d.Name + " cannot be undone"}); err != nil {
				return err
			}
			return &Error{Kind: ErrPointOfNoReturn, Step: d.Name, Detail: why + "; what came after is undone", Hint: "go on with the plan"}
		}
		if err := s.undoStep(ctx, i); err != nil {
			return err
		}
	}
	if opts.To != "" {
		return s.append(Record{Kind: RecordUndoEnd, Detail: "undone down to step " + opts.To})
	}
	return s.append(Record{Kind: RecordEnd, Outcome: s.state().finally})
}

// undoStep brings one step back to where nothing of it is there.
func (s *session) undoStep(ctx context.Context, i int) error {
	d := s.plan.doc.Steps[i]
	if d.Kind == KindPrompt {
		return s.undoPrompt(ctx, i)
	}
	undoer, _ := undoerOf(s.plan.steps[i]) // the document says that it is one
	for tries := (attempts{retry: d.retry()}); ; {
		if err := interrupted(ctx, d.Name); err != nil {
			return err
		}
		obs, err := s.observe(ctx, i)
		if err == nil && obs.State == Pending {
			return s.append(Record{Kind: RecordUndone, Step: d.Name, Detail: obs.Detail})
		}
		if tries.over() {
			return s.undoFailed(i, tries.last)
		}
		what := "Observe"
		if err == nil {
			what = "Undo"
			var undone bool
			if undone, err = s.undoOnce(ctx, i, undoer); undone || err == nil {
				return err
			}
		}
		if err := s.fail(ctx, i, &tries, what, err); err != nil {
			return err
		}
	}
}

// undoOnce calls Undo. It reports true if that is the end of it, with an error if the session has to stop; else the attempt's error.
func (s *session) undoOnce(ctx context.Context, i int, undoer Undoer) (finished bool, err error) {
	d := s.plan.doc.Steps[i]
	if err := s.unchanged(i); err != nil {
		return true, err
	}
	if err := s.append(Record{Kind: RecordUndoIntent, Step: d.Name, Attempt: s.state().steps[i].undos + 1}); err != nil {
		return true, err
	}
	if err := s.call(ctx, i, "Undo", d.timeout(), true, undoer.Undo); err != nil {
		if errors.Is(err, ErrPointOfNoReturn) {
			return true, s.undoRefused(ctx, i, err)
		}
		return false, err
	}
	obs, err := s.observe(ctx, i)
	switch {
	case err != nil:
		return false, fmt.Errorf("it returned, and Observe failed: %w", err)
	case obs.State == Pending || obs.State == Blocked:
		return true, s.append(Record{Kind: RecordUndone, Step: d.Name, Detail: obs.Detail})
	}
	return false, fmt.Errorf("it returned, and Observe says %s: %s", obs.State, obs.Detail)
}

// undoRefused ends the undoing at a step that tells that it cannot be undone any more: the run goes forward from there, and does again what was undone.
func (s *session) undoRefused(ctx context.Context, i int, why error) error {
	name := s.plan.doc.Steps[i].Name
	if err := s.stops(ctx, i, nil); err != nil {
		return err
	}
	if err := s.append(Record{Kind: RecordFailed, Step: name, Detail: clean("Undo: " + why.Error())}); err != nil {
		return err
	}
	if err := s.append(Record{Kind: RecordUndoEnd, Detail: "step " + name + " cannot be undone any more"}); err != nil {
		return err
	}
	return &Error{Kind: ErrPointOfNoReturn, Step: name, Detail: "it cannot be undone any more; what came after is undone", Hint: "put right what failed, and go on with the plan", Cause: why}
}

func (s *session) undoFailed(i int, cause error) error {
	return &Error{Kind: ErrUndoFailed, Step: s.plan.doc.Steps[i].Name, Cause: cause, Hint: "put right what is wrong and resume the undoing"}
}

// undoPrompt waits until a person has taken back what a prompt asked for.
func (s *session) undoPrompt(ctx context.Context, i int) error {
	d := s.plan.doc.Steps[i]
	for d.Prompt.Undo != "" {
		if err := s.readDecisions(); err != nil {
			return err
		}
		if by := s.state().decision(d.Name, s.state().undoSeq, DecisionUndone); by != nil {
			return s.append(Record{Kind: RecordUndone, Step: d.Name, Detail: clean("taken back, says " + by.By)})
		}
		if err := s.await(ctx, i, Waiting{Step: d.Name, For: NeedUndone, Detail: d.Prompt.Undo}); err != nil {
			return err
		}
	}
	return s.append(Record{Kind: RecordUndone, Step: d.Name, Detail: "nothing to take back"})
}
