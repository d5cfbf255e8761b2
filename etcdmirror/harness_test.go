package etcdmirror_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// pair is a source and a target.
type pair struct {
	t                            testing.TB
	ctx                          context.Context
	sourceCluster, targetCluster *embedetcd.Cluster
	source, target               *clientv3.Client
}

func newPair(t testing.TB, source, target embedetcd.Options) *pair {
	t.Helper()
	p := &pair{t: t, ctx: testutil.Context(t), sourceCluster: testutil.NewCluster(t, source), targetCluster: testutil.NewCluster(t, target)}
	p.source, p.target = testutil.Client(t, p.sourceCluster), testutil.Client(t, p.targetCluster)
	return p
}

// running is a mirror at work.
type running struct {
	*etcdmirror.Mirror
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// start runs a mirror until the test ends or stop is called. Name defaults to "test".
func (p *pair) start(cfg etcdmirror.Config) *running {
	p.t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	cfg.Unchecked = cfg.Guards == nil // most tests put values of no meaning
	if cfg.SessionTTL == 0 {
		cfg.SessionTTL = time.Second
	}
	m, err := etcdmirror.New(p.source, p.target, cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	r := &running{Mirror: m, t: p.t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = m.Run(ctx)
	}()
	p.t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

// stop ends a mirror and fails the test if it did not end cleanly.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	<-r.done
	if r.err != nil {
		r.t.Fatalf("Run ended with %v", r.err)
	}
}

// ended waits for Run to return by itself.
func (r *running) ended(ctx context.Context) error {
	r.t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		r.t.Fatalf("Run did not end; status %+v", r.Status())
		return nil
	}
}

// sync waits until the mirror has applied everything that the source has now.
func (p *pair) sync(r *running) {
	p.t.Helper()
	resp, err := p.source.Get(p.ctx, "head", clientv3.WithKeysOnly())
	if err != nil {
		p.t.Fatal(err)
	}
	wait := make(chan error, 1)
	go func() { wait <- r.WaitForRevision(p.ctx, resp.Header.Revision) }()
	select {
	case err := <-wait:
		if err != nil {
			p.t.Fatalf("%v; status %+v", err, r.Status())
		}
	case <-r.done:
		p.t.Fatalf("Run ended with %v; status %+v", r.err, r.Status())
	}
}

func (p *pair) put(c *clientv3.Client, key, value string) int64 {
	p.t.Helper()
	resp, err := c.Put(p.ctx, key, value)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (p *pair) delete(c *clientv3.Client, key string, opts ...clientv3.OpOption) int64 {
	p.t.Helper()
	resp, err := c.Delete(p.ctx, key, opts...)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.Header.Revision
}

// compact discards the history of a cluster up to its current revision.
func (p *pair) compact(c *clientv3.Client) {
	p.t.Helper()
	resp, err := c.Get(p.ctx, "head")
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := c.Compact(p.ctx, resp.Header.Revision); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) get(c *clientv3.Client, prefix string) map[string]*mvccpb.KeyValue {
	p.t.Helper()
	all := map[string]*mvccpb.KeyValue{}
	begin, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	if prefix == "" {
		begin, end = "\x00", "\x00"
	}
	for {
		resp, err := c.Get(p.ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(200))
		if err != nil {
			p.t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			all[string(kv.Key)] = kv
		}
		if !resp.More {
			return all
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// mustEqual fails unless the target's keys below prefix are those of the source that keep keeps. It returns how many.
func (p *pair) mustEqual(prefix string, keep func([]byte) bool) int {
	p.t.Helper()
	source, target := p.get(p.source, prefix), p.get(p.target, prefix)
	n := 0
	for key, kv := range source {
		if keep != nil && !keep(kv.Key) {
			if target[key] != nil {
				p.t.Errorf("key %q is at the target, though the filter drops it", key)
			}
			continue
		}
		n++
		switch theirs := target[key]; {
		case theirs == nil:
			p.t.Errorf("missed key %q", key)
		case string(theirs.Value) != string(kv.Value):
			p.t.Errorf("different key %q", key)
		}
	}
	for key := range target {
		if source[key] == nil {
			p.t.Errorf("surplus key %q", key)
		}
	}
	return n
}

// eventually waits for a condition that the mirror brings about by itself.
func (p *pair) eventually(r *running, what string, cond func(etcdmirror.Status) bool) {
	p.t.Helper()
	for !cond(r.Status()) {
		select {
		case <-time.After(5 * time.Millisecond): // a poll, not a guess at how long it takes
		case <-r.done:
			p.t.Fatalf("Run ended with %v while waiting for %s", r.err, what)
		case <-p.ctx.Done():
			p.t.Fatalf("no %s; status %+v", what, r.Status())
		}
	}
}

func (p *pair) metadata() *etcdmirror.Metadata {
	p.t.Helper()
	md, err := etcdmirror.ReadMetadata(p.ctx, p.target, "test")
	if err != nil {
		p.t.Fatal(err)
	}
	return md
}

// revisionOf is a cluster's current revision.
func (p *pair) revisionOf(c *clientv3.Client) int64 {
	p.t.Helper()
	resp, err := c.Get(p.ctx, "head")
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.Header.Revision
}

// recorder collects what hooks report.
type recorder struct {
	mu      sync.Mutex
	resyncs []etcdmirror.ResyncInfo
	guarded []etcdmirror.GuardedInfo
	foreign []string
	applied []etcdmirror.AppliedInfo
	drift   []etcdmirror.DriftInfo
}

func (r *recorder) hooks() etcdmirror.Hooks {
	return etcdmirror.Hooks{
		Resync:  func(i etcdmirror.ResyncInfo) { r.mu.Lock(); defer r.mu.Unlock(); r.resyncs = append(r.resyncs, i) },
		Guarded: func(i etcdmirror.GuardedInfo) { r.mu.Lock(); defer r.mu.Unlock(); r.guarded = append(r.guarded, i) },
		Foreign: func(i etcdmirror.ForeignInfo) { r.mu.Lock(); defer r.mu.Unlock(); r.foreign = append(r.foreign, i.Key) },
		Drift:   func(i etcdmirror.DriftInfo) { r.mu.Lock(); defer r.mu.Unlock(); r.drift = append(r.drift, i) },
		Applied: func(i etcdmirror.AppliedInfo) { r.mu.Lock(); defer r.mu.Unlock(); r.applied = append(r.applied, i) },
	}
}

// wantError fails unless err is of the kind and carries a hint.
func wantError(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want %v", err, kind)
	}
	var detailed *etcdmirror.Error
	if errors.As(err, &detailed) && detailed.Hint == "" {
		t.Errorf("error without a hint: %v", err)
	}
}

func key(i int) string { return fmt.Sprintf("/registry/configmaps/ns%d/cm%05d", i%7, i) }
