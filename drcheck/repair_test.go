package drcheck_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// family is objects that own one another, listed so that owners come first; their keys sort the other way round.
func family(rng *rand.Rand, n int) (keys []string, all map[string]string) {
	all = map[string]string{}
	for i := range n {
		var owners []string
		for range rng.IntN(3) {
			if i > 0 {
				o := rng.IntN(i)
				owners = append(owners, ownedBy("example.com/v1", "Thing", fmt.Sprintf("t%04d", n-o), fmt.Sprint("uid-", o)))
			}
		}
		key := fmt.Sprintf("/registry/example.com/things/ns/t%04d", n-i)
		keys = append(keys, key)
		all[key] = object("Thing", fmt.Sprintf("t%04d", n-i), fmt.Sprint("uid-", i), strings.Join(owners, ","), "")
	}
	return keys, all
}

// TestRepairPutsRight damages a target at random, beside a mirror that only reports it, and repairs it: a dry run writes nothing, owners come before
// dependents, surplus keys stay unless they are named, and afterwards the mirror takes what was repaired for its own.
func TestRepairPutsRight(t *testing.T) {
	schedules(t, 3, func(t *testing.T, _ uint64, rng *rand.Rand) {
		s := newSides(t)
		keys, all := family(rng, 60)
		for i := range 40 {
			all[fmt.Sprintf("/registry/secrets/ns/s%03d", i)] = fmt.Sprint("value ", i)
		}
		s.fill(s.source, all)
		cfg := etcdmirror.Config{RepairDelay: time.Millisecond}
		m := s.mirror(cfg)
		s.sync(m)
		if rng.IntN(2) == 0 {
			m.stop()
		}
		others := slices.Sorted(maps.Keys(all))
		for range 50 {
			key := others[rng.IntN(len(others))]
			if rng.IntN(3) == 0 {
				s.put(s.target, key, "damaged")
			} else {
				s.delete(s.target, key)
			}
		}
		own := []string{"/registry/secrets/own/a", "/registry/secrets/own/b", "/registry/secrets/own/c"}
		for _, key := range own {
			s.put(s.target, key, "own")
		}
		c := s.checker(drcheck.Config{Name: "test", Settle: 300 * time.Millisecond})
		result, err := c.Check(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if result.Count.Missed == 0 || result.Count.Different == 0 || result.Count.Surplus != len(own) {
			t.Fatalf("%+v", result.Count)
		}
		before := s.kept(s.target)
		plan, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{DeleteSurplus: own[:1]})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(before, s.kept(s.target)) {
			t.Error("the plan has changed the target")
		}
		if plan.Puts != result.Count.Missed+result.Count.Different || plan.Deletes != 1 || len(plan.Skipped) != 2 {
			t.Errorf("%d puts, %d deletes, %d skipped of %+v", plan.Puts, plan.Deletes, len(plan.Skipped), result.Count)
		}
		place := map[string]int{}
		for i, step := range plan.Steps {
			place[step.Key] = i + 1
		}
		for _, key := range keys {
			for _, owner := range keys {
				uid := fmt.Sprintf("%q", "uid-"+fmt.Sprint(slices.Index(keys, owner)))
				if owner != key && strings.Contains(all[key], `"uid":`+uid+`}`) && place[key] > 0 && place[owner] > place[key] {
					t.Errorf("%q comes before its owner %q", key, owner)
				}
			}
		}
		report, err := c.Repair(s.ctx, plan)
		if err != nil {
			t.Fatal(err)
		}
		if report.Put+report.Deleted+len(report.Skipped) != len(plan.Steps) || report.Left != 0 {
			t.Errorf("%+v of %d steps", report, len(plan.Steps))
		}
		got := s.kept(s.target)
		if _, there := got[own[0]]; there || got[own[1]] != "own" || got[own[2]] != "own" {
			t.Errorf("surplus keys: %q is there %v, the others %q and %q", own[0], there, got[own[1]], got[own[2]])
		}
		if result, err = c.Check(s.ctx); err != nil || result.Count.Missed+result.Count.Different != 0 || result.Count.Surplus != 2 {
			t.Fatalf("%v %+v", err, result)
		}
		// The mirror knows what is whose: also after a copy.
		m.stop()
		if rng.IntN(2) == 0 {
			s.compact(s.source)
			s.put(s.source, "/registry/secrets/ns/another", "1")
			s.compact(s.source)
		}
		m = s.mirror(cfg)
		for key := range all {
			s.delete(s.source, key)
		}
		if _, err := etcdmirror.Approve(s.ctx, s.target, "test"); err != nil && !errors.Is(err, etcdmirror.ErrNotTripped) {
			t.Fatal(err)
		}
		s.sync(m)
		s.delete(s.source, "/registry/secrets/ns/another")
		s.sync(m)
		// A key whose repair the mirror learns of only now was somebody's for a moment: it is deleted when that is known.
		left := s.kept(s.target)
		for ; len(left) != 2 && s.ctx.Err() == nil; left = s.kept(s.target) {
			time.Sleep(20 * time.Millisecond)
		}
		if len(left) != 2 {
			t.Errorf("%d keys are left, want the target's own 2: %q", len(left), slices.Sorted(maps.Keys(left)))
		}
	})
}

