package etcdcluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"systemctl": systemctlMain})
	_ = flag.Set("test.parallel", "6") // they wait for elections more than they work
	testutil.Main(m)
}

// Timeouts of requests: short where they run out because there is no quorum, still longer than an election takes.
const short, long = 1200 * time.Millisecond, 5 * time.Second

// cutter ends the session of a runner at boundaries, each at its first passing.
type cutter struct {
	mu     sync.Mutex
	armed  bool
	seen   map[string]bool
	cancel context.CancelFunc
	cuts   []string
	only   func(label string) bool // nil: all
}

func (c *cutter) pass(label string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed || c.seen[label] || c.only != nil && !c.only(label) {
		return
	}
	c.seen[label] = true
	c.cuts = append(c.cuts, label)
	c.cancel()
}

// lab is a cluster of three embedded members, and what it takes to drive them.
type lab struct {
	t       *testing.T
	ctx     context.Context
	cluster *embedetcd.Cluster
	nodes   []etcdcluster.Node
	cut     *cutter

	mu       sync.Mutex
	settings []etcdcluster.Settings
}

func newLab(t *testing.T) *lab {
	t.Helper()
	t.Parallel()
	l := &lab{t: t, ctx: testutil.Context(t), cut: &cutter{seen: map[string]bool{}}}
	l.cluster = testutil.NewCluster(t, embedetcd.Options{Members: 3, Change: func(_ int, cfg *embed.Config) { cfg.TickMs, cfg.ElectionMs = 50, 500 }})
	var initial []string
	for i := range 3 {
		initial = append(initial, l.cluster.Name(i)+"="+l.cluster.PeerURL(i))
	}
	for i := range 3 {
		l.settings = append(l.settings, etcdcluster.Settings{Name: l.cluster.Name(i), InitialCluster: strings.Join(initial, ","), InitialClusterState: "new"})
		l.nodes = append(l.nodes, etcdcluster.Node{Name: l.cluster.Name(i), PeerURLs: []string{l.cluster.PeerURL(i)}, Client: l.client(i), Member: l.control(i)})
	}
	return l
}

func (l *lab) client(i int) *clientv3.Client {
	l.t.Helper()
	cfg := l.cluster.ClientConfig()
	cfg.Endpoints = cfg.Endpoints[i : i+1]
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if name, ok := strings.CutPrefix(method, "/etcdserverpb.Cluster/"); ok && name != "MemberList" && err == nil {
			l.cut.pass(name + " passed")
		}
		return err
	}))
	cli, err := clientv3.New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// control drives an embedded member. Its settings stay as a file would.
func (l *lab) control(i int) etcdcluster.Member {
	l.t.Helper()
	name := l.cluster.Name(i)
	around := func(what string, f func() error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := f()
			l.mu.Lock()
			force := l.settings[i].ForceNewCluster
			l.mu.Unlock()
			l.cut.pass(fmt.Sprintf("%s %s (force: %v)", what, name, force))
			return errors.Join(err, ctx.Err())
		}
	}
	move := func(from, to string) error {
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if _, err := os.Stat(to); err == nil {
			return fmt.Errorf("%s is there already", to)
		}
		return os.Rename(from, to)
	}
	data := filepath.Join(l.cluster.DataDir(i), "member")
	m, err := etcdcluster.MemberFuncs{
		Control:     etcdcluster.Control{Inputs: map[string]string{"embedded": name}},
		IsRunning:   func(context.Context) (bool, error) { return l.cluster.Member(i) != nil, nil },
		StopProcess: around("stop", func() error { return l.cluster.StopMember(i) }),
		ReadSettings: func(context.Context) (etcdcluster.Settings, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.settings[i], nil
		},
		WriteSettings: func(ctx context.Context, s etcdcluster.Settings) error {
			return around("configure", func() error {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.settings[i] = s
				return nil
			})(ctx)
		},
		StartProcess: func(ctx context.Context) error {
			return around("start", func() error {
				if l.cluster.Member(i) != nil {
					return nil
				}
				return l.start(ctx, i)
			})(ctx)
		},
		MoveDataAside: func(ctx context.Context, label string) error {
			return around("move", func() error { return move(data, data+"-"+label) })(ctx)
		},
		RestoreDataBack: func(ctx context.Context, label string) error {
			return around("restore", func() error { return move(data+"-"+label, data) })(ctx)
		},
	}.New()
	if err != nil {
		l.t.Fatal(err)
	}
	return m
}

