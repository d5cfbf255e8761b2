package failover

import (
	"context"
	"fmt"
	"time"
)

// Funcs makes a step from funcs. Name, Observe and Do are required; Step leaves out the optional interfaces whose fields are not set.
type Funcs struct {
	Name    string
	Observe func(ctx context.Context) (Observation, error)
	Do      func(ctx context.Context) error

	Description Description
	Verify      func(ctx context.Context) error
	// Undo makes the step an Undoer; without it the step is a point of no return.
	Undo     func(ctx context.Context) error
	Approval Approval
	Timeout  time.Duration
	Retry    Retry
	// Ungraceful and Drill return the variants; nil keeps the step as it is. A func that returns nil leaves the step out.
	Ungraceful func() Step
	Drill      func() Step
}

// Step returns the step. Later changes of f have no effect.
func (f Funcs) Step() Step { return &funcStep{f: f} }

// Check makes a gate: a step that only looks.
func Check(name string, observe func(ctx context.Context) (Observation, error), d Description) Step {
	return gateStep{Funcs{Name: name, Observe: observe, Do: func(context.Context) error { return nil }, Description: d}.Step().(*funcStep)}
}

// Ask makes a step for a person that Observe cannot see.
func Ask(name string, p Prompt, d Description) Step {
	return promptStep{Check(name, func(context.Context) (Observation, error) {
		return Observation{State: Pending, Detail: "a person's task"}, nil
	}, d).(gateStep).funcStep, p}
}

type funcStep struct{ f Funcs }

func (s *funcStep) Name() string { return s.f.Name }
func (s *funcStep) Observe(ctx context.Context) (Observation, error) {
	return s.f.Observe(ctx)
}
func (s *funcStep) Do(ctx context.Context) error     { return s.f.Do(ctx) }
func (s *funcStep) Describe() Description            { return s.f.Description }
func (s *funcStep) Verify(ctx context.Context) error { return s.f.Verify(ctx) }
func (s *funcStep) Undo(ctx context.Context) error   { return s.f.Undo(ctx) }
func (s *funcStep) Approval() Approval               { return s.f.Approval }
func (s *funcStep) Timeout() time.Duration           { return s.f.Timeout }
func (s *funcStep) Retry() Retry                     { return s.f.Retry }
func (s *funcStep) WithoutPrimary() Step             { return s.f.Ungraceful() }
func (s *funcStep) ForDrill() Step                   { return s.f.Drill() }

func (s *funcStep) incomplete() error {
	for _, field := range []struct {
		name string
		set  bool
	}{{"Observe", s.f.Observe != nil}, {"Do", s.f.Do != nil}} {
		if !field.set {
			return badStep(s.f.Name, fmt.Sprintf("Funcs.%s is nil", field.name), "set it")
		}
	}
	return nil
}

type gateStep struct{ *funcStep }

func (gateStep) Gate() {}

type promptStep struct {
	*funcStep
	p Prompt
}

func (s promptStep) Prompt() Prompt { return s.p }

// Steps made from funcs have all methods; these three tell whether they mean them. The other optional methods have zero values that mean the same as none.

func verifierOf(s Step) (Verifier, bool) {
	v, ok := s.(Verifier)
	if f := funcsOf(s); f != nil && f.f.Verify == nil {
		return nil, false
	}
	return v, ok
}

func undoerOf(s Step) (Undoer, bool) {
	u, ok := s.(Undoer)
	if f := funcsOf(s); f != nil && f.f.Undo == nil {
		return nil, false
	}
	return u, ok
}

// variantOf returns the step for a mode; nil if it is left out.
func variantOf(s Step, mode Mode) (variant Step, changed bool) {
	f := funcsOf(s)
	switch mode {
	case ModeUngraceful:
		if u, ok := s.(Ungraceful); ok && (f == nil || f.f.Ungraceful != nil) {
			return u.WithoutPrimary(), true
		}
	case ModeDrill:
		if d, ok := s.(Driller); ok && (f == nil || f.f.Drill != nil) {
			return d.ForDrill(), true
		}
	}
	return s, false
}

func funcsOf(s Step) *funcStep {
	switch s := s.(type) {
	case *funcStep:
		return s
	case gateStep:
		return s.funcStep
	case promptStep:
		return s.funcStep
	}
	return nil
}
