package drcheck

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// What the external tests use of the package's inside.
var (
	WriteCheck       = writeCheck
	ValidateName     = validateName
	DecodeCheckpoint = decodeCheckpoint
)

// MirrorView is a mirrorView for external tests.
type MirrorView struct {
	MirrorState
	Complete, Unlisted, Unscanned, Tripped bool
	Keys, CheckpointRevision               int64
	SourceID, TargetID                     string
	SourcePrefix, TargetPrefix             string
	KeepID, TransformID                    string
	Foreign                                map[string]bool
	Guarded, Drifted                       map[string]string
	Check                                  *CheckRecord
	CheckUnknown                           error

	view *mirrorView
}

// Matches calls matches.
func (v *MirrorView) Matches(sourceID, targetID, sourcePrefix, targetPrefix, keepID, transformID string) error {
	return v.view.matches(sourceID, targetID, sourcePrefix, targetPrefix, keepID, transformID)
}

// ReadMirror calls readMirror.
func ReadMirror(ctx context.Context, c *clientv3.Client, timeout time.Duration, name string) (*MirrorView, error) {
	v, err := readMirror(ctx, c, timeout, name)
	if err != nil {
		return nil, err
	}
	return &MirrorView{MirrorState: v.MirrorState, Complete: v.complete, Unlisted: v.unlisted, Unscanned: v.unscanned, Tripped: v.tripped, Keys: v.keys, CheckpointRevision: v.checkpointRevision,
		SourceID: v.sourceID, TargetID: v.targetID, SourcePrefix: v.sourcePrefix, TargetPrefix: v.targetPrefix, KeepID: v.keepID, TransformID: v.transformID,
		Foreign: v.foreign, Guarded: v.guarded, Drifted: v.drifted, Check: v.lastCheck, CheckUnknown: v.checkUnknown, view: v}, nil
}

var updateVerdicts = flag.Bool("update-verdicts", false, "write the golden verdicts anew")

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// record is metadata as a mirror writes it.
type record struct {
	epoch, revision, head int64
	phase                 string
	at, headAt            time.Time
	more                  string
}

func (r record) checkpoint() string {
	text := func(t time.Time) string { return t.Format(time.RFC3339Nano) }
	return fmt.Sprintf(`{"v":1,"epoch":%d,"phase":%q,"revision":%d,"head":%d,"headAt":%q,"at":%q,"writer":"a","seq":7,"keys":120%s}`, r.epoch, r.phase, r.revision, r.head, text(r.headAt), text(r.at), r.more)
}

