package embedetcd_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func start(t *testing.T, opts embedetcd.Options) (context.Context, *embedetcd.Cluster, *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c, err := embedetcd.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	cli, err := c.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return ctx, c, cli
}

func put(ctx context.Context, t *testing.T, cli *clientv3.Client, key, value string) *clientv3.PutResponse {
	t.Helper()
	r, err := cli.Put(ctx, key, value)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// putSoon repeats the write while the members elect a leader.
func putSoon(ctx context.Context, t *testing.T, cli *clientv3.Client, key, value string) {
	t.Helper()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := cli.Put(try, key, value)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("no majority came up: %v", err)
		}
	}
}

func TestClustersHaveTheirOwnID(t *testing.T) {
	ctx, a, cliA := start(t, embedetcd.Options{})
	_, b, _ := start(t, embedetcd.Options{})
	if a.ID() == b.ID() || a.ID() == 0 {
		t.Fatalf("IDs %x and %x", a.ID(), b.ID())
	}
	if got := put(ctx, t, cliA, "a", "1").Header.ClusterId; got != a.ID() {
		t.Fatalf("the header says %x, ID says %x", got, a.ID())
	}
	members, err := cliA.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := members.Members[0].ClientURLs; len(got) != 1 || got[0] != a.Endpoints()[0] {
		t.Fatalf("advertised %v, want %v", got, a.Endpoints())
	}
}

func TestRestartKeepsDataAndPortsAndChangesLimits(t *testing.T) {
	ctx, c, cli := start(t, embedetcd.Options{MaxRequestBytes: 64 << 10, MaxTxnOps: 4})
	rev := put(ctx, t, cli, "k", "v").Header.Revision

	big := strings.Repeat("x", 200<<10)
	if _, err := cli.Put(ctx, "big", big); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Fatalf("want ErrRequestTooLarge, got %v", err)
	}
	ops := make([]clientv3.Op, 5)
	for i := range ops {
		ops[i] = clientv3.OpGet("k")
	}
	if _, err := cli.Txn(ctx).Then(ops...).Commit(); !errors.Is(err, rpctypes.ErrTooManyOps) {
		t.Fatalf("want ErrTooManyOps, got %v", err)
	}

	// An open watch must not hold up the stop.
	wctx, wcancel := context.WithCancel(ctx)
	defer wcancel()
	watch := cli.Watch(wctx, "k", clientv3.WithRev(rev+1), clientv3.WithCreatedNotify())
	<-watch
	began := time.Now()
	if err := c.StopMember(0); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %v", time.Since(began))
	if c.Member(0) != nil {
		t.Fatal("a stopped member is still there")
	}
	if err := c.StartMember(ctx, 0, func(cfg *embed.Config) { cfg.MaxRequestBytes = 1 << 20 }); err != nil {
		t.Fatal(err)
	}
	if err := c.StartMember(ctx, 0, nil); err == nil {
		t.Fatal("a running member was started again")
	}
	got, err := cli.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	if got.Header.Revision != rev || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Fatalf("after the restart: revision %d of %d, %d keys", got.Header.Revision, rev, len(got.Kvs))
	}
	put(ctx, t, cli, "big", big)
	rev = put(ctx, t, cli, "k", "w").Header.Revision
	for { // the watch was carried over
		r, ok := <-watch
		if !ok || r.Err() != nil {
			t.Fatalf("the watch ended: %v", r.Err())
		}
		if n := len(r.Events); n > 0 {
			if got := r.Events[n-1].Kv.ModRevision; got != rev {
				t.Fatalf("watched revision %d, want %d", got, rev)
			}
			break
		}
	}
}

func TestThreeMembersSurviveTheLossOfTheLeader(t *testing.T) {
	ctx, c, cli := start(t, embedetcd.Options{Members: 3})
	put(ctx, t, cli, "k", "1")
	leader := c.Leader()
	if leader < 0 {
		t.Fatal("no leader")
	}
	if err := c.StopMember(leader); err != nil {
		t.Fatal(err)
	}
	putSoon(ctx, t, cli, "k", "2")
	other := (leader + 1) % 3
	if err := c.StopMember(other); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := cli.Put(short, "k", "3"); err == nil {
		t.Fatal("a write passed without a majority")
	}
	// Stop a member that cannot become ready, then bring all back.
	if err := c.StopMember((leader + 2) % 3); err != nil {
		t.Fatal(err)
	}
	if err := c.StartMember(ctx, other, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.StopMember(other); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := c.StartMember(ctx, i, nil); err != nil {
			t.Fatal(err)
		}
	}
	putSoon(ctx, t, cli, "k", "4")
	r, err := cli.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Kvs[0].Version; v < 3 { // the write without a majority may have been kept for later
		t.Fatalf("version %d: a write was lost", v)
	}
}

func TestTLSAsksForAClientCertificate(t *testing.T) {
	ctx, c, cli := start(t, embedetcd.Options{TLS: true, Dir: t.TempDir()})
	put(ctx, t, cli, "k", "v")
	for _, f := range []string{c.TLSFiles().CA, c.TLSFiles().ClientCert, c.TLSFiles().ClientKey} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
	if !strings.HasPrefix(c.Endpoints()[0], "https://") {
		t.Fatal(c.Endpoints())
	}
	cfg := c.ClientConfig()
	cfg.TLS.Certificates = nil
	bare, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bare.Close() }()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := bare.Get(short, "k"); err == nil {
		t.Fatal("a client without a certificate was served")
	}
	began := time.Now()
	watch := cli.Watch(ctx, "k", clientv3.WithCreatedNotify())
	<-watch
	if err := c.StopMember(0); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %v", time.Since(began))
}

func TestTemporaryDirectoryIsRemoved(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := embedetcd.Start(ctx, embedetcd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(c.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s: %v", c.Dir(), err)
	}
	if err := c.StartMember(ctx, 0, nil); err == nil {
		t.Fatal("a member of a closed cluster was started")
	}
	if _, err := embedetcd.Start(ctx, embedetcd.Options{Members: 2}); err == nil {
		t.Fatal("two members were accepted")
	}
}
