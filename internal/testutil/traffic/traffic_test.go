package traffic_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/history"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func start(t *testing.T, opts embedetcd.Options) (context.Context, *embedetcd.Cluster, *clientv3.Client, *history.Recorder) {
	t.Helper()
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, opts)
	cli := testutil.Client(t, c)
	rec, err := history.Start(ctx, cli, history.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rec.Close)
	return ctx, c, cli, rec
}

func head(ctx context.Context, t *testing.T, rec *history.Recorder) int64 {
	t.Helper()
	rev, err := rec.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// sameRevisions tells whether two histories hold the same events in the same revisions.
func sameRevisions(a, b []history.Revision) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d and %d revisions", len(a), len(b))
	}
	for i := range a {
		same := a[i].Rev == b[i].Rev && slices.EqualFunc(a[i].Events, b[i].Events, func(x, y history.Event) bool {
			return x.Key == y.Key && x.Delete == y.Delete && x.Lease == y.Lease && x.Value.Equal(y.Value)
		})
		if !same {
			return fmt.Errorf("revisions %d and %d differ", a[i].Rev, b[i].Rev)
		}
	}
	return nil
}

func TestTheSeedDeterminesTheHistory(t *testing.T) {
	run := func(seed uint64, restart bool) ([]history.Revision, traffic.Stats) {
		ctx, c, cli, rec := start(t, embedetcd.Options{})
		cfg := traffic.Config{Seed: seed, Ops: 400}
		if restart { // in between operations, where no write is in flight
			cfg.Between = func(ctx context.Context, op int, _ int64) error {
				if op%150 != 100 {
					return nil
				}
				return errors.Join(c.StopMember(0), c.StartMember(ctx, 0, nil))
			}
		}
		stats, err := traffic.Run(ctx, cli, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if rev := head(ctx, t, rec); rev != stats.Revision {
			t.Errorf("head %d, Stats say %d", rev, stats.Revision)
		}
		return rec.Revisions(), stats
	}
	a, stats := run(7, false)
	b, _ := run(7, true)
	other, _ := run(8, false)
	t.Logf("%+v", stats)
	if err := sameRevisions(a, b); err != nil {
		t.Errorf("one seed, two histories: %v", err)
	}
	if sameRevisions(a, other) == nil {
		t.Error("two seeds, one history")
	}
}

// TestEverythingHappens looks in the recorded history for each kind of trouble that the traffic promises.
func TestEverythingHappens(t *testing.T) {
	ctx, _, cli, rec := start(t, embedetcd.Options{MaxTxnOps: 256})
	g := traffic.New(traffic.Config{Seed: 1, Keys: 400, MaxTxnOps: 256})
	for range 2 { // Run goes on where it ended
		if err := g.Run(ctx, cli, 600); err != nil {
			t.Fatal(err)
		}
	}
	rev := head(ctx, t, rec)
	s := g.Stats()
	t.Logf("%+v", s)
	for name, n := range map[string]int{
		"Puts": s.Puts, "Deletes": s.Deletes, "RangeDeletes": s.RangeDeletes, "Txns": s.Txns, "LargeTxns": s.LargeTxns,
		"FailedCompare": s.FailedCompare, "Recreated": s.Recreated, "Grants": s.Grants, "Revokes": s.Revokes,
		"Outside": s.Outside, "Empty": s.Empty, "Large": s.Large, "Owned": s.Owned,
	} {
		if n == 0 {
			t.Errorf("no %s", name)
		}
	}
	if s.Ops != 1200 || s.Revision != rev || s.Retries != 0 {
		t.Errorf("Stats %+v at revision %d", s, rev)
	}

	found := map[string]int{}
	gone := map[string]int64{} // revision of a key's last delete
	for _, r := range rec.Revisions() {
		deletes, puts := 0, 0
		for _, e := range r.Events {
			if e.Delete {
				deletes++
				gone[e.Key] = r.Rev
				continue
			}
			puts++
			raw, whole := e.Value.Bytes()
			if bytes.Equal(raw, []byte("never written")) && whole {
				t.Fatalf("revision %d holds the wrong branch of a compare", r.Rev)
			}
			switch {
			case e.Value.Len() == 0:
				found["empty value"]++
			case e.Value.Len() >= 100<<10:
				found["large value"]++
			}
			if gone[e.Key] == r.Rev-1 {
				found["put right after the delete"]++
			}
			if e.Lease != 0 {
				found["lease"]++
			}
			if !strings.HasPrefix(e.Key, "/registry/") {
				found["outside key"]++
			} else if !utf8.ValidString(e.Key) {
				found["invalid UTF-8 key"]++
			}
			for name, head := range map[string]string{"protobuf": "k8s\x00", "JSON": "{", "encrypted": "k8s:enc:aescbc:v1:key1:"} {
				if bytes.HasPrefix(raw, []byte(head)) {
					found[name]++
				}
			}
			if strings.Contains(e.Key, "\x00") {
				found["zero byte key"]++
			}
		}
		if deletes > 3 && puts == 0 {
			found["many deletes at once"]++
		}
		if deletes > 0 && puts > 0 {
			found["mixed transaction"]++
		}
		if len(r.Events) >= 150 {
			found["large transaction"]++
		}
	}
	t.Log(found)
	for _, name := range []string{
		"empty value", "large value", "put right after the delete", "lease", "outside key", "invalid UTF-8 key", "zero byte key",
		"protobuf", "JSON", "encrypted", "many deletes at once", "mixed transaction", "large transaction",
	} {
		if found[name] == 0 {
			t.Errorf("no %s in the history", name)
		}
	}
}

func TestRecreatedObjectsAreOtherObjects(t *testing.T) {
	ctx := testutil.Context(t)
	cli := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	rec, err := history.Start(ctx, cli, history.Config{HashOver: -1, Identify: func(value []byte) (string, []string) {
		var o struct{ Metadata struct{ UID string } }
		_ = json.Unmarshal(value, &o) // what is no JSON has no UID
		return o.Metadata.UID, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rec.Close)
	if _, err := traffic.Run(ctx, cli, traffic.Config{Seed: 2, Ops: 1000, Keys: 50}); err != nil {
		t.Fatal(err)
	}
	head(ctx, t, rec)
	incarnation := map[string]string{} // UID -> key and create_revision
	updated := 0
	for _, r := range rec.Revisions() {
		for _, e := range r.Events {
			if e.UID == "" {
				continue
			}
			id := fmt.Sprint(e.Key, "@", e.Create)
			if old := incarnation[e.UID]; old == id {
				updated++
			} else if old != "" {
				t.Fatalf("UID %s is that of %q and of %q", e.UID, old, id)
			}
			incarnation[e.UID] = id
		}
	}
	if len(incarnation) < 50 || updated == 0 {
		t.Errorf("%d objects, %d updates", len(incarnation), updated)
	}
}

func TestConfigLeavesThingsOut(t *testing.T) {
	ctx, _, cli, rec := start(t, embedetcd.Options{})
	cfg := traffic.Config{Seed: 3, Ops: 600, Prefix: "/other/", Inside: true, Plain: true, NoLeases: true, MaxValue: 2000, MaxTxnOps: 5}
	if _, err := traffic.Run(ctx, cli, cfg); err != nil {
		t.Fatal(err)
	}
	head(ctx, t, rec)
	for _, r := range rec.Revisions() {
		for _, e := range r.Events {
			raw, _ := e.Value.Bytes()
			if e.Lease != 0 || !strings.HasPrefix(e.Key, "/other/") || e.Value.Len() > 2000 || bytes.HasPrefix(raw, []byte("k8s:enc:")) {
				t.Fatalf("revision %d: %q with lease %d and %d bytes", r.Rev, e.Key, e.Lease, e.Value.Len())
			}
		}
	}
}

func TestCompactorLeavesTheRecorderWhole(t *testing.T) {
	ctx, _, cli, rec := start(t, embedetcd.Options{})
	comp := &traffic.Compactor{Client: cli, Seed: 4, Every: 5, Before: rec.WaitFor}
	stats, err := traffic.Run(ctx, cli, traffic.Config{Seed: 4, Ops: 300, Between: comp.Step})
	if err != nil {
		t.Fatal(err)
	}
	if comp.Compactions() < 20 {
		t.Errorf("%d compactions", comp.Compactions())
	}
	if _, err := cli.Get(ctx, "k", clientv3.WithRev(2)); err == nil {
		t.Error("nothing was compacted")
	}
	if rev := head(ctx, t, rec); rev != stats.Revision {
		t.Errorf("head %d, want %d", rev, stats.Revision)
	}
	// The recorded end is the true end.
	r, err := cli.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	state := rec.At(stats.Revision)
	for _, kv := range r.Kvs {
		if state[string(kv.Key)].Mod != kv.ModRevision {
			t.Errorf("%q: recorded %d, is %d", kv.Key, state[string(kv.Key)].Mod, kv.ModRevision)
		}
	}
	if len(state) != len(r.Kvs) {
		t.Errorf("%d keys recorded, %d in etcd: %q", len(state), len(r.Kvs), slices.Sorted(maps.Keys(state)))
	}
}

func TestTrafficGoesOnOverTheLossOfAMember(t *testing.T) {
	ctx, c, cli, rec := start(t, embedetcd.Options{Members: 3})
	stats, err := traffic.Run(ctx, cli, traffic.Config{Seed: 5, Ops: 120, Between: func(ctx context.Context, op int, _ int64) error {
		switch op {
		case 40:
			return c.StopMember(max(0, c.Leader()))
		case 80:
			for i := range 3 {
				if c.Member(i) == nil {
					return c.StartMember(ctx, i, nil)
				}
			}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", stats)
	if rev := head(ctx, t, rec); rev < 100 {
		t.Errorf("head %d", rev)
	}
}

func TestErrorsAreReported(t *testing.T) {
	ctx, _, cli, _ := start(t, embedetcd.Options{MaxTxnOps: 4})
	_, err := traffic.Run(ctx, cli, traffic.Config{Seed: 6})
	if err == nil || !strings.Contains(err.Error(), "seed 6, operation") {
		t.Errorf("a refused transaction: %v", err)
	}
	stop := errors.New("enough")
	s, err := traffic.Run(ctx, cli, traffic.Config{Seed: 6, MaxTxnOps: 4, NoLeases: true, Between: func(_ context.Context, op int, _ int64) error {
		if op == 3 {
			return stop
		}
		return nil
	}})
	if !errors.Is(err, stop) || s.Ops != 4 {
		t.Errorf("after %d operations: %v", s.Ops, err)
	}
	short, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	if _, err := traffic.Run(short, cli, traffic.Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an ended context: %v", err)
	}
}
