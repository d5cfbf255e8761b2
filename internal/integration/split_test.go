package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// ownNotes is where transactions between two checkpoints write down that they are the mirror's.
const ownNotes = etcdmirror.MetadataPrefix + mirrorName + "/own/"

// lossy loses the answers of some transactions that were done.
type lossy struct{ sent, lost atomic.Int64 }

func (l *lossy) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoker(ctx, method, req, reply, cc, opts...)
	txn, ok := req.(*pb.TxnRequest)
	if !ok || err != nil || len(txn.Compare) == 0 || len(txn.Success) < 2 || l.sent.Add(1)%3 == 0 {
		return err
	}
	l.lost.Add(1)
	return status.Error(codes.Unavailable, "the answer was lost")
}

// TestPartsWithLostAnswers mirrors transactions that the target's limits divide, over a connection that loses most answers, so that each part is sent several times.
// All that was written is the mirror's own, whichever attempt wrote it: it is neither taken for keys of the target's own cluster, which the source's
// deletes would spare, nor for drift.
func TestPartsWithLostAnswers(t *testing.T) {
	const ops = 500
	combinations(t, func(t *testing.T, c combination) {
		p := newPair(t, c, 1000, 16)
		lossy := &lossy{}
		cfg := quick(clientv3.Config{Endpoints: p.target.Endpoints(), Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(lossy.intercept)}})
		client, err := clientv3.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		direct := p.target.Client
		p.target.Client = client
		var foreign, drifted atomic.Int64 // times that one was found
		r := p.start(etcdmirror.Config{Drift: etcdmirror.DriftRepair, RepairDelay: time.Millisecond, Hooks: etcdmirror.Hooks{
			Foreign: func(etcdmirror.ForeignInfo) { foreign.Add(1) }, Drift: func(etcdmirror.DriftInfo) { drifted.Add(1) }}})
		p.target.Client = direct
		p.sync(r)
		for turn := range 3 {
			changes := make([]clientv3.Op, ops)
			for i := range changes {
				changes[i] = clientv3.OpPut(objectKey(i), fmt.Sprint("value ", turn))
				if i%3 == turn-1 {
					changes[i] = clientv3.OpDelete(objectKey(i))
				}
			}
			p.source.txn(p, changes...)
			p.sync(r)
			p.mustEqual(0)
		}
		s := r.Status()
		r.stop()
		if foreign.Load()+drifted.Load()+s.Repairs != 0 || s.Foreign+s.Drifted != 0 {
			t.Errorf("of its own writes the mirror took %d for foreign keys and %d for drift, and repaired %d; status %+v", foreign.Load(), drifted.Load(), s.Repairs, s)
		}
		if s.Splits < 3 || lossy.lost.Load() < 20 {
			t.Errorf("%d splits, %d lost answers: nothing was tested", s.Splits, lossy.lost.Load())
		}
		own := 0
		for key := range p.target.state(p, 0) {
			if strings.HasPrefix(key, ownNotes) {
				own++
			}
		}
		if own > 0 {
			t.Errorf("%d notes of own transactions are left", own)
		}
	})
}

// TestValuesAtTheLimit mirrors values of growing size, up to the first that does not fit into a request together with what the mirror compares. Those just below are written without the
// checkpoint, or even without the note that tells whose transaction it is, and are the mirror's own all the same.
func TestValuesAtTheLimit(t *testing.T) {
	const limit, step = 1536 << 10, 24
	combinations(t, func(t *testing.T, c combination) {
		p := newPair(t, c, 0, 0)
		var foreign, drifted atomic.Int64
		cfg := etcdmirror.Config{Drift: etcdmirror.DriftRepair, RepairDelay: time.Millisecond, Hooks: etcdmirror.Hooks{
			Foreign: func(etcdmirror.ForeignInfo) { foreign.Add(1) }, Drift: func(etcdmirror.DriftInfo) { drifted.Add(1) }}}
		r := p.start(cfg)
		p.sync(r)
		var alone, bare, n int // written without the checkpoint; without a note; in all
		for size := limit - 800; ; size += step {
			before := p.metadata().CheckpointRevision
			rev := p.source.put(p, objectKey(n), strings.Repeat("x", size))
			r.eventually("an end of the write", func(s etcdmirror.Status) bool { return s.SavedRevision >= rev || s.State == etcdmirror.StateWaiting })
			if r.Status().State == etcdmirror.StateWaiting {
				break
			}
			target, md := p.target.state(p, 0), p.metadata()
			kv := target[objectKey(n)]
			if kv == nil || md.CheckpointRevision <= before {
				t.Fatalf("a value of %d bytes is not there", size)
			}
			if kv.ModRevision != md.CheckpointRevision {
				alone++
			}
			for key, note := range target {
				if strings.HasPrefix(key, ownNotes) && string(note.Value) == objectKey(n) {
					bare++
				}
			}
			n++
			// What was written is deleted as the mirror's own, and makes room.
			p.source.delete(p, objectKey(n-1))
			p.sync(r)
			if p.target.state(p, 0)[objectKey(n-1)] != nil {
				t.Fatalf("a value of %d bytes outlives its deletion at the source", size)
			}
		}
		s := r.Status()
		if !strings.Contains(s.Reason, objectKey(n)) || !strings.Contains(s.Reason, "--max-request-bytes") {
			t.Errorf("it waits for: %s", s.Reason)
		}
		r.stop()
		if n <= alone || alone <= bare || bare == 0 {
			t.Errorf("%d values, %d of them without the checkpoint and %d without a note: nothing was tested", n, alone, bare)
		}
		if foreign.Load()+drifted.Load()+s.Repairs != 0 || s.Foreign+s.Drifted != 0 {
			t.Errorf("of its own writes the mirror took %d for foreign keys and %d for drift, and repaired %d", foreign.Load(), drifted.Load(), s.Repairs)
		}
	})
}
