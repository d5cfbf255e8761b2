package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheckEndToEnd(t *testing.T) {
	for name, c := range map[string]struct {
		keys, runs string
		filter     bool
	}{
		"all":    {"600,1700", "2", false}, // two pages of the readers
		"filter": {"1300", "1", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, out := t.TempDir(), filepath.Join(t.TempDir(), "results")
			profile := filepath.Join(t.TempDir(), "cpu.pprof")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var text, progress bytes.Buffer
			args := []string{"-measure", "check", "-keys", c.keys, "-runs", c.runs, "-dir", dir, "-out", out, "-cpuprofile", profile}
			if c.filter {
				args = append(args, "-filter")
			}
			if err := run(ctx, args, &text, &progress); err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
				t.Errorf("no profile: %v", err)
			}
			var names []string
			files, err := os.ReadDir(out)
			for _, f := range files {
				names = append(names, f.Name())
			}
			if err != nil || !slices.Equal(names, []string{"check.json", "check.md"}) {
				t.Fatalf("files %v, %v", names, err)
			}
			raw, err := os.ReadFile(filepath.Join(out, "check.json"))
			if err != nil {
				t.Fatal(err)
			}
			var r result
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatal(err)
			}
			if want := strings.Count(c.keys, ",") + 1; len(r.Sizes) != want {
				t.Fatalf("%d sizes, want %d", len(r.Sizes), want)
			}
			for _, s := range r.Sizes {
				checkSamples(t, s, r.Runs, c.filter)
			}
			markdown, err := os.ReadFile(filepath.Join(out, "check.md"))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append([]string{"of the faster read", "of read-keys"}, roleReadStream, roleReadPages, roleReadKeys, roleCheckContent, roleCheckKeys) {
				if !strings.Contains(text.String(), want) || !strings.Contains(string(markdown), want) {
					t.Errorf("%q is missing in the text or the Markdown:\n%s", want, text.String())
				}
			}
		})
	}
}

// checkSamples says what the samples of one size must be, whatever the measurement itself demanded of them.
func checkSamples(t *testing.T, s size, runs int, filter bool) {
	t.Helper()
	if len(s.Samples) != runs*len(checkContenders) || s.IdleRSS <= 0 {
		t.Errorf("%d keys: %d samples, an idle client of %d bytes", s.Keys, len(s.Samples), s.IdleRSS)
	}
	for _, x := range s.Samples {
		n := x.Seen
		if n == nil || x.Seconds <= 0 || x.PeakRSS <= 0 || x.Bytes < int64(x.Keys)*500 {
			t.Errorf("%d keys: implausible sample %+v", s.Keys, x)
			continue
		}
		reader := strings.HasPrefix(x.Contender, "read-")
		if n.TargetKeys != x.Keys || n.SourceKeys+n.Filtered != s.Keys || (x.Keys < s.Keys) != filter || (n.Filtered > 0) != (filter && !reader) {
			t.Errorf("%d keys: %s compared %d and has seen %+v", s.Keys, x.Contender, x.Keys, *n)
		}
		values := x.Contender != roleReadKeys && x.Contender != roleCheckKeys
		if values && n.ValueBytes < x.Bytes || !values && n.ValueBytes != 0 {
			t.Errorf("%d keys: %s has read %d bytes of values; each side has %d with its keys", s.Keys, x.Contender, n.ValueBytes, x.Bytes)
		}
	}
}

