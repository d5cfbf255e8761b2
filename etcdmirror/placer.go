package etcdmirror

import (
	"context"
	"fmt"
	"hash/maphash"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// entry is a key of the source that a copy has to look at.
type entry struct {
	key    string // at the source
	create int64  // the source's create_revision
	mod    int64  // the source's mod_revision
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
	keys mapping
}

func (l targetList) Key(i int) string { return l.keys.toTarget(l.entryList.Key(i)) }
func (l targetList) Pos(i int) int64  { return l.entries[l.order[i]].tpos }

// placer writes the entries of one round to the target, owners before dependents (P10):
// an object whose owners are not yet there waits, of which only its key and UIDs are kept. When all others are placed, those that wait follow, each after its owners,
// first those whose owners are all known, then, by create_revision, those with an owner that is not among them, and those that cannot be read (such as encrypted ones).
type placer struct {
	m       *Mirror
	target  *target
	bulk    *bulk
	fetch   fetchFunc
	keys    mapping
	since   int64 // see round
	entries []entry

	seed    maphash.Seed
	placed  map[uint64]int32 // hash of UID -> number of the transaction that has it, 0: at the target already
	waiting []waitingEntry
	id      kubemeta.Identity
}

// fetchFunc reads the source's values of a list, page by page in order, as (*kvstream.Reader).Fetch does.
type fetchFunc func(ctx context.Context, list kvstream.List, use func(first int, kvs []*mvccpb.KeyValue) error) error

// waitingEntry is an entry whose turn has not come.
type waitingEntry struct {
	index  int32
	late   bool // it follows create_revision, after the others
	uid    uint64
	owners []uint64
	state  visitState
}

type visitState uint8

const (
	unvisited visitState = iota
	visiting
	visited
)

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

// place writes the entries selected by order. ends are positions in order at which to wait for all before.
func (p *placer) place(ctx context.Context, order []int32, glued map[int32]bool, ends []int) error {
	begin := 0
	for _, end := range append(ends, len(order)) {
		if end <= begin {
			continue
		}
		if err := p.pass(ctx, order[begin:end], glued, true); err != nil {
			return err
		}
		if err := p.bulk.drain(); err != nil {
			return err
		}
		begin = end
	}
	return p.pass(ctx, p.waitingOrder(), nil, false)
}

// pass reads and writes a selection of entries; those whose owners are not placed are put off if mayWait.
func (p *placer) pass(ctx context.Context, order []int32, glued map[int32]bool, mayWait bool) error {
	list := entryList{p.entries, order}
	return p.fetch(ctx, list, func(first int, kvs []*mvccpb.KeyValue) error {
		page := order[first : first+len(kvs)]
		there, err := p.atTarget(ctx, page)
		if err != nil {
			return fmt.Errorf("target: reading values: %w", err)
		}
		items := make([]item, 0, len(kvs))
		for j, kv := range kvs {
			if kv != nil { // nil: deleted since it was listed, which what follows the copy will tell
				items = append(items, item{index: page[j], source: kv, target: there[page[j]]})
			}
		}
		if err := p.placeItems(ctx, items, glued, mayWait); err != nil {
			return err
		}
		p.m.track.update(func(s *Status) { s.Copy.Looked = min(s.Copy.Looked+len(kvs), s.Copy.ToWrite) })
		return nil
	})
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
		targetKey := p.keys.toTarget(sourceKey)
		if it.target != nil && p.m.equal(ctx, sourceKey, targetKey, it.source.Value, it.target.Value) {
			p.remember(it, 0)
			if marks := p.m.unmark(targetKey); len(marks) > 0 {
				if _, err := p.bulk.add(0, false, marks...); err != nil {
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
		if it.changes, written = p.m.changesOf(ctx, sourceKey, it.source.Value); written && it.target != nil && p.another(it) {
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

// owners reports whether an item has to wait, and otherwise which transaction must be committed before. It reads p.id.
func (p *placer) owners(it item) (wait bool, after int32) {
	if !it.readable {
		return kubemeta.Encrypted(it.source.Value), 0
	}
	for _, owner := range p.id.Owners {
		number, ok := p.placed[p.hash(owner)]
		if !ok {
			return true, 0
		}
		after = max(after, number)
	}
	return false, after
}

func (p *placer) wait(it item) {
	w := waitingEntry{index: it.index, uid: it.uid, late: !it.readable}
	if it.readable {
		for _, owner := range p.id.Owners {
			if h := p.hash(owner); h != w.uid {
				w.owners = append(w.owners, h)
			}
		}
	}
	p.waiting = append(p.waiting, w)
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
	if p.since > 0 && p.entries[it.index].create > p.since {
		return true // created after the target was last known to be right
	}
	var theirs kubemeta.Identity
	if !it.readable || !kubemeta.Read(it.target.Value, &theirs) {
		// Without UIDs: what was there before the first copy is not known to be the same object.
		return p.since == 0
	}
	kubemeta.Read(it.source.Value, &p.id)
	return string(theirs.UID) != string(p.id.UID)
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
	var after int32
	if it.owned {
		kubemeta.Read(it.source.Value, &p.id)
		_, after = p.owners(it)
	}
	number, err := p.bulk.add(after, glued, it.changes...)
	if err != nil {
		return err
	}
	p.remember(it, number)
	return nil
}

// waitingOrder is the order of those that were put off: each after its owners.
func (p *placer) waitingOrder() []int32 {
	byUID := make(map[uint64]int, len(p.waiting))
	for i := range p.waiting {
		if p.waiting[i].uid != 0 {
			byUID[p.waiting[i].uid] = i
		}
	}
	p.markLate(byUID)
	starts := make([]int, len(p.waiting))
	for i := range starts {
		starts[i] = i
	}
	sort.SliceStable(starts, func(a, b int) bool {
		x, y := &p.waiting[starts[a]], &p.waiting[starts[b]]
		if x.late != y.late {
			return !x.late
		}
		return x.late && p.entries[x.index].create < p.entries[y.index].create
	})
	order := make([]int32, 0, len(p.waiting))
	for _, start := range starts {
		order = p.visit(order, byUID, start)
	}
	return order
}

// markLate marks those with an owner that is neither placed nor among them, and all that depend on these.
func (p *placer) markLate(byUID map[uint64]int) {
	dependents := map[int][]int{}
	var late []int
	for i := range p.waiting {
		w := &p.waiting[i]
		for _, owner := range w.owners {
			o, waits := byUID[owner]
			if _, placed := p.placed[owner]; !placed && !waits {
				w.late = true
			}
			if waits {
				dependents[o] = append(dependents[o], i)
			}
		}
		if w.late {
			late = append(late, i)
		}
	}
	for len(late) > 0 {
		i := late[len(late)-1]
		late = late[:len(late)-1]
		for _, d := range dependents[i] {
			if !p.waiting[d].late {
				p.waiting[d].late = true
				late = append(late, d)
			}
		}
	}
}

// visit appends a waiting entry after those of its owners that wait too. It keeps its own stack: chains of owners can be as long as there are objects.
func (p *placer) visit(order []int32, byUID map[uint64]int, start int) []int32 {
	stack := []int{start}
	for len(stack) > 0 {
		i := stack[len(stack)-1]
		w := &p.waiting[i]
		if w.state == visited {
			stack = stack[:len(stack)-1]
			continue
		}
		pending := false
		if w.state == unvisited {
			w.state = visiting
			for _, owner := range w.owners {
				if o, ok := byUID[owner]; ok && p.waiting[o].state == unvisited { // a visiting one is a cycle
					stack = append(stack, o)
					pending = true
				}
			}
		}
		if !pending {
			w.state = visited
			order = append(order, w.index)
			stack = stack[:len(stack)-1]
		}
	}
	return order
}
