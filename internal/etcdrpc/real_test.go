package etcdrpc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// ample is a deadline that no call of these tests comes near.
const ample = 30 * time.Second

// newClient connects with what change makes of the cluster's configuration.
func newClient(t *testing.T, c *embedetcd.Cluster, change func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	cfg := c.ClientConfig()
	change(&cfg)
	cli, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func wantClass(t *testing.T, what string, err error, want etcdrpc.Class) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	} else if got := etcdrpc.Classify(err); got != want {
		t.Errorf("%s: %q has class %d, want %d", what, err, got, want)
	}
}

// must fails the test at once when what is only preparation fails.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// watchError is what ends a watch that cannot begin.
func watchError(ctx context.Context, cli *clientv3.Client, key string, opts ...clientv3.OpOption) error {
	for resp := range cli.Watch(ctx, key, opts...) {
		if err := resp.Err(); err != nil {
			return err
		}
	}
	return nil
}

func TestClassifyRefusalsOfAServer(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{MaxTxnOps: 4, MaxRequestBytes: 64 << 10})
	cli := testutil.Client(t, c)
	var rev int64
	for _, v := range []string{"1", "2", "3"} {
		rev = must[*clientv3.PutResponse](t)(cli.Put(ctx, "k", v)).Header.Revision
	}
	must[*clientv3.CompactResponse](t)(cli.Compact(ctx, rev))

	_, err := cli.Get(ctx, "k", clientv3.WithRev(rev-1))
	wantClass(t, "a compacted revision", err, etcdrpc.Compacted)
	wantClass(t, "a watch from a compacted revision", watchError(ctx, cli, "k", clientv3.WithRev(rev-1)), etcdrpc.Compacted)
	_, err = cli.Get(ctx, "k", clientv3.WithRev(rev+1))
	wantClass(t, "a future revision", err, etcdrpc.FutureRevision)

	ops := make([]clientv3.Op, 5)
	for i := range ops {
		ops[i] = clientv3.OpGet("k")
	}
	_, err = cli.Txn(ctx).Then(ops...).Commit()
	wantClass(t, "five operations of four", err, etcdrpc.TooManyOps)

	_, err = cli.Put(ctx, "big", strings.Repeat("x", 100<<10))
	wantClass(t, "a request above the server's limit", err, etcdrpc.TooLarge)
	_, err = cli.Put(ctx, "big", strings.Repeat("x", 1<<20))
	wantClass(t, "a message above the server's limit", err, etcdrpc.TooLarge)
	_, err = cli.Put(ctx, "big", strings.Repeat("x", 3<<20))
	wantClass(t, "a message above the client's limit", err, etcdrpc.TooLarge)
	must[*clientv3.PutResponse](t)(cli.Put(ctx, "big", strings.Repeat("x", 60<<10)))
	small := newClient(t, c, func(cfg *clientv3.Config) { cfg.MaxCallSendMsgSize, cfg.MaxCallRecvMsgSize = 16<<10, 32<<10 })
	_, err = small.Get(ctx, "big")
	wantClass(t, "an answer above the client's limit", err, etcdrpc.TooLarge)

	_, err = cli.Put(ctx, "", "v")
	wantClass(t, "an empty key", err, etcdrpc.Invalid)
	_, err = cli.Put(ctx, "k", "v", clientv3.WithLease(42))
	wantClass(t, "an unknown lease", err, etcdrpc.Invalid)
	_, err = cli.Txn(ctx).Then(clientv3.OpPut("k", "a"), clientv3.OpPut("k", "b")).Commit()
	wantClass(t, "two puts of one key", err, etcdrpc.Invalid)
	err = cli.ActiveConnection().Invoke(ctx, "/etcdserverpb.KV/NoSuchCall", &pb.RangeRequest{}, &pb.RangeResponse{})
	wantClass(t, "an unknown call", err, etcdrpc.Unsupported)
}

