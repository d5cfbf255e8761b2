package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// fixed is a monitor of a status that a test sets.
type fixed struct {
	*Monitor
	status etcdmirror.Status
	events *Events
	checks *Checks
	check  func(context.Context) (*drcheck.Result, error)
}

func newFixed() *fixed {
	f := &fixed{events: NewEvents()}
	log := slog.New(slog.DiscardHandler)
	f.checks = NewChecks(ChecksConfig{Mode: drcheck.Content, Log: log, Check: func(ctx context.Context) (*drcheck.Result, error) { return f.check(ctx) },
		Recall: func(context.Context) (time.Time, error) { return time.Time{}, nil }})
	f.Monitor = New(Config{Name: "m", Status: func() etcdmirror.Status { return f.status }, Events: f.events, Checks: f.checks, ReadyLag: time.Minute, Log: log})
	return f
}

// get is the answer to one request.
func (f *fixed) get(t *testing.T, path string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// scrape is all metrics by name.
func (f *fixed) scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	code, body := f.get(t, "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if code != http.StatusOK || err != nil {
		t.Fatalf("code %d, %v:\n%s", code, err, body)
	}
	return families
}

// value is that of a metric with the given values of its own labels, in order.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	for _, m := range families[name].GetMetric() {
		var own []string
		for _, l := range m.GetLabel() {
			if l.GetName() != "mirror" {
				own = append(own, l.GetValue())
			}
		}
		if !slices.Equal(own, labels) {
			continue
		}
		switch {
		case m.Gauge != nil:
			return m.Gauge.GetValue()
		case m.Counter != nil:
			return m.Counter.GetValue()
		case m.Histogram != nil:
			return float64(m.Histogram.GetSampleCount())
		}
	}
	t.Fatalf("no metric %s%q", name, labels)
	return 0
}

func TestReady(t *testing.T) {
	for _, tc := range []struct {
		status etcdmirror.Status
		ready  bool
		why    string
	}{
		{etcdmirror.Status{State: etcdmirror.StateIdle}, false, "idle"},
		{etcdmirror.Status{State: etcdmirror.StateStarting}, false, "starting"},
		{etcdmirror.Status{State: etcdmirror.StateReplica, Reason: `replica "a" leads`}, true, `replica: replica "a" leads`},
		{etcdmirror.Status{State: etcdmirror.StateBaseCopy}, false, "base copy"},
		{etcdmirror.Status{State: etcdmirror.StateResync}, false, "resync"},
		{etcdmirror.Status{State: etcdmirror.StateTail}, true, "tail"},
		{etcdmirror.Status{State: etcdmirror.StateTail, LagDuration: time.Minute - 1, LagRevisions: 1}, true, "tail"},
		{etcdmirror.Status{State: etcdmirror.StateTail, LagDuration: time.Minute, LagRevisions: 3}, false, "tail: 3 revisions and 1m0s behind, 1m0s are allowed"},
		{etcdmirror.Status{State: etcdmirror.StateCatchingUp, LagDuration: time.Second}, true, "catching up"},
		{etcdmirror.Status{State: etcdmirror.StateCatchingUp, LagDuration: time.Hour}, false, "catching up: 0 revisions and 1h0m0s behind, 1m0s are allowed"},
		{etcdmirror.Status{State: etcdmirror.StateWaiting, Reason: "source: gone"}, false, "waiting: source: gone"},
		{etcdmirror.Status{State: etcdmirror.StateStopped, Reason: "context ended"}, false, "stopped: context ended"},
	} {
		f := newFixed()
		f.status = tc.status
		want, code := tc.why+"\n", http.StatusOK
		if !tc.ready {
			want, code = "not ready: "+want, http.StatusServiceUnavailable
		}
		if gotCode, got := f.get(t, "/readyz"); got != want || gotCode != code {
			t.Errorf("%+v: %d %q, want %d %q", tc.status, gotCode, got, code, want)
		}
		if code, body := f.get(t, "/healthz"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("healthz: %d %q", code, body)
		}
	}
}

// The gauges of the state are those of all states that the engine has.
func TestStatesAreComplete(t *testing.T) {
	source, err := os.ReadFile("../../../etcdmirror/status.go")
	if err != nil {
		t.Fatal(err)
	}
	var engine []etcdmirror.State
	for _, m := range regexp.MustCompile(`(?m)^\tState\w+ State = "(.+)"$`).FindAllStringSubmatch(string(source), -1) {
		engine = append(engine, etcdmirror.State(m[1]))
	}
	if len(engine) == 0 || !slices.Equal(engine, states) {
		t.Errorf("the engine has %q, the metrics %q", engine, states)
	}
}

