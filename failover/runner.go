package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// Defaults of Config.
const (
	DefaultPoll           = time.Second
	DefaultObserveTimeout = 30 * time.Second
)

// Keys of attributes in logs.
const (
	LogKeyPlan    = "plan"
	LogKeyStep    = "step"
	LogKeyKind    = "kind"
	LogKeyOutcome = "outcome"
	LogKeyDetail  = "detail"
	LogKeyAttempt = "attempt"
	LogKeyBy      = "by"
	LogKeyError   = "error"
)

// BeginPolicy says whether Run begins a run or resumes one.
type BeginPolicy string

const (
	// BeginOrResume resumes the journal's run, or begins one if it has none.
	BeginOrResume BeginPolicy = ""
	// BeginOnly begins; ErrJournalExists if the journal has records. An unfinished run of the plan in the copy is left alone.
	BeginOnly BeginPolicy = "begin"
	// ResumeOnly resumes; ErrNoJournal if the journal has no records.
	ResumeOnly BeginPolicy = "resume"
)

// Config says how a plan is run. The zero value of each field but Journal is its documented default.
type Config struct {
	// Journal is the path of the journal's file. Required. Its folder exists; the file is made when the run begins. One journal is for one run.
	Journal string
	// Copy sends the journal to an etcd as well; without Copy.Etcd there is none.
	Copy CopyConfig
	// Begin says whether Run may begin or resume.
	Begin BeginPolicy
	// By names who runs the plan, for the record.
	By string

	// NoWait makes Run and Undo return ErrWaiting instead of waiting for a person.
	NoWait bool
	// BlockedWait is how long a blocked step is observed again before the run gives up with ErrBlocked; 0 gives up at once, below 0 never.
	BlockedWait time.Duration
	// Poll is how often what is waited for is looked at; 0 is DefaultPoll.
	Poll time.Duration
	// ObserveTimeout bounds each call of Observe; 0 is DefaultObserveTimeout.
	ObserveTimeout time.Duration

	// Authorize is asked about each decision before it counts, after all other checks; an error refuses it. nil trusts whoever can write next to the journal.
	Authorize func(Decision) error

	// Logger receives what happens; nil discards.
	Logger *slog.Logger
	// Hooks are called as things happen.
	Hooks Hooks
}

// Runner carries out a plan with a journal. Its methods may be called from several goroutines; of Run and Undo one at a time.
type Runner struct {
	plan *Plan
	cfg  Config
	log  *slog.Logger
	poke chan struct{} // a decision was left here

	mu      sync.Mutex
	running bool
	state   *progress // nil before the first session
	live    map[string]liveStep
	behind  int64 // records that the copy lacks
}

// liveStep is what a step says while it runs.
type liveStep struct {
	progress string
	overdue  bool
}

