package kube

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/failover"
)

// ScaleConfig is the configuration of Scale. The zero value of each field but Cluster, Namespace and Workload is its documented default.
type ScaleConfig struct {
	// Name of the step; "" is scale/, the cluster, the namespace, the workload and the number.
	Name string
	// Reference says where the step comes from.
	Reference string
	// Cluster and Namespace that the workload is in. Required.
	Cluster   *Cluster
	Namespace string
	// Workload by kind and name: "deployment/etcd-sync" or "statefulset/db". Required.
	Workload string
	// Replicas is how many pods there are to be; 0 stops the workload.
	Replicas int32
	// IfInstalled makes the step done where there is no such workload. Without it that blocks the step.
	IfInstalled bool
	// Timeout is how long one attempt may take; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// Scale makes a step that gives a Deployment or StatefulSet a number of replicas and waits until it has them, ready; Undo gives it the number that it had before.
//
// With Replicas 0 it waits until no pod is left, however long a pod takes to end: what must not run any more, such as a second writer, is not done while it may. A pod of a dead node stays until
// somebody who knows that the node is off deletes it by force.
func Scale(cfg ScaleConfig) (failover.Step, error) {
	const kind = "ScaleConfig"
	var p problems
	p.common(kind, cfg.Cluster, cfg.Namespace, cfg.Timeout)
	w := p.workload(kind+".Workload", cfg.Workload, "deployment", "statefulset")
	p.require(cfg.Replicas >= 0, kind+".Replicas", "is negative", "use 0 to stop the workload")
	if err := p.err(); err != nil {
		return nil, err
	}
	s := scale{Cluster: cfg.Cluster, namespace: cfg.Namespace, workload: w, replicas: cfg.Replicas, ifInstalled: cfg.IfInstalled}
	number := fmt.Sprint(cfg.Replicas)
	action := fmt.Sprintf("Scale %s in namespace %s of %s to %s", w, cfg.Namespace, cfg.Cluster.name, number)
	if cfg.Replicas == 0 {
		action += " and wait until no pod of it is left"
	}
	return failover.Funcs{
		Name: cmp.Or(cfg.Name, nameOf("scale", cfg.Cluster.name, cfg.Namespace, w.String(), number)), Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: cfg.Timeout,
		Description: failover.Description{
			Action: action, Commands: []string{shell("kubectl", "scale", "-n", cfg.Namespace, w.String(), "--replicas="+number)},
			Undo: "give it as many replicas as it had before", Reference: cfg.Reference,
			Inputs: cfg.Cluster.inputs(map[string]any{"namespace": cfg.Namespace, "workload": w.String(), "replicas": cfg.Replicas, "ifInstalled": cfg.IfInstalled}),
		},
	}.Step(), nil
}

type scale struct {
	*Cluster
	namespace   string
	workload    workload
	replicas    int32
	ifInstalled bool
}

// scaled is what a scaling saves before it begins.
type scaled struct {
	Undone   bool  `json:"undone,omitempty"`
	Replicas int32 `json:"replicas"`
}

func (s scale) observe(ctx context.Context) (failover.Observation, error) {
	var saved scaled
	begun, err := failover.Load(ctx, keyBefore, &saved)
	if err != nil {
		return failover.Observation{}, err
	}
	r, err := s.rolled(ctx, s.namespace, s.workload)
	switch {
	case err != nil:
		return failover.Observation{}, err
	case r == nil && begun && saved.Undone:
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("%s is no longer in namespace %s", s.workload, s.namespace)}, nil
	case r == nil && s.ifInstalled:
		return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("there is no %s in namespace %s: not installed", s.workload, s.namespace)}, nil
	case r == nil:
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("there is no %s in namespace %s", s.workload, s.namespace)}, nil
	case begun && saved.Undone && r.replicas == saved.Replicas:
		return failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("%s has its %d replicas again", s.workload, r.replicas)}, nil
	case r.replicas != s.replicas:
		return failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("%s is to have %d replicas", s.workload, r.replicas)}, nil
	}
	left, err := s.left(ctx, *r)
	if err != nil {
		return failover.Observation{}, err
	}
	if left != "" {
		return failover.Observation{State: failover.Partial, Detail: fmt.Sprintf("%s %s", s.workload, left)}, nil
	}
	return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%s has %d replicas", s.workload, s.replicas)}, nil
}

// left is what the scaling lacks. Pods that end count until they are gone, though the workload's own status leaves them out.
func (s scale) left(ctx context.Context, r rolled) (string, error) {
	if r.left != "" || r.replicas > 0 {
		return r.left, nil
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	pods, err := s.client.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: r.pods.String()})
	if err != nil {
		return "", explain(err, "list pods of %s in namespace %s", s.workload, s.namespace)
	}
	var names []string
	for _, pod := range pods.Items {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			names = append(names, pod.Name)
		}
	}
	if len(names) > 0 {
		return "still has pods: " + listed(names), nil
	}
	return "", nil
}

func (s scale) do(ctx context.Context) error {
	var saved scaled
	begun, err := failover.Load(ctx, keyBefore, &saved)
	if err != nil {
		return err
	}
	if !begun || saved.Undone {
		err := s.await(ctx, func(ctx context.Context) (bool, string, error) {
			r, err := s.rolled(ctx, s.namespace, s.workload)
			if err != nil {
				return false, "", err
			}
			if r == nil {
				return false, "", failure{fmt.Errorf("%s is gone from namespace %s", s.workload, s.namespace)}
			}
			saved = scaled{Replicas: r.replicas}
			return true, "", nil
		})
		if err != nil {
			return err
		}
		if err := failover.Save(ctx, keyBefore, saved); err != nil {
			return err
		}
		failover.Note(ctx, fmt.Sprintf("%s had %d replicas", s.workload, saved.Replicas))
	}
	return s.set(ctx, s.replicas)
}

// set gives the workload a number of replicas and waits until it has them.
func (s scale) set(ctx context.Context, n int32) error {
	return s.await(ctx, func(ctx context.Context) (bool, string, error) {
		r, err := s.rolled(ctx, s.namespace, s.workload)
		if err != nil {
			return false, "", err
		}
		if r == nil {
			return false, "", failure{fmt.Errorf("%s is gone from namespace %s", s.workload, s.namespace)}
		}
		if r.replicas != n {
			err := s.patch(ctx, s.namespace, s.workload, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n))
			return false, fmt.Sprintf("%s has been given %d replicas", s.workload, n), err
		}
		left, err := s.left(ctx, *r)
		return err == nil && left == "", fmt.Sprintf("%s %s", s.workload, left), err
	})
}

func (s scale) undo(ctx context.Context) error {
	var saved scaled
	begun, err := failover.Load(ctx, keyBefore, &saved)
	if err != nil || !begun {
		return err // nothing was changed
	}
	if err := s.set(ctx, saved.Replicas); err != nil {
		return err
	}
	return failover.Save(ctx, keyBefore, scaled{Undone: true, Replicas: saved.Replicas})
}
