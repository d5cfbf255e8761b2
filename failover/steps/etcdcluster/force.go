package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// ForceConfig makes a cluster of its own of a survivor.
type ForceConfig struct {
	// Name is the beginning of the steps' names; "" is "etcd".
	Name      string
	Reference string
	// Outage has the survivors with their Member, and the dead.
	Outage
	// Approval is asked before the cluster is forced.
	Approval failover.Approval
	// Wait is how long a start may take until the survivor takes writes; 0 is DefaultWait. A member with a large database takes minutes.
	Wait time.Duration
}

// Force makes the steps that stop every survivor, one step each, and force the chosen one into a cluster of its own.
//
// "etcd/stop/NAME" is undone by starting the member as it was. "etcd/force/NAME" cannot be undone: the survivor has forgotten the others, whose own cluster it would not join again.
// It starts the member with the flag, waits until a linearizable read and a write pass, and starts it again without the flag, so that no later start forces again. It is not done while the flag is there, and
// a run that was killed anywhere within goes on from there.
// Both are refused while there is a quorum, or one of the dead answers: also if that happened after QuorumLost.
func Force(cfg ForceConfig) ([]failover.Step, error) {
	errs := []error{cfg.Outage.complete(true)}
	duration(&errs, "Wait", &cfg.Wait, DefaultWait)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	base := stepName(cfg.Name, "etcd")
	var steps []failover.Step
	for _, n := range cfg.Survivors {
		if n.Name != cfg.Survivor {
			steps = append(steps, stopStep(cfg, base, n))
		}
	}
	f := &force{Outage: cfg.Outage, node: cfg.chosen(), wait: cfg.Wait}
	control := f.node.Member.Describe()
	commands := append(control.set(map[Setting]string{SettingForceNewCluster: "true"}), control.Start...)
	commands = append(commands, fmt.Sprintf("etcdctl --endpoints=%s endpoint health   # until it is", f.node.endpoint()))
	commands = append(append(append(commands, control.Stop...), control.set(map[Setting]string{SettingForceNewCluster: ""})...), control.Start...)
	commands = append(commands, fmt.Sprintf("etcdctl --endpoints=%s member list   # one", f.node.endpoint()))
	return append(steps, stopStep(cfg, base, f.node), failover.Funcs{
		Name:    stepFor(base+"/force", f.node),
		Observe: f.observe, Do: f.do, Verify: f.verify, Approval: cfg.Approval, Retry: patience,
		Timeout: 2*cfg.Wait + 10*time.Minute,
		Description: failover.Description{
			Action:   fmt.Sprintf("Make %s a cluster of its own. What only %s have seen is lost, and they can never go on with their data", f.node.Name, namesOf(cfg.Dead)),
			Commands: commands, Verify: "The survivor is the only member, takes a write, and its settings do not force again.",
			Reference: cfg.Reference, Inputs: map[string]any{"outage": cfg.inputs(), "wait": cfg.Wait.String()},
		},
	}.Step()), nil
}

// stopStep stops a survivor while there is no quorum.
func stopStep(cfg ForceConfig, base string, n Node) failover.Step {
	o := cfg.Outage
	o.Survivor = n.Name // this step chooses nothing
	control := n.Member.Describe()
	return failover.Funcs{
		Name: stepFor(base+"/stop", n),
		Observe: func(ctx context.Context) (failover.Observation, error) {
			running, err := n.Member.Running(ctx)
			if err != nil {
				return failover.Observation{}, err
			}
			if !running {
				return failover.Observation{State: failover.Done, Detail: n.Name + " is stopped"}, nil
			}
			found, err := o.survey(ctx, []Node{n})
			switch {
			case err != nil:
				return failover.Observation{}, err
			case found.blocked != "":
				return failover.Observation{State: failover.Blocked, Detail: found.blocked}, nil
			}
			return failover.Observation{State: failover.Pending, Detail: n.Name + " runs; " + found.detail}, nil
		},
		Do: n.Member.Stop, Retry: patience,
		Undo: func(ctx context.Context) error {
			running, err := n.Member.Running(ctx)
			if err != nil {
				return err
			}
			if !running {
				if err := n.unforced(ctx); err != nil {
					return err
				}
				if err := n.Member.Start(ctx); err != nil {
					return err
				}
			}
			// It serves nobody before it has a quorum: there is no more to wait for than its process.
			return until(ctx, cfg.Wait, DefaultPoll, func(ctx context.Context) error {
				running, err := n.Member.Running(ctx)
				if err == nil && !running {
					err = fmt.Errorf("%s does not run", n.Name)
				}
				return err
			})
		},
		Timeout: cfg.Wait + 5*time.Minute,
		Description: failover.Description{
			Action: "Stop " + n.Name, Commands: control.Stop, Undo: "Start it as it was. Without a quorum it serves nobody, not even reads, until the others are back.",
			Reference: cfg.Reference, Inputs: map[string]any{"node": n.input(), "outage": o.inputs()},
		},
	}.Step()
}

// unforced takes the flag out of a stopped member's settings.
func (n Node) unforced(ctx context.Context) error {
	s, err := n.Member.Settings(ctx)
	if err != nil || !s.ForceNewCluster {
		return err
	}
	s.ForceNewCluster = false
	return n.Member.Configure(ctx, s)
}

