package runbook

import (
	"cmp"
	"fmt"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/failover/steps/rollout"
)

// EncryptionConfig is a roll-out of the merged encryption keys of two clusters.
type EncryptionConfig struct {
	// Plan is the name of the plan; "" is "encryption-rollout".
	Plan string
	// Rollout is what encryption.PlanRollout returned. Required.
	Rollout *encryption.Rollout
	// Effects are what the phases act through; see rollout.NewHosts. Required, as far as the phases need them.
	Effects encryption.Effects
	// Hosts are asked before the first phase whether they are reached; nil leaves that out.
	Hosts []nodes.Host
	// Approval is asked for before the plan acts, and before each phase without a way back.
	Approval failover.Approval
}

// EncryptionRollout brings the merged EncryptionConfiguration of two clusters to all their API servers, phase by phase, for a pair whose standby was installed with keys of its own
// (global cluster DR, FAQ). The order is that of package encryption, not the documentation's, which loses the standby's Secrets.
func EncryptionRollout(cfg EncryptionConfig) (failover.PlanConfig, error) {
	if cfg.Rollout == nil {
		return failover.PlanConfig{}, &failover.Error{Kind: failover.ErrConfig, Detail: "EncryptionConfig.Rollout is nil", Hint: "make one by encryption.PlanRollout"}
	}
	const reference = "global cluster DR, FAQ"
	var l list
	if len(cfg.Hosts) > 0 {
		l.add(nodes.Preflight(nodes.PreflightConfig{Name: "hosts", Reference: refPreflight, Hosts: cfg.Hosts}))
	}
	l.all(rollout.Steps(rollout.Config{Reference: reference, Plan: cfg.Rollout, Effects: cfg.Effects, Approval: cfg.Approval}))
	return l.plan(failover.PlanConfig{Name: cmp.Or(cfg.Plan, "encryption-rollout"), Title: fmt.Sprintf("Roll-out of encryption keys in %d phases", len(cfg.Rollout.Phases)),
		Purpose: "Both clusters' API servers read what either has written, in every phase.", Approval: cfg.Approval, OnFailure: failover.FailureStop})
}
