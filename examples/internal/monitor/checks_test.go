package monitor

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
)

// resultOf is a check's result with so many missed keys.
func resultOf(missed int) *drcheck.Result {
	now := time.Now()
	return &drcheck.Result{Mode: drcheck.Content, Began: now.Add(-2 * time.Second), Ended: now, Equal: missed == 0, Count: drcheck.Count{Missed: missed, Accepted: 4},
		SourceKeys: 50, TargetKeys: 50 - missed, SourceRevision: 77, Differences: []drcheck.Difference{{Class: drcheck.Missed, Key: "/registry/a"}}}
}

// The first comparison comes one interval after the tail began, further ones an interval after the last ended, and none while they are not due.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, duration = time.Minute, 20 * time.Second
		var checks, under, most atomic.Int64
		var due atomic.Bool
		due.Store(true)
		recalled := time.Now().Add(-time.Hour)
		var log bytes.Buffer
		c := NewChecks(ChecksConfig{Mode: drcheck.Content, Interval: interval, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Recall: func(context.Context) (time.Time, error) { return recalled, nil },
			Check: func(ctx context.Context) (*drcheck.Result, error) {
				checks.Add(1)
				most.Store(max(most.Load(), under.Add(1)))
				defer under.Add(-1)
				select {
				case <-time.After(duration):
					return resultOf(0), nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}})
		ctx, cancel := context.WithCancel(t.Context())
		following, done := make(chan struct{}), make(chan struct{})
		go func() { defer close(done); c.Run(ctx, following, due.Load) }()
		after := func(d time.Duration, want int64, what string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := checks.Load(); got != want {
				t.Fatalf("%s: %d comparisons, want %d", what, got, want)
			}
		}
		after(time.Hour, 0, "before the tail")
		close(following)
		after(interval-time.Second, 0, "within the first interval")
		if v := c.view(); v.LastEqualAt == nil || !v.LastEqualAt.Equal(recalled) || v.Checks != 0 {
			t.Errorf("what is known from before: %+v", v)
		}
		after(time.Second, 1, "after the first interval")
		if v := c.view(); !v.Running || v.Checks != 0 {
			t.Errorf("under way: %+v", v)
		}
		// Somebody who asks meanwhile gets the same comparison.
		asked := make(chan error, 1)
		go func() { _, err := c.handler.Check(ctx); asked <- err }()
		after(duration, 1, "asked during a comparison")
		if err := <-asked; err != nil {
			t.Errorf("who asked got %v", err)
		}
		after(interval-time.Second, 1, "within the second interval")
		after(time.Second, 2, "after the second interval")
		due.Store(false)
		after(time.Hour, 2, "while none is due")
		due.Store(true)
		after(interval, 3, "due again")
		after(interval-10*time.Second, 4, "and again")
		cancel() // the fourth
		<-done
		if v := c.view(); most.Load() != 1 || v.Checks != 3 || v.LastOutcome != equal || !v.LastEqualAt.After(recalled) {
			t.Errorf("%d at once; %+v", most.Load(), v)
		}
		if text := log.String(); strings.Count(text, "outcome=equal missed=0 surplus=0 different=0 accepted=4") != 3 || strings.Contains(text, "/registry/") {
			t.Errorf("log:\n%s", text)
		}
	})
}

// Without an interval nothing is compared by itself, but what is known from before is recalled.
func TestNoSchedule(t *testing.T) {
	var log bytes.Buffer
	for _, err := range []error{nil, errors.New("unreadable")} {
		at := time.Unix(1000, 0)
		c := NewChecks(ChecksConfig{Log: slog.New(slog.NewTextHandler(&log, nil)), Recall: func(context.Context) (time.Time, error) { return at, err },
			Check: func(context.Context) (*drcheck.Result, error) { panic("nobody asked") }})
		following := make(chan struct{})
		close(following)
		c.Run(t.Context(), following, func() bool { return true })
		if v := c.view(); (v.LastEqualAt != nil) != (err == nil) {
			t.Errorf("with %v: %+v", err, v)
		}
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "error=unreadable") {
		t.Errorf("log: %s", log.String())
	}
}

// What comes of comparisons shows in the metrics, in the status and in the log.
func TestOutcomes(t *testing.T) {
	f := newFixed()
	expect := func(what string, values map[string]float64) {
		t.Helper()
		families := f.scrape(t)
		for name, want := range values {
			metric, label, labelled := strings.Cut(name, " ")
			var labels []string
			if labelled {
				labels = []string{label}
			}
			if got := value(t, families, "understudy_check_"+metric, labels...); got != want {
				t.Errorf("%s: %s is %v, want %v", what, name, got, want)
			}
		}
	}
	expect("before the first", map[string]float64{"last_outcome equal": 0, "last_outcome differs": 0, "last_outcome failed": 0, "runs_total equal": 0, "differences missed": 0,
		"last_finished_age_seconds": math.Inf(1), "last_equal_age_seconds": math.Inf(1), "last_duration_seconds": 0, "running": 0})
	f.check = func(context.Context) (*drcheck.Result, error) {
		expect("under way", map[string]float64{"running": 1})
		return resultOf(3), nil
	}
	if _, err := f.checks.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("different", map[string]float64{"last_outcome differs": 1, "last_outcome equal": 0, "runs_total differs": 1, "differences missed": 3, "differences surplus": 0, "differences different": 0,
		"accepted_differences": 4, "compared_keys source": 50, "compared_keys target": 47, "last_duration_seconds": 2, "last_equal_age_seconds": math.Inf(1), "running": 0})
	f.check = func(context.Context) (*drcheck.Result, error) { return nil, errors.New("source: gone") }
	if _, err := f.checks.check(t.Context()); err == nil {
		t.Error("no error")
	}
	expect("failed", map[string]float64{"last_outcome failed": 1, "last_outcome differs": 0, "runs_total failed": 1, "differences missed": 3})
	if v := f.checks.view(); v.LastError != "source: gone" || v.Last.Count.Missed != 3 || v.LastEqualAt != nil || v.Checks != 2 {
		t.Errorf("after a failure: %+v", v)
	}
	f.check = func(context.Context) (*drcheck.Result, error) { return resultOf(0), nil }
	if _, err := f.checks.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("equal", map[string]float64{"last_outcome equal": 1, "last_outcome failed": 0, "runs_total equal": 1, "differences missed": 0})
	families := f.scrape(t)
	for _, name := range []string{"understudy_check_last_finished_age_seconds", "understudy_check_last_equal_age_seconds"} {
		if got := value(t, families, name); got < 0 || got > 600 {
			t.Errorf("%s is %v", name, got)
		}
	}
	// Nobody waits for it any more: that is no outcome.
	ctx, cancel := context.WithCancel(t.Context())
	f.check = func(context.Context) (*drcheck.Result, error) { cancel(); return nil, ctx.Err() }
	if _, err := f.checks.check(ctx); err == nil {
		t.Error("no error")
	}
	expect("given up", map[string]float64{"last_outcome equal": 1, "runs_total failed": 1, "runs_total equal": 1, "running": 0})
	if _, body := f.get(t, "/status"); strings.Contains(body, "/registry/") || !strings.Contains(body, `"lastOutcome": "equal"`) {
		t.Errorf("status:\n%s", body)
	}
}
