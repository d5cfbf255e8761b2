package kvstream

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The decoder that gRPC uses by default copies each key and value out of the message. A copy of a cluster is mostly such copying,
// so the messages of streams are kept whole here, and keys and values point into them.

// wireCodec leaves received messages as they are.
type wireCodec struct{}

// wireMessage is a received message.
type wireMessage struct{ bytes []byte }

// Name is the codec's content type, which is protobuf's.
func (wireCodec) Name() string { return "proto" }

func (wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	b, err := proto.Marshal(message)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (wireCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*wireMessage)
	if !ok {
		return fmt.Errorf("%T takes no message", v)
	}
	message.bytes = data.Materialize()
	return nil
}

// errWire: a server answered with something else than the message asked for.
var errWire = errors.New("malformed answer")

// Field numbers of etcdserverpb.RangeStreamResponse, etcdserverpb.RangeResponse and mvccpb.KeyValue.
const (
	streamRange = 1
	rangeKvs    = 2

	kvKey     = 1
	kvCreate  = 2
	kvMod     = 3
	kvVersion = 4
	kvValue   = 5
	kvLease   = 6
)

// keyValues returns what a RangeStreamResponse holds. Keys and values alias message.
func keyValues(message []byte) ([]*mvccpb.KeyValue, error) {
	n := 0
	count := func(field) error { n++; return nil }
	if err := eachOf(message, streamRange, func(f field) error { return eachOf(f.content, rangeKvs, count) }); err != nil || n == 0 {
		return nil, err
	}
	space := make([]mvccpb.KeyValue, n)
	kvs := make([]*mvccpb.KeyValue, 0, n)
	add := func(f field) error {
		kv := &space[len(kvs)]
		kvs = append(kvs, kv)
		return readKeyValue(f.content, kv)
	}
	return kvs, eachOf(message, streamRange, func(f field) error { return eachOf(f.content, rangeKvs, add) })
}

func readKeyValue(message []byte, kv *mvccpb.KeyValue) error {
	return each(message, func(f field) error {
		switch {
		case f.typ == protowire.BytesType && f.num == kvKey:
			kv.Key = f.content
		case f.typ == protowire.BytesType && f.num == kvValue:
			kv.Value = f.content
		case f.typ != protowire.VarintType:
		case f.num == kvCreate:
			kv.CreateRevision = int64(f.varint)
		case f.num == kvMod:
			kv.ModRevision = int64(f.varint)
		case f.num == kvVersion:
			kv.Version = int64(f.varint)
		case f.num == kvLease:
			kv.Lease = int64(f.varint)
		}
		return nil
	})
}

// field is one field of a message: content of a length-delimited one, varint of a number.
type field struct {
	num     protowire.Number
	typ     protowire.Type
	content []byte
	varint  uint64
}

// eachOf calls fn for the length-delimited fields with a number.
func eachOf(message []byte, num protowire.Number, fn func(field) error) error {
	return each(message, func(f field) error {
		if f.num != num || f.typ != protowire.BytesType {
			return nil
		}
		return fn(f)
	})
}

func each(message []byte, fn func(field) error) error {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errWire
		}
		message = message[n:]
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.BytesType:
			f.content, n = protowire.ConsumeBytes(message)
			f.content = f.content[:len(f.content):len(f.content)]
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(num, typ, message)
		}
		if n < 0 {
			return errWire
		}
		message = message[n:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}
