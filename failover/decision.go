package failover

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DecisionKind is what somebody decides.
type DecisionKind string

const (
	// DecisionApprove approves a step, or with Step "" the plan.
	DecisionApprove DecisionKind = "approve"
	// DecisionReject rejects what DecisionApprove would approve; the run stops. The later of the two counts.
	DecisionReject DecisionKind = "reject"
	// DecisionAccept accepts the loss that a gate states.
	DecisionAccept DecisionKind = "accept"
	// DecisionConfirm says that a prompt was carried out, DecisionUndone that it was taken back.
	DecisionConfirm DecisionKind = "confirm"
	DecisionUndone  DecisionKind = "undone"
)

// Decision is what somebody decided, in which role, on which plan. The package does not prove who By is: whoever may write next to the journal may decide,
// unless Config.Authorize says otherwise.
type Decision struct {
	ID   string       `json:"id"` // given by Decide
	Kind DecisionKind `json:"kind"`
	// PlanHash is the plan that was looked at. A decision on another one does not count.
	PlanHash string `json:"planHash"`
	Step     string `json:"step,omitempty"`
	By       string `json:"by"`
	Role     string `json:"role,omitempty"`
	// Loss is the statement that is accepted, word for word.
	Loss    string `json:"loss,omitempty"`
	Comment string `json:"comment,omitempty"`
	// At is when it was decided; zero is now. Expires is until when it may be used: zero is At and the validity that the plan gives, DefaultApprovalValidFor where it gives none.
	// The plan's validity is a limit.
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires,omitzero"`
}

const (
	maxDecision = 64 << 10
	// maxSkew is how far the clock of whoever decides may be ahead of the runner's.
	maxSkew = time.Minute
)

// Decide leaves a decision for the runner of a journal, which takes it at once if it runs, or when it runs next. path is the journal's. Decisions lie in files of their own in path + ".inbox",
// so that deciding needs no lock. ErrDecision if it cannot count: the journal's plan is another, or it does not ask for it.
func Decide(path string, d Decision) (Decision, error) {
	if path == "" {
		return d, badConfig("the journal's path is empty", "give it")
	}
	if d.At.IsZero() {
		d.At = time.Now()
	}
	d.At, d.Expires = d.At.UTC().Round(0), d.Expires.UTC().Round(0)
	d.By, d.Role, d.Loss, d.Comment = clean(d.By), clean(d.Role), clean(d.Loss), clean(d.Comment)
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	d.ID = d.At.Format("20060102T150405.000000000Z") + "-" + hex.EncodeToString(id[:])
	log, err := ReadJournal(path)
	switch {
	case errors.Is(err, ErrNoJournal):
		err = d.complete()
	case err == nil:
		err = d.check(log.Document(), log.Hash(), time.Now())
	}
	if err != nil {
		return d, err
	}
	raw, err := json.Marshal(d)
	if err != nil {
		return d, err
	}
	dir := inboxOf(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return d, inboxError(err)
	}
	return d, inboxError(writeWhole(filepath.Join(dir, d.ID+".json"), append(raw, '\n')))
}

func inboxOf(path string) string { return path + ".inbox" }

func inboxError(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: ErrJournal, Detail: "leaving a decision", Hint: "check the folder's permissions and space", Cause: err}
}

func refused(d Decision, detail, hint string) error {
	return &Error{Kind: ErrDecision, Step: d.Step, Detail: detail, Hint: hint}
}

// complete checks what can be checked without the plan.
func (d Decision) complete() error {
	switch d.Kind {
	case DecisionApprove, DecisionReject, DecisionAccept, DecisionConfirm, DecisionUndone:
	default:
		return refused(d, fmt.Sprintf("Kind %q is unknown", d.Kind), "use approve, reject, accept, confirm or undone")
	}
	switch {
	case d.By == "":
		return refused(d, "By is empty", "say who decides")
	case d.PlanHash == "":
		return refused(d, "PlanHash is empty", "give the hash of the plan that was looked at")
	case d.Kind == DecisionAccept && d.Loss == "":
		return refused(d, "Loss is empty", "repeat the loss that the gate states, word for word")
	case !d.Expires.IsZero() && !d.Expires.After(d.At):
		return refused(d, "it expires before it was made", "set Expires after At")
	}
	return nil
}

