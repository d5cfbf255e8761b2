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
// after its next answer; the source serves them all in the same turn. The leading watch ends where the next one began, which then leads.
// What lies beyond the beginning of the next is dropped from the one before: some of it comes twice.
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
		if len(l.ahead) > 0 && (!open || r.rev >= l.ahead[0].from) {
			w.close()
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

// spread begins further watches if the lane is far behind and waits for the source rather than for the target.
func (l *lane) spread(ctx context.Context) {
	tip := l.leader.Load()
	if n := len(l.ahead); n > 0 {
		tip = l.ahead[n-1]
	}
	reach, known := tip.reach.Load(), l.leader.Load().known.Load()
	if reach == 0 || len(l.s.items) > bufferedRevisions/2 {
		return
	}
	// The next answer goes on about as far as the last one: so that it shows that it has passed the beginning of the next watch, that begins a little before.
	step := max(reach*4/5, minStep)
	// Each watch must have room for one answer, or it would hold up the server.
	watches := min(l.watches, max(2, l.room/int(max(tip.weight.Load(), 1))))
	for len(l.ahead) < watches-1 {
		from := max(tip.from-1, tip.last.Load()) + step
		if known-from < step {
			return
		}
		next := l.s.watch(ctx, l.keys, from, l.room/watches)
		next.reach.Store(reach)
		next.weight.Store(tip.weight.Load())
		tip.until.Store(from)
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
