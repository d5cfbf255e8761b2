package etcdmirror

import (
	"context"
	"slices"
	"sync"
	"time"
)

// joinPatience is how long a lane may take to answer a request for progress before it is asked again: a server answers none while a watcher is behind.
const joinPatience = 50 * time.Millisecond

// join delivers what the lanes bring, in the order of revisions. What one lane has at a revision is delivered when every other lane has shown
// that it has brought everything up to there: by a later revision, or by a progress notification, which it is asked for.
func (s *sourceWatch) join(ctx context.Context, lanes []*lane) error {
	arrivals := make(chan arrival)
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, l := range lanes {
		l.out, l.ready = make(chan revision), make(chan struct{}, 1)
		running.Go(func() {
			defer close(l.out)
			l.err = l.run(ctx, l.out)
		})
		running.Go(func() { l.forward(ctx, i, arrivals) })
	}
	j := &joiner{lanes: lanes, heads: make([]*revision, len(lanes)), marks: make([]int64, len(lanes)), asked: make([]int64, len(lanes)), told: s.from - 1}
	for i := range j.marks {
		j.marks[i] = s.from - 1
	}
	for {
		for {
			r, ok := j.next()
			if !ok {
				break
			}
			if err := s.deliver(ctx, r); err != nil {
				return err
			}
		}
		var again <-chan time.Time
		if j.ask() {
			again = time.After(joinPatience)
		}
		select {
		case a := <-arrivals:
			if !a.open {
				s.live = lanes[a.lane].live
				return lanes[a.lane].err
			}
			j.take(a)
		case <-again:
			clear(j.asked)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// arrival is a revision of a lane, or, not open, the lane's end.
type arrival struct {
	lane int
	r    revision
	open bool
}

// forward passes a lane's revisions on, each after the one before is done with.
func (l *lane) forward(ctx context.Context, number int, arrivals chan<- arrival) {
	for {
		r, open := <-l.out
		select {
		case arrivals <- arrival{number, r, open}:
		case <-ctx.Done():
			return
		}
		if !open {
			return
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			return
		}
	}
}

// joiner is what join knows of its lanes.
type joiner struct {
	lanes []*lane
	heads []*revision // with events, not yet delivered; the lane waits
	marks []int64     // everything up to it has been brought
	asked []int64     // the revision that a lane was last asked about
	told  int64       // everything up to it has been delivered
}

func (j *joiner) take(a arrival) {
	j.marks[a.lane] = max(j.marks[a.lane], a.r.rev)
	if len(a.r.events) > 0 {
		j.heads[a.lane] = &a.r
		return
	}
	j.asked[a.lane] = min(j.asked[a.lane], a.r.rev) // an answer from a member that is behind
	j.lanes[a.lane].ready <- struct{}{}
}

// first is the first revision with events that waits; 0: none.
func (j *joiner) first() (first int64) {
	for _, head := range j.heads {
		if head != nil && (first == 0 || head.rev < first) {
			first = head.rev
		}
	}
	return first
}

// next returns what can be delivered.
func (j *joiner) next() (r revision, ok bool) {
	first, known := j.first(), slices.Min(j.marks)
	if first == 0 || known < first { // of revisions without events, the last one tells enough
		if first > 0 {
			known = min(known, first-1)
		}
		if known <= j.told {
			return revision{}, false
		}
		j.told = known
		return revision{rev: known}, true
	}
	r.rev = first
	for i, head := range j.heads {
		if head != nil && head.rev == first {
			r.events, r.held = append(r.events, head.events...), append(r.held, head.held...)
			j.heads[i] = nil
			j.lanes[i].ready <- struct{}{}
		}
	}
	j.told = first
	return r, true
}

// ask asks the lanes that hold up the first revision, and reports whether there are any.
func (j *joiner) ask() (any bool) {
	first := j.first()
	if first == 0 {
		return false
	}
	for i, mark := range j.marks {
		if mark >= first {
			continue
		}
		any = true
		if j.asked[i] < first {
			j.asked[i] = first
			j.lanes[i].askProgress()
		}
	}
	return any
}

func (s *sourceWatch) deliver(ctx context.Context, r revision) error {
	select {
	case s.items <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
