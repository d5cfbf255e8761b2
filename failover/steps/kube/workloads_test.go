package kube_test

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

// A Deployment, a StatefulSet and a DaemonSet are rolled out anew.
func TestRestartWorkloads(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("web", 2, service("web"))
		two := int32(2)
		if _, err := w.client.AppsV1().StatefulSets(w.ns).Create(w.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: w.ns, Labels: service("db")}, Spec: appsv1.StatefulSetSpec{
			Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: service("db")}, Template: template(service("db")),
		}}, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.client.AppsV1().DaemonSets(w.ns).Create(w.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: w.ns, Labels: service("agent")}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: service("agent")}, Template: template(service("agent")),
		}}, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.until("ready pods", func() bool { return w.readyPods(service("db")) == 2 && w.readyPods(service("agent")) == 1 })
		old := map[string][]types.UID{}
		for _, name := range []string{"web", "db", "agent"} {
			old[name] = w.uids(service(name))
		}
		r := w.step(func() (failover.Step, error) {
			return kube.RestartWorkloads(kube.RestartWorkloadsConfig{Name: "restart", Cluster: w.cluster, Namespace: w.ns, Workloads: []string{"deployment/web", "sts/db", "daemonset/agent", "deployment/absent"}, IfInstalled: true})
		})
		r.finish()
		check := func(names ...string) {
			w.t.Helper()
			for _, name := range names {
				for _, pod := range w.pods(service(name)) { // old pods of a complete roll-out may still be ending
					if slices.Contains(old[name], pod.UID) && pod.DeletionTimestamp == nil {
						w.t.Errorf("a pod of %s was not replaced", name)
					}
				}
				w.until("end of the old pods of "+name, func() bool {
					return !slices.ContainsFunc(w.uids(service(name)), func(u types.UID) bool { return slices.Contains(old[name], u) })
				})
				if got, want := w.readyPods(service(name)), len(old[name]); got != want {
					w.t.Errorf("%d pods of %s are ready, want %d", got, name, want)
				}
				old[name] = w.uids(service(name))
			}
		}
		check("web", "db", "agent")
		w.step(func() (failover.Step, error) {
			return kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: w.cluster, Namespace: w.ns, Selector: "service_name in (db, web)"})
		}).finish() // within the same second: the moment is later nevertheless
		check("web", "db")
		if got := w.uids(service("agent")); !slices.Equal(got, old["agent"]) {
			w.t.Error("a workload with other labels was restarted")
		}

		absent := w.step(func() (failover.Step, error) {
			return kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: w.cluster, Namespace: w.ns, Workloads: []string{"deployment/absent"}})
		})
		wantError(w.t, absent.runner(failover.Hooks{}).Run(w.ctx), failover.ErrBlocked, "deployment/absent")
		if _, err := w.client.AppsV1().Deployments(w.ns).Patch(w.ctx, "web", types.MergePatchType, []byte(`{"spec":{"paused":true}}`), metav1.PatchOptions{}); err != nil {
			w.t.Fatal(err)
		}
		paused := w.step(func() (failover.Step, error) {
			return kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: w.cluster, Namespace: w.ns, Workloads: []string{"deployment/web"}})
		})
		wantError(w.t, paused.runner(failover.Hooks{}).Run(w.ctx), failover.ErrBlocked, "paused")
	})
}

// A restart that was killed while it rolled out is not begun again.
func TestRestartWorkloadsKilled(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("web", 2, service("web"))
		w.held.Store(true)
		r := w.step(func() (failover.Step, error) {
			return kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: w.cluster, Namespace: w.ns, Workloads: []string{"deployment/web"}})
		})
		moment := func() string {
			d, err := w.client.AppsV1().Deployments(w.ns).Get(w.ctx, "web", metav1.GetOptions{})
			if err != nil {
				w.t.Fatal(err)
			}
			return d.Spec.Template.Annotations[kube.RestartedAt]
		}
		r.kill(failover.RecordIntent, "")
		if at := moment(); at != "" {
			w.t.Errorf("restarted at the intent: %s", at)
		}
		r.kill("", "deployment/web has")
		first := moment()
		w.held.Store(false)
		r.finish()
		if at := moment(); at == "" || at != first {
			w.t.Errorf("restarted at %q and again at %q", first, at)
		}
		if n := w.readyPods(service("web")); n != 2 {
			w.t.Errorf("%d ready pods", n)
		}
	})
}

// Scaling to nothing waits for the last pod, and undo brings back as many as there were, also after a kill.
func TestScale(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.deploy("etcd-sync", 2, service("etcd-sync"))
		w.stay.Store(true)
		r := w.step(func() (failover.Step, error) {
			return kube.Scale(kube.ScaleConfig{Cluster: w.cluster, Namespace: w.ns, Workload: "deployment/etcd-sync"})
		})
		r.kill("", "still has pods") // they are ending, and the Deployment no longer counts them
		w.stay.Store(false)
		r.finish()
		if pods := w.pods(service("etcd-sync")); len(pods) != 0 {
			w.t.Errorf("%d pods are left", len(pods))
		}
		r.undo()
		d, err := w.client.AppsV1().Deployments(w.ns).Get(w.ctx, "etcd-sync", metav1.GetOptions{})
		if err != nil || *d.Spec.Replicas != 2 || w.readyPods(service("etcd-sync")) != 2 {
			w.t.Errorf("not as before: %v, %d ready", err, w.readyPods(service("etcd-sync")))
		}
		absent := func(optional bool) failover.Observation {
			return w.step(func() (failover.Step, error) {
				return kube.Scale(kube.ScaleConfig{Cluster: w.cluster, Namespace: w.ns, Workload: "deployment/absent", IfInstalled: optional})
			}).would()
		}
		if o := absent(true); o.State != failover.Done {
			w.t.Errorf("not installed: %+v", o)
		}
		if o := absent(false); o.State != failover.Blocked {
			w.t.Errorf("absent: %+v", o)
		}
	})
}
