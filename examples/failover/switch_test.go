package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/examples/failover/inventory"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"mirrorctl": mirrorctl, "runner": runner})
	testutil.Main(m)
}

// runner is a child that carries a plan out. With a file for its deaths it kills itself at each boundary of each step at which no runner has died before: when something was observed, before and after the act,
// and when a record is durable. It ends with 3 where a person is waited for.
func runner() int {
	ctx := context.Background()
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	inv, err := inventory.Load(os.Args[1], "", "")
	if err != nil {
		return fail(err)
	}
	site, err := inv.Open(ctx, os.Args[2])
	if err != nil {
		return fail(err)
	}
	defer site.Close()
	plan, err := site.Plan(os.Args[2])
	if err != nil {
		return fail(err)
	}
	d := deaths{path: os.Args[4]}
	r, err := failover.New(plan, failover.Config{Journal: os.Args[3], Copy: site.Copy(), NoWait: true, BlockedWait: 30 * time.Second, By: "test", Hooks: failover.Hooks{
		Recorded: d.recorded, Observed: d.observed}})
	if err != nil {
		return fail(err)
	}
	if os.Args[5] == "undo" {
		err = r.Undo(ctx, failover.UndoOptions{By: "test", Reason: "a test"})
	} else {
		err = r.Run(ctx)
	}
	switch {
	case errors.Is(err, failover.ErrWaiting):
		return 3
	case err != nil:
		return fail(err)
	}
	return 0
}

// deaths are where runners have died, as lines of a file.
type deaths struct {
	path string // "" lets runners live

	mu    sync.Mutex
	acted string // the step whose intent this runner has recorded
}

func (d *deaths) recorded(i failover.RecordedInfo) {
	r := i.Record
	d.mu.Lock()
	if r.Kind == failover.RecordIntent {
		d.acted = r.Step
	}
	d.mu.Unlock()
	d.at(fmt.Sprintf("%s: %s %s is recorded", r.Step, r.Kind, r.Key))
}

func (d *deaths) observed(i failover.ObservedInfo) {
	d.mu.Lock()
	when := "before"
	if d.acted == i.Step {
		when = "after"
	}
	d.mu.Unlock()
	d.at(fmt.Sprintf("%s: observed %s the act", i.Step, when))
}

