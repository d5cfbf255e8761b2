package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func record(ctx context.Context, t testing.TB, cli *clientv3.Client, cfg Config) *Recorder {
	t.Helper()
	r, err := Start(ctx, cli, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestRecorderKnowsTheHeadOfAnEmptyEtcd(t *testing.T) {
	ctx := testutil.Context(t)
	cli := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	r := record(ctx, t, cli, Config{})
	if head, err := r.Head(ctx); err != nil || head != 1 || len(r.Revisions()) != 0 {
		t.Fatalf("head %d, %d revisions, error %v", head, len(r.Revisions()), err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := r.WaitFor(short, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waited for a revision that does not exist: %v", err)
	}
}

func TestRecorderRefusesACompactedEtcd(t *testing.T) {
	ctx := testutil.Context(t)
	cli := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	for range 3 {
		if _, err := cli.Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cli.Compact(ctx, 3); err != nil {
		t.Fatal(err)
	}
	r, err := Start(ctx, cli, Config{})
	if err == nil {
		defer r.Close()
		_, err = r.Head(ctx)
	}
	if !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatalf("want ErrCompacted, got %v", err)
	}
}

// TestStatesAreWhatEtcdSays holds the recorded state at every revision against reads at that revision, over a restart of the server.
func TestStatesAreWhatEtcdSays(t *testing.T) {
	ctx := testutil.Context(t)
	cluster := testutil.NewCluster(t, embedetcd.Options{})
	cli := testutil.Client(t, cluster)
	r := record(ctx, t, cli, Config{HashOver: 100})
	rng := rand.New(rand.NewPCG(1, 2))
	key := func() string { return "\x00\xff/" + string(rune('a'+rng.IntN(8))) }
	for i := range 300 {
		var err error
		switch rng.IntN(5) {
		case 0:
			_, err = cli.Delete(ctx, key())
		case 1:
			_, err = cli.Delete(ctx, "\x00", clientv3.WithFromKey())
		case 2:
			_, err = cli.Txn(ctx).Then(clientv3.OpPut("x", fmt.Sprint(i)), clientv3.OpPut("y", ""), clientv3.OpDelete(key())).Commit()
		default:
			_, err = cli.Put(ctx, key(), strings.Repeat("v", rng.IntN(200)))
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 150 {
			if err := cluster.StopMember(0); err != nil {
				t.Fatal(err)
			}
			if err := cluster.StartMember(ctx, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	head, err := r.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cursor, events := r.Cursor(), 0
	for rev := int64(1); rev <= head; rev++ {
		for _, crossed := range cursor.Advance(rev) {
			events += len(crossed.Events)
		}
		resp, err := cli.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
		if err != nil {
			t.Fatal(err)
		}
		for name, state := range map[string]map[string]Event{"Cursor": cursor.State(), "At": r.At(rev)} {
			if len(state) != len(resp.Kvs) {
				t.Fatalf("%s: revision %d: %d keys, etcd says %d", name, rev, len(state), len(resp.Kvs))
			}
			for _, kv := range resp.Kvs {
				e, ok := state[string(kv.Key)]
				raw, whole := e.Value.Bytes()
				switch {
				case !ok || e.Create != kv.CreateRevision || e.Mod != kv.ModRevision || e.Version != kv.Version:
					t.Fatalf("%s: revision %d: %q has other metadata", name, rev, kv.Key)
				case !e.Value.Equal(newValue(kv.Value, -1)) || e.Value.Len() != len(kv.Value):
					t.Fatalf("%s: revision %d: %q has another value", name, rev, kv.Key)
				case whole != (len(kv.Value) <= 100) || (whole && !bytes.Equal(raw, kv.Value)):
					t.Fatalf("%s: revision %d: %q is kept in the wrong form", name, rev, kv.Key)
				}
			}
		}
	}
	if events < 300 || cursor.Rev() != head {
		t.Fatalf("%d events up to %d", events, cursor.Rev())
	}
}

func TestLargeTransactionsStayWhole(t *testing.T) {
	ctx := testutil.Context(t)
	cli := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{MaxRequestBytes: 8 << 20}))
	r := record(ctx, t, cli, Config{})
	var ops []clientv3.Op
	for i := range 100 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("k%03d", i), strings.Repeat("v", 60<<10)))
	}
	resp, err := cli.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WaitFor(ctx, resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	revs := r.Revisions()
	if len(revs) != 1 || len(revs[0].Events) != 100 {
		t.Fatalf("%d revisions", len(revs))
	}
}

func TestValueEquality(t *testing.T) {
	for _, a := range []string{"", "a", "aa", "ab"} {
		for _, b := range []string{"", "a", "aa", "ab"} {
			for _, over := range [][2]int{{-1, -1}, {0, -1}, {-1, 0}, {0, 0}, {1, 1}} {
				if got := newValue([]byte(a), over[0]).Equal(newValue([]byte(b), over[1])); got != (a == b) {
					t.Errorf("%q and %q hashed over %v: %v", a, b, over, got)
				}
			}
		}
	}
}
