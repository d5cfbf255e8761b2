package kvstream

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// List is what Fetch reads, in the order wanted.
type List interface {
	Len() int
	Key(i int) string
	// Pos is the key's place in a listing of the whole range: positions that follow each other closely are read as one range.
	Pos(i int) int64
}

const (
	// The server bounds an answer by keys, never by bytes, and after any number of small values the next ones may have 1.5 MiB each.
	// So spans and pages start small, follow the sizes seen and grow by no more than a factor of two at a time; and a message beyond maxAnswer
	// is refused by gRPC before any of it is read into memory, and asked for again with half as many keys.
	firstSpan = 32
	maxPage   = 256     // keys of a page
	pageBytes = 1 << 20 // of a page's values
	maxSpan   = 1024    // keys of a stream: the server sizes its next message by the last one, within these
	spanBytes = 4 << 20
	maxAnswer = 4 << 20
	// spansAhead is how many spans are read at a time: while one is used, the others come, so that a long way to the server costs no pause for each.
	spansAhead = 3
	// defaultGets is what etcd's default of --max-txn-ops allows.
	defaultGets = 128
	// minRun: so many neighbours at the end of a run are worth a request of their own.
	minRun = 16
	// sparse: a range may hold this many times the keys wanted before single reads are cheaper.
	sparse = 3
)

// batch is what came of a list at once: kvs[j] belongs to item first+j.
type batch struct {
	first int
	kvs   []*mvccpb.KeyValue
}

// span is a part of a list that is read on its own, by one stream where the server has them.
type span struct {
	first, n int
	batches  chan batch
	err      error // why batches ended; read after it is closed
}

// Fetch reads the values of a list at the pin's revision and calls use for each page, in order: kvs[j] belongs to item first+j and is nil where the key does not exist.
// The values of a page may share memory: one that is kept for long should be a copy.
func (r *Reader) Fetch(ctx context.Context, list List, pin *Pin, use func(first int, kvs []*mvccpb.KeyValue) error) error {
	if list.Len() == 0 {
		return nil
	}
	f := &fetch{Reader: r, list: list, pin: pin, began: make(chan struct{})}
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, spansAhead)
	spans := make(chan *span, spansAhead)
	g.Go(func() error {
		defer close(spans)
		for first, n := 0, 0; first < list.Len(); first += n {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			if first > 0 { // whose size tells how much more may be asked for
				select {
				case <-f.began:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			n = f.span(first, n)
			s := &span{first: first, n: n, batches: make(chan batch)}
			spans <- s
			g.Go(func() error {
				defer close(s.batches)
				s.err = f.read(ctx, s)
				return s.err
			})
		}
		return nil
	})
	g.Go(func() error {
		for s := range spans {
			for b := range s.batches {
				if err := use(b.first, b.kvs); err != nil {
					return err
				}
			}
			if s.err != nil {
				return s.err
			}
			<-slots
		}
		return nil
	})
	return g.Wait()
}

// fetch is one call of Fetch.
type fetch struct {
	*Reader
	list  List
	pin   *Pin
	mean  atomic.Int64  // size of the values that came last, at least 1
	began chan struct{} // closed when mean is known
	once  sync.Once
}

// span is how many items from first on are read together, after a span of last items.
func (f *fetch) span(first, last int) int {
	size := firstSpan
	if last > 0 {
		mean := int(f.mean.Load())
		size = min(2*last, maxSpan, spanBytes/mean)
		if size <= maxPage {
			size = min(size, pageBytes/mean)
		}
	}
	n := min(max(size, 1), f.list.Len()-first)
	if f.noStream.Load() {
		n = min(n, maxPage)
	}
	if dense(f.list, first, n) {
		return n
	}
	n = min(n, f.gets())
	if run := f.run(first, n); run >= minRun && dense(f.list, first, run) {
		return run
	}
	return n
}

// run is how many items from first on, of n, come before the list goes on somewhere else.
func (f *fetch) run(first, n int) int {
	last := f.list.Pos(first)
	for i := 1; i < n; i++ {
		pos := f.list.Pos(first + i)
		if pos <= last || pos > last+sparse*minRun {
			return i
		}
		last = pos
	}
	return n
}

// read reads a span.
func (f *fetch) read(ctx context.Context, s *span) error {
	tries := 0
	for first, n := s.first, s.n; n > 0; {
		var done int
		var err error
		if n > maxPage && !f.noStream.Load() {
			done, err = f.stream(ctx, s, first, n, &tries)
		} else {
			done, err = f.page(ctx, s, first, min(n, maxPage))
		}
		if err != nil {
			return err
		}
		first, n = first+done, n-done
	}
	return nil
}

// emit hands on what was read.
func (f *fetch) emit(ctx context.Context, s *span, b batch) error {
	bytes := 0
	for _, kv := range b.kvs {
		if kv != nil {
			bytes += len(kv.Value)
		}
	}
	f.mean.Store(int64(max(bytes/len(b.kvs), 1)))
	f.once.Do(func() { close(f.began) })
	select {
	case s.batches <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// page reads and hands on n items, or fewer if these have too many bytes.
func (f *fetch) page(ctx context.Context, s *span, first, n int) (done int, err error) {
	kvs, err := f.fetchPage(ctx, f.list, first, n, f.pin)
	if err != nil {
		return 0, err
	}
	return len(kvs), f.emit(ctx, s, batch{first, kvs})
}

// stream reads and hands on items that lie close together, as they come, and returns how many it got to.
func (f *fetch) stream(ctx context.Context, s *span, first, n int, tries *int) (done int, err error) {
	// New keys may have come into the range since it was listed, so it is bounded here too.
	limit := int64(sparse * n)
	stream, err := f.openStream(ctx, &pb.RangeRequest{Key: []byte(f.list.Key(first)), RangeEnd: []byte(f.list.Key(first+n-1) + "\x00"),
		Revision: f.pin.Revision(), Limit: limit}, maxAnswer)
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, err
	}
	defer stream.close()
	for {
		kvs, err := stream.recv()
		switch {
		case errors.Is(err, io.EOF) && limit > 0: // the rest does not exist
			return n, f.emit(ctx, s, batch{first + done, make([]*mvccpb.KeyValue, n-done)})
		case errors.Is(err, io.EOF):
			return done, nil
		case err != nil && etcdrpc.Classify(err) == etcdrpc.TooLarge && ctx.Err() == nil:
			more, err := f.page(ctx, s, first+done, min(n-done, maxPage))
			return done + more, err
		case err != nil:
			return done, f.broken(ctx, f.pin, stream.rev, err, tries)
		}
		*tries = 0
		limit -= int64(len(kvs))
		if matched := f.match(first+done, n-done, kvs); len(matched) > 0 {
			if err := f.emit(ctx, s, batch{first + done, matched}); err != nil {
				return done, err
			}
			done += len(matched)
		}
		if done == n {
			return n, nil
		}
	}
}

// match gives the items from first on, of n, that neighbouring keys of the server tell about.
func (f *fetch) match(first, n int, kvs []*mvccpb.KeyValue) (matched []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		for len(matched) < n && f.list.Key(first+len(matched)) < string(kv.Key) {
			matched = append(matched, nil)
		}
		if len(matched) < n && f.list.Key(first+len(matched)) == string(kv.Key) {
			matched = append(matched, kv)
		}
	}
	return matched
}

func (r *Reader) gets() int {
	if n := r.maxGets.Load(); n > 0 {
		return int(n)
	}
	return defaultGets
}

func dense(list List, first, n int) bool {
	last := list.Pos(first)
	limit := last + int64(sparse*n)
	for i := first + 1; i < first+n; i++ {
		pos := list.Pos(i)
		if pos <= last || pos >= limit {
			return false
		}
		last = pos
	}
	return true
}

// fetchPage reads n items, or fewer if these have too many bytes.
func (r *Reader) fetchPage(ctx context.Context, list List, first, n int, pin *Pin) (kvs []*mvccpb.KeyValue, err error) {
	for ; ; n /= 2 {
		if n > 1 && dense(list, first, n) {
			kvs, err = r.fetchRange(ctx, list, first, n, pin)
		} else {
			kvs, err = r.fetchKeys(ctx, list, first, n, pin)
		}
		if err == nil || n == 1 || ctx.Err() != nil || etcdrpc.Classify(err) != etcdrpc.TooLarge {
			return kvs, err
		}
	}
}

// callOptions bound the answer to a request for n keys; a single key has no bound.
func callOptions(n int) []grpc.CallOption {
	limit := maxAnswer
	if n == 1 {
		limit = math.MaxInt32
	}
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(limit), grpc.WaitForReady(true)}
}

