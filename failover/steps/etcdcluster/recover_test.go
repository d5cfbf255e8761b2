package etcdcluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
)

// recovery is the whole way: forced, and the members back.
func (l *lab) recovery(backup string) []failover.Step {
	t, survivor, dead := l.t, l.nodes[2], l.nodes[:2]
	t.Helper()
	all := []failover.Step{
		step(t)(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: l.outage(2)})),
		step(t)(etcdcluster.Backup(etcdcluster.BackupConfig{Node: survivor, File: backup})),
	}
	all = append(all, steps(t)(etcdcluster.Force(etcdcluster.ForceConfig{Outage: l.outage(2), Wait: time.Minute}))...)
	all = append(all, step(t)(etcdcluster.Health(etcdcluster.HealthConfig{Name: "etcd/health-alone", Nodes: l.nodes[2:], RequestTimeout: long})))
	all = append(all, steps(t)(etcdcluster.Remove(etcdcluster.RemoveConfig{Members: l.nodes[2:], Remove: dead, RequestTimeout: long}))...)
	all = append(all, steps(t)(etcdcluster.Add(etcdcluster.AddConfig{Members: l.nodes[2:], Add: dead, RequestTimeout: long, Wait: time.Minute}))...)
	return append(all, step(t)(etcdcluster.Health(etcdcluster.HealthConfig{Nodes: l.nodes, RequestTimeout: long})))
}

// writing writes between the steps, once the cluster is forced.
func (l *lab) writing(name string) failover.Step {
	key := "written/" + name
	return failover.Funcs{Name: "write/" + name, Observe: func(ctx context.Context) (failover.Observation, error) {
		ctx, cancel := context.WithTimeout(ctx, short)
		defer cancel()
		got, err := l.nodes[2].Client.Get(ctx, key)
		if err != nil || len(got.Kvs) == 0 {
			return failover.Observation{State: failover.Pending}, err
		}
		return failover.Observation{State: failover.Done}, nil
	}, Do: func(ctx context.Context) error {
		_, err := l.nodes[2].Client.Put(ctx, key, name)
		return err
	}}.Step()
}

// recovered checks everything that a recovery promises.
func (l *lab) recovered(keys map[string]string) {
	l.t.Helper()
	health := step(l.t)(etcdcluster.Health(etcdcluster.HealthConfig{Nodes: l.nodes, RequestTimeout: long}))
	wantState(l.t, health, failover.Done, "3 members", "the same data")
	for i, s := range l.settings {
		if s.ForceNewCluster {
			l.t.Errorf("%s would force again at its next start", l.nodes[i].Name)
		}
	}
	// A restart of all, with the settings that are left behind.
	l.kill(0, 1, 2)
	for i := range 3 {
		if err := l.start(l.ctx, i); err != nil {
			l.t.Fatal(err)
		}
	}
	l.put(l.nodes[0], "after", "restart")
	wantState(l.t, health, failover.Done, "3 members")
	for _, n := range l.nodes {
		for k, v := range keys {
			l.want(n, k, v)
		}
	}
}

