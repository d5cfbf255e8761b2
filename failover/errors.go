package failover

import (
	"errors"
	"fmt"
	"strings"
)

// Kinds of errors. Test for them with errors.Is; details and a hint are in *Error.
var (
	// ErrConfig: a field of a configuration or an argument is unusable. Nothing was touched.
	ErrConfig = errors.New("invalid configuration")
	// ErrPlanChanged: the journal, or a decision, belongs to another plan; Detail names the steps and inputs that changed.
	// Also when a step describes itself otherwise than when the plan was frozen.
	ErrPlanChanged = errors.New("plan changed")
	// ErrBusy: another runner holds the journal, or its copy in the etcd.
	ErrBusy = errors.New("journal in use by another runner")
	// ErrJournal: the journal cannot be read or written, or is damaged beyond a torn last line.
	ErrJournal = errors.New("journal unusable")
	// ErrJournalExists: Config.Begin is BeginOnly and the journal has records.
	ErrJournalExists = errors.New("journal exists")
	// ErrNoJournal: there is no journal where one is needed.
	ErrNoJournal = errors.New("no such journal")
	// ErrJournalLost: the journal's file is missing or behind, and the copy in the etcd has an unfinished run of this plan.
	ErrJournalLost = errors.New("journal's file lost")
	// ErrCopy: the copy in the etcd cannot be written, and Config.Copy requires it.
	ErrCopy = errors.New("copy of the journal unreachable")
	// ErrEnded: the journal's run has ended; another run needs another journal.
	ErrEnded = errors.New("run has ended")
	// ErrInterrupted: the context ended. The run can be resumed.
	ErrInterrupted = errors.New("interrupted")
	// ErrWaiting: with Config.NoWait, a person has to decide or act. The run can be resumed.
	ErrWaiting = errors.New("waiting for a person")
	// ErrRejected: a person rejected what they were asked to approve.
	ErrRejected = errors.New("rejected")
	// ErrBlocked: a step cannot begin: its observation says why.
	ErrBlocked = errors.New("blocked")
	// ErrStepFailed: a step's Do or Observe failed, as often as its retries allow.
	ErrStepFailed = errors.New("step failed")
	// ErrNotVerified: a step is done, and its Verify says that it did not bring about what it should.
	ErrNotVerified = errors.New("step not verified")
	// ErrPointOfNoReturn: a step that was carried out cannot be undone.
	ErrPointOfNoReturn = errors.New("beyond the point of no return")
	// ErrUndoFailed: a step's Undo failed, as often as its retries allow.
	ErrUndoFailed = errors.New("undo failed")
	// ErrUndone: the run failed, and everything was undone as the plan asks. The cause is what failed.
	ErrUndone = errors.New("failed and undone")
	// ErrDecision: a decision was refused: Detail says why.
	ErrDecision = errors.New("decision refused")
	// ErrReadOnly: Save was called where nothing may be written, such as within Observe.
	ErrReadOnly = errors.New("nothing may be saved here")
)

// Error says what went wrong, where, and what to do about it.
type Error struct {
	Kind   error  // one of the Err variables
	Step   string // the step's name, or ""
	Detail string // what was found
	Hint   string // what to do
	Cause  error  // what a step, the system or an etcd answered, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Step != "" {
		b.WriteString("step " + e.Step + ": ")
	}
	b.WriteString(e.Kind.Error())
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Permanent marks an error of Do, Undo, Verify or Observe: trying again cannot help, so the step's retries are not used.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

func isPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

func badConfig(detail, hint string) error {
	return &Error{Kind: ErrConfig, Detail: detail, Hint: hint}
}

func badStep(step, detail, hint string) error {
	return &Error{Kind: ErrConfig, Step: step, Detail: detail, Hint: hint}
}

func damaged(path string, line int, detail string) error {
	return &Error{Kind: ErrJournal, Detail: fmt.Sprintf("%s, line %d: %s", path, line, detail),
		Hint: "the file was changed or the disk is failing: keep it for the record; restore it from its copy in the etcd or from a backup of the file"}
}
