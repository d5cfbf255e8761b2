package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// One run makes all measurements in small; each then looks at its own reports.
func TestAllMeasurementsInOneRun(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "results")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var text, progress bytes.Buffer
	if err := run(ctx, []string{"-measure", "all", "-quick", "-keys", strconv.Itoa(suiteKeys), "-rates", "100,max", "-window", "500ms", "-drain", "20s", "-backlog", "1500",
		"-idle-window", "400ms", "-delay", "5ms", "-in-flight", "2", "-dir", dir, "-out", out}, &text, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	t.Log("\n" + text.String())
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	looks := map[string]func(*testing.T, []sample, string){"tail": lookAtTail, "backlog": lookAtBacklog, "resync": lookAtResync, "idle": lookAtIdle, "wan": lookAtWan}
	for _, name := range measurementOrder {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(out, measurements[name].file)
			raw, err := os.ReadFile(file + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var r result
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatal(err)
			}
			markdown, err := os.ReadFile(file + ".md")
			if err != nil {
				t.Fatal(err)
			}
			if r.Machine.Kernel == "" || r.Machine.CPU == "" || r.Measure != name || r.Runs != 1 || len(r.Sizes) != 1 || !strings.Contains(string(markdown), "kernel") ||
				strings.Contains(string(markdown), "InFlight 2") != (name != "check") {
				t.Errorf("%+v\n%s", r, markdown)
			}
			if look := looks[name]; look != nil {
				look(t, r.Sizes[0].Samples, string(markdown))
			}
		})
	}
	markdown, err := os.ReadFile(filepath.Join(out, "summary.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| base copy | keys/s |", "| lag p50, 100/s | ms |", "| backlog | revisions/s |", "| resync after a compaction |", "| idle, CPU |", "| wan, base copy, received / kept |"} {
		if !strings.Contains(string(markdown), want) || !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing:\n%s", want, markdown)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "summary.json")); err != nil {
		t.Error(err)
	}
}

const suiteKeys = 600

func lookAtTail(t *testing.T, samples []sample, markdown string) {
	if len(samples) != 4 {
		t.Fatalf("%d samples", len(samples))
	}
	for _, x := range samples {
		f := x.Lag
		if f == nil || f.Writes == 0 || f.Kept != f.Writes || !f.Drained || f.Lag.P99 <= 0 || f.Lag.P50 > f.Lag.P99 || f.Put.P50 <= 0 || f.QuietPut.P50 <= 0 || f.Rate <= 0 {
			t.Errorf("%s, %s: implausible figures %+v", x.Case, x.Contender, f)
		}
		if x.Keys < suiteKeys || x.Seconds < 0.5 || x.HelperCPUSeconds <= 0 || x.PeakRSS <= 0 {
			t.Errorf("%s, %s: implausible sample %+v", x.Case, x.Contender, x)
		}
		if f.Rate > 110 && x.Case == "100/s" {
			t.Errorf("%.0f writes/s", f.Rate)
		}
	}
	for _, want := range []string{"| 100/s | understudy |", "| max | make-mirror |"} {
		if !strings.Contains(markdown, want) {
			t.Errorf("%q is missing:\n%s", want, markdown)
		}
	}
}

func lookAtBacklog(t *testing.T, samples []sample, _ string) {
	if len(samples) != 4 {
		t.Fatalf("%d samples", len(samples))
	}
	for _, x := range samples {
		if x.Revisions != 1500 || x.Keys < suiteKeys || x.Seconds <= 0 || x.PeakRSS <= 0 {
			t.Errorf("%s: implausible sample %+v", x.Contender, x)
		}
		if x.Counters != nil && (x.Counters.Resyncs != 0 || x.Counters.Transactions == 0) {
			t.Errorf("Understudy has not continued: %+v", *x.Counters)
		}
	}
}

func lookAtResync(t *testing.T, samples []sample, markdown string) {
	if len(samples) != 2 {
		t.Fatalf("%d samples", len(samples))
	}
	for _, x := range samples {
		zombies := 0
		if x.Contender == roleMakeMirror {
			zombies = 1
		}
		// 6 updates, a delete, a create and the last.
		if x.Changes < 8 || x.Changes > 9 || x.Zombies != zombies || x.Keys < suiteKeys || x.Seconds <= 0 {
			t.Errorf("%s: implausible sample %+v", x.Contender, x)
		}
		if n := x.Counters; n != nil && (n.Resyncs != 1 || n.Puts > 20) {
			t.Errorf("no resync of the difference: %+v", *n)
		}
	}
	if !strings.Contains(markdown, "dead keys left") {
		t.Error(markdown)
	}
}

func lookAtIdle(t *testing.T, samples []sample, _ string) {
	if len(samples) != 3 {
		t.Fatalf("%d samples", len(samples))
	}
	for _, x := range samples {
		if x.Seconds < 0.4 || x.PeakRSS <= 0 || (x.Keys == 0) != (x.Contender == nobody) {
			t.Errorf("%s: implausible sample %+v", x.Contender, x)
		}
	}
}

