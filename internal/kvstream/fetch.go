package kvstream

import (
	"context"
	"math"

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
	// The server bounds a page by keys, never by bytes, and after any number of small values the next ones may have 1.5 MiB each.
	// So pages start small, follow the sizes seen and grow by no more than a factor of two at a time; and an answer beyond maxAnswer
	// is refused by gRPC before any of it is read into memory, and asked for again with half as many keys.
	firstPage = 32
	maxPage   = 256
	pageBytes = 1 << 20
	maxAnswer = 4 << 20
	// defaultGets is what etcd's default of --max-txn-ops allows.
	defaultGets = 128
	// sparse: a range may hold this many times the keys wanted before single reads are cheaper.
	sparse = 3
)

// Fetch reads the values of a list at the pin's revision and calls use for each page, in order: kvs[j] belongs to item first+j and is nil where the key does not exist.
func (r *Reader) Fetch(ctx context.Context, list List, pin *Pin, use func(first int, kvs []*mvccpb.KeyValue) error) error {
	if list.Len() == 0 {
		return nil
	}
	type page struct {
		first int
		kvs   []*mvccpb.KeyValue
	}
	g, ctx := errgroup.WithContext(ctx)
	// One page is used, one is under way.
	slot := make(chan struct{}, 1)
	pages := make(chan page, 1)
	g.Go(func() error {
		defer close(pages)
		size, mean := firstPage, 0 // mean size of the last page's values
		for first := 0; first < list.Len(); {
			select {
			case slot <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			if first > 0 {
				size = max(min(pageBytes/max(mean, 1), 2*size, maxPage), 1)
			}
			kvs, bytes, err := r.fetchPage(ctx, list, first, r.span(list, first, size), pin)
			if err != nil {
				return err
			}
			size, mean = len(kvs), bytes/len(kvs)
			pages <- page{first, kvs}
			first += len(kvs)
		}
		return nil
	})
	g.Go(func() error {
		for p := range pages {
			<-slot
			if err := use(p.first, p.kvs); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// span is how many items from first on one page takes: up to size as a range where they lie close together, else as many as go into a transaction of single reads.
func (r *Reader) span(list List, first, size int) int {
	n := min(size, list.Len()-first)
	if dense(list, first, n) {
		return n
	}
	return min(n, r.gets())
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
func (r *Reader) fetchPage(ctx context.Context, list List, first, n int, pin *Pin) (kvs []*mvccpb.KeyValue, bytes int, err error) {
	for ; ; n /= 2 {
		if n > 1 && dense(list, first, n) {
			kvs, err = r.fetchRange(ctx, list, first, n, pin)
		} else {
			kvs, err = r.fetchKeys(ctx, list, first, n, pin)
		}
		if err == nil || n == 1 || ctx.Err() != nil || etcdrpc.Classify(err) != etcdrpc.TooLarge {
			break
		}
	}
	for _, kv := range kvs {
		if kv != nil {
			bytes += len(kv.Value)
		}
	}
	return kvs, bytes, err
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
