package testutil

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { Main(m) }

func TestEverythingEndsWithTheTest(t *testing.T) {
	var c *embedetcd.Cluster
	var ctx context.Context
	t.Run("inner", func(t *testing.T) {
		ctx = Context(t)
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the context has no deadline")
		}
		c = NewCluster(t, embedetcd.Options{})
		if _, err := Client(t, c).Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
	})
	if ctx.Err() == nil {
		t.Error("the context outlived its test")
	}
	if c.Member(0) != nil {
		t.Error("the cluster outlived its test")
	}
}

func TestLeaksAreFoundAndSlowEndsAreForgiven(t *testing.T) {
	others := goleak.IgnoreCurrent()
	release := make(chan struct{})
	go func() { <-release }()
	if err := waitNoLeaks(0, others); err == nil {
		t.Error("a goroutine that hangs was not found")
	}
	time.AfterFunc(time.Second, func() { close(release) }) // longer than goleak's own patience
	if err := waitNoLeaks(time.Minute, others); err != nil {
		t.Error(err)
	}
}
