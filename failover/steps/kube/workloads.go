package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/understudy-dr/understudy/failover"
)

// RestartedAt is the annotation of a pod template that a restart sets, as kubectl does.
const RestartedAt = "kubectl.kubernetes.io/restartedAt"

// RestartWorkloadsConfig is the configuration of RestartWorkloads. Exactly one of Workloads and Selector is set.
type RestartWorkloadsConfig struct {
	// Name of the step; "" is restart/, the cluster, the namespace and the only workload or the selector; with several workloads it is required.
	Name string
	// Reference says where the step comes from.
	Reference string
	// Cluster and Namespace that the workloads are in. Required.
	Cluster   *Cluster
	Namespace string
	// Workloads by kind and name: "deployment/sentry", "statefulset/db", "daemonset/agent".
	Workloads []string
	// Selector says which Deployments, StatefulSets and DaemonSets, by their own labels.
	Selector string
	// IfInstalled leaves out workloads that are not there. Without it they block the step.
	IfInstalled bool
	// Timeout is how long one attempt may take, the roll-outs included; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// RestartWorkloads makes a step that restarts Deployments, StatefulSets and DaemonSets by a roll-out, as kubectl rollout restart does, and waits until it is complete everywhere:
// all pods updated and available, as kubectl rollout status means it. Old pods may still be ending then.
//
// The moment that it writes into the pod templates is saved first: after a crash a workload that bears it, or a later one, is not restarted again. A workload that would not roll out all its pods
// (a paused Deployment, the update strategy OnDelete, a partition) blocks the step.
func RestartWorkloads(cfg RestartWorkloadsConfig) (failover.Step, error) {
	const kind = "RestartWorkloadsConfig"
	var p problems
	p.common(kind, cfg.Cluster, cfg.Namespace, cfg.Timeout)
	p.require((len(cfg.Workloads) > 0) != (cfg.Selector != ""), kind, "needs one of Workloads and Selector", "name the workloads, or say which labels")
	p.require(cfg.Name != "" || len(cfg.Workloads) < 2, kind+".Name", "is empty", "name the step: it restarts several workloads")
	s := rollout{Cluster: cfg.Cluster, namespace: cfg.Namespace, ifInstalled: cfg.IfInstalled}
	for i, text := range cfg.Workloads {
		w := p.workload(fmt.Sprintf("%s.Workloads[%d]", kind, i), text, "deployment", "statefulset", "daemonset")
		p.require(!slices.Contains(s.named, w), fmt.Sprintf("%s.Workloads[%d]", kind, i), fmt.Sprintf("%q is named twice", text), "name it once")
		s.named = append(s.named, w)
	}
	var command string
	inputs := map[string]any{"namespace": cfg.Namespace, "ifInstalled": cfg.IfInstalled}
	what := ""
	if cfg.Selector != "" {
		s.selector = p.selector(kind+".Selector", cfg.Selector)
		what = s.selector.String()
		inputs["selector"] = what
		command = shell("kubectl", "rollout", "restart", "deployment,statefulset,daemonset", "-n", cfg.Namespace, "-l", what)
	} else {
		names := make([]string, len(s.named))
		for i, w := range s.named {
			names[i] = w.String()
		}
		what = strings.Join(names, " ")
		inputs["workloads"] = names
		command = shell(append([]string{"kubectl", "rollout", "restart", "-n", cfg.Namespace}, names...)...)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	action := fmt.Sprintf("Restart %s in namespace %s of %s by a roll-out and wait until it is complete", what, cfg.Namespace, cfg.Cluster.name)
	if cfg.IfInstalled {
		action += ", if installed"
	}
	return failover.Funcs{
		Name: cmp.Or(cfg.Name, nameOf("restart", cfg.Cluster.name, cfg.Namespace, what)), Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: cfg.Timeout,
		Description: failover.Description{
			Action: action, Commands: []string{command}, Undo: "nothing is to be taken back: the pods were replaced by the same",
			Reference: cfg.Reference, Inputs: cfg.Cluster.inputs(inputs),
		},
	}.Step(), nil
}

// workload reads kind/name.
func (p *problems) workload(field, text string, kinds ...string) workload {
	kind, name, _ := strings.Cut(text, "/")
	long := map[string]string{"deploy": "deployment", "deployments": "deployment", "sts": "statefulset", "statefulsets": "statefulset", "ds": "daemonset", "daemonsets": "daemonset"}
	w := workload{cmp.Or(long[kind], kind), name}
	p.require(slices.Contains(kinds, w.Kind), field, fmt.Sprintf("%q is of no kind that is known here", text), "use "+strings.Join(kinds, "/name or ")+"/name")
	p.object(field, name, validation.IsDNS1123Subdomain)
	return w
}

// workload names one object.
type workload struct{ Kind, Name string }

func (w workload) String() string { return w.Kind + "/" + w.Name }

type rollout struct {
	*Cluster
	namespace   string
	named       []workload
	selector    labels.Selector // nil: named
	ifInstalled bool
}

// rolling is what a restart saves before it begins: which workloads, and the moment that it writes into their templates.
type rolling struct {
	Undone    bool       `json:"undone,omitempty"`
	Moment    time.Time  `json:"moment"`
	Workloads []workload `json:"workloads"`
}

// find gives the workloads that are to be restarted; missing are named ones that are not there.
func (s rollout) find(ctx context.Context) (found []rolled, missing []string, err error) {
	if s.selector != nil {
		found, err = s.rolledOf(ctx, s.namespace, s.selector)
		return found, nil, err
	}
	return s.get(ctx, s.named)
}

func (s rollout) get(ctx context.Context, named []workload) (found []rolled, missing []string, err error) {
	for _, w := range named {
		r, err := s.rolled(ctx, s.namespace, w)
		switch {
		case err != nil:
			return nil, nil, err
		case r == nil:
			missing = append(missing, w.String())
		default:
			found = append(found, *r)
		}
	}
	return found, missing, nil
}

func (s rollout) load(ctx context.Context) (r rolling, begun bool, err error) {
	begun, err = failover.Load(ctx, keyBefore, &r)
	return r, begun && !r.Undone, err
}

func (s rollout) observe(ctx context.Context) (failover.Observation, error) {
	saved, begun, err := s.load(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if begun {
		return s.standing(ctx, saved)
	}
	found, blocked, err := s.ready(ctx)
	switch {
	case err != nil:
		return failover.Observation{}, err
	case blocked != "":
		return failover.Observation{State: failover.Blocked, Detail: blocked}, nil
	case saved.Undone:
		return failover.Observation{State: failover.Pending, Detail: "the restart counts as not done"}, nil
	case len(found) == 0: // blocked unless ifInstalled
		return failover.Observation{State: failover.Done, Detail: "nothing to restart: not installed"}, nil
	}
	return failover.Observation{State: failover.Pending, Detail: "to restart: " + listedWorkloads(found)}, nil
}

// ready gives what can be restarted, or why it cannot.
func (s rollout) ready(ctx context.Context) (found []rolled, blocked string, err error) {
	found, missing, err := s.find(ctx)
	switch {
	case err != nil:
		return nil, "", err
	case len(missing) > 0 && !s.ifInstalled:
		return nil, fmt.Sprintf("not in namespace %s: %s", s.namespace, listed(missing)), nil
	case len(found) == 0 && !s.ifInstalled:
		return nil, fmt.Sprintf("nothing in namespace %s has labels %s", s.namespace, s.selector), nil
	}
	for _, r := range found {
		if r.held != "" {
			return nil, fmt.Sprintf("%s %s: it would not restart all its pods", r.workload, r.held), nil
		}
	}
	return found, "", nil
}

// standing is how far a restart is that has begun.
func (s rollout) standing(ctx context.Context, saved rolling) (failover.Observation, error) {
	found, missing, err := s.get(ctx, saved.Workloads)
	if err != nil {
		return failover.Observation{}, err
	}
	if len(missing) > 0 {
		return failover.Observation{State: failover.Blocked, Detail: "gone since the restart began: " + listed(missing)}, nil
	}
	marked, waiting := 0, []string(nil)
	for _, r := range found {
		switch {
		case !r.restartedSince(saved.Moment):
			waiting = append(waiting, r.workload.String()+" is not restarted yet")
		case r.left != "":
			marked++
			waiting = append(waiting, r.workload.String()+" "+r.left)
		default:
			marked++
		}
	}
	switch {
	case len(waiting) == 0:
		return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%d of %d are rolled out", len(found), len(found))}, nil
	case marked == 0:
		return failover.Observation{State: failover.Pending, Detail: "to restart: " + listedWorkloads(found)}, nil
	}
	return failover.Observation{State: failover.Partial, Detail: listed(waiting)}, nil
}

func (s rollout) do(ctx context.Context) error {
	saved, begun, err := s.load(ctx)
	if err != nil {
		return err
	}
	if !begun {
		err := s.await(ctx, func(ctx context.Context) (bool, string, error) {
			found, blocked, err := s.ready(ctx)
			if blocked != "" {
				return false, "", failure{fmt.Errorf("%s", blocked)}
			}
			saved = rolling{Moment: time.Now().UTC().Truncate(time.Second)}
			for _, r := range found {
				saved.Workloads = append(saved.Workloads, r.workload)
				// Later than what is there, whatever the clocks of those who restarted it before.
				if !r.at.Before(saved.Moment) {
					saved.Moment = r.at.Add(time.Second)
				}
			}
			return err == nil, "", err
		})
		if err != nil {
			return err
		}
		if err := failover.Save(ctx, keyBefore, saved); err != nil {
			return err
		}
	}
	return s.await(ctx, func(ctx context.Context) (bool, string, error) {
		found, _, err := s.get(ctx, saved.Workloads)
		if err != nil {
			return false, "", err
		}
		for _, r := range found {
			if r.restartedSince(saved.Moment) {
				continue
			}
			if err := s.mark(ctx, r.workload, saved.Moment); err != nil {
				return false, "", err
			}
		}
		o, err := s.standing(ctx, saved)
		if o.State == failover.Blocked {
			return false, "", failure{fmt.Errorf("%s", o.Detail)}
		}
		return o.State == failover.Done, o.Detail, err
	})
}

// mark writes the moment into the pod template, which starts the roll-out.
func (s rollout) mark(ctx context.Context, w workload, moment time.Time) error {
	patch := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{%q:%q}}}}}`, RestartedAt, moment.Format(time.RFC3339))
	return s.patch(ctx, s.namespace, w, types.StrategicMergePatchType, patch)
}

func (s rollout) undo(ctx context.Context) error {
	return failover.Save(ctx, keyBefore, rolling{Undone: true})
}

func listedWorkloads(all []rolled) string {
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.workload.String()
	}
	return listed(names)
}
