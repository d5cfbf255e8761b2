package kvstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// rangeStream is one RangeStream call (etcd 3.7 and later). It is used raw: the client's own wrapper leaks its goroutine when its reader leaves early,
// and copies every key and value once more.
type rangeStream struct {
	rev     int64
	stream  grpc.ClientStream
	cancel  context.CancelCauseFunc
	timeout time.Duration
}

// openStream begins a call whose messages have up to maxMessage bytes.
func (r *Reader) openStream(ctx context.Context, req *pb.RangeRequest, maxMessage int) (*rangeStream, error) {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	s := &rangeStream{rev: req.Revision, cancel: cancel, timeout: r.Timeout}
	watchdog := time.AfterFunc(r.Timeout, func() { cancel(etcdrpc.ErrTimeout) })
	defer watchdog.Stop()
	stream, err := r.Client.ActiveConnection().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/etcdserverpb.KV/RangeStream",
		grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(true), grpc.ForceCodecV2(wireCodec{}))
	if err == nil {
		err = stream.SendMsg(req)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		if stream != nil { // SendMsg only says that the stream has ended
			if cause := stream.RecvMsg(&wireMessage{}); cause != nil {
				err = cause
			}
		}
		err = s.explain(ctx, err)
		cancel(nil)
		return nil, err
	}
	s.stream = stream
	return s, nil
}

// recv returns the next keys; io.EOF ends the stream. What it returns shares memory.
func (s *rangeStream) recv() ([]*mvccpb.KeyValue, error) {
	watchdog := time.AfterFunc(s.timeout, func() { s.cancel(etcdrpc.ErrTimeout) })
	defer watchdog.Stop()
	var message wireMessage
	if err := s.stream.RecvMsg(&message); err != nil {
		return nil, s.explain(s.stream.Context(), err)
	}
	return keyValues(message.bytes)
}

// explain tells a call that ended for want of an answer from one that its caller ended: gRPC reports both as canceled.
func (s *rangeStream) explain(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), etcdrpc.ErrTimeout) {
		return fmt.Errorf("%w of %v: %w", etcdrpc.ErrTimeout, s.timeout, err)
	}
	return err
}

func (s *rangeStream) close() { s.cancel(nil) }

// broken decides what follows an error of a stream: nil to go on after the last key received, with another stream or, from a server that has none, without.
// tries counts streams in a row that brought nothing because their member knew no leader.
func (r *Reader) broken(ctx context.Context, pin *Pin, rev int64, err error, tries *int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if *tries++; etcdrpc.Leaderless(err) && *tries < etcdrpc.MemberTries {
		return nil // the next stream goes to another member
	}
	*tries = 0
	switch etcdrpc.Classify(err) {
	case etcdrpc.Unsupported:
		r.noStream.Store(true)
		return nil
	case etcdrpc.Compacted:
		return pin.move(ctx, r, rev)
	}
	return err
}
