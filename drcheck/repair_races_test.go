package drcheck_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// hooked is a transformation that changes nothing, and calls f the first time that it is asked to.
type hooked struct {
	once sync.Once
	f    func()
}

func (*hooked) ID() string { return "same" }
func (h *hooked) Transform(_ context.Context, _, _ string, v []byte) ([]byte, error) {
	if h.f != nil {
		h.once.Do(h.f)
	}
	return v, nil
}
func (*hooked) Equal(_ context.Context, _, _ string, a, b []byte) (bool, error) {
	return string(a) == string(b), nil
}

// slow is a repair that takes longer between two writes than a controller.
type slow struct {
	hooked
	s   *sides
	key string
	ctx context.Context
}

func (h *slow) Transform(_ context.Context, _, _ string, v []byte) ([]byte, error) {
	for h.ctx.Err() == nil {
		if r, err := h.s.target.Get(h.ctx, h.key); err == nil && len(r.Kvs) > 0 {
			break
		}
	}
	return v, nil
}

// What the source deletes while a repair is under way does not come back.
func TestRepairBringsNothingBack(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/a"
	s.put(s.source, key, "1")
	s.put(s.source, "/registry/secrets/ns/b", "1")
	m := s.mirror(etcdmirror.Config{Transform: &hooked{}, RepairDelay: time.Millisecond})
	s.sync(m)
	s.delete(s.target, key)
	h := &hooked{}
	c := s.checker(drcheck.Config{Name: "test", Transform: h})
	_, plan := s.planned(c, drcheck.RepairOptions{})
	if plan.Puts != 1 {
		t.Fatalf("%+v", plan)
	}
	h.f = func() { // between the repair's reads and its write
		s.delete(s.source, key)
		s.sync(m)
	}
	report, err := c.Repair(s.ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.source, "/registry/secrets/ns/b", "2")
	s.sync(m)
	result, err := c.Check(s.ctx)
	if err != nil || !result.Equal {
		t.Errorf("after %+v: %v, differences %+v; foreign %d", report, err, result.Differences, m.Status().Foreign)
	}
}

// A mirror serves such a target; a check should, too.
func TestServersThatAllowFewOperations(t *testing.T) {
	s := &sides{t: t, ctx: testutil.Context(t), sourceCluster: testutil.NewCluster(t, embedetcd.Options{MaxTxnOps: 8}), targetCluster: testutil.NewCluster(t, embedetcd.Options{MaxTxnOps: 16})}
	s.source, s.target = testutil.Client(t, s.sourceCluster), testutil.Client(t, s.targetCluster)
	for i := range 40 {
		s.put(s.source, fmt.Sprintf("/registry/secrets/ns/s%03d", i), "1")
	}
	m := s.mirror(etcdmirror.Config{MaxTxnOps: 16})
	s.sync(m)
	for i := range 40 {
		s.delete(s.target, fmt.Sprintf("/registry/secrets/ns/s%03d", i))
	}
	c := s.checker(drcheck.Config{Name: "test"})
	_, plan := s.planned(c, drcheck.RepairOptions{})
	if _, err := c.Repair(s.ctx, plan); err != nil {
		t.Fatal(err)
	}
	if result, err := c.Check(s.ctx); err != nil || !result.Equal {
		t.Fatal(err, result)
	}
}

// A dependent whose missing owner is not put either is not put.
func TestRepairPutsNoDependentWithoutItsOwner(t *testing.T) {
	s := newSides(t)
	const owner, dependent = "/registry/example.com/things/ns/o", "/registry/example.com/things/ns/d"
	s.put(s.source, owner, object("Thing", "o", "uid-o", "", ""))
	s.put(s.source, dependent, object("Thing", "d", "uid-d", ownedBy("example.com/v1", "Thing", "o", "uid-o"), ""))
	refuse := func(key string, _ []byte) error {
		if key == owner {
			return errors.New("bad")
		}
		return nil
	}
	m := s.mirror(etcdmirror.Config{Guards: []etcdmirror.Guard{refuse}, RepairDelay: time.Millisecond})
	s.sync(m)
	s.delete(s.target, dependent) // as the target's garbage collector does
	c := s.checker(drcheck.Config{Name: "test"})
	_, plan := s.planned(c, drcheck.RepairOptions{})
	for _, step := range plan.Steps {
		t.Errorf("%s %s (%s) though its owner is not put: skipped %+v", step.Action, step.Key, step.Reason, plan.Skipped)
	}
}

