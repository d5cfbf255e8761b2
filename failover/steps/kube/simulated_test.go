package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

// simulatedWorld is client-go's fake API, taught what the steps rely on: preconditions, evictions, graceful ends of pods, generations; and a controller.
// What it shows of the steps holds as far as it behaves like a cluster: TestReal runs the same tests on a real one.
func simulatedWorld(t *testing.T) *world {
	client := fake.NewClientset()
	w := newWorld(t, client, &rest.Config{Host: "https://192.0.2.1:6443"})
	var writes atomic.Int64
	w.writes = func() int { return int(writes.Load()) }
	client.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if v := action.GetVerb(); v != "get" && v != "list" && v != "watch" {
			writes.Add(1)
		}
		return false, nil, nil
	})
	end := func(name string, options metav1.DeleteOptions) error {
		gvr := corev1.SchemeGroupVersion.WithResource("pods")
		object, err := client.Tracker().Get(gvr, w.ns, name)
		if err != nil {
			return err
		}
		pod := object.(*corev1.Pod).DeepCopy()
		if p := options.Preconditions; p != nil && p.UID != nil && *p.UID != pod.UID {
			return apierrors.NewConflict(corev1.Resource("pods"), name, fmt.Errorf("the UID is %s", pod.UID))
		}
		if g := options.GracePeriodSeconds; g != nil && *g == 0 {
			return client.Tracker().Delete(gvr, w.ns, name)
		}
		if pod.DeletionTimestamp == nil {
			at := metav1.NewTime(time.Now().Add(30 * time.Second))
			pod.DeletionTimestamp = &at
		}
		return client.Tracker().Update(gvr, pod, w.ns)
	}
	client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		d := action.(clienttesting.DeleteActionImpl)
		return true, nil, end(d.Name, d.DeleteOptions)
	})
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		budgets, err := client.Tracker().List(policyv1.SchemeGroupVersion.WithResource("poddisruptionbudgets"), policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), w.ns)
		if err != nil {
			return true, nil, err
		}
		if items, _ := meta.ExtractList(budgets); len(items) > 0 {
			return true, nil, apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		}
		e := action.(clienttesting.CreateAction).GetObject().(metav1.Object)
		raw, err := json.Marshal(e)
		if err != nil {
			return true, nil, err
		}
		var options struct {
			DeleteOptions metav1.DeleteOptions `json:"deleteOptions"`
		}
		if err := json.Unmarshal(raw, &options); err != nil {
			return true, nil, err
		}
		return true, nil, end(e.GetName(), options.DeleteOptions)
	})
	for _, resource := range []string{"deployments", "statefulsets", "daemonsets"} {
		client.PrependReactor("patch", resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
			_, object, err := clienttesting.ObjectReaction(client.Tracker())(action)
			if err != nil {
				return true, nil, err
			}
			changed := object.DeepCopyObject()
			m, _ := meta.Accessor(changed)
			m.SetGeneration(m.GetGeneration() + 1)
			return true, changed, client.Tracker().Update(action.GetResource(), changed, w.ns)
		})
	}
	c := &controller{w: w}
	w.play(c.round)
	return w
}

// controller brings about what Deployments, StatefulSets and DaemonSets ask for, as far as the tests see it. A Deployment's pods belong to a ReplicaSet for each template.
type controller struct {
	w    *world
	made int
}

func hash(t corev1.PodTemplateSpec) string {
	text, _ := json.Marshal(t)
	h := fnv.New32a()
	_, _ = h.Write(text)
	return fmt.Sprintf("%08x", h.Sum32())
}

