package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// fillerPrefix is where the keys are that raise the revision. Its folder is none that a mirror can be named after, so no mirror takes part in it.
const fillerPrefix = keyspace.MetadataPrefix + ".revisions/"

// measured is how many writes tell the rate.
const measured = 2_000

// fill writes until the standby's revision is at least goal. Its revision is from now.
func (r *revisionFence) fill(ctx context.Context, from, goal int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.MaxDuration)
	defer cancel()
	began := time.Now()
	var head atomic.Int64
	head.Store(from)
	g, ctx := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	for i := range r.cfg.Clients {
		key := fmt.Sprintf("%s%d", fillerPrefix, i)
		g.Go(func() error {
			for attempt := (etcdrpc.Backoff{}); head.Load() < goal; {
				resp, err := etcdrpc.Do(ctx, r.RequestTimeout, func(ctx context.Context) (*clientv3.PutResponse, error) { return r.Standby.Put(ctx, key, "") })
				if err != nil {
					if ctx.Err() != nil || etcdrpc.Classify(err) != etcdrpc.Retry {
						return fillError(err)
					}
					if err := attempt.Wait(ctx); err != nil {
						return err
					}
					continue
				}
				attempt.Reset()
				for {
					seen := head.Load()
					if resp.Header.Revision <= seen || head.CompareAndSwap(seen, resp.Header.Revision) {
						break
					}
				}
			}
			return nil
		})
	}
	watching := make(chan error, 1)
	go func() { watching <- r.pace(ctx, cancel, began, from, goal, &head, stopped) }()
	err := g.Wait()
	close(stopped)
	if slow := <-watching; slow != nil {
		return slow
	}
	if err != nil {
		return fmt.Errorf("raising the standby's revision, at %d of %d: %w", head.Load(), goal, err)
	}
	took := time.Since(began)
	failover.Note(ctx, fmt.Sprintf("raised the standby's revision from %d to %d in %v", from, head.Load(), took.Round(time.Millisecond)))
	return nil
}

func fillError(err error) error {
	if etcdrpc.Classify(err) == etcdrpc.NoSpace {
		return failover.Permanent(errors.New("the standby's database is full: compact and defragment it or raise --quota-backend-bytes, and disarm the NOSPACE alarm"))
	}
	return err
}

// pace reports how far the writing is, and ends it when it would take longer than it may.
func (r *revisionFence) pace(ctx context.Context, end context.CancelFunc, began time.Time, from, goal int64, head *atomic.Int64, stopped <-chan struct{}) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-stopped:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, took := head.Load(), time.Since(began)
		if now-from < 1 {
			continue
		}
		rate := float64(now-from) / took.Seconds()
		left := time.Duration(float64(max(goal-now, 0)) / rate * float64(time.Second))
		failover.Report(ctx, fmt.Sprintf("the standby is at revision %d of %d: %.0f per second, about %v left", now, goal, rate, left.Round(time.Second)))
		if (now-from >= measured || took > 5*time.Second) && took+left > r.cfg.MaxDuration {
			end()
			return failover.Permanent(fmt.Errorf("the standby makes %.0f revisions per second, so that %d more would take %v and may take %v. %s",
				rate, goal-now, left.Round(time.Second), r.cfg.MaxDuration, offline(goal-now)))
		}
	}
}

// fillers counts the keys that are left of a writing.
func (r *revisionFence) fillers(ctx context.Context) (int64, error) {
	resp, err := etcdrpc.Do(ctx, r.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return r.Standby.Get(ctx, fillerPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	})
	if err != nil {
		return 0, fmt.Errorf("counting the keys below %s: %w", fillerPrefix, err)
	}
	return resp.Count, nil
}

// clean removes the keys that raised the revision.
func (r *revisionFence) clean(ctx context.Context) error {
	if _, err := etcdrpc.Do(ctx, r.RequestTimeout, func(ctx context.Context) (*clientv3.DeleteResponse, error) {
		return r.Standby.Delete(ctx, fillerPrefix, clientv3.WithPrefix())
	}); err != nil {
		return fmt.Errorf("removing the keys below %s: %w", fillerPrefix, err)
	}
	return nil
}
