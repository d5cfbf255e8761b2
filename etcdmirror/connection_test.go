package etcdmirror_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// threeMembers is a cluster that elects a leader in less than half a second.
func threeMembers() embedetcd.Options {
	return embedetcd.Options{Members: 3, Change: func(_ int, cfg *embed.Config) { cfg.TickMs, cfg.ElectionMs = 30, 300 }}
}

// calls looks at what a mirror's client sends.
type calls struct {
	lastWatch atomic.Value // address of the member that the newest watch stream hangs on
	logins    atomic.Int64
	vanishing
	// careless are methods called without a deadline of their own, or without asking for a leader: a member that has none would keep the call.
	careless sync.Map
}

func (c *calls) options() []grpc.DialOption {
	asksForLeader := func(ctx context.Context) bool {
		md, _ := metadata.FromOutgoingContext(ctx)
		return len(md.Get(rpctypes.MetadataRequireLeaderKey)) == 1
	}
	return []grpc.DialOption{grpc.WithContextDialer(c.dial),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if strings.HasSuffix(method, "/Authenticate") {
				c.logins.Add(1)
			} else if _, limited := ctx.Deadline(); !limited || !asksForLeader(ctx) {
				c.careless.Store(method, true)
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if !asksForLeader(ctx) {
				c.careless.Store(method, true)
			}
			s, err := streamer(ctx, desc, cc, method, opts...)
			return answeredStream{s, c}, err
		}),
	}
}

type answeredStream struct {
	grpc.ClientStream
	c *calls
}

func (s answeredStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if p, ok := peer.FromContext(s.Context()); ok && err == nil {
		s.c.lastWatch.Store(p.Addr.String())
	}
	return err
}

// vanishing makes the peers of connections vanish: nothing comes any more, what is sent is lost, and nobody says so.
type vanishing struct {
	mu    sync.Mutex
	conns map[string][]*vanishingConn // by address
}

type vanishingConn struct {
	net.Conn
	gone atomic.Bool
}

func (v *vanishing) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conns == nil {
		v.conns = map[string][]*vanishingConn{}
	}
	c := &vanishingConn{Conn: conn}
	v.conns[address] = append(v.conns[address], c)
	return c, nil
}

// vanish lets the peer at an address vanish from the connections that are open now; end closes them.
func (v *vanishing) vanish(address string) (end func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	conns := v.conns[address]
	for _, c := range conns {
		c.gone.Store(true)
	}
	return func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func (c *vanishingConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.gone.Load() {
			return n, err
		}
	}
}

