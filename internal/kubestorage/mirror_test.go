package kubestorage

import (
	"context"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/keyfilter"
)

const mirrorName = "primary-to-standby"

// mirroring is a mirror at work between two clusters.
type mirroring struct {
	*etcdmirror.Mirror
	primary, standby *cluster
	cancel           context.CancelFunc
	done             chan struct{}
	err              error
}

// mirror runs the engine with the filter's defaults until the test ends or stop is called.
func mirror(primary, standby *cluster, cfg etcdmirror.Config) *mirroring {
	primary.t.Helper()
	filter, err := keyfilter.New(keyfilter.Config{Prefixes: []string{primary.prefix}})
	if err != nil {
		primary.t.Fatal(err)
	}
	cfg.Name, cfg.SessionTTL = mirrorName, time.Second
	cfg.Keep, cfg.KeepID = filter.Match, filter.Hash()
	cfg.Prefix = primary.prefix + "/"
	if standby.prefix != primary.prefix {
		cfg.TargetPrefix = standby.prefix + "/"
	}
	m, err := etcdmirror.New(primary.client, standby.client, cfg)
	if err != nil {
		primary.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(primary.ctx)
	r := &mirroring{Mirror: m, primary: primary, standby: standby, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = m.Run(ctx)
	}()
	primary.t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

// sync waits until the standby has what the primary has now.
func (r *mirroring) sync() {
	t := r.primary.t
	t.Helper()
	wait := make(chan error, 1)
	revision := r.primary.revision()
	go func() { wait <- r.WaitForRevision(r.primary.ctx, revision) }()
	select {
	case err := <-wait:
		if err != nil {
			t.Fatalf("%v; status %+v", err, r.Status())
		}
	case <-r.done:
		t.Fatalf("the mirror ended with %v", r.err)
	}
}

func (r *mirroring) stop() {
	r.primary.t.Helper()
	r.cancel()
	<-r.done
	if r.err != nil {
		r.primary.t.Fatalf("the mirror ended with %v", r.err)
	}
}

func (r *mirroring) guarded() map[string]string {
	r.primary.t.Helper()
	md, err := etcdmirror.ReadMetadata(r.primary.ctx, r.standby.client, mirrorName)
	if err != nil {
		r.primary.t.Fatal(err)
	}
	keys := map[string]string{}
	for _, g := range md.Guarded {
		keys[g.Key] = g.Reason
	}
	return keys
}

// targetKey names what the source calls sourceKey.
func targetKey(primary, standby *cluster) func(string) string {
	return func(sourceKey string) string {
		return standby.prefix + strings.TrimPrefix(sourceKey, primary.prefix)
	}
}

func (c *cluster) revision() int64 {
	c.t.Helper()
	resp, err := c.client.Get(c.ctx, "head", clientv3.WithKeysOnly())
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	if _, err := c.client.Put(c.ctx, key, value); err != nil {
		c.t.Fatal(err)
	}
}

// raise brings the cluster's revision to at least a given one.
func (c *cluster) raise(to int64) {
	c.t.Helper()
	for c.revision() < to {
		c.put("filler", "")
	}
}
