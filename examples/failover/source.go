package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/examples/failover/inventory"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/failover"
)

const (
	envPrefix = "UNDERSTUDY"
	// hashLength is that of a plan's hash.
	hashLength = 64
)

// planSource is what a plan is made from: an inventory, and the runbook that is meant.
type planSource struct {
	settings                             *connect.Settings
	inventory, runbook, primary, standby string
}

func newPlanSource() *planSource {
	f := &planSource{settings: connect.NewSettings(envPrefix)}
	fs := f.settings.Flags
	fs.StringVar(&f.inventory, "inventory", "", "YAML `file` that describes the clusters; failover inventory prints one")
	fs.StringVar(&f.runbook, "runbook", "", "`name` of the procedure: "+strings.Join(inventory.Runbooks(), ", "))
	fs.StringVar(&f.primary, "primary", "", "`name` of the cluster that is the primary now, in place of the inventory's")
	fs.StringVar(&f.standby, "standby", "", "`name` of the cluster that is the standby now, in place of the inventory's")
	f.settings.FlagOnly("runbook")
	return f
}

// built is a plan with what it acts through.
type built struct {
	plan  *failover.Plan
	copy  failover.CopyConfig
	close func()
}

// build makes the plan. Nothing is contacted but the etcds.
func (f *planSource) build(ctx context.Context) (*built, error) {
	var errs []error
	if f.inventory == "" {
		errs = append(errs, f.usage("inventory", "is missing", "give a file as failover inventory prints one"))
	}
	switch {
	case f.runbook == "":
		errs = append(errs, f.usage("runbook", "is missing", "give one of "+strings.Join(inventory.Runbooks(), ", ")))
	case !slices.Contains(inventory.Runbooks(), f.runbook):
		errs = append(errs, f.usage("runbook", fmt.Sprintf("%q is no runbook", f.runbook), "give one of "+strings.Join(inventory.Runbooks(), ", ")))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	inv, err := inventory.Load(f.inventory, f.primary, f.standby)
	if err != nil {
		return nil, err
	}
	site, err := inv.Open(ctx, f.runbook)
	if err != nil {
		return nil, err
	}
	plan, err := site.Plan(f.runbook)
	if err != nil {
		site.Close()
		return nil, err
	}
	return &built{plan: plan, copy: site.Copy(), close: site.Close}, nil
}