func TestClassifyDenials(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{Change: func(_ int, cfg *embed.Config) { cfg.BcryptCost = 4 }})
	admin := testutil.Client(t, c)
	must[*clientv3.AuthRoleAddResponse](t)(admin.RoleAdd(ctx, "root"))
	must[*clientv3.AuthRoleAddResponse](t)(admin.RoleAdd(ctx, "reader"))
	must[*clientv3.AuthRoleGrantPermissionResponse](t)(admin.RoleGrantPermission(ctx, "reader", "a/", "a0", clientv3.PermissionType(clientv3.PermRead)))
	for user, role := range map[string]string{"root": "root", "reader": "reader"} {
		must[*clientv3.AuthUserAddResponse](t)(admin.UserAdd(ctx, user, "secret"))
		must[*clientv3.AuthUserGrantRoleResponse](t)(admin.UserGrantRole(ctx, user, role))
	}
	must[*clientv3.AuthEnableResponse](t)(admin.AuthEnable(ctx))

	reader := newClient(t, c, func(cfg *clientv3.Config) { cfg.Username, cfg.Password = "reader", "secret" })
	if _, _, err := etcdrpc.Head(ctx, reader, ample, "a/"); err != nil {
		t.Fatalf("the permitted read: %v", err)
	}
	_, _, err := etcdrpc.Head(ctx, reader, ample, "b/")
	wantClass(t, "a read outside the role", err, etcdrpc.Denied)
	_, err = reader.Put(ctx, "a/k", "v")
	wantClass(t, "a put by a reader", err, etcdrpc.Denied)
	_, err = reader.Txn(ctx).Then(clientv3.OpGet("b/k")).Commit()
	wantClass(t, "a transaction outside the role", err, etcdrpc.Denied)
	wantClass(t, "a watch outside the role", watchError(ctx, reader, "b/", clientv3.WithPrefix()), etcdrpc.Denied)

	anonymous := testutil.Client(t, c)
	_, err = anonymous.Get(ctx, "a/k")
	wantClass(t, "a read without a user", err, etcdrpc.Denied)
	wrong := c.ClientConfig()
	wrong.Username, wrong.Password = "reader", "guess"
	cli, err := clientv3.New(wrong)
	if err == nil {
		_ = cli.Close()
	}
	wantClass(t, "a wrong password", err, etcdrpc.Denied)
	forged := newClient(t, c, func(cfg *clientv3.Config) { cfg.Token = "forged" })
	_, err = forged.Get(ctx, "a/k")
	wantClass(t, "a forged token", err, etcdrpc.Denied)
}

func TestClassifyNoSpaceUntilDisarmed(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{QuotaBackendBytes: 1 << 20})
	cli := testutil.Client(t, c)
	var err error
	for i := 0; err == nil; i++ {
		if i == 100 {
			t.Fatal("100 values of 128 KiB fit 1 MiB")
		}
		_, err = cli.Put(ctx, "k", strings.Repeat("x", 128<<10))
	}
	wantClass(t, "a put above the quota", err, etcdrpc.NoSpace)
	_, err = cli.Txn(ctx).Then(clientv3.OpPut("other", "v")).Commit()
	wantClass(t, "a transaction after the alarm", err, etcdrpc.NoSpace)
	if _, _, err := etcdrpc.Head(ctx, cli, ample, "k"); err != nil {
		t.Errorf("a read after the alarm: %v", err)
	}
}

func TestHeadAndADeadServer(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{})
	cli := testutil.Client(t, c)
	rev := must[*clientv3.PutResponse](t)(cli.Put(ctx, "k", "v")).Header.Revision
	for _, begin := range []string{"k", "\x00", "no such key"} {
		id, head, err := etcdrpc.Head(ctx, cli, ample, begin)
		if err != nil || id != c.ID() || head != rev {
			t.Errorf("by %q: cluster %x revision %d, %v; want %x and %d", begin, id, head, err, c.ID(), rev)
		}
	}
	if err := c.StopMember(0); err != nil {
		t.Fatal(err)
	}
	_, _, err := etcdrpc.Head(ctx, cli, 200*time.Millisecond, "k")
	if !errors.Is(err, etcdrpc.ErrTimeout) {
		t.Errorf("a stopped server: %v", err)
	}
	wantClass(t, "a stopped server", err, etcdrpc.Retry)
	_, err = etcdrpc.Do(ctx, 200*time.Millisecond, func(ctx context.Context) (*clientv3.PutResponse, error) { return cli.Put(ctx, "k", "w") })
	wantClass(t, "a put to a stopped server", err, etcdrpc.Retry)
}