// What is measured must notice sides that differ, and a reader that leaves something out.
func TestACheckOfUnequalSidesFailsTheRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cfg, err := parseFlags([]string{"-measure", "check", "-dir", t.TempDir()}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBench(cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	const keys = 300
	err = b.withEtcd(ctx, func(source *server) error {
		return b.withEtcd(ctx, func(target *server) error {
			if err := b.load(ctx, source, roleFlags{keys: keys}); err != nil {
				return err
			}
			all, equal, err := b.makeEqual(ctx, source, target)
			if err != nil {
				return err
			}
			const extra, secret = prefix + "zz", "never to be printed"
			if _, err := target.client.Put(ctx, extra, secret); err != nil {
				return err
			}
			for _, c := range checkContenders {
				x, err := b.measureCheck(ctx, source, target, c, 1)
				if strings.HasPrefix(c.role, "check-") {
					if err == nil || !strings.Contains(err.Error(), "0 missed, 1 surplus, 0 different") || !strings.Contains(err.Error(), extra) || strings.Contains(err.Error(), secret) {
						t.Errorf("%s: %v", c.name, err)
					}
					continue
				}
				if err != nil {
					return err
				}
				want := expected(c.role, all, equal)
				if err := x.Seen.verify(want); err == nil {
					t.Errorf("%s: a key too many is not noticed", c.name)
				}
				want.TargetKeys++
				if want.ValueBytes > 0 {
					want.ValueBytes += int64(len(secret))
				}
				if err := x.Seen.verify(want); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}

func TestCheckFiguresFollowFromTheSamples(t *testing.T) {
	s := size{Keys: 100, IdleRSS: 30e6}
	// In the second run the machine was slower, and the pages were the faster way to read.
	for run, times := range [][5]float64{{1, 2, 0.5, 2.5, 1}, {5, 4, 1, 8, 4}} {
		for i, c := range checkContenders {
			s.Samples = append(s.Samples, sample{Contender: c.name, Run: run + 1, Keys: 100,
				cost: cost{Seconds: times[i], PeakRSS: 80e6, CPUSeconds: 1, SourceCPUSeconds: 2, TargetCPUSeconds: 3}})
		}
	}
	rows := (&result{measure: checkMeasurement, Runs: 2, Machine: machine{CPUs: 2}, Sizes: []size{s}}).rows()
	for i, want := range [][]string{
		{"100", "read-stream", "3.00 (1.00 to 5.00)", "60", "-", "-", "-", "1.00", "2.00", "3.00", "80 (80 to 80)", "50"},
		{"100", "read-pages", "3.00 (2.00 to 4.00)", "38", "-", "-", "-", "1.00", "2.00", "3.00", "80 (80 to 80)", "50"},
		{"100", "read-keys", "0.75 (0.50 to 1.00)", "150", "-", "-", "-", "1.00", "2.00", "3.00", "80 (80 to 80)", "50"},
		// 1/2.5 and 4/8 of the faster, 2/2.5 and 5/8 of the slower.
		{"100", "check-content", "5.25 (2.50 to 8.00)", "26", "0.45 (0.40 to 0.50)", "0.71 (0.62 to 0.80)", "-", "1.00", "2.00", "3.00", "80 (80 to 80)", "50"},
		{"100", "check-keys", "2.50 (1.00 to 4.00)", "62", "-", "-", "0.38 (0.25 to 0.50)", "1.00", "2.00", "3.00", "80 (80 to 80)", "50"},
	} {
		if !slices.Equal(rows[i], want) || len(want) != len(checkColumns) {
			t.Errorf("%q, want %q", rows[i], want)
		}
	}
}

func TestNobodyAlwaysFollowsTheSame(t *testing.T) {
	firsts, before := map[string]bool{}, map[string]map[string]bool{}
	for run := 1; run <= len(checkContenders); run++ {
		order := checkOrder(run)
		names := map[string]bool{}
		for i, c := range order {
			names[c.name] = true
			if i > 0 {
				if before[c.name] == nil {
					before[c.name] = map[string]bool{}
				}
				before[c.name][order[i-1].name] = true
			}
		}
		if len(names) != len(checkContenders) {
			t.Errorf("run %d: %v", run, order)
		}
		firsts[order[0].name] = true
	}
	for _, c := range checkContenders {
		if !firsts[c.name] || len(before[c.name]) < 2 {
			t.Errorf("%s is first: %t; comes after %v", c.name, firsts[c.name], before[c.name])
		}
	}
}

func TestFlagsThatDoNotConcernACheck(t *testing.T) {
	for _, arg := range []string{"-skip-make-mirror", "-in-flight=2", "-batch-ops=5", "-batch-bytes=0"} {
		name, _, _ := strings.Cut(arg, "=")
		if err := run(t.Context(), []string{"-measure", "check", arg}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s: %v", arg, err)
		}
	}
}
