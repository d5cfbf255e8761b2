package failover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/hook"
)

// await records what is waited for, once, and waits until it is worth a look again.
func (s *session) await(ctx context.Context, i int, w Waiting) error {
	if w != s.waiting || s.state().waiting == nil {
		s.waiting = w
		if err := s.append(Record{Kind: RecordWaiting, Step: w.Step, For: w.For, Detail: w.Detail, Loss: w.Loss}); err != nil {
			return err
		}
		w.Role, w.Since = s.plan.doc.roleFor(w), time.Now()
		hook.Call(s.cfg.Hooks.Waiting, WaitingInfo{w})
	}
	if s.cfg.NoWait && w.For != NeedCondition {
		role := s.plan.doc.roleFor(w)
		return &Error{Kind: ErrWaiting, Step: w.Step, Detail: strings.TrimSpace(fmt.Sprintf("%s %s", w.For, byRole(role))) + because(w), Hint: "decide, and resume"}
	}
	return s.pause(ctx, i, s.cfg.Poll, s.poke)
}

func byRole(role string) string {
	if role == "" {
		return ""
	}
	return fmt.Sprintf("by role %q", role)
}

func because(w Waiting) string {
	text := cmp.Or(w.Loss, w.Detail)
	if text == "" {
		return ""
	}
	return ": " + text
}

// blocked waits for a condition, for as long as Config.BlockedWait allows.
func (s *session) blocked(ctx context.Context, i int, obs Observation, since *time.Time) error {
	name := s.plan.doc.Steps[i].Name
	if since.IsZero() {
		*since = time.Now()
	}
	if s.cfg.BlockedWait >= 0 && time.Since(*since) >= s.cfg.BlockedWait {
		hint := "put right what is wrong and resume, or undo"
		if obs.Loss != "" {
			hint = "in an ungraceful plan the loss can be accepted: " + obs.Loss
		}
		return &Error{Kind: ErrBlocked, Step: name, Detail: cmp.Or(obs.Detail, string(obs.State)), Hint: hint}
	}
	// The reason's numbers may change each time: what is recorded is the first.
	w := s.waiting
	if w.Step != name || w.For != NeedCondition {
		w = Waiting{Step: name, For: NeedCondition, Detail: obs.Detail, Loss: obs.Loss}
	}
	return s.await(ctx, i, w)
}

// mayAct asks for the approvals of the plan and of a step. It reports false when it had to wait, because the world may have changed meanwhile.
func (s *session) mayAct(ctx context.Context, i int) (bool, error) {
	if err := s.readDecisions(); err != nil {
		return false, err
	}
	d := s.plan.doc.Steps[i]
	if s.plan.doc.Approval != nil && !s.approved {
		ok, err := s.approvedBy(ctx, i, "", s.plan.doc.Approval)
		if !ok || err != nil {
			return false, err
		}
		s.approved = true
	}
	if d.Approval == nil {
		return true, nil
	}
	return s.approvedBy(ctx, i, d.Name, d.Approval)
}

func (s *session) approvedBy(ctx context.Context, i int, step string, need *ApprovalDocument) (bool, error) {
	detail := ""
	if d := s.state().decision(step, 0, DecisionApprove, DecisionReject); d != nil {
		if d.Kind == DecisionReject {
			return false, &Error{Kind: ErrRejected, Step: step, Detail: fmt.Sprintf("by %s, %s, at %s: %s", d.By, d.Role, d.At.Format(time.RFC3339), cmp.Or(d.Comment, "no comment")),
				Hint: "a later approval counts instead"}
		}
		err := d.check(s.plan.doc, s.plan.hash, time.Now())
		if err == nil {
			return true, nil
		}
		detail = fmt.Sprintf("the approval by %s does not count any more: it was good until %s", d.By, d.expires(s.plan.doc).Format(time.RFC3339))
	}
	return false, s.await(ctx, i, Waiting{Step: step, For: NeedApproval, Detail: detail})
}

