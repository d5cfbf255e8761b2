package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// users write through the platform's name: each write makes a key of its own, and what was acknowledged is remembered.
type users struct {
	resolver string
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu    sync.Mutex
	acked map[string]time.Time
	gone  []string
	last  map[string]string // where each user wrote last
	gap   time.Duration     // the longest time in which no write was acknowledged
	prev  time.Time
}

const userPrefix = "/registry/configmaps/team/"

func startUsers(t *testing.T, resolver string, n int) *users {
	ctx, cancel := context.WithCancel(context.Background())
	u := &users{resolver: resolver, cancel: cancel, acked: map[string]time.Time{}, last: map[string]string{}}
	for i := range n {
		u.wg.Go(func() { u.write(ctx, fmt.Sprintf("u%d", i)) })
	}
	t.Cleanup(u.stop)
	return u
}

func (u *users) stop() { u.cancel(); u.wg.Wait() }

// write writes until ctx ends. After a failure the name is looked up again.
func (u *users) write(ctx context.Context, user string) {
	dialer := net.Dialer{Timeout: time.Second}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, u.resolver)
	}}
	var client *clientv3.Client
	drop := func() {
		if client != nil {
			_ = client.Close()
			client = nil
		}
	}
	defer drop()
	vip := ""
	for n := 0; ctx.Err() == nil; n++ {
		if client == nil {
			call, cancel := context.WithTimeout(ctx, time.Second)
			hosts, err := resolver.LookupHost(call, domain+".")
			cancel()
			if err == nil {
				vip = hosts[0]
				client, err = clientv3.New(clientv3.Config{Endpoints: []string{"http://" + net.JoinHostPort(vip, "6443")}, Logger: zap.NewNop()})
			}
			if err != nil {
				client = nil
				rest(ctx, 50*time.Millisecond)
				continue
			}
		}
		key := fmt.Sprintf("%s%s-%06d", userPrefix, user, n)
		call, cancel := context.WithTimeout(ctx, time.Second)
		_, err := client.Put(call, key, fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"%s-%06d","namespace":"team","uid":"%s-%d"}}`, user, n, user, n))
		cancel()
		if err != nil {
			drop()
			rest(ctx, 50*time.Millisecond)
			continue
		}
		u.acknowledged(user, key, vip)
		rest(ctx, 10*time.Millisecond)
	}
}

func (u *users) acknowledged(user, key, vip string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if !u.prev.IsZero() {
		u.gap = max(u.gap, now.Sub(u.prev))
	}
	u.prev = now
	u.acked[key] = now
	u.last[user] = vip
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// longestGap is the longest time between two acknowledged writes.
func (u *users) longestGap() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.gap
}

// count is how many writes were acknowledged.
func (u *users) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.acked)
}

// allAt reports whether each user's last write went to a virtual IP.
func (u *users) allAt(vip string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, last := range u.last {
		if last != vip {
			return false
		}
	}
	return len(u.last) > 0
}

// keys are the users' keys in an etcd.
func keys(t *testing.T, client *clientv3.Client) map[string]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := client.Get(ctx, userPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, kv := range resp.Kvs {
		found[string(kv.Key)] = true
	}
	return found
}

// missing are the writes that were acknowledged before the etcd was read and that it lacks.
func (u *users) missing(t *testing.T, client *clientv3.Client) (all []string) {
	t.Helper()
	u.mu.Lock()
	acked := slices.Sorted(maps.Keys(u.acked))
	u.mu.Unlock()
	found := keys(t, client)
	return slices.DeleteFunc(acked, func(key string) bool { return found[key] })
}

// remove deletes acknowledged keys at a primary, which must be gone everywhere in the end.
func (u *users) remove(t *testing.T, client *clientv3.Client, n int) {
	t.Helper()
	there := slices.Sorted(maps.Keys(keys(t, client)))
	for _, key := range there[:min(n, len(there))] {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := client.Delete(ctx, key)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		u.mu.Lock()
		delete(u.acked, key)
		u.gone = append(u.gone, key)
		u.mu.Unlock()
	}
}

// back are the keys that were deleted and are there again.
func (u *users) back(t *testing.T, client *clientv3.Client) []string {
	t.Helper()
	found := keys(t, client)
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(u.gone), func(key string) bool { return !found[key] })
}

// ackedAt is when a write was acknowledged.
func (u *users) ackedAt(key string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acked[key]
}