// Every number of the status is served under the right name.
func TestMetricsOfTheStatus(t *testing.T) {
	f := newFixed()
	f.status = etcdmirror.Status{State: etcdmirror.StateTail, Epoch: 1, SourceRevision: 2, AppliedRevision: 3, SavedRevision: 4, LagRevisions: 5, LagDuration: 6 * time.Second, TargetRevision: 7,
		Puts: 8, Deletes: 9, Bytes: 10, Filtered: 11, Transactions: 12, Splits: 13, Resyncs: 14, Reconnects: 15, Repairs: 16, Fights: 17, Foreign: 18, Guarded: 19, Drifted: 20, Unlisted: true,
		Leases: 21, Keys: 22, Trip: &etcdmirror.Trip{Key: "/registry/secrets/a/b"}, Leader: "r", SourceContact: time.Now().Add(-time.Hour)}
	hooks := f.events.Hooks()
	families := f.scrape(t)
	if got := value(t, families, "understudy_mirror_leading"); got != 0 {
		t.Errorf("leading without having begun to: %v", got)
	}
	hooks.Leading(etcdmirror.LeadingInfo{Replica: "r"})
	hooks.Applied(etcdmirror.AppliedInfo{Duration: time.Second})
	hooks.Guarded(etcdmirror.GuardedInfo{Key: "/registry/k"})
	hooks.Guarded(etcdmirror.GuardedInfo{Key: "/registry/k"})
	hooks.Drift(etcdmirror.DriftInfo{Key: "/registry/k", Kind: etcdmirror.DriftReplaced})
	hooks.Lease(etcdmirror.LeaseInfo{Kind: etcdmirror.LeaseLost})
	hooks.Tripped(etcdmirror.Trip{Key: "/registry/k"})
	families = f.scrape(t)
	for name, want := range map[string]float64{
		"leading": 1, "epoch": 1, "source_revision": 2, "applied_revision": 3, "saved_revision": 4, "lag_revisions": 5, "lag_seconds": 6, "target_revision": 7,
		"puts_total": 8, "deletes_total": 9, "written_bytes_total": 10, "filtered_total": 11, "transactions_total": 12, "splits_total": 13, "resyncs_total": 14, "reconnects_total": 15,
		"repairs_total": 16, "fights_total": 17, "foreign_keys": 18, "guarded_keys": 19, "drifted_keys": 20, "drift_unlisted": 1, "leases": 21, "keys": 22, "tripped": 1,
		"target_contact_age_seconds": math.Inf(1), "terms_total": 1, "guarded_values_total": 2, "trips_total": 1, "transaction_duration_seconds": 1,
	} {
		if got := value(t, families, "understudy_mirror_"+name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := value(t, families, "understudy_mirror_source_contact_age_seconds"); got < 3600 || got > 3700 {
		t.Errorf("the source answered %v seconds ago, want 3600", got)
	}
	for _, state := range states {
		if got := value(t, families, "understudy_mirror_state", string(state)); got != oneIf(state == etcdmirror.StateTail) {
			t.Errorf("state %q is %v", state, got)
		}
	}
	if value(t, families, "understudy_mirror_drift_total", "replaced") != 1 || value(t, families, "understudy_mirror_drift_total", "changed") != 0 ||
		value(t, families, "understudy_mirror_lease_events_total", "lost") != 1 || value(t, families, "understudy_mirror_lease_events_total", "unread") != 0 {
		t.Error("events are counted under another kind")
	}
	if _, body := f.get(t, "/metrics"); strings.Contains(body, "/registry/") {
		t.Errorf("a metric shows a key:\n%s", body)
	}
	// Somebody else leads now, or this one has ended.
	for _, s := range []etcdmirror.Status{{State: etcdmirror.StateReplica, Leader: "s"}, {State: etcdmirror.StateReplica, Leader: "r"}, {State: etcdmirror.StateWaiting}, {State: etcdmirror.StateStopped, Leader: "r"}} {
		f.status = s
		if got := value(t, f.scrape(t), "understudy_mirror_leading"); got != 0 || f.Leading() {
			t.Errorf("%+v leads", s)
		}
	}
}

// Every metric has a help, a prefix and a unit in its name, and the mirror's name as a label.
func TestMetricNames(t *testing.T) {
	f := newFixed()
	own := 0
	families := f.scrape(t)
	for name, family := range families {
		if !strings.HasPrefix(name, "understudy_") {
			if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
				t.Errorf("%s is nobody's", name)
			}
			continue
		}
		own++
		counts := family.GetType() == dto.MetricType_COUNTER
		if family.GetHelp() == "" || counts != strings.HasSuffix(name, "_total") {
			t.Errorf("%s: type %v, help %q", name, family.GetType(), family.GetHelp())
		}
		for _, m := range family.GetMetric() {
			if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "mirror" && l.GetValue() == "m" }) {
				t.Errorf("%s does not name the mirror: %v", name, m.GetLabel())
			}
		}
	}
	for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
		if families[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if own < 40 {
		t.Errorf("%d metrics are there", own)
	}
}

