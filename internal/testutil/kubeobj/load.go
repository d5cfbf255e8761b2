package kubeobj

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

const (
	loadBatch   = 100
	loadTimeout = 30 * time.Second // of one transaction
)

// LoadDataset puts the Dataset of n objects and a fixed seed in transactions of 100, so many of them in flight.
// Owners are committed before the first of their dependents is sent. parallel below 1 means 1.
func LoadDataset(ctx context.Context, client *clientv3.Client, n, parallel int) error {
	return load(ctx, client, dataset(rand.New(rand.NewPCG(1, uint64(n))), n), parallel)
}

func load(ctx context.Context, client *clientv3.Client, items iter.Seq[item], parallel int) error {
	group, gctx := newGroup(ctx, parallel)
	depth := 0
	ops := make([]clientv3.Op, 0, loadBatch)
	flush := func() {
		batch := ops
		ops = make([]clientv3.Op, 0, loadBatch)
		group.Go(func() error { return commit(gctx, client, batch) })
	}
	for it := range items {
		if it.depth != depth {
			flush()
			if err := group.Wait(); err != nil {
				return err
			}
			group, gctx = newGroup(ctx, parallel)
			depth = it.depth
		}
		if ops = append(ops, clientv3.OpPut(it.key, string(it.value))); len(ops) == loadBatch {
			flush()
		}
		if gctx.Err() != nil {
			break
		}
	}
	flush()
	return group.Wait()
}

func newGroup(ctx context.Context, parallel int) (*errgroup.Group, context.Context) {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, parallel))
	return group, gctx
}

func commit(ctx context.Context, client *clientv3.Client, ops []clientv3.Op) error {
	if len(ops) == 0 {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("kubeobj: load %d keys from %q: %w", len(ops), ops[0].KeyBytes(), err)
	}
	return nil
}
