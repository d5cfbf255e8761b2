package kube

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// rolled is a workload as the API shows it, and how far its roll-out is.
type rolled struct {
	workload
	at       time.Time // of the last restart; zero: none
	held     string    // why a change of the template would not reach all pods
	left     string    // what the roll-out lacks; "" when it is complete
	replicas int32     // wanted
	pods     labels.Selector
}

// restartedSince reports whether the template bears a moment or a later one.
func (r rolled) restartedSince(moment time.Time) bool { return !r.at.Before(moment) }

func (r *rolled) template(t corev1.PodTemplateSpec, selector *metav1.LabelSelector) {
	if at, err := time.Parse(time.RFC3339, t.Annotations[RestartedAt]); err == nil {
		r.at = at
	}
	pods, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil { // the API does not let it in
		pods = labels.Nothing()
	}
	r.pods = pods
}

func replicasOf(n *int32) int32 {
	if n == nil {
		return 1 // what the API makes of it
	}
	return *n
}

func ofDeployment(d *appsv1.Deployment) rolled {
	r := rolled{workload: workload{"deployment", d.Name}, replicas: replicasOf(d.Spec.Replicas)}
	r.template(d.Spec.Template, d.Spec.Selector)
	if d.Spec.Paused {
		r.held = "is paused"
	}
	switch s := d.Status; {
	case s.ObservedGeneration < d.Generation:
		r.left = "is not looked at by its controller yet"
	case s.UpdatedReplicas < r.replicas:
		r.left = fmt.Sprintf("has %d of %d pods updated", s.UpdatedReplicas, r.replicas)
	case s.Replicas > s.UpdatedReplicas:
		r.left = fmt.Sprintf("has %d old pods left", s.Replicas-s.UpdatedReplicas)
	case s.AvailableReplicas < r.replicas:
		r.left = fmt.Sprintf("has %d of %d pods available", s.AvailableReplicas, r.replicas)
	}
	for _, c := range d.Status.Conditions {
		if r.left != "" && c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse {
			r.left += " (" + c.Reason + ")"
		}
	}
	return r
}

func ofStatefulSet(d *appsv1.StatefulSet) rolled {
	r := rolled{workload: workload{"statefulset", d.Name}, replicas: replicasOf(d.Spec.Replicas)}
	r.template(d.Spec.Template, d.Spec.Selector)
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		r.held = "has the update strategy OnDelete"
	} else if u := d.Spec.UpdateStrategy.RollingUpdate; u != nil && u.Partition != nil && *u.Partition > 0 {
		r.held = fmt.Sprintf("has the partition %d", *u.Partition)
	}
	switch s := d.Status; {
	case s.ObservedGeneration < d.Generation:
		r.left = "is not looked at by its controller yet"
	case s.UpdateRevision != s.CurrentRevision || s.UpdatedReplicas < r.replicas:
		r.left = fmt.Sprintf("has %d of %d pods updated", s.UpdatedReplicas, r.replicas)
	case s.AvailableReplicas < r.replicas:
		r.left = fmt.Sprintf("has %d of %d pods available", s.AvailableReplicas, r.replicas)
	}
	return r
}

func ofDaemonSet(d *appsv1.DaemonSet) rolled {
	r := rolled{workload: workload{"daemonset", d.Name}, replicas: d.Status.DesiredNumberScheduled}
	r.template(d.Spec.Template, d.Spec.Selector)
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		r.held = "has the update strategy OnDelete"
	}
	switch s := d.Status; {
	case s.ObservedGeneration < d.Generation:
		r.left = "is not looked at by its controller yet"
	case s.UpdatedNumberScheduled < r.replicas:
		r.left = fmt.Sprintf("has %d of %d pods updated", s.UpdatedNumberScheduled, r.replicas)
	case s.NumberAvailable < r.replicas:
		r.left = fmt.Sprintf("has %d of %d pods available", s.NumberAvailable, r.replicas)
	}
	return r
}

// rolled reads one workload; nil if it is not there.
func (c *Cluster) rolled(ctx context.Context, namespace string, w workload) (*rolled, error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	var r rolled
	var err error
	switch apps := c.client.AppsV1(); w.Kind {
	case "deployment":
		var d *appsv1.Deployment
		if d, err = apps.Deployments(namespace).Get(ctx, w.Name, metav1.GetOptions{}); err == nil {
			r = ofDeployment(d)
		}
	case "statefulset":
		var d *appsv1.StatefulSet
		if d, err = apps.StatefulSets(namespace).Get(ctx, w.Name, metav1.GetOptions{}); err == nil {
			r = ofStatefulSet(d)
		}
	default:
		var d *appsv1.DaemonSet
		if d, err = apps.DaemonSets(namespace).Get(ctx, w.Name, metav1.GetOptions{}); err == nil {
			r = ofDaemonSet(d)
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return &r, explain(err, "read %s in namespace %s", w, namespace)
}

// rolledOf gives the workloads with labels.
func (c *Cluster) rolledOf(ctx context.Context, namespace string, selector labels.Selector) (all []rolled, err error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	options := metav1.ListOptions{LabelSelector: selector.String()}
	apps := c.client.AppsV1()
	deployments, err := apps.Deployments(namespace).List(ctx, options)
	if err != nil {
		return nil, explain(err, "list deployments %s in namespace %s", selector, namespace)
	}
	for i := range deployments.Items {
		all = append(all, ofDeployment(&deployments.Items[i]))
	}
	sets, err := apps.StatefulSets(namespace).List(ctx, options)
	if err != nil {
		return nil, explain(err, "list statefulsets %s in namespace %s", selector, namespace)
	}
	for i := range sets.Items {
		all = append(all, ofStatefulSet(&sets.Items[i]))
	}
	daemons, err := apps.DaemonSets(namespace).List(ctx, options)
	if err != nil {
		return nil, explain(err, "list daemonsets %s in namespace %s", selector, namespace)
	}
	for i := range daemons.Items {
		all = append(all, ofDaemonSet(&daemons.Items[i]))
	}
	return all, nil
}

// patch changes one workload.
func (c *Cluster) patch(ctx context.Context, namespace string, w workload, kind types.PatchType, patch []byte) (err error) {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	switch apps, options := c.client.AppsV1(), (metav1.PatchOptions{FieldManager: "understudy"}); w.Kind {
	case "deployment":
		_, err = apps.Deployments(namespace).Patch(ctx, w.Name, kind, patch, options)
	case "statefulset":
		_, err = apps.StatefulSets(namespace).Patch(ctx, w.Name, kind, patch, options)
	default:
		_, err = apps.DaemonSets(namespace).Patch(ctx, w.Name, kind, patch, options)
	}
	return explain(err, "change %s in namespace %s", w, namespace)
}
