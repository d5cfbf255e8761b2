// Package history records every revision of an etcd and holds the histories of a mirror's source and target against each other.
//
// A Recorder has to watch from the first revision on, so it is started on an empty etcd and, where the test compacts,
// is waited for before each compaction. The Check functions are the oracle: they know the promises, not the mirror.
package history

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Config changes what a Recorder keeps. The zero value is usable.
type Config struct {
	// HashOver is the size in bytes above which only the hash of a value is kept. 0 means 4096, a negative number never.
	HashOver int
	// Identify reads the UID of an object and those of its owners from a value, for CheckOrder. It sees each value before
	// it may be hashed. "" stands for no UID; nil means that no value has one.
	Identify func(value []byte) (uid string, owners []string)
}

// Event is one change of one key.
type Event struct {
	Key    string
	Delete bool
	// Value is zero for deletes, like the fields below except Mod.
	Value          Value
	Create, Mod    int64
	Version, Lease int64
	UID            string   // by Config.Identify
	Owners         []string // UIDs, by Config.Identify
}

// Revision is what one transaction changed.
type Revision struct {
	Rev    int64
	Events []Event
}

// Recorder follows a whole etcd. Its methods may be called from several goroutines.
type Recorder struct {
	client  *clientv3.Client
	watcher clientv3.Watcher
	cfg     Config
	cancel  context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	revs    []Revision // ascending; only complete revisions
	seen    int64      // everything up to here is in revs
	err     error
	changed chan struct{} // closed and replaced on each change
}

const (
	callTimeout      = 10 * time.Second
	progressInterval = 50 * time.Millisecond
)

// Start records from revision 1 on until Close. The client stays the caller's. ctx bounds the start only.
func Start(ctx context.Context, client *clientv3.Client, cfg Config) (*Recorder, error) {
	if cfg.HashOver == 0 {
		cfg.HashOver = 4096
	}
	watchCtx, cancel := context.WithCancel(context.Background())
	r := &Recorder{
		client: client, cfg: cfg, cancel: cancel,
		watcher: clientv3.NewWatcher(client), // its own stream: a progress request answers all watches of a stream
		done:    make(chan struct{}), changed: make(chan struct{}),
	}
	ch := r.watcher.Watch(watchCtx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithFragment(),
		clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	first := r.changed // by the created notification
	go r.follow(ch)
	var err error
	select {
	case <-first:
		_, err = r.state()
	case <-ctx.Done():
		err = fmt.Errorf("history: start a watch: %w", context.Cause(ctx))
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Recorder) follow(ch clientv3.WatchChan) {
	defer close(r.done)
	for resp := range ch {
		err := resp.Err()
		if err != nil {
			err = fmt.Errorf("history: watch: %w", err)
		}
		r.add(resp, err)
	}
	r.add(clientv3.WatchResponse{}, fmt.Errorf("history: the watch has ended"))
}

// add keeps a response. clientv3 joins fragments, and etcd never spreads a revision over two responses.
func (r *Recorder) add(resp clientv3.WatchResponse, err error) {
	revs := r.group(resp.Events)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	for _, rev := range revs {
		if rev.Rev <= r.seen && r.err == nil {
			r.err = fmt.Errorf("history: revision %d comes after %d", rev.Rev, r.seen)
		}
		r.seen = max(r.seen, rev.Rev)
	}
	r.revs = append(r.revs, revs...)
	if resp.IsProgressNotify() {
		r.seen = max(r.seen, resp.Header.Revision)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Recorder) group(events []*clientv3.Event) []Revision {
	var revs []Revision
	for _, ev := range events {
		e := Event{Key: string(ev.Kv.Key), Mod: ev.Kv.ModRevision, Delete: ev.Type == mvccpb.Event_DELETE}
		if !e.Delete {
			e.Create, e.Version, e.Lease = ev.Kv.CreateRevision, ev.Kv.Version, ev.Kv.Lease
			if r.cfg.Identify != nil {
				e.UID, e.Owners = r.cfg.Identify(ev.Kv.Value)
			}
			e.Value = newValue(ev.Kv.Value, r.cfg.HashOver)
		}
		if n := len(revs); n == 0 || revs[n-1].Rev != e.Mod {
			revs = append(revs, Revision{Rev: e.Mod})
		}
		last := &revs[len(revs)-1]
		last.Events = append(last.Events, e)
	}
	return revs
}

// WaitFor returns when everything up to the revision has been recorded.
func (r *Recorder) WaitFor(ctx context.Context, rev int64) error {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		r.mu.Lock()
		seen, err, changed := r.seen, r.err, r.changed
		r.mu.Unlock()
		if seen >= rev {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-tick.C:
			// The last revisions may show no events: an empty etcd is at revision 1, a restored one may be anywhere.
			// While the server is down the request waits for a stream; the next tick asks again.
			pctx, cancel := context.WithTimeout(ctx, progressInterval)
			err := r.watcher.RequestProgress(pctx)
			cancel()
			if err != nil && pctx.Err() == nil {
				return fmt.Errorf("history: request progress: %w", err)
			}
		case <-ctx.Done():
			return fmt.Errorf("history: wait for revision %d: %w", rev, context.Cause(ctx))
		}
	}
}

// Head asks the etcd for its revision by a linearizable read and waits until everything up to there has been recorded.
func (r *Recorder) Head(ctx context.Context) (int64, error) {
	gctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.client.Get(gctx, "\x00", clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("history: read the head: %w", err)
	}
	return resp.Header.Revision, r.WaitFor(ctx, resp.Header.Revision)
}

// Seen is the revision up to which everything has been recorded.
func (r *Recorder) Seen() int64 {
	seen, _ := r.state()
	return seen
}

func (r *Recorder) state() (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen, r.err
}

// Revisions are the recorded revisions in order. The result is shared: do not change it.
func (r *Recorder) Revisions() []Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.revs)
}

// At is the state of all keys at a recorded revision.
func (r *Recorder) At(rev int64) map[string]Event {
	c := r.Cursor()
	c.Advance(rev)
	return c.State()
}

// Close ends the recording. What was recorded can still be read.
func (r *Recorder) Close() {
	r.cancel()
	_ = r.watcher.Close() // the stream is gone either way
	<-r.done
}

// Cursor is a state that moves forward through what a recorder knows when the cursor is made. It is not safe for concurrent use.
type Cursor struct {
	revs  []Revision // what lies ahead
	at    int64
	state map[string]Event
}

// Cursor starts before the first revision, with no keys.
func (r *Recorder) Cursor() *Cursor {
	return &Cursor{revs: r.Revisions(), state: map[string]Event{}}
}

// Advance moves the state to just after the revision and returns the revisions that it crossed.
func (c *Cursor) Advance(rev int64) []Revision {
	n := 0
	for ; n < len(c.revs) && c.revs[n].Rev <= rev; n++ {
		for _, e := range c.revs[n].Events {
			if e.Delete {
				delete(c.state, e.Key)
			} else {
				c.state[e.Key] = e
			}
		}
	}
	crossed := c.revs[:n]
	c.revs = c.revs[n:]
	c.at = max(c.at, rev)
	return crossed
}

// Rev is the revision of the state.
func (c *Cursor) Rev() int64 { return c.at }

// State is the state itself: it changes with Advance.
func (c *Cursor) State() map[string]Event { return c.state }
