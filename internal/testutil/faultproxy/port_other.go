//go:build !linux

package faultproxy

import "net"

// heldPort is a port of 127.0.0.1. Here nothing holds it while nobody listens on it.
type heldPort struct{ address string }

func holdPort() (*heldPort, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &heldPort{l.Addr().String()}
	return h, l.Close()
}

func (h *heldPort) listen() (net.Listener, error) { return net.Listen("tcp4", h.address) }

func (h *heldPort) release() {}
