package failover

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/hook"
)

// session is one call of Run or Undo: it has the journal open.
type session struct {
	*Runner
	j        *journal
	fresh    bool // the journal had no records
	begun    bool // this session is in the journal
	approved bool // the plan's approval counted in this session
	// seen is what was last recorded of each step's observations in this session.
	seen map[string]string
	// waiting is what was last recorded.
	waiting Waiting
	badFile map[string]bool // files of the inbox that were complained about
}

// session opens the journal, or creates it, calls work and closes it.
func (r *Runner) session(ctx context.Context, creates bool, work func(*session) error) (err error) {
	r.mu.Lock()
	if r.running {
		r.mu.Unlock()
		return &Error{Kind: ErrBusy, Detail: "Run or Undo of this Runner is under way", Hint: "wait for it, or end its context"}
	}
	r.running = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running, r.live = false, map[string]liveStep{}
		r.mu.Unlock()
	}()
	if err := interrupted(ctx, ""); err != nil {
		return err
	}
	j, records, err := openJournal(r.cfg.Journal, creates && r.cfg.Begin != ResumeOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.close()) }()
	s := &session{Runner: r, j: j, fresh: len(records) == 0, seen: map[string]string{}, badFile: map[string]bool{}}
	if err := s.load(records); err != nil {
		return err
	}
	if r.cfg.Copy.Etcd == nil {
		j.lines = nil
	} else {
		j.copy = newCopier(r.cfg.Copy, r.plan.Name(), s.state().id, j.place, r.identity())
		defer func() { j.copy.close(j.lines) }()
		if err := s.openCopy(ctx); err != nil {
			return err
		}
	}
	err = work(s)
	return s.end(ctx, err)
}

// load takes in the journal's records and refuses another plan's.
func (s *session) load(records []Record) error {
	switch {
	case s.fresh && s.cfg.Begin == ResumeOnly:
		return noJournal(s.cfg.Journal)
	case !s.fresh && s.cfg.Begin == BeginOnly:
		return &Error{Kind: ErrJournalExists, Detail: s.cfg.Journal, Hint: "resume it, or use another path"}
	}
	p := planned(s.plan)
	if !s.fresh {
		var err error
		if p, err = replay(s.cfg.Journal, records); err != nil {
			return err
		}
		if p.hash != s.plan.hash {
			return planChanged(p.doc, s.plan.doc, p.hash, s.plan.hash)
		}
	}
	s.mu.Lock()
	s.Runner.state = p
	s.mu.Unlock()
	s.j.taken = s.take
	return nil
}

func planChanged(old, now Document, oldHash, nowHash string) error {
	changes := CompareDocuments(old, now)
	more := ""
	if len(changes) > 10 {
		changes, more = changes[:10], fmt.Sprintf("; and %d more", len(changes)-10)
	}
	return &Error{Kind: ErrPlanChanged, Detail: fmt.Sprintf("the journal's plan is %s, this one %s: %s%s", ShortHash(oldHash), ShortHash(nowHash), strings.Join(changes, "; "), more),
		Hint: "resume with the plan as it was, or undo it, and begin the new one in another journal"}
}

// state is not changed while the session's own goroutine looks at it: only append does, and steps that save something, while the session waits for them.
func (s *session) state() *progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Runner.state
}

func (r *Runner) identity() Identity {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return Identity{By: r.cfg.By, Host: host, PID: os.Getpid()}
}

// begin writes the plan, if it is not there yet, and that a runner is at it.
func (s *session) begin() error {
	if s.begun {
		return nil
	}
	if s.fresh {
		var random [4]byte
		_, _ = rand.Read(random[:]) // never fails
		doc := s.plan.Document()
		id := time.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(random[:])
		if s.j.copy != nil {
			s.j.copy.setJournal(id)
		}
		if err := s.append(Record{Kind: RecordPlan, Journal: id, Hash: s.plan.hash, Plan: &doc}); err != nil {
			return err
		}
		s.fresh = false
	}
	identity := s.identity()
	s.begun = true
	return s.append(Record{Kind: RecordRun, Runner: &identity})
}

// end records why the session stops, unless the run has ended.
func (s *session) end(ctx context.Context, err error) error {
	if err == nil || !s.begun || s.state().ended != "" {
		return err
	}
	// A journal that cannot be written has said so; that it stopped then shows in what it lacks.
	if appendErr := s.append(Record{Kind: RecordStopped, Step: s.stepOf(err), Detail: clean(err.Error())}); appendErr != nil && ctx.Err() == nil {
		s.log.Warn("why the run stopped could not be recorded", LogKeyError, appendErr)
	}
	return err
}

func (s *session) stepOf(err error) string {
	var e *Error
	if errors.As(err, &e) && s.plan.index(e.Step) >= 0 {
		return e.Step
	}
	return ""
}