// New checks the configuration. It touches and starts nothing.
func New(plan *Plan, cfg Config) (*Runner, error) {
	var errs []error
	bad := func(detail, hint string) { errs = append(errs, badConfig(detail, hint)) }
	if plan == nil {
		bad("the plan is nil", "make one with NewPlan")
	}
	if cfg.Journal == "" {
		bad("Journal is empty", "give the path of a file")
	} else if abs, err := filepath.Abs(cfg.Journal); err != nil {
		bad(fmt.Sprintf("Journal %q: %v", cfg.Journal, err), "give an absolute path")
	} else {
		cfg.Journal = abs
	}
	switch cfg.Begin {
	case BeginOrResume, BeginOnly, ResumeOnly:
	default:
		bad(fmt.Sprintf("Begin %q is unknown", cfg.Begin), "use BeginOrResume, BeginOnly or ResumeOnly")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{{"Poll", &cfg.Poll, DefaultPoll}, {"ObserveTimeout", &cfg.ObserveTimeout, DefaultObserveTimeout}} {
		if *d.value < 0 {
			bad(fmt.Sprintf("%s is %v", d.name, *d.value), "use a positive one, or 0 for the default")
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	copyCfg, err := cfg.Copy.complete()
	errs = append(errs, err)
	cfg.Copy, cfg.By = copyCfg, clean(cfg.By)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Runner{plan: plan, cfg: cfg, log: log.With(LogKeyPlan, plan.Name()), poke: make(chan struct{}, 1), live: map[string]liveStep{}}, nil
}

// Run begins the plan's run, or resumes it, and returns nil when it is complete: every step finished; a drill also undone.
//
// Otherwise it returns why it stopped: ErrStepFailed, ErrNotVerified, ErrBlocked, ErrRejected, ErrWaiting, ErrInterrupted (ctx ended), ErrPlanChanged, ErrBusy, ErrJournal, ErrCopy: then it can be
// called again, in this process or another, and goes on from where it was. ErrUndone and ErrEnded are final. If undoing was under way, that is what is resumed.
func (r *Runner) Run(ctx context.Context) error {
	return r.session(ctx, true, func(s *session) error {
		if s.state().ended != "" {
			return ended(s.state())
		}
		if err := s.begin(); err != nil {
			return err
		}
		if s.state().undo != nil {
			return s.resumeUndo(ctx)
		}
		return s.forward(ctx)
	})
}

// UndoOptions say what Undo undoes.
type UndoOptions struct {
	// By and Reason are for the record.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// To is the last step that stays done; "" undoes everything.
	To string `json:"to,omitempty"`
	// Partial undoes what comes after the point of no return and then returns ErrPointOfNoReturn, instead of refusing before anything is undone.
	// Whether half a plan is better than a whole one, only its operator knows.
	Partial bool `json:"partial,omitempty"`
}

// Undo undoes the steps that the journal's run has carried out, in reverse order. Steps that were found done, and gates, are left alone.
// After all of them the run has ended; with To, or after Partial, it can go on with Run. It returns nil when everything that was asked for is undone.
//
// ErrPointOfNoReturn if a step among them has no Undo: then nothing is undone, unless Partial. Of a step without Undo whose Do was interrupted, Observe decides: Pending has not passed the point.
// ErrUndoFailed, ErrInterrupted and ErrWaiting can be resumed by Undo, with the options it began with, or by Run. A completed run can be undone.
func (r *Runner) Undo(ctx context.Context, opts UndoOptions) error {
	opts.By, opts.Reason = clean(opts.By), clean(opts.Reason)
	return r.session(ctx, false, func(s *session) error {
		switch p := s.state(); {
		case p.id == "":
			return noJournal(r.cfg.Journal)
		case p.ended != "" && p.ended != OutcomeCompleted:
			return ended(p)
		case p.undo != nil:
			if err := s.begin(); err != nil {
				return err
			}
			return s.resumeUndo(ctx)
		}
		return s.undo(ctx, opts)
	})
}

func ended(p *progress) error {
	return &Error{Kind: ErrEnded, Detail: fmt.Sprintf("run %s: %s", p.id, p.ended), Hint: "use another journal for another run"}
}

// Decide leaves a decision for this runner; see the func Decide.
func (r *Runner) Decide(d Decision) (Decision, error) {
	d, err := Decide(r.cfg.Journal, d)
	if err == nil {
		select {
		case r.poke <- struct{}{}:
		default:
		}
	}
	return d, err
}

// Status tells how far the run is. Before the first Run or Undo it has the plan only: ReadJournal tells what a journal holds.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == nil {
		return planned(r.plan).status()
	}
	s := r.state.status()
	s.CopyBehind = r.behind
	for i := range s.Steps {
		l := r.live[s.Steps[i].Name]
		s.Steps[i].Progress, s.Steps[i].Overdue = l.progress, l.overdue
	}
	return s
}

// planned is the progress of a plan that has no journal.
func planned(plan *Plan) *progress {
	p := &progress{}
	doc := plan.Document()
	// It cannot fail: the hash is the document's.
	_ = p.begin(Record{Kind: RecordPlan, Seq: 1, Journal: "-", Hash: plan.hash, Plan: &doc})
	p.id = ""
	return p
}
