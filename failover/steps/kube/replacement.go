package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/failover"
)

// overstay is how long after its deletion's deadline a pod is still waited for.
const overstay = time.Minute

// replacement replaces the pods that a selector matches.
type replacement struct {
	*Cluster
	namespace string
	selector  labels.Selector
	evict     bool
}

// before is what was there before a replacement began.
type before struct {
	// Undone says that the replacement counts as not done.
	Undone bool     `json:"undone,omitempty"`
	Owners []owning `json:"owners"`
}

// owning is a controller with the pods that are to be replaced.
type owning struct {
	owner
	// Active is how many of the pods were not on their way out. Pods has these as well.
	Active int         `json:"active"`
	Pods   []types.UID `json:"pods"`
}

// owner is the controller at the top: a Deployment rather than its ReplicaSet, which a roll-out replaces. By its name, so that one that is restored under another UID is the same.
type owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
}

func (o owner) String() string { return strings.ToLower(o.Kind) + "/" + o.Name }

func (b before) pods() (n int) {
	for _, o := range b.Owners {
		n += len(o.Pods)
	}
	return n
}

func (b before) String() string {
	var all []string
	for _, o := range b.Owners {
		all = append(all, fmt.Sprintf("%d of %s", len(o.Pods), o.owner))
	}
	if len(all) == 0 {
		return "no pods"
	}
	return "pods: " + listed(all)
}

// list gives the pods that match and have not ended by themselves, sorted by name.
func (r replacement) list(ctx context.Context) ([]corev1.Pod, error) {
	ctx, cancel := r.limit(ctx)
	defer cancel()
	found, err := r.client.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: r.selector.String()})
	if err != nil {
		return nil, explain(err, "list pods %s in namespace %s", r.selector, r.namespace)
	}
	pods := slices.DeleteFunc(found.Items, func(p corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

// snapshot says what is there, or why it must not be replaced.
func (r replacement) snapshot(ctx context.Context) (b before, blocked string, err error) {
	pods, err := r.list(ctx)
	if err != nil {
		return b, "", err
	}
	owners := r.owners()
	for _, pod := range pods {
		o, err := owners.of(ctx, pod)
		switch {
		case err != nil:
			return b, "", err
		case o == nil:
			return b, fmt.Sprintf("pod %s has no controller that would bring it back: delete it by hand, or leave it out of the selector", pod.Name), nil
		case o.Kind == "Node":
			return b, fmt.Sprintf("pod %s is a static one of node %s: it is restarted on the node, not through the API", pod.Name, o.Name), nil
		}
		i := slices.IndexFunc(b.Owners, func(known owning) bool { return known.owner == *o })
		if i < 0 {
			i, b.Owners = len(b.Owners), append(b.Owners, owning{owner: *o})
		}
		b.Owners[i].Pods = append(b.Owners[i].Pods, pod.UID)
		if pod.DeletionTimestamp == nil {
			b.Owners[i].Active++
		}
	}
	return b, "", nil
}

// standing is how far a replacement is.
type standing struct {
	before  before
	alive   []corev1.Pod // of before, and nobody has asked for their end
	leaving []string     // of before, ending
	stuck   []string     // of before, and should have ended
	ready   int          // replacements
	waiting []string     // what is missing, in words
	gone    []string     // controllers that are no longer there
}

func (p standing) done() bool {
	return len(p.alive) == 0 && len(p.leaving) == 0 && len(p.waiting) == 0 && len(p.gone) == 0
}

func (p standing) String() string {
	var all []string
	say := func(text string, names []string) {
		if len(names) > 0 {
			all = append(all, text+listed(names))
		}
	}
	var alive []string
	for _, pod := range p.alive {
		alive = append(alive, pod.Name)
	}
	if all = append(all, fmt.Sprintf("%d replacements are ready", p.ready)); p.ready == 1 {
		all = []string{"1 replacement is ready"}
	}
	say("controllers that are gone and replace nothing: ", p.gone)
	say("not deleted yet: ", alive)
	say("still ending: ", p.leaving)
	say("", p.waiting)
	say("not waited for any longer, as they should have ended: ", p.stuck)
	return strings.Join(all, "; ")
}

func (p standing) observation() failover.Observation {
	o := failover.Observation{State: failover.Partial, Detail: p.String()}
	switch {
	case p.done():
		o.State = failover.Done
	case len(p.gone) > 0:
		o.State = failover.Blocked
	case len(p.leaving)+len(p.stuck)+p.ready == 0 && len(p.alive) > 0 && len(p.alive) == p.before.pods():
		o.State, o.Detail = failover.Pending, "to restart: "+p.before.String()
	}
	return o
}

// look says how far the replacement of what was there before is.
func (r replacement) look(ctx context.Context, b before) (standing, error) {
	p := standing{before: b}
	pods, err := r.list(ctx)
	if err != nil {
		return p, err
	}
	owners := r.owners()
	for _, o := range b.Owners {
		ready, unready := 0, []string(nil)
		for _, pod := range pods {
			old := slices.Contains(o.Pods, pod.UID)
			switch {
			case old && pod.DeletionTimestamp == nil:
				p.alive = append(p.alive, pod)
			case old && time.Since(pod.DeletionTimestamp.Time) > overstay:
				p.stuck = append(p.stuck, pod.Name)
			case old:
				p.leaving = append(p.leaving, pod.Name)
			case pod.DeletionTimestamp == nil:
				its, err := owners.of(ctx, pod)
				if err != nil {
					return p, err
				}
				if its == nil || *its != o.owner {
					continue
				}
				if readyPod(pod) {
					ready++
				} else {
					unready = append(unready, pod.Name+" ("+whyUnready(pod)+")")
				}
			}
		}
		want, there, err := r.wanted(ctx, o)
		switch {
		case err != nil:
			return p, err
		case !there:
			p.gone = append(p.gone, o.owner.String())
		case ready < want:
			text := fmt.Sprintf("%s has %d of %d ready", o.owner, ready, want)
			if len(unready) > 0 {
				text += ", not ready: " + listed(unready)
			}
			p.waiting = append(p.waiting, text)
		}
		p.ready += ready
	}
	return p, nil
}

// wanted is how many replacements a controller has to bring back: as many as there were, and no more than it wants by now. there is false if it is gone.
func (r replacement) wanted(ctx context.Context, o owning) (want int, there bool, err error) {
	ctx, cancel := r.limit(ctx)
	defer cancel()
	apps := r.client.AppsV1()
	replicas := func(n *int32) int {
		if n == nil {
			return 1 // what the API makes of it
		}
		return int(*n)
	}
	if o.APIVersion != appsv1.SchemeGroupVersion.String() && o.Kind != "ReplicationController" {
		return o.Active, true, nil // others may bring back pods as they like
	}
	switch o.Kind {
	case "Deployment":
		var d *appsv1.Deployment
		if d, err = apps.Deployments(r.namespace).Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			want = replicas(d.Spec.Replicas)
		}
	case "ReplicaSet":
		var d *appsv1.ReplicaSet
		if d, err = apps.ReplicaSets(r.namespace).Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			want = replicas(d.Spec.Replicas)
		}
	case "StatefulSet":
		var d *appsv1.StatefulSet
		if d, err = apps.StatefulSets(r.namespace).Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			want = replicas(d.Spec.Replicas)
		}
	case "DaemonSet":
		var d *appsv1.DaemonSet
		if d, err = apps.DaemonSets(r.namespace).Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			want = int(d.Status.DesiredNumberScheduled)
		}
	case "ReplicationController":
		var d *corev1.ReplicationController
		if d, err = r.client.CoreV1().ReplicationControllers(r.namespace).Get(ctx, o.Name, metav1.GetOptions{}); err == nil {
			want = replicas(d.Spec.Replicas)
		}
	default:
		return o.Active, true, nil
	}
	if apierrors.IsNotFound(err) {
		return 0, false, nil
	}
	return min(want, len(o.Pods)), true, explain(err, "read %s in namespace %s", o.owner, r.namespace)
}

