package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var resyncMeasurement = measurement{file: "resync", turns: (*bench).measureResyncs, columns: resyncColumns, row: resyncRow, notes: resyncNotes, anySize: true}

// What changes while nobody mirrors: one key of so many is updated, or deleted, or created.
const (
	changedOneOf = 100
	deletedOneOf = 1000
)

func (b *bench) measureResyncs(ctx context.Context, s *size) error {
	for run := 1; run <= b.cfg.runs; run++ {
		for _, c := range rotated(b.mirrors(), run) {
			if err := b.turn(ctx, s, "", c, run, func(ctx context.Context) (x sample, err error) {
				err = b.withStage(ctx, s.Keys, stage{filter: b.cfg.filter}, func(g *stage) error {
					x, err = b.measureResync(ctx, g, c, run)
					return err
				})
				return x, err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureResync changes the source while nobody mirrors, compacts it, and lets one contender make the target equal again.
func (b *bench) measureResync(ctx context.Context, g *stage, c contender, run int) (x sample, err error) {
	if err := b.begun(ctx, g, c); err != nil {
		return x, err
	}
	before, err := get(ctx, g.source.client, prefix)
	if err != nil {
		return x, err
	}
	ch, err := b.changeBehind(ctx, g.source)
	if err != nil {
		return x, err
	}
	x.Changes = ch.count()
	flags := roleFlags{source: g.via, target: g.target.endpoint, filter: g.filter, engine: b.cfg.engine, serve: true}
	b.profile(&flags, c, run)
	if c.role == roleMakeMirror {
		if err := b.refused(ctx, g, flags, before.Header.Revision+1); err != nil {
			return x, err
		}
	}
	events, err := g.target.watch(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return x, err
	}
	p, err := begin(ctx, c.role, flags, g.source, g.target, false)
	if err != nil {
		return x, err
	}
	defer p.stop()
	alive, cancel := p.whileAlive(ctx)
	defer cancel()
	enough := ch.seen
	if c.role == roleMakeMirror { // it copies all, in the order of the keys
		enough = func(ev *clientv3.Event) bool { return string(ev.Kv.Key) == ch.greatest }
	}
	if err := awaitEvents(alive, events, enough); err != nil {
		return x, err
	}
	done := time.Now()
	if c.role == roleUnderstudy {
		if _, err := p.counters(ctx); err != nil {
			return x, err
		}
		x.DoneSeconds = time.Since(p.began).Seconds()
	}
	if x.cost, x.Counters, err = p.finish(ctx, done); err != nil {
		return x, err
	}
	if x.Counters != nil && x.Counters.Resyncs == 0 {
		return x, errors.New("understudy has not made a resync")
	}
	keep, err := g.keep(c)
	if err != nil {
		return x, err
	}
	equal, err := compare(ctx, g.source.client, g.target.client, keep)
	x.Keys, x.Bytes = equal.keys, equal.bytes
	var d *difference
	if c.role == roleMakeMirror && errors.As(err, &d) && d.missed == 0 && d.different == 0 && d.surplus == ch.deleted {
		x.Zombies, err = d.surplus, nil
	}
	return x, err
}

// refused makes sure that make-mirror cannot go on where it was: the source has compacted that.
func (b *bench) refused(ctx context.Context, g *stage, flags roleFlags, rev int64) error {
	flags.rev = rev
	p, err := startProcess(roleMakeMirror, flags)
	if err != nil {
		return err
	}
	defer p.stop()
	select {
	case <-p.ended:
		b.note("make-mirror --rev: %v", p.failure())
		return nil
	case <-time.After(requestTimeout):
		return errors.New("make-mirror --rev follows a source that has compacted the revision")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// changes are what the source has and the target has not.
type changes struct {
	pending  map[string]int // the number that the value of a key carries, or gone
	puts     int
	deleted  int
	greatest string // key below the prefix
}

const gone = -1

func (c *changes) count() int { return c.puts + c.deleted }

// seen takes an event of the target and reports whether all have arrived.
func (c *changes) seen(ev *clientv3.Event) bool {
	want, ok := c.pending[string(ev.Kv.Key)]
	if !ok {
		return false
	}
	number, stamped := stampOf(ev.Kv.Value)
	if deleted := ev.Type == clientv3.EventTypeDelete; deleted && want == gone || !deleted && stamped && number == want {
		delete(c.pending, string(ev.Kv.Key))
	}
	return len(c.pending) == 0
}

// changeBehind changes the source and compacts it, so that nobody can read how it came about.
func (b *bench) changeBehind(ctx context.Context, source *server) (*changes, error) {
	var objects []pair
	ch := &changes{pending: map[string]int{}}
	for c := newCursor(source.client, everything); ; {
		kv, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		if kv == nil {
			break
		}
		ch.greatest = string(kv.Key)
		if len(kv.Value) >= stampMinValue && b.keep(kv.Key) {
			objects = append(objects, pair{string(kv.Key), kv.Value})
		}
	}
	var ops []clientv3.Op
	update := func(key string, value []byte) {
		ch.puts++
		setStamp(value, ch.puts)
		ch.pending[key] = ch.puts
		ops = append(ops, clientv3.OpPut(key, string(value)))
	}
	for i, o := range objects {
		switch {
		case i%deletedOneOf == deletedOneOf/2 && o.key != ch.greatest:
			ch.deleted++
			ch.pending[o.key] = gone
			ops = append(ops, clientv3.OpDelete(o.key))
			name := fmt.Sprintf("resync-%08d", i)
			update(createdPrefix+name, benchObject("ConfigMap", "team-00", "bench-created-"+name, 1200, uint64(i)).Protobuf())
		case i%changedOneOf == 0:
			update(o.key, o.value)
		}
	}
	batches := slices.Collect(slices.Chunk(ops, 100))
	// A revision of its own, so that the first is compacted however few there are.
	ops = nil
	update(lastKey, benchObject("ConfigMap", "team-00", "bench-last", 1200, 1).Protobuf())
	batches = append(batches, ops)
	rev := int64(0)
	for _, batch := range batches {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		resp, err := source.client.Txn(ctx).Then(batch...).Commit()
		cancel()
		if err != nil {
			return nil, err
		}
		rev = resp.Header.Revision
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := source.client.Compact(ctx, rev, clientv3.WithCompactPhysical())
	return ch, err
}