// viewOf makes a view of metadata, by the keys below the mirror's folder.
func viewOf(t *testing.T, items map[string]string) *mirrorView {
	t.Helper()
	v := newView("prod")
	items["identity"] = `{"v":1,"sourceClusterID":"aaaa","targetClusterID":"bbbb","sourcePrefix":"/registry/","targetPrefix":"/registry/","createdAt":"2026-01-01T00:00:00Z"}`
	for key, value := range items {
		if err := v.add(&mvccpb.KeyValue{Key: []byte(metadataDir("prod") + key), Value: []byte(value), CreateRevision: 5, ModRevision: 900}); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.whole(); err != nil {
		t.Fatal(err)
	}
	return v
}

func outcome(equal bool, mode Mode, rev int64, ago time.Duration, c Count) *CheckOutcome {
	return &CheckOutcome{Equal: equal, Mode: mode, Began: noon.Add(-ago), Ended: noon.Add(-ago).Add(3 * time.Second), SourceRevision: rev, TargetRevision: rev, Keys: 118, Count: c}
}

func checksOf(t *testing.T, epoch int64, equal, keys, differs *CheckOutcome) string {
	t.Helper()
	data, err := json.Marshal(CheckRecord{Version: 1, SourceClusterID: "aaaa", Epoch: epoch, CheckpointCreated: 5, LastEqual: equal, LastEqualKeys: keys, LastDiffers: differs})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestVerdictTexts compares whole texts, from the metadata to the page.
func TestVerdictTexts(t *testing.T) {
	inStep := record{1, 1234, 1234, phaseTail, noon.Add(-4 * time.Second), noon.Add(-5 * time.Second), ""}
	behind := record{1, 1234, 1300, phaseTail, noon.Add(-4 * time.Second), noon.Add(-5 * time.Second), ""}
	history := noon.Add(-90 * time.Second)
	hourAgo := outcome(true, Content, 1200, time.Hour, Count{})
	for name, c := range map[string]struct {
		items   map[string]string
		history time.Time
	}{
		"healthy": {map[string]string{"checkpoint": inStep.checkpoint(), "check": checksOf(t, 1, hourAgo, nil, nil)}, time.Time{}},
		"behind":  {map[string]string{"checkpoint": behind.checkpoint(), "check": checksOf(t, 1, hourAgo, nil, nil)}, history},
		"behind-unknown": {map[string]string{"checkpoint": behind.checkpoint(), "trip": `{}`,
			"check": checksOf(t, 1, nil, nil, outcome(false, Content, 1250, time.Minute, Count{Missed: 3}))}, time.Time{}},
		"copy-interrupted": {map[string]string{"checkpoint": record{1, 1000, 1300, phaseResync, noon.Add(-time.Minute), noon.Add(-time.Minute), `,"unscanned":true`}.checkpoint(),
			"check": checksOf(t, 1, outcome(true, Content, 990, 26*time.Hour, Count{}), nil, nil)}, history},
		"base-copy": {map[string]string{"checkpoint": record{1, 0, 1300, phaseBase, noon.Add(-time.Minute), noon.Add(-time.Minute), ""}.checkpoint()}, history},
		"partial":   {map[string]string{"checkpoint": record{1, 1299, 1300, phasePartial, noon.Add(-time.Minute), noon.Add(-time.Minute), ""}.checkpoint()}, history},
		"promoted": {map[string]string{"checkpoint": record{2, 1234, 1234, phasePromoted, noon.Add(-time.Hour), noon.Add(-time.Hour), `,"complete":true`}.checkpoint(),
			"check": checksOf(t, 1, hourAgo, outcome(true, KeysOnly, 1210, 50*time.Minute, Count{}), nil)}, time.Time{}},
		"promoted-incomplete": {map[string]string{"checkpoint": record{2, 900, 1234, phasePromoted, noon.Add(-time.Hour), noon.Add(-time.Hour), ""}.checkpoint()}, history},
		"demoted":             {map[string]string{"checkpoint": record{phase: phaseArmed, epoch: 3, at: noon}.checkpoint(), "check": checksOf(t, 1, hourAgo, nil, nil)}, time.Time{}},
		"never-checked":       {map[string]string{"checkpoint": inStep.checkpoint()}, time.Time{}},
		"differed": {map[string]string{"checkpoint": inStep.checkpoint(),
			"check": checksOf(t, 1, hourAgo, nil, outcome(false, Content, 1230, time.Minute, Count{Missed: 2, Surplus: 1, Different: 4}))}, time.Time{}},
		"differed-before": {map[string]string{"checkpoint": inStep.checkpoint(), "check": checksOf(t, 1, hourAgo, outcome(true, KeysOnly, 1220, 10*time.Minute, Count{Accepted: 1}), outcome(false, KeysOnly, 1100, 2*time.Hour, Count{Missed: 2}))}, time.Time{}},
		"marked": {map[string]string{"checkpoint": record{1, 1234, 1234, phaseTail, noon, noon.Add(10 * time.Second), `,"unlisted":true`}.checkpoint(), "check": `{"v":2}`,
			"guarded//registry/secrets/a/b": "why", "foreign//registry/pods/a/b": "", "foreign//registry/pods/a/c": "", "drift//registry/pods/a/d": "deleted"}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			view := viewOf(t, c.items)
			v := view.verdict()
			if err := v.findHolds(view, func() (time.Time, error) { return c.history, nil }); err != nil {
				t.Fatal(err)
			}
			v.Now = noon
			var b strings.Builder
			if err := v.WriteText(&b); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "verdict-"+name+".txt")
			if *updateVerdicts {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("%s differs (-want +got); if that is meant, run the test with -update-verdicts:\n%s", path, diff)
			}
			var again Verdict
			data, err := json.Marshal(v)
			if err == nil {
				err = json.Unmarshal(data, &again)
			}
			if diff := cmp.Diff(*v, again); err != nil || diff != "" {
				t.Errorf("%v; the verdict is not what its JSON says: %s", err, diff)
			}
		})
	}
	if err := new(Verdict).WriteText(failing{}); err == nil {
		t.Error("an error of the writer is lost")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestLoss asks for the loss of disasters before, at and after the moment until which the standby holds all.
func TestLoss(t *testing.T) {
	v := &Verdict{MissingRevisions: 7, HoldsUntil: noon, Now: noon.Add(time.Hour)}
	for _, c := range []struct {
		disaster time.Time
		window   time.Duration
	}{{noon.Add(time.Minute), time.Minute}, {noon, 0}, {noon.Add(-time.Second), 0}, {time.Time{}, time.Hour}} {
		if l := v.Loss(c.disaster); l != (Loss{7, noon, c.window}) {
			t.Errorf("disaster at %v: %+v", c.disaster, l)
		}
	}
	v.HoldsUntil = time.Time{}
	if l := v.Loss(noon); l != (Loss{Revisions: 7}) {
		t.Errorf("without a bound: %+v", l)
	}
	for d, want := range map[time.Duration]string{0: "0s", 1: "1s", time.Second: "1s", 61*time.Second + 1: "1m2s"} {
		if got := upwards(d); got != want {
			t.Errorf("%v is shown as %s", d, got)
		}
	}
}

// timeline is a source as it was: its revision i+1 was written at times[i], and checkpoints tell of it what a mirror saw.
type timeline struct {
	times []time.Time
}

// headAt is the source's revision at a time.
func (l *timeline) headAt(at time.Time) int64 {
	n := int64(0)
	for _, t := range l.times {
		if !t.After(at) {
			n++
		}
	}
	return n
}

// TestHoldsUntil writes random histories of checkpoints, compacts some of them away, and asks for the moment until which the standby holds all.
// What the source wrote by then must be applied, and no fact that is still there may tell of a later moment.
func TestHoldsUntil(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	byHistory, bySearch := 0, 0
	rounds := 60
	repeated, repeat := os.LookupEnv("UNDERSTUDY_SEED")
	if repeat {
		rounds = 1
	}
	for i := range rounds {
		seed := rand.Uint64()
		if repeat {
			var err error
			if seed, err = strconv.ParseUint(repeated, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		name := fmt.Sprint("m", i)
		key := metadataDir(name) + "checkpoint"
		l := &timeline{}
		now := noon
		type fact struct {
			at       time.Time
			head     int64
			revision int64 // of the target; for checks 0
		}
		var facts []fact
		put := func(r record) int64 {
			t.Helper()
			resp, err := c.Put(ctx, key, r.checkpoint())
			if err != nil {
				t.Fatal(err)
			}
			return resp.Header.Revision
		}
		epoch := int64(1)
		if rng.IntN(3) == 0 { // an earlier life under the same key, with heads of another source
			for head := range int64(60) {
				put(record{epoch: 1, revision: head, head: head, phase: phaseTail, at: now, headAt: noon.Add(24 * time.Hour)})
			}
			put(record{epoch: 3, phase: phaseArmed, at: now})
			epoch = 3
		}
		applied, head := int64(0), int64(0)
		var last record
		for range 1 + rng.IntN([]int{3, 30}[rng.IntN(2)]) {
			for range rng.IntN(4) {
				now = now.Add(time.Millisecond + time.Duration(rng.IntN(5))*time.Second)
				l.times = append(l.times, now)
			}
			now = now.Add(time.Millisecond + time.Duration(rng.IntN(3))*time.Second)
			head = int64(len(l.times))
			if rng.IntN(4) == 0 {
				applied = head
			} else {
				applied += rng.Int64N(head - applied + 1)
			}
			last = record{epoch: epoch, revision: applied, head: head, phase: phaseTail, at: now, headAt: now}
			facts = append(facts, fact{now, head, put(last)})
			for range rng.IntN(3) { // other keys make revisions too
				if _, err := c.Put(ctx, "other", "v"); err != nil {
					t.Fatal(err)
				}
			}
		}
		checks := CheckRecord{Version: 1, SourceClusterID: "aaaa", Epoch: epoch}
		for range rng.IntN(3) {
			at := noon.Add(time.Duration(rng.Int64N(int64(now.Sub(noon)) + 1)))
			o := &CheckOutcome{Equal: rng.IntN(2) == 0, Mode: []Mode{Content, KeysOnly}[rng.IntN(2)], Began: at, SourceRevision: l.headAt(at)}
			if o.Equal && o.SourceRevision > applied {
				continue // such a check cannot be
			}
			if checks.note(o) && (o.SourceRevision <= applied) {
				facts = append(facts, fact{at: at, head: o.SourceRevision})
			}
		}
		compacted := int64(0)
		if rng.IntN(2) == 0 {
			for _, f := range facts[rng.IntN(len(facts)):] {
				if compacted = f.revision; compacted > 0 {
					break
				}
			}
			if compacted > 0 {
				if _, err := c.Compact(ctx, compacted); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		if rng.IntN(3) == 0 {
			last.phase, last.more, last.epoch = phasePromoted, `,"complete":true`, epoch+1
			put(last)
		}
		if _, err := c.Put(ctx, metadataDir(name)+"identity", `{"v":1,"sourceClusterID":"aaaa"}`); err != nil {
			t.Fatal(err)
		}
		view, err := readMirror(ctx, c, time.Minute, name)
		if err != nil {
			t.Fatal(err)
		}
		checks.CheckpointCreated = view.checkpointCreated
		data, err := json.Marshal(checks)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(ctx, metadataDir(name)+"check", string(data)); err != nil {
			t.Fatal(err)
		}
		v, err := ReadVerdict(ctx, c, name)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if v.MissingRevisions > 0 {
			bySearch++
		}
		if v.HoldsBy == ByHistory {
			byHistory++
		}
		// What a newer outcome of its kind has replaced is no fact any more: those that are not in the record are left out.
		want := time.Time{}
		for _, f := range facts {
			kept := f.revision >= compacted && f.revision > 0
			for _, o := range []*CheckOutcome{v.LastEqual, v.LastEqualKeys, v.LastDiffers} {
				kept = kept || f.revision == 0 && o != nil && o.Began.Equal(f.at)
			}
			if kept && f.head <= v.AppliedRevision && f.at.After(want) {
				want = f.at
			}
		}
		if !v.HoldsUntil.Equal(want) {
			t.Errorf("seed %d: holds all until %v by %q, want %v; %+v", seed, v.HoldsUntil, v.HoldsBy, want, v)
		}
		if !v.HoldsUntil.IsZero() && l.headAt(v.HoldsUntil) > v.AppliedRevision {
			t.Errorf("seed %d: the source was at revision %d at %v, revision %d is applied", seed, l.headAt(v.HoldsUntil), v.HoldsUntil, v.AppliedRevision)
		}
	}
	t.Logf("%d of %d were behind, %d found an earlier checkpoint", bySearch, rounds, byHistory)
	if !repeat && (byHistory == 0 || bySearch == byHistory) {
		t.Error("nothing was tested: the search found always, or never")
	}
}

// TestSameEpoch compares checkpoints of each epoch with those of each other, as etcd does.
func TestSameEpoch(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	epochs := []int64{1, 2, 9, 10, 11, 19, 99, 100, 101, 190, 1 << 40}
	for _, is := range epochs {
		value := record{epoch: is, phase: phaseTail}.checkpoint()
		if _, err := c.Put(ctx, "checkpoint", value); err != nil {
			t.Fatal(err)
		}
		for _, was := range epochs {
			then := &mvccpb.KeyValue{Key: []byte("checkpoint"), Value: []byte(record{epoch: was, phase: phasePromoted, revision: 7}.checkpoint())}
			resp, err := c.Txn(ctx).If(sameEpoch(then, was)...).Commit()
			if err != nil || resp.Succeeded != (is == was) {
				t.Errorf("%v; a checkpoint of epoch %d passes for one of epoch %d: %v", err, is, was, resp.Succeeded)
			}
		}
	}
}
