package etcdmirror

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// bulk sends the transactions of a copy, several at once. The target executes concurrent requests in any order,
// so a transaction that depends on another waits until that one is committed.
type bulk struct {
	ctx    context.Context
	target *target
	group  *errgroup.Group
	slots  chan struct{} // transactions under way
	queue  chan struct{} // these, and those that wait for others to be committed

	maxOps, maxBytes int

	batch batch

	mu        sync.Mutex
	cond      *sync.Cond
	committed map[int32]bool // numbers above low that are committed
	low       int32          // every transaction up to this number is committed
	err       error          // the first failure
}

// batch is the transaction being filled.
type batch struct {
	number  int32
	changes []change
	bytes   int
	after   int32 // the highest number that must be committed before
}

func newBulk(ctx context.Context, t *target, cfg Config) *bulk {
	group, ctx := errgroup.WithContext(ctx)
	b := &bulk{ctx: ctx, target: t, group: group, slots: make(chan struct{}, cfg.InFlight), queue: make(chan struct{}, 3*cfg.InFlight), committed: map[int32]bool{},
		maxOps: cfg.BatchOps, maxBytes: min(cfg.BatchBytes, cfg.MaxRequestBytes-baseOverhead)}
	b.cond = sync.NewCond(&b.mu)
	b.batch.number = 1
	return b
}

// add puts changes that belong together into the current transaction, sending it first if they do not fit and are not glued to what it holds.
// after are the numbers of transactions that must be committed before. It returns the number of the transaction that got them.
func (b *bulk) add(after []int32, glued bool, changes ...change) (int32, error) {
	bytes := 0
	for _, c := range changes {
		bytes += c.size()
	}
	if n := len(b.batch.changes); n > 0 && !glued && (n+len(changes) > b.maxOps || b.batch.bytes+bytes > b.maxBytes) {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	b.batch.changes = append(b.batch.changes, changes...)
	b.batch.bytes += bytes
	for _, number := range after {
		if number < b.batch.number { // what is in the same transaction is there at the same time
			b.batch.after = max(b.batch.after, number)
		}
	}
	return b.batch.number, nil
}

// flush sends the current transaction without waiting for its outcome.
func (b *bulk) flush() error {
	if len(b.batch.changes) == 0 {
		return b.ctx.Err()
	}
	full := b.batch
	b.batch = batch{number: full.number + 1}
	select {
	case b.queue <- struct{}{}:
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	b.group.Go(func() error {
		err := b.send(full)
		b.done(full.number, err)
		<-b.queue
		return err
	})
	return nil
}

// send sends a transaction as soon as what it depends on is committed. Those it depends on were queued before, so they are never behind it.
func (b *bulk) send(full batch) error {
	if err := b.await(full.after); err != nil {
		return err
	}
	select {
	case b.slots <- struct{}{}:
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	defer func() { <-b.slots }()
	return b.target.deliver(b.ctx, full.changes, AppliedInfo{Bulk: true})
}

// drain sends the current transaction and waits until all are committed.
func (b *bulk) drain() error {
	if err := b.flush(); err != nil {
		return err
	}
	return b.await(b.batch.number - 1)
}

// close drains and ends; it returns the first error.
func (b *bulk) close() error {
	err := b.drain()
	if groupErr := b.group.Wait(); groupErr != nil {
		return groupErr
	}
	return err
}

func (b *bulk) done(number int32, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.committed[number] = true // or failed: then err stops everything
	for b.committed[b.low+1] {
		b.low++
		delete(b.committed, b.low)
	}
	if b.err == nil {
		b.err = err
	}
	b.cond.Broadcast()
}

// await returns when every transaction up to number is committed.
func (b *bulk) await(number int32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.low < number && b.err == nil {
		b.cond.Wait() // done is called for every transaction sent, also when the context ends
	}
	return b.err
}