func (c *vanishingConn) Write(b []byte) (int, error) {
	if c.gone.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// watched is the index of the member that the watch hangs on.
func (c *calls) watched(cluster *embedetcd.Cluster) int {
	address, _ := c.lastWatch.Load().(string)
	for i, endpoint := range cluster.Endpoints() {
		if strings.HasSuffix(endpoint, "//"+address) {
			return i
		}
	}
	return -1
}

// mustBeCareful fails the test for each method that was called without a deadline or without asking for a leader.
func (c *calls) mustBeCareful(t testing.TB, side string) {
	t.Helper()
	c.careless.Range(func(method, _ any) bool {
		t.Errorf("%s: %v was called without a deadline or without asking for a leader", side, method)
		return true
	})
}

// clusters are the moves that a test makes with members.
type clusters struct {
	*recordedPair
	t testing.TB
}

func (p clusters) stop(c *embedetcd.Cluster, members ...int) {
	p.t.Helper()
	for _, i := range members {
		if err := c.StopMember(i); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p clusters) start(c *embedetcd.Cluster, members ...int) {
	p.t.Helper()
	for _, i := range members {
		if err := c.StartMember(p.ctx, i, nil); err != nil {
			p.t.Fatal(err)
		}
	}
}

// leader waits for an election.
func (p clusters) leader(c *embedetcd.Cluster) int {
	p.t.Helper()
	for p.ctx.Err() == nil {
		if i := c.Leader(); i >= 0 {
			return i
		}
		time.Sleep(5 * time.Millisecond) // a poll
	}
	p.t.Fatal("no leader was elected")
	return -1
}

// moveLeader hands the leadership to the next member.
func (p clusters) moveLeader(c *embedetcd.Cluster) {
	p.t.Helper()
	for {
		i := p.leader(c)
		server, next := c.Member(i).Server, c.Member((i+1)%3).Server
		if err := server.MoveLeader(p.ctx, uint64(server.MemberID()), uint64(next.MemberID())); err == nil {
			return
		} else if p.ctx.Err() != nil {
			p.t.Fatal(err)
		}
	}
}

// cut separates a member from its peers while its clients still reach it; mend joins them again.
func (p clusters) cut(c *embedetcd.Cluster, i int) (mend func()) {
	each := func(f func(from int, to types.ID)) {
		for other := range 3 {
			if other != i {
				f(i, c.Member(other).Server.MemberID())
				f(other, c.Member(i).Server.MemberID())
			}
		}
	}
	each(func(from int, to types.ID) { c.Member(from).Server.CutPeer(to) })
	return func() { each(func(from int, to types.ID) { c.Member(from).Server.MendPeer(to) }) }
}

// without is a client of all members but one.
func (p clusters) without(c *embedetcd.Cluster, i int) *clientv3.Client {
	cfg := c.ClientConfig()
	cfg.Endpoints = append(append([]string(nil), cfg.Endpoints[:i]...), cfg.Endpoints[i+1:]...)
	return connect(p.t, cfg)
}

// leaderless waits until a member that was cut off knows that it has no leader.
func (p clusters) leaderless(c *embedetcd.Cluster, i int) {
	p.t.Helper()
	for c.Member(i).Server.Leader() != 0 {
		if p.ctx.Err() != nil {
			p.t.Fatal("a member that is cut off still knows a leader")
		}
		time.Sleep(5 * time.Millisecond) // a poll
	}
}

// lose stops the leader and one more, and waits until the one that is left knows no leader.
func (p clusters) lose(c *embedetcd.Cluster) (recover func()) {
	p.t.Helper()
	leader := p.leader(c)
	p.stop(c, leader, (leader+1)%3)
	p.leaderless(c, (leader+2)%3)
	return func() { p.start(c, leader, (leader+1)%3) }
}

// startWatched starts a mirror whose clients' calls are looked at.
func (p clusters) startWatched(cfg etcdmirror.Config) (r *running, source, target *calls) {
	source, target = &calls{}, &calls{}
	s, t := p.source, p.target
	defer func() { p.source, p.target = s, t }()
	for _, side := range []struct {
		cluster *embedetcd.Cluster
		calls   *calls
		client  **clientv3.Client
	}{{p.sourceCluster, source, &p.source}, {p.targetCluster, target, &p.target}} {
		cfg := side.cluster.ClientConfig()
		cfg.DialOptions = side.calls.options()
		*side.client = connect(p.t, cfg)
	}
	return p.pair.start(cfg), source, target
}

// A mirror that is connected to all members of both sides goes on whichever of them is lost, without a copy and without a wrong state in between.
// A side that has lost its quorum is waited for, and the status says so.
func TestP7MembersLeadersAndQuorumsComeAndGo(t *testing.T) {
	p := clusters{newRecordedPair(t, threeMembers(), threeMembers()), t}
	seed := rand.Uint64() % (1 << 62)
	t.Logf("seed %d", seed)
	gen := traffic.New(traffic.Config{Seed: seed, MaxValue: 20 << 10})
	write := func() {
		t.Helper()
		if err := gen.Run(p.ctx, p.source, 10); err != nil {
			t.Fatal(err)
		}
	}
	write()
	r, sourceCalls, targetCalls := p.startWatched(etcdmirror.Config{RequestTimeout: time.Second, ProgressInterval: 50 * time.Millisecond, StallTimeout: 500 * time.Millisecond, SessionTTL: 2 * time.Second})
	p.sync(r)
	before := r.Status()

	source, target, direct := p.sourceCluster, p.targetCluster, p.source
	waits := func(side string, why ...string) {
		t.Helper()
		p.eventually(r, fmt.Sprintf("waiting for the %s: %q", side, why), func(s etcdmirror.Status) bool {
			return s.State == etcdmirror.StateWaiting && strings.HasPrefix(s.Reason, side+": ") &&
				!slices.ContainsFunc(why, func(text string) bool { return !contains(s.Reason, text) })
		})
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"the member that the watch hangs on is lost", func() {
			i := sourceCalls.watched(source)
			p.stop(source, i)
			p.leader(source)
			write()
			p.sync(r)
			if now := sourceCalls.watched(source); now == i || now < 0 {
				t.Errorf("the watch hangs on member %d, but %d was stopped", now, i)
			}
			p.start(source, i)
		}},
		{"the member that the watch hangs on vanishes without a word", func() {
			i := sourceCalls.watched(source)
			end := sourceCalls.vanish(strings.TrimPrefix(source.Endpoints()[i], "http://"))
			write()
			p.sync(r)
			if now := sourceCalls.watched(source); now == i {
				t.Errorf("the watch hangs on member %d, which has vanished", i)
			}
			end()
		}},
		{"both leaders are lost", func() {
			i, j := p.leader(source), p.leader(target)
			p.stop(source, i)
			p.stop(target, j)
			p.leader(source)
			write()
			p.sync(r)
			p.start(source, i)
			p.start(target, j)
		}},
		{"leaderships move", func() {
			for range 2 {
				p.moveLeader(source)
				write()
				p.moveLeader(target)
				write()
			}
		}},
		{"the member that the watch hangs on and one of the target know no leader", func() {
			i, j := sourceCalls.watched(source), p.leader(target)
			mendSource, mendTarget := p.cut(source, i), p.cut(target, j)
			p.leaderless(target, j)
			p.source = p.without(source, i)
			write()
			p.sync(r)
			if now := sourceCalls.watched(source); now == i {
				t.Errorf("the watch hangs on member %d, which is cut off", i)
			}
			for range 3 { // each makes its calls at other members than the one before
				other, _, _ := p.startWatched(etcdmirror.Config{Name: "other", TargetPrefix: "/elsewhere/"})
				p.sync(other)
				other.stop()
			}
			p.source = direct
			mendSource()
			mendTarget()
		}},
		{"both sides lose their quorum", func() {
			recoverSource, recoverTarget := p.lose(source), p.lose(target)
			waits("source", "no leader")
			recoverSource()
			write()
			waits("target", "no leader")
			waits("target", "no leader", "candidate") // meanwhile its leadership has expired
			recoverTarget()
		}},
	} {
		began := time.Now()
		step.do()
		write()
		p.sync(r)
		s := r.Status()
		t.Logf("%s: %v", step.name, time.Since(began).Round(time.Millisecond))
		if s.State == etcdmirror.StateWaiting {
			t.Errorf("%s: afterwards still %q", step.name, s.Reason)
		}
	}
	if after := r.Status(); after.Resyncs != before.Resyncs || after.Epoch != before.Epoch || after.Reconnects < 3 {
		t.Errorf("%d resyncs, epoch %d, %d reconnects", after.Resyncs, after.Epoch, after.Reconnects)
	}
	r.stop()
	p.check()
	p.mustEqual("/registry/", nil)
	sourceCalls.mustBeCareful(t, "source")
	targetCalls.mustBeCareful(t, "target")
}