func lookAtWan(t *testing.T, samples []sample, markdown string) {
	if len(samples) != 6 {
		t.Fatalf("%d samples", len(samples))
	}
	for _, x := range samples {
		tail := x.Case == caseWanTail()
		if (x.Lag != nil) != tail || x.Seconds <= 0 || x.HelperCPUSeconds < 0 {
			t.Errorf("%s, %s: implausible sample %+v", x.Case, x.Contender, x)
		}
		if w := x.Wire; w == nil || w.Received < w.Kept || w.Kept < 10_000 || w.Sent <= 0 {
			t.Errorf("%s, %s: implausible bytes %+v", x.Case, x.Contender, w)
		}
		if f := x.Lag; f != nil && (f.Kept*3 > f.Writes || f.Kept == 0 || f.Drained && f.Lag.P50 < 5) {
			t.Errorf("%s, %s: implausible figures %+v", x.Case, x.Contender, *f)
		}
		all := x.Contender == roleMakeMirror
		if drained := !tail || x.Lag.Drained; drained && (x.Keys > suiteKeys+50) != all {
			t.Errorf("%s, %s: %d keys", x.Case, x.Contender, x.Keys)
		}
	}
	for _, want := range []string{"| base copy |", "| tail, 1000/s |", "received / kept", "delays by 5 ms"} {
		if !strings.Contains(markdown, want) {
			t.Errorf("%q is missing:\n%s", want, markdown)
		}
	}
}

// A turn that fails is in the report and not in the figures, the others are, and the whole run fails.
func TestFailedTurnsAreReported(t *testing.T) {
	s := size{Keys: 100}
	for run, failed := range []string{"", "the target differs:\n  1 missed", ""} {
		took := float64(run + 1)
		if failed != "" {
			took = 50
		}
		s.Samples = append(s.Samples,
			sample{Contender: roleUnderstudy, Run: run + 1, Keys: 100, Failed: failed, cost: cost{Seconds: took}},
			sample{Contender: roleMakeMirror, Run: run + 1, Keys: 100, cost: cost{Seconds: 10 * float64((run+1)*(run+1))}})
	}
	r := &result{measure: copyMeasurement, Measure: "copy", Runs: 3, Machine: machine{CPUs: 2}, Sizes: []size{s}}
	// 10/1 and 90/3; the second run has no ratio.
	if row := r.rows()[0]; row[2] != "2.00 (1.00 to 3.00)" || row[4] != "20.0 (10.0 to 30.0)" || row[5] != "-" {
		t.Errorf("%q", row)
	}
	const want = "100 keys, understudy, run 2: the target differs: 1 missed"
	if !strings.Contains(r.markdown(), "FAILED, not in the table: "+want) {
		t.Error(r.markdown())
	}
	if err := r.failures(); err == nil || !strings.Contains(err.Error(), "copy: "+want) {
		t.Error(err)
	}
	r.Sizes[0].Samples[2].Failed = ""
	if err := r.failures(); err != nil {
		t.Error(err)
	}
}

// A target that differs after a turn fails the turn, and the benchmark goes on.
func TestATurnThatLeavesADifferenceFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cfg, err := parseFlags([]string{"-measure", "tail", "-dir", t.TempDir(), "-window", "100ms"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBench(cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var s size
	c := b.mirrors()[0]
	if err := b.turn(ctx, &s, "100/s", c, 1, func(ctx context.Context) (x sample, err error) {
		err = b.withStage(ctx, 100, stage{}, func(g *stage) error {
			if _, err := g.target.client.Put(ctx, prefix+"stray", "not the source's"); err != nil {
				return err
			}
			x, err = b.measureTail(ctx, g, c, 1, 100)
			return err
		})
		return x, err
	}); err != nil {
		t.Fatal(err)
	}
	if x := s.Samples[0]; !strings.Contains(x.Failed, "1 surplus") || !strings.Contains(x.Failed, prefix+"stray") {
		t.Errorf("%+v", x)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}

func TestLanesKeepTheOrderOfEachKey(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	l := lane{most: 7}
	var want []string
	for i := range 1000 {
		ev := &clientv3.Event{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: fmt.Appendf(nil, "key-%d", rng.IntN(20)), Value: fmt.Append(nil, i)}}
		if rng.IntN(5) == 0 {
			ev.Type, ev.Kv.Value = clientv3.EventTypeDelete, nil
		}
		if i == 500 {
			ev.Kv.Value = make([]byte, writerBytes)
		}
		l.add(ev)
		want = append(want, fmt.Sprint(string(ev.Kv.Key), len(ev.Kv.Value), ev.Type == clientv3.EventTypeDelete))
	}
	l.flush()
	var got []string
	for _, request := range l.requests {
		seen := map[string]bool{}
		for _, op := range request.Success {
			key, size := string(op.GetRequestPut().GetKey()), len(op.GetRequestPut().GetValue())
			del := op.GetRequestDeleteRange() != nil
			if del {
				key = string(op.GetRequestDeleteRange().Key)
			}
			if seen[key] {
				t.Fatalf("%s twice in one transaction", key)
			}
			seen[key] = true
			got = append(got, fmt.Sprint(key, size, del))
		}
		if len(seen) > 7 {
			t.Errorf("%d operations", len(seen))
		}
	}
	if !slices.Equal(got, want) {
		t.Error("another order")
	}
}
