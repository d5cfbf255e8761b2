package kube_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/kubeapi"
)

// standIn answers as an API server does, and is restarted by a func.
type standIn struct {
	*httptest.Server
	started  atomic.Int64
	unready  atomic.Bool
	restarts atomic.Int64
}

func newStandIn(t *testing.T) *standIn {
	s := &standIn{}
	s.started.Store(1_700_000_000)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.unready.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n")
			return
		}
		fmt.Fprint(w, "[+]ping ok\nreadyz check passed\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %d.21e0\n", s.started.Load())
	})
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) address() string { return strings.TrimPrefix(s.URL, "https://") }

func (s *standIn) Restart(context.Context) error {
	s.restarts.Add(1)
	s.started.Add(60)
	return nil
}

func TestAPIServers(t *testing.T) {
	w := &world{t: t, ctx: testutil.Context(t)}
	a, b := newStandIn(t), newStandIn(t)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	w.cluster = cluster(t, &rest.Config{Host: "https://192.0.2.1:6443", TLSClientConfig: rest.TLSClientConfig{CAData: ca}}, nil)

	gates, err := kube.APIServersReady(kube.APIServersReadyConfig{Cluster: w.cluster, Servers: []string{a.address(), b.address()}})
	if err != nil || len(gates) != 2 || gates[0].Name() != "apiserver-ready/standby/"+a.address() {
		t.Fatalf("%v, %v", gates, err)
	}
	b.unready.Store(true)
	for i, want := range []failover.State{failover.Done, failover.Blocked} {
		o, err := gates[i].Observe(w.ctx)
		if err != nil || o.State != want || (want == failover.Blocked) != strings.Contains(o.Detail, "failed: etcd") {
			t.Errorf("gate %d: %+v, %v", i, o, err)
		}
	}

	cfg := kube.RestartAPIServersConfig{Cluster: w.cluster, Servers: []kube.APIServer{{Address: a.address(), How: "stand-in", Restarter: a}, {Address: b.address(), How: "stand-in", Restarter: b}}}
	r := w.newRun(func() []failover.Step {
		steps, err := kube.RestartAPIServers(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return steps
	})
	wantError(t, r.runner(failover.Hooks{}).Run(w.ctx), failover.ErrBlocked, "no other API server is ready", "etcd")
	if a.restarts.Load() != 0 {
		t.Error("the last ready server was restarted")
	}
	b.unready.Store(false)
	r.kill(failover.RecordIntent, "")
	// Killed after the restart, before the server is ready: it is not restarted again.
	cfg.Servers[0].Restarter = kube.RestartFunc(func(ctx context.Context) error {
		a.unready.Store(true)
		return a.Restart(ctx)
	})
	r.kill("", "/readyz answers 500")
	a.unready.Store(false)
	r.finish()
	if a.restarts.Load() != 1 || b.restarts.Load() != 1 {
		t.Errorf("restarted %d and %d times, want once each", a.restarts.Load(), b.restarts.Load())
	}
	cfg.Servers[0].Restarter = a
	r2 := *r
	r2.journal += ".undo"
	r2.finish()
	r2.undo()
	if a.restarts.Load() != 2 || b.restarts.Load() != 2 {
		t.Errorf("undo restarted something: %d, %d", a.restarts.Load(), b.restarts.Load())
	}
}

// Real API servers are killed and started again one by one; while one is away the other serves.
func TestAPIServersReal(t *testing.T) {
	kubeapi.Need(t, "etcd", "kube-apiserver")
	ctx := testutil.Context(t)
	cp := kubeapi.Start(ctx, t, kubeapi.Options{Servers: 2})
	w := &world{t: t, ctx: ctx, cluster: cluster(t, cp.REST(), nil)}
	var restarts atomic.Int64
	r := w.newRun(func() []failover.Step {
		cfg := kube.RestartAPIServersConfig{Cluster: w.cluster}
		for i, s := range cp.Servers {
			other := cp.Servers[1-i]
			cfg.Servers = append(cfg.Servers, kube.APIServer{Address: s.Addr, How: "kill -9", Restarter: kube.RestartFunc(func(ctx context.Context) error {
				restarts.Add(1)
				if err := other.Ready(ctx); err != nil {
					t.Errorf("restarted while the other one is not ready: %v", err)
				}
				return s.Restart(ctx)
			})})
		}
		gates, err := kube.APIServersReady(kube.APIServersReadyConfig{Cluster: w.cluster, Servers: []string{cp.Servers[0].Addr, cp.Servers[1].Addr}})
		if err != nil {
			t.Fatal(err)
		}
		steps, err := kube.RestartAPIServers(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return append(gates, steps...)
	})
	r.finish()
	if restarts.Load() != 2 {
		t.Errorf("%d restarts, want 2", restarts.Load())
	}
	cp.Servers[0].Kill()
	gates, err := kube.APIServersReady(kube.APIServersReadyConfig{Cluster: w.cluster, Servers: []string{cp.Servers[0].Addr}})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := gates[0].Observe(ctx); err != nil || o.State != failover.Blocked {
		t.Errorf("a dead server: %+v, %v", o, err)
	}
}
