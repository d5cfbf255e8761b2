package etcdmirror

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A transaction whose operations changed nothing has made no revision: the one in its header is another's.
func TestWrote(t *testing.T) {
	put := &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}
	get := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}}
	deleted := func(n int64) *pb.ResponseOp {
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Deleted: n}}}
	}
	txn := func(ops ...*pb.ResponseOp) *pb.ResponseOp {
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Responses: ops}}}
	}
	for name, c := range map[string]struct {
		ops  []*pb.ResponseOp
		want bool
	}{
		"nothing": {nil, false}, "a read": {[]*pb.ResponseOp{get}, false}, "a put": {[]*pb.ResponseOp{get, put}, true},
		"a delete of nothing": {[]*pb.ResponseOp{deleted(0)}, false}, "a delete": {[]*pb.ResponseOp{deleted(1)}, true},
		"a branch not taken": {[]*pb.ResponseOp{txn()}, false}, "a nested put": {[]*pb.ResponseOp{txn(get, txn(put))}, true},
	} {
		if got := wrote(c.ops); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
