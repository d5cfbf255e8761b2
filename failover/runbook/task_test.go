package runbook

import (
	"context"
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/failover"
)

// What the wrappers of steps make of each thing that a step can see.
func TestWrappersOfSteps(t *testing.T) {
	broken := errors.New("nobody answers")
	type seen struct {
		state failover.State
		err   bool
		loss  string
	}
	for _, tc := range []struct {
		state failover.State
		err   error
		want  map[string]seen
	}{
		{failover.Done, nil, map[string]seen{"personal": {state: failover.Done}, "witnessed": {state: failover.Pending}, "look": {state: failover.Done}, "told": {state: failover.Done}, "acceptable": {state: failover.Done}}},
		{failover.Blocked, nil, map[string]seen{"personal": {state: failover.Pending}, "witnessed": {state: failover.Pending}, "look": {state: failover.Blocked}, "told": {state: failover.Done},
			"acceptable": {state: failover.Blocked, loss: "much"}}},
		{"", broken, map[string]seen{"personal": {err: true}, "witnessed": {state: failover.Pending}, "look": {err: true}, "told": {state: failover.Done}, "acceptable": {err: true}}},
	} {
		inner := failover.Check("inner", func(context.Context) (failover.Observation, error) {
			return failover.Observation{State: tc.state, Detail: "seen"}, tc.err
		}, failover.Description{Action: "Look", Inputs: map[string]any{"a": 1}})
		prompt := failover.Prompt{Text: "Do it", Harmless: true}
		for name, wrapped := range map[string]failover.Step{
			"personal": step(t)(personal(inner, nil)(prompt)), "witnessed": step(t)(witnessed(inner, nil)(prompt)), "look": step(t)(look("look", inner, nil)), "told": step(t)(told(inner, nil)),
			"acceptable": step(t)(acceptable(inner, "much", nil)),
		} {
			obs, err := wrapped.Observe(t.Context())
			want := tc.want[name]
			if (err != nil) != want.err || err == nil && (obs.State != want.state || obs.Loss != want.loss) {
				t.Errorf("%s of %q, %v: %+v, %v; want %+v", name, tc.state, tc.err, obs, err, want)
			}
			if err == nil && obs.Detail == "" {
				t.Errorf("%s of %q, %v tells nothing", name, tc.state, tc.err)
			}
		}
	}
	for name, err := range map[string]error{"personal": second(personal(nil, broken)(failover.Prompt{})), "look": second(look("x", nil, broken)), "told": second(told(nil, broken)), "acceptable": second(acceptable(nil, "", broken))} {
		if !errors.Is(err, broken) {
			t.Errorf("%s loses the error of what it wraps: %v", name, err)
		}
	}
}

// What comes about within the patience of a look asks nobody.
func TestAcceptableWaits(t *testing.T) {
	looks := 0
	inner := failover.Funcs{Name: "inner", Do: noAct, Observe: func(context.Context) (failover.Observation, error) {
		if looks++; looks < 3 {
			return failover.Observation{State: failover.Pending}, nil
		}
		return failover.Observation{State: failover.Done}, nil
	}}.Step()
	obs, err := step(t)(acceptable(inner, "much", nil)).Observe(t.Context())
	if err != nil || obs.State != failover.Done || looks != 3 {
		t.Errorf("%+v, %v after %d looks", obs, err, looks)
	}
}

// That the primary looks dead from here is nothing that a plan goes by: a person has to confirm that it is off.
func TestAPersonSaysThatThePrimaryIsOff(t *testing.T) {
	p, err := GlobalClusterFailover(config(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Steps {
		if s.Name() == "primary-off" {
			if s.(failover.Prompter).Prompt().Checked {
				t.Error("the plan goes on by what it sees")
			}
			return
		}
	}
	t.Error("nobody is asked")
}

func step(t *testing.T) func(failover.Step, error) failover.Step {
	return func(s failover.Step, err error) failover.Step {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func second(_ failover.Step, err error) error { return err }
