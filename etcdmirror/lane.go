package etcdmirror

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

// lane follows one range of the source's keys.
//
// One watch leads. When it turns out to be far behind what the source has, further watches begin at later revisions, each where the one before should be
// after its next answer; the source serves them all in the same turn. Each ends with the answer that reaches the beginning of the next, and what it has
// waits until it leads. A watch that stayed would go on being served, and for each turn the source reads its log from the first watch that is behind to the end.
type lane struct {
	s       *sourceWatch
	keys    keyspace.Range
	room    int // for the buffers of all its watches
	watches int // at most

	leader atomic.Pointer[watch]
	ahead  []*watch // in the order of their beginnings
	live   bool     // the cluster has answered the watch that ended the lane

	// Used by join.
	out   chan revision
	ready chan struct{} // lets the next revision come
	err   error         // why out was closed
}

// minStep is how many revisions a watch is for at least: what a server gives in one turn where every revision counts, less what comes twice.
const minStep = 800

// catchUpRoom is how many times the buffer of one watch all others together may take.
const catchUpRoom = 2

// run delivers to out until a watch ends.
func (l *lane) run(ctx context.Context, out chan<- revision) error {
	l.leader.Store(l.s.watch(ctx, l.keys, l.s.from, l.room))
	defer func() {
		l.leader.Load().close()
		for _, w := range l.ahead {
			w.close()
		}
	}()
	for {
		w := l.leader.Load()
		var r revision
		var open bool
		select {
		case r, open = <-w.items:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !open && !errors.Is(w.err, errReached) {
			l.live = w.live
			return w.err
		}
		if !open || len(l.ahead) > 0 && r.rev >= l.ahead[0].from {
			w.close()
			if len(l.ahead) == 0 {
				l.ahead = append(l.ahead, l.next(ctx, w.last.Load()+1, w, l.room))
			}
			l.leader.Store(l.ahead[0])
			l.ahead = l.ahead[1:]
			l.spread(ctx)
			continue
		}
		if len(l.ahead) == 0 {
			l.spread(ctx)
		}
		if r.filtered > 0 {
			l.s.m.track.update(func(s *Status) { s.Filtered += int64(r.filtered) })
		}
		select {
		case out <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next opens a watch that goes on behind another.
func (l *lane) next(ctx context.Context, from int64, before *watch, room int) *watch {
	w := l.s.watch(ctx, l.keys, from, room)
	w.reach.Store(before.reach.Load())
	w.weight.Store(before.weight.Load())
	return w
}

// spread begins further watches if the lane is far behind: many at once, and the next ones when most of them have had their turn.
func (l *lane) spread(ctx context.Context) {
	tip := l.leader.Load()
	if n := len(l.ahead); n > 0 {
		tip = l.ahead[n-1]
	}
	reach, known := tip.reach.Load(), l.leader.Load().known.Load()
	if reach == 0 {
		return
	}
	// The next answer goes on about as far as the last one: so that it shows that it has passed the beginning of the next watch, that begins a little before.
	step := max(reach*4/5, minStep)
	// Each watch has room for a whole answer, or it would stay. Where values are so large that not even two have it, one watch does.
	room := max(int(tip.weight.Load())*5/4, 1)
	watches := min(l.watches, catchUpRoom*l.room/room)
	if watches < 2 || len(l.ahead) > watches/2 {
		return
	}
	for len(l.ahead) < watches-1 {
		from := tip.until.Load()
		switch last := tip.last.Load(); {
		case from == 0: // the first
			from = last + step
		case last >= from:
			from = last + 1
		}
		if known-from < step {
			return
		}
		tip.until.CompareAndSwap(0, from)
		next := l.next(ctx, from, tip, room)
		if until := from + step; known-until >= step {
			next.until.Store(until)
		}
		l.ahead = append(l.ahead, next)
		tip = next
	}
}

// askProgress asks for progress at once. Only the watch that leads can tell: while others are ahead, revisions show how far it is.
func (l *lane) askProgress() {
	if w := l.leader.Load(); w != nil {
		w.askProgress()
	}
}