// start starts a member as its settings say.
func (l *lab) start(ctx context.Context, i int) error {
	l.mu.Lock()
	s := l.settings[i]
	l.mu.Unlock()
	return l.cluster.StartMember(ctx, i, func(cfg *embed.Config) {
		cfg.Name, cfg.InitialCluster, cfg.ClusterState, cfg.ForceNewCluster = s.Name, s.InitialCluster, s.InitialClusterState, s.ForceNewCluster
	})
}

// kill stops members, as a crash would.
func (l *lab) kill(members ...int) {
	l.t.Helper()
	for _, i := range members {
		if err := l.cluster.StopMember(i); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) outage(survivor int) etcdcluster.Outage {
	o := etcdcluster.Outage{RequestTimeout: short}
	for i, n := range l.nodes {
		if i == survivor {
			o.Survivors = append(o.Survivors, n)
		} else {
			o.Dead = append(o.Dead, n)
		}
	}
	return o
}

func (l *lab) put(n etcdcluster.Node, key, value string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	if _, err := n.Client.Put(ctx, key, value); err != nil {
		l.t.Fatalf("put %s by %s: %v", key, n.Name, err)
	}
}

func (l *lab) want(n etcdcluster.Node, key, value string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	got, err := n.Client.Get(ctx, key)
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		l.t.Fatalf("%s holds another %s than %q: %v, %v", n.Name, key, value, got, err)
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// step makes steps and stops the test if their configuration is refused.
func step(t *testing.T) func(failover.Step, error) failover.Step { return must[failover.Step](t) }

func steps(t *testing.T) func([]failover.Step, error) []failover.Step {
	return must[[]failover.Step](t)
}

func plan(t *testing.T, all ...failover.Step) *failover.Plan {
	t.Helper()
	return must[*failover.Plan](t)(failover.NewPlan(failover.PlanConfig{Name: "test", Steps: all}))
}

// hooks puts boundaries after each record; the others lie in control and client.
func (l *lab) hooks() failover.Hooks {
	return failover.Hooks{Recorded: func(i failover.RecordedInfo) {
		l.cut.pass(fmt.Sprintf("record %s %s %s", i.Record.Kind, i.Record.Step, i.Record.Key))
	}}
}

// session runs or undoes a plan once; a new runner each time, as after a crash.
func (l *lab) session(p *failover.Plan, journal string, undo bool) error {
	l.t.Helper()
	r, err := failover.New(p, failover.Config{Journal: journal, Hooks: l.hooks(), NoWait: true, Poll: 10 * time.Millisecond})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	l.cut.mu.Lock()
	l.cut.cancel = cancel
	l.cut.mu.Unlock()
	if undo {
		return r.Undo(ctx, failover.UndoOptions{By: "test"})
	}
	return r.Run(ctx)
}

// drive repeats sessions as long as they are cut.
func (l *lab) drive(p *failover.Plan, journal string, undo bool) (sessions int, err error) {
	l.t.Helper()
	for sessions = 1; ; sessions++ {
		err = l.session(p, journal, undo)
		if errors.Is(err, failover.ErrBusy) { // a process that another test forks just then has the lock, too, until it is another program
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if !errors.Is(err, failover.ErrInterrupted) || l.ctx.Err() != nil {
			return sessions, err
		}
	}
}

func (l *lab) run(p *failover.Plan) {
	l.t.Helper()
	if err := l.session(p, l.journal(), false); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) journal() string { l.t.Helper(); return filepath.Join(l.t.TempDir(), "run.journal") }

func observe(t *testing.T, s failover.Step) (failover.Observation, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testutil.Context(t), 30*time.Second)
	defer cancel()
	return s.Observe(ctx)
}

// wantState waits until a step says so: a busy machine elects late.
func wantState(t *testing.T, s failover.Step, state failover.State, parts ...string) {
	t.Helper()
	for began := time.Now(); ; {
		got, err := observe(t, s)
		fits := err == nil && got.State == state
		for _, part := range parts {
			fits = fits && strings.Contains(got.Detail, part)
		}
		if fits {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s is %s (%s), %v; want %s and %q", s.Name(), got.State, got.Detail, err, state, parts)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
