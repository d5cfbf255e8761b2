package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// measureSmall runs one measurement in small and returns its report, which must be there as Markdown, too.
func measureSmall(t *testing.T, name string, args ...string) (r result, markdown string) {
	t.Helper()
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "results")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var text, progress bytes.Buffer
	args = append([]string{"-measure", name, "-keys", "600", "-runs", "1", "-dir", dir, "-out", out}, args...)
	if err := run(ctx, args, &text, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	file := filepath.Join(out, measurements[name].file)
	raw, err := os.ReadFile(file + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(file + ".md")
	if err != nil {
		t.Fatal(err)
	}
	if r.Machine.Kernel == "" || r.Machine.CPU == "" || r.Measure != name || len(r.Sizes) != 1 {
		t.Errorf("%+v", r)
	}
	t.Log("\n" + text.String())
	return r, string(md)
}

func TestTailEndToEnd(t *testing.T) {
	r, markdown := measureSmall(t, "tail", "-rates", "100,max", "-window", "500ms", "-drain", "20s")
	samples := r.Sizes[0].Samples
	if len(samples) != 4 {
		t.Fatalf("%d samples", len(samples))
	}
	for _, x := range samples {
		f := x.Lag
		if f == nil || f.Writes == 0 || f.Kept != f.Writes || !f.Drained || f.Lag.P99 <= 0 || f.Lag.P50 > f.Lag.P99 || f.Put.P50 <= 0 || f.QuietPut.P50 <= 0 || f.Rate <= 0 {
			t.Errorf("%s, %s: implausible figures %+v", x.Case, x.Contender, f)
		}
		if x.Keys < 600 || x.Seconds < 0.5 || x.HelperCPUSeconds <= 0 || x.PeakRSS <= 0 {
			t.Errorf("%s, %s: implausible sample %+v", x.Case, x.Contender, x)
		}
		if f.Rate > 110 && x.Case == "100/s" {
			t.Errorf("%.0f writes/s", f.Rate)
		}
	}
	for _, want := range []string{"| 100/s | understudy |", "| max | make-mirror |", "kernel"} {
		if !strings.Contains(markdown, want) {
			t.Errorf("%q is missing:\n%s", want, markdown)
		}
	}
}