func TestMembersComeBackAfterTheLossOfTheQuorum(t *testing.T) {
	l := newLab(t)
	l.put(l.nodes[0], "before", "outage")
	l.kill(0, 1)
	if err := os.RemoveAll(filepath.Join(l.cluster.DataDir(0), "member")); err != nil { // one comes back with its old data, the other with none
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	all := l.recovery(backup)
	i := slices.IndexFunc(all, func(s failover.Step) bool { return s.Name() == "etcd/add/m0" })
	all = slices.Insert(all, i+1, l.writing("between"))
	all = slices.Insert(all, i, l.writing("alone"))
	p := plan(t, all...)

	before := l.snapshot()
	// The steps after these ask a cluster that is not there yet, and wait for it in vain.
	if _, err := plan(t, append(slices.Clone(all[:4]), all[i])...).DryRun(l.ctx, failover.DryRunOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := l.snapshot(); after != before {
		t.Errorf("a dry run changed\n%s\nto\n%s", before, after)
	}
	journal := l.journal()
	began := time.Now()
	err := l.session(p, journal, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all of it took %v", time.Since(began))
	log := must[*failover.Log](t)(failover.ReadJournal(journal))
	for _, r := range log.Records {
		if r.Kind == failover.RecordNote {
			t.Logf("%s: %s", r.Step, r.Detail)
		}
	}
	l.recovered(map[string]string{"before": "outage", "written/alone": "alone", "written/between": "between"})
	if found, _ := filepath.Glob(filepath.Join(l.cluster.DataDir(1), "member-*")); len(found) != 1 {
		t.Errorf("the data of m1 is not kept: %v", found)
	}
	// Now that it is over, every step would find its work done or refuse it.
	wantState(t, all[0], failover.Blocked, "the quorum is alive")
	for _, s := range all[i : i+4] {
		wantState(t, s, failover.Done)
	}
}

// snapshot is all that a dry run must not change.
func (l *lab) snapshot() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v\n", l.settings)
	for i := range 3 {
		_ = filepath.WalkDir(l.cluster.DataDir(i), func(p string, _ os.DirEntry, _ error) error {
			b.WriteString(p + "\n")
			return nil
		})
	}
	got, err := l.nodes[2].Client.Get(l.ctx, "", clientv3.WithPrefix(), clientv3.WithSerializable())
	fmt.Fprintf(&b, "%v %v", got, err)
	return b.String()
}

func TestRunnersKilledAtEveryBoundary(t *testing.T) {
	l := newLab(t)
	l.put(l.nodes[0], "before", "outage")
	l.kill(0, 1)
	l.cut.armed = true
	p := plan(t, l.recovery(filepath.Join(t.TempDir(), "backup.db"))...)
	sessions, err := l.drive(p, l.journal(), false)
	if err != nil {
		t.Fatal(err)
	}
	l.cut.armed = false
	for _, label := range []string{"record intent etcd/force/m2 ", "configure m2 (force: true)", "start m2 (force: true)", "stop m2 (force: true)", "configure m2 (force: false)", "start m2 (force: false)", "record saved etcd/force/m2 phase", "move m0 (force: false)", "MemberAdd passed", "start m0 (force: false)", "MemberPromote passed", "record saved etcd/add/m1 joining"} {
		if !slices.Contains(l.cut.cuts, label) {
			t.Errorf("no runner was ended at %q", label)
		}
	}
	t.Logf("%d runners, ended at:\n%s", sessions, strings.Join(l.cut.cuts, "\n"))
	l.recovered(map[string]string{"before": "outage"})
}

func TestAddedMembersAreUndone(t *testing.T) {
	l := newLab(t)
	l.put(l.nodes[0], "before", "outage")
	l.kill(0)
	l.put(l.nodes[1], "with", "two")
	// The quorum is there: the lost member is removed and added back.
	l.run(plan(t, steps(t)(etcdcluster.Remove(etcdcluster.RemoveConfig{Members: l.nodes[1:], Remove: l.nodes[:1], RequestTimeout: long}))...))
	before := l.settings[0]
	p := plan(t, steps(t)(etcdcluster.Add(etcdcluster.AddConfig{Members: l.nodes[1:], Add: l.nodes[:1], RequestTimeout: long, Wait: time.Minute}))...)
	journal := l.journal()
	if err := l.session(p, journal, false); err != nil {
		t.Fatal(err)
	}
	l.cut.armed = true
	n, err := l.drive(p, journal, true)
	if err != nil {
		t.Fatal(err)
	}
	l.cut.armed = false
	if n < 8 {
		t.Errorf("undone in %d sessions: nothing was cut", n)
	}
	wantState(t, step(t)(etcdcluster.Health(etcdcluster.HealthConfig{Nodes: l.nodes[1:], RequestTimeout: long})), failover.Done, "2 members")
	if l.settings[0] != before || l.cluster.Member(0) != nil {
		t.Errorf("settings are %+v, not %+v, or it runs", l.settings[0], before)
	}
	kept, _ := filepath.Glob(filepath.Join(l.cluster.DataDir(0), "*"))
	if len(kept) != 2 || filepath.Base(kept[0]) != "member" || !strings.HasSuffix(kept[1], "-undone") {
		t.Errorf("its data is %v", kept)
	}
}

func TestStoppedSurvivorIsStartedAgain(t *testing.T) {
	l := newLab(t)
	l.put(l.nodes[0], "before", "outage")
	l.kill(0, 1)
	backup := filepath.Join(t.TempDir(), "backup.db")
	all := l.recovery(backup)
	p := plan(t, all[:3]...) // up to the stop
	journal := l.journal()
	if err := l.session(p, journal, false); err != nil {
		t.Fatal(err)
	}
	if l.cluster.Member(2) != nil {
		t.Fatal("the survivor runs")
	}
	l.mu.Lock()
	l.settings[2].ForceNewCluster = true // as somebody by hand might have left it
	l.mu.Unlock()
	if err := l.session(p, journal, true); err != nil {
		t.Fatal(err)
	}
	if l.cluster.Member(2) == nil || l.settings[2].ForceNewCluster {
		t.Error("the survivor does not run as before")
	}
	wantState(t, all[0], failover.Done)
	if kept, _ := filepath.Glob(backup + "*"); len(kept) != 2 || !strings.Contains(kept[0], ".undone-") {
		t.Errorf("the backup is %v", kept)
	}
	// The dead come back: it is as if nothing had happened.
	for i := range 2 {
		if err := l.start(l.ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	l.want(l.nodes[2], "before", "outage")
	wantState(t, all[0], failover.Blocked, "quorum is alive")
}

func TestForcedIsThePointOfNoReturn(t *testing.T) {
	l := newLab(t)
	l.kill(0, 1)
	p := plan(t, steps(t)(etcdcluster.Force(etcdcluster.ForceConfig{Outage: l.outage(2), Wait: time.Minute}))...)
	if got := p.PointOfNoReturn(); got != "etcd/force/m2" {
		t.Errorf("the point of no return is %q", got)
	}
	journal := l.journal()
	if err := l.session(p, journal, false); err != nil {
		t.Fatal(err)
	}
	if err := l.session(p, journal, true); !errors.Is(err, failover.ErrPointOfNoReturn) {
		t.Errorf("undone: %v", err)
	}
	// The dead that come back on their data while the survivor cannot be reached are a second cluster: nothing stops them but the fence.
	l.kill(2)
	for i := range 2 {
		if err := l.start(l.ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	l.put(l.nodes[0], "second", "cluster")
	if err := l.start(l.ctx, 2); err != nil {
		t.Fatal(err)
	}
	l.put(l.nodes[2], "first", "cluster")
}

func TestLeaderMoves(t *testing.T) {
	l := newLab(t)
	l.put(l.nodes[0], "a", "leader is elected")
	leader := l.cluster.Leader()
	to := l.nodes[(leader+1)%3]
	p := plan(t, step(t)(etcdcluster.MoveLeader(etcdcluster.LeaderConfig{Nodes: l.nodes, To: to.Name, RequestTimeout: long})))
	journal := l.journal()
	if err := l.session(p, journal, false); err != nil {
		t.Fatal(err)
	}
	if got := l.cluster.Leader(); got != (leader+1)%3 {
		t.Errorf("%d leads", got)
	}
	if err := l.session(p, journal, true); err != nil {
		t.Fatal(err)
	}
	if got := l.cluster.Leader(); got != leader {
		t.Errorf("after Undo %d leads, not %d", got, leader)
	}
}
