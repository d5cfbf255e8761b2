package drcheck_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// sides are a source and a target, with or without a mirror between them.
type sides struct {
	t                            testing.TB
	ctx                          context.Context
	sourceCluster, targetCluster *embedetcd.Cluster
	source, target               *clientv3.Client
}

func newSides(t testing.TB) *sides {
	t.Helper()
	s := &sides{t: t, ctx: testutil.Context(t), sourceCluster: testutil.NewCluster(t, embedetcd.Options{}), targetCluster: testutil.NewCluster(t, embedetcd.Options{MaxTxnOps: 1000})}
	s.source, s.target = testutil.Client(t, s.sourceCluster), testutil.Client(t, s.targetCluster)
	return s
}

// running is a mirror at work.
type running struct {
	*etcdmirror.Mirror
	t    testing.TB
	stop func()
	done chan struct{}
	err  error
}

// mirror runs a mirror called "test" until the test ends or stop is called.
func (s *sides) mirror(cfg etcdmirror.Config) *running {
	s.t.Helper()
	cfg.Name, cfg.SessionTTL = "test", time.Second
	cfg.Unchecked = cfg.Guards == nil // most tests put values of no meaning
	m, err := etcdmirror.New(s.source, s.target, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r := &running{Mirror: m, t: s.t, done: make(chan struct{})}
	r.stop = func() { cancel(); <-r.done }
	go func() {
		defer close(r.done)
		r.err = m.Run(ctx)
	}()
	s.t.Cleanup(func() {
		r.stop()
		if r.err != nil && !errors.Is(r.err, etcdmirror.ErrFenced) {
			s.t.Errorf("Run ended with %v", r.err)
		}
	})
	return r
}

// sync waits until the mirror has applied everything that the source has now.
func (s *sides) sync(r *running) {
	s.t.Helper()
	if err := r.WaitForRevision(s.ctx, s.revision(s.source)); err != nil {
		s.t.Fatalf("%v; status %+v", err, r.Status())
	}
}

// eventually waits for a condition; the test's own deadline alone decides.
func (s *sides) eventually(what string, cond func() bool) {
	s.t.Helper()
	for !cond() {
		select {
		case <-time.After(5 * time.Millisecond): // between looks
		case <-s.ctx.Done():
			s.t.Fatalf("no %s", what)
		}
	}
}

func (s *sides) revision(c *clientv3.Client) int64 {
	s.t.Helper()
	resp, err := c.Get(s.ctx, "head", clientv3.WithKeysOnly())
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (s *sides) put(c *clientv3.Client, key, value string, opts ...clientv3.OpOption) {
	s.t.Helper()
	if _, err := c.Put(s.ctx, key, value, opts...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sides) delete(c *clientv3.Client, key string) {
	s.t.Helper()
	if _, err := c.Delete(s.ctx, key); err != nil {
		s.t.Fatal(err)
	}
}

// fill puts many keys in transactions.
func (s *sides) fill(c *clientv3.Client, all map[string]string) {
	s.t.Helper()
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(all)), 100) {
		var ops []clientv3.Op
		for _, key := range keys {
			ops = append(ops, clientv3.OpPut(key, all[key]))
		}
		if _, err := c.Txn(s.ctx).Then(ops...).Commit(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *sides) compact(c *clientv3.Client) {
	s.t.Helper()
	if _, err := c.Compact(s.ctx, s.revision(c)); err != nil {
		s.t.Fatal(err)
	}
}

// checker makes a Checker; Settle defaults to a second.
func (s *sides) checker(cfg drcheck.Config) *drcheck.Checker {
	s.t.Helper()
	if cfg.Settle == 0 {
		cfg.Settle = time.Second
	}
	c, err := drcheck.New(s.source, s.target, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *sides) check(cfg drcheck.Config) *drcheck.Result {
	s.t.Helper()
	r, err := s.checker(cfg).Check(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// mustDiffer fails unless a result has exactly one listed difference, of this class and reason.
func mustDiffer(t testing.TB, r *drcheck.Result, key string, class drcheck.Class, reason drcheck.Reason) drcheck.Difference {
	t.Helper()
	if len(r.Differences) != 1 || r.Differences[0].Key != key || r.Differences[0].Class != class || r.Differences[0].Reason != reason {
		t.Fatalf("differences %+v, want %s %q because %q", r.Differences, class, key, reason)
	}
	if r.Equal == !r.Differences[0].Accepted {
		t.Errorf("equal %v with %+v", r.Equal, r.Differences[0])
	}
	return r.Differences[0]
}

// schedules runs f with random seeds. UNDERSTUDY_SEED repeats one, UNDERSTUDY_SCHEDULES runs that many.
func schedules(t *testing.T, n int, f func(t *testing.T, seed uint64, rng *rand.Rand)) {
	number := func(name string) (uint64, bool) {
		s := os.Getenv(name)
		if s == "" {
			return 0, false
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s is %q: set it to a number", name, s)
		}
		return v, true
	}
	if v, ok := number("UNDERSTUDY_SCHEDULES"); ok {
		n = int(v)
	}
	first, repeat := number("UNDERSTUDY_SEED")
	if repeat {
		n = 1
	}
	for i := range n {
		seed := first
		if !repeat {
			seed = rand.Uint64()>>2 + uint64(i)
		}
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { f(t, seed, rand.New(rand.NewPCG(seed, 1))) })
	}
}

const metadata = keyspace.MetadataPrefix
