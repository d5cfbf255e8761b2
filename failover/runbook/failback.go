package runbook

import (
	"cmp"
	"fmt"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// GlobalClusterFailback gives the roles back after a failover, when the old primary has returned. Primary is the cluster that serves now, Standby the old primary.
//
// What the old primary wrote and the standby never had is exported to Config.Differences, and a person confirms to have looked at it, before the mirror overwrites it: that is the point of no return.
// Once the old primary holds all that the other has, the roles are switched as planned.
func GlobalClusterFailback(cfg Config) (failover.PlanConfig, error) {
	if err := cfg.check(needs{primaryEtcd: true, toStandby: true, toPrimary: !cfg.SkipReverse}); err != nil {
		return failover.PlanConfig{}, err
	}
	if cfg.Differences == "" {
		var c checks
		c.bad("Differences is empty", "give the path of a file for what the old primary wrote and never sent")
		return failover.PlanConfig{}, c.errs[0]
	}
	var l list
	cfg.preflight(&l, failover.ModeGraceful)
	cfg.Standby.close(&l, cfg.Standby.clients(), false, refTwo)
	l.steps = append(l.steps, cfg.AtReturned...)
	// The mirror that ran before the failover went from the old primary, now the standby, to what is the primary now.
	before := cfg.pair(&cfg.Standby, &cfg.Primary)
	report := mirror.DifferenceReportConfig{Reference: "Understudy: nothing is overwritten unseen", Pair: before, Path: cfg.Differences, Values: cfg.DifferenceValues}
	l.add(mirror.DifferenceReport(report))
	l.ask("differences-read", fmt.Sprintf("Read %s: what it lists was acknowledged by the old primary and is overwritten or removed by what follows. Put in again at %s what is still wanted", cfg.Differences, cfg.Primary.Name),
		"Understudy: nothing is overwritten unseen", failover.Prompt{Role: cfg.Approval.Role, Harmless: true})
	turned := cfg.reversed()
	turned.reverse(&l, &report)
	l.steps = append(l.steps, cfg.Before...)
	cfg.switchRoles(&l, failover.ModeGraceful)
	if !cfg.SkipReverse {
		cfg.reverse(&l, nil)
	}
	return l.plan(failover.PlanConfig{Name: cmp.Or(cfg.Plan, "failback"), Title: fmt.Sprintf("Failback: %s, which has returned, takes over again from %s", cfg.Standby.Name, cfg.Primary.Name),
		Purpose: "What the old primary had not sent is exported, then it is made the standby, and the roles are switched as planned.",
		Mode:    failover.ModeGraceful, Approval: cfg.Approval, OnFailure: cmp.Or(cfg.OnFailure, failover.FailureStop), Inputs: cfg.inputs()})
}
