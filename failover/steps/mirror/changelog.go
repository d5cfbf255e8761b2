package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// errForgotten: an etcd has compacted the revisions that were asked for.
var errForgotten = errors.New("compacted")

// keyChange is what happened to one key between two revisions.
type keyChange struct {
	existed  bool  // before
	deleted  bool  // in the end
	revision int64 // of the last event
	events   int
}

// kind is the net effect.
func (c *keyChange) kind() Kind {
	switch {
	case c.existed && c.deleted:
		return Deleted
	case c.existed:
		return Changed
	case c.deleted:
		return Passing
	}
	return Created
}

// changes reads from an etcd's log what happened to the kept keys after revision from, up to and with revision to. errForgotten if the log does not reach back so far.
//
// It watches all keys: each revision then has an event, so that the one of the last revision shows that all came. Values are dropped as they come.
func changes(ctx context.Context, client *clientv3.Client, timeout time.Duration, from, to int64, kept func(key []byte) bool) (map[string]*keyChange, error) {
	found := map[string]*keyChange{}
	if to <= from {
		return found, nil
	}
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	defer cancel(nil)
	watchdog := time.AfterFunc(timeout, func() { cancel(etcdrpc.ErrTimeout) })
	defer watchdog.Stop()
	for resp := range client.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(from+1)) {
		watchdog.Reset(timeout)
		switch {
		case resp.CompactRevision > 0:
			return nil, errForgotten
		case resp.Err() != nil:
			if etcdrpc.Classify(resp.Err()) == etcdrpc.Denied {
				return nil, fmt.Errorf("reading the log after revision %d: %w; the user needs to read all keys for this", from, resp.Err())
			}
			return nil, fmt.Errorf("reading the log after revision %d: %w", from, resp.Err())
		}
		for _, ev := range resp.Events {
			if ev.Kv.ModRevision > to {
				return found, nil
			}
			if !kept(ev.Kv.Key) {
				continue
			}
			c := found[string(ev.Kv.Key)]
			if c == nil {
				c = &keyChange{existed: ev.Type == mvccpb.DELETE || ev.Kv.CreateRevision <= from}
				found[string(ev.Kv.Key)] = c
			}
			c.deleted, c.revision = ev.Type == mvccpb.DELETE, ev.Kv.ModRevision
			c.events++
		}
		if n := len(resp.Events); n > 0 && resp.Events[n-1].Kv.ModRevision >= to {
			return found, nil
		}
	}
	return nil, fmt.Errorf("reading the log after revision %d: %w", from, context.Cause(ctx))
}

// moved lists the kept keys that changed at the primary after revision from, sorted, and its present revision.
func (p *pair) moved(ctx context.Context, st State, from int64) (keys []string, head int64, err error) {
	if head, err = p.primaryHead(ctx, st); err != nil {
		return nil, 0, err
	}
	found, err := changes(ctx, p.Primary, p.RequestTimeout, from, head, p.keys.Kept)
	if err != nil {
		return nil, 0, fmt.Errorf("primary: %w", err)
	}
	return slices.Sorted(maps.Keys(found)), head, nil
}
