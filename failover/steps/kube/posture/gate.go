package posture

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// GateConfig makes a gate of a check.
type GateConfig struct {
	Config
	// Name of the step; "" is "posture".
	Name string
	// Reference says where the step comes from, such as a paragraph of a procedure.
	Reference string
	// Block is the lowest severity that blocks; "" is Fatal.
	Block Severity
	// Accept names findings that do not block: a check, such as "volumes", or one subject of it, such as "webhooks/ValidatingWebhookConfiguration policy (a.example.com)".
	Accept []string
	// Require names checks that must have been made, whatever Block says.
	Require []string
}

// Gate returns a step that is passed when the standby is fit to be mirrored into. It reads, and changes nothing.
func Gate(cfg GateConfig) (failover.Step, error) {
	checker, err := New(cfg.Config)
	if err != nil {
		return nil, err
	}
	cfg.Block = cmp.Or(cfg.Block, Fatal)
	if cfg.Block.rank() < 0 {
		return nil, bad(fmt.Sprintf("Block %q is no severity", cfg.Block), "use Info, Warning or Fatal")
	}
	for field, names := range map[string][]string{"Accept": cfg.Accept, "Require": cfg.Require} {
		for i, name := range names {
			check, subject, _ := strings.Cut(name, "/")
			if !slices.Contains(Checks(), check) || field == "Require" && subject != "" {
				return nil, bad(fmt.Sprintf("%s[%d] %q names no check", field, i, name), "use one of "+strings.Join(Checks(), ", "))
			}
		}
	}
	cfg.Accept, cfg.Require = slices.Clone(cfg.Accept), slices.Clone(cfg.Require)
	inputs := map[string]any{
		"standby": cfg.Standby.Host, "block": cfg.Block, "accept": cfg.Accept, "require": cfg.Require, "prefix": checker.cfg.Prefix, "excludedNamespaces": cfg.ExcludedNamespaces,
		"revisionMargin": checker.cfg.RevisionMargin, "maxFillers": checker.cfg.MaxFillers, "primaryNodePorts": cfg.PrimaryNodePorts, "standbyNodePorts": cfg.StandbyNodePorts,
		"encryption": cfg.Unreadable != nil, "filter": cfg.Keep != nil,
	}
	if cfg.Primary != nil {
		inputs["primary"] = cfg.Primary.Host
	}
	if cfg.PrimaryEtcd != nil {
		inputs["primaryEtcd"] = cfg.PrimaryEtcd.Endpoints()
	}
	if cfg.StandbyEtcd != nil {
		inputs["standbyEtcd"] = cfg.StandbyEtcd.Endpoints()
	}
	return failover.Check(cmp.Or(cfg.Name, "posture"), func(ctx context.Context) (failover.Observation, error) {
		r, err := checker.Check(ctx)
		if err != nil {
			return failover.Observation{}, err
		}
		return cfg.judge(r), nil
	}, failover.Description{
		Action:    fmt.Sprintf("is the standby fit to be mirrored into: no finding of severity %s or worse", cfg.Block),
		Reference: cfg.Reference, Inputs: inputs,
	}), nil
}

// judge says whether a report lets the plan go on.
func (cfg *GateConfig) judge(r *Report) failover.Observation {
	var blocking []string
	accepted := 0
	for _, f := range r.Findings {
		required := f.NotLooked && slices.Contains(cfg.Require, f.Check)
		switch {
		case !required && f.Severity.rank() < cfg.Block.rank():
		case !required && (slices.Contains(cfg.Accept, f.Check) || slices.Contains(cfg.Accept, f.Check+"/"+f.Subject)):
			accepted++
		default:
			blocking = append(blocking, fmt.Sprintf("%s/%s: %s", f.Check, f.Subject, f.Problem))
		}
	}
	if len(blocking) > 0 {
		return failover.Observation{State: failover.Blocked, Detail: strings.Join(blocking, "; ")}
	}
	return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("controllers of the standby are %s; %d findings, of which %d were accepted and none blocks", r.Controllers, len(r.Findings), accepted)}
}
