package etcdmirror

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/semaphore"
)

// revision is one revision with its kept events, or, without events, the news that nothing kept changed up to rev.
type revision struct {
	rev      int64
	events   []*mvccpb.Event
	filtered int    // events that the filter dropped since the revision before
	held     []held // of the buffers that it is in
}

// held is room of a buffer.
type held struct {
	space  *semaphore.Weighted
	weight int64
}

// free gives the room back that a revision takes.
func (r *revision) free() {
	for _, h := range r.held {
		h.space.Release(h.weight)
	}
	r.held = nil
}

// bufferedRevisions bounds the revisions waiting in a feed, however small.
const bufferedRevisions = 4096

// feed delivers revisions in order.
type feed struct {
	items  chan revision
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // why it ended; read after items is closed
	live   bool  // the cluster has answered; read after items is closed

	unread *revision // given back by the reader
}

func newFeed(cancel context.CancelCauseFunc) feed {
	return feed{items: make(chan revision, bufferedRevisions), cancel: cancel, done: make(chan struct{})}
}

// close ends the feed and waits for it.
func (f *feed) close() {
	f.cancel(context.Canceled)
	<-f.done
}

// next returns the next revision, waiting for it no longer than until wake fires (nil: no limit). ok is false when wake fired.
// An error ends the feed; everything received before has been returned.
func (f *feed) next(ctx context.Context, wake <-chan time.Time) (r revision, ok bool, err error) {
	if f.unread != nil {
		r, f.unread = *f.unread, nil
		return r, true, nil
	}
	select {
	case r, open := <-f.items:
		return f.got(r, open)
	default:
	}
	select {
	case r, open := <-f.items:
		return f.got(r, open)
	case <-wake:
		return revision{}, false, nil
	case <-ctx.Done():
		return revision{}, false, ctx.Err()
	}
}

func (f *feed) got(r revision, open bool) (revision, bool, error) {
	if !open {
		return revision{}, false, f.err
	}
	r.free()
	return r, true, nil
}

// giveBack makes next return r again.
func (f *feed) giveBack(r revision) { f.unread = &r }

// backlog is how many revisions wait.
func (f *feed) backlog() int {
	n := len(f.items)
	if f.unread != nil {
		n++
	}
	return n
}
