package failover

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

// Mode is how a plan is carried out.
type Mode string

const (
	// ModeGraceful is for planned work, with both sides alive: every gate is hard.
	ModeGraceful Mode = "graceful"
	// ModeUngraceful is for a dead primary: steps come in their variant for it (see Ungraceful), and gates that state a loss can be passed by accepting it.
	ModeUngraceful Mode = "ungraceful"
	// ModeDrill is a rehearsal: steps come in their variant for it (see Driller), and afterwards everything is undone. A drill has no point of no return.
	ModeDrill Mode = "drill"
)

// FailurePolicy is what happens when a step fails, is blocked, rejected or not verified.
type FailurePolicy string

const (
	// FailureStop stops: the run can be resumed, or undone by Runner.Undo.
	FailureStop FailurePolicy = "stop"
	// FailureUndo undoes what was done, unless the point of no return has been passed: then it stops.
	FailureUndo FailurePolicy = "undo"
)

// PlanConfig says what a plan is made of.
type PlanConfig struct {
	// Name identifies the plan, in the copy of its journal too. Required: 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit.
	Name string
	// Title and Purpose are for people: a line, and some.
	Title   string
	Purpose string
	// Mode is how it is carried out; "" is ModeGraceful.
	Mode Mode
	// OnFailure is what happens when a step fails; "" is FailureStop, in a drill FailureUndo.
	OnFailure FailurePolicy
	// Approval is asked for before the first step that acts; the zero value asks for none.
	Approval Approval
	// Inputs is what the plan was made from, such as an inventory: a struct or map that marshals to a JSON object, without secrets. It is part of the hash.
	Inputs any
	// Steps, in order. At least one.
	Steps []Step
}

// Plan is a frozen list of steps with a hash over all that they say about themselves. It is safe for concurrent use.
type Plan struct {
	doc   Document
	hash  string
	steps []Step // by index of doc.Steps; nil for one that is left out
}

