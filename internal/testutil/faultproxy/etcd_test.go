package faultproxy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

// A client of three members, each behind a proxy, gets through every fault: its acknowledged writes are there, and its watch
// misses nothing and shows nothing twice.
func TestEtcdClientThroughEveryFault(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 11))
	ctx := testutil.Context(t)
	cluster := testutil.NewCluster(t, embedetcd.Options{Members: 3})
	direct := testutil.Client(t, cluster)
	g := startGroup(t, faultproxy.Options{Seed: seed, Targets: cluster.Endpoints()})
	cfg := cluster.ClientConfig()
	cfg.Endpoints = g.Endpoints()
	quick := backoff.DefaultConfig
	quick.MaxDelay = 100 * time.Millisecond
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}))
	client, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })

	acknowledged := map[string]int64{}
	tries := 0
	write := func() bool {
		key := fmt.Sprintf("key-%04d", tries)
		tries++
		try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		resp, err := client.Put(try, key, "v")
		if err == nil {
			acknowledged[key] = resp.Header.Revision
		}
		return err == nil
	}
	until := func(what string) {
		for !write() {
			if ctx.Err() != nil {
				t.Fatalf("no write gets through %s: %+v", what, g.Counters())
			}
		}
	}
	until("without faults")
	watched := client.Watch(ctx, "key-", clientv3.WithPrefix(), clientv3.WithRev(1))
	for _, kind := range faultproxy.Kinds() {
		f := faultproxy.Fault{Kind: kind, Direction: faultproxy.Direction(rng.IntN(3)), Latency: 5 * time.Millisecond, Jitter: 10 * time.Millisecond, BytesPerSecond: 50 << 10, Batch: 2}
		if rng.IntN(2) == 0 {
			if err := g.Apply(f); err != nil {
				t.Fatal(err)
			}
		} else if err := g.Proxy(rng.IntN(3)).Apply(f); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			write()
		}
		g.Clear()
		until("after " + string(kind))
	}
	resp, err := direct.Get(ctx, "key-", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{}
	for _, kv := range resp.Kvs {
		want[string(kv.Key)] = kv.ModRevision
	}
	for key, rev := range acknowledged {
		if want[key] != rev {
			t.Errorf("%s was acknowledged at revision %d and is at %d", key, rev, want[key])
		}
	}
	seen := map[string]int64{}
	for len(seen) < len(want) {
		resp, ok := <-watched
		if !ok || resp.Err() != nil {
			t.Fatalf("the watch ended after %d of %d keys: %v", len(seen), len(want), resp.Err())
		}
		for _, event := range resp.Events {
			key := string(event.Kv.Key)
			if want[key] == 0 {
				continue // applied after the read: it was not acknowledged
			}
			if seen[key] != 0 || event.Kv.ModRevision != want[key] {
				t.Errorf("the watch shows %s at revision %d, then %d; want %d", key, seen[key], event.Kv.ModRevision, want[key])
			}
			seen[key] = event.Kv.ModRevision
		}
	}
	t.Logf("%d of %d writes acknowledged, %d applied; %+v", len(acknowledged), tries, len(want), g.Counters())
}
