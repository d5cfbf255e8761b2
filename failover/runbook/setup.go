package runbook

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube/posture"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/network"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// GlobalClusterSetup makes a pair: the rules that both installations have to keep are checked with the field at fault, the domain points where each installation needs it, the standby gets the primary's
// EncryptionConfiguration before it is installed, and the mirror is started and checked. The installations themselves are a person's tasks; the plan sees when they are done.
func GlobalClusterSetup(cfg Config) (failover.PlanConfig, error) {
	if err := cfg.check(needs{primaryEtcd: true, toStandby: true}); err != nil {
		return failover.PlanConfig{}, err
	}
	var c checks
	for _, k := range []struct {
		field   string
		cluster *Cluster
	}{{"Primary", &cfg.Primary}, {"Standby", &cfg.Standby}} {
		if k.cluster.Installation == nil {
			c.bad(k.field+".Installation is nil", "give what its installer is given")
		}
	}
	var l list
	l.errs = c.errs
	if err := l.err(); err != nil {
		return failover.PlanConfig{}, err
	}
	l.ask("parameters", "Write down every parameter that the installer is given, for each cluster; the inventory of this plan has those that must agree", refSetup+"1", failover.Prompt{Harmless: true})
	l.steps = append(l.steps, cfg.parity("parity/"+cfg.Primary.Name, refSetup+"1", func(now time.Time) []Finding {
		return CheckInstallation(*cfg.Primary.Installation, cfg.Primary.VIPs, now)
	},
		fmt.Sprintf("Does what the installer of %s is given keep the rules for a pair?", cfg.Primary.Name), &cfg.Primary))
	cfg.DNS.atSetup(&l, "dns/"+cfg.Primary.Name, refSetup+"1", cfg.Domain, &cfg.Primary)
	cfg.install(&l, &cfg.Primary, refSetup+"1")

	l.steps = append(l.steps, cfg.parity("parity/"+cfg.Standby.Name, refSetup+"2", func(now time.Time) []Finding {
		return CheckInstallation(*cfg.Standby.Installation, cfg.Standby.VIPs, now)
	},
		fmt.Sprintf("Does what the installer of %s is given keep the rules for a pair?", cfg.Standby.Name), &cfg.Standby))
	l.steps = append(l.steps, cfg.parity("parity/pair", refSetup+"2", func(time.Time) []Finding { return CheckParity(*cfg.Primary.Installation, *cfg.Standby.Installation) },
		"Do the two installations agree where they must?", &cfg.Primary, &cfg.Standby))
	cfg.DNS.atSetup(&l, "dns/"+cfg.Standby.Name, refSetup+"2.1", cfg.Domain, &cfg.Standby)
	if len(cfg.Primary.Hosts) > 0 && len(cfg.Standby.Hosts) > 0 {
		l.all(nodes.CopyFile(nodes.CopyFileConfig{Name: "encryption-config", Reference: refSetup + "2.2", From: cfg.Primary.Hosts[0], FromPath: cfg.Primary.EncryptionConfig,
			To: cfg.Standby.Hosts, Path: cfg.Standby.EncryptionConfig, Check: encryptionFile}))
	} else {
		l.ask("encryption-config", fmt.Sprintf("Copy %s of a control-plane node of %s to all those of %s, with owner root and mode 0600, before the standby is installed", cfg.Primary.EncryptionConfig, cfg.Primary.Name, cfg.Standby.Name),
			refSetup+"2.2", failover.Prompt{Undo: "Remove the copies"})
	}
	cfg.install(&l, &cfg.Standby, refSetup+"2.3")
	cfg.DNS.atSetup(&l, "dns/"+cfg.Primary.Name+"-again", refSetup+"2", cfg.Domain, &cfg.Primary)

	for _, k := range []*Cluster{&cfg.Primary, &cfg.Standby} {
		k.open(&l, k.mirrors(), refSetup+"3.1")
		l.add(network.PortsOpen(network.PortsConfig{Name: "ports/" + k.Name, Reference: refSetup + "3.1", Addresses: k.VIPs, Ports: k.Ports}))
	}
	l.steps = append(l.steps, cfg.Before...)
	if cfg.Posture != nil {
		l.add(posture.Gate(*cfg.Posture))
	}
	pair := cfg.pair(&cfg.Primary, &cfg.Standby)
	l.add(mirror.StartReverse(mirror.StartReverseConfig{Name: "mirror-to/" + cfg.Standby.Name, Reference: refSetup + "3.4", Pair: pair, Control: cfg.Standby.Mirror}))
	verdicts, err := cfg.verdicts(&cfg.Primary, &cfg.Standby)
	if err != nil {
		return failover.PlanConfig{}, err
	}
	l.add(mirror.VerdictGate(mirror.VerdictGateConfig{Reference: refSetup + "3", Pair: pair, Verdicts: verdicts, MaxAge: cfg.MaxCheckAge, Missed: cfg.AcceptMissed, Surplus: cfg.AcceptSurplus, Different: cfg.AcceptDifferent}))
	l.steps = append(l.steps, cfg.AfterSwitch...)
	return l.plan(failover.PlanConfig{Name: cmp.Or(cfg.Plan, "setup"), Title: fmt.Sprintf("Set-up of the pair: %s with %s as its standby", cfg.Primary.Name, cfg.Standby.Name),
		Purpose:  "Two clusters are installed that can take each other's place, and the mirror between them runs and is proven right.",
		Approval: cfg.Approval, OnFailure: cmp.Or(cfg.OnFailure, failover.FailureStop), Inputs: cfg.inputs()})
}

// parity is a gate at rules.
func (cfg *Config) parity(name, reference string, check func(now time.Time) []Finding, question string, of ...*Cluster) failover.Step {
	inputs := map[string]any{} // secrets show as given or not
	for _, k := range of {
		inputs[k.Name] = map[string]any{"vips": k.VIPs, "installation": k.Installation}
	}
	return failover.Check(name, func(context.Context) (failover.Observation, error) {
		findings := check(time.Now())
		if len(findings) == 0 {
			return failover.Observation{State: failover.Done, Detail: "all rules hold"}, nil
		}
		var texts []string
		for _, f := range findings {
			texts = append(texts, f.String())
		}
		return failover.Observation{State: failover.Blocked, Detail: strings.Join(texts, " | ")}, nil
	}, failover.Description{Action: question, Reference: reference, Inputs: inputs})
}

// install asks for an installation, and sees by the virtual IP's ports when it is there.
func (cfg *Config) install(l *list, k *Cluster, reference string) {
	l.add(personal(network.PortsOpen(network.PortsConfig{Name: "install/" + k.Name, Reference: reference, Addresses: k.VIPs, Ports: []int{443, 6443}}))(
		failover.Prompt{Text: fmt.Sprintf("Install %s with the parameters that were checked; https://%s/ leads to it now", k.Name, cfg.Domain), Undo: "Remove the installation, or keep it for the next attempt"}))
}

// encryptionFile refuses what kube-apiserver would not start with.
func encryptionFile(content []byte) error {
	cfg, err := encryption.Parse(content)
	if err != nil {
		return err
	}
	_, err = encryption.Validate(cfg)
	return err
}
