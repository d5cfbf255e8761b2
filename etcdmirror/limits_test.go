package etcdmirror_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// revisionsOf returns the target revisions in which keys below prefix were last changed.
func revisionsOf(kvs map[string]int64) map[int64]int {
	revs := map[int64]int{}
	for _, rev := range kvs {
		revs[rev]++
	}
	return revs
}

func TestP9LargeTransactionsStayWhole(t *testing.T) {
	p := newPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{})
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.sync(r)

	ops := make([]clientv3.Op, 500)
	for i := range ops {
		ops[i] = clientv3.OpPut(key(i), "txn")
	}
	if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
	revs := map[string]int64{}
	for k, kv := range p.get(p.target, "/registry/") {
		revs[k] = kv.ModRevision
	}
	if n := revisionsOf(revs); len(n) != 1 || r.Status().Splits != 0 {
		t.Errorf("500 puts of one transaction came in %d target revisions, %d splits", len(n), r.Status().Splits)
	}
}

func TestP9TenThousandDeletesInOneRevision(t *testing.T) {
	for _, how := range []string{"prefix", "lease"} {
		t.Run(how, func(t *testing.T) {
			p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
			lease, err := p.source.Grant(p.ctx, 3600)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < 10_000; i += 100 {
				ops := make([]clientv3.Op, 100)
				for j := range ops {
					ops[j] = clientv3.OpPut(key(i+j), "v", clientv3.WithLease(lease.ID))
				}
				if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
					t.Fatal(err)
				}
			}
			p.put(p.source, "/registry/secrets/kept", "v")
			r := p.start(etcdmirror.Config{Deletions: etcdmirror.DeletionGuard{Off: true}})
			p.sync(r)
			if n := p.mustEqual("/registry/", nil); n != 10_001 {
				t.Fatalf("%d keys", n)
			}
			before := r.Status()
			if how == "prefix" {
				p.delete(p.source, "/registry/configmaps/", clientv3.WithPrefix())
			} else if _, err := p.source.Revoke(p.ctx, lease.ID); err != nil {
				t.Fatal(err)
			}
			p.sync(r)
			if n := p.mustEqual("/registry/", nil); n != 1 {
				t.Errorf("%d keys", n)
			}
			after := r.Status()
			if after.Splits != 0 || after.Transactions-before.Transactions > 2 || after.Deletes-before.Deletes != 10_000 {
				t.Errorf("%d transactions, %d splits, %d deletes", after.Transactions-before.Transactions, after.Splits, after.Deletes-before.Deletes)
			}
		})
	}
}

func TestP9SmallerLimitsAtTheTarget(t *testing.T) {
	p := newPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{MaxTxnOps: 8, MaxRequestBytes: 64 << 10})
	for i := range 200 {
		p.put(p.source, key(i), strings.Repeat("x", i*20))
	}
	rec := &recorder{}
	r := p.start(etcdmirror.Config{Hooks: rec.hooks()})
	p.sync(r)
	p.mustEqual("/registry/", nil)

	ops := make([]clientv3.Op, 400)
	for i := range ops {
		ops[i] = clientv3.OpPut(key(i), strings.Repeat("y", 1000))
	}
	if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	p.delete(p.source, "/registry/configmaps/ns3/", clientv3.WithPrefix())
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if s := r.Status(); s.Splits == 0 {
		t.Error("400 KB went into requests of 64 KiB without a split")
	}
	parts := 0
	r.stop()
	for _, a := range rec.applied {
		if a.Part {
			parts++
		}
	}
	if parts < 5 {
		t.Errorf("%d parts reported", parts)
	}
	if md := p.metadata(); md.Checkpoint.Phase != etcdmirror.PhaseTail {
		t.Errorf("phase %q after the parts", md.Checkpoint.Phase)
	}
}

