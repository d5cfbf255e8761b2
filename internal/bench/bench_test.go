package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// TestMain lets the test binary play the roles, as the benchmark's own binary does.
func TestMain(m *testing.M) {
	if runRole(os.Args) {
		return
	}
	os.Exit(m.Run())
}

func TestBenchmarkEndToEnd(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "results")
	profile := filepath.Join(t.TempDir(), "cpu.pprof")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var text, progress bytes.Buffer
	err := run(ctx, []string{"-keys", "600,900", "-runs", "2", "-dir", dir, "-out", out, "-cpuprofile", profile, "-in-flight", "2"}, &text, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
		t.Errorf("no profile: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(out, "base-copy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Sizes) != 2 {
		t.Fatalf("%d sizes", len(r.Sizes))
	}
	for i, keys := range []int{600, 900} {
		s := r.Sizes[i]
		if want := 2 * 4; len(s.Samples) != want {
			t.Errorf("%d keys: %d samples, want %d", keys, len(s.Samples), want)
		}
		if s.IdleRSS <= 0 || s.IdleSeconds <= 0 {
			t.Errorf("%d keys: the idle client has %d bytes after %v s", keys, s.IdleRSS, s.IdleSeconds)
		}
		for _, x := range s.Samples {
			if x.Keys != keys || x.Bytes < int64(keys)*500 || x.Seconds <= 0 || x.PeakRSS <= 0 {
				t.Errorf("%d keys: implausible sample %+v", keys, x)
			}
			if (x.Contender == roleUnderstudy) != (x.Counters != nil) {
				t.Errorf("%d keys: counters of %s: %v", keys, x.Contender, x.Counters)
			}
			if x.Counters != nil && (x.Counters.Puts != int64(keys) || x.DoneSeconds <= 0) {
				t.Errorf("%d keys: counters %+v, done after %v s", keys, *x.Counters, x.DoneSeconds)
			}
		}
		if s.Samples[0].Contender == s.Samples[4].Contender {
			t.Errorf("both runs begin with %s", s.Samples[0].Contender)
		}
	}
	markdown, err := os.ReadFile(filepath.Join(out, "base-copy.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"understudy", "make-mirror", "writer 128x8", "writer 512x4", "InFlight 2"} {
		if !strings.Contains(text.String(), want) || !strings.Contains(string(markdown), want) {
			t.Errorf("%q is missing in the text or the Markdown:\n%s", want, text.String())
		}
	}
}

func TestFlagsThatCannotBe(t *testing.T) {
	for _, c := range []struct{ arg, want string }{
		{"-keys=20000,x", `"x"`}, {"-keys=0", `"0"`}, {"-runs=0", "-runs"}, {"-timeout=0", "-timeout"}, {"-in-flight=-1", "-in-flight"}, {"-measure=speed", `"speed"`}, {"-measure=tail -rates=fast", `"fast"`}, {"-measure=tail -window=0", "-window"}, {"-rates=5", "-rates "}, {"stray", `"stray"`},
	} {
		if err := run(t.Context(), strings.Fields(c.arg), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %s", c.arg, err, c.want)
		}
	}
}

func TestAnEndedBenchmarkLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	started := &trigger{text: "source loaded", fire: cancel}
	if err := run(ctx, []string{"-keys", "2000", "-dir", dir}, io.Discard, started); err == nil {
		t.Error("a cancelled benchmark reports success")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// trigger calls fire when its text has been written.
type trigger struct {
	text string
	fire func()
}

func (g *trigger) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(g.text)) {
		g.fire()
	}
	return len(p), nil
}

