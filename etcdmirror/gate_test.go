package etcdmirror_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// gate cuts a client off its cluster: connections break and new ones are refused while it is closed.
type gate struct {
	mu     sync.Mutex
	shut   bool
	conns  map[net.Conn]bool
	dialer net.Dialer
}

// gated returns a client whose connections pass a gate, which is open.
func gated(t testing.TB, c *embedetcd.Cluster) (*clientv3.Client, *gate) {
	t.Helper()
	g := &gate{conns: map[net.Conn]bool{}}
	cfg := c.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithContextDialer(g.dial))
	return connect(t, cfg), g
}

func (g *gate) dial(ctx context.Context, address string) (net.Conn, error) {
	if _, host, ok := strings.Cut(address, "://"); ok {
		address = host
	}
	conn, err := g.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		_ = conn.Close()
		return nil, errors.New("the gate is closed")
	}
	g.conns[conn] = true
	return conn, nil
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for conn := range g.conns {
		_ = conn.Close()
		delete(g.conns, conn)
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
}