func (d *deaths) at(where string) {
	if d.path == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before, err := os.ReadFile(d.path)
	if err != nil || slices.Contains(strings.Split(string(before), "\n"), where) {
		return
	}
	if err := os.WriteFile(d.path, append(before, where+"\n"...), 0o600); err != nil {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// carryOut runs a plan to its end, by runners that are killed or left alone. What a person is asked for is done at once. It returns how many runners were killed.
func (w *world) carryOut(book, journal string, kill bool) (killed int) {
	w.t.Helper()
	return w.carry(book, journal, kill, "")
}

// carry is carryOut, but that a plan is undone when it waits for a person at a step.
func (w *world) carry(book, journal string, kill bool, turnAt string) (killed int) {
	w.t.Helper()
	verb := "run"
	journal = filepath.Join(w.dir, journal)
	died := ""
	if kill {
		died = journal + ".deaths"
		w.write(w.dir, filepath.Base(died), "")
	}
	for round := 0; ; round++ {
		if round > 1000 {
			w.t.Fatal("the plan does not end")
		}
		p := proc.Start(w.t, "runner", nil, filepath.Join(w.dir, "inventory.yaml"), book, journal, died, verb)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		err := p.Wait(ctx)
		cancel()
		log, readErr := failover.ReadJournal(journal)
		if readErr != nil && !errors.Is(readErr, failover.ErrNoJournal) {
			w.t.Fatal(readErr)
		}
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		}
		switch {
		case err == nil:
			return killed
		case code == 3 && turnAt != "" && log.Status().Waiting.Step == turnAt:
			verb = "undo"
		case code == 3:
			w.decide(journal, log.Status())
		case err != nil && code == 0:
			w.t.Fatalf("the runner does not end: %v: %s", err, p.Output())
		case code == -1: // by the signal
			killed++
		case strings.Contains(p.Output(), failover.ErrEnded.Error()): // the last record was the last act of the one before; the copy in the etcd has it now, too
			return killed
		case strings.Contains(p.Output(), failover.ErrBusy.Error()): // a runner of this plan died with another journal: its lock in the etcd ends by its time to live
			time.Sleep(500 * time.Millisecond)
		default:
			w.t.Fatalf("the runner ended with %d: %s", code, p.Output())
		}
	}
}

// decide does what is waited for.
func (w *world) decide(journal string, s failover.Status) {
	w.t.Helper()
	d := failover.Decision{PlanHash: s.Hash, Step: s.Waiting.Step, By: "test", Role: s.Waiting.Role}
	switch s.Waiting.For {
	case failover.NeedConfirmation:
		d.Kind = failover.DecisionConfirm
	case failover.NeedAcceptance:
		d.Kind, d.Loss = failover.DecisionAccept, s.Waiting.Loss
		w.t.Logf("accepted: %s", d.Loss)
	default:
		w.t.Fatalf("the run waits for %+v", *s.Waiting)
	}
	w.t.Logf("%s: %s", d.Step, d.Kind)
	if d.Step == "browser" && w.atBrowser != nil {
		w.atBrowser()
		w.atBrowser = nil
	}
	if _, err := failover.Decide(journal, d); err != nil {
		w.t.Fatal(err)
	}
}

// effects checks by a journal that the run is complete, and every step finished.
func (w *world) effects(journal string) {
	w.t.Helper()
	log, err := failover.ReadJournal(filepath.Join(w.dir, journal))
	if err != nil {
		w.t.Fatal(err)
	}
	s := log.Status()
	var slow []string
	for _, step := range s.Steps {
		if took := step.Ended.Sub(step.Began); took > time.Second && !step.Began.IsZero() {
			slow = append(slow, fmt.Sprintf("%s %v", step.Name, took.Round(100*time.Millisecond)))
		}
	}
	w.t.Logf("%s: slow steps: %s", journal, strings.Join(slow, ", "))
	if s.Outcome != failover.OutcomeCompleted {
		w.t.Errorf("the run ended as %q", s.Outcome)
	}
	for _, step := range s.Steps {
		switch step.State {
		case failover.StepDone, failover.StepAlready, failover.StepPassed, failover.StepAccepted, failover.StepConfirmed, failover.StepLeftOut:
		default:
			w.t.Errorf("step %s is %q", step.Name, step.State)
		}
	}
	for _, r := range log.Records {
		if strings.Contains(r.Detail, "hunter2") || strings.Contains(string(r.Value), "hunter2") {
			w.t.Errorf("a secret is in record %d", r.Seq)
		}
	}
}

// mirrorFromTo starts a mirror and waits for the complete copy.
func (w *world) mirrorFromTo(from, to *centre) {
	w.t.Helper()
	w.mirrors.start(to.name)
	w.until("the mirror", func() bool { return w.inStep(to) })
}

// TestSwitchesOfRoles goes there and back: a planned switchover, an unplanned failover when the new primary dies, and the failback when it returns; all with users who write, a real load balancer before each
// cluster and a real DNS. Runners are killed at every boundary of every step.
func TestSwitchesOfRoles(t *testing.T) {
	if os.Getenv("UNDERSTUDY_SWITCHES") == "" {
		t.Skip("takes minutes, HAProxy and BIND: run it by make switches")
	}
	for _, kill := range []bool{false, true} {
		t.Run(map[bool]string{false: "undisturbed", true: "killed at every boundary"}[kill], func(t *testing.T) {
			w := newWorld(t)
			w.mirrorFromTo(w.dc1, w.dc2)
			u := startUsers(t, w.resolver, 4)
			w.until("traffic", func() bool { return u.count() > 100 })
			w.drill(u, kill)
			w.turnBack(u, kill)
			w.switchover(u, kill)
			w.failover(u, kill)
		})
	}
}

// drill promotes and demotes dc2 behind the users' backs.
func (w *world) drill(u *users, kill bool) {
	w.t.Helper()
	w.inventory(w.dc1, w.dc2)
	gap := u.longestGap()
	killed := w.carryOut("drill", "drill.journal", kill)
	w.t.Logf("drill: %d runners killed, longest gap between two writes: %v before, %v after", killed, gap.Round(time.Millisecond), u.longestGap().Round(time.Millisecond))
	log, err := failover.ReadJournal(filepath.Join(w.dir, "drill.journal"))
	if err != nil {
		w.t.Fatal(err)
	}
	if s := log.Status(); s.Outcome != failover.OutcomeRehearsed {
		w.t.Errorf("the drill ended as %q", s.Outcome)
	}
	if !u.allAt(w.dc1.vip) {
		w.t.Error("the drill moved users")
	}
	w.until("the mirror after the drill", func() bool { return w.inStep(w.dc2) })
}

// turnBack undoes a switchover when dc2 is promoted already: dc1 takes writes again, dc2 is its standby again, and nothing is lost.
func (w *world) turnBack(u *users, kill bool) {
	w.t.Helper()
	killed := w.carry("switchover", "undone.journal", kill, "restart-apiservers")
	w.t.Logf("undone switchover: %d runners killed", killed)
	log, err := failover.ReadJournal(filepath.Join(w.dir, "undone.journal"))
	if err != nil {
		w.t.Fatal(err)
	}
	if s := log.Status(); s.Outcome != failover.OutcomeUndone {
		w.t.Errorf("the switchover ended as %q", s.Outcome)
	}
	before := u.count()
	w.until("writes", func() bool { return u.count() > before+50 })
	if !u.allAt(w.dc1.vip) {
		w.t.Error("users were moved")
	}
	if lost := u.missing(w.t, w.dc1.client); len(lost) > 0 {
		w.t.Errorf("%d acknowledged writes are lost: %v", len(lost), lost[:min(len(lost), 5)])
	}
	w.until("the mirror after the undoing", func() bool { return w.inStep(w.dc2) })
}

// inStep reports whether a standby is mirrored into.
func (w *world) inStep(standby *centre) bool {
	v, err := drcheck.ReadVerdict(testutil.Context(w.t), standby.client, mirrorName)
	return err == nil && v.Phase == "tail"
}

// switchover hands over from dc1 to dc2.
func (w *world) switchover(u *users, kill bool) {
	w.t.Helper()
	w.inventory(w.dc1, w.dc2)
	began := time.Now()
	w.atBrowser = func() { u.remove(w.t, w.dc2.client, 20) } // before the old primary is mirrored into
	killed := w.carryOut("switchover", "switchover.journal", kill)
	w.atBrowser = nil
	w.t.Logf("switchover: %v, %d runners killed, %d writes acknowledged, longest gap between two: %v", time.Since(began).Round(time.Millisecond), killed, u.count(), u.longestGap().Round(time.Millisecond))
	w.effects("switchover.journal")
	w.until("the users' move", func() bool { return u.allAt(w.dc2.vip) })
	if lost := u.missing(w.t, w.dc2.client); len(lost) > 0 {
		w.t.Errorf("%d acknowledged writes are lost: %v", len(lost), lost[:min(len(lost), 5)])
	}
	w.until("the mirror back", func() bool { return w.inStep(w.dc1) })
	if back := u.back(w.t, w.dc1.client); len(u.gone) != 20 || len(back) > 0 {
		w.t.Errorf("of %d keys that were deleted at the new primary %d are at the old one", len(u.gone), len(back))
	}
	if kill && killed < 40 {
		w.t.Errorf("only %d runners were killed", killed)
	}
}

// failover is when dc2, the primary by now, dies; then it returns, and takes over again.
func (w *world) failover(u *users, kill bool) {
	w.t.Helper()
	w.inventory(w.dc2, w.dc1)
	before := u.count()
	w.until("traffic", func() bool { return u.count() > before+100 })
	// The mirror is cut off first, so that there is something to lose.
	w.mirrors.kill(w.dc1.name)
	before = u.count()
	w.until("writes that are not mirrored", func() bool { return u.count() > before+50 })
	for i := range 3 {
		if err := w.dc2.etcd.StopMember(i); err != nil {
			w.t.Fatal(err)
		}
	}
	died := time.Now()
	killed := w.carryOut("failover", "failover.journal", kill)
	w.t.Logf("failover: %v, %d runners killed", time.Since(died).Round(time.Millisecond), killed)
	w.effects("failover.journal")
	w.until("the users' move", func() bool { return u.allAt(w.dc1.vip) })
	verdict, err := drcheck.ReadVerdict(testutil.Context(w.t), w.dc1.client, mirrorName)
	if err != nil {
		w.t.Fatal(err)
	}
	lost := u.missing(w.t, w.dc1.client)
	loss := verdict.Loss(died)
	w.t.Logf("%d acknowledged writes are lost; the verdict: %s", len(lost), loss.Since)
	if len(lost) == 0 {
		w.t.Error("nothing was lost: the test shows nothing")
	}
	for _, key := range lost {
		if at := u.ackedAt(key); !loss.Since.IsZero() && at.Before(loss.Since) {
			w.t.Errorf("%s was acknowledged at %v, and the verdict says that nothing of before %v is lost", key, at, loss.Since)
		}
	}

	// dc2 returns with what it had not sent.
	for i := range 3 {
		if err := w.dc2.etcd.StartMember(testutil.Context(w.t), i, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	u.remove(w.t, w.dc1.client, 20)
	unsent := keys(w.t, w.dc2.client)
	for key := range keys(w.t, w.dc1.client) {
		delete(unsent, key)
	}
	for _, key := range u.gone { // at dc1, which dc2 has not heard of
		delete(unsent, key)
	}
	w.inventory(w.dc1, w.dc2)
	killed = w.carryOut("failback", "failback.journal", kill)
	w.t.Logf("failback: %d runners killed", killed)
	w.effects("failback.journal")
	report, err := mirror.ReadDifferences(filepath.Join(w.dir, "differences.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "differences.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	listed := 0
	for line := range strings.Lines(string(text)) {
		if _, after, ok := strings.Cut(line, `"key":"`); ok {
			key, _, _ := strings.Cut(after, `"`)
			listed++
			if !unsent[key] {
				w.t.Errorf("the report lists %s, which had been sent", key)
			}
		}
	}
	if listed != len(unsent) || report.Count != listed {
		w.t.Errorf("the report lists %d keys of %d, and counts %d", listed, len(unsent), report.Count)
	}
	w.until("the users' move", func() bool { return u.allAt(w.dc2.vip) })
	if back := u.back(w.t, w.dc2.client); len(u.gone) != 40 || len(back) > 0 {
		w.t.Errorf("of %d keys that were deleted %d are back", len(u.gone), len(back))
	}
	// What was lost before stays lost; nothing else is.
	again := u.missing(w.t, w.dc2.client)
	if !slices.Equal(lost, again) {
		w.t.Errorf("%d acknowledged writes are missing after the failback, %d were lost before", len(again), len(lost))
	}
}
