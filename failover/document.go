package failover

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	documentVersion = 1
	// maxDocument bounds a plan in JSON: it has to fit one record of the journal, and one value of an etcd.
	maxDocument = 512 << 10
	// maxText bounds a text that a step says; longer ones are cut.
	maxText = 4 << 10
)

// Document is a plan in plain data: what its hash covers, what a journal keeps of it, and what renderings show. docs/failover-plan.md describes its JSON.
type Document struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Title     string            `json:"title,omitempty"`
	Purpose   string            `json:"purpose,omitempty"`
	Mode      Mode              `json:"mode"`
	OnFailure FailurePolicy     `json:"onFailure"`
	Approval  *ApprovalDocument `json:"approval,omitempty"`
	Inputs    json.RawMessage   `json:"inputs,omitempty"`
	Steps     []StepDocument    `json:"steps"`
}

// Kind is what a step is.
type Kind string

const (
	// KindAction acts.
	KindAction Kind = "action"
	// KindGate only looks.
	KindGate Kind = "gate"
	// KindPrompt is a person's task.
	KindPrompt Kind = "prompt"
)

// StepDocument is one step of a Document.
type StepDocument struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Variant is the mode whose variant of the step this is, if it has one of its own. LeftOut: the step has no part in this mode.
	Variant Mode `json:"variant,omitempty"`
	LeftOut bool `json:"leftOut,omitempty"`

	Action    string          `json:"action,omitempty"`
	Commands  []string        `json:"commands,omitempty"`
	Verify    string          `json:"verify,omitempty"`
	Undo      string          `json:"undo,omitempty"`
	Reference string          `json:"reference,omitempty"`
	Inputs    json.RawMessage `json:"inputs,omitempty"`
	Prompt    *PromptDocument `json:"prompt,omitempty"`

	Verified        bool              `json:"verified,omitempty"`
	Undoable        bool              `json:"undoable,omitempty"`
	PointOfNoReturn bool              `json:"pointOfNoReturn,omitempty"`
	Approval        *ApprovalDocument `json:"approval,omitempty"`
	// Timeout is that of each call, in Go's form: "10m0s".
	Timeout string         `json:"timeout,omitempty"`
	Retry   *RetryDocument `json:"retry,omitempty"`
}

// ApprovalDocument is an Approval of a Document.
type ApprovalDocument struct {
	Role     string `json:"role"`
	ValidFor string `json:"validFor"`
}

// RetryDocument is a Retry of a Document, with its defaults filled in.
type RetryDocument struct {
	Attempts int    `json:"attempts"`
	First    string `json:"first"`
	Max      string `json:"max"`
}

// PromptDocument is a Prompt of a Document.
type PromptDocument struct {
	Text     string `json:"text"`
	Role     string `json:"role,omitempty"`
	Checked  bool   `json:"checked,omitempty"`
	Undo     string `json:"undo,omitempty"`
	Harmless bool   `json:"harmless,omitempty"`
}

// PointOfNoReturn is the first step that cannot be undone, or "".
func (d Document) PointOfNoReturn() string {
	for _, s := range d.Steps {
		if s.PointOfNoReturn {
			return s.Name
		}
	}
	return ""
}

// validate checks what a document from elsewhere has to hold for the rest of the package to rely on.
func (d Document) validate() error {
	if d.Version != documentVersion {
		return fmt.Errorf("the plan has version %d, this program knows %d", d.Version, documentVersion)
	}
	duration := func(texts ...string) error {
		for _, text := range texts {
			if _, err := time.ParseDuration(text); err != nil {
				return fmt.Errorf("%q is no duration", brief(text))
			}
		}
		return nil
	}
	var errs []error
	if d.Approval != nil {
		errs = append(errs, duration(d.Approval.ValidFor))
	}
	seen := map[string]bool{}
	for _, s := range d.Steps {
		if seen[s.Name] || !stepName.MatchString(s.Name) {
			errs = append(errs, fmt.Errorf("the plan has a step %q too many", brief(s.Name)))
		}
		seen[s.Name] = true
		if s.LeftOut {
			continue
		}
		errs = append(errs, duration(s.Timeout))
		if s.Approval != nil {
			errs = append(errs, duration(s.Approval.ValidFor))
		}
		if s.Retry != nil {
			errs = append(errs, duration(s.Retry.First, s.Retry.Max))
		}
		if (s.Kind == KindPrompt) != (s.Prompt != nil) {
			errs = append(errs, fmt.Errorf("step %s is no prompt, or one without a text", s.Name))
		}
	}
	return errors.Join(errs...)
}

func (d Document) clone() Document {
	var c Document
	if err := json.Unmarshal(mustCanonical(d), &c); err != nil {
		panic(err) // what was just made
	}
	return c
}

func (s StepDocument) timeout() time.Duration { return mustDuration(s.Timeout) }

