package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/understudy-dr/understudy/failover/runbook"
	"github.com/understudy-dr/understudy/failover/steps/network"
	"github.com/understudy-dr/understudy/internal/testutil/daemon"
)

// balancer is the HAProxy in front of a site, with a virtual IP of its own.
type balancer struct{ name, vip, socket string }

// startBalancer forwards the ports of a virtual IP to a site's API servers and etcd.
func startBalancer(ctx context.Context, t *testing.T, s *site) *balancer {
	t.Helper()
	dir, err := os.MkdirTemp("", "lb") // the paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &balancer{name: s.name, vip: fmt.Sprintf("127.%d.%d.%d", 100+rand.IntN(150), rand.IntN(256), 1+rand.IntN(250)), socket: filepath.Join(dir, "s")}
	var servers strings.Builder
	for i, server := range s.Servers {
		fmt.Fprintf(&servers, "    server api%d %s check inter 200ms\n", i, server.Addr)
	}
	_, etcd, _ := strings.Cut(s.Etcd.Endpoints[0], "://")
	daemon.HAProxy(t, b.socket, fmt.Sprintf(`global
    stats socket %s level admin
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
frontend api
    bind %s:6443
    default_backend apiservers
frontend etcd
    bind %s:2379
    default_backend etcd
backend apiservers
%sbackend etcd
    server etcd %s
`, b.socket, b.vip, b.vip, servers.String(), etcd))
	return b
}

// runbook is the process as plans know it.
func (b *balancer) runbook() []runbook.Balancer {
	return []runbook.Balancer{{HAProxy: network.HAProxy{Name: "lb-" + b.name, Address: b.socket}, Clients: []string{"api"}, Etcd: []string{"etcd"}}}
}

// name is the platform's domain for clients: each connection is made to where it leads at that moment.
type name struct {
	to     atomic.Pointer[balancer]
	dialer net.Dialer
}

func (n *name) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return n.dialer.DialContext(ctx, network, n.to.Load().vip+":6443")
}
