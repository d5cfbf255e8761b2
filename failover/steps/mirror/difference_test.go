package mirror_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
)

// parted is a stage whose mirror was cut off before the primary's last writes, and whose standby was promoted and written to. It knows what each side did.
type parted struct {
	*stage
	from      map[string]string // what both held
	old, now  map[string]string // what each holds
	revisions map[string]int64  // of the old primary's last change of a key since
	writes    map[string]int
	changed   map[string]bool // at the new primary, deletes included
}

func newParted(t *testing.T, seed uint64) *parted {
	t.Helper()
	p := &parted{stage: newStage(t), revisions: map[string]int64{}, writes: map[string]int{}, changed: map[string]bool{}}
	rng := rand.New(rand.NewPCG(seed, 1))
	key := func() string { return fmt.Sprintf("/registry/secrets/ns%d/s%02d", rng.IntN(2), rng.IntN(30)) }
	for range 60 {
		p.put(p.a, key(), fmt.Sprint("topsecret", rng.IntN(1000)))
	}
	p.mirrored()
	if err := p.ab.Stop(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.from = p.content(p.b)
	for n := range 40 {
		k := key()
		switch {
		case rng.IntN(6) == 0:
			p.put(p.a, notKept+"x", "lease")
			continue
		case rng.IntN(3) == 0:
			resp, err := p.a.Delete(p.ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Deleted == 0 {
				continue
			}
			p.revisions[k] = resp.Header.Revision
		default:
			p.revisions[k] = p.put(p.a, k, fmt.Sprint("topsecret-old", n))
		}
		p.writes[k]++
	}
	p.mustRun(plan(t, failover.ModeUngraceful, must(mirror.EpochFence(mirror.EpochFenceConfig{Pair: p.pair()}))), "promote.journal")
	for n := range 25 {
		k := key()
		if rng.IntN(3) == 0 {
			if resp, err := p.b.Delete(p.ctx, k); err != nil {
				t.Fatal(err)
			} else if resp.Deleted == 0 {
				continue
			}
		} else {
			p.put(p.b, k, fmt.Sprint("topsecret-new", n))
		}
		p.changed[k] = true
	}
	p.old, p.now = p.content(p.a), p.content(p.b)
	return p
}

// expected is the report that the history asks for.
func (p *parted) expected() (list []mirror.Difference) {
	for k, rev := range p.revisions {
		_, before := p.from[k]
		_, after := p.old[k]
		_, there := p.now[k]
		d := mirror.Difference{Key: k, Revision: rev, Writes: p.writes[k]}
		switch {
		case before && after:
			d.Kind = mirror.Changed
		case before:
			d.Kind = mirror.Deleted
		case after:
			d.Kind = mirror.Created
		default:
			d.Kind = mirror.Passing
		}
		switch {
		case there && p.changed[k]:
			d.New = mirror.NewChanged
		case there:
			d.New = mirror.NewUnchanged
		case before:
			d.New = mirror.NewDeleted
		default:
			d.New = mirror.NewAbsent
		}
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b mirror.Difference) int { return strings.Compare(a.Key, b.Key) })
	return list
}

func (p *parted) report() mirror.DifferenceReportConfig {
	return mirror.DifferenceReportConfig{Pair: p.pair(), Path: filepath.Join(p.dir, "differences.jsonl")}
}

// The report lists exactly what the old primary had not sent, key by key, with what the new one did to the same keys.
func TestDifferenceReportListsWhatWasNotSent(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			p := newParted(t, seed)
			cfg := p.report()
			if seed == 0 {
				cfg.Values = filepath.Join(p.dir, "values.jsonl")
			}
			p.mustRun(plan(t, failover.ModeGraceful, must(mirror.DifferenceReport(cfg))), "report.journal")
			report, list, err := mirror.ReadDifferenceList(cfg.Path)
			if err != nil {
				t.Fatal(err)
			}
			for i := range list {
				if (list[i].NewRevision > 0) != (list[i].New == mirror.NewChanged) {
					t.Errorf("seed %d: %+v", seed, list[i])
				}
				list[i].NewRevision = 0
			}
			if want := p.expected(); !reflect.DeepEqual(list, want) {
				t.Errorf("seed %d: got\n%+v\nwant\n%+v", seed, list, want)
			}
			if !report.Exact || report.Count != len(list) || report.To != p.head(p.a) {
				t.Errorf("seed %d: %+v", seed, report)
			}
			for _, file := range []string{cfg.Path, filepath.Join(p.dir, "report.journal")} {
				text, err := os.ReadFile(file)
				if err != nil || strings.Contains(string(text), "topsecret") || strings.Contains(string(text), "dG9wc2Vjc") {
					t.Errorf("%s holds a value (%v)", file, err)
				}
			}
			for _, file := range []string{cfg.Path, cfg.Values} {
				if file == "" {
					continue
				}
				if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v (%v)", file, info.Mode(), err)
				}
			}
			if cfg.Values != "" {
				p.valuesAre(cfg.Values, list)
			}
		})
	}
}

