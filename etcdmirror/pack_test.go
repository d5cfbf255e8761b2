package etcdmirror

import (
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// levels checks a transaction as an etcd server does and returns its puts in order.
func levels(t *testing.T, ops []*pb.RequestOp, limit int) (keys []string) {
	t.Helper()
	if len(ops) > limit {
		t.Fatalf("%d operations on a level that has room for %d", len(ops), limit)
	}
	for _, op := range ops {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			keys = append(keys, string(r.RequestPut.Key))
		case *pb.RequestOp_RequestTxn:
			keys = append(keys, levels(t, r.RequestTxn.Success, limit-len(ops))...)
		}
	}
	return keys
}

func TestPackKeepsToTheServersLimitAndTheOrder(t *testing.T) {
	seed := uint64(rand.Int64())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		limit := 3 + rng.IntN(200)
		n := rng.IntN(20_000)
		if rng.IntN(2) == 0 {
			n = rng.IntN(3 * limit)
		}
		ops := make([]*pb.RequestOp, n)
		for i := range ops {
			ops[i] = change{key: fmt.Sprint(i)}.op()
		}
		packed := pack(ops, limit)
		if packed == nil && n > 0 {
			target := &target{}
			target.maxOps.Store(int64(limit) + 1) // capacity leaves room for a checkpoint
			if n <= target.capacity() {
				t.Fatalf("%d operations were not packed for a limit of %d, whose capacity is %d", n, limit, target.capacity())
			}
			continue
		}
		keys := levels(t, packed, limit)
		if len(keys) != n {
			t.Fatalf("%d of %d operations packed for a limit of %d", len(keys), n, limit)
		}
		for i, key := range keys {
			if key != fmt.Sprint(i) {
				t.Fatalf("operation %s at place %d (limit %d, %d operations)", key, i, limit, n)
			}
		}
	}
}

func TestCapacityAtEtcdsDefault(t *testing.T) {
	target := &target{}
	target.maxOps.Store(DefaultMaxTxnOps)
	if n := target.capacity(); n < 20_000 {
		t.Errorf("capacity %d: a revision of 10,000 deletes would be torn", n)
	}
}
