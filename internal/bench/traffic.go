package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// trafficPlan says what the traffic role writes to the source.
type trafficPlan struct {
	rate    int           // writes/s; maxRate: as fast as the source takes
	window  time.Duration // how long, or
	count   int           // how many
	cluster bool          // mostly leases of nodes and events; otherwise only what a mirror keeps
	follow  bool          // watch the target, and wait at most so long for what is left:
	drain   time.Duration
}

func (p trafficPlan) args() []string {
	return []string{"-rate=" + strconv.Itoa(p.rate), "-window=" + p.window.String(), "-count=" + strconv.Itoa(p.count),
		"-cluster=" + strconv.FormatBool(p.cluster), "-follow=" + strconv.FormatBool(p.follow), "-drain=" + p.drain.String()}
}

func (p *trafficPlan) flags(fs *flag.FlagSet) {
	fs.IntVar(&p.rate, "rate", 0, "")
	fs.DurationVar(&p.window, "window", 0, "")
	fs.IntVar(&p.count, "count", 0, "")
	fs.BoolVar(&p.cluster, "cluster", false, "")
	fs.BoolVar(&p.follow, "follow", false, "")
	fs.DurationVar(&p.drain, "drain", 0, "")
}

const (
	pacedWriters = 256 // requests in flight at most, at a rate
	fastWriters  = 32  // and as fast as the source takes: more give no more
	quietProbes  = 100
	probePause   = 50 * time.Millisecond
	canaryLimit  = time.Minute
)

// trafficker is the traffic role at work.
type trafficker struct {
	plan           trafficPlan
	source, target *clientv3.Client
	keep           func([]byte) bool
	work           *workload
	began          time.Time

	records []*record

	mu       sync.Mutex
	arrivals []arrival
	canary   chan struct{} // closed when it has arrived
	last     chan struct{} // closed when the last write has
}

// playTraffic prints readyLine when the mirror follows, writes at goLine, and prints its lagFigures as JSON.
func playTraffic(f roleFlags, orders <-chan string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	keep, err := keepFunc(f.filter)
	if err != nil {
		return err
	}
	t := &trafficker{plan: f.traffic, keep: keep, canary: make(chan struct{}), last: make(chan struct{}), began: time.Now()}
	if t.source, t.target, err = connectBoth(f); err != nil {
		return err
	}
	if t.work, err = newWorkload(ctx, t.source, keep, t.plan.cluster); err != nil {
		return err
	}
	var figures lagFigures
	if t.plan.follow {
		if err := t.watch(ctx); err != nil {
			return err
		}
		if figures.QuietPut, err = t.probeQuiet(ctx); err != nil {
			return err
		}
	}
	fmt.Println(readyLine)
	if err := awaitGo(orders); err != nil {
		return err
	}
	if err := t.run(ctx, &figures); err != nil {
		return err
	}
	line, err := json.Marshal(figures)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	return nil
}

// watch begins to note what arrives at the target, and waits until a write at the source does.
func (t *trafficker) watch(ctx context.Context) error {
	resp, err := get(ctx, t.target, prefix)
	if err != nil {
		return err
	}
	// From the next revision on, so that nothing is missed before the watch is there.
	events := t.target.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(resp.Header.Revision+1))
	go t.note(events)
	if err := put(ctx, t.source, canaryKey, benchObject("ConfigMap", "team-00", "bench-canary", 1000, uint64(time.Now().UnixNano())).Protobuf()); err != nil {
		return err
	}
	select {
	case <-t.canary:
		return nil
	case <-time.After(canaryLimit):
		return fmt.Errorf("a write at the source has not arrived at the target after %v", canaryLimit)
	}
}

func (t *trafficker) note(events clientv3.WatchChan) {
	canary, last := t.canary, t.last
	for resp := range events {
		now := time.Now()
		t.mu.Lock()
		at := now.Sub(t.began)
		for _, ev := range resp.Events {
			switch key := string(ev.Kv.Key); {
			case ev.Type == clientv3.EventTypeDelete:
				t.arrivals = append(t.arrivals, arrival{deleted: key, at: at})
			case key == canaryKey && canary != nil:
				close(canary)
				canary = nil
			case key == lastKey && last != nil:
				close(last)
				last = nil
			default:
				if number, ok := stampOf(ev.Kv.Value); ok {
					t.arrivals = append(t.arrivals, arrival{number: number, at: at})
				}
			}
		}
		t.mu.Unlock()
	}
}