// accepted waits until somebody accepts a gate's stated loss. It reports true when the gate is behind.
func (s *session) accepted(ctx context.Context, i int, obs Observation) (bool, error) {
	if err := s.readDecisions(); err != nil {
		return true, err
	}
	name := s.plan.doc.Steps[i].Name
	detail := obs.Detail
	if d := s.state().decision(name, 0, DecisionAccept); d != nil {
		switch err := d.check(s.plan.doc, s.plan.hash, time.Now()); {
		case d.Loss != obs.Loss:
			detail = fmt.Sprintf("%s; %s accepted another loss: %s", obs.Detail, d.By, d.Loss)
		case err != nil:
			detail = fmt.Sprintf("%s; the acceptance by %s expired", obs.Detail, d.By)
		default:
			return true, s.append(Record{Kind: RecordDone, Step: name, Outcome: OutcomeAccepted, Loss: obs.Loss, Decision: d,
				Detail: clean(fmt.Sprintf("%s; accepted by %s at %s", obs.Detail, d.By, d.At.Format(time.RFC3339)))})
		}
	}
	// As in blocked, the reason may change each time.
	w := Waiting{Step: name, For: NeedAcceptance, Detail: detail, Loss: obs.Loss}
	if last := s.waiting; last.Step == name && last.For == NeedAcceptance && last.Loss == obs.Loss {
		w.Detail = last.Detail
	}
	return false, s.await(ctx, i, w)
}

// confirmed waits until a person has done a prompt's task. It reports true when the step is finished.
func (s *session) confirmed(ctx context.Context, i int) (bool, error) {
	d := s.plan.doc.Steps[i]
	if ok, err := s.mayAct(ctx, i); !ok || err != nil {
		return false, err
	}
	if err := s.unchanged(i); err != nil {
		return false, err
	}
	at := s.state().steps[i]
	if !at.intent { // from here on somebody may be at it
		if err := s.append(Record{Kind: RecordIntent, Step: d.Name, Attempt: at.attempts + 1}); err != nil {
			return false, err
		}
	}
	if d.Prompt.Checked {
		return false, s.await(ctx, i, Waiting{Step: d.Name, For: NeedAction, Detail: d.Prompt.Text})
	}
	if by := s.state().decision(d.Name, at.reset, DecisionConfirm); by != nil {
		return true, s.finishConfirmed(ctx, i, by)
	}
	return false, s.await(ctx, i, Waiting{Step: d.Name, For: NeedConfirmation, Detail: d.Prompt.Text})
}

func (s *session) finishConfirmed(ctx context.Context, i int, by *Decision) error {
	detail := fmt.Sprintf("confirmed by %s at %s", by.By, by.At.Format(time.RFC3339))
	if by.Comment != "" {
		detail += ": " + by.Comment
	}
	return s.finish(ctx, i, Observation{State: Done, Detail: detail}, nil)
}

// readDecisions takes what lies in the inbox into the journal: each once, as counting or as refused.
func (s *session) readDecisions() error {
	found, bad, err := readInbox(s.cfg.Journal, func(id string) bool { return s.state().seen[id] || s.badFile[id] })
	if err != nil {
		return &Error{Kind: ErrJournal, Detail: inboxOf(s.cfg.Journal), Hint: "check the folder's permissions", Cause: err}
	}
	for _, d := range found {
		r := Record{Kind: RecordDecision, Decision: &d}
		err := d.check(s.plan.doc, s.plan.hash, time.Now())
		if err == nil && s.cfg.Authorize != nil {
			err = s.cfg.Authorize(d)
		}
		if err != nil {
			r.Kind, r.Detail = RecordRefused, clean(err.Error())
		}
		if s.plan.index(d.Step) >= 0 {
			r.Step = d.Step
		}
		if err := s.append(r); err != nil {
			return err
		}
	}
	ids := make([]string, 0, len(bad))
	for id := range bad {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		s.badFile[id] = true
		s.log.Warn("a file of the inbox is ignored", LogKeyDetail, clean(id+".json: "+bad[id]))
	}
	return nil
}
