package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// loopback is an address to listen at: IPv6 where this host has it.
func loopback(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Logf("no IPv6 loopback: %v", err)
		return "127.0.0.1:0"
	}
	_ = l.Close()
	return "[::1]:0"
}

// site is where a mirror serves HTTP.
type site struct {
	base   string
	client *http.Client
}

// served waits until a mirror serves.
func served(t *testing.T, b *background) *site {
	t.Helper()
	b.err.await(t, `msg="serving HTTP" address=`)
	m := regexp.MustCompile(`msg="serving HTTP" address="?([^" \n]+)`).FindStringSubmatch(b.err.String())
	s := &site{"http://" + m[1], &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

func (s *site) ask(ctx context.Context, path string) (code int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (s *site) get(t *testing.T, path string) (code int, body string) {
	t.Helper()
	code, body, err := s.ask(testutil.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// ready waits for an answer of /readyz.
func (s *site) ready(t *testing.T, code int, text string) {
	t.Helper()
	last := "nothing"
	ctx := testutil.Context(t)
	for ctx.Err() == nil {
		got, body, err := s.ask(ctx, "/readyz")
		switch {
		case err == nil && got == code && strings.Contains(body, text):
			return
		case err == nil:
			last = fmt.Sprintf("%d, %s", got, body)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	t.Fatalf("readyz never said %d, %s, but at last %s", code, text, last)
}

// metrics are all metrics as name{labels} without the mirror's name; of a histogram its count.
func (s *site) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	_, body := s.get(t, "/metrics")
	if strings.Contains(body, "/registry/") || strings.Contains(body, secret) {
		t.Fatalf("a metric shows a key or a value:\n%s", body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			id := name
			for _, l := range m.GetLabel() {
				if l.GetName() != "mirror" {
					id += "{" + l.GetValue() + "}"
				}
			}
			switch family.GetType() {
			case dto.MetricType_HISTOGRAM:
				all[id] = float64(m.GetHistogram().GetSampleCount())
			case dto.MetricType_COUNTER:
				all[id] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				all[id] = m.GetGauge().GetValue()
			}
		}
	}
	return all
}

// status is what /status tells.
func (s *site) status(t *testing.T) map[string]any {
	t.Helper()
	code, body := s.get(t, "/status")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil {
		t.Fatalf("%d, %v:\n%s", code, err, body)
	}
	checkDocumented(t, "run", got)
	return got
}

// A mirror is ready while it follows or waits to take over, and says why when it is not; the numbers that it serves move with what it does.
func TestHTTP(t *testing.T) {
	p := newPair(t)
	ctx := testutil.Context(t)
	fill(t, p.sourceC, 30)
	put(t, p.sourceC, "/registry/secrets/team-a/s", secret)
	flags := []string{"--http-listen", loopback(t), "--deletion-count", "10", "--deletion-share", "0.5"}
	first := inBackground(t, p.args("run", append(flags, "--replica", "first")...)...)
	s := served(t, first)
	if code, body := s.get(t, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
	s.ready(t, http.StatusOK, "tail")
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1"} {
		if code, _ := s.get(t, path); code != http.StatusNotFound {
			t.Errorf("%s is served without --pprof: %d", path, code)
		}
	}
	second := inBackground(t, p.args("run", append(flags, "--replica", "second")...)...)
	waiting := served(t, second)
	waiting.ready(t, http.StatusOK, `replica "first" leads`)

	m := s.metrics(t)
	for id, want := range map[string]float64{"leading": 1, "state{tail}": 1, "state{replica}": 0, "tripped": 0, "keys": 31, "puts_total": 31, "deletes_total": 0, "resyncs_total": 1, "filtered_total": 1,
		"applied_revision": 33, "source_revision": 33, "lag_revisions": 0, "epoch": 1, "terms_total": 1, "drift_total{changed}": 0, "foreign_keys": 0, "drifted_keys": 0} {
		if got := m["understudy_mirror_"+id]; got != want {
			t.Errorf("%s is %v, want %v", id, got, want)
		}
	}
	if m := waiting.metrics(t); m["understudy_mirror_leading"] != 0 || m["understudy_mirror_state{replica}"] != 1 || m["understudy_mirror_terms_total"] != 0 {
		t.Error("an instance that waits leads")
	}
	if st := s.status(t); st["leading"] != true || st["leader"] != "first" || st["state"] != "tail" || st["keysHeld"] != 31.0 || st["appliedRevision"] != 33.0 {
		t.Errorf("status: %v", st)
	}
	if st := waiting.status(t); st["leading"] != false || st["leader"] != "first" || st["state"] != "replica" {
		t.Errorf("status of the other: %v", st)
	}

	// Changes at the source and by others at the target.
	put(t, p.sourceC, "/registry/configmaps/team-a/new", "v")
	if _, err := p.sourceC.Delete(ctx, "/registry/configmaps/team-a/cm-000"); err != nil {
		t.Fatal(err)
	}
	put(t, p.targetC, "/registry/configmaps/team-a/cm-001", "changed")
	put(t, p.targetC, "/registry/configmaps/own/o", "v")
	eventually(t, "the metrics move", func() bool {
		m := s.metrics(t)
		return m["understudy_mirror_puts_total"] == 32 && m["understudy_mirror_deletes_total"] == 1 && m["understudy_mirror_drift_total{changed}"] == 1 && m["understudy_mirror_drifted_keys"] == 1 &&
			m["understudy_mirror_foreign_keys"] == 1 && m["understudy_mirror_applied_revision"] >= 35 && m["understudy_mirror_transaction_duration_seconds"] >= 3 && m["understudy_mirror_written_bytes_total"] > 1000
	})

	// A mass deletion stops it.
	if _, err := p.sourceC.Txn(ctx).Then(deleteRange("/registry/configmaps/team-a/cm-01"), deleteRange("/registry/configmaps/team-a/cm-02")).Commit(); err != nil {
		t.Fatal(err)
	}
	s.ready(t, http.StatusServiceUnavailable, "not ready: waiting")
	if m := s.metrics(t); m["understudy_mirror_tripped"] != 1 || m["understudy_mirror_trips_total"] != 1 || m["understudy_mirror_state{waiting}"] != 1 || m["understudy_mirror_lag_revisions"] == 0 {
		t.Errorf("stopped by a mass deletion: %v", m)
	}
	if trip, _ := s.status(t)["trip"].(map[string]any); trip["keys"] == 0.0 || !strings.HasPrefix(fmt.Sprint(trip["nextKey"]), "/registry/configmaps/team-a/cm-0") {
		t.Errorf("trip %v", trip)
	}
	invoke(t, p.args("approve", "--confirm", "default")...).want(t, 0)
	s.ready(t, http.StatusOK, "tail")
	eventually(t, "the deletes are applied", func() bool {
		m := s.metrics(t)
		return m["understudy_mirror_deletes_total"] == 21 && m["understudy_mirror_tripped"] == 0 && m["understudy_mirror_keys"] == 11
	})

	// So does a dead source, whoever leads.
	first.cancel()
	if code := <-first.code; code != 0 {
		t.Errorf("the first ended with %d", code)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://")); err == nil {
		t.Error("an instance that has ended still serves")
	}
	waiting.ready(t, http.StatusOK, "tail")
	if m := waiting.metrics(t); m["understudy_mirror_leading"] != 1 || m["understudy_mirror_terms_total"] != 1 {
		t.Error("nobody leads")
	}
	if err := p.source.StopMember(0); err != nil {
		t.Fatal(err)
	}
	waiting.ready(t, http.StatusServiceUnavailable, "not ready: waiting: source: ")
	if err := p.source.StartMember(ctx, 0, nil); err != nil {
		t.Fatal(err)
	}
	waiting.ready(t, http.StatusOK, "tail")
}

// Comparisons by schedule are made by the instance that leads, show in the status, the metrics and the log, and find what others did at the target.
func TestScheduledChecks(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 20)
	put(t, p.sourceC, "/registry/configmaps/team-a/cm-003", secret)
	start := func(name string) (*background, *site) {
		f := mirrorflags.NewRun()
		if err := f.Settings.Parse(p.args("run", "--http-listen", loopback(t), "--replica", name, "--check-interval", "10s")[1:], func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		cfg, check, err := f.Config(nil)
		if err != nil {
			t.Fatal(err)
		}
		f.CheckInterval, check.Settle = 50*time.Millisecond, 100*time.Millisecond
		b := goBackground(t, func(ctx context.Context, b *background) int {
			return mirror().ExitCode(runWith(ctx, program.Console{Out: &b.out, Err: &b.err}, f, cfg, check))
		})
		return b, served(t, b)
	}
	first, s := start("first")
	first.err.await(t, `msg="source and target were compared" outcome=equal missed=0 surplus=0 different=0 accepted=0 sourceKeys=20 targetKeys=20`)
	second, other := start("second")
	second.err.await(t, "msg=state state=replica")
	m := s.metrics(t)
	if m["understudy_check_runs_total{equal}"] < 1 || m["understudy_check_last_outcome{equal}"] != 1 || m["understudy_check_compared_keys{source}"] != 20 || m["understudy_check_last_equal_age_seconds"] > 600 {
		t.Errorf("after an equal comparison: %v", m)
	}
	check, _ := s.status(t)["check"].(map[string]any)
	if last, _ := check["last"].(map[string]any); last["equal"] != true || last["sourceKeys"] != 20.0 || check["intervalSeconds"] != 0.05 || check["mode"] != "content" || check["lastEqualAt"] == nil {
		t.Errorf("status: %v", check)
	}
	if _, err := p.targetC.Delete(testutil.Context(t), "/registry/configmaps/team-a/cm-003"); err != nil {
		t.Fatal(err)
	}
	first.err.await(t, "outcome=differs missed=1 surplus=0 different=0")
	eventually(t, "the metrics tell", func() bool {
		m := s.metrics(t)
		return m["understudy_check_last_outcome{differs}"] == 1 && m["understudy_check_differences{missed}"] == 1 && m["understudy_check_runs_total{differs}"] >= 1
	})
	if strings.Contains(first.err.String(), "compared\" outcome=differs key=") || strings.Contains(second.err.String(), "were compared") || other.metrics(t)["understudy_check_runs_total{differs}"] != 0 {
		t.Error("an instance that waits compares, or a comparison is logged with keys")
	}
	// Whoever takes over goes on, and knows when the two were last equal.
	first.cancel()
	<-first.code
	second.err.await(t, "outcome=differs missed=1")
	if m := other.metrics(t); m["understudy_check_last_equal_age_seconds"] > 600 {
		t.Errorf("the time of the last equal comparison is not known: %v", m["understudy_check_last_equal_age_seconds"])
	}
	// On request, by any instance.
	code, body := other.get(t, "/check")
	if !strings.Contains(body, "/registry/configmaps/team-a/cm-003") {
		t.Errorf("check: %d\n%s", code, body)
	}
	if all := body + first.err.String() + second.err.String(); strings.Contains(all, secret) {
		t.Errorf("a value is shown:\n%s", all)
	}
}

// What a mirror compares is what it mirrors.
func TestCheckConfig(t *testing.T) {
	f := mirrorflags.NewRun()
	args := []string{"--source-endpoints", "[2001:db8::1]:2379", "--target-endpoints", "[2001:db8::2]:2379", "--name", "n", "--prefix", "/k8s/", "--target-prefix", "/standby/", "--check-mode", "keys", "--check-accept-made-at-target"}
	if err := f.Settings.Parse(args, func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	cfg, check, err := f.Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	if check.Name != "n" || check.Prefix != cfg.Prefix || check.TargetPrefix != cfg.TargetPrefix || check.KeepID != cfg.KeepID || cfg.KeepID == "" || check.Mode != drcheck.KeysOnly || !check.AcceptMadeAtTarget || check.Transform != nil {
		t.Errorf("mirror %+v, check %+v", cfg, check)
	}
	for key, want := range map[string]string{
		"/k8s/pods/a/b": "pods", "/k8s/deployments/a/b": "apps/deployments", "/k8s/minions/n": "nodes", "/k8s/stable.example.com/widgets/a/w": "stable.example.com/widgets",
		"/k8s/pods": "unclassified", "/elsewhere/x": "outside",
	} {
		if got := check.Resource(key); got != want {
			t.Errorf("%s is of resource %q, want %q", key, got, want)
		}
	}
	if key := "/k8s/pods/a/b"; check.Keep([]byte(key)) != cfg.Keep([]byte(key)) {
		t.Error("the filters differ")
	}
}

// An address that is taken ends the program before anything is written.
func TestListenAtATakenAddress(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 3)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, before := values(t, p.targetC)
	invoke(t, p.args("run", "--http-listen", l.Addr().String())...).want(t, exitUsage, "--http-listen: ", "address already in use", "a port that is free")
	if _, after := values(t, p.targetC); after != before {
		t.Errorf("the target went from revision %d to %d", before, after)
	}
}