// valuesAre holds the file of values against the old primary.
func (p *parted) valuesAre(path string, list []mirror.Difference) {
	p.t.Helper()
	got, err := mirror.ReadValues(path)
	if err != nil {
		p.t.Fatal(err)
	}
	want := map[string]string{}
	for _, d := range list {
		if d.Kind == mirror.Created || d.Kind == mirror.Changed {
			want[d.Key] = p.old[d.Key]
		}
	}
	if !maps.Equal(got, want) {
		p.t.Errorf("values of %d keys, want %d", len(got), len(want))
	}
}

// Where the old primary has compacted its log, puts are still found, and what was deleted shows as perhaps deleted.
func TestDifferenceReportWithoutTheLog(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			p := newParted(t, seed)
			p.put(p.b, "/registry/secrets/ns0/made-later", "topsecret")
			p.compact(p.a)
			cfg := p.report()
			p.mustRun(plan(t, failover.ModeGraceful, must(mirror.DifferenceReport(cfg))), "report.journal")
			report, list, err := mirror.ReadDifferenceList(cfg.Path)
			if err != nil {
				t.Fatal(err)
			}
			if report.Exact || !strings.Contains(report.Why, "guessed") {
				t.Errorf("seed %d: exact %v, why %q", seed, report.Exact, report.Why)
			}
			got := map[string]mirror.Kind{}
			for _, d := range list {
				got[d.Key] = d.Kind
			}
			want := map[string]mirror.Kind{}
			for _, d := range p.expected() {
				_, there := p.now[d.Key]
				switch {
				case d.Kind == mirror.Passing || d.Kind == mirror.Deleted && !there: // it left no trace, or both have deleted it
				case d.Kind == mirror.Deleted && p.recreated(d.Key): // the new primary has deleted it too, and made another
				case d.Kind == mirror.Deleted:
					want[d.Key] = mirror.MaybeDeleted
				case d.Kind == mirror.Changed && p.replaced(d.Key) && (!there || p.recreated(d.Key)): // made anew at the old primary, and gone or made anew at the new one
					want[d.Key] = mirror.Created
				default:
					want[d.Key] = d.Kind
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("seed %d: got\n%v\nwant\n%v", seed, got, want)
			}
		})
	}
}

