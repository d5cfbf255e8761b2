package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// revision is one source revision with its kept events, or, without events, the news that nothing kept changed up to rev.
type revision struct {
	rev    int64
	events []*mvccpb.Event
	weight int64 // of the buffer
}

// watchSpec says what a watch follows, and whom it tells.
type watchSpec struct {
	client     *clientv3.Client
	side       string // "source" or "target"
	begin, end string
	from       int64
	clusterID  uint64
	stall      time.Duration // how long it may show no sign of life
	keep       func(key []byte) bool
	bare       bool                                 // values are of no interest
	seen       func(rev int64)                      // each answer's revision
	head       func(context.Context) (int64, error) // a linearizable read of the cluster's revision
	behind     func(head int64) error               // what it means that the cluster has not reached the revision watched from
	hurry      <-chan struct{}                      // asks for progress at once
}

// watch follows keys from a revision on. It uses the raw stream: clientv3's watcher buffers without bound,
// here a full buffer makes gRPC's flow control slow the server down.
type watch struct {
	watchSpec
	m      *Mirror
	items  chan revision
	room   *semaphore.Weighted
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // why it ended; read after items is closed

	alive   *time.Timer   // ends the watch when nothing shows that it lives
	known   atomic.Int64  // the highest revision of the cluster that this watch saw
	judged  chan struct{} // closed when trusted is known
	trusted atomic.Bool   // see trustProgress
	live    bool          // the cluster has answered; read after items is closed

	unread *revision // given back by the reader
}

// maxStallDoublings bounds how far StallTimeout grows while one watch after another brings nothing: a server may need longer than that to put together
// what comes next (its time for dividing a large revision grows with the square of the events), and would never get there if it were always cut off.
const maxStallDoublings = 5

// errStalled ends a watch that showed no sign of life.
var errStalled = errors.New("no sign of life from the watch")

// bufferedRevisions bounds the revisions waiting in a watch's buffer, however small.
const bufferedRevisions = 4096

// eventOverhead is what an event takes beside its key and value.
const eventOverhead = 200

// openWatch follows the source's kept keys from a revision on.
func (m *Mirror) openWatch(ctx context.Context, from int64) *watch {
	return m.open(ctx, watchSpec{client: m.source, side: "source", begin: m.sourceBegin, end: m.sourceEnd, from: from, clusterID: m.sourceID,
		stall: m.cfg.StallTimeout << min(m.stalls, maxStallDoublings), keep: m.keys.Kept, hurry: m.hurry, head: m.sourceHead,
		seen:   func(rev int64) { m.track.head(rev) },
		behind: func(head int64) error { return sourceRewound(from-1, head) }})
}

func (m *Mirror) open(ctx context.Context, spec watchSpec) *watch {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	w := &watch{watchSpec: spec, m: m, items: make(chan revision, bufferedRevisions), room: semaphore.NewWeighted(int64(m.cfg.BufferBytes)),
		cancel: cancel, done: make(chan struct{}), judged: make(chan struct{})}
	w.alive = time.AfterFunc(w.stall, func() { cancel(errStalled) })
	go func() {
		// Asked at each opening, because a stream may land on a member that was away before.
		defer close(w.judged)
		w.trusted.Store(m.trustProgress(ctx, w.client, w.side))
	}()
	go func() {
		defer close(w.done)
		defer func() { <-w.judged }()
		defer close(w.items)
		err := w.run(ctx)
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errStalled) && !w.live && err != nil:
			err = fmt.Errorf("%w: %w", errStalled, err) // why no connection comes about, such as a refused certificate
		case cause != nil:
			err = cause
		}
		w.err = err
		cancel(nil)
	}()
	return w
}

// close ends the watch and waits for it.
func (w *watch) close() {
	w.cancel(context.Canceled)
	<-w.done
}

// next returns the next revision, waiting for it no longer than until wake fires (nil: no limit). ok is false when wake fired.
// An error ends the watch; everything received before has been returned.
func (w *watch) next(ctx context.Context, wake <-chan time.Time) (r revision, ok bool, err error) {
	if w.unread != nil {
		r, w.unread = *w.unread, nil
		return r, true, nil
	}
	select {
	case r, open := <-w.items:
		return w.got(r, open)
	default:
	}
	select {
	case r, open := <-w.items:
		return w.got(r, open)
	case <-wake:
		return revision{}, false, nil
	case <-ctx.Done():
		return revision{}, false, ctx.Err()
	}
}

func (w *watch) got(r revision, open bool) (revision, bool, error) {
	if !open {
		return revision{}, false, w.err
	}
	if r.weight > 0 {
		w.room.Release(r.weight)
	}
	return r, true, nil
}

// giveBack makes next return r again.
func (w *watch) giveBack(r revision) { w.unread = &r }

// backlog is how many revisions wait.
func (w *watch) backlog() int {
	n := len(w.items)
	if w.unread != nil {
		n++
	}
	return n
}

