package runbook

import (
	"context"

	"github.com/understudy-dr/understudy/failover"
)

// task is a person's task of which a gate sees whether it is done.
type task struct {
	failover.Step // the gate
	prompt        failover.Prompt
}

// personal makes a task of a gate, as its func returns it.
func personal(gate failover.Step, err error) func(p failover.Prompt) (failover.Step, error) {
	return func(p failover.Prompt) (failover.Step, error) {
		p.Checked = true
		return task{gate, p}, err
	}
}

func (t task) Prompt() failover.Prompt { return t.prompt }

// Observe is the gate's; what blocks a gate is what the person has still to do.
func (t task) Observe(ctx context.Context) (failover.Observation, error) {
	obs, err := t.Step.Observe(ctx)
	if obs.State == failover.Blocked {
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
