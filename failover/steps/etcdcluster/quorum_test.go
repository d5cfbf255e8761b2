package etcdcluster_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestQuorumLostRefusesWhatIsNotLost(t *testing.T) {
	l := newLab(t)
	gate := step(t)(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: l.outage(2)}))
	forced := steps(t)(etcdcluster.Force(etcdcluster.ForceConfig{Outage: l.outage(2)}))
	wantState(t, gate, failover.Blocked, "the quorum is alive")
	wantState(t, forced[0], failover.Blocked, "the quorum is alive")
	wantState(t, forced[1], failover.Blocked, "the quorum is alive")

	l.kill(0)
	l.put(l.nodes[2], "with", "two")
	wantState(t, gate, failover.Blocked, "the quorum is alive")

	l.kill(1)
	wantState(t, gate, failover.Done, "m2 has no quorum", "no answer from m0, m1")
	wantState(t, forced[1], failover.Pending, "without a quorum")

	// Something listens where a dead member's peers would reach it.
	u := must[*url.URL](t)(url.Parse(l.cluster.PeerURL(0)))
	open := must[net.Listener](t)(net.Listen("tcp", u.Host))
	wantState(t, gate, failover.Blocked, "m0 is not dead: "+u.Host+" is open")
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}

	// A client of another member.
	wrong := l.outage(2)
	wrong.Survivors[0].Name, wrong.Dead[0].Name, wrong.Survivor = "m0", "m2", "m0"
	wantState(t, step(t)(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: wrong})), failover.Blocked, "belongs to member \"m2\"")
	unknown := l.outage(2)
	unknown.Dead[1].PeerURLs = []string{"http://127.0.0.1:1"}
	wantState(t, step(t)(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: unknown})), failover.Blocked, "neither a survivor nor dead as configured")
	unresolved := l.outage(2)
	unresolved.Dial = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.DNSError{Err: "no such host"}
	}
	if _, err := step(t)(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: unresolved})).Observe(l.ctx); err == nil || !strings.Contains(err.Error(), "cannot be told") {
		t.Errorf("an address that nobody resolves is taken for dead: %v", err)
	}

	// Restarted without a quorum, etcd serves nobody; its process shows that it is there.
	l.kill(2)
	if err := l.start(l.ctx, 2); err != nil {
		t.Fatal(err)
	}
	wantState(t, gate, failover.Done, "m2 runs and serves nobody")
	l.kill(2)
	if _, err := gate.Observe(l.ctx); err == nil {
		t.Error("a survivor that does not run has passed")
	}

	// The quorum comes back between the gate and the force.
	for i := range 2 {
		if err := l.start(l.ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	wantState(t, forced[1], failover.Blocked, "is not dead")
	if err := forced[1].Do(l.ctx); err == nil || !strings.Contains(err.Error(), "not forced") {
		t.Errorf("forced beside a quorum: %v", err)
	}
	if l.settings[2].ForceNewCluster || l.cluster.Member(2) != nil {
		t.Error("the survivor was touched")
	}
}

// What a forced survivor tells the dead that reach it: they are removed, and end themselves.
func TestSurvivorEndsTheDeadThatReachIt(t *testing.T) {
	l := newLab(t)
	l.kill(0, 1)
	l.run(plan(t, steps(t)(etcdcluster.Force(etcdcluster.ForceConfig{Outage: l.outage(2), Wait: time.Minute}))...))
	err := l.start(l.ctx, 0)
	if err == nil {
		select {
		case <-l.cluster.Member(0).Server.StopNotify():
		case <-time.After(20 * time.Second):
			t.Fatal("the removed member goes on")
		}
	} else if !strings.Contains(err.Error(), "stopped while it started") {
		t.Fatal(err)
	}
	l.put(l.nodes[2], "still", "there")
}

func TestTheSurvivorThatKnowsMostIsChosen(t *testing.T) {
	t.Parallel()
	// Five members would be the real case; two single clusters of different age show the choice.
	ctx := testutil.Context(t)
	var nodes []etcdcluster.Node
	for i, name := range []string{"a", "b"} {
		c := testutil.NewCluster(t, embedetcd.Options{Change: func(_ int, cfg *embed.Config) {}})
		cli := testutil.Client(t, c)
		for range 3 * (i + 1) {
			if _, err := cli.Put(ctx, "k", name); err != nil {
				t.Fatal(err)
			}
		}
		nodes = append(nodes, etcdcluster.Node{Name: name, PeerURLs: []string{c.PeerURL(0)}, Client: cli})
	}
	if got, err := etcdcluster.Choose(ctx, nodes, short); err != nil || got != "b" {
		t.Errorf("chose %q, %v", got, err)
	}
}

func TestBackupNeedsNoQuorumAndIsWhole(t *testing.T) {
	l := newLab(t)
	l.put(l.nodes[0], "before", "outage")
	l.kill(0, 1)
	file := filepath.Join(t.TempDir(), "backup.db")
	s := step(t)(etcdcluster.Backup(etcdcluster.BackupConfig{Node: l.nodes[2], File: file}))
	p := plan(t, s)
	journal := l.journal()
	l.cut.armed = true
	if n, err := l.drive(p, journal, false); err != nil || n < 4 {
		t.Fatalf("%d sessions: %v", n, err)
	}
	sum := must[[]byte](t)(os.ReadFile(file + ".sha256"))
	if !strings.HasSuffix(string(sum), "  backup.db\n") || len(sum) != 64+len("  backup.db\n") {
		t.Errorf("checksum file %q", sum)
	}
	// Another run does not write over it.
	wantState(t, s, failover.Blocked, "is not this run's")
	// It is a database that an etcd starts from.
	data := must[[]byte](t)(os.ReadFile(file))
	if !strings.Contains(string(data), "outage") {
		t.Error("the snapshot does not hold what was written")
	}
	l.cut.armed = false
	if err := l.session(p, journal, true); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) != 2 {
		t.Errorf("after Undo there is %v", left)
	}
}

