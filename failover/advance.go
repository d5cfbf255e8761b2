package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/internal/hook"
)

// forward carries out the steps that are not finished, in order.
func (s *session) forward(ctx context.Context) error {
	for i, d := range s.plan.doc.Steps {
		if d.LeftOut || s.state().steps[i].outcome != "" {
			continue
		}
		if err := s.step(ctx, i); err != nil {
			return s.failed(ctx, i, err)
		}
	}
	if s.plan.Mode() == ModeDrill {
		return s.undoAll(ctx, Record{Kind: RecordUndo, Undo: &UndoOptions{Reason: "the drill is over"}, Outcome: OutcomeRehearsed})
	}
	return s.append(Record{Kind: RecordEnd, Outcome: OutcomeCompleted})
}

// failed undoes what was done if the plan asks for it and it can be.
func (s *session) failed(ctx context.Context, i int, err error) error {
	undoes := false
	for _, kind := range []error{ErrStepFailed, ErrNotVerified, ErrBlocked, ErrRejected} {
		undoes = undoes || errors.Is(err, kind)
	}
	if !undoes || s.plan.doc.OnFailure != FailureUndo {
		return err
	}
	if passed, _ := s.passedPoint(ctx, -1); passed >= 0 {
		return fmt.Errorf("%w; nothing is undone, because step %s cannot be: put right what is wrong and resume", err, s.plan.doc.Steps[passed].Name)
	}
	undoErr := s.undoAll(ctx, Record{Kind: RecordUndo, Undo: &UndoOptions{Reason: "step " + s.plan.doc.Steps[i].Name + " failed"}, Detail: clean(err.Error())})
	if undoErr != nil {
		return errors.Join(undoErr, err)
	}
	return s.undone(err)
}

func (s *session) undone(cause error) error {
	return &Error{Kind: ErrUndone, Cause: cause, Hint: "everything is as it was before; begin again in another journal"}
}

// attempts counts failed attempts of one call against its retries.
type attempts struct {
	retry  Retry
	failed int
	last   error
}

func (a *attempts) fail(err error) { a.failed, a.last = a.failed+1, err }

// over reports whether no further attempt is allowed.
func (a *attempts) over() bool {
	return a.last != nil && (a.failed >= a.retry.Attempts || isPermanent(a.last))
}

// observe asks a step, and records what is new.
func (s *session) observe(ctx context.Context, i int) (obs Observation, err error) {
	d := s.plan.doc.Steps[i]
	err = s.call(ctx, i, "Observe", s.cfg.ObserveTimeout, false, func(ctx context.Context) (err error) {
		obs, err = s.plan.steps[i].Observe(ctx)
		return err
	})
	obs, err = checkObservation(obs, err)
	hook.Call(s.cfg.Hooks.Observed, ObservedInfo{Step: d.Name, Observation: obs, Error: err})
	if err != nil {
		return obs, err
	}
	s.log.Debug("observed", LogKeyStep, d.Name, LogKeyKind, string(obs.State), LogKeyDetail, obs.Detail)
	// What is seen again and again while something is waited for is recorded once.
	if now := string(obs.State) + "\x00" + obs.Loss; s.seen[d.Name] != now {
		s.seen[d.Name] = now
		return obs, s.append(Record{Kind: RecordObserved, Step: d.Name, State: obs.State, Detail: obs.Detail, Loss: obs.Loss})
	}
	return obs, nil
}

func checkObservation(obs Observation, err error) (Observation, error) {
	if err != nil {
		return Observation{}, err
	}
	obs.Detail, obs.Loss = clean(obs.Detail), clean(obs.Loss)
	switch {
	case obs.State == Blocked && obs.Detail == "":
		obs.Detail = "the step gives no reason"
	case obs.State != Pending && obs.State != Partial && obs.State != Done && obs.State != Blocked:
		return Observation{}, Permanent(fmt.Errorf("Observe returned the unknown state %q", obs.State))
	}
	return obs, nil
}

// fail records a failed attempt and pauses before the next one, if there is one.
func (s *session) fail(ctx context.Context, i int, a *attempts, what string, err error) error {
	if stop := s.stops(ctx, i, err); stop != nil {
		return stop
	}
	a.fail(err)
	if err := s.append(Record{Kind: RecordFailed, Step: s.plan.doc.Steps[i].Name, Detail: clean(what + ": " + err.Error())}); err != nil {
		return err
	}
	if a.over() {
		return nil
	}
	return s.pause(ctx, i, a.retry.pause(a.failed), nil)
}

// stops returns what ends the session at once: the context's end, or a journal that cannot be written, also where a step met it first.
func (s *session) stops(ctx context.Context, i int, err error) error {
	for _, kind := range []error{ErrJournal, ErrCopy, ErrBusy} {
		var e *Error
		if errors.As(err, &e) && e.Kind == kind {
			return err
		}
	}
	return interrupted(ctx, s.plan.doc.Steps[i].Name)
}