// recreated reports whether the new primary's key was made after its promotion.
func (p *parted) recreated(key string) bool {
	resp, err := p.b.Get(p.ctx, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return len(resp.Kvs) == 1 && resp.Kvs[0].CreateRevision > p.metadata(p.b, "ab").CheckpointRevision
}

// replaced reports whether the old primary's key was made after the last mirrored revision.
func (p *parted) replaced(key string) bool {
	resp, err := p.a.Get(p.ctx, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return len(resp.Kvs) == 1 && resp.Kvs[0].CreateRevision > p.metadata(p.b, "ab").Checkpoint.SourceRevision
}

// A report counts only while it tells the truth about this pair: whole, of this promotion, and up to the old primary's present state.
func TestDifferenceReportIsHeldAgainstTheClusters(t *testing.T) {
	p := newParted(t, 9)
	cfg := p.report()
	step := must(mirror.DifferenceReport(cfg))
	state := func() failover.DryStep {
		return p.observe(plan(t, failover.ModeGraceful, step))[mirror.NameDifferenceReport]
	}
	if got := state(); got.State != failover.Pending {
		t.Fatalf("without a file: %+v", got)
	}
	r := p.mustRun(plan(t, failover.ModeGraceful, step), "report.journal")
	if got := state(); got.State != failover.Done {
		t.Fatalf("with its file: %+v", got)
	}
	p.put(p.a, notKept+"y", "1")
	if got := state(); got.State != failover.Done {
		t.Errorf("after a write of what is not kept: %+v", got)
	}
	whole, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string][]byte{
		"cut":          whole[:len(whole)-20],
		"cut at line":  whole[:strings.LastIndex(strings.TrimSuffix(string(whole), "\n"), "\n")+1],
		"changed":      []byte(strings.Replace(string(whole), "/ns0/", "/ns9/", 1)),
		"empty":        {},
		"of others":    []byte("apiVersion: v1\n"),
		"and more":     append(slices.Clone(whole), whole...),
		"another pair": []byte(strings.Replace(string(whole), `"newPrimary":"`, `"newPrimary":"f`, 1)),
	} {
		if err := os.WriteFile(cfg.Path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := state(); got.State != failover.Blocked {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if err := os.WriteFile(cfg.Path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	// Undoing sets it aside.
	if err := p.undo(r); err != nil {
		t.Fatal(err)
	}
	aside, _ := filepath.Glob(cfg.Path + ".undone-*")
	if _, err := os.Stat(cfg.Path); !errors.Is(err, os.ErrNotExist) || len(aside) != 1 {
		t.Errorf("undoing left %v (%v)", aside, err)
	}
	// A report that the old primary has outrun is replaced by one that has all of it.
	p.mustRun(plan(t, failover.ModeGraceful, step), "again.journal")
	p.put(p.a, "/registry/secrets/ns0/late", "topsecret")
	if got := state(); got.State != failover.Pending || !strings.Contains(got.Detail, "1 key changed") {
		t.Errorf("after another write: %+v", got)
	}
	p.mustRun(plan(t, failover.ModeGraceful, step), "outrun.journal")
	_, list, err := mirror.ReadDifferenceList(cfg.Path)
	if err != nil || !slices.ContainsFunc(list, func(d mirror.Difference) bool { return d.Key == "/registry/secrets/ns0/late" }) {
		t.Errorf("the late key is not in %v (%v)", list, err)
	}
}

// A report of an earlier promotion is not taken for one of the present.
func TestDifferenceReportOfAnEarlierPromotion(t *testing.T) {
	p := newParted(t, 4)
	step := must(mirror.DifferenceReport(p.report()))
	p.mustRun(plan(t, failover.ModeGraceful, step), "report.journal")
	records := engine.Records(p.b, "ab")
	if err := records.Demote(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.mirrored()
	if err := errors.Join(p.ab.Stop(p.ctx), records.Promote(p.ctx, false)); err != nil {
		t.Fatal(err)
	}
	got := p.observe(plan(t, failover.ModeGraceful, step))[mirror.NameDifferenceReport]
	if got.State != failover.Blocked || !strings.Contains(got.Detail, "another report") {
		t.Errorf("%+v", got)
	}
}

// Nothing is overwritten at the old primary before what it wrote is written down; then it becomes the standby, and equal.
func TestFailback(t *testing.T) {
	p := newParted(t, 2)
	cfg := mirrorConfig("ba")
	cfg.Surplus = etcdmirror.SurplusDelete // what the old primary made for itself
	ba := p.inProcess(p.b, p.a, cfg)
	report := p.report()
	start := func(journal string, steps ...failover.Step) (*failover.Runner, error) {
		return p.run(plan(t, failover.ModeGraceful, steps...), journal, failover.Hooks{})
	}
	reverse := must(mirror.StartReverse(mirror.StartReverseConfig{Pair: engine.Pair(p.b, p.a, cfg), Control: ba, Differences: &report, PointOfNoReturn: true}))
	before := p.content(p.a)
	_, err := start("without.journal", reverse)
	if !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "no report yet") {
		t.Fatalf("without a report it ended with %v", err)
	}
	if !maps.Equal(before, p.content(p.a)) {
		t.Fatal("the old primary was written to")
	}
	r, err := start("with.journal", must(mirror.DifferenceReport(report)), reverse)
	if err != nil {
		t.Fatal(err)
	}
	p.caughtUp(ba, p.b)
	if !maps.Equal(p.content(p.a), p.now) {
		t.Error("the old primary does not hold what the new one does")
	}
	if err := p.undo(r); !errors.Is(err, failover.ErrPointOfNoReturn) {
		t.Errorf("undoing ended with %v", err)
	}
}

// After a planned switch the roles can go back and forth: each way, the side that was promoted is made a standby again.
func TestRolesGoBackAndForth(t *testing.T) {
	s := newStage(t)
	s.mirrored()
	forth, back := s.settings(), s.settings()
	back.pair, back.control, back.waiter = s.reverse(), s.ba, s.ba
	back.verdicts = must(engine.NewVerdicts(s.b, s.a, checkConfig("ba")))
	primary, standby := s.a, s.b
	for round := range 3 {
		set, next, control := forth, s.reverse(), s.ba
		if round%2 == 1 {
			set, next, control = back, s.pair(), s.ab
		}
		tr := s.startTraffic(primary, uint64(round))
		s.eventually("traffic", func() bool { return tr.acknowledged() > 50 })
		steps := append(set.steps(), must(mirror.Reopen(mirror.ReopenConfig{Gate: s.gate})), must(mirror.StartReverse(mirror.StartReverseConfig{Pair: next, Control: control})))
		journal := fmt.Sprintf("round%d.journal", round)
		// The old writers have moved by the time the gate opens again.
		steps = slices.Insert(steps, 6, failover.Funcs{Name: "clients", Observe: endedObserve(tr), Do: endedDo(tr)}.Step())
		s.mustRun(plan(t, failover.ModeGraceful, steps...), journal)
		if lost := tr.lost(s.content(standby)); len(lost) > 0 {
			t.Fatalf("round %d: lost %v", round, lost)
		}
		primary, standby = standby, primary
		s.put(primary, fmt.Sprintf("/registry/configmaps/ns0/round%d", round), "1")
		s.caughtUp(control, primary)
		if !maps.Equal(s.content(primary), s.content(standby)) {
			t.Fatalf("round %d: the two differ", round)
		}
	}
}

// Undoing StartReverse fences the old primary, so that the first mirror may run again.
func TestUndoingAReversal(t *testing.T) {
	s := newStage(t)
	s.put(s.a, "/registry/configmaps/ns0/x", "1")
	s.mirrored()
	steps := append(s.settings().steps(), must(mirror.Reopen(mirror.ReopenConfig{Gate: s.gate})), must(mirror.StartReverse(mirror.StartReverseConfig{Pair: s.reverse(), Control: s.ba})))
	r := s.mustRun(plan(t, failover.ModeGraceful, steps...), "switch.journal")
	if phase := s.metadata(s.a, "ba").Checkpoint.Phase; phase != etcdmirror.PhaseTail {
		t.Fatalf("phase %s", phase)
	}
	if err := s.undo(r); err != nil {
		t.Fatal(err)
	}
	if phase := s.metadata(s.a, "ba").Checkpoint.Phase; phase != etcdmirror.PhasePromoted {
		t.Errorf("the old primary is not fenced: phase %s", phase)
	}
	s.put(s.a, "/registry/configmaps/ns0/x", "2")
	s.caughtUp(s.ab, s.a)
	if got := s.content(s.b)["/registry/configmaps/ns0/x"]; got != "2" {
		t.Errorf("the first mirror does not run: %q", got)
	}
}
