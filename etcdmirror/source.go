package etcdmirror

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// sourceWatch follows the source's kept keys from a revision on.
//
// It is put together from watches of one range each, in two ways. Along the revisions (lane.go): etcd serves a watcher that is behind at most 1,000 revisions
// ten times a second, so a backlog is read by several watches, each from another revision on. And along the keys (join.go): where a round trip takes
// long, what the filter drops as a whole is not watched, and the ranges between are put together again by progress notifications.
type sourceWatch struct {
	feed
	m      *Mirror
	from   int64
	stall  time.Duration // how long each of its watches may be silent
	judged chan struct{} // closed when trusted is known
	trusts bool
	lanes  atomic.Pointer[[]*lane]
}

// farSource is the round trip from which on it is worth one more for each event not to receive what the filter drops.
const farSource = 5 * time.Millisecond

// judgePatience is how long a watch waits to learn whether it can leave out what the filter drops.
const judgePatience = 2 * time.Second

// maxRanges bounds the streams of one sourceWatch.
const maxRanges = 8

// openWatch follows the source's kept keys from a revision on.
func (m *Mirror) openWatch(ctx context.Context, from int64) *sourceWatch {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &sourceWatch{m: m, feed: newFeed(cancel), from: from, stall: m.cfg.StallTimeout << min(m.stalls, maxStallDoublings), judged: make(chan struct{})}
	asking, judging := make(chan struct{}), make(chan struct{})
	round := time.Duration(0)
	go func() {
		defer close(judging)
		defer close(s.judged)
		s.trusts = m.trustProgress(ctx, m.source, "source")
		if s.trusts && len(m.keys.Skip()) > 0 && m.cfg.Watch == WatchAuto {
			round = m.roundTrip(ctx)
		}
	}()
	go func() { // passes requests for progress on
		defer close(asking)
		for {
			select {
			case <-m.hurry:
				s.askProgress()
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		defer close(s.done)
		defer func() { <-asking; <-judging }()
		defer close(s.items)
		ranges := []keyspace.Range{{Begin: m.sourceBegin, End: m.sourceEnd}}
		if len(m.keys.Skip()) > 0 && m.cfg.Watch != WatchAll {
			select {
			case <-judging:
			case <-time.After(judgePatience): // such as while a member is away: then everything is followed
			case <-ctx.Done():
			}
			if known(judging) && s.trusts && (m.cfg.Watch == WatchKept || round >= farSource) {
				if kept := m.keys.Ranges(maxRanges); len(kept) > 0 { // else nothing is mirrored, and the whole tells how far the source is
					ranges = kept
				}
			}
		}
		s.err = s.run(ctx, ranges)
		if cause := context.Cause(ctx); cause != nil {
			s.err = cause
		}
		cancel(nil)
	}()
	return s
}

// run delivers until a lane ends.
func (s *sourceWatch) run(ctx context.Context, ranges []keyspace.Range) error {
	lanes := make([]*lane, len(ranges))
	for i, r := range ranges {
		lanes[i] = &lane{s: s, keys: r, room: s.m.cfg.BufferBytes / len(ranges), watches: max(1, s.m.cfg.CatchUpWatches/len(ranges))}
	}
	s.lanes.Store(&lanes)
	if len(lanes) > 1 {
		return s.join(ctx, lanes)
	}
	err := lanes[0].run(ctx, s.items)
	s.live = lanes[0].live
	return err
}

// askProgress asks all streams for progress; the answers come as revisions without events.
func (s *sourceWatch) askProgress() {
	if lanes := s.lanes.Load(); lanes != nil {
		for _, l := range *lanes {
			l.askProgress()
		}
	}
}

// tellsProgress reports whether progress notifications of this watch can be trusted, as soon as that is known.
func (s *sourceWatch) tellsProgress(ctx context.Context) bool {
	select {
	case <-s.judged:
		return s.trusts
	case <-ctx.Done():
		return false
	}
}

// watch opens one of the watches that s is put together from.
func (s *sourceWatch) watch(ctx context.Context, keys keyspace.Range, from int64, room int) *watch {
	m := s.m
	return m.open(ctx, watchSpec{client: m.source, side: "source", begin: keys.Begin, end: keys.End, from: from, clusterID: m.sourceID,
		stall: s.stall, keep: m.keys.Kept, head: m.sourceHead, room: max(room, minRoom),
		seen: func(rev int64) { m.track.head(rev) }, trust: s.tellsProgress,
		behind: func(head int64) error { return sourceRewound(from-1, head) }})
}

// minRoom is what the buffer of a watch has at least.
const minRoom = 64 << 10

// roundTrip is the shortest of a few round trips to the source; 0 if it does not answer.
func (m *Mirror) roundTrip(ctx context.Context) (shortest time.Duration) {
	for range 3 {
		began := time.Now()
		_, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return m.source.Get(ctx, m.sourceBegin, clientv3.WithSerializable(), clientv3.WithKeysOnly())
		})
		if err != nil {
			return 0
		}
		if took := time.Since(began); shortest == 0 || took < shortest {
			shortest = took
		}
	}
	return shortest
}

// known reports whether a channel is closed.
func known(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