// run writes, waits for what is left, and computes the figures.
func (t *trafficker) run(ctx context.Context, figures *lagFigures) error {
	t.mu.Lock()
	t.began = time.Now()
	t.mu.Unlock()
	probing, stopProbing := context.WithCancel(ctx)
	defer stopProbing()
	group, probing := errgroup.WithContext(probing)
	if t.plan.follow {
		group.Go(func() error {
			times, err := t.probe(probing)
			figures.Put = percentilesOf(times)
			return err
		})
	}
	end, err := t.write(ctx)
	stopProbing()
	if err := errors.Join(err, group.Wait()); err != nil {
		return err
	}
	if err := t.putLast(ctx); err != nil {
		return err
	}
	over := end
	if t.plan.follow {
		t.drain(figures)
		over = time.Since(t.began)
		t.mu.Lock()
		defer t.mu.Unlock()
		land(t.records, t.arrivals)
	}
	figures.follow(t.records, end, over)
	return nil
}

// drain waits for the last write to arrive: all others have arrived by then.
func (t *trafficker) drain(figures *lagFigures) {
	began := time.Now()
	select {
	case <-t.last:
		figures.Drained = true
	case <-time.After(t.plan.drain):
	}
	figures.DrainSeconds = time.Since(began).Seconds()
}

// putLast makes a write that comes after all others.
func (t *trafficker) putLast(ctx context.Context) error {
	return put(ctx, t.source, lastKey, benchObject("ConfigMap", "team-00", "bench-last", 1000, uint64(time.Now().UnixNano())).Protobuf())
}

// write writes as planned and returns when it ended.
func (t *trafficker) write(ctx context.Context) (end time.Duration, err error) {
	writers := pacedWriters
	if t.plan.rate == maxRate {
		writers = fastWriters
	}
	group, ctx := errgroup.WithContext(ctx)
	writes := make(chan *record)
	for range writers {
		group.Go(func() error {
			for r := range writes {
				if err := t.commit(ctx, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(writes)
		for !t.written() {
			due := maxRate
			if t.plan.rate != maxRate {
				due = int(time.Since(t.began).Seconds() * float64(t.plan.rate))
			}
			for len(t.records) < due && !t.written() {
				x := t.work.next()
				r := &record{write: x, size: len(x.key) + len(x.value), kept: t.keep([]byte(x.key)), deletes: x.value == nil}
				t.records = append(t.records, r)
				select {
				case writes <- r:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	err = group.Wait()
	return time.Since(t.began), err
}

// written reports whether the plan is fulfilled.
func (t *trafficker) written() bool {
	return t.plan.count > 0 && len(t.records) >= t.plan.count || t.plan.window > 0 && time.Since(t.began) >= t.plan.window
}

// commit makes one write. It drops the value, which nobody needs any more.
func (t *trafficker) commit(ctx context.Context, r *record) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r.issued = time.Since(t.began)
	var err error
	if r.deletes {
		var resp *clientv3.DeleteResponse
		if resp, err = t.source.Delete(ctx, r.key); err == nil {
			r.revision = resp.Header.Revision
		}
	} else {
		var resp *clientv3.PutResponse
		if resp, err = t.source.Put(ctx, r.key, string(r.value)); err == nil {
			r.revision = resp.Header.Revision
		}
	}
	r.acked, r.value = time.Since(t.began), nil
	if err != nil {
		return fmt.Errorf("source: write %q: %w", r.key, err)
	}
	if r.create != nil {
		r.create()
	}
	return nil
}

// probeQuiet measures puts at a target that has nothing else to do.
func (t *trafficker) probeQuiet(ctx context.Context) (percentiles, error) {
	var times []time.Duration
	for range quietProbes {
		began := time.Now()
		if err := put(ctx, t.target, probeKey, t.probeValue()); err != nil {
			return percentiles{}, err
		}
		times = append(times, time.Since(began))
	}
	return percentilesOf(times), nil
}

// probe measures a put at the target now and then, until ctx ends.
func (t *trafficker) probe(ctx context.Context) (times []time.Duration, err error) {
	ticker := time.NewTicker(probePause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return times, nil
		case <-ticker.C:
		}
		began := time.Now()
		if err := put(context.WithoutCancel(ctx), t.target, probeKey, t.probeValue()); err != nil {
			return times, err
		}
		times = append(times, time.Since(began))
	}
}

// probeValue has the size of an average object.
func (t *trafficker) probeValue() []byte { return t.work.objects[0].value }

// put writes with a deadline of its own.
func put(ctx context.Context, client *clientv3.Client, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := client.Put(ctx, key, string(value)); err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	return nil
}