// check says whether a decision can count for a plan at a time.
func (d Decision) check(doc Document, hash string, now time.Time) error {
	if err := d.complete(); err != nil {
		return err
	}
	if d.PlanHash != hash {
		return refused(d, fmt.Sprintf("it is for plan %s, this one is %s", ShortHash(d.PlanHash), ShortHash(hash)), "look at the plan as it is now, and decide again")
	}
	var step StepDocument
	if d.Step != "" {
		i := slices.IndexFunc(doc.Steps, func(s StepDocument) bool { return s.Name == d.Step })
		if i < 0 {
			return refused(d, "the plan has no such step", "check the name")
		}
		step = doc.Steps[i]
	}
	role, asked := "", false
	switch d.Kind {
	case DecisionApprove, DecisionReject:
		need := doc.Approval
		if d.Step != "" {
			need = step.Approval
		}
		if asked = need != nil; asked {
			role = need.Role
		}
	case DecisionAccept:
		asked = step.Kind == KindGate && doc.Mode == ModeUngraceful
	case DecisionConfirm, DecisionUndone:
		if asked = step.Kind == KindPrompt && (d.Kind == DecisionConfirm && !step.Prompt.Checked || d.Kind == DecisionUndone && step.Prompt.Undo != ""); asked {
			role = step.Prompt.Role
		}
	}
	switch expires := d.expires(doc); {
	case !asked:
		return refused(d, fmt.Sprintf("the plan does not ask for %q here", d.Kind), "see what it is waiting for; a loss can be accepted of gates in an ungraceful plan only")
	case role != "" && d.Role != role:
		return refused(d, fmt.Sprintf("role %q decided, role %q is asked", d.Role, role), "let that role decide")
	case d.At.After(now.Add(maxSkew)):
		return refused(d, "it was made in the future: "+d.At.Format(time.RFC3339), "set the clocks")
	case !now.Before(expires):
		return refused(d, "it expired at "+expires.Format(time.RFC3339), "decide again")
	}
	return nil
}

// expires is until when a decision may be used: what somebody confirmed has happened, and stays so.
func (d Decision) expires(doc Document) time.Time {
	if d.Kind == DecisionConfirm || d.Kind == DecisionUndone {
		if d.Expires.IsZero() {
			return d.At.Add(100 * 365 * 24 * time.Hour)
		}
		return d.Expires
	}
	valid := time.Duration(DefaultApprovalValidFor)
	need := doc.Approval
	if i := slices.IndexFunc(doc.Steps, func(s StepDocument) bool { return s.Name == d.Step }); i >= 0 {
		need = doc.Steps[i].Approval
	}
	if need != nil {
		valid = mustDuration(need.ValidFor)
	}
	limit := d.At.Add(valid)
	if !d.Expires.IsZero() && d.Expires.Before(limit) {
		return d.Expires
	}
	return limit
}

// readInbox returns the decisions that lie there, oldest first, but for those known already. bad are files that hold none, with the reason.
func readInbox(path string, known func(id string) bool) (found []Decision, bad map[string]string, err error) {
	entries, err := os.ReadDir(inboxOf(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	bad = map[string]string{}
	for _, entry := range entries { // by name, which begins with the time
		id, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok || strings.HasPrefix(id, ".") || known(id) {
			continue
		}
		d, err := readDecision(filepath.Join(inboxOf(path), entry.Name()))
		switch {
		case err != nil:
			bad[id] = err.Error()
		case d.ID != id:
			bad[id] = "its ID is not its file's name"
		default:
			found = append(found, d)
		}
	}
	return found, bad, nil
}

func readDecision(file string) (d Decision, err error) {
	f, err := os.Open(file)
	if err != nil {
		return d, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxDecision+1))
	if err != nil {
		return d, err
	}
	return parseDecision(raw)
}

func parseDecision(raw []byte) (d Decision, err error) {
	if len(raw) > maxDecision {
		return d, fmt.Errorf("it has more than %d bytes", maxDecision)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, errors.New("it is no decision in JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return d, errors.New("it holds more than a decision")
	}
	for _, text := range []*string{&d.By, &d.Role, &d.Step, &d.Loss, &d.Comment, &d.PlanHash} {
		*text = clean(*text)
	}
	return d, nil
}
