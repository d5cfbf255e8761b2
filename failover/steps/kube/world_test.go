package kube_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/kubeapi"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// world is a cluster with a node that the test plays. The same tests run in two of them: a simulated API with a controller of the test's own, which needs nothing installed, and real API server and
// controllers where kubeapi.AssetsVariable names them.
type world struct {
	t       *testing.T
	ctx     context.Context
	client  kubernetes.Interface
	cluster *kube.Cluster
	ns      string
	real    *kubeapi.ControlPlane // nil: simulated
	held    atomic.Bool           // the node starts no pods
	stay    atomic.Bool           // the node ends no pods
	writes  func() int            // how many requests were no reading
}

var namespaces atomic.Int64

// inWorlds runs a test in the simulated and in the real world.
func inWorlds(t *testing.T, test func(w *world)) {
	t.Run("simulated", func(t *testing.T) { test(simulatedWorld(t)) })
	t.Run("real", func(t *testing.T) { test(realWorld(t)) })
}

// shared is the real control plane of all tests. It belongs to TestReal, below which they run when there are binaries.
var shared struct {
	sync.Mutex
	*kubeapi.ControlPlane
}

// TestReal runs each test of both worlds in the real one.
func TestReal(t *testing.T) {
	kubeapi.Need(t, "etcd", "kube-apiserver", "kube-controller-manager")
	ctx := testutil.Context(t)
	cp := kubeapi.Start(ctx, t, kubeapi.Options{ControllerManager: true})
	shared.ControlPlane = cp
	defer func() { shared.ControlPlane = nil }()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	if _, err := cp.Client().CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A new node is marked as not ready, and nothing but the test says otherwise.
	if _, err := cp.Client().CoreV1().Nodes().Patch(ctx, "node", types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(t *testing.T){
		"RestartPods": TestRestartPods, "KilledWhileWaiting": TestRestartPodsKilledWhileWaiting, "KilledAtIntent": TestRestartPodsKilledAtIntent, "Eviction": TestEvictionWaitsForBudget,
		"Refusals": TestPodsThatNothingBringsBack, "Restart": TestRestartWorkloads, "RestartKilled": TestRestartWorkloadsKilled, "Scale": TestScale, "DryRun": TestDryRunTouchesNothing,
	} {
		t.Run(name, test)
	}
}

func realWorld(t *testing.T) *world {
	cp := shared.ControlPlane
	if cp == nil {
		t.Skip("runs below TestReal")
	}
	w := newWorld(t, cp.Client(), cp.REST())
	w.real = cp
	if _, err := w.client.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the namespace's account", func() bool {
		_, err := w.client.CoreV1().ServiceAccounts(w.ns).Get(w.ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	w.play(nil)
	return w
}

func newWorld(t *testing.T, client kubernetes.Interface, cfg *rest.Config) *world {
	w := &world{t: t, ctx: testutil.Context(t), client: client, ns: fmt.Sprintf("ns-%d", namespaces.Add(1))}
	w.cluster = cluster(t, cfg, client)
	return w
}

func cluster(t *testing.T, cfg *rest.Config, client kubernetes.Interface) *kube.Cluster {
	t.Helper()
	c, err := kube.NewCluster(kube.ClusterConfig{Name: "standby", REST: cfg, Client: client, Poll: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// play is the node: it starts and ends pods until the test ends. also is called before each round.
func (w *world) play(also func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(w.ctx)
	var ended sync.WaitGroup
	w.t.Cleanup(func() { cancel(); ended.Wait() })
	ended.Go(func() {
		for ctx.Err() == nil {
			if also != nil {
				also(ctx)
			}
			w.node(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}

func (w *world) node(ctx context.Context) {
	pods, err := w.client.CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	now := int64(0)
	for _, pod := range pods.Items {
		switch {
		case pod.DeletionTimestamp != nil:
			if !w.stay.Load() {
				_ = w.client.CoreV1().Pods(w.ns).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
			}
		case w.held.Load():
		case pod.Spec.NodeName == "" && w.real != nil:
			_ = w.client.CoreV1().Pods(w.ns).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: "node"}}, metav1.CreateOptions{})
		case !isReady(pod):
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			_, _ = w.client.CoreV1().Pods(w.ns).UpdateStatus(ctx, &pod, metav1.UpdateOptions{})
		}
	}
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// until waits for a condition.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for !ok() {
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("no %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// template is a pod template with labels.
func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/image"}}}}
}

// deploy makes a Deployment and waits until its pods are ready.
func (w *world) deploy(name string, replicas int32, labels map[string]string) {
	w.t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns, Labels: labels}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels),
	}}
	if _, err := w.client.AppsV1().Deployments(w.ns).Create(w.ctx, d, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.until("ready pods of "+name, func() bool { return w.readyPods(labels) == int(replicas) })
}

func (w *world) pods(labels map[string]string) []corev1.Pod {
	w.t.Helper()
	found, err := w.client.CoreV1().Pods(w.ns).List(w.ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: labels})})
	if err != nil {
		w.t.Fatal(err)
	}
	return found.Items
}

func (w *world) readyPods(labels map[string]string) (n int) {
	for _, p := range w.pods(labels) {
		if isReady(p) && p.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

func (w *world) uids(labels map[string]string) (all []types.UID) {
	for _, p := range w.pods(labels) {
		all = append(all, p.UID)
	}
	slices.Sort(all)
	return all
}

// run is a plan of steps with a journal, of which runner after runner can be made.
type run struct {
	w       *world
	journal string
	steps   func() []failover.Step
}

func (w *world) newRun(steps func() []failover.Step) *run {
	return &run{w: w, journal: filepath.Join(w.t.TempDir(), "run.journal"), steps: steps}
}

// step makes a run of one step, which is made anew for each runner, as after a crash.
func (w *world) step(make func() (failover.Step, error)) *run {
	return w.newRun(func() []failover.Step {
		w.t.Helper()
		s, err := make()
		if err != nil {
			w.t.Fatal(err)
		}
		return []failover.Step{s}
	})
}

func (r *run) plan() *failover.Plan {
	r.w.t.Helper()
	plan, err := failover.NewPlan(failover.PlanConfig{Name: "test", Steps: r.steps()})
	if err != nil {
		r.w.t.Fatal(err)
	}
	return plan
}

// runner is another process with the same plan and journal. hooks see what it does.
func (r *run) runner(hooks failover.Hooks) *failover.Runner {
	r.w.t.Helper()
	runner, err := failover.New(r.plan(), failover.Config{Journal: r.journal, Poll: 5 * time.Millisecond, Hooks: hooks})
	if err != nil {
		r.w.t.Fatal(err)
	}
	return runner
}

// finish runs to the end.
func (r *run) finish() {
	r.w.t.Helper()
	if err := r.runner(failover.Hooks{}).Run(r.w.ctx); err != nil {
		r.w.t.Fatal(err)
	}
}

// kill runs until a record of a kind is written, or until what a step reports contains a text, and abandons the runner there.
func (r *run) kill(at failover.RecordKind, report string) {
	r.w.t.Helper()
	ctx, cancel := context.WithCancel(r.w.ctx)
	defer cancel()
	err := r.runner(failover.Hooks{
		Recorded: func(i failover.RecordedInfo) {
			if at != "" && i.Record.Kind == at {
				cancel()
			}
		},
		Progress: func(i failover.ProgressInfo) {
			if report != "" && strings.Contains(i.Text, report) {
				cancel()
			}
		},
	}).Run(ctx)
	if !errors.Is(err, failover.ErrInterrupted) {
		r.w.t.Fatalf("the run was not abandoned: %v", err)
	}
}

func (r *run) undo() {
	r.w.t.Helper()
	if err := r.runner(failover.Hooks{}).Undo(r.w.ctx, failover.UndoOptions{Reason: "test"}); err != nil {
		r.w.t.Fatal(err)
	}
}

// would is what a dry run says of the first step.
func (r *run) would() failover.Observation {
	r.w.t.Helper()
	o, err := r.steps()[0].Observe(r.w.ctx)
	if err != nil {
		r.w.t.Fatal(err)
	}
	return o
}

func wantError(t *testing.T, err error, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got error %v, want %q", err, kind)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
