package connect

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// network connects clients to servers within the process, so that time can be that of the test.
type network struct {
	mu       sync.Mutex
	away     bool // connections are refused
	accepted chan net.Conn
	closed   sync.Once
	dialed   []time.Time
	conns    []*link
}

// link is a client's end of a connection whose peer may vanish: nothing comes, what is sent is lost, and nobody says so.
type link struct {
	net.Conn
	lost chan struct{}
}

func (l *link) Write(b []byte) (int, error) {
	select {
	case <-l.lost:
		return len(b), nil
	default:
		return l.Conn.Write(b)
	}
}

func (n *network) dial(context.Context, string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed = append(n.dialed, time.Now())
	if n.away {
		return nil, errors.New("nobody there")
	}
	client, server := net.Pipe()
	l := &link{client, make(chan struct{})}
	n.conns = append(n.conns, l)
	n.accepted <- server
	return l, nil
}

func (n *network) dials() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]time.Time(nil), n.dialed...)
}

// cut makes the peer of a connection vanish.
func (n *network) cut(i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.conns[i].lost)
}

func (n *network) connections() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

func (n *network) setAway(away bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = away
}

// Accept, Close and Addr make it a listener.
func (n *network) Accept() (net.Conn, error) {
	conn, ok := <-n.accepted
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (n *network) Close() error   { n.closed.Do(func() { close(n.accepted) }); return nil }
func (n *network) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs f with a client of a side and a server that answers no call, in a time of their own.
func inBubble(t *testing.T, f func(t *testing.T, n *network, client *clientv3.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &network{accepted: make(chan net.Conn, 100)}
		server := grpc.NewServer(
			// etcd's, by which a client that tries its connection too often is cut off.
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: embed.DefaultGRPCKeepAliveMinTime}),
			grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { <-s.Context().Done(); return nil }))
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(n) }()
		side := newTestSide(t, "--source-endpoints=10.0.0.1:2379")
		p, err := side.plan()
		if err != nil {
			t.Fatal(err)
		}
		cfg := side.clientConfig(p)
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithContextDialer(n.dial))
		client, err := clientv3.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f(t, n, client)
		_ = client.Close()
		server.Stop()
		<-served
	})
}

// stream opens a call that lasts and returns what ends it.
func stream(ctx context.Context, client *clientv3.Client) <-chan error {
	ended := make(chan error, 1)
	go func() {
		s, err := client.ActiveConnection().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test/Lasts", grpc.WaitForReady(true))
		if err == nil {
			err = s.RecvMsg(nil)
		}
		ended <- err
	}()
	return ended
}

// A peer that vanishes without a word is noticed before a mirror's StallTimeout of 15 seconds, and a new connection is made.
func TestVanishedPeers(t *testing.T) {
	const stallTimeout = 15 * time.Second
	for name, idle := range map[string]time.Duration{"in use": 0, "unused for ten minutes": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *network, client *clientv3.Client) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				first := stream(ctx, client)
				synctest.Wait()
				if idle > 0 {
					cancel()
					<-first
				}
				time.Sleep(idle)
				if len(n.dials()) != 1 {
					t.Fatalf("%d connections", len(n.dials()))
				}
				n.cut(0)
				vanished := time.Now()
				if idle > 0 { // noticed by the first call
					first = stream(t.Context(), client)
				}
				select {
				case err := <-first:
					t.Logf("after %v: %v", time.Since(vanished), err)
				case <-time.After(stallTimeout):
					t.Errorf("not noticed within %v", stallTimeout)
				}
				synctest.Wait()
				time.Sleep(time.Second)
				if dials := n.dials(); len(dials) != 2 {
					t.Errorf("%d connections", len(dials))
				}
				again, cancelAgain := context.WithCancel(t.Context())
				defer cancelAgain()
				second := stream(again, client)
				time.Sleep(time.Hour)
				select {
				case err := <-second:
					t.Errorf("a healthy connection was given up: %v", err)
				default:
					cancelAgain()
					<-second
				}
			})
		})
	}
}

// After a long outage, the connection is back within seconds of the peer.
func TestReconnectionAfterALongOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network, client *clientv3.Client) {
		n.setAway(true)
		ctx, cancel := context.WithCancel(t.Context())
		call := stream(ctx, client)
		time.Sleep(time.Hour)
		dials := n.dials()
		for i := range dials[1:] {
			if pause := dials[i+1].Sub(dials[i]); pause > 6*time.Second || pause < 300*time.Millisecond {
				t.Fatalf("pause %d is %v", i, pause)
			}
		}
		n.setAway(false)
		time.Sleep(7 * time.Second)
		if now := len(n.dials()); now > len(dials)+2 || n.connections() != 1 {
			t.Errorf("%d attempts, %d connections", now-len(dials), n.connections())
		}
		cancel()
		<-call
	})
}
