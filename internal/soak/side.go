package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
	"github.com/understudy-dr/understudy/internal/testutil/history"
)

// callTimeout bounds one attempt of a call that does not pass a proxy.
const callTimeout = 5 * time.Second

// side is an etcd with the proxies in front of it. Everything but the mirror goes past the proxies.
type side struct {
	name     string
	cluster  *embedetcd.Cluster
	client   *clientv3.Client
	proxies  *faultproxy.Group
	recorder *history.Recorder
	members  int
	down     map[int]bool
	faulty   bool // a proxy has a fault
}

func newSide(ctx context.Context, name string, seed uint64, opts embedetcd.Options) (_ *side, err error) {
	s := &side{name: name, members: opts.Members, down: map[int]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start the %s: %w", name, err), s.close())
		}
	}()
	if s.cluster, err = embedetcd.Start(ctx, opts); err != nil {
		return nil, err
	}
	cfg := s.cluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, clientConfig(nil).DialOptions...)
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(passes))
	if s.client, err = clientv3.New(cfg); err != nil {
		return nil, err
	}
	if s.proxies, err = faultproxy.Start(faultproxy.Options{Seed: seed, Targets: s.cluster.Endpoints()}); err != nil {
		return nil, err
	}
	s.recorder, err = history.Start(ctx, s.client, history.Config{Identify: identify})
	return s, err
}

// passes gives errors that pass by themselves the code of such errors: a write that was dropped because the leader changed, and
// one to a member that was just ending. etcd gives them none.
func passes(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoker(ctx, method, req, reply, cc, opts...)
	if s, _ := status.FromError(err); s.Code() == codes.Unknown && (s.Message() == "raft proposal dropped" || s.Message() == "raft: stopped") {
		return status.Error(codes.Unavailable, s.Message())
	}
	return err
}

func identify(value []byte) (uid string, owners []string) {
	var id kubemeta.Identity
	if !kubemeta.Read(value, &id) {
		return "", nil
	}
	for _, o := range id.Owners {
		owners = append(owners, string(o))
	}
	return string(id.UID), owners
}

func (s *side) close() error {
	if s.recorder != nil {
		s.recorder.Close()
	}
	if s.proxies != nil {
		s.proxies.Close()
	}
	if s.client != nil {
		_ = s.client.Close() // says that its context was canceled
	}
	if s.cluster != nil {
		return s.cluster.Close()
	}
	return nil
}

// quorum tells whether the running members can agree on writes, sooner or later.
func (s *side) quorum() bool { return 2*(s.members-len(s.down)) > s.members }

// call repeats a call while the members are away or elect a leader.
func (s *side) call(ctx context.Context, call func(context.Context) error) error {
	for backoff := (etcdrpc.Backoff{}); ; {
		_, err := etcdrpc.Do(ctx, callTimeout, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
		if err == nil || etcdrpc.Classify(err) != etcdrpc.Retry {
			return err
		}
		if backoff.Wait(ctx) != nil {
			return fmt.Errorf("%s: %w; the last error: %w", s.name, context.Cause(ctx), err)
		}
	}
}

// compact forgets the history before a revision that the recorder has seen: often the last one.
func (s *side) compact(ctx context.Context, rng *rand.Rand) (string, error) {
	rev := s.recorder.Seen()
	if rev < 2 {
		return "", nil
	}
	if rng.IntN(2) == 0 {
		rev = 1 + rng.Int64N(rev)
	}
	err := s.call(ctx, func(ctx context.Context) error {
		_, err := s.client.Compact(ctx, rev)
		return err
	})
	if errors.Is(err, rpctypes.ErrCompacted) {
		err = nil
	}
	return fmt.Sprintf("at %d", rev), err
}

// defragment does what an operator does after compactions; the member answers nobody meanwhile.
func (s *side) defragment(ctx context.Context, rng *rand.Rand) (string, error) {
	i := rng.IntN(s.members)
	if s.down[i] {
		return "", nil
	}
	err := s.call(ctx, func(ctx context.Context) error {
		_, err := s.client.Defragment(ctx, s.cluster.Endpoints()[i])
		return err
	})
	return fmt.Sprintf("member %d", i), err
}

// moveLeader hands the leadership to another running member, if there is one and the members agree on a leader.
func (s *side) moveLeader(ctx context.Context, rng *rand.Rand) (string, error) {
	from, to := s.cluster.Leader(), rng.IntN(s.members)
	if from < 0 || from == to || s.down[to] {
		return "", nil
	}
	leader, next := s.cluster.Member(from).Server, s.cluster.Member(to).Server
	_, err := etcdrpc.Do(ctx, callTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, leader.MoveLeader(ctx, uint64(leader.MemberID()), uint64(next.MemberID()))
	})
	if err != nil {
		return "", nil // another election came in between
	}
	return fmt.Sprintf("from %d to %d", from, to), nil
}

// kill stops members without a chance to say goodbye.
func (s *side) kill(members ...int) error {
	for _, i := range members {
		if err := s.cluster.StopMember(i); err != nil {
			return err
		}
		s.down[i] = true
	}
	return nil
}

// restart starts the members that are down.
func (s *side) restart(ctx context.Context) error {
	for i := range s.members {
		if !s.down[i] {
			continue
		}
		if err := s.cluster.StartMember(ctx, i, nil); err != nil {
			return err
		}
		delete(s.down, i)
	}
	return nil
}

// calm ends the proxies' faults.
func (s *side) calm() {
	s.proxies.Clear()
	s.faulty = false
}
