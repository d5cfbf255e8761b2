package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

func socket(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	return fd
}

func bind(t *testing.T, fd int) int {
	t.Helper()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*syscall.SockaddrInet4).Port
}

// silentPort is a port that answers nothing, as one behind a filter: its queue of connections is full, and Linux drops what comes then.
func silentPort(t *testing.T) int {
	t.Helper()
	fd := socket(t)
	port := bind(t, fd)
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		c, err := net.DialTimeout("tcp", endpoint("127.0.0.1", port), 300*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Skip("this system takes connections beyond the queue's end")
	return 0
}

func TestOpenRefusedAndFilteredPortsAreToldApart(t *testing.T) {
	openPort, refusedPort, silent := listen(t, "127.0.0.1:0"), closedPort(t), silentPort(t)
	cfg := PortsConfig{Addresses: []string{"127.0.0.1"}, Ports: []int{openPort, refusedPort, silent}, Timeout: 200 * time.Millisecond, Attempts: 2}
	all := []string{fmt.Sprintf("%d open", openPort), fmt.Sprintf("%d refused", refusedPort), fmt.Sprintf("%d filtered (no answer in 200ms)", silent), "127.0.0.1: "}
	look(t, must(t)(PortsOpen(cfg)), failover.Blocked, all...)
	look(t, must(t)(PortsClosed(cfg)), failover.Blocked, all...)
	cfg.Ports = cfg.Ports[:1]
	look(t, must(t)(PortsOpen(cfg)), failover.Done, all[0])
	cfg.Ports = []int{refusedPort, silent}
	look(t, must(t)(PortsClosed(cfg)), failover.Done, all[1:]...)
}

// All addresses of a name count, of both families: the one that is closed decides.
func TestEveryAddressOfANameIsLookedAt(t *testing.T) {
	port := listen(t, "127.0.0.1:0")
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "vip.example.com" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
	}
	cfg := PortsConfig{Addresses: []string{"vip.example.com"}, Ports: []int{port}, Lookup: lookup}
	parts := []string{fmt.Sprintf("vip.example.com (127.0.0.1): %d open", port), fmt.Sprintf("vip.example.com (::1): %d refused", port)}
	look(t, must(t)(PortsOpen(cfg)), failover.Blocked, parts...)
	look(t, must(t)(PortsClosed(cfg)), failover.Blocked, parts...)
	listen(t, endpoint("::1", port))
	look(t, must(t)(PortsOpen(cfg)), failover.Done)
	// A literal IPv6 address.
	cfg.Addresses = []string{"::1"}
	look(t, must(t)(PortsOpen(cfg)), failover.Done, fmt.Sprintf("::1: %d open", port))
	// A name without an address tells nothing of ports: neither gate passes.
	cfg.Addresses = []string{"gone.example.com"}
	look(t, must(t)(PortsOpen(cfg)), failover.Blocked, "gone.example.com: cannot be looked up: no such host")
	look(t, must(t)(PortsClosed(cfg)), failover.Blocked, "cannot be looked up")
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// A flaky port is open; a port that this machine could not ask about is not closed.
func TestAttemptsAndWhatCannotBeKnown(t *testing.T) {
	port := listen(t, "127.0.0.1:0")
	var n atomic.Int32
	flaky := dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		if n.Add(1)%3 != 0 {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	cfg := PortsConfig{Addresses: []string{"127.0.0.1"}, Ports: []int{port}, Dialer: flaky}
	look(t, must(t)(PortsOpen(cfg)), failover.Done, "open at attempt 3")
	look(t, must(t)(PortsClosed(cfg)), failover.Blocked, "open at attempt 3")
	cfg.Attempts = 2
	n.Store(0)
	look(t, must(t)(PortsOpen(cfg)), failover.Blocked, "refused")
	for err, want := range map[error]failover.State{
		syscall.ENETUNREACH: failover.Blocked, syscall.EPERM: failover.Blocked, syscall.EMFILE: failover.Blocked,
		syscall.EHOSTUNREACH: failover.Done, syscall.ECONNREFUSED: failover.Done, context.DeadlineExceeded: failover.Done,
	} {
		cfg.Dialer = dialFunc(func(context.Context, string, string) (net.Conn, error) { return nil, err })
		look(t, must(t)(PortsClosed(cfg)), want)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	var now, most atomic.Int32
	release := make(chan struct{})
	var once sync.Once
	dial := dialFunc(func(context.Context, string, string) (net.Conn, error) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == 3 { // the bound is reached: go on
			once.Do(func() { close(release) })
		}
		<-release
		now.Add(-1)
		return nil, syscall.ECONNREFUSED
	})
	ports := []int{1, 2, 3, 4, 5, 6, 7, 8, 9}
	s := must(t)(PortsClosed(PortsConfig{Addresses: []string{"127.0.0.1"}, Ports: ports, Parallel: 3, Attempts: 1, Dialer: dial}))
	look(t, s, failover.Done)
	if got := most.Load(); got != 3 {
		t.Errorf("%d connections at a time, want 3", got)
	}
}

func TestPortGatesInPlans(t *testing.T) {
	port := listen(t, "127.0.0.1:0")
	cfg := PortsConfig{Addresses: []string{"127.0.0.1"}, Ports: []int{port}}
	if err := steprun.New(t).Run(must(t)(PortsOpen(cfg))); err != nil {
		t.Error(err)
	}
	if err := steprun.New(t).Run(must(t)(PortsClosed(cfg))); !errors.Is(err, failover.ErrBlocked) {
		t.Errorf("got %v, want ErrBlocked", err)
	}
	// Of the primary, without the primary: left out, and the rest of the plan goes on.
	lab := steprun.New(t)
	lab.Mode = failover.ModeUngraceful
	cfg.OfPrimary, cfg.Ports = true, []int{closedPort(t)}
	open := must(t)(PortsOpen(cfg))
	if err := lab.Run(open, must(t)(PortsClosed(PortsConfig{Addresses: []string{"127.0.0.1"}, Ports: []int{closedPort(t)}}))); err != nil {
		t.Error(err)
	}
	if got := lab.Step().State; got != failover.StepLeftOut {
		t.Errorf("the primary's gate is %s", got)
	}
	// In a planned run it is a gate like any other.
	if err := steprun.New(t).Run(open); !errors.Is(err, failover.ErrBlocked) {
		t.Errorf("got %v, want ErrBlocked", err)
	}
}

func TestPortsConfig(t *testing.T) {
	for field, cfg := range map[string]PortsConfig{
		"Addresses is empty": {}, "Addresses[0]": {Addresses: []string{"10.0.0.1:80"}}, `"10.0.0.256"`: {Addresses: []string{"10.0.0.256"}}, "Addresses[1]": {Addresses: []string{"a", "a"}},
		"Ports[0] is 0": {Addresses: []string{"a"}, Ports: []int{0}}, "Ports[1], 80": {Addresses: []string{"a"}, Ports: []int{80, 80}}, "Ports is empty": {Addresses: []string{"a"}, Ports: []int{}},
		"Timeout": {Addresses: []string{"a"}, Timeout: -1}, "Attempts": {Addresses: []string{"a"}, Attempts: -1}, "Parallel": {Addresses: []string{"a"}, Parallel: -1},
	} {
		_, err := PortsOpen(cfg)
		wantConfig(t, err, field)
	}
}
