package kvstream

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

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
	// The server bounds a page by keys, never by bytes: 512 values of the largest size are 768 MiB. So pages start small,
	// follow the sizes seen, and grow by no more than a factor of two at a time.
	firstPage = 32
	maxPage   = 512
	pageBytes = 1 << 20
	// ahead is how many pages are read while one is being used.
	ahead = 2
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
		err   error
	}
	g, ctx := errgroup.WithContext(ctx)
	// Each page in flight has its own channel; the queue of channels keeps the order and bounds their number.
	queue := make(chan chan page, ahead-1)
	sizes := make(chan float64, ahead+1) // mean value sizes of finished pages
	g.Go(func() error {
		defer close(queue)
		size := firstPage
		for next := 0; next < list.Len(); {
			first := next
			select {
			case mean := <-sizes:
				fits := int(pageBytes / max(mean, 1))
				size = max(min(fits, 2*size, maxPage), 1)
			default:
			}
			n := r.span(list, first, size)
			result := make(chan page, 1)
			select {
			case queue <- result:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				kvs, bytes, err := r.fetchPage(ctx, list, first, n, pin)
				select {
				case sizes <- float64(bytes) / float64(n):
				default:
				}
				result <- page{first, kvs, err}
				return nil
			})
			next += n
		}
		return nil
	})
	g.Go(func() error {
		for result := range queue {
			p := <-result
			if p.err != nil {
				return p.err
			}
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

func (r *Reader) fetchPage(ctx context.Context, list List, first, n int, pin *Pin) (kvs []*mvccpb.KeyValue, bytes int, err error) {
	if n > 1 && dense(list, first, n) {
		kvs, err = r.fetchRange(ctx, list, first, n, pin)
	} else {
		kvs, err = r.fetchKeys(ctx, list, first, n, pin)
	}
	for _, kv := range kvs {
		if kv != nil {
			bytes += len(kv.Value)
		}
	}
	return kvs, bytes, err
}

func (r *Reader) fetchRange(ctx context.Context, list List, first, n int, pin *Pin) ([]*mvccpb.KeyValue, error) {
	kvs := make([]*mvccpb.KeyValue, n)
	begin, end := list.Key(first), list.Key(first+n-1)+"\x00"
	// New keys may have come into the range since it was listed, so it is bounded here too.
	for begin < end {
		resp, err := retry(ctx, r, pin, func(ctx context.Context, rev int64) (*clientv3.GetResponse, error) {
			return r.Client.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(int64(sparse*n)))
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
		resp, err := retry(ctx, r, pin, func(ctx context.Context, rev int64) (*clientv3.TxnResponse, error) {
			ops := make([]clientv3.Op, want)
			for i := range ops {
				ops[i] = clientv3.OpGet(list.Key(first+len(kvs)+i), clientv3.WithRev(rev))
			}
			return r.Client.Txn(ctx).Then(ops...).Commit()
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