// append writes a record durably. It outlives the run's context: what happened has to be written.
func (s *session) append(r Record) error {
	_, err := s.j.append(context.Background(), r)
	if s.j.copy != nil {
		s.mu.Lock()
		s.behind = s.j.copy.behind(s.j)
		s.mu.Unlock()
	}
	return err
}

// take is called with each record that is durable.
func (s *session) take(r Record) error {
	s.mu.Lock()
	err := s.Runner.state.apply(r)
	if r.Step != "" {
		delete(s.live, r.Step)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.logRecord(r)
	hook.Call(s.cfg.Hooks.Recorded, RecordedInfo{r})
	if r.Kind == RecordCopy {
		hook.Call(s.cfg.Hooks.Copy, CopyInfo{Reached: r.Detail == copyReached, Detail: r.Detail})
	}
	return nil
}

func (s *session) logRecord(r Record) {
	attrs := []any{LogKeyKind, string(r.Kind)}
	for _, a := range []struct{ key, value string }{{LogKeyStep, r.Step}, {LogKeyOutcome, string(r.Outcome)}, {LogKeyDetail, r.Detail}} {
		if a.value != "" {
			attrs = append(attrs, a.key, a.value)
		}
	}
	if r.Attempt > 0 {
		attrs = append(attrs, LogKeyAttempt, r.Attempt)
	}
	if r.Decision != nil {
		attrs = append(attrs, LogKeyBy, r.Decision.By)
	}
	if slices.Contains([]RecordKind{RecordFailed, RecordRefused, RecordStopped}, r.Kind) || r.Kind == RecordCopy && r.Detail != copyReached {
		s.log.Warn("journal", attrs...)
	} else {
		s.log.Info("journal", attrs...)
	}
}

// overdueGrace is how long a step may take to return after its time is up.
const overdueGrace = 5 * time.Second

// call calls one method of a step, with its deadline and what it may do.
func (s *session) call(ctx context.Context, i int, what string, timeout time.Duration, writable bool, f func(context.Context) error) (err error) {
	name := s.plan.doc.Steps[i].Name
	callCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	returned := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { s.watchOverdue(callCtx, returned, name, what) })
	defer watch.Wait()
	defer close(returned)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s panicked: %v", what, p)
		}
		if err != nil && ctx.Err() == nil && callCtx.Err() != nil {
			err = fmt.Errorf("%s did not end within %v: %w", what, timeout, err)
		}
	}()
	w := s.world(name, writable)
	defer w.close()
	return f(context.WithValue(callCtx, worldKey{}, w))
}

func (s *session) watchOverdue(ctx context.Context, returned chan struct{}, step, what string) {
	select {
	case <-returned:
		return
	case <-ctx.Done():
	}
	grace := time.NewTimer(overdueGrace)
	defer grace.Stop()
	select {
	case <-returned:
	case <-grace.C:
		s.mu.Lock()
		l := s.live[step]
		l.overdue = true
		s.live[step] = l
		s.mu.Unlock()
		s.log.Warn("a step does not return though its time is up; the journal stays locked until it does", LogKeyStep, step, LogKeyDetail, what)
		hook.Call(s.cfg.Hooks.Overdue, OverdueInfo{Step: step, Call: what})
	}
}

func (s *session) world(step string, writable bool) *world {
	return &world{
		step: step, writable: writable,
		save: func(_ context.Context, key string, value json.RawMessage) error {
			return s.append(Record{Kind: RecordSaved, Step: step, Key: key, Value: value})
		},
		load: func(step, key string) (json.RawMessage, bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.Runner.state.load(step, key)
		},
		note: func(_ context.Context, text string) {
			if err := s.append(Record{Kind: RecordNote, Step: step, Detail: clean(text)}); err != nil {
				s.log.Warn("a note could not be recorded", LogKeyStep, step, LogKeyError, err)
			}
		},
		report: func(text string) {
			s.mu.Lock()
			l := s.live[step]
			l.progress = text
			s.live[step] = l
			s.mu.Unlock()
			hook.Call(s.cfg.Hooks.Progress, ProgressInfo{step, text})
		},
		began: func() time.Time {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.Runner.state.steps[s.Runner.state.index[step]].began
		},
	}
}

func (p *progress) load(step, key string) (json.RawMessage, bool) {
	i, ok := p.index[step]
	if !ok {
		return nil, false
	}
	raw, ok := p.steps[i].saved[key]
	return raw, ok
}

func interrupted(ctx context.Context, step string) error {
	if ctx.Err() == nil {
		return nil
	}
	return &Error{Kind: ErrInterrupted, Step: step, Cause: context.Cause(ctx), Hint: "resume it when ready"}
}
