package etcdmirror_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// watches counts the watch streams that a client opens.
type watches struct{ opened atomic.Int64 }

func (w *watches) option() grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		if strings.HasSuffix(method, "Watch/Watch") {
			w.opened.Add(1)
		}
		return s, err
	})
}

// A backlog that one watch would get in many turns is read by several, and joined again without a gap, whatever its revisions hold and however many of them take part.
func TestABacklogIsReadBySeveralWatches(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   etcdmirror.Config
		other int // of 10 revisions, so many do not take part; negative: only in the first half
		least int64
		most  int64
	}{
		"all keys take part":     {etcdmirror.Config{}, 0, 3, 40},
		"few keys take part":     {etcdmirror.Config{}, 6, 2, 40},
		"few first, then all":    {etcdmirror.Config{}, -8, 2, 40}, // an answer falls short of where the next watch began
		"one watch":              {etcdmirror.Config{CatchUpWatches: 1}, 0, 1, 1},
		"ranges between skipped": {etcdmirror.Config{Watch: etcdmirror.WatchKept, Skip: []string{"/registry/leases/", "/registry/events/"}}, 2, 3, 60},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{})
			skipped := func(key string) bool {
				for _, prefix := range c.cfg.Skip {
					if strings.HasPrefix(key, prefix) {
						return true
					}
				}
				return false
			}
			p.oracle.Keep = func(key []byte) bool { return !skipped(string(key)) }
			c.cfg.SessionTTL = time.Minute // nothing here shall begin anew because a machine is slow
			c.cfg.StallTimeout = time.Minute
			r := p.start(c.cfg)
			p.put(p.source, "/registry/configmaps/a", "v")
			p.sync(r)
			r.stop()

			revisions := 4000
			others := []string{"/registry/leases", "/registry/events", "/other"}
			if c.other < 0 {
				revisions = 12_000
				others = others[2:] // outside of the prefix, so that answers have none of them
			}
			var g errgroup.Group
			const writers = 16
			for i := range writers {
				g.Go(func() error {
					rng := rand.New(rand.NewPCG(uint64(i), 3))
					for n := range revisions / writers {
						other := c.other
						if other < 0 && n < revisions/writers/2 {
							other = -other
						}
						key := func() string {
							if rng.IntN(10) < other {
								return fmt.Sprintf("%s/%d", others[rng.IntN(len(others))], rng.IntN(50))
							}
							return fmt.Sprintf("/registry/%s/ns/%d", []string{"configmaps", "pods", "secrets"}[rng.IntN(3)], rng.IntN(200))
						}
						ops := map[string]clientv3.Op{}
						for range 1 + rng.IntN(40)/38*20 { // few with several keys
							k := key()
							if ops[k] = clientv3.OpPut(k, fmt.Sprint(i, n)); rng.IntN(20) == 0 {
								ops[k] = clientv3.OpDelete(k)
							}
						}
						var list []clientv3.Op
						for _, op := range ops {
							list = append(list, op)
						}
						if _, err := p.source.Txn(p.ctx).Then(list...).Commit(); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			var w watches
			cfg := p.sourceCluster.ClientConfig()
			cfg.DialOptions = append(cfg.DialOptions, w.option())
			direct := p.source
			p.source = connect(t, cfg)
			r = p.start(c.cfg)
			p.source = direct
			p.sync(r)
			p.put(p.source, "/registry/configmaps/a", "followed")
			p.sync(r)
			s := r.Status()
			r.stop()
			p.check()
			if s.Resyncs > 0 || s.Reconnects > 0 {
				t.Errorf("%d copies, %d reconnects: the backlog was not read from the log", s.Resyncs, s.Reconnects)
			}
			if n := w.opened.Load(); n < c.least || n > c.most {
				t.Errorf("%d watches were opened, want %d to %d", n, c.least, c.most)
			}
			t.Logf("%d watches, %d transactions", w.opened.Load(), s.Transactions)
		})
	}
}
