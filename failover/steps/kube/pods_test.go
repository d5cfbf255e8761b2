package kube_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

func service(name string) map[string]string { return map[string]string{"service_name": name} }

func (w *world) restartPods(change func(*kube.RestartPodsConfig)) *run {
	return w.step(func() (failover.Step, error) {
		cfg := kube.RestartPodsConfig{Cluster: w.cluster, Namespace: w.ns, Selector: "service_name in (alertmanager,vmselect,vminsert)"}
		if change != nil {
			change(&cfg)
		}
		return kube.RestartPods(cfg)
	})
}

// All pods that a set selector matches are replaced, and no other.
func TestRestartPods(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("alertmanager", 2, service("alertmanager"))
		w.deploy("vmselect", 1, service("vmselect"))
		w.deploy("warlock", 1, service("warlock"))
		others := w.uids(service("warlock"))
		old := slices.Concat(w.uids(service("alertmanager")), w.uids(service("vmselect")))
		r := w.restartPods(nil)
		if o := r.would(); o.State != failover.Pending {
			t.Errorf("before: %+v", o)
		}
		r.finish()
		for name, n := range map[string]int{"alertmanager": 2, "vmselect": 1} {
			if got := w.readyPods(service(name)); got != n {
				w.t.Errorf("%d ready pods of %s, want %d", got, name, n)
			}
			for _, uid := range w.uids(service(name)) {
				if slices.Contains(old, uid) {
					w.t.Errorf("pod %s of %s was not replaced", uid, name)
				}
			}
		}
		if got := w.uids(service("warlock")); !slices.Equal(got, others) {
			w.t.Errorf("another pod was replaced: %v, were %v", got, others)
		}
		// Nothing is to be taken back: an undone restart leaves the pods as they are.
		after := w.uids(service("alertmanager"))
		second := w.step(func() (failover.Step, error) {
			return kube.RestartPods(kube.RestartPodsConfig{Cluster: w.cluster, Namespace: w.ns, Selector: "service_name=vmselect"})
		})
		second.finish()
		pods := w.uids(service("vmselect"))
		second.undo()
		if got := w.uids(service("vmselect")); !slices.Equal(got, pods) {
			w.t.Errorf("undo replaced pods")
		}
		if got := w.uids(service("alertmanager")); !slices.Equal(got, after) {
			w.t.Errorf("a restart of others replaced pods of alertmanager")
		}
	})
}

// A runner that is killed while replacements are awaited deletes none of them when it resumes.
func TestRestartPodsKilledWhileWaiting(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("alertmanager", 3, service("alertmanager"))
		old := w.uids(service("alertmanager"))
		w.held.Store(true)
		r := w.restartPods(nil)
		r.kill("", "0 of 3 ready, not ready")
		w.until("replacements", func() bool {
			pods := w.uids(service("alertmanager"))
			return len(pods) == 3 && !slices.ContainsFunc(pods, func(u types.UID) bool { return slices.Contains(old, u) })
		})
		replacements := w.uids(service("alertmanager"))
		r.kill("", "0 of 3 ready, not ready") // a second time, at the same point
		w.held.Store(false)
		r.finish()
		if got := w.uids(service("alertmanager")); !slices.Equal(got, replacements) {
			w.t.Errorf("replacements were replaced: %v, were %v", got, replacements)
		}
		if n := w.readyPods(service("alertmanager")); n != 3 {
			w.t.Errorf("%d ready pods, want 3: the step ended too early", n)
		}
	})
}

// Between the intent and the first deletion nothing has happened, and after it the restart is carried out once.
func TestRestartPodsKilledAtIntent(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("vmselect", 2, service("vmselect"))
		old := w.uids(service("vmselect"))
		r := w.restartPods(nil)
		r.kill(failover.RecordIntent, "")
		if got := w.uids(service("vmselect")); !slices.Equal(got, old) {
			w.t.Errorf("pods were replaced at the intent")
		}
		r.finish()
		for _, uid := range w.uids(service("vmselect")) {
			if slices.Contains(old, uid) {
				w.t.Errorf("pod %s was not replaced", uid)
			}
		}
	})
}

