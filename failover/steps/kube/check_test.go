package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

// verdict is a check that gives what it is told to.
type verdict struct {
	result *drcheck.Result
	err    error
}

func (v *verdict) check(context.Context) (*drcheck.Result, error) { return v.result, v.err }

var ended = time.Date(2026, 3, 4, 3, 14, 5, 0, time.UTC)

// checkVerdicts asks the service as the check finds first nothing, then differences, then nothing more to ask.
func (w *world) checkVerdicts(v *verdict) {
	w.t.Helper()
	step, err := kube.ReadCheck(kube.ReadCheckConfig{Cluster: w.cluster, Namespace: w.ns, Service: "etcd-sync-monitor", Port: "http"})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range []struct {
		verdict
		state        failover.State
		detail, loss string
	}{
		{verdict{result: &drcheck.Result{Equal: true, SourceRevision: 1234, Ended: ended}}, failover.Done, "revision 1234", ""},
		{verdict{result: &drcheck.Result{SourceRevision: 1300, Ended: ended, Count: drcheck.Count{Missed: 3, Different: 1},
			Differences: []drcheck.Difference{{Class: drcheck.Missed, Key: "/registry/secrets/a/b"}}}}, failover.Blocked, "3 missed, 0 surplus and 1 different", "revision 1300"},
		{verdict{err: errors.New("the primary is away")}, failover.Blocked, "could not be made (status 503); the last one found 3 missed", "after the last check that could be made"},
	} {
		*v = c.verdict
		o, err := step.Observe(w.ctx)
		if err != nil || o.State != c.state || !strings.Contains(o.Detail, c.detail) || !strings.Contains(o.Loss, c.loss) || (c.loss == "") != (o.Loss == "") {
			w.t.Errorf("%+v: %+v, %v", c.verdict, o, err)
		}
		if strings.Contains(o.Detail+o.Loss, "registry") {
			w.t.Errorf("a key is shown: %+v", o)
		}
		again, err := step.Observe(w.ctx)
		if err != nil || again.Loss != o.Loss {
			w.t.Errorf("the same loss reads otherwise: %q, %q, %v", o.Loss, again.Loss, err)
		}
	}
}

func TestReadCheck(t *testing.T) {
	w := simulatedWorld(t)
	var v verdict
	handler := drcheck.NewHandler(v.check, drcheck.HandlerConfig{})
	mux := http.NewServeMux()
	mux.Handle("GET /api/v1/namespaces/"+w.ns+"/services/etcd-sync-monitor:http/proxy/check", handler)
	mux.HandleFunc("/", func(rw http.ResponseWriter, req *http.Request) {
		rw.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(rw, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no endpoints available for service","reason":"ServiceUnavailable","code":503}`)
	})
	api := httptest.NewServer(mux)
	t.Cleanup(api.Close)
	w.cluster = cluster(t, &rest.Config{Host: api.URL}, w.client)
	w.checkVerdicts(&v)
	other, err := kube.ReadCheck(kube.ReadCheckConfig{Cluster: w.cluster, Namespace: w.ns, Service: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := other.Observe(w.ctx); err != nil || o.State != failover.Blocked || o.Loss != "" || !strings.Contains(o.Detail, "no endpoints") {
		t.Errorf("%+v, %v", o, err)
	}
	judged, err := kube.ReadCheck(kube.ReadCheckConfig{Cluster: w.cluster, Namespace: w.ns, Service: "etcd-sync-monitor", Port: "http", Query: "format=text", JudgeName: "text",
		Judge: func(status int, body []byte) (failover.Observation, error) {
			return failover.Observation{State: failover.Done, Detail: strconv.FormatBool(status == 200 && strings.Contains(string(body), "LOCAL ETCD missed keys: 0"))}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	v = verdict{result: &drcheck.Result{Equal: true, Ended: ended}}
	if o, err := judged.Observe(w.ctx); err != nil || o.Detail != "true" {
		t.Errorf("%+v, %v", o, err)
	}
}

// testReadCheckReal asks through a real API server's proxy, which refuses loopback addresses.
func testReadCheckReal(t *testing.T) {
	w := realWorld(t)
	var host net.IP
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range interfaces {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			host = n.IP
		}
	}
	if host == nil {
		t.Skip("this host has no address but the loopback one, which an API server's proxy refuses")
	}
	var v verdict
	l, err := net.Listen("tcp", net.JoinHostPort(host.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /check", drcheck.NewHandler(v.check, drcheck.HandlerConfig{}))
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
	port := int32(l.Addr().(*net.TCPAddr).Port)
	if _, err := w.client.CoreV1().Services(w.ns).Create(w.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "etcd-sync-monitor"},
		Spec: corev1.ServiceSpec{Selector: service("etcd-sync-monitor"), Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(port)}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	step, err := kube.ReadCheck(kube.ReadCheckConfig{Cluster: w.cluster, Namespace: w.ns, Service: "etcd-sync-monitor", Port: "http"})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := step.Observe(w.ctx); err != nil || o.State != failover.Blocked || !strings.Contains(o.Detail, "the API server answers ") {
		t.Errorf("without endpoints: %+v, %v", o, err)
	}
	// The pod of the service is the test: the API server proxies to addresses of pods only.
	w.podIP = host.String()
	w.deploy("etcd-sync-monitor", 1, service("etcd-sync-monitor"))
	v = verdict{result: &drcheck.Result{Equal: true, Ended: ended}}
	w.until("answer through the proxy", func() bool {
		o, err := step.Observe(w.ctx)
		return err == nil && o.State == failover.Done
	})
	w.checkVerdicts(&v)
}
