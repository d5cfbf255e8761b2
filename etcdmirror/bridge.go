package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// maxBridgeBytes bounds the events held to make up for a compaction within a round. Beyond it another round costs less.
const maxBridgeBytes = 16 << 20

// bridge collects from the watch what changed between the head and the revision that compactions moved the pin to: each kept key's last event.
func (r *copyRound) bridge(ctx context.Context) (until int64, last map[string]*mvccpb.Event, err error) {
	m, until := r.m, r.pin.Revision()
	if !r.watch.tellsProgress(ctx) {
		return 0, nil, errAgain // the watch cannot tell for sure how far it is
	}
	last = map[string]*mvccpb.Event{}
	for size, seen := 0, r.head; seen < until; {
		m.askProgress()
		next, _, err := r.watch.next(ctx, nil)
		switch {
		case isCompacted(err) || errors.Is(err, errStalled):
			return 0, nil, errAgain
		case err != nil:
			return 0, nil, fmt.Errorf("source: %w", err)
		}
		if next.rev > until && len(next.events) > 0 {
			r.watch.giveBack(next)
			break
		}
		seen = max(seen, next.rev)
		for _, event := range next.events {
			key := string(event.Kv.Key)
			if before, ok := last[key]; ok {
				size -= len(before.Kv.Value)
			} else {
				size += len(key) + eventOverhead
			}
			last[key] = event
			size += len(event.Kv.Value)
		}
		if size > maxBridgeBytes {
			return 0, nil, errAgain
		}
	}
	return until, last, nil
}

// settlePage is how many keys settle looks at together.
const settlePage = 64

// settle writes the final states of keys that changed while the round read, together with those that still wait for owners, which may be among the former.
func (r *copyRound) settle(ctx context.Context, p *placer, until int64, last map[string]*mvccpb.Event, zombies *[]string) error {
	m := r.m
	values := map[string]*mvccpb.KeyValue{}
	entries := make([]entry, 0, len(last)+len(p.waiting))
	for _, w := range p.waiting {
		e := p.entries[w.index]
		if last[e.key] != nil {
			continue
		}
		if w.value == nil {
			return errRedo // reading it now would give yet another revision
		}
		values[e.key] = w.value
		entries = append(entries, e)
	}
	// A key may be missing from a listing and yet have been put again.
	*zombies = slices.DeleteFunc(*zombies, func(key string) bool { return last[m.keys.ToSource(key)] != nil })
	for key, event := range last {
		if event.Type == mvccpb.Event_DELETE {
			*zombies = append(*zombies, m.keys.ToTarget(key))
			continue
		}
		values[key] = event.Kv
		entries = append(entries, entry{key: key, create: event.Kv.CreateRevision, tpos: 1})
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].key < entries[j].key })
	for i := range entries {
		if entries[i].tpos > 0 { // far apart, so that they are read one by one
			entries[i].tpos = int64(i+1) << 20
		}
	}
	// Keys may be written again only after a checkpoint (see target).
	if err := p.bulk.drain(); err != nil {
		return err
	}
	if err := m.writer.apply(ctx, nil, m.writer.within(), AppliedInfo{Bulk: true}); err != nil {
		return err
	}
	p.waiting, p.stashed, p.entries, p.limit = nil, 0, entries, until
	order, glued, ends := copyOrder(m.ranks, entries, nil)
	begin := 0
	for _, end := range append(ends, len(order)) {
		for begin < end {
			n := min(end-begin, settlePage)
			page := order[begin : begin+n]
			kvs := make([]*mvccpb.KeyValue, n)
			for j, i := range page {
				kvs[j] = values[entries[i].key]
			}
			if err := p.page(ctx, page, kvs, glued, true); err != nil {
				return err
			}
			begin += n
		}
		if err := p.bulk.drain(); err != nil {
			return err
		}
	}
	return p.finish(ctx)
}
