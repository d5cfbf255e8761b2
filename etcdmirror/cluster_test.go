package etcdmirror_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func connect(t testing.TB, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// backup copies a stopped moment of a cluster of one member; the returned function puts the cluster back to it.
func backup(t testing.TB, c *embedetcd.Cluster) (restore func(context.Context)) {
	t.Helper()
	saved := filepath.Join(t.TempDir(), "backup")
	restart := func(ctx context.Context, between func()) {
		t.Helper()
		if err := c.StopMember(0); err != nil {
			t.Fatal(err)
		}
		between()
		if err := c.StartMember(ctx, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	copyDir := func(from, to string) {
		t.Helper()
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	restart(t.Context(), func() { copyDir(c.Dir(), saved) })
	return func(ctx context.Context) {
		restart(ctx, func() { copyDir(saved, c.Dir()) })
	}
}

// withAuth turns authentication on: root, which c becomes, and a user "guest" that may do nothing.
func withAuth(t testing.TB, p *pair, c *clientv3.Client, side string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.UserAdd(p.ctx, "root", "root")
	do(err)
	_, err = c.UserGrantRole(p.ctx, "root", "root")
	do(err)
	_, err = c.UserAdd(p.ctx, "guest", "guest")
	do(err)
	_, err = c.RoleAdd(p.ctx, "guest")
	do(err)
	_, err = c.UserGrantRole(p.ctx, "guest", "guest")
	do(err)
	_, err = c.AuthEnable(p.ctx)
	do(err)
	cluster := p.sourceCluster
	if side == "target" {
		cluster = p.targetCluster
	}
	cfg := cluster.ClientConfig()
	cfg.Username, cfg.Password = "root", "root"
	root := connect(t, cfg)
	if side == "target" {
		p.target = root
	} else {
		p.source = root
	}
}

// grant lets a user's role read and write prefixes.
func grant(t testing.TB, p *pair, root *clientv3.Client, role string, prefixes ...string) {
	t.Helper()
	for _, prefix := range prefixes {
		if _, err := root.RoleGrantPermission(p.ctx, role, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
			t.Fatal(err)
		}
	}
}
