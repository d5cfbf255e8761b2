package failover_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares text with testdata/name.
func golden(t *testing.T, name string, text []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, text, want)
	}
}

// witness is a file outside of the runner in which effects leave a line each: what happened, how often and in which order.
type witness string

func (w witness) write(line string) {
	f, err := os.OpenFile(string(w), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.WriteString(line + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

func (w witness) lines() []string {
	data, err := os.ReadFile(string(w))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	return strings.Fields(string(data))
}

func (w witness) count(line string) (n int) {
	for _, l := range w.lines() {
		if l == line {
			n++
		}
	}
	return n
}

// there reports whether an effect is in the world: as often done as not undone.
func (w witness) there(effect string) bool { return w.count("do:"+effect) > w.count("undo:"+effect) }

// effect makes a naive step: Do and Undo leave a line each time they are called. Only a runner that looks first keeps the lines right.
func (w witness) effect(name string) failover.Funcs {
	return failover.Funcs{
		Name:        name,
		Description: failover.Description{Action: "Do " + name, Undo: "Take back " + name, Inputs: map[string]any{"name": name}},
		Observe: func(context.Context) (failover.Observation, error) {
			if w.there(name) {
				return failover.Observation{State: failover.Done, Detail: "it is there"}, nil
			}
			return failover.Observation{State: failover.Pending, Detail: "it is not there"}, nil
		},
		Do:   func(context.Context) error { w.write("do:" + name); return nil },
		Undo: func(context.Context) error { w.write("undo:" + name); return nil },
	}
}

func (w witness) irreversible(name string) failover.Funcs {
	f := w.effect(name)
	f.Undo = nil
	return f
}

// lab is a folder with a journal and a witness.
type lab struct {
	t       *testing.T
	dir     string
	journal string
	witness
	seen int // observations, where a test counts them
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	return &lab{t: t, dir: dir, journal: filepath.Join(dir, "run.journal"), witness: witness(filepath.Join(dir, "witness"))}
}

func (l *lab) plan(cfg failover.PlanConfig) *failover.Plan {
	l.t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	p, err := failover.NewPlan(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *lab) runner(p *failover.Plan, cfg failover.Config) *failover.Runner {
	l.t.Helper()
	if cfg.Journal == "" {
		cfg.Journal = l.journal
	}
	if cfg.Poll == 0 {
		cfg.Poll = 2 * time.Millisecond
	}
	r, err := failover.New(p, cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func steps(funcs ...failover.Funcs) (all []failover.Step) {
	for _, f := range funcs {
		all = append(all, f.Step())
	}
	return all
}

// wantLines compares all that the witness saw.
func (l *lab) wantLines(want ...string) {
	l.t.Helper()
	if got := l.lines(); !slices.Equal(got, want) {
		l.t.Errorf("the witness saw %v, want %v", got, want)
	}
}

// wantError checks an error's kind, step and text.
func wantError(t *testing.T, err error, kind error, step string, parts ...string) {
	t.Helper()
	var e *failover.Error
	if !errors.Is(err, kind) || !errors.As(err, &e) {
		t.Errorf("got error %v, want %q", err, kind)
		return
	}
	if step != "" && e.Step != step {
		t.Errorf("error is about step %q, want %q: %v", e.Step, step, err)
	}
	if e.Hint == "" && e.Kind != failover.ErrNoJournal {
		t.Errorf("no hint: %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
}

func (l *lab) log() *failover.Log {
	l.t.Helper()
	log, err := failover.ReadJournal(l.journal)
	if err != nil {
		l.t.Fatal(err)
	}
	return log
}

// states are the steps of a status, as name=state.
func states(s failover.Status) string {
	var all []string
	for _, step := range s.Steps {
		all = append(all, fmt.Sprintf("%s=%s", step.Name, step.State))
	}
	return strings.Join(all, " ")
}

// wantStates checks the steps in the journal, which have to be those of the runner's status as well.
func (l *lab) wantStates(r *failover.Runner, want string) {
	l.t.Helper()
	if got := states(l.log().Status()); got != want {
		l.t.Errorf("the journal says %s, want %s", got, want)
	}
	if r != nil {
		if got := states(r.Status()); got != want {
			l.t.Errorf("the runner says %s, want %s", got, want)
		}
	}
}

// records are a journal's records of some kinds.
func (l *lab) records(kinds ...failover.RecordKind) (all []failover.Record) {
	l.t.Helper()
	for _, r := range l.log().Records {
		if slices.Contains(kinds, r.Kind) {
			all = append(all, r)
		}
	}
	return all
}