// A controller of the target that makes an object again at once does not keep a repair for ever.
func TestRepairGivesUpAFight(t *testing.T) {
	s := newSides(t)
	const key = "/registry/configmaps/ns/kube-root-ca.crt"
	s.put(s.source, key, object("ConfigMap", "kube-root-ca.crt", "uid-source", "", ""))
	m := s.mirror(etcdmirror.Config{RepairDelay: time.Millisecond, Transform: &hooked{}})
	s.sync(m)
	other := object("ConfigMap", "kube-root-ca.crt", "uid-target", "", "")
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	watching := s.target.Watch(ctx, key, clientv3.WithCreatedNotify())
	<-watching
	made, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for resp := range watching {
			for _, e := range resp.Events {
				if e.Type == clientv3.EventTypeDelete {
					made++
					if _, err := s.target.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, other)).Commit(); err != nil {
						return
					}
				}
			}
		}
	}()
	s.delete(s.target, key)
	s.eventually("other object", func() bool { return s.kept(s.target)[key] == other })
	// The source is far away: as long as the two in a row are faster, the repair wins.
	h := &slow{s: s, key: key}
	c := s.checker(drcheck.Config{Name: "test", Transform: h, Settle: 300 * time.Millisecond})
	_, plan := s.planned(c, drcheck.RepairOptions{})
	if plan.Puts != 1 {
		t.Fatalf("%+v", plan)
	}
	h.ctx = s.ctx
	report, err := c.Repair(s.ctx, plan)
	cancel()
	<-done
	if err != nil || len(report.Skipped) != 1 || report.Put != 0 || report.Left != 0 || made < 2 {
		t.Errorf("made again %d times; %v, %+v", made, err, report)
	}
}

// What was accepted is not a difference, and not to be deleted with them.
func TestRepairLeavesWhatWasAccepted(t *testing.T) {
	s := newSides(t)
	s.put(s.source, "/registry/secrets/ns/a", "1")
	m := s.mirror(etcdmirror.Config{})
	s.sync(m)
	s.put(s.target, "/registry/secrets/own/a", "own")
	s.eventually("foreign", func() bool {
		r, err := s.target.Get(s.ctx, metadata+"test/foreign/", clientv3.WithPrefix())
		return err == nil && len(r.Kvs) == 1
	})
	c := s.checker(drcheck.Config{Name: "test", AcceptMadeAtTarget: true, Settle: 300 * time.Millisecond})
	result, plan := s.planned(c, drcheck.RepairOptions{DeleteAllSurplus: true})
	if !result.Equal {
		t.Fatalf("%+v", result.Differences)
	}
	if plan.Deletes != 0 {
		t.Errorf("an equal result, and %d deletes: %+v", plan.Deletes, plan.Steps)
	}
}

// A demoted target that no mirror has taken yet is not repaired by an old plan.
func TestRepairLeavesADemotedTarget(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/a"
	s.put(s.source, key, "old primary's")
	m := s.mirror(etcdmirror.Config{})
	s.sync(m)
	m.stop()
	s.delete(s.target, key)
	c := s.checker(drcheck.Config{Name: "test", Settle: 300 * time.Millisecond})
	_, plan := s.planned(c, drcheck.RepairOptions{})
	if _, err := etcdmirror.Promote(s.ctx, s.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.put(s.target, key, "served")
	if err := etcdmirror.Demote(s.ctx, s.target, "test"); err != nil {
		t.Fatal(err)
	}
	report, err := c.Repair(s.ctx, plan)
	if got := s.kept(s.target)[key]; err == nil || got != "served" {
		t.Errorf("%v: %+v: repair wrote over what the target served", err, report)
	}
}

// planned checks and plans the repair of what differs.
func (s *sides) planned(c *drcheck.Checker, opts drcheck.RepairOptions) (*drcheck.Result, *drcheck.RepairPlan) {
	s.t.Helper()
	result, err := c.Check(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	plan, err := c.PlanRepair(s.ctx, result, opts)
	if err != nil {
		s.t.Fatal(err)
	}
	return result, plan
}
