// Package traffic writes random traffic of the kinds that a mirror has to cope with. The sequence of writes is a function of
// the seed alone, as long as nobody else writes the same keys.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config describes the traffic. The zero value is usable.
type Config struct {
	// Seed determines everything. Print it when a test fails.
	Seed uint64
	// Ops is the number of operations; each is one or a few writes. 0 means 500.
	Ops int
	// Keys is the number of different keys below Prefix. 0 means 200.
	Keys int
	// Prefix holds most of the keys; some lie outside of it, next to it and far away. "" means "/registry/".
	Prefix string
	// MaxTxnOps is the server's limit. Most transactions have 2 to 20 operations; from 200 on some have 200 or more. 0 means 128.
	MaxTxnOps int
	// MaxValue is the size of the largest values in bytes. 0 means 1 MiB, as much as a server takes by default.
	MaxValue int
	// Inside leaves out the keys outside of Prefix.
	Inside bool
	// Plain leaves out values with a header of encryption at rest.
	Plain bool
	// NoLeases leaves out leases and the keys that end with them.
	NoLeases bool
	// Between is called after each operation with its number, from 0 on, and the revision that it led to. It may compact,
	// stop and start members or wait for a mirror. An error ends the traffic. nil does nothing.
	Between func(ctx context.Context, op int, rev int64) error
}

// Stats count what was written.
type Stats struct {
	Revision      int64 // of the last response
	Ops           int
	Puts          int // inside and outside of transactions
	Deletes       int // of single keys
	RangeDeletes  int
	Txns          int
	LargeTxns     int // of 200 operations or more
	FailedCompare int
	Recreated     int // keys deleted and put again by the next write
	Grants        int // of leases
	Revokes       int
	Outside       int // puts outside of the prefix
	Empty         int // values of no bytes
	Large         int // values of 100 KiB or more
	Owned         int // objects with owners
	Retries       int // attempts that failed and were repeated
}

// Generator makes the traffic. It remembers which keys it has put, so that Run can be called again to go on.
// It is not safe for concurrent use.
type Generator struct {
	cfg     Config
	rng     *rand.Rand
	inside  []string
	outside []string
	live    map[string]object
	leases  []int64
	stats   Stats
}

// Run writes the traffic of a configuration from its beginning.
func Run(ctx context.Context, client *clientv3.Client, cfg Config) (Stats, error) {
	g := New(cfg)
	err := g.Run(ctx, client, g.cfg.Ops)
	return g.Stats(), err
}

// New prepares the traffic; it writes nothing.
func New(cfg Config) *Generator {
	if cfg.Ops == 0 {
		cfg.Ops = 500
	}
	if cfg.Keys == 0 {
		cfg.Keys = 200
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "/registry/"
	}
	if cfg.MaxTxnOps == 0 {
		cfg.MaxTxnOps = 128
	}
	if cfg.MaxValue == 0 {
		cfg.MaxValue = 1 << 20
	}
	g := &Generator{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0)), live: map[string]object{}}
	g.universe()
	return g
}

// Stats count what was written so far.
func (g *Generator) Stats() Stats { return g.stats }

// Prefix is the configured prefix or its default.
func (g *Generator) Prefix() string { return g.cfg.Prefix }

// Run writes so many operations more. A write is repeated while the server is away or has no leader, so that a write may
// take effect twice; any other error ends the traffic.
func (g *Generator) Run(ctx context.Context, client *clientv3.Client, ops int) error {
	for range ops {
		n := g.stats.Ops
		if err := g.operation(ctx, client); err != nil {
			return fmt.Errorf("traffic: seed %d, operation %d: %w", g.cfg.Seed, n, err)
		}
		g.stats.Ops++
		if g.cfg.Between != nil {
			if err := g.cfg.Between(ctx, n, g.stats.Revision); err != nil {
				return fmt.Errorf("traffic: seed %d, after operation %d: %w", g.cfg.Seed, n, err)
			}
		}
	}
	return nil
}

// attemptTimeout is the deadline of one attempt of a write.
const attemptTimeout = 5 * time.Second

func (g *Generator) do(ctx context.Context, write func(context.Context) (*etcdserverpb.ResponseHeader, error)) error {
	retries, err := persist(ctx, func(ctx context.Context) error {
		header, err := write(ctx)
		if err == nil && header != nil {
			g.stats.Revision = max(g.stats.Revision, header.Revision)
		}
		return err
	})
	g.stats.Retries += retries
	return err
}

// persist repeats a request until the server has taken it.
func persist(ctx context.Context, request func(context.Context) error) (retries int, err error) {
	for ; ; retries++ {
		try, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := request(try)
		cancel()
		if err == nil || ctx.Err() != nil || !passing(err) {
			return retries, err
		}
		select {
		case <-ctx.Done():
			return retries, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// passing tells errors that end by themselves: the server is away, has no leader or too much to do.
func passing(err error) bool {
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) && etcd.Code() == codes.Unavailable {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrTooManyRequests)
}

func (g *Generator) commit(ctx context.Context, client *clientv3.Client, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) error {
	return g.do(ctx, func(ctx context.Context) (*etcdserverpb.ResponseHeader, error) {
		r, err := client.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		if err != nil {
			return nil, err
		}
		return r.Header, nil
	})
}
