package kvstream

import (
	"context"
	"errors"
	"io"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageKeys is how many keys one page holds where the server cannot stream: large, because the server counts the rest of the range for every page.
const pageKeys = 10_000

// Keys is a cursor over the keys of a range, without their values, in key order. The Lease field is absent, as in every keys-only read.
type Keys struct {
	reader *Reader
	pin    *Pin
	end    string

	next   string // where to go on after what is in page
	page   []*mvccpb.KeyValue
	done   bool
	stream *rangeStream

	leaderless int // members in a row that knew no leader
}

// Keys starts a cursor over [begin, end) at the pin's revision; begin "" means from the first key on, end "\x00" means no upper end. Close it after use.
func (r *Reader) Keys(begin, end string, pin *Pin) *Keys {
	if begin == "" {
		begin = "\x00" // etcd refuses the empty key
	}
	return &Keys{reader: r, pin: pin, end: end, next: begin}
}

// Close ends a cursor that was not read to its end.
func (k *Keys) Close() {
	if k.stream != nil {
		k.stream.close()
		k.stream = nil
	}
}

// Next returns the next key, or nil at the end. Pass the same ctx each time: the stream lives in the one that it was opened with.
// After an error, Next goes on after the last key delivered.
func (k *Keys) Next(ctx context.Context) (*mvccpb.KeyValue, error) {
	for len(k.page) == 0 {
		if k.done {
			return nil, nil
		}
		if err := k.fill(ctx); err != nil {
			k.Close()
			return nil, err
		}
	}
	kv := k.page[0]
	k.page = k.page[1:]
	return kv, nil
}

func (k *Keys) fill(ctx context.Context) (err error) {
	if k.reader.noStream.Load() {
		return k.fillPage(ctx)
	}
	if k.stream == nil {
		k.stream, err = k.reader.openStream(ctx, &pb.RangeRequest{Key: []byte(k.next), RangeEnd: []byte(k.end), Revision: k.pin.Revision(), KeysOnly: true}, math.MaxInt32)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
	k.page, err = k.stream.recv()
	switch {
	case errors.Is(err, io.EOF):
		k.done = true
		k.Close()
		return nil
	case err == nil:
		k.leaderless = 0
		k.advance()
		return nil
	}
	rev := k.stream.rev
	k.Close()
	return k.reader.broken(ctx, k.pin, rev, err, &k.leaderless)
}

func (k *Keys) fillPage(ctx context.Context) error {
	resp, err := retry(ctx, k.reader, k.pin, func(ctx context.Context, rev int64) (*clientv3.GetResponse, error) {
		return k.reader.Client.Get(ctx, k.next, clientv3.WithRange(k.end), clientv3.WithRev(rev), clientv3.WithKeysOnly(), clientv3.WithLimit(pageKeys))
	})
	if err != nil {
		return err
	}
	k.page, k.done = resp.Kvs, !resp.More
	k.advance()
	return nil
}

func (k *Keys) advance() {
	if n := len(k.page); n > 0 {
		k.next = string(k.page[n-1].Key) + "\x00"
	}
}
