package failover_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// spec is a random plan, written so that a child can make it again and an oracle can tell what has to come of it.
type spec struct {
	Drill  bool
	Undoes bool // on failure
	Steps  []stepSpec
}

type stepSpec struct {
	Name    string
	Parts   int  // effects; 0: a gate
	Already bool // done before the run
	NoUndo  bool
	// Fails is how often Do fails before it acts, Late how often after it acted on all parts but the last. Both are fewer than its attempts.
	Fails, Late int
	// UndoFails is how often Undo fails before it acts.
	UndoFails int
	// Broken: Do always fails, having done nothing. Unverified: Verify always fails. Closed: a gate that stays blocked.
	Broken, Unverified, Closed bool
	Approve                    bool // needs an approval, which lies there
}

const specAttempts = 4

func randomSpec(rnd *rand.Rand) spec {
	s := spec{Drill: rnd.IntN(5) == 0, Undoes: rnd.IntN(2) == 0}
	n, stuck := 2+rnd.IntN(4), -1
	if rnd.IntN(2) == 0 {
		stuck = rnd.IntN(n)
	}
	for i := range n {
		st := stepSpec{Name: fmt.Sprintf("s%d", i), Parts: rnd.IntN(4)}
		if st.Parts > 0 {
			st.Already = rnd.IntN(6) == 0
			st.NoUndo = !s.Drill && rnd.IntN(5) == 0
			st.Approve = rnd.IntN(4) == 0
			if rnd.IntN(3) == 0 {
				st.Fails = rnd.IntN(specAttempts)
				st.Late = rnd.IntN(specAttempts - st.Fails)
			}
			if rnd.IntN(3) == 0 {
				st.UndoFails = rnd.IntN(specAttempts)
			}
		}
		if i == stuck {
			switch {
			case st.Parts == 0:
				st.Closed = true
			case rnd.IntN(2) == 0 && !st.Already:
				st.Broken = true
			default:
				st.Unverified = true
			}
		}
		s.Steps = append(s.Steps, st)
	}
	return s
}

// plan makes the plan. How often something failed is kept in the world, as everything that has to survive a kill.
func (s spec) plan(b *bomb, w witness) failover.PlanConfig {
	cfg := failover.PlanConfig{Name: "random", Mode: failover.ModeGraceful, OnFailure: failover.FailureStop}
	if s.Drill {
		cfg.Mode = failover.ModeDrill
	}
	if s.Undoes {
		cfg.OnFailure = failover.FailureUndo
	}
	for _, st := range s.Steps {
		cfg.Steps = append(cfg.Steps, st.step(b, w))
	}
	return cfg
}

func (st stepSpec) step(b *bomb, w witness) failover.Step {
	if st.Parts == 0 {
		return failover.Check(st.Name, func(context.Context) (failover.Observation, error) {
			if st.Closed {
				return failover.Observation{State: failover.Blocked, Detail: "closed"}, nil
			}
			return failover.Observation{State: failover.Done}, nil
		}, failover.Description{})
	}
	tries := witness(string(w) + ".tries")
	f := b.parts(w, st.Name, st.Parts)
	do, undo := f.Do, f.Undo
	f.Do = func(ctx context.Context) error {
		n := tries.count(st.Name)
		if st.Broken || n < st.Fails {
			tries.write(st.Name)
			return errors.New("not now")
		}
		if n < st.Fails+st.Late {
			tries.write(st.Name)
			if part := st.Name + "/0"; st.Parts > 1 && !w.there(part) {
				w.write("do:" + part)
			}
			return errors.New("torn off")
		}
		return do(ctx)
	}
	f.Undo = func(ctx context.Context) error {
		if name := "undo-" + st.Name; tries.count(name) < st.UndoFails {
			tries.write(name)
			return errors.New("not now")
		}
		return undo(ctx)
	}
	if st.NoUndo {
		f.Undo = nil
	}
	if st.Unverified {
		f.Verify = func(context.Context) error { return errors.New("nobody answers") }
	}
	if st.Approve {
		f.Approval = failover.Approval{Role: "lead"}
	}
	f.Retry = failover.Retry{Attempts: specAttempts, First: time.Millisecond, Max: time.Millisecond}
	return b.wrap(f).Step()
}

