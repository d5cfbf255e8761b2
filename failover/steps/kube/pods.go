package kube

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/understudy-dr/understudy/failover"
)

// RestartPodsConfig is the configuration of RestartPods. The zero value of each field but Cluster, Namespace and Selector is its documented default.
type RestartPodsConfig struct {
	// Name of the step; "" is restart-pods/, the cluster, the namespace and the selector.
	Name string
	// Reference says where the step comes from.
	Reference string
	// Cluster that the pods run in. Required.
	Cluster *Cluster
	// Namespace of the pods. Required.
	Namespace string
	// Selector says which pods, by their labels, as kubectl's -l does: "service_name=warlock", "service_name in (alertmanager,vmselect,vminsert)". Required: "" would be every pod.
	Selector string
	// IfInstalled makes the step done where no pod matches. Without it that blocks the step.
	IfInstalled bool
	// Evict asks for eviction, so that PodDisruptionBudgets hold, and asks again while one forbids it. Without it pods are deleted, all at once. Clusters before 1.22 do not know this kind of eviction.
	Evict bool
	// Timeout is how long one attempt may take, replacements included; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// RestartPods makes a step that deletes the pods that match, and waits until the same controllers have brought back as many, ready.
//
// Before the first deletion their UIDs are saved: after a crash those that are left are deleted, never their replacements. A controller that meanwhile wants fewer pods is asked for no more than it wants.
// Pods that have ended by themselves, such as those of finished Jobs, are left alone. A pod without a controller, or of the kubelet's own (a static pod), blocks the step: nothing would bring it back.
// A pod that is still there a minute after it should have been gone, mostly on a dead node, is no longer waited for; a StatefulSet's replacement waits for it nevertheless.
func RestartPods(cfg RestartPodsConfig) (failover.Step, error) {
	var p problems
	p.common("RestartPodsConfig", cfg.Cluster, cfg.Namespace, cfg.Timeout)
	selector := p.selector("RestartPodsConfig.Selector", cfg.Selector)
	if err := p.err(); err != nil {
		return nil, err
	}
	r := replacement{Cluster: cfg.Cluster, namespace: cfg.Namespace, selector: selector, evict: cfg.Evict}
	s := podRestart{replacement: r, ifInstalled: cfg.IfInstalled}
	if cfg.Name == "" {
		cfg.Name = nameOf("restart-pods", cfg.Cluster.name, cfg.Namespace, selector.String())
	}
	verb := "Delete"
	if cfg.Evict {
		verb = "Evict"
	}
	action := fmt.Sprintf("%s the pods %s in namespace %s of %s and wait until their replacements are ready", verb, selector, cfg.Namespace, cfg.Cluster.name)
	if cfg.IfInstalled {
		action += ", if there are any"
	}
	return failover.Funcs{
		Name: cfg.Name, Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: cfg.Timeout,
		Description: failover.Description{
			Action:    action,
			Commands:  []string{shell("kubectl", "delete", "po", "-n", cfg.Namespace, "-l", selector.String())},
			Undo:      "nothing is to be taken back: the pods were replaced by the same",
			Reference: cfg.Reference,
			Inputs:    cfg.Cluster.inputs(map[string]any{"namespace": cfg.Namespace, "selector": selector.String(), "ifInstalled": cfg.IfInstalled, "evict": cfg.Evict}),
		},
	}.Step(), nil
}

// selector reads a label selector that selects something in particular.
func (p *problems) selector(field, text string) labels.Selector {
	s, err := labels.Parse(text)
	switch {
	case err != nil:
		p.require(false, field, fmt.Sprintf("%q cannot be read: %v", text, err), "use what kubectl's -l takes, such as app=x or app in (x,y)")
		return labels.Nothing()
	case s.Empty():
		p.require(false, field, "is empty: it would select everything", "say which labels")
	}
	return s
}

type podRestart struct {
	replacement
	ifInstalled bool
}

// keyBefore is where restarts save what there was before.
const keyBefore = "before"

// restarted loads what was saved; false before the restart has begun, and after it was taken back.
func (s podRestart) begun(ctx context.Context) (b before, begun bool, err error) {
	begun, err = failover.Load(ctx, keyBefore, &b)
	return b, begun && !b.Undone, err
}

func (s podRestart) observe(ctx context.Context) (failover.Observation, error) {
	b, begun, err := s.begun(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if begun {
		p, err := s.look(ctx, b)
		return p.observation(), err
	}
	now, blocked, err := s.snapshot(ctx)
	switch {
	case err != nil:
		return failover.Observation{}, err
	case blocked != "":
		return failover.Observation{State: failover.Blocked, Detail: blocked}, nil
	case b.Undone:
		return failover.Observation{State: failover.Pending, Detail: "the restart counts as not done"}, nil
	case now.pods() > 0:
		return failover.Observation{State: failover.Pending, Detail: "to restart: " + now.String()}, nil
	case s.ifInstalled:
		return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("no pod matches %s: not installed", s.selector)}, nil
	}
	return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("no pod in namespace %s matches %s", s.namespace, s.selector)}, nil
}

func (s podRestart) do(ctx context.Context) error {
	b, begun, err := s.begun(ctx)
	if err != nil {
		return err
	}
	if !begun {
		err := s.await(ctx, func(ctx context.Context) (bool, string, error) {
			now, blocked, err := s.snapshot(ctx)
			if blocked != "" {
				return false, "", failure{fmt.Errorf("%s", blocked)}
			}
			b = now
			return err == nil, "", err
		})
		if err != nil {
			return err
		}
		if err := failover.Save(ctx, keyBefore, b); err != nil {
			return err
		}
		failover.Note(ctx, "replacing "+b.String())
	}
	return s.replace(ctx, b)
}

func (s podRestart) undo(ctx context.Context) error {
	return failover.Save(ctx, keyBefore, before{Undone: true})
}
