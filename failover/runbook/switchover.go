package runbook

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
)

// Where steps come from.
const (
	refDR    = "global cluster DR, disaster recovery process, step "
	refSetup = "global cluster DR, process, step "
	refTwo   = "Understudy: two clusters must not serve under one name"
	refFence = "Understudy: a standby's revisions are not the primary's"
)

// GlobalClusterSwitchover is the planned switch of roles: nothing that the primary acknowledged is lost, and the old primary becomes the standby.
// Until clients come to the new primary all of it can be undone, and is when a step fails. From then on it goes forward only: what they write there would be lost.
func GlobalClusterSwitchover(cfg Config) (failover.PlanConfig, error) {
	return cfg.plan(failover.ModeGraceful, failover.PlanConfig{
		Name: cmp.Or(cfg.Plan, "switchover"), Title: fmt.Sprintf("Planned switch of roles: %s hands over to %s", cfg.Primary.Name, cfg.Standby.Name),
		Purpose:   "The primary stops taking writes, the standby receives the last of them, is promoted, and gets the clients. No acknowledged write is lost.",
		OnFailure: cmp.Or(cfg.OnFailure, failover.FailureUndo)})
}

// GlobalClusterFailover is the switch of roles when the primary is dead or cut off. What it wrote last may be lost: the plan states how much at most, and a person accepts it.
func GlobalClusterFailover(cfg Config) (failover.PlanConfig, error) {
	return cfg.plan(failover.ModeUngraceful, failover.PlanConfig{
		Name: cmp.Or(cfg.Plan, "failover"), Title: fmt.Sprintf("Unplanned switch of roles: %s takes over from %s", cfg.Standby.Name, cfg.Primary.Name),
		Purpose:   "The primary is lost. The standby is promoted with what it has, after somebody has accepted the stated loss, and gets the clients.",
		OnFailure: cmp.Or(cfg.OnFailure, failover.FailureStop)})
}

// Drill is a rehearsal of the planned switch: the standby is promoted behind the backs of the clients, which stay with the primary, and everything is undone.
// Meanwhile the standby is not mirrored into, so it is behind when the drill ends, and catches up.
func Drill(cfg Config) (failover.PlanConfig, error) {
	return cfg.plan(failover.ModeDrill, failover.PlanConfig{
		Name: cmp.Or(cfg.Plan, "drill"), Title: fmt.Sprintf("Drill: %s is promoted and demoted again, %s goes on serving", cfg.Standby.Name, cfg.Primary.Name),
		Purpose:   "The preflight asks every way that a switch needs; the standby is promoted for real, and demoted. While it runs the standby is not mirrored into.",
		OnFailure: cfg.OnFailure})
}

// plan makes the plan of one of the three.
func (cfg Config) plan(mode failover.Mode, p failover.PlanConfig) (failover.PlanConfig, error) {
	p.Mode, p.Approval = mode, cfg.Approval
	reverse := mode == failover.ModeGraceful && !cfg.SkipReverse
	if err := cfg.check(needs{primaryEtcd: mode != failover.ModeUngraceful, toStandby: true, toPrimary: reverse}); err != nil {
		return failover.PlanConfig{}, err
	}
	var l list
	cfg.preflight(&l, mode)
	l.steps = append(l.steps, cfg.Before...)
	cfg.switchRoles(&l, mode)
	if reverse {
		cfg.reverse(&l, nil)
	}
	p.Inputs = cfg.inputs()
	return l.plan(p)
}

// inputs is what the plan's hash covers beside its steps.
func (cfg *Config) inputs() any {
	return map[string]any{"primary": cfg.Primary.Name, "standby": cfg.Standby.Name, "domain": cfg.Domain, "mirror": cfg.Mirror.Name, "more": cfg.Inputs}
}

// switchRoles are the steps from the last look at the standby to its clients' arrival.
func (cfg Config) switchRoles(l *list, mode failover.Mode) {
	pair := cfg.pair(&cfg.Primary, &cfg.Standby)
	if mode == failover.ModeUngraceful {
		pair.Primary, cfg.Primary.Etcd = nil, nil
		if len(cfg.Primary.Balancers) > 0 {
			cfg.Primary.close(l, cfg.Primary.clients(), true, refTwo)
		}
		cfg.primaryIsOff(l)
	}
	verdicts, err := cfg.verdicts(&cfg.Primary, &cfg.Standby)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.add(mirror.VerdictGate(mirror.VerdictGateConfig{Reference: refDR + "2", Pair: pair, Verdicts: verdicts, MaxAge: cfg.MaxCheckAge,
		Missed: cfg.AcceptMissed, Surplus: cfg.AcceptSurplus, Different: cfg.AcceptDifferent, PrimaryEnded: cfg.PrimaryEnded}))
	if cfg.DNS != nil && mode == failover.ModeGraceful {
		cfg.DNS.lower(l, cfg.Domain)
	}
	fence := mirror.RevisionFenceConfig{Reference: refFence, Pair: pair, Margin: cfg.RevisionMargin, MarginUngraceful: cfg.RevisionMarginUngraceful, Limit: cfg.RevisionLimit}
	step, err := mirror.RevisionFence(fence)
	if mode == failover.ModeUngraceful && err == nil {
		step = step.(failover.Ungraceful).WithoutPrimary()
	}
	l.add(look("revision-gap", step, err))
	if mode == failover.ModeGraceful {
		cfg.Primary.close(l, cfg.Primary.clients(), true, refTwo)
		l.steps = append(l.steps, cfg.AtOldPrimary...)
		gate, err := cfg.Primary.gate()
		if err != nil {
			l.errs = append(l.errs, err)
			return
		}
		l.add(mirror.Quiesce(mirror.QuiesceConfig{Reference: refDR + "2", Pair: pair, Gate: gate}))
	}
	if mode != failover.ModeUngraceful {
		l.add(mirror.Drain(mirror.DrainConfig{Reference: refDR + "2", Pair: pair}))
	}
	l.add(mirror.StopMirror(mirror.StopMirrorConfig{Name: "stop-mirror/" + cfg.Standby.Name, Reference: refDR + "3", Pair: pair, Control: cfg.Standby.Mirror}))
	l.add(mirror.EpochFence(mirror.EpochFenceConfig{Reference: refDR + "3", Pair: pair}))
	l.add(mirror.RevisionFence(fence))
	cfg.Standby.restartAPIServers(l)
	if mode == failover.ModeDrill {
		l.steps = append(l.steps, cfg.AfterPromotion...)
		if cfg.DNS != nil && cfg.DNS.DrillDomain != "" {
			cfg.DNS.point(l, cfg.Domain, &cfg.Primary, &cfg.Standby, mode)
		}
		return
	}
	// What starts at the promoted standby writes to it as well.
	l.steps = append(l.steps, cfg.noReturn())
	l.steps = append(l.steps, cfg.AfterPromotion...)
	cfg.Primary.close(l, cfg.Primary.mirrors(), true, refDR+"4")
	cfg.Standby.close(l, cfg.Standby.mirrors(), false, refDR+"4")
	cfg.moveClients(l, mode)
}

