package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// playLogWriter reads what happened at the source since a revision into memory, and then only writes it. Each key has a lane, so that its
// writes keep their order; there is no other order, no checks and no checkpoint.
func playLogWriter(f roleFlags, orders <-chan string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	keep, err := keepFunc(f.filter)
	if err != nil {
		return err
	}
	source, target, err := connectBoth(f)
	if err != nil {
		return err
	}
	lanes := make([]lane, f.writer.inFlight)
	for i := range lanes {
		lanes[i].most = f.writer.ops
	}
	seed := maphash.MakeSeed()
	if err := readLog(ctx, source, f.rev, func(ev *clientv3.Event) {
		if keep(ev.Kv.Key) {
			lanes[maphash.Bytes(seed, ev.Kv.Key)%uint64(len(lanes))].add(ev)
		}
	}); err != nil {
		return err
	}
	requests := make([][]*pb.TxnRequest, len(lanes))
	for i := range lanes {
		lanes[i].flush()
		requests[i] = lanes[i].requests
	}
	fmt.Println(readyLine)
	if err := awaitGo(orders); err != nil {
		return err
	}
	if err := commitLanes(ctx, pb.NewKVClient(target.ActiveConnection()), requests, len(requests)); err != nil {
		return err
	}
	fmt.Println(doneLine)
	return nil
}

// readLog hands out the events from a revision on, up to that of the last key.
func readLog(ctx context.Context, source *clientv3.Client, rev int64, take func(*clientv3.Event)) error {
	for resp := range source.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(rev)) {
		if err := resp.Err(); err != nil {
			return err
		}
		for _, ev := range resp.Events {
			if take(ev); string(ev.Kv.Key) == lastKey {
				return nil
			}
		}
	}
	return errors.New("the watch of the source ended")
}

// lane is a sequence of transactions in the making.
type lane struct {
	most     int // operations of a transaction
	requests []*pb.TxnRequest
	ops      []*pb.RequestOp
	keys     map[string]bool // of ops: a transaction may hold each once
	bytes    int
}

func (l *lane) add(ev *clientv3.Event) {
	size := len(ev.Kv.Key) + len(ev.Kv.Value) + putOverhead
	if len(l.ops) == l.most || l.bytes+size > writerBytes || l.keys[string(ev.Kv.Key)] {
		l.flush()
	}
	op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: ev.Kv.Key, Value: ev.Kv.Value}}}
	if ev.Type == clientv3.EventTypeDelete {
		op = &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: ev.Kv.Key}}}
	}
	if l.keys == nil {
		l.keys = map[string]bool{}
	}
	l.ops, l.bytes = append(l.ops, op), l.bytes+size
	l.keys[string(ev.Kv.Key)] = true
}

func (l *lane) flush() {
	if len(l.ops) > 0 {
		l.requests = append(l.requests, &pb.TxnRequest{Success: nested(l.ops)})
	}
	l.ops, l.keys, l.bytes = nil, nil, 0
}