func TestP9ValuesUpToTheRequestLimit(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	// As kube-apiserver writes: a comparison and a read of the key beside the put. The largest value that the source takes in that form.
	update := func(k string, size int) error {
		value := strings.Repeat("x", size)
		_, err := p.source.Txn(p.ctx).If(clientv3.Compare(clientv3.ModRevision(k), ">", -1)).
			Then(clientv3.OpPut(k, value)).Else(clientv3.OpGet(k)).Commit()
		return err
	}
	k := "/registry/secrets/team-a/a-name-of-quite-usual-length-for-a-secret"
	largest := sortSearch(1<<20, 1536<<10, func(size int) bool {
		err := update(k, size)
		if err != nil && !errors.Is(err, rpctypes.ErrRequestTooLarge) {
			t.Fatal(err)
		}
		return err != nil
	}) - 1
	t.Logf("largest value: %d bytes", largest)
	for i, size := range []int{0, 1, largest - 200, largest - 1, largest} {
		if err := update(fmt.Sprintf("%s%d", k[:len(k)-1], i), size); err != nil {
			t.Fatal(err)
		}
	}
	r := p.start(etcdmirror.Config{}) // base copy of large values
	p.sync(r)
	p.mustEqual("/registry/", nil)
	for i, size := range []int{largest, largest - 1, 0, 100_000, 1} { // and the tail
		if err := update(fmt.Sprintf("%s%d", k[:len(k)-1], i), size); err != nil {
			t.Fatal(err)
		}
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
}

func sortSearch(low, high int, f func(int) bool) int {
	for low < high {
		if mid := (low + high) / 2; f(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// A value that the target can never take waits, visibly, until the target's limit is raised; nothing is dropped and nothing after it overtakes it.
func TestP9TooLargeForTheTargetWaits(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{MaxRequestBytes: 64 << 10})
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.sync(r)
	p.put(p.source, key(1), strings.Repeat("x", 200<<10))
	p.put(p.source, key(2), "after it")
	p.eventually(r, "waiting", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateWaiting })
	if reason := r.Status().Reason; !contains(reason, key(1)) || !contains(reason, "--max-request-bytes") {
		t.Errorf("reason %q", reason)
	}
	if p.get(p.target, key(2))[key(2)] != nil {
		t.Error("a later revision overtook the one that waits")
	}
	if err := p.targetCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	if err := p.targetCluster.StartMember(p.ctx, 0, func(cfg *embed.Config) { cfg.MaxRequestBytes = 1536 << 10 }); err != nil {
		t.Fatal(err)
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if s := r.Status(); s.State == etcdmirror.StateWaiting {
		t.Errorf("still waiting: %q", s.Reason)
	}
}

func TestP9NoSpaceWaits(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{QuotaBackendBytes: 4 << 20})
	r := p.start(etcdmirror.Config{})
	for i := range 100 {
		p.put(p.source, key(i), strings.Repeat("x", 100<<10))
	}
	p.eventually(r, "waiting for space", func(s etcdmirror.Status) bool {
		return s.State == etcdmirror.StateWaiting && contains(s.Reason, "space")
	})
	if err := p.targetCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	if err := p.targetCluster.StartMember(p.ctx, 0, func(cfg *embed.Config) { cfg.QuotaBackendBytes = 1 << 30 }); err != nil {
		t.Fatal(err)
	}
	alarms, err := p.target.AlarmList(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alarms.Alarms {
		if _, err := p.target.AlarmDisarm(p.ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm}); err != nil {
			t.Fatal(err)
		}
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
}

func TestUnreachableTargetIsWaitedFor(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	r := p.start(etcdmirror.Config{RequestTimeout: 500 * time.Millisecond})
	p.put(p.source, key(0), "v")
	p.sync(r)
	for _, side := range []*embedetcd.Cluster{p.targetCluster, p.sourceCluster} {
		if err := side.StopMember(0); err != nil {
			t.Fatal(err)
		}
		if side == p.targetCluster {
			p.put(p.source, key(1), "while it was down")
		}
		p.eventually(r, "waiting", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateWaiting && s.Reason != "" })
		if err := side.StartMember(p.ctx, 0, nil); err != nil {
			t.Fatal(err)
		}
		p.put(p.source, key(2), "afterwards")
		p.sync(r)
		p.mustEqual("/registry/", nil)
	}
}
