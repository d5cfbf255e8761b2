package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Compactor compacts a source to its head at random. Its Step fits Config.Between.
type Compactor struct {
	Client *clientv3.Client
	// Seed determines after which operations it compacts.
	Seed uint64
	// Every is the mean number of operations between compactions. 0 means 20.
	Every int
	// Before is called with the revision before it is compacted, for a recorder that must not lose history. nil does nothing.
	Before func(ctx context.Context, rev int64) error

	rng         *rand.Rand
	compactions int
}

const compactTimeout = 10 * time.Second

// Step compacts to the revision, or does not.
func (c *Compactor) Step(ctx context.Context, _ int, rev int64) error {
	if c.rng == nil {
		c.rng = rand.New(rand.NewPCG(c.Seed, 1))
		if c.Every == 0 {
			c.Every = 20
		}
	}
	if c.rng.IntN(c.Every) > 0 || rev < 2 {
		return nil
	}
	if c.Before != nil {
		if err := c.Before(ctx, rev); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	if _, err := c.Client.Compact(ctx, rev); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact to %d: %w", rev, err)
	}
	c.compactions++
	return nil
}

// Compactions is how often Step compacted.
func (c *Compactor) Compactions() int { return c.compactions }