func (w *watch) run(ctx context.Context) error {
	defer w.alive.Stop()
	stream, err := pb.NewWatchClient(w.client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(w.begin), RangeEnd: []byte(w.end), StartRevision: w.from, Fragment: true, ProgressNotify: true}}})
	if err != nil {
		return err
	}
	asking, stopAsking := context.WithCancel(ctx)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		w.askProgress(asking, stream)
	}()
	defer func() { stopAsking(); <-asked }()

	var part revision // of the current revision, while fragments of it arrive
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		w.live = true
		w.alive.Reset(w.stall)
		w.note(resp.Header.Revision)
		switch {
		case resp.Header.ClusterId != w.clusterID:
			return w.otherCluster(resp.Header.ClusterId)
		case resp.Canceled:
			return canceled(resp)
		case resp.Created:
			if err := w.checkBehind(ctx, resp.Header.Revision); err != nil {
				return err
			}
			w.m.track.reached(w.side)
			continue
		}
		// A slow target must not look like a stalled source.
		w.alive.Stop()
		if len(resp.Events) == 0 && !resp.Fragment {
			if w.trusted.Load() {
				err = w.push(ctx, revision{rev: resp.Header.Revision})
			}
		} else {
			part, err = w.split(ctx, part, resp)
		}
		if err != nil {
			return err
		}
		w.alive.Reset(w.stall)
	}
}

// split divides a response into revisions and pushes those that are complete. A revision ends where the next begins or, in the last fragment, with the response.
func (w *watch) split(ctx context.Context, part revision, resp *pb.WatchResponse) (revision, error) {
	filtered := 0
	for _, event := range resp.Events {
		if event.Kv.ModRevision != part.rev {
			if len(part.events) > 0 {
				if err := w.push(ctx, part); err != nil {
					return part, err
				}
			}
			part = revision{rev: event.Kv.ModRevision}
		}
		if w.keep(event.Kv.Key) {
			if w.bare {
				event.Kv.Value = nil
			}
			part.events = append(part.events, event)
		} else {
			filtered++
		}
	}
	if filtered > 0 && !w.bare {
		w.m.track.update(func(s *Status) { s.Filtered += int64(filtered) })
	}
	if resp.Fragment {
		return part, nil
	}
	// Also when the filter dropped it all: the mirror has seen everything up to here.
	return revision{}, w.push(ctx, part)
}

func (w *watch) push(ctx context.Context, r revision) error {
	for _, event := range r.events {
		r.weight += int64(len(event.Kv.Key) + len(event.Kv.Value) + eventOverhead)
	}
	r.weight = min(r.weight, int64(w.m.cfg.BufferBytes))
	if err := w.room.Acquire(ctx, r.weight); err != nil {
		return err
	}
	select {
	case w.items <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askProgress asks for progress from time to time and on request. The stream's only other Send is over by now.
func (w *watch) askProgress(ctx context.Context, stream pb.Watch_WatchClient) {
	tick := time.NewTicker(w.m.cfg.ProgressInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.hurry:
		case <-ctx.Done():
			return
		}
		err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		if err != nil {
			return // Recv reports why
		}
		w.checkIdle(ctx)
	}
}

// note tells of a revision seen.
func (w *watch) note(rev int64) {
	for known := w.known.Load(); rev > known && !w.known.CompareAndSwap(known, rev); known = w.known.Load() {
	}
	w.seen(rev)
}

func (w *watch) otherCluster(id uint64) error {
	if w.side == "source" {
		return w.m.sourceChanged(id)
	}
	return fmt.Errorf("%s: cluster %s answers instead of %s", w.side, clusterID(id), clusterID(w.clusterID))
}

// checkIdle keeps a watch on a cluster without writes alive. A server answers no request for progress while its revision is below the one watched from
// (server/storage/mvcc/watchable_store.go progressIfSync), so a read has to tell that there is nothing to answer.
func (w *watch) checkIdle(ctx context.Context) {
	if w.known.Load() >= w.from {
		return
	}
	head, err := w.head(ctx)
	if err != nil {
		return
	}
	w.note(head)
	if head < w.from {
		w.alive.Reset(w.stall)
	}
}

// tellsProgress reports whether progress notifications of this watch can be trusted, as soon as that is known.
func (w *watch) tellsProgress(ctx context.Context) bool {
	select {
	case <-w.judged:
		return w.trusted.Load()
	case <-ctx.Done():
		return false
	}
}

// checkBehind looks closer when the answering member is behind the revision watched from: it may lag, or the cluster may have been restored from a backup.
func (w *watch) checkBehind(ctx context.Context, memberRevision int64) error {
	if memberRevision >= w.from-1 {
		return nil
	}
	head, err := w.head(ctx)
	if err != nil {
		return err
	}
	if head >= w.from-1 {
		return nil
	}
	return w.behind(head)
}

func canceled(resp *pb.WatchResponse) error {
	if resp.CompactRevision != 0 {
		return rpctypes.ErrCompacted
	}
	for _, known := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCCompacted} {
		if resp.CancelReason == known.Error() || resp.CancelReason == rpctypes.ErrorDesc(known) {
			return rpctypes.Error(known)
		}
	}
	return fmt.Errorf("the watch was canceled: %q", resp.CancelReason)
}

func isCompacted(err error) bool { return err != nil && etcdrpc.Classify(err) == etcdrpc.Compacted }
