package failover_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func pending(context.Context) (failover.Observation, error) {
	return failover.Observation{State: failover.Pending}, nil
}

func nothing(context.Context) error { return nil }

// switchover is a plan with one of everything.
func switchover(t *testing.T, change func(*failover.PlanConfig)) *failover.Plan {
	t.Helper()
	dns := map[string]any{"zone": "example.org", "name": "platform", "ttl": 60, "address": "10.0.2.10", "labels": map[string]string{}}
	for i := range 20 { // enough that the order of a map would show
		dns["labels"].(map[string]string)[fmt.Sprintf("label-%02d", i)] = fmt.Sprint(i)
	}
	cfg := failover.PlanConfig{
		Name: "switchover", Title: "Planned switch of roles", Purpose: "The standby takes over; nothing that was acknowledged is lost.",
		OnFailure: failover.FailureUndo, Approval: failover.Approval{Role: "incident lead", ValidFor: 2 * time.Hour},
		Inputs: map[string]any{"primary": "east", "standby": "west"},
		Steps: []failover.Step{
			failover.Check("verdict", pending, failover.Description{Action: "Is the standby's copy complete?", Reference: "Disaster Recovery Process, 2"}),
			failover.Funcs{Name: "quiesce", Observe: pending, Do: nothing, Undo: nothing, Verify: nothing, Timeout: 30 * time.Second,
				Retry:       failover.Retry{Attempts: 3},
				Description: failover.Description{Action: "Stop writes to the primary", Commands: []string{"disable frontend east-api"}, Verify: "no write for 5 s", Undo: "Let writes in again"}}.Step(),
			failover.Funcs{Name: "primary/power", Observe: pending, Do: nothing, Undo: nothing, Drill: func() failover.Step { return nil },
				Ungraceful: func() failover.Step { return nil }, Description: failover.Description{Action: "Mark the primary"}}.Step(),
			failover.Funcs{Name: "fence", Observe: pending, Do: nothing, Approval: failover.Approval{Role: "incident lead"},
				Description: failover.Description{Action: "Raise the epoch: the mirror never writes again"}}.Step(),
			failover.Funcs{Name: "dns/platform", Observe: pending, Do: nothing, Undo: nothing,
				Description: failover.Description{Action: "Point the domain to the standby", Inputs: dns}}.Step(),
			failover.Ask("browser", failover.Prompt{Text: "Clear the browser's cache and open the platform", Role: "operator", Harmless: true}, failover.Description{Reference: "Disaster Recovery Process, 7"}),
			failover.Ask("phone", failover.Prompt{Text: "Tell the | *customers* <b>", Undo: "Tell them that it was nothing"}, failover.Description{}),
		}}
	if change != nil {
		change(&cfg)
	}
	p, err := failover.NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goldenHash is the hash of the plan of switchover. If it changes, journals and approvals of running plans no longer fit: raise the document's version.
const goldenHash = "315c621d5960d71b7e6a50a5764c770f26e84a5eb1c7df08b2a1d2c83f26379e"

func TestHashIsTheSameInEachProcess(t *testing.T) {
	for range 20 {
		if got := switchover(t, nil).Hash(); got != goldenHash {
			t.Fatalf("hash %s, want %s", got, goldenHash)
		}
	}
	ctx := testutil.Context(t)
	p := proc.Start(t, "hash", nil)
	if err := p.Wait(ctx); err != nil || strings.TrimSpace(p.Output()) != goldenHash {
		t.Errorf("another process: %v, %q", err, p.Output())
	}
}

func childHash() int {
	fmt.Println(switchover(&testing.T{}, nil).Hash())
	return 0
}

// Who has the JSON can compute the hash: it is over the member plan, with sorted keys, without spaces and without needless escapes.
func TestHashIsThatOfTheJSON(t *testing.T) {
	p := switchover(t, nil)
	var written bytes.Buffer
	if err := p.WriteJSON(&written); err != nil {
		t.Fatal(err)
	}
	marshalled, err := json.MarshalIndent(p, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"WriteJSON": written.Bytes(), "MarshalIndent": marshalled} {
		var file struct {
			Hash string
			Plan any
		}
		if err := json.Unmarshal(raw, &file); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(file.Plan); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(bytes.TrimSpace(b.Bytes()))
		if got := hex.EncodeToString(sum[:]); got != p.Hash() || file.Hash != p.Hash() {
			t.Errorf("%s: the JSON's hash is %s, it says %s, the plan %s", name, got, file.Hash, p.Hash())
		}
		var typed struct{ Plan failover.Document }
		if err := json.Unmarshal(raw, &typed); err != nil || typed.Plan.Hash() != p.Hash() {
			t.Errorf("%s: the document's hash is %s (%v)", name, typed.Plan.Hash(), err)
		}
	}
}

// Whatever a step or the plan says is part of the hash.
func TestHashCoversEverything(t *testing.T) {
	base := failover.Funcs{Name: "a", Observe: pending, Do: nothing, Undo: nothing, Description: failover.Description{Inputs: map[string]any{"x": 1, "deep": map[string]any{"y": []int{1, 2}}}}}
	hash := func(change func(*failover.PlanConfig, *failover.Funcs)) string {
		f, cfg := base, failover.PlanConfig{Name: "p"}
		change(&cfg, &f)
		cfg.Steps = append([]failover.Step{f.Step()}, cfg.Steps...)
		p, err := failover.NewPlan(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash()
	}
	type change = func(*failover.PlanConfig, *failover.Funcs)
	seen := map[string]string{hash(func(*failover.PlanConfig, *failover.Funcs) {}): "nothing"}
	for name, c := range map[string]change{
		"plan's name":     func(p *failover.PlanConfig, _ *failover.Funcs) { p.Name = "q" },
		"title":           func(p *failover.PlanConfig, _ *failover.Funcs) { p.Title = "t" },
		"purpose":         func(p *failover.PlanConfig, _ *failover.Funcs) { p.Purpose = "t" },
		"mode":            func(p *failover.PlanConfig, _ *failover.Funcs) { p.Mode = failover.ModeUngraceful },
		"drill":           func(p *failover.PlanConfig, _ *failover.Funcs) { p.Mode = failover.ModeDrill },
		"policy":          func(p *failover.PlanConfig, _ *failover.Funcs) { p.OnFailure = failover.FailureUndo },
		"plan's approval": func(p *failover.PlanConfig, _ *failover.Funcs) { p.Approval.Role = "r" },
		"plan's inputs":   func(p *failover.PlanConfig, _ *failover.Funcs) { p.Inputs = map[string]any{"a": 1} },
		"another step":    func(p *failover.PlanConfig, f *failover.Funcs) { g := *f; g.Name = "b"; p.Steps = steps(g) },
		"name":            func(_ *failover.PlanConfig, f *failover.Funcs) { f.Name = "b" },
		"action":          func(_ *failover.PlanConfig, f *failover.Funcs) { f.Description.Action = "x" },
		"commands":        func(_ *failover.PlanConfig, f *failover.Funcs) { f.Description.Commands = []string{"x"} },
		"verify text":     func(_ *failover.PlanConfig, f *failover.Funcs) { f.Description.Verify = "x" },
		"undo text":       func(_ *failover.PlanConfig, f *failover.Funcs) { f.Description.Undo = "x" },
		"reference":       func(_ *failover.PlanConfig, f *failover.Funcs) { f.Description.Reference = "x" },
		"input":           func(_ *failover.PlanConfig, f *failover.Funcs) { f.Description.Inputs = map[string]any{"x": 2} },
		"deep input": func(_ *failover.PlanConfig, f *failover.Funcs) {
			f.Description.Inputs = map[string]any{"x": 1, "deep": map[string]any{"y": []int{2, 1}}}
		},
		"no undo": func(_ *failover.PlanConfig, f *failover.Funcs) { f.Undo = nil },
		"verify":  func(_ *failover.PlanConfig, f *failover.Funcs) { f.Verify = nothing },
		"timeout": func(_ *failover.PlanConfig, f *failover.Funcs) { f.Timeout = time.Second },
		"retry":   func(_ *failover.PlanConfig, f *failover.Funcs) { f.Retry.Attempts = 2 },
		"retry pause": func(_ *failover.PlanConfig, f *failover.Funcs) {
			f.Retry = failover.Retry{Attempts: 2, First: time.Minute, Max: time.Hour}
		},
		"approval": func(_ *failover.PlanConfig, f *failover.Funcs) { f.Approval.Role = "r" },
		"approval's time": func(_ *failover.PlanConfig, f *failover.Funcs) {
			f.Approval = failover.Approval{Role: "r", ValidFor: time.Minute}
		},
		"a variant, taken": func(p *failover.PlanConfig, f *failover.Funcs) {
			p.Mode, f.Ungraceful = failover.ModeUngraceful, func() failover.Step { return nil }
		},
	} {
		h := hash(c)
		if other, ok := seen[h]; ok {
			t.Errorf("%s does not change the hash of %s", name, other)
		}
		seen[h] = name
	}
	if len(seen) != 26 {
		t.Errorf("%d hashes", len(seen))
	}
}

func TestModesTakeVariantsAndLeaveOut(t *testing.T) {
	l := newLab(t)
	with := l.effect("step")
	without := l.effect("step")
	without.Do = func(context.Context) error { l.write("do:step"); l.write("variant"); return nil }
	with.Ungraceful = func() failover.Step { return without.Step() }
	gone := l.effect("gone")
	gone.Ungraceful = func() failover.Step { return nil }
	p := l.plan(failover.PlanConfig{Mode: failover.ModeUngraceful, Steps: steps(gone, with)})
	r := l.runner(p, failover.Config{})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:step", "variant")
	l.wantStates(r, "gone=left out step=done")
	doc := p.Document()
	if !doc.Steps[0].LeftOut || doc.Steps[1].Variant != failover.ModeUngraceful {
		t.Errorf("the document does not tell: %+v", doc.Steps)
	}
}

func TestBadPlansAreRefusedWithTheStepAtFault(t *testing.T) {
	l := newLab(t)
	ok := l.effect("ok")
	for name, c := range map[string]struct {
		change func(*failover.PlanConfig)
		parts  []string
	}{
		"no name":       {func(p *failover.PlanConfig) { p.Name = "" }, []string{"Name"}},
		"slash":         {func(p *failover.PlanConfig) { p.Name = "a/b" }, []string{`"a/b"`}},
		"no steps":      {func(p *failover.PlanConfig) { p.Steps = nil }, []string{"Steps is empty"}},
		"nil step":      {func(p *failover.PlanConfig) { p.Steps = append(p.Steps, nil) }, []string{"Steps[1] is nil"}},
		"mode":          {func(p *failover.PlanConfig) { p.Mode = "quick" }, []string{`"quick"`}},
		"policy":        {func(p *failover.PlanConfig) { p.OnFailure = "pray" }, []string{`"pray"`}},
		"approval":      {func(p *failover.PlanConfig) { p.Approval.ValidFor = time.Hour }, []string{"Role is empty"}},
		"inputs":        {func(p *failover.PlanConfig) { p.Inputs = []int{1} }, []string{"Inputs", "no JSON object"}},
		"same name":     {func(p *failover.PlanConfig) { p.Steps = append(p.Steps, ok.Step()) }, []string{"step ok", "two steps"}},
		"bad step name": {func(p *failover.PlanConfig) { p.Steps = steps(l.effect("no spaces")) }, []string{`"no spaces"`}},
		"no observe":    {func(p *failover.PlanConfig) { p.Steps = steps(failover.Funcs{Name: "x", Do: nothing}) }, []string{"step x", "Observe is nil"}},
		"no do":         {func(p *failover.PlanConfig) { p.Steps = steps(failover.Funcs{Name: "x", Observe: pending}) }, []string{"step x", "Do is nil"}},
		"renamed": {func(p *failover.PlanConfig) {
			p.Mode = failover.ModeDrill
			f := ok
			f.Drill = func() failover.Step { return l.effect("other").Step() }
			p.Steps = steps(f)
		}, []string{"step ok", `"other"`}},
		"drill, no undo": {func(p *failover.PlanConfig) { p.Mode = failover.ModeDrill; p.Steps = steps(l.irreversible("x")) }, []string{"step x", "drill"}},
		"timeout":        {func(p *failover.PlanConfig) { f := ok; f.Timeout = -1; p.Steps = steps(f) }, []string{"step ok", "Timeout"}},
		"retry": {func(p *failover.PlanConfig) {
			f := ok
			f.Retry = failover.Retry{Attempts: 3, First: time.Minute, Max: time.Second}
			p.Steps = steps(f)
		}, []string{"step ok", "Retry.Max"}},
		"step's inputs": {func(p *failover.PlanConfig) {
			f := ok
			f.Description.Inputs = map[string]any{"f": nothing}
			p.Steps = steps(f)
		}, []string{"step ok", "Inputs"}},
		"not UTF-8": {func(p *failover.PlanConfig) {
			f := ok
			f.Description.Inputs = map[string]any{"f": "a\xff"}
			p.Steps = steps(f)
		}, []string{"step ok", "UTF-8"}},
		"empty prompt": {func(p *failover.PlanConfig) {
			p.Steps = []failover.Step{failover.Ask("x", failover.Prompt{}, failover.Description{})}
		}, []string{"step x", "Prompt.Text"}},
		"too large": {func(p *failover.PlanConfig) { p.Inputs = map[string]any{"x": strings.Repeat("x", 600<<10)} }, []string{"bytes of JSON"}},
	} {
		cfg := failover.PlanConfig{Name: "test", Steps: steps(ok)}
		c.change(&cfg)
		_, err := failover.NewPlan(cfg)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wantError(t, err, failover.ErrConfig, "", c.parts...)
	}
}

// Everything that is wrong is said at once.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := failover.NewPlan(failover.PlanConfig{Name: "UPPER", Mode: "x", Steps: steps(failover.Funcs{Name: "a"}, failover.Funcs{Name: "b b"})})
	wantError(t, err, failover.ErrConfig, "", "UPPER", `"x"`, "step a", `"b b"`)
	plan := newLab(t).plan(failover.PlanConfig{Steps: steps(failover.Funcs{Name: "a", Observe: pending, Do: nothing})})
	_, err = failover.New(plan, failover.Config{Poll: -1, Begin: "x", Copy: failover.CopyConfig{Policy: failover.CopyRequired, LockTTL: 1500 * time.Millisecond}})
	wantError(t, err, failover.ErrConfig, "", "Journal is empty", "Poll", `Begin "x"`, "Copy.Etcd is nil", "LockTTL")
	_, err = failover.New(nil, failover.Config{Journal: "x"})
	wantError(t, err, failover.ErrConfig, "", "plan is nil")
}

func TestPointOfNoReturn(t *testing.T) {
	p := switchover(t, nil)
	if p.PointOfNoReturn() != "fence" {
		t.Errorf("it is %q", p.PointOfNoReturn())
	}
	for _, s := range p.Document().Steps {
		if want := s.Name == "fence"; s.PointOfNoReturn != want {
			t.Errorf("step %s: %v", s.Name, s.PointOfNoReturn)
		}
	}
}

// A resumed run names what changed: steps, inputs and order.
func TestAChangedPlanIsRefused(t *testing.T) {
	l := newLab(t)
	input := func(name string, ttl int) failover.Funcs {
		f := l.effect(name)
		f.Description.Inputs = map[string]any{"record": map[string]any{"ttl": ttl, "name": "platform"}}
		return f
	}
	stop := l.effect("stop")
	stop.Do = func(context.Context) error { return fmt.Errorf("out of order") }
	first := l.plan(failover.PlanConfig{Steps: steps(input("dns", 60), l.effect("b"), l.effect("c"), stop)})
	wantError(t, l.runner(first, failover.Config{}).Run(t.Context()), failover.ErrStepFailed, "stop")
	before := len(l.log().Records)
	for name, c := range map[string]struct {
		steps []failover.Step
		mode  failover.Mode
		parts []string
	}{
		"an input":     {steps(input("dns", 61), l.effect("b"), l.effect("c"), stop), "", []string{"step dns", "inputs.record.ttl was 60, is 61"}},
		"a new step":   {steps(input("dns", 60), l.effect("b"), l.effect("c"), stop, l.effect("d")), "", []string{"step d is new"}},
		"a lost step":  {steps(input("dns", 60), l.effect("c"), stop), "", []string{"step b is gone"}},
		"the order":    {steps(input("dns", 60), l.effect("c"), l.effect("b"), stop), "", []string{"the order changed", "step c comes where b was"}},
		"undo is gone": {steps(input("dns", 60), l.irreversible("b"), l.effect("c"), stop), "", []string{"step b", "undoable", "pointOfNoReturn"}},
		"the mode":     {steps(input("dns", 60), l.effect("b"), l.effect("c"), stop), failover.ModeUngraceful, []string{"mode was \"graceful\", is \"ungraceful\""}},
	} {
		t.Run(name, func(t *testing.T) {
			r := l.runner(l.plan(failover.PlanConfig{Steps: c.steps, Mode: c.mode}), failover.Config{})
			wantError(t, r.Run(t.Context()), failover.ErrPlanChanged, "", c.parts...)
			wantError(t, r.Undo(t.Context(), failover.UndoOptions{}), failover.ErrPlanChanged, "", c.parts...)
		})
	}
	if after := len(l.log().Records); after != before {
		t.Errorf("the refused runs wrote %d records", after-before)
	}
	l.wantLines("do:dns", "do:b", "do:c")
}

// What a step was made from may be changed by its owner after the plan was frozen and approved: then it does not act.
func TestAStepThatChangedAfterFreezingDoesNotAct(t *testing.T) {
	l := newLab(t)
	inputs := map[string]any{"address": "10.0.2.10"}
	f := l.effect("dns")
	f.Description.Inputs = inputs
	p := l.plan(failover.PlanConfig{Steps: steps(f)})
	hash := p.Hash()
	inputs["address"] = "192.0.2.1"
	wantError(t, l.runner(p, failover.Config{}).Run(t.Context()), failover.ErrPlanChanged, "dns", "inputs.address", "10.0.2.10", "192.0.2.1")
	l.wantLines()
	if p.Hash() != hash || strings.Contains(string(p.Document().Steps[0].Inputs), "192") {
		t.Error("the frozen plan changed")
	}
}
