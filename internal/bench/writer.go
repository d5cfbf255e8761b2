package main

import (
	"context"
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// writerShape is how the bare writer puts key-values: transactions of up to ops puts, inFlight of them at once.
type writerShape struct{ ops, inFlight int }

// writerShapes are those whose better one counts as the target's own limit: flat transactions of etcd's default --max-txn-ops,
// and nested ones that carry more.
var writerShapes = []writerShape{{ops: 128, inFlight: 8}, {ops: 512, inFlight: 4}}

func (s writerShape) String() string { return fmt.Sprintf("%s %dx%d", roleWriter, s.ops, s.inFlight) }

const (
	serverTxnOps = 128
	writerBytes  = 1 << 20 // of one transaction; the server takes 1.5 MiB
	putOverhead  = 24
)

// playWriter reads everything from the source into memory and then only writes, without order, checks or checkpoint.
func playWriter(f roleFlags, orders <-chan string) error {
	ctx := context.Background()
	keep, err := keepFunc(f.filter)
	if err != nil {
		return err
	}
	source, target, err := connectBoth(f)
	if err != nil {
		return err
	}
	var requests []*pb.TxnRequest
	var puts []*pb.RequestOp
	bytes := 0
	flush := func() {
		if len(puts) > 0 {
			requests = append(requests, &pb.TxnRequest{Success: nested(puts)})
		}
		puts, bytes = nil, 0
	}
	c := newCursor(source, keep)
	for {
		var kv *mvccpb.KeyValue
		if kv, err = c.next(ctx); err != nil {
			return err
		}
		if kv == nil {
			break
		}
		size := len(kv.Key) + len(kv.Value) + putOverhead
		if len(puts) == f.writer.ops || bytes+size > writerBytes {
			flush()
		}
		puts = append(puts, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: kv.Key, Value: kv.Value}}})
		bytes += size
	}
	flush()
	client := pb.NewKVClient(target.ActiveConnection())
	fmt.Println(readyLine)
	if err := awaitGo(orders); err != nil {
		return err
	}
	lanes := make([][]*pb.TxnRequest, len(requests)) // in any order
	for i, request := range requests {
		lanes[i] = []*pb.TxnRequest{request}
	}
	if err := commitLanes(ctx, client, lanes, f.writer.inFlight); err != nil {
		return err
	}
	fmt.Println(doneLine)
	return nil
}

// commitLanes commits the requests of each lane one after another, and so many lanes at once.
func commitLanes(ctx context.Context, client pb.KVClient, lanes [][]*pb.TxnRequest, inFlight int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	for _, lane := range lanes {
		group.Go(func() error {
			for _, request := range lane {
				ctx, cancel := context.WithTimeout(ctx, requestTimeout)
				_, err := client.Txn(ctx, request, grpc.MaxCallRecvMsgSize(math.MaxInt32))
				cancel()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// nested divides operations over transactions inside of one where they are too many for one level. The server's limit holds
// for each level, less what the level above has.
func nested(ops []*pb.RequestOp) []*pb.RequestOp {
	if len(ops) <= serverTxnOps {
		return ops
	}
	groups := 2
	for (len(ops)+groups-1)/groups > serverTxnOps-groups {
		groups++
	}
	each := (len(ops) + groups - 1) / groups
	var outer []*pb.RequestOp
	for len(ops) > 0 {
		n := min(each, len(ops))
		outer = append(outer, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: ops[:n]}}})
		ops = ops[n:]
	}
	return outer
}
