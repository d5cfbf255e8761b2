package integration_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
)

// ownerGate holds the target's transaction of one owner back, until that of the dependent arrives or it has become plain that it waits.
type ownerGate struct {
	owner, dependent string // target keys

	mu       sync.Mutex
	held     bool
	answered bool // the owner is committed
	early    bool // the dependent was sent before that
	seen     bool // the dependent was sent
	arrived  chan struct{}
}

func (g *ownerGate) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	txn, ok := req.(*pb.TxnRequest)
	if !ok {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	var owner, dependent bool
	for _, op := range txn.Success {
		key := string(op.GetRequestPut().GetKey())
		owner, dependent = owner || key == g.owner, dependent || key == g.dependent
	}
	g.mu.Lock()
	first := owner && !g.held
	g.held = g.held || owner
	if dependent && !g.seen {
		g.seen, g.early = true, !owner && !g.answered
		close(g.arrived)
	}
	g.mu.Unlock()
	if first {
		// A mirror that keeps the order sends nothing that could be waited for here; the time only bounds how late the opposite is noticed.
		select {
		case <-g.arrived:
		case <-time.After(time.Second):
		}
	}
	err := invoker(ctx, method, req, reply, cc, opts...)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered = g.answered || owner && err == nil
	return err
}

// TestOwnersInTwoTransactions copies an object with one owner in its own transaction and another in the one before, which may still be under way.
func TestOwnersInTwoTransactions(t *testing.T) {
	combinations(t, func(t *testing.T, c combination) {
		p := newPair(t, c, 0, 0)
		key := func(name string) string { return etcdmirror.DefaultPrefix + "configmaps/team/" + name }
		rng := rand.New(rand.NewPCG(1, 2))
		objects := map[string]kubeobj.Object{}
		for _, name := range []string{"a", "b", "c", "d"} { // two by two, in key order
			objects[name] = kubeobj.Object{APIVersion: "v1", Kind: "ConfigMap", Namespace: "team", Name: name, UID: kubeobj.UID(rng)}
		}
		d := objects["d"]
		d.Owners = []kubeobj.Owner{objects["b"].AsOwner(), objects["c"].AsOwner()}
		objects["d"] = d
		for name, o := range objects {
			p.source.put(p, key(name), string(o.JSON()))
		}

		gate := &ownerGate{owner: key("b"), dependent: key("d"), arrived: make(chan struct{})}
		cfg := clientv3.Config{Endpoints: p.target.Endpoints(), Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(gate.intercept)}}
		gated, err := clientv3.New(quick(cfg))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = gated.Close() })
		direct := p.target.Client
		p.target.Client = gated
		r := p.start(etcdmirror.Config{BatchOps: 2, InFlight: 4})
		p.target.Client = direct
		p.sync(r)
		r.stop()
		p.mustEqual(0)
		if !gate.held || !gate.seen {
			t.Fatalf("owner sent: %v, dependent sent: %v; nothing was tested", gate.held, gate.seen)
		}
		if gate.early {
			t.Errorf("key %q was sent while the transaction of its owner %q was under way", gate.dependent, gate.owner)
		}
	})
}
