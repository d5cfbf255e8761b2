package kvstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
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
	stream *keyStream

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
	rev := k.pin.Revision()
	if k.stream == nil {
		if k.stream, err = k.reader.openKeys(ctx, k.next, k.end, rev); err != nil {
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
	case ctx.Err() != nil:
		return ctx.Err()
	}
	stream := k.stream
	k.Close()
	if k.leaderless++; etcdrpc.Leaderless(err) && k.leaderless < etcdrpc.MemberTries {
		return nil // the next stream goes to another member
	}
	k.leaderless = 0
	switch etcdrpc.Classify(err) {
	case etcdrpc.Unsupported:
		k.reader.noStream.Store(true)
		return nil
	case etcdrpc.Compacted:
		return k.pin.move(ctx, k.reader, stream.rev)
	}
	return err
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

// keyStream is one RangeStream call. It is used raw: the client's own wrapper leaks its goroutine when its reader leaves early.
type keyStream struct {
	rev     int64
	stream  pb.KV_RangeStreamClient
	cancel  context.CancelCauseFunc
	timeout time.Duration
}

func (r *Reader) openKeys(ctx context.Context, begin, end string, rev int64) (*keyStream, error) {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	s := &keyStream{rev: rev, cancel: cancel, timeout: r.Timeout}
	watchdog := time.AfterFunc(r.Timeout, func() { cancel(etcdrpc.ErrTimeout) })
	defer watchdog.Stop()
	stream, err := pb.NewKVClient(r.Client.ActiveConnection()).RangeStream(ctx,
		&pb.RangeRequest{Key: []byte(begin), RangeEnd: []byte(end), Revision: rev, KeysOnly: true},
		grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.WaitForReady(true))
	if err != nil {
		err = s.explain(ctx, err)
		cancel(nil)
		return nil, err
	}
	s.stream = stream
	return s, nil
}

func (s *keyStream) recv() ([]*mvccpb.KeyValue, error) {
	watchdog := time.AfterFunc(s.timeout, func() { s.cancel(etcdrpc.ErrTimeout) })
	defer watchdog.Stop()
	resp, err := s.stream.Recv()
	if err != nil {
		return nil, s.explain(s.stream.Context(), err)
	}
	return resp.GetRangeResponse().GetKvs(), nil
}

// explain tells a call that ended for want of an answer from one that its caller ended: gRPC reports both as canceled.
func (s *keyStream) explain(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), etcdrpc.ErrTimeout) {
		return fmt.Errorf("%w of %v: %w", etcdrpc.ErrTimeout, s.timeout, err)
	}
	return err
}

func (s *keyStream) close() { s.cancel(nil) }
