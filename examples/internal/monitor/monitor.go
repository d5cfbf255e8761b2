package monitor

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// Config is what a Monitor needs. Every field is required but Profiles.
type Config struct {
	// Name is the mirror's.
	Name string
	// Status is (*etcdmirror.Mirror).Status; Events got the mirror's hooks.
	Status func() etcdmirror.Status
	Events *Events
	// Checks compares source and target.
	Checks *Checks
	// ReadyLag is how far behind a ready mirror may be.
	ReadyLag time.Duration
	// Profiles adds /debug/pprof/.
	Profiles bool
	Log      *slog.Logger
}

// Monitor tells about one mirror.
type Monitor struct {
	cfg      Config
	registry *prometheus.Registry
}

// New returns a Monitor that has not begun anything.
func New(cfg Config) *Monitor {
	m := &Monitor{cfg: cfg, registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	own := prometheus.WrapRegistererWith(prometheus.Labels{"mirror": cfg.Name}, m.registry)
	own.MustRegister(mirrorCollector{m}, cfg.Checks)
	own.MustRegister(cfg.Events.collectors()...)
	return m
}

// Leading reports whether this instance is the one that writes.
func (m *Monitor) Leading() bool { return m.cfg.Events.leads(m.cfg.Status()) }

// Handler serves the paths of the package's documentation.
func (m *Monitor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "mirror %s\n\n/healthz\n/readyz\n/status\n/check\n/metrics\n", m.cfg.Name)
		if m.cfg.Profiles {
			fmt.Fprintln(w, "/debug/pprof/")
		}
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", m.serveReady)
	mux.HandleFunc("GET /status", m.serveStatus)
	mux.Handle("/check", m.cfg.Checks.handler)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(m.cfg.Log.Handler(), slog.LevelWarn)}))
	if m.cfg.Profiles {
		addProfiles(mux)
	}
	return mux
}

func (m *Monitor) serveReady(w http.ResponseWriter, _ *http.Request) {
	ready, why := Ready(m.cfg.Status(), m.cfg.ReadyLag)
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, "not ready: ")
	}
	fmt.Fprintln(w, why)
}

// Ready reports whether a mirror does what it is there for, and says what it does.
func Ready(s etcdmirror.Status, lag time.Duration) (ready bool, why string) {
	why = string(s.State)
	if s.Reason != "" {
		why += ": " + s.Reason
	}
	switch s.State {
	case etcdmirror.StateReplica:
		return true, why
	case etcdmirror.StateTail, etcdmirror.StateCatchingUp:
		if s.LagDuration >= lag {
			return false, fmt.Sprintf("%s: %d revisions and %v behind, %v are allowed", why, s.LagRevisions, s.LagDuration.Round(time.Millisecond), lag)
		}
		return true, why
	}
	return false, why
}

func (m *Monitor) serveStatus(w http.ResponseWriter, _ *http.Request) {
	view := newStatusView(m.cfg.Name, m.cfg.Status(), m.Leading())
	view.Check = m.cfg.Checks.view()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(view) // to a client that may have gone
}
