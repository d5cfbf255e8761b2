package embedetcd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// Ports are taken from below the range that Linux gives to outgoing connections, so that the port of a stopped member
// is still free when it starts again.
const firstPort, lastPort = 18000, 32000

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// reservePorts finds n ports that are free now. Members must know one another's addresses before they listen,
// so another process may take one in between; the caller then tries others.
func reservePorts(n int) ([]int, error) {
	var ports []int
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	var last error
	for try := 0; len(ports) < n; try++ {
		if try == 100*n {
			return nil, fmt.Errorf("embedetcd: no %d free ports between %d and %d: %w", n, firstPort, lastPort, last)
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			last = err
			continue
		}
		listeners = append(listeners, l)
		ports = append(ports, port)
	}
	return ports, nil
}

// isAddrInUse also looks at the text: etcd does not wrap every listener's error.
func isAddrInUse(err error) bool {
	return err != nil && (errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use"))
}
