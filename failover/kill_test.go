package failover_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// bomb kills its process, without a chance to clean up, when its fuse has burnt down: each boundary that the process passes is a tick.
type bomb struct {
	fuse int    // 0: never
	torn string // a journal to which the beginning of a line is written before, as a killed write leaves it
	from string // the kind of record at which the fuse begins to burn; "": it burns already
	n    int
}

func newBomb() *bomb {
	fuse, _ := strconv.Atoi(os.Getenv("KILL_AT"))
	return &bomb{fuse: fuse, torn: os.Getenv("TORN"), from: os.Getenv("KILL_FROM")}
}

func (b *bomb) tick(boundary string) {
	if b.from != "" {
		return
	}
	if b.n++; b.n != b.fuse {
		return
	}
	fmt.Printf("killed at: %s\n", boundary)
	if b.torn != "" {
		f, err := os.OpenFile(b.torn, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(`{"sum":"00112233445566778899aabbccddeeff","record":{"seq":7,"at":"2026-`)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// wrap puts a boundary between an effect and its record. The others lie after each record (see hooks): what is on the disks changes with nothing else.
func (b *bomb) wrap(f failover.Funcs) failover.Funcs {
	do, undo := f.Do, f.Undo
	around := func(what string, call func(context.Context) error) func(context.Context) error {
		if call == nil {
			return nil
		}
		return func(ctx context.Context) error {
			err := call(ctx)
			b.tick(what + " ends, " + f.Name)
			return err
		}
	}
	f.Do, f.Undo = around("Do", do), around("Undo", undo)
	return f
}

func (b *bomb) hooks() failover.Hooks {
	return failover.Hooks{Recorded: func(i failover.RecordedInfo) {
		if string(i.Record.Kind) == b.from {
			b.from = ""
		}
		b.tick(fmt.Sprintf("after record %q, %s", i.Record.Kind, i.Record.Step))
	}}
}

// parts makes a step of several effects, between which there are boundaries, too.
func (b *bomb) parts(w witness, name string, n int) failover.Funcs {
	f := w.effect(name)
	part := func(i int) string { return fmt.Sprintf("%s/%d", name, i) }
	f.Observe = func(context.Context) (failover.Observation, error) {
		there := 0
		for i := range n {
			if w.there(part(i)) {
				there++
			}
		}
		state := failover.Partial
		switch there {
		case 0:
			state = failover.Pending
		case n:
			state = failover.Done
		}
		return failover.Observation{State: state, Detail: fmt.Sprintf("%d of %d", there, n)}, nil
	}
	f.Do = func(context.Context) error {
		for i := range n {
			if !w.there(part(i)) {
				w.write("do:" + part(i))
				b.tick("within Do, " + name)
			}
		}
		return nil
	}
	f.Undo = func(context.Context) error {
		for i := n - 1; i >= 0; i-- {
			if w.there(part(i)) {
				w.write("undo:" + part(i))
				b.tick("within Undo, " + name)
			}
		}
		return nil
	}
	return f
}

// childRunner runs a plan in a process of its own, to be killed. It prints how it ended.
func childRunner() int {
	b := newBomb()
	dir := os.Getenv("DIR")
	w := witness(filepath.Join(dir, "witness"))
	cfg := failover.Config{Journal: filepath.Join(dir, "run.journal"), Hooks: b.hooks(), NoWait: true, Poll: time.Millisecond}
	if endpoints := os.Getenv("ETCD"); endpoints != "" {
		c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(endpoints, ","), Logger: zap.NewNop()})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer c.Close()
		cfg.Copy = requiredCopy(c)
		return runChild(failover.PlanConfig{Name: "killed", Steps: etcdSteps(b, c)}, cfg)
	}
	planCfg, err := childPlan(b, w)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return runChild(planCfg, cfg)
}

// goOn does what a child does, in this process: it resumes what a child left.
func (l *lab) goOn(mode, verb string) string {
	l.t.Helper()
	b := &bomb{}
	r := l.runner(l.plan(modePlan(mode, b, l.witness)), failover.Config{NoWait: true})
	if verb == "undo" {
		return resultOf(r.Undo(l.t.Context(), failover.UndoOptions{By: "test"}))
	}
	return resultOf(r.Run(l.t.Context()))
}

func runChild(planCfg failover.PlanConfig, cfg failover.Config) int {
	plan, err := failover.NewPlan(planCfg)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	r, err := failover.New(plan, cfg)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if os.Getenv("VERB") == "undo" {
		err = r.Undo(context.Background(), failover.UndoOptions{By: "test"})
	} else {
		err = r.Run(context.Background())
	}
	fmt.Printf("result: %s\n", resultOf(err))
	if err != nil {
		fmt.Println(err)
		return 3
	}
	return 0
}

// resultOf is an error's kind as one word.
func resultOf(err error) string {
	for _, k := range []struct {
		kind error
		name string
	}{{failover.ErrUndone, "undone"}, {failover.ErrUndoFailed, "undo-failed"}, {failover.ErrPointOfNoReturn, "no-return"}, {failover.ErrEnded, "ended"}, {failover.ErrWaiting, "waiting"},
		{failover.ErrNotVerified, "not-verified"}, {failover.ErrStepFailed, "failed"}, {failover.ErrBlocked, "blocked"}, {failover.ErrBusy, "busy"}} {
		if errors.Is(err, k.kind) {
			return k.name
		}
	}
	if err != nil {
		return "error"
	}
	return "complete"
}

// childPlan is the plan of a child, by its environment.
func childPlan(b *bomb, w witness) (failover.PlanConfig, error) {
	if spec := os.Getenv("SPEC"); spec != "" {
		return specPlan(spec, b, w)
	}
	return modePlan(os.Getenv("MODE"), b, w), nil
}

// modePlan has one step of each sort, and an end by its mode.
func modePlan(mode string, b *bomb, w witness) failover.PlanConfig {
	verified := w.effect("verified")
	verified.Verify = func(context.Context) error { return nil }
	saves := w.effect("saves")
	do := saves.Do
	saves.Do = func(ctx context.Context) error {
		if err := failover.Save(ctx, "before", "nothing"); err != nil {
			return err
		}
		return do(ctx)
	}
	gate := failover.Funcs{Name: "gate", Observe: func(context.Context) (failover.Observation, error) {
		return failover.Observation{State: failover.Done}, nil
	}}
	cfg := failover.PlanConfig{Name: "killed", Steps: []failover.Step{
		failover.Check("gate", b.wrap(gate).Observe, failover.Description{}),
		b.wrap(w.effect("first")).Step(), b.wrap(verified).Step(), b.wrap(b.parts(w, "parts", 3)).Step(), b.wrap(saves).Step(),
	}}
	switch mode {
	case "irreversible":
		cfg.Steps = append(cfg.Steps, b.wrap(w.irreversible("last")).Step())
	case "drill":
		cfg.Mode = failover.ModeDrill
	case "fails":
		cfg.OnFailure = failover.FailureUndo
		fails := w.effect("fails")
		fails.Do = func(context.Context) error { return errors.New("out of order") }
		cfg.Steps = append(cfg.Steps, b.wrap(fails).Step())
	}
	return cfg
}

// killed runs a child and reports where it was killed; "" if it ended by itself.
func killed(t *testing.T, ctx context.Context, env ...string) (boundary string, p *proc.Proc) {
	t.Helper()
	p = proc.Start(t, "runner", env)
	err := p.Wait(ctx)
	if _, at, ok := strings.Cut(p.Output(), "killed at: "); ok {
		boundary, _, _ = strings.Cut(at, "\n")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("the child was to be killed at %q and ended with %v:\n%s", boundary, err, p.Output())
		}
	}
	return boundary, p
}