// How far forcing is, as the journal keeps it: it is saved before what it allows to have happened.
const (
	phaseForcing = "forcing" // the flag may be set, and the member may have been started with it
	phaseForced  = "forced"  // it has taken a write
	phasePlain   = "plain"   // it was started without the flag
)

type force struct {
	Outage
	node Node
	wait time.Duration
}

func (f *force) phase(ctx context.Context) (phase string, err error) {
	_, err = failover.Load(ctx, "phase", &phase)
	return phase, err
}

func (f *force) observe(ctx context.Context) (failover.Observation, error) {
	phase, err := f.phase(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	running, err := f.node.Member.Running(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	settings, err := f.node.Member.Settings(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if running && !settings.ForceNewCluster && (phase == "" || phase == phasePlain) {
		if rev, err := f.alone(ctx); err == nil {
			return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%s is the only member of its cluster, at revision %d, and will not force again", f.node.Name, rev)}, nil
		} else if phase != "" {
			return failover.Observation{State: failover.Partial, Detail: "forced, and does not serve: " + err.Error()}, nil
		}
	}
	if phase != "" {
		return failover.Observation{State: failover.Partial, Detail: fmt.Sprintf("%s is %s; running: %v, flag set: %v", f.node.Name, phase, running, settings.ForceNewCluster)}, nil
	}
	detail := f.node.Name + " is stopped"
	if running {
		found, err := f.survey(ctx, []Node{f.node})
		if err != nil {
			return failover.Observation{}, err
		}
		if found.blocked != "" {
			return failover.Observation{State: failover.Blocked, Detail: found.blocked}, nil
		}
		detail = f.node.Name + " runs again, without a quorum"
	} else if alive, err := f.alive(ctx); err != nil || alive != "" {
		return failover.Observation{State: failover.Blocked, Detail: alive}, err
	}
	return failover.Observation{State: failover.Pending, Detail: detail}, nil
}

func (f *force) do(ctx context.Context) error {
	phase, err := f.phase(ctx)
	if err != nil {
		return err
	}
	if phase == "" || phase == phaseForcing {
		// Looked at again here: an approval may have taken an hour.
		if alive, err := f.alive(ctx); err != nil || alive != "" {
			return errors.Join(err, failover.Permanent(errors.New("not forced: "+alive)))
		}
		if err := failover.Save(ctx, "phase", phaseForcing); err != nil {
			return err
		}
		if err := f.restart(ctx, true); err != nil {
			return err
		}
		if err := failover.Save(ctx, "phase", phaseForced); err != nil {
			return err
		}
	}
	if err := f.restart(ctx, false); err != nil {
		return err
	}
	return failover.Save(ctx, "phase", phasePlain)
}

// restart stops the member and starts it with or without the flag, until it is a cluster of its own that takes writes.
func (f *force) restart(ctx context.Context, flag bool) error {
	if err := f.node.Member.Stop(ctx); err != nil {
		return err
	}
	s, err := f.node.Member.Settings(ctx)
	if err != nil {
		return err
	}
	if s.ForceNewCluster != flag {
		s.ForceNewCluster = flag
		if err := f.node.Member.Configure(ctx, s); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := f.node.Member.Start(ctx); err != nil {
		return err
	}
	failover.Report(ctx, "waiting until "+f.node.Name+" takes writes")
	err = until(ctx, f.wait, DefaultPoll/5, func(ctx context.Context) error {
		if _, err := f.alone(ctx); err != nil {
			return err
		}
		return f.node.write(ctx, f.RequestTimeout)
	})
	if err != nil {
		return fmt.Errorf("%s was started and is no cluster of its own that takes writes: %w", f.node.Name, err)
	}
	failover.Note(ctx, fmt.Sprintf("%s takes writes %v after its start, flag set: %v", f.node.Name, time.Since(began).Round(time.Millisecond), flag))
	return nil
}

// alone checks that the survivor is the only member of its cluster, and reads.
func (f *force) alone(ctx context.Context) (revision int64, err error) {
	got, err := f.node.read(ctx, f.RequestTimeout, true)
	if err != nil {
		return 0, fmt.Errorf("a linearizable read does not pass: %w", err)
	}
	list, err := f.node.members(ctx, f.RequestTimeout, true)
	if err != nil {
		return 0, fmt.Errorf("members cannot be listed: %w", err)
	}
	if len(list.Members) != 1 {
		return 0, fmt.Errorf("the cluster has %d members: %s", len(list.Members), describeMembers(list.Members))
	}
	return got.Header.Revision, f.node.confirm(got.Header.MemberId, list.Members)
}

// write puts a key and deletes it.
func (n Node) write(ctx context.Context, timeout time.Duration) error {
	_, err := ask(ctx, timeout, func(ctx context.Context) (any, error) { return n.awake().Put(ctx, probeKey, "") })
	if err == nil {
		_, err = ask(ctx, timeout, func(ctx context.Context) (any, error) { return n.Client.Delete(ctx, probeKey) })
	}
	if err != nil {
		return fmt.Errorf("a write does not pass: %w", err)
	}
	return nil
}

func (f *force) verify(ctx context.Context) error {
	if _, err := f.alone(ctx); err != nil {
		return err
	}
	s, err := f.node.Member.Settings(ctx)
	if err == nil && s.ForceNewCluster {
		err = errors.New("the flag is set: the next start would force again")
	}
	return err
}