// pause waits for a time, or until something is poked.
func (s *session) pause(ctx context.Context, i int, d time.Duration, poke <-chan struct{}) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-poke:
		return nil
	case <-ctx.Done():
		return interrupted(ctx, s.plan.doc.Steps[i].Name)
	}
}

// step brings one step to its end. What it does next is decided by Observe each time.
func (s *session) step(ctx context.Context, i int) error {
	d := s.plan.doc.Steps[i]
	tries := attempts{retry: d.retry()}
	blockedSince := time.Time{}
	for {
		if err := interrupted(ctx, d.Name); err != nil {
			return err
		}
		obs, err := s.observe(ctx, i)
		if err != nil {
			if tries.over() { // the attempt before has failed, and this was to see what became of it
				return s.stepFailed(i, tries.last)
			}
			if err := s.fail(ctx, i, &tries, "Observe", err); err != nil {
				return err
			}
			if tries.over() {
				return s.stepFailed(i, err)
			}
			continue
		}
		if obs.State == Done {
			return s.finish(ctx, i, obs, tries.last)
		}
		if tries.over() {
			return s.stepFailed(i, tries.last)
		}
		next, err := false, error(nil)
		switch {
		case d.Kind == KindGate && obs.State == Blocked && obs.Loss != "" && s.plan.Mode() == ModeUngraceful:
			var passed bool
			if passed, err = s.accepted(ctx, i, obs); passed {
				return err
			}
		case d.Kind == KindPrompt:
			var confirmed bool
			if confirmed, err = s.confirmed(ctx, i); confirmed {
				return err
			}
		case d.Kind == KindGate || obs.State == Blocked:
			err = s.blocked(ctx, i, obs, &blockedSince)
		default:
			next, err = s.mayAct(ctx, i)
		}
		if err != nil {
			return err
		}
		if !next {
			continue
		}
		blockedSince = time.Time{}
		if err := s.act(ctx, i, &tries); err != nil {
			return err
		}
	}
}

func (s *session) stepFailed(i int, cause error) error {
	return &Error{Kind: ErrStepFailed, Step: s.plan.doc.Steps[i].Name, Cause: cause, Hint: "put right what is wrong and resume, or undo"}
}

// act writes the intent and calls Do. What it has led to, the next observation tells.
func (s *session) act(ctx context.Context, i int, tries *attempts) error {
	d := s.plan.doc.Steps[i]
	if err := s.unchanged(i); err != nil {
		return err
	}
	if err := s.append(Record{Kind: RecordIntent, Step: d.Name, Attempt: s.state().steps[i].attempts + 1}); err != nil {
		return err
	}
	err := s.call(ctx, i, "Do", d.timeout(), true, s.plan.steps[i].Do)
	if err != nil {
		return s.fail(ctx, i, tries, "Do", err)
	}
	obs, err := s.observe(ctx, i)
	switch {
	case err != nil:
		return s.fail(ctx, i, tries, "Observe after Do", err)
	case obs.State != Done:
		return s.fail(ctx, i, tries, "Do", fmt.Errorf("it returned, and Observe says %s: %s", obs.State, obs.Detail))
	}
	return nil
}

// unchanged refuses a step that describes itself otherwise than when the plan was frozen, and approved.
func (s *session) unchanged(i int) error {
	if change := s.plan.changed(i); change != "" {
		return &Error{Kind: ErrPlanChanged, Step: s.plan.doc.Steps[i].Name, Detail: change, Hint: "what a step was made from must not change after NewPlan"}
	}
	return nil
}

// finish verifies a step that is done and records it. before is the error of an attempt that was done all the same.
func (s *session) finish(ctx context.Context, i int, obs Observation, before error) error {
	d := s.plan.doc.Steps[i]
	if v, ok := verifierOf(s.plan.steps[i]); ok {
		for tries := (attempts{retry: d.retry()}); ; {
			err := s.call(ctx, i, "Verify", d.timeout(), false, v.Verify)
			if err == nil {
				break
			}
			if err := s.fail(ctx, i, &tries, "Verify", err); err != nil {
				return err
			}
			if tries.over() {
				return &Error{Kind: ErrNotVerified, Step: d.Name, Cause: err, Hint: "put right what is wrong and resume, or undo"}
			}
		}
	}
	r := Record{Kind: RecordDone, Step: d.Name, Outcome: OutcomeAlready, Detail: obs.Detail}
	switch intent := s.state().steps[i].intent; {
	case d.Kind == KindGate:
		r.Outcome = OutcomePassed
	case intent && d.Kind == KindPrompt:
		r.Outcome = OutcomeConfirmed
	case intent:
		r.Outcome = OutcomeDone
	}
	if before != nil {
		r.Detail = clean(r.Detail + " (after: " + before.Error() + ")")
	}
	return s.append(r)
}
