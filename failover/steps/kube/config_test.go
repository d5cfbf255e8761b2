package kube_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

// What is wrong with a configuration is named by its field, with a hint.
func TestConfigErrorsNameTheField(t *testing.T) {
	c := cluster(t, &rest.Config{Host: "https://192.0.2.1:6443"}, nil)
	one := func(s failover.Step, err error) error { return err }
	many := func(s []failover.Step, err error) error { return err }
	restarter := kube.RestartFunc(nil)
	for field, err := range map[string]error{
		"ClusterConfig.Name": func() error {
			_, err := kube.NewCluster(kube.ClusterConfig{REST: &rest.Config{Host: "h"}})
			return err
		}(),
		"ClusterConfig.REST": func() error { _, err := kube.NewCluster(kube.ClusterConfig{Name: "a"}); return err }(),
		"ClusterConfig.Poll": func() error {
			_, err := kube.NewCluster(kube.ClusterConfig{Name: "a", REST: &rest.Config{Host: "h"}, Poll: -1})
			return err
		}(),
		"Kubeconfig: path":                       func() error { _, err := kube.Kubeconfig("", ""); return err }(),
		"RestartPodsConfig.Selector is empty":    one(kube.RestartPods(kube.RestartPodsConfig{Cluster: c, Namespace: "n"})),
		"RestartPodsConfig.Selector \"a in (\"":  one(kube.RestartPods(kube.RestartPodsConfig{Cluster: c, Namespace: "n", Selector: "a in ("})),
		"RestartPodsConfig.Namespace is empty":   one(kube.RestartPods(kube.RestartPodsConfig{Cluster: c, Selector: "a=b"})),
		"RestartPodsConfig.Cluster":              one(kube.RestartPods(kube.RestartPodsConfig{Namespace: "n", Selector: "a=b"})),
		"RestartPodsConfig.Timeout":              one(kube.RestartPods(kube.RestartPodsConfig{Cluster: c, Namespace: "n", Selector: "a=b", Timeout: -1})),
		"Workloads and Selector":                 one(kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: c, Namespace: "n"})),
		"RestartWorkloadsConfig.Workloads[0]":    one(kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: c, Namespace: "n", Workloads: []string{"pod/x"}})),
		"RestartWorkloadsConfig.Workloads[1]":    one(kube.RestartWorkloads(kube.RestartWorkloadsConfig{Name: "x", Cluster: c, Namespace: "n", Workloads: []string{"deploy/x", "deployment/x"}})),
		"RestartWorkloadsConfig.Selector":        one(kube.RestartWorkloads(kube.RestartWorkloadsConfig{Cluster: c, Namespace: "n", Selector: "a=b=c"})),
		"ScaleConfig.Workload":                   one(kube.Scale(kube.ScaleConfig{Cluster: c, Namespace: "n", Workload: "daemonset/x"})),
		"ScaleConfig.Replicas":                   one(kube.Scale(kube.ScaleConfig{Cluster: c, Namespace: "n", Workload: "deployment/x", Replicas: -1})),
		"RemoveConfig.Kind is Secret":            one(kube.Remove(kube.RemoveConfig{Cluster: c, Namespace: "n", APIVersion: "v1", Kind: "Secret", Object: "x", Manifest: "/m"})),
		"RemoveConfig.Manifest":                  one(kube.Remove(kube.RemoveConfig{Cluster: c, Namespace: "n", APIVersion: "v1", Kind: "ConfigMap", Object: "x", Manifest: "m"})),
		"RemoveConfig.APIVersion":                one(kube.Remove(kube.RemoveConfig{Cluster: c, Namespace: "n", APIVersion: "a/b/c", Kind: "ConfigMap", Object: "x", Manifest: "/m"})),
		"RemoveConfig.Object":                    one(kube.Remove(kube.RemoveConfig{Cluster: c, Namespace: "n", APIVersion: "v1", Kind: "ConfigMap", Object: "../x", Manifest: "/m"})),
		"ReadCheckConfig.Service":                one(kube.ReadCheck(kube.ReadCheckConfig{Cluster: c, Namespace: "n", Service: "a/b"})),
		"ReadCheckConfig.Path":                   one(kube.ReadCheck(kube.ReadCheckConfig{Cluster: c, Namespace: "n", Service: "s", Path: "check"})),
		"ReadCheckConfig.JudgeName":              one(kube.ReadCheck(kube.ReadCheckConfig{Cluster: c, Namespace: "n", Service: "s", JudgeName: "x"})),
		"ResolveInsideConfig.Domain":             one(kube.ResolveInside(kube.ResolveInsideConfig{Cluster: c, Namespace: "n", Workload: "deployment/x", Domain: "-debug", Want: []netip.Addr{netip.IPv6Loopback()}})),
		"ResolveInsideConfig.Want is empty":      one(kube.ResolveInside(kube.ResolveInsideConfig{Cluster: c, Namespace: "n", Workload: "deployment/x", Domain: "a.b"})),
		"APIServersReadyConfig.Servers is empty": many(kube.APIServersReady(kube.APIServersReadyConfig{Cluster: c})),
		"APIServersReadyConfig.Servers[0]":       many(kube.APIServersReady(kube.APIServersReadyConfig{Cluster: c, Servers: []string{"192.0.2.1"}})),
		"RestartAPIServersConfig.Servers[1]":     many(kube.RestartAPIServers(kube.RestartAPIServersConfig{Cluster: c, Servers: []kube.APIServer{{"h:1", "x", restarter}, {"h:1", "x", restarter}}})),
		"Servers[0].Restarter":                   many(kube.RestartAPIServers(kube.RestartAPIServersConfig{Cluster: c, Servers: []kube.APIServer{{Address: "h:1", How: "x"}}})),
	} {
		var e *failover.Error
		if !errors.Is(err, failover.ErrConfig) || !errors.As(err, &e) || e.Hint == "" || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Credentials are in no description, whatever way they come in.
func TestDescriptionsHaveNoSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"https://me:hidden@192.0.2.1:6443/base?x=hidden","insecure-skip-tls-verify":true}}],
"users":[{"name":"u","user":{"token":"hidden"}}],"contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.Kubeconfig(path, "other"); !errors.Is(err, failover.ErrConfig) || !strings.Contains(err.Error(), "other") {
		t.Errorf("another context: %v", err)
	}
	cfg, err := kube.Kubeconfig(path, "x")
	if err != nil || cfg.BearerToken != "hidden" {
		t.Fatalf("%v", err)
	}
	step, err := kube.RestartPods(kube.RestartPodsConfig{Cluster: cluster(t, cfg, nil), Namespace: "cpaas-system", Selector: "service_name in (alertmanager,vmselect,vminsert)", IfInstalled: true})
	if err != nil {
		t.Fatal(err)
	}
	d := step.(failover.Describer).Describe()
	text, err := json.Marshal(d)
	if err != nil || strings.Contains(string(text), "hidden") || !strings.Contains(string(text), "https://192.0.2.1:6443/base") {
		t.Errorf("%v: %s", err, text)
	}
	if want := "kubectl delete po -n cpaas-system -l 'service_name in (alertmanager,vminsert,vmselect)'"; d.Commands[0] != want {
		t.Errorf("command %q, want %q", d.Commands[0], want)
	}
	if want := "restart-pods/standby/cpaas-system/service_name-in-alertmanager-vminsert-vmselect"; step.Name() != want {
		t.Errorf("name %q, want %q", step.Name(), want)
	}
}
