package etcdmirror

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// Limits of a transaction beside its changes.
const (
	// minTxnOps: the checkpoint and one level of nesting need room beside a change.
	minTxnOps = 4
	// baseOverhead is what the comparisons, the request's header and the encoding add, at most.
	baseOverhead = 640
	// checkpointBytes is what the checkpoint adds, at most.
	checkpointBytes = 1024
)

// pack arranges operations for a server that allows limit of them. Such a limit holds for each level of nested transactions, less what the levels above hold
// (server/etcdserver/api/v3rpc/key.go checkTxnRequest), so that one atomic transaction can carry many times more. nil means that they do not fit.
func pack(ops []*pb.RequestOp, limit int) []*pb.RequestOp {
	if len(ops) <= limit {
		return ops
	}
	for depth := 2; depth <= 4; depth++ {
		width := limit / depth
		if width < 2 {
			return nil
		}
		// The levels above the last hold width each; the last holds the rest.
		capacity := limit - (depth-1)*width
		for range depth - 1 {
			capacity *= width
		}
		if len(ops) > capacity {
			continue
		}
		return nest(ops, limit, width, depth)
	}
	return nil
}

func nest(ops []*pb.RequestOp, limit, width, depth int) []*pb.RequestOp {
	if depth == 1 || len(ops) <= limit {
		return ops
	}
	each := (len(ops) + width - 1) / width
	var groups []*pb.RequestOp
	for len(ops) > 0 {
		n := min(each, len(ops))
		groups = append(groups, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{
			RequestTxn: &pb.TxnRequest{Success: nest(ops[:n], limit-width, width, depth-1)}}})
		ops = ops[n:]
	}
	return groups
}

// capacity is how many changes one transaction can carry beside the checkpoint.
func (t *target) capacity() int {
	limit := int(t.maxOps.Load()) - 1
	best := limit
	for depth := 2; depth <= 4 && limit/depth >= 2; depth++ {
		width := limit / depth
		n := limit - (depth-1)*width
		for range depth - 1 {
			n *= width
		}
		best = max(best, n)
	}
	return best
}
