package etcdmirror

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// maxStash bounds the values of entries that wait, in bytes.
const maxStash = 16 << 20

// waitingEntry is an entry whose turn has not come.
type waitingEntry struct {
	index  int32
	late   bool             // it follows create_revision, after the others
	value  *mvccpb.KeyValue // nil: to be read again
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

// wait puts an item off. It reads p.id.
func (p *placer) wait(it item) {
	w := waitingEntry{index: it.index, uid: it.uid, late: !it.readable}
	if size := len(it.source.Key) + len(it.source.Value); p.stashed+size <= maxStash {
		p.stashed += size
		w.value = &mvccpb.KeyValue{Key: bytes.Clone(it.source.Key), Value: bytes.Clone(it.source.Value), // a page's values share memory
			CreateRevision: it.source.CreateRevision, ModRevision: it.source.ModRevision, Version: it.source.Version, Lease: it.source.Lease}
	}
	if it.readable {
		for _, owner := range p.id.Owners {
			if h := p.hash(owner); h != w.uid {
				w.owners = append(w.owners, h)
			}
		}
	}
	p.waiting = append(p.waiting, w)
}

// finish writes those that wait. Values that have to be read again must still be those of the round's head, else errRedo.
func (p *placer) finish(ctx context.Context) error {
	order, values, late := p.waitingOrder()
	defer func() { p.serial = false }()
	for begin := 0; begin < len(order); {
		p.serial = begin >= late
		stop := len(order)
		if !p.serial {
			stop = late
		}
		end := begin + 1
		if values[begin] != nil {
			for end < stop && values[end] != nil && end-begin < p.m.cfg.BatchOps {
				end++
			}
			if err := p.page(ctx, order[begin:end], values[begin:end], nil, false); err != nil {
				return err
			}
			begin = end
			continue
		}
		for end < stop && values[end] == nil {
			end++
		}
		part := order[begin:end]
		err := p.m.sources.Fetch(ctx, entryList{p.entries, part}, p.pin, func(first int, kvs []*mvccpb.KeyValue) error {
			for _, kv := range kvs {
				if kv == nil || kv.ModRevision > p.limit {
					return errRedo
				}
			}
			return p.page(ctx, part[first:first+len(kvs)], kvs, nil, false)
		})
		if err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// waitingOrder is the order of those that were put off, each after its owners, and their values as far as they were kept; from late on they follow create_revision. None waits afterwards.
func (p *placer) waitingOrder() (order []int32, values []*mvccpb.KeyValue, late int) {
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
	var visits []int
	for _, start := range starts {
		visits = p.visit(visits, byUID, start)
	}
	for ; late < len(visits) && !p.waiting[visits[late]].late; late++ {
		// Lateness goes from owners to dependents, so the others come first.
	}
	p.waves(visits[:late], byUID)
	for _, i := range visits {
		order = append(order, p.waiting[i].index)
		values = append(values, p.waiting[i].value)
	}
	p.waiting, p.stashed = nil, 0
	return order, values, late
}

// waves arranges entries, which come after their owners, by the length of the chain of waiting owners above them, and in the order of their keys within:
// neighbours can be read together, and none depends on its neighbours.
func (p *placer) waves(visits []int, byUID map[uint64]int) {
	depth := make(map[int]int, len(visits))
	for _, i := range visits {
		for _, owner := range p.waiting[i].owners {
			if o, ok := byUID[owner]; ok && o != i {
				depth[i] = max(depth[i], depth[o]+1)
			}
		}
	}
	slices.SortStableFunc(visits, func(a, b int) int {
		return cmp.Or(cmp.Compare(depth[a], depth[b]), cmp.Compare(p.waiting[a].index, p.waiting[b].index))
	})
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
func (p *placer) visit(order []int, byUID map[uint64]int, start int) []int {
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
			order = append(order, i)
			stack = stack[:len(stack)-1]
		}
	}
	return order
}