func (r *Reader) fetchRange(ctx context.Context, list List, first, n int, pin *Pin) ([]*mvccpb.KeyValue, error) {
	kvs := make([]*mvccpb.KeyValue, n)
	begin, end := list.Key(first), list.Key(first+n-1)+"\x00"
	// New keys may have come into the range since it was listed, so it is bounded here too.
	for begin < end {
		resp, err := retry(ctx, r, pin, func(ctx context.Context, rev int64) (*pb.RangeResponse, error) {
			return clientv3.RetryKVClient(r.Client).Range(ctx,
				&pb.RangeRequest{Key: []byte(begin), RangeEnd: []byte(end), Revision: rev, Limit: int64(sparse * n)}, callOptions(n)...)
		})
		if err != nil {
			return nil, err
		}
		j := 0
		for _, kv := range resp.Kvs {
			for j < n && list.Key(first+j) < string(kv.Key) {
				j++
			}
			if j < n && list.Key(first+j) == string(kv.Key) {
				kvs[j] = kv
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			break
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	return kvs, nil
}

func (r *Reader) fetchKeys(ctx context.Context, list List, first, n int, pin *Pin) ([]*mvccpb.KeyValue, error) {
	kvs := make([]*mvccpb.KeyValue, 0, n)
	for len(kvs) < n {
		want := min(n-len(kvs), r.gets())
		resp, err := retry(ctx, r, pin, func(ctx context.Context, rev int64) (*pb.TxnResponse, error) {
			req := &pb.TxnRequest{Success: make([]*pb.RequestOp, want)}
			for i := range req.Success {
				req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
					RequestRange: &pb.RangeRequest{Key: []byte(list.Key(first + len(kvs) + i)), Revision: rev}}}
			}
			return clientv3.RetryKVClient(r.Client).Txn(ctx, req, callOptions(n)...)
		})
		if err != nil {
			if etcdrpc.Classify(err) == etcdrpc.TooManyOps && want > 1 {
				r.maxGets.Store(int32(want / 2))
				continue
			}
			return nil, err
		}
		for _, op := range resp.Responses {
			var kv *mvccpb.KeyValue
			if got := op.GetResponseRange().Kvs; len(got) > 0 {
				kv = got[0]
			}
			kvs = append(kvs, kv)
		}
	}
	return kvs, nil
}