func (s StepDocument) retry() Retry {
	if s.Retry == nil {
		return Retry{Attempts: 1}
	}
	return Retry{Attempts: s.Retry.Attempts, First: mustDuration(s.Retry.First), Max: mustDuration(s.Retry.Max)}
}

func mustDuration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err) // frozen from a time.Duration
	}
	return d
}

// canonical is JSON with sorted keys, without spaces and without escapes that JSON does not ask for: the same bytes in every process for the same data.
func canonical(v any) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if lossy(raw) {
		return nil, errors.New("text that is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var plain any
	if err := dec.Decode(&plain); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(plain); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// lossy reports whether the encoder replaced bytes that are not UTF-8: two different inputs would get one hash. It writes the replacement as an escape, and one that was there as it is.
func lossy(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' {
			if bytes.HasPrefix(raw[i:], []byte(`\ufffd`)) {
				return true
			}
			i++
		}
	}
	return false
}

// canonicalObject is canonical of a JSON object, or nil for none.
func canonicalObject(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := canonical(v)
	switch {
	case err != nil:
		return nil, err
	case string(raw) == "null" || string(raw) == "{}":
		return nil, nil
	case raw[0] != '{':
		return nil, fmt.Errorf("%T is no JSON object", v)
	}
	return raw, nil
}

// clean makes a text fit for a journal and a terminal: UTF-8, of bounded length, without control characters but tabs and line feeds.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return utf8.RuneError
		}
		return r
	}, strings.TrimSpace(text)) // also replaces what is no UTF-8
	if len(text) > maxText {
		cut := maxText
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + " … (cut)"
	}
	return text
}

// CompareDocuments says how two plans differ, in the order of the first: steps and inputs by name. It is empty if their hashes are equal.
func CompareDocuments(old, now Document) []string {
	var changes []string
	names := func(d Document) (all []string, byName map[string]StepDocument) {
		byName = map[string]StepDocument{}
		for _, s := range d.Steps {
			all, byName[s.Name] = append(all, s.Name), s
		}
		return all, byName
	}
	oldNames, oldSteps := names(old)
	nowNames, nowSteps := names(now)
	bareOld, bareNow := old, now
	bareOld.Steps, bareNow.Steps = nil, nil
	changes = append(changes, compareJSON("plan", bareOld, bareNow)...)
	var kept, keptNow []string
	for _, name := range oldNames {
		if s, ok := nowSteps[name]; ok {
			kept = append(kept, name)
			changes = append(changes, compareSteps(oldSteps[name], s)...)
		} else {
			changes = append(changes, fmt.Sprintf("step %s is gone", name))
		}
	}
	for _, name := range nowNames {
		if _, ok := oldSteps[name]; ok {
			keptNow = append(keptNow, name)
		} else {
			changes = append(changes, fmt.Sprintf("step %s is new", name))
		}
	}
	for i := range kept {
		if kept[i] != keptNow[i] {
			changes = append(changes, fmt.Sprintf("the order changed: step %s comes where %s was", keptNow[i], kept[i]))
			break
		}
	}
	return changes
}

func compareSteps(old, now StepDocument) []string { return compareJSON("step "+old.Name, old, now) }

func compareJSON(where string, old, now any) (changes []string) {
	a, b := map[string]string{}, map[string]string{}
	flatten(a, "", plain(old))
	flatten(b, "", plain(now))
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		was, before := a[path]
		is, after := b[path]
		switch {
		case !before:
			changes = append(changes, fmt.Sprintf("%s: %s is new: %s", where, path, brief(is)))
		case !after:
			changes = append(changes, fmt.Sprintf("%s: %s is gone, was %s", where, path, brief(was)))
		case was != is:
			changes = append(changes, fmt.Sprintf("%s: %s was %s, is %s", where, path, brief(was), brief(is)))
		}
	}
	return changes
}

func plain(v any) any {
	dec := json.NewDecoder(bytes.NewReader(mustCanonical(v)))
	dec.UseNumber()
	var out any
	if err := dec.Decode(&out); err != nil && !errors.Is(err, io.EOF) {
		panic(err) // what was just made
	}
	return out
}

// flatten writes each leaf of a JSON value under its path, such as inputs.servers[2].port.
func flatten(into map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			if strings.ContainsAny(k, `.["`) || k == "" { // no two values get one path
				flatten(into, fmt.Sprintf("%s[%q]", path, k), item)
			} else {
				flatten(into, strings.TrimPrefix(path+"."+k, "."), item)
			}
		}
		if len(v) == 0 && path != "" {
			into[path] = "{}"
		}
	case []any:
		for i, item := range v {
			flatten(into, fmt.Sprintf("%s[%d]", path, i), item)
		}
		if len(v) == 0 {
			into[path] = "[]"
		}
	default:
		into[path] = string(mustCanonical(v))
	}
}

func brief(text string) string {
	if runes := []rune(text); len(runes) > 80 {
		return string(runes[:80]) + "…"
	}
	return text
}