// kept is a side's Kubernetes keys.
func (s *sides) kept(c *clientv3.Client) map[string]string {
	s.t.Helper()
	resp, err := c.Get(s.ctx, "/registry/", clientv3.WithPrefix())
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		all[string(kv.Key)] = string(kv.Value)
	}
	return all
}

// beforeWrites makes a client of the target that calls f before the first transaction that writes below /registry/.
func (s *sides) beforeWrites(f func()) *clientv3.Client {
	s.t.Helper()
	var once sync.Once
	cfg := s.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if txn, ok := req.(*pb.TxnRequest); ok && len(txn.Compare) > 0 {
			once.Do(f)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}))
	client, err := clientv3.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// A promotion in the very moment of a repair's write wins.
func TestRepairIsFenced(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/a"
	s.put(s.source, key, "1")
	m := s.mirror(etcdmirror.Config{})
	s.sync(m)
	m.stop()
	s.delete(s.target, key)
	s.target = s.beforeWrites(func() {
		if _, err := etcdmirror.Promote(s.ctx, testTarget(s), "test", etcdmirror.PromoteOptions{}); err != nil {
			t.Error(err)
		}
	})
	c := s.checker(drcheck.Config{Name: "test"})
	// The check's own record is no write to what it checks; the promotion must come with the repair's.
	result := &drcheck.Result{SourceClusterID: id(s.sourceCluster.ID()), TargetClusterID: id(s.targetCluster.ID()),
		Differences: []drcheck.Difference{{Class: drcheck.Missed, Key: key, SourceKey: key}}}
	plan, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := c.Repair(s.ctx, plan)
	if !errors.Is(err, drcheck.ErrPromoted) || report.Put != 0 || report.Left != 1 {
		t.Errorf("%v, %+v", err, report)
	}
	if all := s.kept(s.target); len(all) != 0 {
		t.Errorf("written after the promotion: %d keys", len(all))
	}
	if _, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{}); !errors.Is(err, drcheck.ErrPromoted) {
		t.Errorf("a plan for a promoted target: %v", err)
	}
	if _, err := c.Repair(s.ctx, plan); !errors.Is(err, drcheck.ErrPromoted) {
		t.Errorf("a repair of a promoted target: %v", err)
	}
}