// noReturn is where the clients begin to come. A step that fails later must not lead to undoing: the domain would lead back to a primary that lacks what was written meanwhile.
func (cfg Config) noReturn() failover.Step {
	const passed = "passed"
	return failover.Funcs{
		Name:        "point-of-no-return",
		Description: failover.Description{Action: fmt.Sprintf("From here on clients write to %s: the roles do not go back by undoing, but by another switch", cfg.Standby.Name), Reference: refTwo},
		Observe: func(ctx context.Context) (failover.Observation, error) {
			var is bool
			if _, err := failover.Load(ctx, passed, &is); err != nil || is {
				return failover.Observation{State: failover.Done, Detail: "clients may come"}, err
			}
			return failover.Observation{State: failover.Pending, Detail: "clients have not been sent yet"}, nil
		},
		Do: func(ctx context.Context) error { return failover.Save(ctx, passed, true) },
	}.Step()
}

// moveClients brings users and clients to the standby.
func (cfg *Config) moveClients(l *list, mode failover.Mode) {
	cfg.Standby.open(l, cfg.Standby.clients(), refDR+"5")
	if cfg.DNS != nil {
		cfg.DNS.point(l, cfg.Domain, &cfg.Primary, &cfg.Standby, mode)
	} else {
		l.ask("dns", fmt.Sprintf("Point %s to %s, and look on several resolvers whether it does", cfg.Domain, strings.Join(cfg.Standby.VIPs, ", ")), refDR+"5",
			failover.Prompt{Undo: fmt.Sprintf("Point %s to %s again", cfg.Domain, strings.Join(cfg.Primary.VIPs, ", "))})
	}
	cfg.lookup(l)
	l.ask("browser", fmt.Sprintf("Clear the browser's cache, open https://%s/ and see that it is %s", cfg.Domain, cfg.Standby.Name), refDR+"7", failover.Prompt{Harmless: true})
	l.steps = append(l.steps, cfg.AfterSwitch...)
}

// reverse makes the old primary the standby. With differences it is a failback's.
func (cfg *Config) reverse(l *list, differences *mirror.DifferenceReportConfig) {
	back := cfg.pair(&cfg.Standby, &cfg.Primary)
	if differences == nil {
		gate, err := cfg.Primary.gate()
		if err != nil {
			l.errs = append(l.errs, err)
			return
		}
		l.add(mirror.Reopen(mirror.ReopenConfig{Reference: refDR + "10", Gate: gate}))
	}
	cfg.Standby.open(l, cfg.Standby.mirrors(), refSetup+"3.1")
	l.add(mirror.StartReverse(mirror.StartReverseConfig{Name: "mirror-to/" + cfg.Primary.Name, Reference: refDR + "10", Pair: back, Control: cfg.Primary.Mirror, Differences: differences, PointOfNoReturn: differences != nil}))
	remover, err := engine.NewRemover(cfg.Standby.Etcd, cfg.Primary.Etcd, cfg.checkOf(&cfg.Standby))
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	stale := mirror.RemoveStaleConfig{Name: "remove-stale/" + cfg.Primary.Name, Reference: "Understudy: what is gone stays gone", Pair: back, Former: engine.Records(cfg.Standby.Etcd, cfg.Mirror.Name), Remover: remover}
	if differences != nil {
		stale.Report = differences.Path
	}
	l.add(mirror.RemoveStale(stale))
	verdicts, err := cfg.verdicts(&cfg.Standby, &cfg.Primary)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.add(mirror.VerdictGate(mirror.VerdictGateConfig{Name: "verdict/" + cfg.Primary.Name, Reference: refSetup + "3", Pair: back, Verdicts: verdicts, MaxAge: cfg.MaxCheckAge,
		Missed: cfg.AcceptMissed, Surplus: cfg.AcceptSurplus, Different: cfg.AcceptDifferent}))
}
