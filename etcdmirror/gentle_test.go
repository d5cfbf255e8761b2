package etcdmirror_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// crowded returns the target revisions that hold several keys of one resource, and how many revisions hold data.
func (p *recordedPair) crowded() (crowded []int64, revisions int) {
	p.t.Helper()
	if _, err := p.to.Head(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	for _, rev := range p.to.Revisions() {
		seen := map[string]bool{}
		twice, data := false, false
		for _, e := range rev.Events {
			rest, ok := strings.CutPrefix(e.Key, "/registry/")
			if !ok {
				continue
			}
			data = true
			resource, _, _ := strings.Cut(rest, "/")
			twice = twice || seen[resource]
			seen[resource] = true
		}
		if data {
			revisions++
		}
		if twice {
			crowded = append(crowded, rev.Rev)
		}
	}
	return crowded, revisions
}

// behind holds the mirror's transactions back until the source has written, so that revisions wait to be merged.
func (p *recordedPair) behind(cfg etcdmirror.Config, write func()) *running {
	p.t.Helper()
	h := &holder{held: make(chan struct{}), release: make(chan struct{})}
	client := p.targetCluster.ClientConfig()
	client.DialOptions = append(client.DialOptions, grpc.WithChainUnaryInterceptor(h.intercept))
	direct := p.target
	p.target = connect(p.t, client)
	r := p.start(cfg)
	p.target = direct
	p.sync(r)
	h.armed.Store(true)
	p.put(p.source, "/registry/leases/first", "v")
	<-h.held
	write()
	close(h.release)
	p.sync(r)
	p.put(p.source, "/registry/leases/last", "v") // what was before is still known after it
	p.sync(r)
	r.stop()
	return r
}

// P11: while the source is followed, no target revision holds two keys of one resource, unless the source's did; revisions that wait may become one otherwise.
// Where many wait they are merged regardless, and the checkpoint tells up to which revision that was.
func TestP11GentleToWatchers(t *testing.T) {
	const revisions = 300
	for name, mergeBehind := range map[string]int{"steady": 1 << 30, "behind": 1} {
		t.Run(name, func(t *testing.T) {
			p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
			rng := rand.New(rand.NewPCG(1, 1))
			var resources []string
			for i := range 12 {
				resources = append(resources, fmt.Sprint("resource", i))
			}
			p.behind(etcdmirror.Config{MergeBehind: mergeBehind, MergeAfter: time.Hour}, func() {
				for i := range revisions {
					p.put(p.source, fmt.Sprintf("/registry/%s/ns/%d", resources[rng.IntN(len(resources))], rng.IntN(20)), fmt.Sprint(i))
				}
			})
			p.check()
			crowded, n := p.crowded()
			md := p.metadata()
			t.Logf("%d source revisions became %d at the target, %d hold several keys of one resource; the last bulk revision is %d of %d", revisions, n, len(crowded), md.LastBulkRevision(), md.CheckpointRevision)
			switch {
			case n > revisions*9/10:
				t.Error("nothing was merged: nothing was tested")
			case mergeBehind > 1 && len(crowded) > 0:
				t.Errorf("target revisions %v hold several keys of one resource", crowded)
			case mergeBehind == 1 && len(crowded) == 0:
				t.Error("no revision holds several keys of one resource: nothing was tested")
			case mergeBehind == 1 && crowded[len(crowded)-1] > md.LastBulkRevision():
				t.Errorf("revision %d holds several keys of one resource, the last that may is said to be %d", crowded[len(crowded)-1], md.LastBulkRevision())
			}
		})
	}
}

// The target does not grow more than the source for the same traffic: equal keys are not written again, and what the mirror writes for itself is little.
func TestTheTargetGrowsNoMoreThanTheSource(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
	const keys, changes = 500, 2000
	for i := range keys {
		p.put(p.source, key(i), "v")
	}
	for _, copies := range []string{"base copy", "resync", "restart"} {
		if copies == "resync" {
			p.put(p.source, key(0), "changed")
			p.put(p.source, key(1), "changed")
			p.compact(p.source)
		}
		before := p.revisionOf(p.target)
		r := p.start(etcdmirror.Config{})
		p.sync(r)
		puts := r.Status().Puts
		r.stop()
		if copies != "base copy" && puts > 2 {
			t.Errorf("%s: %d keys were written, 2 have changed", copies, puts)
		}
		if grown := p.revisionOf(p.target) - before; grown > 30 {
			t.Errorf("%s: the target's revision rose by %d", copies, grown)
		}
	}
	// The same value again is a new revision at both sides, and not more.
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	sourceBefore, targetBefore := p.revisionOf(p.source), p.revisionOf(p.target)
	for i := range changes {
		p.put(p.source, key(i%keys), "again")
	}
	p.sync(r)
	source, target := p.revisionOf(p.source)-sourceBefore, p.revisionOf(p.target)-targetBefore
	if target > source+source/20+10 {
		t.Errorf("the source's revision rose by %d, the target's by %d", source, target)
	}
	var versions [2]int64
	for i, c := range []*clientv3.Client{p.source, p.target} {
		for _, kv := range p.get(c, "/registry/") {
			versions[i] += kv.Version
		}
	}
	if versions[1] > versions[0] {
		t.Errorf("the source's keys were written %d times, the target's %d times", versions[0], versions[1])
	}
}

// A target that refuses requests for a while, because it cannot follow its own log, is waited for, with the reason.
func TestP9TooManyRequests(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	var refuse atomic.Bool
	client := p.targetCluster.ClientConfig()
	client.DialOptions = append(client.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, ok := req.(*etcdserverpb.TxnRequest); ok && refuse.Load() {
				return rpctypes.ErrGRPCRequestTooManyRequests
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}))
	for i := range 10 {
		p.put(p.source, key(i), "v")
	}
	p.target = connect(t, client)
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	refuse.Store(true)
	p.put(p.source, key(0), "w")
	p.eventually(r, "wait", func(s etcdmirror.Status) bool {
		return s.State == etcdmirror.StateWaiting && strings.Contains(s.Reason, "target: ") && strings.Contains(s.Reason, "too many requests")
	})
	refuse.Store(false)
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if s := r.Status(); s.State == etcdmirror.StateWaiting || s.Resyncs != 1 {
		t.Errorf("status %+v", s)
	}
}