// expect is the oracle: what the witness has to have seen in the end, and how the run and a later undo have to end, however often they were killed.
func (s spec) expect() (lines []string, result string, undoLines []string, undoResult string) {
	var done []stepSpec // by the run
	back := func() (lines []string) {
		for _, st := range slices.Backward(done) {
			for i := st.Parts - 1; i >= 0; i-- {
				lines = append(lines, fmt.Sprintf("undo:%s/%d", st.Name, i))
			}
		}
		return lines
	}
	stuck := ""
	for _, st := range s.Steps {
		if st.Closed {
			stuck = "blocked"
			break
		}
		if st.Broken {
			stuck = "failed"
			break
		}
		if st.Parts > 0 && !st.Already {
			for i := range st.Parts {
				lines = append(lines, fmt.Sprintf("do:%s/%d", st.Name, i))
			}
			done = append(done, st)
		}
		if st.Unverified {
			stuck = "not-verified"
			break
		}
	}
	noReturn := slices.ContainsFunc(done, func(st stepSpec) bool { return st.NoUndo })
	switch {
	case stuck == "" && s.Drill:
		return append(lines, back()...), "complete", nil, "ended"
	case stuck != "" && s.Undoes && !noReturn:
		return append(lines, back()...), "undone", nil, "ended"
	case stuck != "":
		result = stuck
	default:
		result = "complete"
	}
	if noReturn {
		return lines, result, nil, "no-return"
	}
	return lines, result, back(), "complete"
}

func specPlan(text string, b *bomb, w witness) (failover.PlanConfig, error) {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return failover.PlanConfig{}, err
	}
	return s.plan(b, w), nil
}

// schedules runs f with random seeds. UNDERSTUDY_SEED repeats one, UNDERSTUDY_SCHEDULES runs that many.
func schedules(t *testing.T, n int, f func(t *testing.T, rnd *rand.Rand)) {
	t.Helper()
	number := func(name string) (uint64, bool) {
		text := os.Getenv(name)
		if text == "" {
			return 0, false
		}
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s is %q: set it to a number", name, text)
		}
		return v, true
	}
	if many, ok := number("UNDERSTUDY_SCHEDULES"); ok {
		n = int(many)
	}
	first, repeat := number("UNDERSTUDY_SEED")
	if repeat {
		n = 1
	} else {
		first = rand.Uint64()
	}
	for i := range n {
		seed := first + uint64(i)
		f(t, rand.New(rand.NewPCG(seed, seed)))
		if t.Failed() {
			t.Fatalf("UNDERSTUDY_SEED=%d repeats it", seed)
		}
	}
}

// Random plans, with steps that fail for a while or for good, run and undone by processes that are killed again and again: in the end the witness has seen what the oracle says, each effect once.
func TestRandomPlansKilledAtRandom(t *testing.T) {
	ctx := testutil.Context(t)
	kills := 0
	schedules(t, 15, func(t *testing.T, rnd *rand.Rand) {
		s := randomSpec(rnd)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t)
		plan := l.plan(s.plan(&bomb{}, l.witness))
		for _, st := range s.Steps {
			if st.Already {
				for i := range st.Parts {
					l.write(fmt.Sprintf("do:%s/%d", st.Name, i))
				}
			}
			if st.Approve {
				if _, err := failover.Decide(l.journal, failover.Decision{Kind: failover.DecisionApprove, PlanHash: plan.Hash(), Step: st.Name, By: "test", Role: "lead"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := len(l.lines())
		lines, result, undoLines, undoResult := s.expect()
		for _, phase := range []struct {
			verb   string
			lines  []string
			result string
		}{{"", lines, result}, {"undo", append(lines, undoLines...), undoResult}} {
			for range rnd.IntN(4) {
				if log, err := failover.ReadJournal(l.journal); err == nil && log.Status().State == failover.RunEnded && phase.verb == "" {
					break
				}
				boundary, _ := killed(t, ctx, "DIR="+l.dir, "SPEC="+string(text), "VERB="+phase.verb, fmt.Sprintf("KILL_AT=%d", 1+rnd.IntN(24)))
				if boundary != "" {
					kills++
				}
			}
			r := l.runner(l.plan(s.plan(&bomb{}, l.witness)), failover.Config{})
			if phase.verb == "undo" {
				err = r.Undo(ctx, failover.UndoOptions{})
			} else {
				err = r.Run(ctx)
			}
			got, want := resultOf(err), phase.result
			if ended := l.log().Status().State == failover.RunEnded; got == "ended" && ended { // a child came to the end, and said so
				got = want
			}
			if got != want {
				t.Errorf("%s %q, want %q: %v", phase.verb, got, want, err)
			}
			if seen := l.lines()[before:]; !slices.Equal(seen, phase.lines) {
				t.Errorf("after %q the witness saw %v, want %v", phase.verb, seen, phase.lines)
			}
		}
		if t.Failed() {
			t.Logf("plan %s", text)
			var b strings.Builder
			_ = l.log().WriteTimeline(&b)
			t.Log(b.String())
		}
	})
	t.Logf("%d kills", kills)
}