var update = flag.Bool("update", false, "write the list of metrics anew")

// The list of metrics for users is complete and right.
func TestMetricsAreDocumented(t *testing.T) {
	const path = "../../mirror/METRICS.md"
	families := newFixed().scrape(t)
	var table strings.Builder
	table.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(families)) {
		family := families[name]
		if !strings.HasPrefix(name, "understudy_") {
			continue
		}
		var labels []string // with all their values
		values := map[string][]string{}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				switch name := l.GetName(); {
				case name == "mirror":
					continue
				case values[name] == nil:
					labels = append(labels, name)
				}
				values[l.GetName()] = append(values[l.GetName()], "`"+l.GetValue()+"`")
			}
		}
		for i, label := range labels {
			labels[i] = label + ": " + strings.Join(values[label], ", ")
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(family.GetType().String()), strings.Join(labels, "; "), family.GetHelp())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := strings.Index(string(text), "| metric |")
	if begin < 0 {
		t.Fatalf("%s has no table", path)
	}
	want := string(text[:begin]) + table.String()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(text), want); diff != "" {
		t.Errorf("%s differs (-want +got); run the test with -update:\n%s", path, diff)
	}
}

func TestStatus(t *testing.T) {
	f := newFixed()
	f.status = etcdmirror.Status{State: etcdmirror.StateWaiting, Reason: "source: gone", SourceRevision: 9, AppliedRevision: 7, LagRevisions: 2, LagDuration: 1500 * time.Millisecond,
		Copy: etcdmirror.CopyStatus{Round: 1, ToWrite: 5, Began: time.Unix(1, 0)}, Trip: &etcdmirror.Trip{Key: "/registry/secrets/a/b", Keys: 30, Left: 10, At: time.Unix(2, 0)}}
	_, body := f.get(t, "/status")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v:\n%s", err, body)
	}
	for name, want := range map[string]any{"name": "m", "state": "waiting", "reason": "source: gone", "leading": false, "sourceHead": 9.0, "appliedRevision": 7.0, "missingRevisions": 2.0, "lagSeconds": 1.5} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	trip, _ := got["trip"].(map[string]any)
	copied, _ := got["copy"].(map[string]any)
	check, _ := got["check"].(map[string]any)
	if trip["nextKey"] != "/registry/secrets/a/b" || trip["left"] != 10.0 || copied["toWrite"] != 5.0 || copied["endedAt"] != nil || check["mode"] != "content" || check["lastOutcome"] != nil || got["sourceContactAt"] != nil {
		t.Errorf("got %s", body)
	}
}

func TestPaths(t *testing.T) {
	f := newFixed()
	if code, body := f.get(t, "/"); code != http.StatusOK || !strings.Contains(body, "/metrics\n") {
		t.Errorf("the index: %d %q", code, body)
	}
	if code, _ := f.get(t, "/debug"); code != http.StatusNotFound {
		t.Errorf("an unknown path: %d", code)
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/status", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a POST: %d", w.Code)
	}
}

// A server ends the requests under way when it is closed, and says when it cannot listen.
func TestServer(t *testing.T) {
	ctx, cancel := context.WithCancel(testutil.Context(t))
	s, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, s.listener.Addr().String()); err == nil {
		t.Fatal("two servers listen at one address")
	}
	entered := make(chan struct{})
	s.Serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		w.WriteHeader(http.StatusServiceUnavailable)
	}), slog.New(slog.DiscardHandler))
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + s.listener.Addr().String())
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable {
				err = errors.New(resp.Status)
			}
		}
		answered <- err
	}()
	<-entered
	cancel()
	s.Close()
	if err := <-answered; err != nil {
		t.Errorf("the request under way got %v", err)
	}
	if again, err := Listen(testutil.Context(t), s.listener.Addr().String()); err != nil {
		t.Errorf("the address is still taken: %v", err)
	} else {
		again.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}