// testTarget is a client that no interceptor watches.
func testTarget(s *sides) *clientv3.Client {
	client, err := s.targetCluster.NewClient()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

func id(cluster uint64) string { return fmt.Sprintf("%x", cluster) }

// What changes between a plan and its repair is left as it is.
func TestRepairNeverWritesOverWhatIsNewer(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/"
	s.fill(s.source, map[string]string{key + "changed": "1", key + "gone": "1", key + "right": "1"})
	s.fill(s.target, map[string]string{key + "changed": "0", key + "surplus": "1", key + "surplus2": "1", key + "surplus3": "1"})
	c := s.checker(drcheck.Config{Settle: brief})
	result, err := c.Check(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{DeleteAllSurplus: true})
	if err != nil || plan.Puts != 3 || plan.Deletes != 3 {
		t.Fatalf("%v %+v", err, plan)
	}
	s.put(s.source, key+"changed", "2")
	s.delete(s.source, key+"gone")
	s.put(s.target, key+"right", "1")
	s.put(s.target, key+"surplus", "2")
	s.put(s.source, key+"surplus2", "2")
	report, err := c.Repair(s.ctx, plan)
	if err != nil || report.Put != 1 || report.Deleted != 1 || len(report.Skipped) != 4 {
		t.Errorf("%v %+v", err, report)
	}
	want := map[string]string{key + "changed": "2", key + "right": "1", key + "surplus": "2", key + "surplus2": "1"}
	if got := s.kept(s.target); !maps.Equal(got, want) {
		t.Errorf("got %d keys, want %d", len(got), len(want))
	}
	// Somebody writes in the very moment: his is kept, and the step is looked at again.
	s.put(s.source, key+"changed", "3")
	s.put(s.source, key+"surplus", "2")
	s.put(s.source, key+"surplus2", "1")
	plain := s.target
	s.target = s.beforeWrites(func() { s.put(plain, key+"changed", "3") })
	c = s.checker(drcheck.Config{Settle: brief})
	if result, err = c.Check(s.ctx); err != nil {
		t.Fatal(err)
	}
	if plan, err = c.PlanRepair(s.ctx, result, drcheck.RepairOptions{}); err != nil || plan.Puts != 1 {
		t.Fatalf("%v %+v", err, plan)
	}
	if report, err = c.Repair(s.ctx, plan); err != nil || report.Put != 0 || len(report.Skipped) != 1 || report.Skipped[0].Why != "it is right by now" {
		t.Errorf("%v %+v", err, report)
	}
}

func TestBadRepairs(t *testing.T) {
	s := newSides(t)
	all := map[string]string{}
	for i := range 5 {
		all[fmt.Sprintf("/registry/secrets/ns/s%d", i)] = "1"
	}
	s.fill(s.target, all)
	s.put(s.source, "/registry/secrets/ns/a", "1")
	c := s.checker(drcheck.Config{Settle: brief})
	result, err := c.Check(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []struct {
		opts drcheck.RepairOptions
		kind error
		want string
	}{
		{drcheck.RepairOptions{DeleteAllSurplus: true, MaxDeletes: 4}, drcheck.ErrTooMany, "5 keys of the target would be deleted, at most 4 may"},
		{drcheck.RepairOptions{DeleteAllSurplus: true, MaxDeletes: -1}, drcheck.ErrConfig, "MaxDeletes -1"},
		{drcheck.RepairOptions{DeleteSurplus: []string{"/registry/secrets/ns/a"}}, drcheck.ErrConfig, `DeleteSurplus names "/registry/secrets/ns/a"`},
		{drcheck.RepairOptions{Classes: []drcheck.Class{drcheck.Surplus}}, drcheck.ErrConfig, `Classes has "surplus"`},
	} {
		if _, err := c.PlanRepair(s.ctx, result, b.opts); !errors.Is(err, b.kind) || !strings.Contains(err.Error(), b.want) {
			t.Errorf("%+v: %v, want %q", b.opts, err, b.want)
		}
	}
	plan, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{})
	if err != nil || plan.Deletes != 0 || plan.Puts != 1 {
		t.Errorf("%v %+v", err, plan)
	}
	other := *result
	other.SourceClusterID = "1"
	if _, err := c.PlanRepair(s.ctx, &other, drcheck.RepairOptions{}); !errors.Is(err, drcheck.ErrOtherMirror) {
		t.Errorf("another source: %v", err)
	}
	// With a mirror there, its name is needed.
	s.sync(s.mirror(etcdmirror.Config{}))
	if _, err := c.Repair(s.ctx, plan); !errors.Is(err, drcheck.ErrConfig) || !strings.Contains(err.Error(), "Name is empty") {
		t.Errorf("without the mirror's name: %v", err)
	}
}