func TestRemoveRefusesTheLiving(t *testing.T) {
	l := newLab(t)
	l.kill(0)
	l.put(l.nodes[1], "with", "two") // a leader is elected
	remove := func(i int, members ...etcdcluster.Node) failover.Step {
		return steps(t)(etcdcluster.Remove(etcdcluster.RemoveConfig{Members: members, Remove: l.nodes[i : i+1], RequestTimeout: long}))[0]
	}
	wantState(t, remove(1, l.nodes[2]), failover.Blocked, "m1 answers")
	wantState(t, remove(0, l.nodes[2]), failover.Blocked, "of the 2 voters that stay 1 answer")
	wantState(t, remove(0, l.nodes[1:]...), failover.Pending, "m0 is listed")
	// It is listed and lost: adding it needs its removal first.
	add := steps(t)(etcdcluster.Add(etcdcluster.AddConfig{Members: l.nodes[1:], Add: l.nodes[:1], RequestTimeout: long}))[0]
	wantState(t, add, failover.Blocked, "already and does not serve")
	l.run(plan(t, remove(0, l.nodes[1:]...)))
	wantState(t, remove(0, l.nodes[1:]...), failover.Done)
	// Another peer URL than the one it was added with.
	moved := l.nodes[1]
	moved.PeerURLs = []string{"http://127.0.0.1:1"}
	add = steps(t)(etcdcluster.Add(etcdcluster.AddConfig{Members: l.nodes[2:], Add: []etcdcluster.Node{moved}, RequestTimeout: long}))[0]
	wantState(t, add, failover.Blocked, "has the peer URL "+l.cluster.PeerURL(1)+", not http://127.0.0.1:1")
}