// While a PodDisruptionBudget forbids an eviction, it is waited for.
func TestEvictionWaitsForBudget(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("vminsert", 1, service("vminsert"))
		old := w.uids(service("vminsert"))
		one := intstr.FromInt32(1)
		budgets := w.client.PolicyV1().PodDisruptionBudgets(w.ns)
		if _, err := budgets.Create(w.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: w.ns},
			Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: service("vminsert")}}}, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		r := w.restartPods(func(cfg *kube.RestartPodsConfig) { cfg.Evict = true })
		r.kill("", "disruption budget")
		if got := w.uids(service("vminsert")); !slices.Equal(got, old) {
			w.t.Errorf("the budget was broken: %v", got)
		}
		if err := budgets.Delete(w.ctx, "b", metav1.DeleteOptions{}); err != nil {
			w.t.Fatal(err)
		}
		r.finish()
		if got := w.uids(service("vminsert")); len(got) != 1 || slices.Equal(got, old) {
			w.t.Errorf("the pod was not evicted: %v", got)
		}
	})
}

func TestPodsThatNothingBringsBack(t *testing.T) {
	inWorlds(t, func(w *world) {
		r := w.restartPods(nil)
		if o := r.would(); o.State != failover.Blocked {
			w.t.Errorf("nothing matches: %+v", o)
		}
		if o := w.restartPods(func(cfg *kube.RestartPodsConfig) { cfg.IfInstalled = true }).would(); o.State != failover.Done {
			w.t.Errorf("nothing is installed: %+v", o)
		}
		bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare", Namespace: w.ns, Labels: service("vmselect")}, Spec: template(nil).Spec}
		if _, err := w.client.CoreV1().Pods(w.ns).Create(w.ctx, bare, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		wantError(w.t, r.runner(failover.Hooks{}).Run(w.ctx), failover.ErrBlocked, "pod bare has no controller")
		if _, err := w.client.CoreV1().Pods(w.ns).Get(w.ctx, "bare", metav1.GetOptions{}); err != nil {
			w.t.Errorf("the bare pod is gone: %v", err)
		}
		if err := w.client.CoreV1().Pods(w.ns).Delete(w.ctx, "bare", metav1.DeleteOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.until("end of the bare pod", func() bool { return len(w.pods(service("vmselect"))) == 0 })

		// A controller that is deleted in the middle is named, not waited for.
		w.deploy("vmselect", 1, service("vmselect"))
		w.held.Store(true)
		r = w.restartPods(func(cfg *kube.RestartPodsConfig) { cfg.Timeout = time.Minute })
		r.kill("", "0 of 1 ready, not ready")
		if err := w.client.AppsV1().Deployments(w.ns).Delete(w.ctx, "vmselect", metav1.DeleteOptions{}); err != nil {
			w.t.Fatal(err)
		}
		wantError(w.t, r.runner(failover.Hooks{}).Run(w.ctx), failover.ErrBlocked, "gone", "deployment/vmselect")
	})
}

// Dry runs and observations write nothing.
func TestDryRunTouchesNothing(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("vmselect", 1, service("vmselect"))
		before := fmt.Sprint(w.pods(service("vmselect"))[0].ResourceVersion, w.uids(service("vmselect")))
		r := w.newRun(func() []failover.Step {
			pods, err := kube.RestartPods(kube.RestartPodsConfig{Cluster: w.cluster, Namespace: w.ns, Selector: "service_name=vmselect"})
			if err != nil {
				w.t.Fatal(err)
			}
			restart, err := kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: w.cluster, Namespace: w.ns, Workloads: []string{"deployment/vmselect"}})
			if err != nil {
				w.t.Fatal(err)
			}
			scale, err := kube.Scale(kube.ScaleConfig{Cluster: w.cluster, Namespace: w.ns, Workload: "deploy/vmselect"})
			if err != nil {
				w.t.Fatal(err)
			}
			return []failover.Step{pods, restart, scale}
		})
		report, err := r.plan().DryRun(context.WithoutCancel(w.ctx), failover.DryRunOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, s := range report.Steps {
			if s.State != failover.Pending {
				w.t.Errorf("step %s: %+v", s.Name, s)
			}
		}
		if after := fmt.Sprint(w.pods(service("vmselect"))[0].ResourceVersion, w.uids(service("vmselect"))); after != before {
			w.t.Errorf("the pods were %s and are %s", before, after)
		}
	})
}
