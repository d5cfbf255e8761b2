package runbook

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// task is a person's task of which a gate sees whether it is done.
type task struct {
	failover.Step // the gate
	prompt        failover.Prompt
}

// personal makes a task of a gate, as its func returns it: it is done when the gate passes.
func personal(gate failover.Step, err error) func(p failover.Prompt) (failover.Step, error) {
	return func(p failover.Prompt) (failover.Step, error) {
		p.Checked = true
		return task{gate, p}, err
	}
}

// witnessed makes a task of a gate that a person confirms: what the gate sees is told, and decides nothing, because it sees from one side only.
func witnessed(gate failover.Step, err error) func(p failover.Prompt) (failover.Step, error) {
	return func(p failover.Prompt) (failover.Step, error) { return task{gate, p}, err }
}

// look is a gate at whether a step that comes later can act: it asks the step how it finds things, and is blocked by what would block the step.
func look(name string, step failover.Step, err error) (failover.Step, error) {
	if err != nil {
		return nil, err
	}
	d := step.(failover.Describer).Describe()
	return failover.Check(name, func(ctx context.Context) (failover.Observation, error) {
		obs, err := step.Observe(ctx)
		if err == nil && obs.State != failover.Blocked {
			obs.State = failover.Done
		}
		return obs, err
	}, failover.Description{Action: "Will this be possible? " + d.Action, Reference: refPreflight, Inputs: d.Inputs}), nil
}

// told is a gate that does not block: what it sees is told. Without the primary part of what it asks may be dead as well.
func told(step failover.Step, err error) (failover.Step, error) {
	if err != nil {
		return nil, err
	}
	d := step.(failover.Describer).Describe()
	return failover.Check(step.Name(), func(ctx context.Context) (failover.Observation, error) {
		obs, err := step.Observe(ctx)
		if ctx.Err() != nil {
			return obs, ctx.Err()
		}
		if err != nil {
			obs.Detail = err.Error()
		}
		return failover.Observation{State: failover.Done, Detail: obs.Detail}, nil
	}, d), nil
}

// acceptable is a step that waits, as a gate that a person can pass in a plan without the primary by accepting what follows.
func acceptable(step failover.Step, loss string, err error) (failover.Step, error) {
	if err != nil {
		return nil, err
	}
	d := step.(failover.Describer).Describe()
	return failover.Check(step.Name(), func(ctx context.Context) (failover.Observation, error) {
		for began := time.Now(); ; {
			obs, err := step.Observe(ctx)
			switch {
			case err != nil || obs.State == failover.Done:
				return obs, err
			case obs.State == failover.Pending && time.Since(began) < acceptAfter: // it may come about by itself
				select {
				case <-ctx.Done():
					return obs, ctx.Err()
				case <-time.After(acceptPause):
				}
				continue
			}
			obs.State, obs.Loss = failover.Blocked, loss
			return obs, nil
		}
	}, d), nil
}

// acceptAfter is how long a look waits before it asks a person, well within failover.DefaultObserveTimeout; acceptPause is between two looks.
const acceptAfter, acceptPause = failover.DefaultObserveTimeout / 2, 500 * time.Millisecond

func (t task) Prompt() failover.Prompt { return t.prompt }

// Observe is the gate's; what blocks a gate is what the person has still to do.
func (t task) Observe(ctx context.Context) (failover.Observation, error) {
	obs, err := t.Step.Observe(ctx)
	switch {
	case t.prompt.Checked && obs.State == failover.Blocked:
		obs.State = failover.Pending
	case !t.prompt.Checked && ctx.Err() == nil:
		if err != nil {
			obs.Detail, err = err.Error(), nil
		}
		obs.State = failover.Pending
	}
	return obs, err
}

// Describe is the gate's, with the task for an action.
func (t task) Describe() failover.Description {
	d := t.Step.(failover.Describer).Describe()
	d.Action, d.Verify = t.prompt.Text, d.Action
	return d
}
