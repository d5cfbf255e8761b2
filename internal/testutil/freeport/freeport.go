// Package freeport finds ports for servers of tests that must know them before they listen, and again after a restart.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// Ports are taken from below the range that Linux gives to outgoing connections, so that the port of a stopped server
// is still free when it starts again.
const first, last = 18000, 32000

// Loopback is the address of a port on this host.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Reserve finds n ports that are free now. Another process may take one before it is listened on (IsInUse):
// the caller then tries others.
func Reserve(n int) ([]int, error) {
	var ports []int
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	var cause error
	for try := 0; len(ports) < n; try++ {
		if try == 100*n {
			return nil, fmt.Errorf("freeport: no %d free ports between %d and %d: %w", n, first, last, cause)
		}
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", Loopback(port))
		if err != nil {
			cause = err
			continue
		}
		listeners = append(listeners, l)
		ports = append(ports, port)
	}
	return ports, nil
}

// IsInUse reports whether an error says that an address is taken. It also looks at the text: etcd does not wrap every listener's error.
func IsInUse(err error) bool {
	return err != nil && (errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use"))
}