// NewPlan checks the steps, takes their variants for the mode and freezes what they describe. It observes nothing and starts nothing. It returns all that is wrong (ErrConfig).
func NewPlan(cfg PlanConfig) (*Plan, error) {
	var errs []error
	bad := func(detail, hint string) { errs = append(errs, badConfig(detail, hint)) }
	doc := Document{Version: documentVersion, Name: cfg.Name, Title: clean(cfg.Title), Purpose: clean(cfg.Purpose), Mode: cfg.Mode, OnFailure: cfg.OnFailure}
	if !keyspace.ValidName(cfg.Name) {
		bad(fmt.Sprintf("Name %q is no name of a plan", cfg.Name), "use 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit")
	}
	switch cfg.Mode {
	case "":
		doc.Mode = ModeGraceful
	case ModeGraceful, ModeUngraceful, ModeDrill:
	default:
		bad(fmt.Sprintf("Mode %q is unknown", cfg.Mode), "use ModeGraceful, ModeUngraceful or ModeDrill")
	}
	switch {
	case cfg.OnFailure == "" && doc.Mode == ModeDrill:
		doc.OnFailure = FailureUndo
	case cfg.OnFailure == "":
		doc.OnFailure = FailureStop
	case cfg.OnFailure == FailureStop, cfg.OnFailure == FailureUndo:
	default:
		bad(fmt.Sprintf("OnFailure %q is unknown", cfg.OnFailure), "use FailureStop or FailureUndo")
	}
	var err error
	if doc.Approval, err = freezeApproval("", cfg.Approval); err != nil {
		errs = append(errs, err)
	}
	if doc.Inputs, err = canonicalObject(cfg.Inputs); err != nil {
		bad("Inputs: "+err.Error(), "use a struct or map of plain data")
	}
	if len(cfg.Steps) == 0 {
		bad("Steps is empty", "a plan has at least one step")
	}
	p := &Plan{}
	seen := map[string]bool{}
	for i, step := range cfg.Steps {
		if step == nil {
			bad(fmt.Sprintf("Steps[%d] is nil", i), "leave it out")
			continue
		}
		frozen, variant, err := freezeStep(step, doc.Mode)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if seen[frozen.Name] {
			errs = append(errs, badStep(frozen.Name, "two steps have this name", "names are unique in a plan"))
		}
		seen[frozen.Name] = true
		if frozen.PointOfNoReturn && doc.Mode == ModeDrill {
			errs = append(errs, badStep(frozen.Name, "a drill undoes everything, and this step has no Undo", "give it one, or a variant for drills (Driller)"))
		}
		doc.Steps, p.steps = append(doc.Steps, frozen), append(p.steps, variant)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.doc = doc
	p.hash = doc.Hash()
	if n := len(mustCanonical(doc)); n > maxDocument {
		return nil, badConfig(fmt.Sprintf("the plan has %d bytes of JSON, at most %d fit", n, maxDocument), "keep large inputs in files, and their hashes in the plan")
	}
	return p, nil
}

var stepName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._/:@-]{0,126}[a-zA-Z0-9])?$`)

// freezeStep takes the variant for a mode, checks it and writes down what it says of itself.
func freezeStep(step Step, mode Mode) (StepDocument, Step, error) {
	name := step.Name()
	doc := StepDocument{Name: name, Kind: KindAction}
	if !stepName.MatchString(name) {
		return doc, nil, badStep(name, fmt.Sprintf("Name %q is no name of a step", name), "use 1 to 128 of a-z, A-Z, 0-9 and . _ - / : @, beginning and ending with a letter or digit")
	}
	step, changed := variantOf(step, mode)
	if changed {
		doc.Variant = mode
	}
	if step == nil {
		doc.LeftOut = true
		return doc, nil, nil
	}
	if got := step.Name(); got != name {
		return doc, nil, badStep(name, fmt.Sprintf("its variant for mode %s is called %q", mode, got), "a variant keeps the step's name")
	}
	if f := funcsOf(step); f != nil {
		if err := f.incomplete(); err != nil {
			return doc, nil, err
		}
	}
	var errs []error
	bad := func(detail, hint string) { errs = append(errs, badStep(name, detail, hint)) }
	if d, ok := step.(Describer); ok {
		said := d.Describe()
		doc.Action, doc.Verify, doc.Undo, doc.Reference = clean(said.Action), clean(said.Verify), clean(said.Undo), clean(said.Reference)
		for _, c := range said.Commands {
			doc.Commands = append(doc.Commands, clean(c))
		}
		var err error
		if doc.Inputs, err = canonicalObject(said.Inputs); err != nil {
			bad("Inputs: "+err.Error(), "use a struct or map of plain data")
		}
	}
	_, isUndoer := undoerOf(step)
	_, doc.Verified = verifierOf(step)
	doc.Undoable = isUndoer
	_, isGate := step.(Gate)
	prompter, isPrompt := step.(Prompter)
	switch {
	case isGate && isPrompt:
		bad("it is both a Gate and a Prompter", "choose one")
	case isGate:
		doc.Kind, doc.Undoable = KindGate, false
	case isPrompt:
		doc.Kind = KindPrompt
		prompt := prompter.Prompt()
		if strings.TrimSpace(prompt.Text) == "" {
			bad("Prompt.Text is empty", "say what to do")
		}
		prompt.Text, prompt.Undo, prompt.Role = clean(prompt.Text), clean(prompt.Undo), clean(prompt.Role)
		doc.Prompt = (*PromptDocument)(&prompt)
		doc.Undoable = prompt.Undo != ""
		doc.PointOfNoReturn = !doc.Undoable && !prompt.Harmless
	default:
		doc.PointOfNoReturn = !doc.Undoable
	}
	if a, ok := step.(Approver); ok {
		frozen, err := freezeApproval(name, a.Approval())
		if err != nil {
			errs = append(errs, err)
		}
		if frozen != nil && doc.Kind != KindAction {
			bad("it asks for an approval and does not act", "a gate or prompt needs none")
		}
		doc.Approval = frozen
	}
	timeout := time.Duration(DefaultTimeout)
	if t, ok := step.(Timeouter); ok && t.Timeout() != 0 {
		timeout = t.Timeout()
	}
	if timeout < 0 {
		bad(fmt.Sprintf("Timeout is %v", timeout), "use a positive one, or 0 for the default")
	}
	doc.Timeout = timeout.String()
	if r, ok := step.(Retrier); ok {
		var err error
		if doc.Retry, err = freezeRetry(name, r.Retry()); err != nil {
			errs = append(errs, err)
		}
	}
	return doc, step, errors.Join(errs...)
}

func freezeApproval(step string, a Approval) (*ApprovalDocument, error) {
	if a == (Approval{}) {
		return nil, nil
	}
	if strings.TrimSpace(a.Role) == "" {
		return nil, badStep(step, "Approval.Role is empty", "say who has to approve")
	}
	if a.ValidFor < 0 {
		return nil, badStep(step, fmt.Sprintf("Approval.ValidFor is %v", a.ValidFor), "use a positive one, or 0 for the default")
	}
	if a.ValidFor == 0 {
		a.ValidFor = DefaultApprovalValidFor
	}
	return &ApprovalDocument{Role: clean(a.Role), ValidFor: a.ValidFor.String()}, nil
}

func freezeRetry(step string, r Retry) (*RetryDocument, error) {
	if r.Attempts < 0 || r.First < 0 || r.Max < 0 {
		return nil, badStep(step, "Retry has a negative field", "use 0 for the defaults")
	}
	if r.Attempts <= 1 {
		return nil, nil
	}
	if r.First == 0 {
		r.First = DefaultRetryFirst
	}
	if r.Max == 0 {
		r.Max = max(DefaultRetryMax, r.First)
	}
	if r.Max < r.First {
		return nil, badStep(step, fmt.Sprintf("Retry.Max is %v, below First, %v", r.Max, r.First), "raise it")
	}
	return &RetryDocument{Attempts: r.Attempts, First: r.First.String(), Max: r.Max.String()}, nil
}

// Name returns the plan's name.
func (p *Plan) Name() string { return p.doc.Name }

// Mode returns how the plan is carried out.
func (p *Plan) Mode() Mode { return p.doc.Mode }

// Hash identifies the plan with all that its steps describe: the SHA-256 of its Document in canonical JSON, in hexadecimal. Approvals bind to it.
func (p *Plan) Hash() string { return p.hash }

// Document returns a copy of what was frozen.
func (p *Plan) Document() Document { return p.doc.clone() }

// PointOfNoReturn is the first step of the plan that cannot be undone, or "".
func (p *Plan) PointOfNoReturn() string { return p.doc.PointOfNoReturn() }

// changed says how a step describes itself otherwise now than when the plan was frozen; "" if it does not.
func (p *Plan) changed(i int) string {
	frozen := p.doc.Steps[i]
	// Its variant was taken already.
	now, _, err := freezeStep(p.steps[i], "")
	now.Variant = frozen.Variant
	if err != nil {
		return err.Error()
	}
	return strings.Join(compareSteps(frozen, now), "; ")
}

func (p *Plan) index(step string) int {
	return slices.IndexFunc(p.doc.Steps, func(s StepDocument) bool { return s.Name == step })
}

// ShortHash is the beginning of a plan's hash, for people.
func ShortHash(hash string) string { return hash[:min(12, len(hash))] }

// Hash is what Plan.Hash is of the plan; "" of a document whose inputs are no JSON.
func (d Document) Hash() string {
	raw, err := canonical(d)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func mustCanonical(v any) json.RawMessage {
	raw, err := canonical(v)
	if err != nil {
		panic(err) // plain structs of text, and inputs that were made canonical before
	}
	return raw
}
