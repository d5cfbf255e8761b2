package traffic

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// requestBudget bounds the values of a transaction in bytes, below etcd's default limit of 1.5 MiB for a request.
const requestBudget = 1400 << 10

// leaseTTL in seconds is longer than any test: leases end by being revoked only.
const leaseTTL = 36000

// operation draws one operation and writes it.
func (g *Generator) operation(ctx context.Context, client *clientv3.Client) error {
	p := g.rng.IntN(100)
	switch {
	case p < 40:
		return g.single(ctx, client, g.key())
	case p < 60:
		return g.transaction(ctx, client)
	case p < 70:
		if key := g.liveKey(); key != "" {
			return g.remove(ctx, client, key)
		}
	case p < 72:
		return g.remove(ctx, client, g.key()) // often absent: no revision
	case p < 82:
		return g.recreate(ctx, client)
	case p < 84:
		return g.removeRange(ctx, client)
	case p < 90:
		return g.compareFails(ctx, client)
	case p < 93 && !g.cfg.NoLeases:
		return g.grant(ctx, client)
	case p < 95 && !g.cfg.NoLeases:
		return g.revoke(ctx, client)
	}
	if len(g.outside) > 0 && p >= 96 {
		return g.single(ctx, client, g.outside[g.rng.IntN(len(g.outside))])
	}
	return g.single(ctx, client, g.key())
}

func (g *Generator) single(ctx context.Context, client *clientv3.Client, key string) error {
	budget := requestBudget
	op := g.put(key, 0, &budget)
	return g.do(ctx, func(ctx context.Context) (*etcdserverpb.ResponseHeader, error) {
		r, err := client.Do(ctx, op)
		if err != nil {
			return nil, err
		}
		return r.Put().Header, nil
	})
}

func (g *Generator) remove(ctx context.Context, client *clientv3.Client, key string) error {
	g.forget(key)
	g.stats.Deletes++
	return g.delete(ctx, client, clientv3.OpDelete(key))
}

func (g *Generator) delete(ctx context.Context, client *clientv3.Client, op clientv3.Op) error {
	return g.do(ctx, func(ctx context.Context) (*etcdserverpb.ResponseHeader, error) {
		r, err := client.Do(ctx, op)
		if err != nil {
			return nil, err
		}
		return r.Del().Header, nil
	})
}

// transaction puts and deletes several keys in one revision.
func (g *Generator) transaction(ctx context.Context, client *clientv3.Client) error {
	n := 2 + g.rng.IntN(19)
	if g.cfg.MaxTxnOps >= 200 && g.rng.IntN(10) == 0 {
		n = 200 + g.rng.IntN(g.cfg.MaxTxnOps-199)
	}
	keys := g.keys(min(n, g.cfg.MaxTxnOps))
	ops := make([]clientv3.Op, 0, len(keys))
	budget := requestBudget
	for _, key := range keys {
		switch g.rng.IntN(10) {
		case 0, 1:
			g.forget(key)
			g.stats.Deletes++
			ops = append(ops, clientv3.OpDelete(key))
		case 2:
			ops = append(ops, clientv3.OpGet(key)) // changes nothing
		default:
			ops = append(ops, g.put(key, 0, &budget))
		}
	}
	g.stats.Txns++
	if len(ops) >= 200 {
		g.stats.LargeTxns++
	}
	return g.commit(ctx, client, nil, ops, nil)
}

// recreate deletes a key and puts it again in the next revision: another object under the same key.
func (g *Generator) recreate(ctx context.Context, client *clientv3.Client) error {
	key := g.liveKey()
	if key == "" {
		return g.single(ctx, client, g.key())
	}
	if err := g.remove(ctx, client, key); err != nil {
		return err
	}
	g.stats.Recreated++
	return g.single(ctx, client, key)
}

// removeRange deletes what lies below a key's directory: a namespace, a resource or, rarely, everything.
func (g *Generator) removeRange(ctx context.Context, client *clientv3.Client) error {
	dir := g.key()
	dir = dir[:max(len(g.cfg.Prefix), strings.LastIndexByte(dir, '/')+1)]
	if g.rng.IntN(4) > 0 && dir == g.cfg.Prefix {
		return g.single(ctx, client, g.key())
	}
	for key := range g.live {
		if strings.HasPrefix(key, dir) {
			g.forget(key)
		}
	}
	g.stats.RangeDeletes++
	return g.delete(ctx, client, clientv3.OpDelete(dir, clientv3.WithPrefix()))
}

// compareFails sends a transaction whose compare fails: its first branch must not show up anywhere.
func (g *Generator) compareFails(ctx context.Context, client *clientv3.Client) error {
	never := clientv3.Compare(clientv3.CreateRevision(g.key()), "<", 0)
	keys := g.keys(2)
	wrong := []clientv3.Op{clientv3.OpPut(keys[0], "never written"), clientv3.OpDelete(keys[1])}
	var otherwise []clientv3.Op
	if g.rng.IntN(2) == 0 {
		budget := requestBudget
		otherwise = append(otherwise, g.put(keys[0], 0, &budget))
	}
	g.stats.Txns++
	g.stats.FailedCompare++
	return g.commit(ctx, client, []clientv3.Cmp{never}, wrong, otherwise)
}

// grant makes a lease and attaches a few keys, one by one or at once.
func (g *Generator) grant(ctx context.Context, client *clientv3.Client) error {
	id := 1 + g.rng.Int64N(1<<62)
	err := g.do(ctx, func(ctx context.Context) (*etcdserverpb.ResponseHeader, error) {
		// The Grant of clientv3 cannot ask for an ID.
		r, err := clientv3.RetryLeaseClient(client).LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: id, TTL: leaseTTL})
		if err = clientv3.ContextError(ctx, err); errors.Is(err, rpctypes.ErrLeaseExist) {
			return nil, nil // an earlier attempt got through
		}
		return r.GetHeader(), err
	})
	if err != nil {
		return err
	}
	g.leases = append(g.leases, id)
	g.stats.Grants++
	budget := requestBudget
	var ops []clientv3.Op
	for _, key := range g.keys(min(3+g.rng.IntN(20), g.cfg.MaxTxnOps)) {
		ops = append(ops, g.put(key, id, &budget))
	}
	if g.rng.IntN(2) == 0 {
		g.stats.Txns++
		return g.commit(ctx, client, nil, ops, nil)
	}
	for _, op := range ops {
		if err := g.commit(ctx, client, nil, []clientv3.Op{op}, nil); err != nil {
			return err
		}
	}
	return nil
}

// revoke ends a lease: its keys are deleted in one revision.
func (g *Generator) revoke(ctx context.Context, client *clientv3.Client) error {
	if len(g.leases) == 0 {
		return g.grant(ctx, client)
	}
	i := g.rng.IntN(len(g.leases))
	id := g.leases[i]
	g.leases = append(g.leases[:i], g.leases[i+1:]...)
	for key, o := range g.live {
		if o.lease == id {
			g.forget(key)
		}
	}
	g.stats.Revokes++
	return g.do(ctx, func(ctx context.Context) (*etcdserverpb.ResponseHeader, error) {
		r, err := client.Revoke(ctx, clientv3.LeaseID(id))
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil, nil // an earlier attempt got through
		}
		if err != nil {
			return nil, err
		}
		return r.Header, nil
	})
}
