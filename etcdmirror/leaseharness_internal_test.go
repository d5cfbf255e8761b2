package etcdmirror

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// leaseWorld is a source and a target, and what the tests know of a mirror between them.
type leaseWorld struct {
	t                            *testing.T
	ctx                          context.Context
	sourceCluster, targetCluster *embedetcd.Cluster
	sourceConfig, targetConfig   clientv3.Config
	source, target               *clientv3.Client // the tests' own
	keys                         metaKeys
	fence                        atomic.Int64 // the checkpoint's mod_revision

	mu      sync.Mutex
	deleted []string // keys below /registry/ that vanished at the target
}

func newLeaseWorld(t *testing.T) *leaseWorld {
	t.Helper()
	return newLeaseWorldWith(t, 0)
}

// newLeaseWorldWith limits the operations of a transaction at the target; 0 is etcd's default.
func newLeaseWorldWith(t *testing.T, maxTxnOps uint) *leaseWorld {
	t.Helper()
	cheap := func(_ int, cfg *embed.Config) { cfg.BcryptCost = 4 }
	w := &leaseWorld{t: t, ctx: testutil.Context(t), sourceCluster: testutil.NewCluster(t, embedetcd.Options{Change: cheap}),
		targetCluster: testutil.NewCluster(t, embedetcd.Options{MaxTxnOps: maxTxnOps}), keys: "lease-test"}
	w.sourceConfig, w.targetConfig = w.sourceCluster.ClientConfig(), w.targetCluster.ClientConfig()
	w.begin()
	return w
}

// connect opens a client that ends with the test.
func (w *leaseWorld) connect(cfg clientv3.Config) *clientv3.Client {
	w.t.Helper()
	c, err := clientv3.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// begin watches what vanishes at the target.
func (w *leaseWorld) begin() {
	w.t.Helper()
	w.source, w.target = w.connect(w.sourceConfig), w.connect(w.targetConfig)
	w.promote()
	watching := make(chan struct{})
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(w.ctx)
	w.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for resp := range w.target.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify()) {
			if resp.Created {
				close(watching)
			}
			w.mu.Lock()
			for _, event := range resp.Events {
				w.deleted = append(w.deleted, string(event.Kv.Key))
			}
			w.mu.Unlock()
		}
	}()
	<-watching
}

// promote moves the fence: whatever compares it before it is read again is refused.
func (w *leaseWorld) promote() {
	w.t.Helper()
	resp, err := w.target.Put(w.ctx, w.keys.checkpoint(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	w.fence.Store(resp.Header.Revision)
}

// wait polls for a condition. It gives up only with the test.
func (w *leaseWorld) wait(what string, condition func() bool) {
	w.t.Helper()
	for !condition() {
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// grant gives the source a lease. id 0 lets the source choose.
func (w *leaseWorld) grant(c *clientv3.Client, id, ttl int64) int64 {
	w.t.Helper()
	l := leases{timeout: time.Minute, grants: clientv3.RetryLeaseClient(c), began: time.Now()}
	if id == 0 {
		resp, err := c.Grant(w.ctx, ttl)
		if err != nil {
			w.t.Fatal(err)
		}
		return int64(resp.ID)
	}
	if _, err := l.grant(w.ctx, id, ttl); err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *leaseWorld) put(c *clientv3.Client, key, value string, lease int64) int64 {
	w.t.Helper()
	resp, err := c.Put(w.ctx, key, value, clientv3.WithLease(clientv3.LeaseID(lease)))
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (w *leaseWorld) ttl(c *clientv3.Client, id int64) *clientv3.LeaseTimeToLiveResponse {
	w.t.Helper()
	resp, err := c.TimeToLive(w.ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys())
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *leaseWorld) gone(c *clientv3.Client, id int64) bool {
	w.t.Helper()
	return w.ttl(c, id).GrantedTTL == 0
}

func (w *leaseWorld) get(c *clientv3.Client, key string) *mvccpb.KeyValue {
	w.t.Helper()
	resp, err := c.Get(w.ctx, key)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

// equal reports whether the target has a key with the source's value and lease.
func (w *leaseWorld) equal(key string) bool {
	w.t.Helper()
	s, t := w.get(w.source, key), w.get(w.target, key)
	return s != nil && t != nil && string(s.Value) == string(t.Value) && s.Lease == t.Lease
}

// whole reports whether a lease's metadata key says that all its keys have it.
func (w *leaseWorld) whole(id int64) bool {
	w.t.Helper()
	kv := w.get(w.target, w.keys.lease()+leaseName(id))
	return kv != nil && kv.Lease == id && len(kv.Value) == 0
}

// deletions are the keys that vanished at the target so far.
func (w *leaseWorld) deletions() []string {
	w.t.Helper()
	// What the watch has delivered includes a key deleted now.
	sentinel := fmt.Sprintf("/registry/sentinel/%d", time.Now().UnixNano())
	w.put(w.target, sentinel, "", 0)
	if _, err := w.target.Delete(w.ctx, sentinel); err != nil {
		w.t.Fatal(err)
	}
	var found []string
	w.wait("the watch of deletions", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		found = nil
		for _, key := range w.deleted {
			if key == sentinel {
				return true
			}
			if len(key) < len("/registry/sentinel/") || key[:len("/registry/sentinel/")] != "/registry/sentinel/" {
				found = append(found, key)
			}
		}
		return false
	})
	return found
}
