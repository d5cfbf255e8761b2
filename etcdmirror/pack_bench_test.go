package etcdmirror

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// BenchmarkPack arranges transactions of the sizes that a base copy and a merging tail send.
func BenchmarkPack(b *testing.B) {
	for _, n := range []int{64, DefaultBatchOps, 10_000} {
		ops := make([]*pb.RequestOp, n)
		for i := range ops {
			ops[i] = change{key: fmt.Sprintf("/registry/configmaps/team-00/settings-%06d", i), value: []byte("value")}.op()
		}
		b.Run(fmt.Sprintf("%dops", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if pack(ops, DefaultMaxTxnOps-1) == nil {
					b.Fatal("they do not fit")
				}
			}
		})
	}
}