func TestComparisonFindsEveryDifference(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	source, target := start(ctx, t), start(ctx, t)
	const n = 2*pageKeys + 17 // several pages
	key := func(i int) string { return prefix + strconv.Itoa(100000+i) }
	for _, client := range []*clientv3.Client{source, target} {
		for i := 0; i < n; i += 100 {
			var ops []clientv3.Op
			for j := i; j < min(n, i+100); j++ {
				ops = append(ops, clientv3.OpPut(key(j), "value"+strconv.Itoa(j)))
			}
			if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := func([]byte) bool { return true }
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(target.Put(ctx, "/understudy/x", "beside the prefix"))
	equal, err := compare(ctx, source, target, all)
	if err != nil || equal.keys != n {
		t.Fatalf("%d equal, %v", equal.keys, err)
	}
	restore := func(i int) { must(target.Put(ctx, key(i), "value"+strconv.Itoa(i))) }
	expect := func(want string, keep func([]byte) bool) {
		t.Helper()
		if _, err := compare(ctx, source, target, keep); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "value") {
			t.Errorf("%v, want %q and no value", err, want)
		}
	}
	for _, i := range []int{0, pageKeys - 1, pageKeys, n - 1} {
		must(target.Delete(ctx, key(i)))
		expect("1 missed, 0 surplus, 0 different", all)
		expect(strconv.Quote(key(i)), all)
		must(compare(ctx, source, target, func(k []byte) bool { return string(k) != key(i) }))
		must(target.Put(ctx, key(i), "other"))
		expect("0 missed, 0 surplus, 1 different", all)
		restore(i)
		must(target.Put(ctx, key(i)+"a", "more"))
		expect("0 missed, 1 surplus, 0 different", all)
		must(target.Delete(ctx, key(i)+"a"))
	}
	expect("0 missed, 1 surplus, 0 different", func(k []byte) bool { return string(k) != key(3) })
	keys, err := census(ctx, source, func(k []byte) bool { return string(k) != key(3) })
	if err != nil || keys != n-1 {
		t.Errorf("census: %d, %v", keys, err)
	}
}

func start(ctx context.Context, t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := embedetcd.Start(ctx, embedetcd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func TestNestedKeepsEveryOperationWithinTheLimits(t *testing.T) {
	for n := 1; n <= 2000; n++ {
		ops := make([]*pb.RequestOp, n)
		for i := range ops {
			ops[i] = &pb.RequestOp{}
		}
		outer := nested(ops)
		if len(outer) > serverTxnOps {
			t.Fatalf("%d operations: %d on the first level", n, len(outer))
		}
		if n <= serverTxnOps {
			continue
		}
		at := 0
		for _, group := range outer {
			inner := group.GetRequestTxn().Success
			if len(inner) > serverTxnOps-len(outer) {
				t.Fatalf("%d operations: %d below %d", n, len(inner), len(outer))
			}
			for _, op := range inner {
				if op != ops[at] {
					t.Fatalf("%d operations: not in order at %d", n, at)
				}
				at++
			}
		}
		if at != n {
			t.Fatalf("%d operations: %d came through", n, at)
		}
	}
}

func TestFiguresOfTheReport(t *testing.T) {
	if got, want := spreadOf([]float64{3, 1, 2}), (spread{2, 1, 3}); got != want {
		t.Errorf("odd: %v", got)
	}
	if got, want := spreadOf([]float64{4, 1, 3, 2}), (spread{2.5, 1, 4}); got != want {
		t.Errorf("even: %v", got)
	}
	s := size{Keys: 100, IdleRSS: 30e6}
	for run, times := range [][4]float64{{1, 20, 0.8, 0.9}, {2, 60, 1.6, 1.5}} { // the machine was slower in the second
		for i, name := range []string{roleUnderstudy, roleMakeMirror, writerShapes[0].String(), writerShapes[1].String()} {
			s.Samples = append(s.Samples, sample{Contender: name, Run: run + 1, Keys: 100, cost: cost{Seconds: times[i], PeakRSS: 80e6, CPUSeconds: 1}})
		}
	}
	r := &result{measure: copyMeasurement, Runs: 2, Machine: machine{CPUs: 2}, Sizes: []size{s}}
	rows := r.rows()
	// 20 and 30 times make-mirror; 0.8/1 and 1.5/2 of the better writer.
	want := []string{"100", "understudy", "1.50 (1.00 to 2.00)", "75", "25.0 (20.0 to 30.0)", "0.78 (0.75 to 0.80)", "1.00", "0.00", "80 (80 to 80)", "50"}
	for i := range want {
		if rows[0][i] != want[i] {
			t.Errorf("%s: %q, want %q", copyColumns[i], rows[0][i], want[i])
		}
	}
	if got := rows[2][8]; got != "-" {
		t.Errorf("the memory of a writer is shown: %s", got)
	}
}

// A target that fills at changing rates is asked seldom, and once it is full soon.
func TestThePacerIsLateByLittle(t *testing.T) {
	const want = 100_000
	start := time.Unix(0, 0)
	for name, held := range map[string]func(s float64) float64{ // keys after so many seconds
		"steady":            func(s float64) float64 { return 40_000 * s },
		"slow start":        func(s float64) float64 { return max(50*s, 40_000*(s-1)) },
		"slow end":          func(s float64) float64 { return min(40_000*s, 60_000+10_000*(s-1.5)) },
		"in steps":          func(s float64) float64 { return 40_000 * float64(int(s*100)) / 100 }, // as transactions come
		"a long pause":      func(s float64) float64 { return min(40_000*s, max(50_000, 40_000*(s-20))) },
		"as slow as can be": func(s float64) float64 { return 1_500 * s },
	} {
		full := 0.0
		for held(full) < want {
			full += 0.001
		}
		p, now, asked := pacer{want: want}, start, 0
		for {
			count := int(held(now.Sub(start).Seconds()))
			if count >= want {
				break
			}
			asked++
			answered := now.Add(5 * time.Millisecond)
			now = answered.Add(p.next(count, now, answered))
		}
		late := now.Sub(start).Seconds() - full
		if late > max(0.05, 0.02*full) || float64(asked) > 40+5*full {
			t.Errorf("%s: full after %.2f s, known %.3f s later, asked %d times", name, full, late, asked)
		}
		t.Logf("%s: full after %.2f s, known %.3f s later, asked %d times", name, full, late, asked)
	}
}

func TestLinesAreHandedOutWhole(t *testing.T) {
	b := &lineBuffer{lines: make(chan string, 8)}
	for _, part := range []string{"on", "e\ntwo\nth", "ree\n"} {
		if n, err := b.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	for _, want := range []string{"one", "two", "three"} {
		if got := <-b.lines; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
