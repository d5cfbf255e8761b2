package kubeapi_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/kubeapi"
)

func TestMain(m *testing.M) { testutil.Main(m) }

const encryptionConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}
  - identity: {}
`

// Two API servers serve one etcd, encrypt what they should, and keep port and data over a restart.
func TestTwoServersOnOneEtcd(t *testing.T) {
	kubeapi.Need(t, "kube-apiserver")
	ctx := testutil.Context(t)
	etcd := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	files := etcd.TLSFiles()
	cp := kubeapi.Start(ctx, t, kubeapi.Options{
		Etcd:    kubeapi.Etcd{Endpoints: etcd.Endpoints(), CA: files.CA, Cert: files.ClientCert, Key: files.ClientKey},
		Servers: 2, EncryptionConfig: []byte(encryptionConfig),
	})
	first, second := cp.Servers[0], cp.Servers[1]
	if _, err := first.Client().CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "plain text"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	stored, err := testutil.Client(t, etcd).Get(ctx, "/registry/secrets/default/s")
	if err != nil || len(stored.Kvs) != 1 || !bytes.HasPrefix(stored.Kvs[0].Value, []byte("k8s:enc:aescbc:v1:key1:")) || bytes.Contains(stored.Kvs[0].Value, []byte("plain text")) {
		t.Errorf("the Secret is not stored encrypted: %v, %v", stored, err)
	}
	read := func(s *kubeapi.Server) {
		t.Helper()
		secret, err := s.Client().CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{})
		if err != nil || string(secret.Data["k"]) != "plain text" {
			t.Errorf("%s: %v, %v", s.Addr, secret, err)
		}
	}
	read(second)
	addr := first.Addr
	first.Kill()
	if err := first.Ready(ctx); err == nil {
		t.Error("a killed server is ready")
	}
	read(second)
	if err := first.Start(ctx); err != nil || first.Addr != addr {
		t.Fatalf("start again on %s: %v", addr, err)
	}
	if err := first.Start(ctx); err == nil {
		t.Error("a running server was started")
	}
	read(first)
	if err := second.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	read(second)
	if log, err := os.ReadFile(first.LogFile()); err != nil || strings.Count(string(log), "Serving securely on "+addr) != 2 {
		t.Errorf("the log does not tell of two starts: %v, %d bytes", err, len(log))
	}
}

// Two control planes run at once and know nothing of one another; controllers do their work.
func TestControlPlanesApart(t *testing.T) {
	ctx := testutil.Context(t)
	a := kubeapi.Start(ctx, t, kubeapi.Options{ControllerManager: true})
	b := kubeapi.Start(ctx, t, kubeapi.Options{Prefix: "/other"})
	labels := map[string]string{"app": "x"}
	two := int32(2)
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: appsv1.DeploymentSpec{
		Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	if _, err := a.Client().AppsV1().Deployments("default").Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitPods := func(want int) {
		t.Helper()
		for {
			pods, err := a.Client().CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=x"})
			if err == nil && len(pods.Items) == want {
				return
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("want %d pods: %v, %v", want, pods, err)
			}
		}
	}
	waitPods(2)
	if _, err := b.Client().AppsV1().Deployments("default").Get(ctx, "x", metav1.GetOptions{}); err == nil {
		t.Error("the other control plane has the Deployment, too")
	}
	// A pod needs no ServiceAccount where nobody makes them.
	if _, err := b.Client().CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: deployment.Spec.Template.Spec}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if err := a.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Client().CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	waitPods(0) // nobody replaces them
	if err := a.StartControllers(); err != nil {
		t.Fatal(err)
	}
	waitPods(2)
	if _, err := clientcmd.RESTConfigFromKubeConfig(a.Servers[0].Kubeconfig()); err != nil {
		t.Errorf("the kubeconfig is not one: %v", err)
	}
	if err := a.Servers[0].Stop(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
}

func TestSkipsWithoutBinaries(t *testing.T) {
	t.Setenv(kubeapi.AssetsVariable, "")
	os.Unsetenv(kubeapi.AssetsVariable)
	var skipped bool
	t.Run("unset", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		kubeapi.Need(t, "kube-apiserver")
	})
	if !skipped {
		t.Error("a test was not skipped")
	}
}