func TestFenceIsAPersonsTask(t *testing.T) {
	cli := must[*clientv3.Client](t)(clientv3.New(clientv3.Config{Endpoints: []string{"http://127.0.0.1:1"}}))
	defer cli.Close()
	dead := []etcdcluster.Node{{Name: "m0", PeerURLs: []string{"http://127.0.0.1:2"}, Client: cli}}
	p := plan(t, step(t)(etcdcluster.Fence(etcdcluster.FenceConfig{Dead: dead})))
	r := must[*failover.Runner](t)(failover.New(p, failover.Config{Journal: filepath.Join(t.TempDir(), "j"), NoWait: true}))
	if err := r.Run(t.Context()); !errors.Is(err, failover.ErrWaiting) {
		t.Fatalf("%v", err)
	}
	if _, err := r.Decide(failover.Decision{Kind: failover.DecisionConfirm, PlanHash: p.Hash(), Step: "etcd/fence", By: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	fenced := false
	s := step(t)(etcdcluster.Fence(etcdcluster.FenceConfig{Dead: dead, Fenced: func(context.Context) (bool, string, error) { return fenced, "looked", nil }}))
	wantState(t, s, failover.Pending, "looked")
	fenced = true
	wantState(t, s, failover.Done, "looked")
}

func TestConfigurationsAreRefused(t *testing.T) {
	client := func(endpoints ...string) *clientv3.Client {
		cli := must[*clientv3.Client](t)(clientv3.New(clientv3.Config{Endpoints: endpoints}))
		t.Cleanup(func() { _ = cli.Close() })
		return cli
	}
	node := func(name, port string) etcdcluster.Node {
		return etcdcluster.Node{Name: name, PeerURLs: []string{"http://127.0.0.1:" + port}, Client: client("http://127.0.0.1:1" + port)}
	}
	a, b, c := node("a", "1"), node("b", "2"), node("c", "3")
	noPort, two, noClient, badName := a, a, a, a
	noPort.PeerURLs, two.Client, noClient.Client, badName.Name = []string{"http://127.0.0.1"}, client("http://127.0.0.1:11", "http://127.0.0.1:12"), nil, "a,b"
	nodes := func(n ...etcdcluster.Node) []etcdcluster.Node { return n }
	outage := func(s, d []etcdcluster.Node) error {
		_, err := etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: etcdcluster.Outage{Survivors: s, Dead: d}})
		return err
	}
	health := func(n ...etcdcluster.Node) error {
		_, err := etcdcluster.Health(etcdcluster.HealthConfig{Nodes: n})
		return err
	}
	second := func(_ any, err error) error { return err }
	for want, err := range map[string]error{
		"Nodes is empty":                                  health(),
		"Nodes[0].Name":                                   health(badName),
		"Nodes[0].PeerURLs":                               health(noPort),
		"Nodes[0].Client of member \"a\" is nil":          health(noClient),
		"Nodes[0].Client of member \"a\" has 2 endpoints": health(two),
		"have the same name a":                            health(a, a),
		"Dead is empty":                                   outage(nodes(a), nil),
		"which is a quorum":                               outage(nodes(a, b), nodes(c)),
		"have the same peer URL":                          outage(nodes(a), nodes(b, a)),
		"Survivors[0].Member":                             second(etcdcluster.Force(etcdcluster.ForceConfig{Outage: etcdcluster.Outage{Survivors: nodes(a), Dead: nodes(b, c)}})),
		"Survivor \"x\" is none":                          second(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: etcdcluster.Outage{Survivors: nodes(a), Dead: nodes(b, c), Survivor: "x"}})),
		"RequestTimeout is 11s":                           second(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Outage: etcdcluster.Outage{Survivors: nodes(a), Dead: nodes(b, c), RequestTimeout: 11 * time.Second}})),
		"RequestTimeout is -1s":                           second(etcdcluster.Health(etcdcluster.HealthConfig{Nodes: nodes(a), RequestTimeout: -time.Second})),
		"Add[0].Member":                                   second(etcdcluster.Add(etcdcluster.AddConfig{Members: nodes(a), Add: nodes(b)})),
		"File is \"\"":                                    second(etcdcluster.Backup(etcdcluster.BackupConfig{Node: a})),
		"To is \"x\"":                                     second(etcdcluster.MoveLeader(etcdcluster.LeaderConfig{Nodes: nodes(a), To: "x"})),
		"MemberFuncs.StartProcess":                        second(etcdcluster.MemberFuncs{}.New()),
		"SystemdConfig.Host":                              second(etcdcluster.Systemd(etcdcluster.SystemdConfig{})),
		"SystemdConfig.Unit":                              second(etcdcluster.Systemd(etcdcluster.SystemdConfig{Unit: "etcd; reboot"})),
		"SystemdConfig.EnvFile":                           second(etcdcluster.Systemd(etcdcluster.SystemdConfig{EnvFile: "etcd.conf"})),
		"StaticPodConfig.Parked is in":                    second(etcdcluster.StaticPod(etcdcluster.StaticPodConfig{Parked: "/etc/kubernetes/manifests/x"})),
	} {
		var e *failover.Error
		if !errors.As(err, &e) || !errors.Is(err, failover.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
