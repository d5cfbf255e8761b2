// Package testutil gives tests real etcd clusters that end with the test.
package testutil

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// testDeadline bounds a test that hangs when `go test` itself knows no deadline. No test may depend on it.
const testDeadline = 5 * time.Minute

// deadlineReserve is left to the cleanups before the deadline of `go test`.
const deadlineReserve = 20 * time.Second

// NewCluster starts a cluster and closes it when the test ends.
func NewCluster(t testing.TB, opts embedetcd.Options) *embedetcd.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := embedetcd.Start(ctx, opts)
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop etcd: %v", err)
		}
	})
	return c
}

// Client connects to the cluster and closes the client when the test ends.
func Client(t testing.TB, c *embedetcd.Cluster) *clientv3.Client {
	t.Helper()
	cli, err := c.NewClient()
	if err != nil {
		t.Fatalf("connect to etcd: %v", err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// Context ends when the test ends, or shortly before `go test` would kill it, so that a hanging test reports where it hangs.
func Context(t testing.TB) context.Context {
	t.Helper()
	deadline := time.Now().Add(testDeadline)
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if limit, ok := d.Deadline(); ok && limit.Add(-deadlineReserve).Before(deadline) {
			deadline = limit.Add(-deadlineReserve)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}
