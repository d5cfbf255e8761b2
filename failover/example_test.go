package failover_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/failover"
)

// A step of one's own in ten lines, and a run.
func Example() {
	dir, _ := os.MkdirTemp("", "failover")
	defer os.RemoveAll(dir)
	flag := filepath.Join(dir, "maintenance")

	step := failover.Funcs{
		Name:        "maintenance-page",
		Description: failover.Description{Action: "Show the maintenance page", Inputs: map[string]any{"site": "platform"}},
		Observe: func(context.Context) (failover.Observation, error) {
			if _, err := os.Stat(flag); err != nil {
				return failover.Observation{State: failover.Pending, Detail: "the page is hidden"}, nil
			}
			return failover.Observation{State: failover.Done, Detail: "the page is shown"}, nil
		},
		Do:   func(context.Context) error { return os.WriteFile(flag, nil, 0o600) },
		Undo: func(context.Context) error { return os.Remove(flag) },
	}.Step()

	plan, err := failover.NewPlan(failover.PlanConfig{Name: "switchover", Steps: []failover.Step{step}})
	if err != nil {
		fmt.Println(err)
		return
	}
	runner, err := failover.New(plan, failover.Config{Journal: filepath.Join(dir, "switchover.journal")})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := runner.Run(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range runner.Status().Steps {
		fmt.Println(s.Name, s.State, "-", s.Detail)
	}
	// Output: maintenance-page done - the page is shown
}

// A dry run asks every step and changes nothing.
func ExamplePlan_DryRun() {
	plan, err := failover.NewPlan(failover.PlanConfig{Name: "failover", Mode: failover.ModeUngraceful, Steps: []failover.Step{
		failover.Check("verdict", func(context.Context) (failover.Observation, error) {
			return failover.Observation{State: failover.Blocked, Detail: "the standby is behind", Loss: "at most 12 revisions"}, nil
		}, failover.Description{Action: "Is the standby's copy complete?"}),
		failover.Ask("browser", failover.Prompt{Text: "Clear the browser's cache and open the platform", Harmless: true}, failover.Description{}),
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := plan.DryRun(context.Background(), failover.DryRunOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range report.Steps {
		fmt.Printf("%s: %s\n", s.Name, s.Would)
	}
	// Output:
	// verdict: wait until the stated loss is accepted
	// browser: wait until a person confirms it
}
