package faultproxy

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
)

// reusePort is SO_REUSEPORT, which package syscall lacks.
const reusePort = 0xf

// heldPort is a port of 127.0.0.1 that stays this process's own while nobody listens on it, so that connections to it are
// refused: a bound socket that does not listen holds it.
type heldPort struct {
	address string
	fd      int
}

func holdPort() (*heldPort, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	h := &heldPort{fd: fd}
	if err := h.bind(); err != nil {
		h.release()
		return nil, err
	}
	return h, nil
}

func (h *heldPort) bind() error {
	if err := syscall.SetsockoptInt(h.fd, syscall.SOL_SOCKET, reusePort, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(h.fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	bound, err := syscall.Getsockname(h.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	h.address = fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	return nil
}

func (h *heldPort) listen() (net.Listener, error) {
	share := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if controlErr := raw.Control(func(fd uintptr) {
			err = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1))
		}); controlErr != nil {
			return controlErr
		}
		return err
	}}
	return share.Listen(context.Background(), "tcp4", h.address)
}

// release gives the port back. Further calls do nothing.
func (h *heldPort) release() {
	if h.fd >= 0 {
		_ = syscall.Close(h.fd)
		h.fd = -1
	}
}
