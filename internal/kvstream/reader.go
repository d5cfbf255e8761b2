// Package kvstream reads ranges of an etcd in key order in bounded memory: keys alone in one stream, values in pages.
//
// Reads happen at a pinned revision. When the server compacts that revision away, the pin moves to the current one and
// reading goes on after the last key delivered: a caller that needs one exact revision looks at the pin afterwards and
// makes up for the difference, and no read has to be finished before the next compaction.
package kvstream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// Reader reads from one etcd. It is safe for concurrent use; do not copy it.
type Reader struct {
	Client *clientv3.Client
	// Timeout is the deadline of one request, and of one message of a stream.
	Timeout time.Duration

	// noStream remembers that the server lacks RangeStream (before etcd 3.7).
	noStream atomic.Bool
	// maxGets is how many keys one transaction of single reads asks for; 0 before the first. It falls where the server's limit is lower.
	maxGets atomic.Int32
}

// Pin is the revision that reads happen at.
type Pin struct {
	begin string // a key that the reader may read

	mu    sync.Mutex
	first int64
	rev   int64
}

// NewPin pins reads at revision rev, where 0 is the cluster's current revision at each read (such a pin never moves).
// begin is a key that the reader's user may read: it serves to ask for the current revision.
func NewPin(begin string, rev int64) *Pin {
	return &Pin{begin: begin, first: rev, rev: rev}
}

// Revision is the revision that reads happen at now.
func (p *Pin) Revision() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rev
}

// Moved reports whether a compaction has moved the pin.
func (p *Pin) Moved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rev != p.first
}

// move takes the pin from the compacted revision old to the current one; concurrent readers move it once.
func (p *Pin) move(ctx context.Context, r *Reader, old int64) error {
	if old == 0 {
		return nil // what was compacted was current when the stream began; the next one begins later
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rev != old {
		return nil
	}
	_, head, err := etcdrpc.Head(ctx, r.Client, r.Timeout, p.begin)
	if err != nil {
		return err
	}
	p.rev = head
	return nil
}

// retry runs a read at the pin's revision, again after each compaction that overtakes it.
func retry[T any](ctx context.Context, r *Reader, pin *Pin, read func(ctx context.Context, rev int64) (T, error)) (T, error) {
	for {
		rev := pin.Revision()
		v, err := etcdrpc.Do(ctx, r.Timeout, func(ctx context.Context) (T, error) { return read(ctx, rev) })
		switch {
		case err == nil:
			return v, nil
		case ctx.Err() != nil:
			return v, ctx.Err()
		case etcdrpc.Classify(err) != etcdrpc.Compacted:
			return v, err
		}
		if err := pin.move(ctx, r, rev); err != nil {
			return v, err
		}
	}
}