// replace deletes what is left of what was there before and waits for the replacements.
func (r replacement) replace(ctx context.Context, b before) error {
	return r.await(ctx, func(ctx context.Context) (bool, string, error) {
		p, err := r.look(ctx, b)
		if err != nil {
			return false, "", err
		}
		if len(p.gone) > 0 {
			return false, "", failure{fmt.Errorf("%s", p)}
		}
		for _, pod := range p.alive {
			held, err := r.remove(ctx, pod)
			if err != nil {
				return false, "", err
			}
			if held != "" {
				return false, fmt.Sprintf("%s; eviction of %s: %s", p, pod.Name, held), nil
			}
		}
		return p.done(), p.String(), nil
	})
}

// remove deletes or evicts one pod, and no other that has got its name. held is why it must wait.
func (r replacement) remove(ctx context.Context, pod corev1.Pod) (held string, err error) {
	ctx, cancel := r.limit(ctx)
	defer cancel()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	if r.evict {
		err = r.client.PolicyV1().Evictions(r.namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: r.namespace}, DeleteOptions: &options})
		if apierrors.IsTooManyRequests(err) {
			return err.Error(), nil
		}
	} else {
		err = r.client.CoreV1().Pods(r.namespace).Delete(ctx, pod.Name, options)
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another pod has its name
		return "", nil
	}
	return "", explain(err, "delete pod %s in namespace %s", pod.Name, r.namespace)
}

func readyPod(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// whyUnready is the shortest reason that a pod gives. Messages are left out: they may hold what a program said.
func whyUnready(pod corev1.Pod) string {
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			return w.Reason
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Reason != "" {
			return c.Reason
		}
	}
	if pod.Status.Phase == "" {
		return string(corev1.PodPending)
	}
	return string(pod.Status.Phase)
}

// ownerIndex finds the controllers at the top of pods, asking for each ReplicaSet once.
type ownerIndex struct {
	replacement
	sets map[string]*owner
}

func (r replacement) owners() *ownerIndex { return &ownerIndex{r, map[string]*owner{}} }

// of is nil if nothing controls the pod.
func (x *ownerIndex) of(ctx context.Context, pod corev1.Pod) (*owner, error) {
	ref := metav1.GetControllerOf(&pod)
	if ref == nil {
		if node, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; ok && node != "" {
			return &owner{Kind: "Node", Name: pod.Spec.NodeName}, nil
		}
		return nil, nil
	}
	direct := &owner{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name}
	if ref.Kind != "ReplicaSet" {
		return direct, nil
	}
	if known, ok := x.sets[ref.Name]; ok {
		return known, nil
	}
	ctx, cancel := x.limit(ctx)
	defer cancel()
	set, err := x.client.AppsV1().ReplicaSets(x.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err): // a roll-out has removed it; the pod is on its way out
	case err != nil:
		return nil, explain(err, "read replicaset/%s in namespace %s", ref.Name, x.namespace)
	default:
		if up := metav1.GetControllerOf(set); up != nil {
			direct = &owner{APIVersion: up.APIVersion, Kind: up.Kind, Name: up.Name}
		}
	}
	x.sets[ref.Name] = direct
	return direct, nil
}
