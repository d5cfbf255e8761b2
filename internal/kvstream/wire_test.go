package kvstream_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/understudy-dr/understudy/internal/kvstream"
)

// FuzzKeyValues holds the reading of messages against protobuf's own decoder.
func FuzzKeyValues(f *testing.F) {
	message := &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: 1 << 63, Revision: 7}, More: true, Count: 9, Kvs: []*mvccpb.KeyValue{
		{Key: []byte("/registry/a"), Value: []byte("v"), CreateRevision: 3, ModRevision: 5, Version: 2, Lease: 1 << 62},
		{Key: []byte("\x00\xff")},
		{Key: []byte("negative"), ModRevision: -1, Lease: -9},
	}}}
	whole, err := proto.Marshal(message)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte{})
	f.Add(append(append([]byte{}, whole...), whole...)) // two parts of one message: decoders join them
	f.Add([]byte{0x0a, 0x04, 0x12, 0x02, 0x28, 0x01})   // a value that is no string of bytes
	f.Fuzz(func(t *testing.T, data []byte) {
		var want pb.RangeStreamResponse
		wantErr := proto.Unmarshal(data, &want)
		got, err := kvstream.KeyValues(data)
		if wantErr != nil { // such as a malformed header, which nobody reads
			return
		}
		if err != nil {
			t.Fatalf("%v for a message that is well-formed", err)
		}
		for _, kv := range want.GetRangeResponse().GetKvs() {
			kv.ProtoReflect().SetUnknown(nil)
		}
		if diff := cmp.Diff(want.GetRangeResponse().GetKvs(), got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		for _, kv := range got {
			if cap(kv.Key) != len(kv.Key) || cap(kv.Value) != len(kv.Value) {
				t.Error("what is appended to a key or value would overwrite its neighbour")
			}
		}
	})
}