func wantResult(t *testing.T, p *proc.Proc, what, want string) {
	t.Helper()
	if !strings.Contains(p.Output(), "result: "+want+"\n") {
		t.Errorf("%s: want result %q:\n%s", what, want, p.Output())
	}
}

// kept is a test of one way to go through a plan, killed at every boundary of it.
type kept struct {
	mode, verb string
	torn       bool
	from       string // where the boundaries begin that others do not have
	every      int    // only each of so many boundaries; 0: each
	result     string // of what goes on after the kill, unless the kill came after the end
	lines      []string
	outcome    failover.Outcome
}

var forwardLines = []string{"do:first", "do:verified", "do:parts/0", "do:parts/1", "do:parts/2", "do:saves"}
var backLines = []string{"undo:saves", "undo:parts/2", "undo:parts/1", "undo:parts/0", "undo:verified", "undo:first"}

func TestKilledAtEveryBoundary(t *testing.T) {
	both := slices.Concat(forwardLines, backLines)
	for name, k := range map[string]kept{
		"run":     {mode: "irreversible", result: "complete", lines: slices.Concat(forwardLines, []string{"do:last"}), outcome: failover.OutcomeCompleted},
		"torn":    {mode: "irreversible", torn: true, every: 5, result: "complete", lines: slices.Concat(forwardLines, []string{"do:last"}), outcome: failover.OutcomeCompleted},
		"undo":    {verb: "undo", result: "complete", lines: both, outcome: failover.OutcomeUndone},
		"drill":   {mode: "drill", from: "undo", result: "complete", lines: both, outcome: failover.OutcomeRehearsed},
		"failure": {mode: "fails", from: "failed", result: "undone", lines: both, outcome: failover.OutcomeUndone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k.everywhere(t)
		})
	}
}

