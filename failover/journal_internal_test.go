package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a journal of a run, as bytes.
func sample(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	there := false
	step := Funcs{Name: "a", Observe: func(context.Context) (Observation, error) {
		if there {
			return Observation{State: Done, Detail: "ä \u2028 <&> \"x\""}, nil
		}
		return Observation{State: Pending}, nil
	}, Do: func(ctx context.Context) error {
		there = true
		Note(ctx, "line\nfeed")
		return Save(ctx, "k", map[string]any{"v": "}\n"})
	}}.Step()
	plan, err := NewPlan(PlanConfig{Name: "p", Steps: []Step{step}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(plan, Config{Journal: filepath.Join(dir, "j")})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "j"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A journal that was cut anywhere has the records that were whole; the next runner goes on behind them.
func TestCutAnywhere(t *testing.T) {
	data := sample(t)
	for n := range len(data) + 1 {
		p, err := parseJournal("j", bytes.Clone(data[:n]))
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		whole := bytes.Count(data[:n], []byte("\n"))
		rest := n - (bytes.LastIndexByte(data[:n], '\n') + 1)
		bare := n < len(data) && data[n] == '\n' // only its line feed is missing
		if bare {
			whole++
		}
		if len(p.records) != whole || p.torn != (rest > 0 && !bare) || p.bare != bare {
			t.Fatalf("cut at %d: %d records, torn %v, bare %v; want %d, %v, %v", n, len(p.records), p.torn, p.bare, whole, rest > 0 && !bare, bare)
		}
	}
}

// Opening cuts off what a crash left, also zeros after a power cut, and appends behind it.
func TestOpeningMendsATornLine(t *testing.T) {
	data := sample(t)
	lines := bytes.SplitAfter(data, []byte("\n"))
	for name, tail := range map[string][]byte{
		"half": lines[2][:len(lines[2])/2], "one byte": []byte("{"), "zeros": make([]byte, 300), "half and zeros": append(bytes.Clone(lines[2][:40]), make([]byte, 9)...),
		"no line feed": lines[2][:len(lines[2])-1], "nothing": nil,
	} {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, append(bytes.Join(lines[:2], nil), tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		j, records, err := openJournal(path, false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := 2
		if name == "no line feed" {
			want = 3
		}
		if len(records) != want {
			t.Errorf("%s: %d records", name, len(records))
		}
		if _, err := j.append(context.Background(), Record{Kind: RecordStopped, Detail: "after"}); err != nil {
			t.Fatal(err)
		}
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
		log, err := ReadJournal(path)
		if err != nil || log.Torn || len(log.Records) != want+1 || log.Records[want].Detail != "after" {
			t.Errorf("%s: %v, %+v", name, err, log)
		}
	}
}

// Any other damage is an error that names the line, and changes nothing.
func TestDamageIsAnError(t *testing.T) {
	data := sample(t)
	lines := bytes.SplitAfter(data, []byte("\n"))
	lines = lines[:len(lines)-1]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	other := bytes.SplitAfter(sample(t), []byte("\n"))
	for name, c := range map[string][]byte{
		"another journal's line":  join(lines[0], lines[1], other[2], join(lines[3:]...)),
		"another journal's end":   join(lines[0], lines[1], join(other[2:]...)),
		"a line is missing":       join(lines[0], join(lines[2:]...)),
		"the first is missing":    join(lines[1:]...),
		"a line is doubled":       join(lines[0], lines[1], lines[1], join(lines[2:]...)),
		"lines are swapped":       join(lines[0], lines[2], lines[1], join(lines[3:]...)),
		"an empty line":           join(lines[0], []byte("\n"), join(lines[1:]...)),
		"text at the end":         join(data, []byte("done by hand\n")),
		"text without line feed":  join(data, []byte("done by hand")),
		"JSON at the end":         join(data, []byte(`{"sum":"x"} `)),
		"the last is edited":      join(join(lines[:len(lines)-1]...), bytes.Replace(lines[len(lines)-1], []byte("completed"), []byte("cOmpleted"), 1)),
		"zeros between":           join(lines[0], make([]byte, 10), join(lines[1:]...)),
		"two journals":            join(data, data),
		"a line feed is a space":  bytes.Replace(data, []byte("\n"), []byte(" "), 1),
		"carriage returns":        bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")),
		"the last feed is a tab":  append(bytes.Clone(data[:len(data)-1]), '\t'),
		"a torn line, then more":  join(lines[0][:30], []byte("\n"), lines[1]),
		"not a journal":           []byte("#!/bin/sh\n"),
		"not a journal, one line": []byte("hello"),
	} {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := openJournal(path, true)
		if !errors.Is(err, ErrJournal) || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%s: opened with %v", name, err)
		}
		if _, err := ReadJournal(path); !errors.Is(err, ErrJournal) {
			t.Errorf("%s: read with %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, c) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// No bit of a whole line can change unnoticed.
func TestEachBit(t *testing.T) {
	data := sample(t)
	last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	for i := range data {
		for bit := range 8 {
			c := bytes.Clone(data)
			c[i] ^= 1 << bit
			p, err := parseJournal("j", c)
			if err == nil {
				// Where the last line feed was, all that could be left of its line is a torn one.
				if i == len(data)-1 && p.torn {
					t.Errorf("bit %d of byte %d: taken for a torn line", bit, i)
				}
				t.Fatalf("bit %d of byte %d (the last line begins at %d) went unnoticed", bit, i, last)
			}
		}
	}
}

// FuzzParseJournal: whatever a file holds, what is read of it is what a journal of these records would hold, and the rest is torn or an error.
func FuzzParseJournal(f *testing.F) {
	data := sample(f)
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte(`{"sum":"`))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseJournal("j", bytes.Clone(data))
		if err != nil {
			if !errors.Is(err, ErrJournal) {
				t.Errorf("%v", err)
			}
			return
		}
		if p.good > int64(len(data)) || p.torn && p.bare || len(p.lines) != len(p.records) {
			t.Fatalf("%+v", p)
		}
		whole := bytes.Join(p.lines, nil)
		if p.bare {
			whole = whole[:len(whole)-1]
		}
		if !bytes.Equal(whole, data[:p.good]) {
			t.Errorf("the lines are not the file's beginning")
		}
		again, err := parseJournal("j", whole)
		if err != nil || len(again.records) != len(p.records) || again.sum != p.sum || again.torn {
			t.Errorf("read again: %v, %d records of %d", err, len(again.records), len(p.records))
		}
		if len(p.records) > 0 {
			_, _ = replay("j", p.records)
		}
	})
}

// FuzzReplay: records with right checksums and any content lead to an error or a state that can be shown and decided upon, never to a crash.
func FuzzReplay(f *testing.F) {
	for line := range bytes.Lines(sample(f)) {
		f.Add(line[len(lineHead)+sumLength+len(lineMiddle) : len(line)-len(lineTail)])
	}
	first, _, _ := bytes.Cut(sample(f), []byte("\n"))
	f.Fuzz(func(t *testing.T, record []byte) {
		if bytes.ContainsAny(record, "\n") {
			return
		}
		sum := chainSum(noSum, record)
		single := fmt.Sprintf("%s%s%s%s%s", lineHead, sum, lineMiddle, record, lineTail)
		begin := string(first[len(lineHead) : len(lineHead)+sumLength])
		second := fmt.Sprintf("%s\n%s%s%s%s%s", first, lineHead, chainSum(begin, record), lineMiddle, record, lineTail)
		for _, text := range []string{single, second} {
			log, err := readLog("j", strings.NewReader(text))
			if err != nil {
				if !errors.Is(err, ErrJournal) && !errors.Is(err, ErrNoJournal) {
					t.Errorf("%v", err)
				}
				continue
			}
			_ = log.Status()
			_ = log.Document()
			_ = log.WriteTimeline(&strings.Builder{})
			for _, s := range log.state.doc.Steps {
				_ = Decision{Kind: DecisionApprove, PlanHash: log.Hash(), By: "x", Step: s.Name}.check(log.state.doc, log.Hash(), time.Now())
			}
		}
	})
}

// FuzzParseDecision: a file of the inbox is a decision or an error.
func FuzzParseDecision(f *testing.F) {
	f.Add([]byte(`{"id":"x","kind":"approve","planHash":"h","by":"me","at":"2026-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDecision(raw)
		if err != nil {
			return
		}
		_ = d.check(Document{Name: "p", Steps: []StepDocument{{Name: "a", Kind: KindGate}}}, d.PlanHash, time.Now())
		if len(d.By) > 2*maxText || strings.ContainsRune(d.By, 0) {
			t.Errorf("not clean: %q", d.By)
		}
	})
}

// recorder is a file that notes what is done to it.
type recorder struct {
	file
	did  *[]string
	fail string
}

func (r recorder) WriteAt(b []byte, off int64) (int, error) {
	*r.did = append(*r.did, "write")
	if r.fail == "write" {
		n, _ := r.file.WriteAt(b[:len(b)/2], off)
		return n, errors.New("no space left on device")
	}
	return r.file.WriteAt(b, off)
}

func (r recorder) Sync() error {
	*r.did = append(*r.did, "sync")
	if r.fail == "sync" {
		return errors.New("input/output error")
	}
	return r.file.Sync()
}

// A record is on the disk before append returns, so before what it announces happens.
func TestSyncBeforeAppendReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, err := openJournal(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	var did []string
	j.file = recorder{file: j.file, did: &did}
	j.taken = func(Record) error { did = append(did, "taken"); return nil }
	for range 2 {
		if _, err := j.append(context.Background(), Record{Kind: RecordStopped}); err != nil {
			t.Fatal(err)
		}
		did = append(did, "act")
	}
	if got, want := strings.Join(did, " "), "write sync taken act write sync taken act"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The entry of a new file in its folder is durable before the first record is; so is that of a decision.
func TestTheFoldersEntryIsDurable(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	real := syncDir
	syncDir = func(dir string) error { synced = append(synced, dir); return real(dir) }
	defer func() { syncDir = real }()
	j, _, err := openJournal(filepath.Join(dir, "j"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if len(synced) != 1 || synced[0] != dir {
		t.Errorf("synced %v", synced)
	}
	if _, err := Decide(filepath.Join(dir, "j"), Decision{Kind: DecisionApprove, By: "me", PlanHash: "x"}); err != nil {
		t.Fatal(err)
	}
	if len(synced) != 2 || synced[1] != filepath.Join(dir, "j.inbox") {
		t.Errorf("synced %v", synced)
	}
}

// A file that was moved away, or replaced, between opening and locking is not the journal.
func TestAReplacedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := samePath(f, path); err != nil {
		t.Error(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := samePath(f, path); !errors.Is(err, ErrJournal) {
		t.Errorf("moved: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := samePath(f, path); !errors.Is(err, ErrJournal) {
		t.Errorf("replaced: %v", err)
	}
	if _, _, err := openJournal(filepath.Dir(path), false); !errors.Is(err, ErrJournal) {
		t.Errorf("a folder: %v", err)
	}
}

// After a failed write or sync nothing more is written, and the run does not act. Opening the journal anew finds a torn line at most.
func TestAFailedWriteStopsTheRun(t *testing.T) {
	for _, fail := range []string{"write", "sync"} {
		path := filepath.Join(t.TempDir(), "j")
		j, _, err := openJournal(path, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.append(context.Background(), Record{Kind: RecordStopped, Detail: "first"}); err != nil {
			t.Fatal(err)
		}
		var did []string
		good := j.file
		j.file = recorder{file: good, did: &did, fail: fail}
		for range 2 {
			if _, err := j.append(context.Background(), Record{Kind: RecordStopped, Detail: "second"}); !errors.Is(err, ErrJournal) {
				t.Errorf("%s: %v", fail, err)
			}
		}
		if n := len(did); n > 2 {
			t.Errorf("%s: it went on: %v", fail, did)
		}
		j.file = good
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
		j, records, err := openJournal(path, false)
		if err != nil || len(records) < 1 || records[0].Detail != "first" {
			t.Errorf("%s: opened again: %v, %d records", fail, err, len(records))
		}
		_ = j.close()
	}
}

// The runner stops before Do when the intent cannot be written.
func TestNoIntentNoAct(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	acted := false
	step := Funcs{Name: "a", Observe: func(context.Context) (Observation, error) { return Observation{State: Pending}, nil },
		Do: func(context.Context) error { acted = true; return nil }}.Step()
	plan, err := NewPlan(PlanConfig{Name: "p", Steps: []Step{step}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(plan, Config{Journal: path})
	if err != nil {
		t.Fatal(err)
	}
	err = r.session(context.Background(), true, func(s *session) error {
		if err := s.begin(); err != nil {
			return err
		}
		var did []string
		s.j.file = recorder{file: s.j.file, did: &did, fail: "sync"}
		return s.forward(context.Background())
	})
	if !errors.Is(err, ErrJournal) || acted {
		t.Errorf("acted %v, %v", acted, err)
	}
}

func TestPauses(t *testing.T) {
	r := Retry{Attempts: 9, First: time.Second, Max: 5 * time.Second}
	for failed, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 5 * time.Second, 1000: 5 * time.Second} {
		if got := r.pause(failed); got != want {
			t.Errorf("after %d: %v, want %v", failed, got, want)
		}
	}
}

func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{"  a\nb\tc ": "a\nb\tc", "\x1b[31mred\x1b[0m": "\ufffd[31mred\ufffd[0m", "a\xffb": "a\ufffdb", "bell\a": "bell\ufffd"} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := clean(strings.Repeat("ä", maxText)); len(got) > maxText+20 || !strings.HasSuffix(got, "(cut)") {
		t.Errorf("%d bytes", len(got))
	}
}
