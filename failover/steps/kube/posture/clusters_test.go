package posture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube/posture"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/kubeapi"
	"github.com/understudy-dr/understudy/keyfilter"
)

func etcdClient(t *testing.T, cp *kubeapi.ControlPlane) *clientv3.Client {
	t.Helper()
	if cp.Etcd.CA != "" {
		t.Fatal("this test expects an etcd without TLS")
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: cp.Etcd.Endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// post makes objects from JSON, by path.
func post(t *testing.T, ctx context.Context, client kubernetes.Interface, path, body string) {
	t.Helper()
	rc := client.CoreV1().RESTClient()
	if err := rc.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx).Error(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestRealClusters compares two real control planes before and after they are made alike. It needs KUBEBUILDER_ASSETS with etcd, kube-apiserver and kube-controller-manager.
func TestRealClusters(t *testing.T) {
	kubeapi.Need(t, "etcd", "kube-apiserver", "kube-controller-manager")
	ctx := testutil.Context(t)
	primary := kubeapi.Start(ctx, t, kubeapi.Options{ControllerManager: true})
	standby := kubeapi.Start(ctx, t, kubeapi.Options{ControllerManager: true, LeaderElection: true, ServiceCIDR: "10.97.0.0/16", ServerArgs: []string{"--service-node-port-range=30100-32767"}})
	p, s := primary.Client(), standby.Client()

	const secret = "dG9wLXNlY3JldA=="
	post(t, ctx, p, "/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"cpaas-system"}}`)
	post(t, ctx, s, "/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"cpaas-system"}}`)
	for _, client := range []kubernetes.Interface{p, s} {
		post(t, ctx, client, "/api/v1/namespaces/default/services", `{"kind":"Service","apiVersion":"v1","metadata":{"name":"web"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`)
	}
	post(t, ctx, p, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", `{"kind":"ValidatingWebhookConfiguration","apiVersion":"admissionregistration.k8s.io/v1","metadata":{"name":"policy"},"webhooks":[`+
		`{"name":"hard.example.com","sideEffects":"None","admissionReviewVersions":["v1"],"failurePolicy":"Fail","clientConfig":{"service":{"namespace":"cpaas-system","name":"policy"}},"rules":[]},`+
		`{"name":"soft.example.com","sideEffects":"None","admissionReviewVersions":["v1"],"failurePolicy":"Ignore","clientConfig":{"service":{"namespace":"cpaas-system","name":"policy"}},"rules":[]},`+
		`{"name":"url.example.com","sideEffects":"None","admissionReviewVersions":["v1"],"clientConfig":{"url":"https://example.com/hook"},"rules":[]}]}`)
	post(t, ctx, p, "/apis/apiregistration.k8s.io/v1/apiservices", `{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1.platform.example.com"},"spec":{"group":"platform.example.com","version":"v1",`+
		`"groupPriorityMinimum":100,"versionPriority":100,"insecureSkipTLSVerify":true,"service":{"namespace":"cpaas-system","name":"platform"}}}`)
	post(t, ctx, p, "/api/v1/persistentvolumes", `{"kind":"PersistentVolume","apiVersion":"v1","metadata":{"name":"pv"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"persistentVolumeReclaimPolicy":"Delete",`+
		`"csi":{"driver":"csi.example.com","volumeHandle":"h"},"claimRef":{"namespace":"cpaas-system","name":"data"}}}`)
	definition := func(versions ...string) string {
		var all []string
		for i, v := range versions {
			all = append(all, fmt.Sprintf(`{"name":%q,"served":true,"storage":%v,"schema":{"openAPIV3Schema":{"type":"object"}}}`, v, i == 0))
		}
		return `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced",` +
			`"names":{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList"},"versions":[` + strings.Join(all, ",") + `]}}`
	}
	post(t, ctx, p, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition("v2"))
	post(t, ctx, s, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition("v1"))
	post(t, ctx, p, "/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"team-a"}}`)
	post(t, ctx, p, "/api/v1/namespaces/team-a/serviceaccounts", `{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"robot"}}`)
	post(t, ctx, p, "/api/v1/namespaces/team-a/secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"robot-token","annotations":{"kubernetes.io/service-account.name":"robot"}},"type":"kubernetes.io/service-account-token","data":{"extra":"`+secret+`"}}`)
	for _, made := range []struct {
		client kubernetes.Interface
		path   string
	}{ // by controllers in their own time
		{p, "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt"}, {s, "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt"},
		{s, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager"},
	} {
		for {
			err := made.client.CoreV1().RESTClient().Get().AbsPath(made.path).Do(ctx).Error()
			if err == nil {
				break
			}
			select {
			case <-time.After(50 * time.Millisecond): // a poll
			case <-ctx.Done():
				t.Fatal(err)
			}
		}
	}

	filter, err := keyfilter.New(keyfilter.Config{Policy: keyfilter.Policy{PersistentVolumes: keyfilter.Include, PersistentVolumeClaims: keyfilter.Include, WebhookConfigurations: keyfilter.Include, AggregatedAPIServices: keyfilter.Include}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := posture.Config{
		Primary: primary.REST(), Standby: standby.REST(), PrimaryEtcd: etcdClient(t, primary), StandbyEtcd: etcdClient(t, standby), Keep: filter.Match,
		Unreadable: func(context.Context) (int, int, error) { return 0, 0, nil },
	}
	check := func(cfg posture.Config) *posture.Report {
		t.Helper()
		checker, err := posture.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := checker.Check(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := errors.Join(r.WriteText(&text), r.WriteJSON(&text)); err != nil {
			t.Fatal(err)
		}
		for _, hidden := range []string{secret, "top-secret", "BEGIN CERTIFICATE", primary.REST().BearerToken} {
			if strings.Contains(text.String(), hidden) {
				t.Errorf("the report shows %q", hidden)
			}
		}
		t.Log(text.String()[:strings.Index(text.String(), "{")])
		return r
	}
	mustFind := func(r *posture.Report, want ...string) {
		t.Helper()
		slices.Sort(want)
		if got := found(r); !slices.Equal(got, want) {
			t.Errorf("found %q\nwant  %q", got, want)
		}
	}
	mustFind(check(cfg), "warning controllers", "fatal service-cidr", "fatal node-ports", "warning service-accounts", "info revision", "fatal apiservices",
		"fatal webhooks", "warning webhooks", "fatal volumes", "fatal definitions", "info root-ca")

	// The filter's defaults leave volumes out, and a service at the standby is enough.
	defaults, err := keyfilter.New(keyfilter.Config{Policy: keyfilter.Policy{WebhookConfigurations: keyfilter.Include, AggregatedAPIServices: keyfilter.Include}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Keep = defaults.Match
	for _, name := range []string{"policy", "platform"} {
		post(t, ctx, s, "/api/v1/namespaces/cpaas-system/services", `{"kind":"Service","apiVersion":"v1","metadata":{"name":"`+name+`"},"spec":{"ports":[{"port":443}]}}`)
	}
	if err := standby.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	cfg.RevisionMargin = 10
	for range 2000 {
		if _, err := cfg.StandbyEtcd.Put(ctx, "filler", ""); err != nil {
			t.Fatal(err)
		}
	}
	var r *posture.Report
	for r = check(cfg); r.Controllers != posture.ControllersStopped; r = check(cfg) { // until the lease has run out
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			t.Fatal("the standby's controllers are stopped, and taken for running")
		}
	}
	mustFind(r, "info controllers", "fatal service-cidr", "fatal node-ports", "warning service-accounts", "fatal definitions", "info root-ca")

	// Who may not read finds nothing, and says so.
	nobody := rest.CopyConfig(standby.REST())
	nobody.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
	blind := cfg
	blind.Standby = nobody
	r = check(blind)
	for _, name := range []string{"controllers", "service-cidr", "apiservices", "webhooks", "definitions", "root-ca"} {
		if !slices.Contains(found(r), "warning "+name+"?") {
			t.Errorf("%s: not told that it was not looked at: %q", name, found(r))
		}
	}
	gate := posture.GateConfig{Config: cfg}
	if err := runGate(t, gate); !errors.Is(err, failover.ErrBlocked) || !strings.Contains(err.Error(), "service-cidr/service CIDR") {
		t.Errorf("the gate: %v", err)
	}
	gate.Accept = []string{"service-cidr", "node-ports", "definitions"}
	if err := runGate(t, gate); err != nil {
		t.Errorf("the gate, with findings accepted: %v", err)
	}
}
