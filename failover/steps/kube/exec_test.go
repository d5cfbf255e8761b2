package kube_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

// program is what runs in pods when they are asked to.
type program func(command []string) (stdout string, exit int)

// ServeHTTP speaks what kubelets and API servers speak for exec: SPDY, version 4 of the streams.
func (p program) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		http.Error(w, "no WebSocket here", http.StatusBadRequest)
		return
	}
	if _, err := httpstream.Handshake(req, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 3)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, req, func(s httpstream.Stream, replied <-chan struct{}) error {
		go func() { <-replied; streams <- s }()
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	all := map[string]httpstream.Stream{}
	for range 3 {
		select {
		case s := <-streams:
			all[s.Headers().Get(corev1.StreamType)] = s
		case <-conn.CloseChan():
			return
		}
	}
	stdout, exit := p(req.URL.Query()["command"])
	_, _ = all["stdout"].Write([]byte(stdout))
	status := metav1.Status{Status: metav1.StatusSuccess}
	if exit != 0 {
		status = metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: fmt.Sprintf("command terminated with non-zero exit code %d", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: strconv.Itoa(exit)}}}}
	}
	text, _ := json.Marshal(status)
	_, _ = all["error"].Write(text)
	for _, s := range all {
		_ = s.Close()
	}
	<-conn.CloseChan()
}

// lookup is nslookup in a cluster whose DNS pods answer what they answered first until they are replaced rounds times.
func (w *world) lookup(rounds int) (program, *atomic.Int64) {
	first := fmt.Sprint(w.uids(map[string]string{"k8s-app": "kube-dns"}))
	seen := map[string]bool{first: true}
	var asked atomic.Int64
	return func(command []string) (string, int) {
		asked.Add(1)
		if strings.Join(command, " ") != "nslookup platform.example.com" {
			return "", 127
		}
		seen[fmt.Sprint(w.uids(map[string]string{"k8s-app": "kube-dns"}))] = true
		const head = "Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n\n"
		if len(seen) <= rounds {
			return head + "Name:\tplatform.example.com\nAddress: 192.0.2.1\n", 0
		}
		return head + "Name:\tplatform.example.com\nAddress: 198.51.100.1\nName:\tplatform.example.com\nAddress: 2001:db8::1\n", 0
	}, &asked
}

// resolve makes a run that wants the standby's addresses.
func (w *world) resolve() *run {
	return w.step(func() (failover.Step, error) {
		return kube.ResolveInside(kube.ResolveInsideConfig{Cluster: w.cluster, Namespace: w.ns, Workload: "deployment/sentry", Domain: "platform.example.com",
			Want: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}, DNSNamespace: w.ns})
	})
}

// checkResolve runs the step: the DNS pods are replaced once, because after that the answers are right.
func (w *world) checkResolve() {
	w.t.Helper()
	old := w.uids(map[string]string{"k8s-app": "kube-dns"})
	r := w.resolve()
	if o := r.would(); o.State != failover.Pending || !strings.Contains(o.Detail, "192.0.2.1") {
		w.t.Errorf("before: %+v", o)
	}
	if got := fmt.Sprint(w.uids(map[string]string{"k8s-app": "kube-dns"})); got != fmt.Sprint(old) {
		w.t.Error("a look replaced DNS pods")
	}
	r.kill(failover.RecordIntent, "")
	r.finish()
	now := w.uids(map[string]string{"k8s-app": "kube-dns"})
	if len(now) != len(old) || fmt.Sprint(now) == fmt.Sprint(old) {
		w.t.Errorf("DNS pods were %v and are %v", old, now)
	}
	again := w.resolve()
	again.finish() // nothing to do
	if got := fmt.Sprint(w.uids(map[string]string{"k8s-app": "kube-dns"})); got != fmt.Sprint(now) {
		w.t.Error("DNS pods were replaced though the answer was right")
	}
	r.undo()
}

func TestResolveInside(t *testing.T) {
	w := simulatedWorld(t)
	w.deploy("sentry", 1, service("sentry"))
	w.deploy("coredns", 2, map[string]string{"k8s-app": "kube-dns"})
	nslookup, asked := w.lookup(1)
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/namespaces/{ns}/pods/{pod}/exec", func(rw http.ResponseWriter, req *http.Request) {
		if q := req.URL.Query(); req.PathValue("ns") != w.ns || !strings.HasPrefix(req.PathValue("pod"), "sentry-") || q.Get("container") != "main" || q.Get("stdin") != "" {
			http.Error(rw, "not for "+req.URL.Path, http.StatusNotFound)
			return
		}
		nslookup.ServeHTTP(rw, req)
	})
	api := httptest.NewTLSServer(mux)
	t.Cleanup(api.Close)
	w.cluster = cluster(t, &rest.Config{Host: api.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, w.client)
	w.checkResolve()
	if asked.Load() < 2*kube.DefaultLookups {
		t.Errorf("asked %d times", asked.Load())
	}

	// A pod without nslookup cannot be waited for.
	broken := w.step(func() (failover.Step, error) {
		return kube.ResolveInside(kube.ResolveInsideConfig{Cluster: w.cluster, Namespace: w.ns, Workload: "deployment/sentry", Domain: "other.example.com", Want: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	})
	wantError(t, broken.runner(failover.Hooks{}).Run(w.ctx), failover.ErrStepFailed, "exit code 127")
	absent := w.step(func() (failover.Step, error) {
		return kube.ResolveInside(kube.ResolveInsideConfig{Cluster: w.cluster, Namespace: w.ns, Workload: "deployment/absent", Domain: "other.example.com", Want: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	})
	wantError(t, absent.runner(failover.Hooks{}).Run(w.ctx), failover.ErrBlocked, "deployment/absent")
}

// testResolveReal runs nslookup through a real API server, which asks the node's kubelet: the test.
func testResolveReal(t *testing.T) {
	w := realWorld(t)
	w.deploy("sentry", 1, service("sentry"))
	w.deploy("coredns", 2, map[string]string{"k8s-app": "kube-dns"})
	nslookup, _ := w.lookup(1)
	mux := http.NewServeMux()
	mux.Handle("POST /exec/"+w.ns+"/{pod}/main", nslookup)
	kubelet := httptest.NewTLSServer(mux)
	t.Cleanup(kubelet.Close)
	host, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	node, err := w.client.CoreV1().Nodes().Get(w.ctx, "node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if _, err := w.client.CoreV1().Nodes().UpdateStatus(w.ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.checkResolve()
}