func (k kept) everywhere(t *testing.T) {
	ctx := testutil.Context(t)
	for n, kills := 1, 0; ; n, kills = n+max(1, k.every), kills+1 {
		l := newLab(t)
		if k.verb == "undo" {
			if result := l.goOn(k.mode, ""); result != "complete" {
				t.Fatalf("the run before: %s", result)
			}
		}
		env := []string{"DIR=" + l.dir, "MODE=" + k.mode, "VERB=" + k.verb, "KILL_FROM=" + k.from, fmt.Sprintf("KILL_AT=%d", n)}
		if k.torn {
			env = append(env, "TORN="+l.journal)
		}
		boundary, p := killed(t, ctx, env...)
		if boundary == "" {
			wantResult(t, p, "without a kill", k.result)
			t.Logf("killed at %d boundaries", kills)
			if n < 20 {
				t.Errorf("there were only %d boundaries", n-1)
			}
			return
		}
		log := l.log()
		if log.Torn != k.torn {
			t.Errorf("%s: torn is %v", boundary, log.Torn)
		}
		want := k.result
		if s := log.Status(); s.State == failover.RunEnded && (k.verb != "undo" || s.Outcome == failover.OutcomeUndone) {
			want = "ended"
		}
		if got := l.goOn(k.mode, k.verb); got != want {
			t.Errorf("killed at %q, then: %s, want %s", boundary, got, want)
		}
		if got := l.lines(); !slices.Equal(got, k.lines) {
			t.Errorf("killed at %q: the witness saw %v, want %v", boundary, got, k.lines)
		}
		if s := l.log().Status(); s.State != failover.RunEnded || s.Outcome != k.outcome {
			t.Errorf("killed at %q: the run is %s, %s; want it ended, %s", boundary, s.State, s.Outcome, k.outcome)
		}
		if t.Failed() {
			return
		}
	}
}

func requiredCopy(c *clientv3.Client) failover.CopyConfig {
	cfg := copyTo(c)
	cfg.Policy = failover.CopyRequired
	return cfg
}

// etcdSteps put a key each into an etcd, which counts for every key how often it was put.
func etcdSteps(b *bomb, c *clientv3.Client) (all []failover.Step) {
	for _, name := range []string{"a", "b", "c"} {
		key := "/witness/" + name
		there := func(ctx context.Context) (failover.Observation, error) {
			resp, err := c.Get(ctx, key)
			if err != nil {
				return failover.Observation{}, err
			}
			if len(resp.Kvs) == 0 {
				return failover.Observation{State: failover.Pending}, nil
			}
			return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("version %d", resp.Kvs[0].Version)}, nil
		}
		all = append(all, b.wrap(failover.Funcs{Name: name, Timeout: time.Minute, Observe: there, Do: func(ctx context.Context) error {
			if os.Getenv("HANG") == name {
				fmt.Println("hanging")
				select {}
			}
			_, err := c.Put(ctx, key, "")
			return err
		}}).Step())
	}
	return all
}

// The same with an etcd as the witness, and the journal's copy in it, which has to be there before each act and equal the file afterwards.
func TestKilledAtEveryBoundaryWithACopy(t *testing.T) {
	ctx := testutil.Context(t)
	cluster := testutil.NewCluster(t, embedetcd.Options{})
	cli := testutil.Client(t, cluster)
	for n := 1; ; n++ {
		if _, err := cli.Delete(ctx, "/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		l := newLab(t)
		env := []string{"DIR=" + l.dir, "ETCD=" + strings.Join(cluster.Endpoints(), ",")}
		boundary, p := killed(t, ctx, append(env, fmt.Sprintf("KILL_AT=%d", n))...)
		if boundary != "" {
			over := false
			if log, err := failover.ReadJournal(l.journal); err == nil {
				over = log.Status().State == failover.RunEnded
			}
			r := l.runner(l.plan(failover.PlanConfig{Name: "killed", Steps: etcdSteps(&bomb{}, cli)}), failover.Config{Copy: requiredCopy(cli)})
			want := "complete"
			if over {
				want = "ended"
			}
			if got := resultOf(r.Run(ctx)); got != want {
				t.Errorf("killed at %q, then: %s, want %s", boundary, got, want)
			}
		} else {
			wantResult(t, p, "without a kill", "complete")
		}
		for _, name := range []string{"a", "b", "c"} {
			resp, err := cli.Get(ctx, "/witness/"+name)
			if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Version != 1 {
				t.Errorf("killed at %q: key %s was not put once: %v %v", boundary, name, resp, err)
			}
		}
		log, err := failover.ReadCopy(ctx, cli, "killed", "")
		if err != nil {
			t.Fatalf("killed at %q: the copy: %v", boundary, err)
		}
		if got, want := len(log.Records), len(l.log().Records); got != want {
			t.Errorf("killed at %q: the copy has %d records, the file %d", boundary, got, want)
		}
		if t.Failed() {
			return
		}
		if boundary == "" {
			t.Logf("killed at %d boundaries", n-1)
			return
		}
	}
}
