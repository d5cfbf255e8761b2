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
	room       int                                  // of the buffer, in bytes
	trust      func(context.Context) bool           // whether progress notifications can be relied on, see trustProgress
}

// watch follows the keys of one range from a revision on, by one stream. It uses the raw stream: clientv3's watcher buffers without bound,
// here a full buffer makes gRPC's flow control slow the server down.
type watch struct {
	watchSpec
	feed
	m     *Mirror
	space *semaphore.Weighted

	alive   *time.Timer   // ends the watch when nothing shows that it lives
	known   atomic.Int64  // the highest revision of the cluster that this watch saw
	last    atomic.Int64  // the last revision received
	reach   atomic.Int64  // how many revisions the last answer out of the cluster's log went on for; 0: none came
	weight  atomic.Int64  // what that answer took
	until   atomic.Int64  // ends the watch with errReached when it has all before this revision; 0: never
	hurry   chan struct{} // asks for progress at once
	judged  chan struct{} // closed when trusted is known
	trusted atomic.Bool
}

// maxStallDoublings bounds how far StallTimeout grows while one watch after another brings nothing: a server may need longer than that to put together
// what comes next (its time for dividing a large revision grows with the square of the events), and would never get there if it were always cut off.
const maxStallDoublings = 5

// errStalled ends a watch that showed no sign of life.
var errStalled = errors.New("no sign of life from the watch")

// eventOverhead is what an event takes beside its key and value.
const eventOverhead = 200

// errReached ends a watch behind which another goes on.
var errReached = errors.New("another watch goes on from here")

// manyRevisions: an answer of that many comes out of the cluster's log (an unsynced watcher gets up to 1,000 at a time, see watchBatchMaxRevs in
// server/storage/mvcc/watcher_group.go).
const manyRevisions = 500

func (m *Mirror) open(ctx context.Context, spec watchSpec) *watch {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	w := &watch{watchSpec: spec, m: m, feed: newFeed(cancel), space: semaphore.NewWeighted(int64(spec.room)), hurry: make(chan struct{}, 1), judged: make(chan struct{})}
	w.last.Store(spec.from - 1)
	w.alive = time.AfterFunc(w.stall, func() { cancel(errStalled) })
	go func() {
		defer close(w.judged)
		w.trusted.Store(w.trust(ctx))
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

// askProgress asks for progress at once.
func (w *watch) askProgress() {
	select {
	case w.hurry <- struct{}{}:
	default:
	}
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
		w.keepAsking(asking, stream)
	}()
	defer func() { stopAsking(); <-asked }()

	var part revision // of the current revision, while fragments of it arrive
	var whole answer
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
			whole.add(w, resp)
			part, err = w.split(ctx, part, resp)
		}
		if until := w.until.Load(); err == nil && until > 0 && w.last.Load() >= until-1 {
			err = errReached
		}
		if err != nil {
			return err
		}
		w.alive.Reset(w.stall)
	}
}

// split divides a response into revisions and pushes those that are complete. A revision ends where the next begins or, in the last fragment, with the response.
func (w *watch) split(ctx context.Context, part revision, resp *pb.WatchResponse) (revision, error) {
	for _, event := range resp.Events {
		if event.Kv.ModRevision != part.rev {
			filtered := part.filtered
			if len(part.events) > 0 {
				if err := w.push(ctx, part); err != nil {
					return part, err
				}
				filtered = 0
			}
			part = revision{rev: event.Kv.ModRevision, filtered: filtered}
		}
		if w.keep(event.Kv.Key) {
			if w.bare {
				event.Kv.Value = nil
			}
			part.events = append(part.events, event)
		} else {
			part.filtered++
		}
	}
	if resp.Fragment {
		return part, nil
	}
	// Also when the filter dropped it all: the mirror has seen everything up to here.
	return revision{}, w.push(ctx, part)
}

func (w *watch) push(ctx context.Context, r revision) error {
	weight := int64(0)
	for _, event := range r.events {
		weight += weigh(event)
	}
	if weight = min(weight, int64(w.room)); weight > 0 {
		if err := w.space.Acquire(ctx, weight); err != nil {
			return err
		}
		r.held = []held{{w.space, weight}}
	}
	select {
	case w.items <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer follows the fragments of one answer.
type answer struct {
	first, last int64 // revisions
	many        int   // revisions
	weight      int64
}

// add notes how far the watch has got, and how far an answer went on that came out of the cluster's log.
func (a *answer) add(w *watch, resp *pb.WatchResponse) {
	for _, event := range resp.Events {
		a.weight += weigh(event)
		if rev := event.Kv.ModRevision; rev != a.last {
			if a.many++; a.many == 1 {
				a.first = rev
			}
			a.last = rev
		}
	}
	if resp.Fragment {
		return
	}
	if a.many >= manyRevisions {
		w.reach.Store(a.last - a.first + 1)
		w.weight.Store(a.weight)
	}
	if a.last > 0 {
		w.last.Store(a.last)
	}
	*a = answer{}
}

func weigh(event *mvccpb.Event) int64 {
	return int64(len(event.Kv.Key) + len(event.Kv.Value) + eventOverhead)
}

// keepAsking asks for progress from time to time and on request. The stream's only other Send is over by now.
func (w *watch) keepAsking(ctx context.Context, stream pb.Watch_WatchClient) {
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