func (c *controller) round(ctx context.Context) {
	apps := c.w.client.AppsV1()
	if ds, err := apps.Deployments(c.w.ns).List(ctx, metav1.ListOptions{}); err == nil {
		for _, d := range ds.Items {
			ref := c.set(ctx, &d)
			got := c.sync(ctx, ref, d.Spec.Selector, d.Spec.Template, *d.Spec.Replicas, "-"+hash(d.Spec.Template)+"-")
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: got.all, UpdatedReplicas: got.updated, AvailableReplicas: got.ready}
			_, _ = apps.Deployments(c.w.ns).UpdateStatus(ctx, &d, metav1.UpdateOptions{})
		}
	}
	if ss, err := apps.StatefulSets(c.w.ns).List(ctx, metav1.ListOptions{}); err == nil {
		for _, s := range ss.Items {
			ref := metav1.NewControllerRef(&s, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))
			got := c.sync(ctx, ref, s.Spec.Selector, s.Spec.Template, *s.Spec.Replicas, "")
			s.Status = appsv1.StatefulSetStatus{ObservedGeneration: s.Generation, Replicas: got.all, UpdatedReplicas: got.updated, AvailableReplicas: got.ready, UpdateRevision: hash(s.Spec.Template)}
			if s.Status.CurrentRevision = "old"; got.updated == *s.Spec.Replicas {
				s.Status.CurrentRevision = s.Status.UpdateRevision
			}
			_, _ = apps.StatefulSets(c.w.ns).UpdateStatus(ctx, &s, metav1.UpdateOptions{})
		}
	}
	if ds, err := apps.DaemonSets(c.w.ns).List(ctx, metav1.ListOptions{}); err == nil {
		for _, d := range ds.Items {
			ref := metav1.NewControllerRef(&d, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
			got := c.sync(ctx, ref, d.Spec.Selector, d.Spec.Template, 1, "-")
			d.Status = appsv1.DaemonSetStatus{ObservedGeneration: d.Generation, DesiredNumberScheduled: 1, UpdatedNumberScheduled: got.updated, NumberAvailable: got.ready}
			_, _ = apps.DaemonSets(c.w.ns).UpdateStatus(ctx, &d, metav1.UpdateOptions{})
		}
	}
}

// set makes the ReplicaSet of a Deployment's template.
func (c *controller) set(ctx context.Context, d *appsv1.Deployment) *metav1.OwnerReference {
	name := d.Name + "-" + hash(d.Spec.Template)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.w.ns, UID: types.UID("rs-" + name), Labels: d.Spec.Template.Labels,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}}}
	_, _ = c.w.client.AppsV1().ReplicaSets(c.w.ns).Create(ctx, set, metav1.CreateOptions{})
	return metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
}

type counted struct{ all, updated, ready int32 }

// sync makes the pods that are missing and ends those of another template. Without an infix pods have ordinals, and a name must be free before it is used again.
func (c *controller) sync(ctx context.Context, ref *metav1.OwnerReference, selector *metav1.LabelSelector, t corev1.PodTemplateSpec, replicas int32, infix string) (n counted) {
	api := c.w.client.CoreV1().Pods(c.w.ns)
	pods, err := api.List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	if err != nil {
		return n
	}
	taken := map[string]bool{}
	for _, p := range pods.Items {
		taken[p.Name] = true
		current := p.Annotations["template"] == hash(t)
		owner := metav1.GetControllerOf(&p)
		switch {
		case p.DeletionTimestamp != nil || owner == nil:
			continue
		case !current || n.updated == replicas:
			_ = api.Delete(ctx, p.Name, metav1.DeleteOptions{})
			n.all++
			continue
		}
		n.all, n.updated = n.all+1, n.updated+1
		if isReady(p) {
			n.ready++
		}
	}
	for i := n.updated; i < replicas; i++ {
		c.made++
		name := fmt.Sprintf("%s%s%d", ref.Name, infix, c.made)
		if infix == "" {
			for ordinal := range replicas {
				if name = fmt.Sprintf("%s-%d", ref.Name, ordinal); !taken[name] {
					break
				}
			}
			if taken[name] {
				break
			}
			taken[name] = true
		}
		pod := &corev1.Pod{ObjectMeta: *t.ObjectMeta.DeepCopy(), Spec: *t.Spec.DeepCopy()}
		pod.Name, pod.Namespace, pod.UID = strings.ReplaceAll(name, "--", "-"), c.w.ns, types.UID(fmt.Sprintf("uid-%d", c.made))
		pod.OwnerReferences = []metav1.OwnerReference{*ref}
		pod.Annotations = map[string]string{"template": hash(t)}
		_, _ = api.Create(ctx, pod, metav1.CreateOptions{})
	}
	return n
}
