package etcdmirror

import (
	"context"
	"fmt"
	"hash/maphash"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// entry is a key of the source that a copy has to look at.
type entry struct {
	key    string // at the source
	create int64  // the source's create_revision
	pos    int64  // place in the source's listing
	tpos   int64  // place in the target's listing, from 1; 0: not there
}

// entryList is a selection of entries as kvstream reads them.
type entryList struct {
	entries []entry
	order   []int32
}

func (l entryList) Len() int         { return len(l.order) }
func (l entryList) Key(i int) string { return l.entries[l.order[i]].key }
func (l entryList) Pos(i int) int64  { return l.entries[l.order[i]].pos }

// targetList is the same selection at the target.
type targetList struct {
	entryList
	keys *keyspace.Space
}

func (l targetList) Key(i int) string { return l.keys.ToTarget(l.entryList.Key(i)) }
func (l targetList) Pos(i int) int64  { return l.entries[l.order[i]].tpos }

// placer writes the entries of one round to the target, owners before dependents (P10):
// an object whose owners are not yet there waits. When all others are placed, those that wait follow, each after its owners,
// first those whose owners are all known, then, by create_revision, those with an owner that is not among them, and those that cannot be read (such as encrypted ones).
// Of those that wait, key and UIDs are kept, and the values as far as maxStash goes; others are read again.
type placer struct {
	m       *Mirror
	target  *target
	bulk    *bulk
	pin     *kvstream.Pin
	keys    *keyspace.Space
	entries []entry

	since, head, targetHead int64 // see copyRound
	// limit is the source revision that the round is writing: head, or what compactions moved the pin to. What was created later the watch will tell.
	limit int64

	seed    maphash.Seed
	placed  map[uint64]int32 // hash of UID -> number of the transaction that has it, 0: at the target already
	waiting []waitingEntry
	stashed int   // bytes of values in waiting
	serial  bool  // each transaction waits for the one before, for an order that no owners tell
	last    int32 // the number of the last transaction written to
	id      kubemeta.Identity
	after   []int32 // space for owners
}

// item is one entry with what was read of it.
type item struct {
	index    int32
	source   *mvccpb.KeyValue
	target   *mvccpb.KeyValue
	readable bool
	uid      uint64 // hash of the UID of a readable one
	owned    bool
	changes  []change
}

// place writes the entries selected by order, but for those that wait. ends are positions in order at which to wait for all before.
func (p *placer) place(ctx context.Context, order []int32, glued map[int32]bool, ends []int) error {
	begin := 0
	for _, end := range append(ends, len(order)) {
		if end <= begin {
			continue
		}
		part := order[begin:end]
		err := p.m.sources.Fetch(ctx, entryList{p.entries, part}, p.pin, func(first int, kvs []*mvccpb.KeyValue) error {
			return p.page(ctx, part[first:first+len(kvs)], kvs, glued, true)
		})
		if err == nil {
			err = p.bulk.drain()
		}
		if err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// page writes a few entries, given the source's values; those whose owners are not placed are put off if mayWait.
func (p *placer) page(ctx context.Context, page []int32, kvs []*mvccpb.KeyValue, glued map[int32]bool, mayWait bool) error {
	there, err := p.atTarget(ctx, page)
	if err != nil {
		return fmt.Errorf("target: reading values: %w", err)
	}
	items := make([]item, 0, len(kvs))
	for j, kv := range kvs {
		// What was deleted or made since the head was read, the watch will tell (see bridge).
		if kv != nil && !(mayWait && kv.CreateRevision > p.limit) {
			items = append(items, item{index: page[j], source: kv, target: there[page[j]]})
		}
	}
	if err := p.placeItems(ctx, items, glued, mayWait); err != nil {
		return err
	}
	p.m.track.update(func(s *Status) { s.Copy.Looked = min(s.Copy.Looked+len(kvs), s.Copy.ToWrite) })
	return nil
}

// atTarget reads the target's values of those entries that exist there.
func (p *placer) atTarget(ctx context.Context, page []int32) (map[int32]*mvccpb.KeyValue, error) {
	var both []int32
	for _, i := range page {
		if p.entries[i].tpos > 0 {
			both = append(both, i)
		}
	}
	if len(both) == 0 {
		return nil, nil
	}
	there := make(map[int32]*mvccpb.KeyValue, len(both))
	list := targetList{entryList{p.entries, both}, p.keys}
	err := p.m.targets.Fetch(ctx, list, kvstream.NewPin("", 0), func(first int, kvs []*mvccpb.KeyValue) error {
		for j, kv := range kvs {
			there[both[first+j]] = kv
		}
		return nil
	})
	return there, err
}

func (p *placer) placeItems(ctx context.Context, items []item, glued map[int32]bool, mayWait bool) error {
	now := items[:0]
	var replaced []change
	for _, it := range items {
		if it.readable = kubemeta.Read(it.source.Value, &p.id); it.readable {
			it.uid, it.owned = p.hash(p.id.UID), len(p.id.Owners) > 0
		}
		sourceKey := p.entries[it.index].key
		targetKey := p.keys.ToTarget(sourceKey)
		if it.target != nil && p.m.equal(ctx, sourceKey, targetKey, it.source.Value, it.target.Value) && p.m.leaseMatches(it.source, it.target) {
			p.remember(it, 0)
			if marks := p.m.unmark(targetKey); len(marks) > 0 {
				if _, err := p.bulk.add(nil, false, marks...); err != nil {
					return err
				}
			}
			continue
		}
		if wait, _ := p.owners(it); wait && mayWait {
			p.wait(it)
			continue
		}
		var written bool
		var err error
		if it.changes, written, err = p.m.changesOf(ctx, it.source); err != nil {
			return err
		}
		if written && it.target != nil && p.another(it) {
			replaced = append(replaced, change{key: targetKey, del: true})
		}
		now = append(now, it)
		p.remember(it, p.bulk.batch.number) // so that dependents further down the page need not wait; write corrects it
	}
	if len(replaced) > 0 {
		if err := p.clear(ctx, replaced); err != nil {
			return err
		}
	}
	for _, it := range now {
		if err := p.write(it, glued[it.index]); err != nil {
			return err
		}
	}
	return nil
}

// owners reports whether an item has to wait, and the transactions that its owners are in, as far as they are placed. It reads p.id.
func (p *placer) owners(it item) (wait bool, after []int32) {
	if !it.readable {
		return kubemeta.Encrypted(it.source.Value), nil
	}
	after = p.after[:0]
	for _, owner := range p.id.Owners {
		number, ok := p.placed[p.hash(owner)]
		wait = wait || !ok
		after = append(after, number)
	}
	p.after = after
	return wait, after
}

// remember notes the transaction that has an item's UID.
func (p *placer) remember(it item, number int32) {
	if it.readable {
		p.placed[it.uid] = number
	}
}

func (p *placer) hash(uid []byte) uint64 { return maphash.Bytes(p.seed, uid) }

// another reports whether the target's value belongs to another object than the source's: then it is deleted first, never overwritten.
func (p *placer) another(it item) bool {
	var theirs kubemeta.Identity
	if it.readable && kubemeta.Read(it.target.Value, &theirs) {
		return p.hash(theirs.UID) != it.uid
	}
	// Without UIDs: it was made after the target was last known to be right about the key, or that was never known.
	known := p.since
	if it.target.ModRevision > p.targetHead {
		known = p.head // written in this round
	}
	return known == 0 || p.entries[it.index].create > known
}

// clear deletes what is to be replaced, in a target revision of its own before the puts.
func (p *placer) clear(ctx context.Context, replaced []change) error {
	if err := p.bulk.drain(); err != nil {
		return err
	}
	return p.target.apply(ctx, replaced, p.target.within(), AppliedInfo{Bulk: true})
}

func (p *placer) write(it item, glued bool) error {
	if len(it.changes) == 0 {
		return nil
	}
	var after []int32
	if it.owned {
		kubemeta.Read(it.source.Value, &p.id)
		_, after = p.owners(it)
	}
	if p.serial {
		after = append(after, p.last)
	}
	number, err := p.bulk.add(after, glued, it.changes...)
	if err != nil {
		return err
	}
	p.last = number
	p.remember(it, number)
	return nil
}
