package soak

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// writer writes traffic to the source beside the steps of the schedule, as much as it is asked for.
type writer struct {
	gen    *traffic.Generator
	client *clientv3.Client
	end    context.CancelFunc
	ended  sync.WaitGroup

	mu      sync.Mutex
	open    int // operations asked for and not done
	err     error
	changed chan struct{} // closed and replaced when open or err changes
}

func newWriter(ctx context.Context, client *clientv3.Client, cfg traffic.Config) *writer {
	ctx, end := context.WithCancel(ctx)
	w := &writer{gen: traffic.New(cfg), client: client, end: end, changed: make(chan struct{})}
	w.ended.Go(func() { w.run(ctx) })
	return w
}

func (w *writer) run(ctx context.Context) {
	for {
		w.mu.Lock()
		open, changed := w.open, w.changed
		w.mu.Unlock()
		if open == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			continue
		}
		err := w.gen.Run(ctx, w.client, 1)
		w.change(-1, err)
		if err != nil {
			return
		}
	}
}

func (w *writer) change(ops int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open += ops
	w.err = err
	close(w.changed)
	w.changed = make(chan struct{})
}

// add asks for operations.
func (w *writer) add(ops int) {
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err == nil {
		w.change(ops, nil)
	}
}

// idle returns when everything that was asked for is acknowledged.
func (w *writer) idle(ctx context.Context) error {
	for {
		w.mu.Lock()
		open, err, changed := w.open, w.err, w.changed
		w.mu.Unlock()
		if open == 0 || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// close ends the writer and returns how many writes were acknowledged.
func (w *writer) close() int {
	w.end()
	w.ended.Wait()
	s := w.gen.Stats()
	return s.Puts + s.Deletes + s.RangeDeletes + s.Grants + s.Revokes
}
