//go:build unix

// Package sshserver is an ssh server within the test's process, which runs commands on this machine. It does what OpenSSH's sshd does for commands, and can be made to fail.
package sshserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// Options say what the server does; the zero value takes every key.
type Options struct {
	// HostKeys it shows; empty makes one.
	HostKeys []ssh.Signer
	// Allow decides about a user's key; nil takes all.
	Allow func(user string, key ssh.PublicKey) error
	// Path is in front of $PATH of commands.
	Path string
	// Env has more variables for commands, as NAME=value.
	Env []string
	// Banner is printed to both outputs before each command, as a login shell's files may do.
	Banner string
	// Refuse refuses to run commands.
	Refuse bool
}

// Server listens on the loopback address.
type Server struct {
	Addr string
	Host ssh.Signer // its first key

	opts     Options
	config   *ssh.ServerConfig
	listener net.Listener
	done     sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]bool
	logins   int
	commands []string
	closed   bool
}

// Start starts one that ends with the test.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	if len(opts.HostKeys) == 0 {
		opts.HostKeys = []ssh.Signer{NewKey(t)}
	}
	s := &Server{Host: opts.HostKeys[0], opts: opts, conns: map[net.Conn]bool{}}
	s.config = &ssh.ServerConfig{MaxAuthTries: 6, PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if opts.Allow == nil {
			return nil, nil
		}
		return nil, opts.Allow(c.User(), key)
	}}
	for _, key := range opts.HostKeys {
		s.config.AddHostKey(key)
	}
	s.listen(t, "127.0.0.1:0")
	s.Addr = s.listener.Addr().String()
	t.Cleanup(s.stop)
	return s
}

// NewKey makes a key.
func NewKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// KnownLine is its line in known_hosts.
func (s *Server) KnownLine() string {
	return knownhosts.Line([]string{s.Addr}, s.Host.PublicKey()) + "\n"
}

// Logins is how many connections have logged in.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Commands are those that were asked for.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// Drop cuts all connections; programs run on.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

func (s *Server) listen(t testing.TB, addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.listener = l
	s.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.closed {
				_ = c.Close()
			} else {
				s.conns[c] = true
				s.done.Go(func() { s.serve(c) })
			}
			s.mu.Unlock()
		}
	})
}

func (s *Server) stop() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.listener.Close()
	s.Drop()
	s.done.Wait()
}

func (s *Server) serve(raw net.Conn) {
	defer func() {
		_ = raw.Close()
		s.mu.Lock()
		delete(s.conns, raw)
		s.mu.Unlock()
	}()
	conn, chans, reqs, err := ssh.NewServerConn(raw, s.config)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.logins++
	s.mu.Unlock()
	s.done.Go(func() { ssh.DiscardRequests(reqs) })
	for ch := range chans {
		switch ch.ChannelType() {
		case "session":
			if c, r, err := ch.Accept(); err == nil {
				s.done.Go(func() { s.session(c, r) })
			}
		case "direct-tcpip":
			s.done.Go(func() { forward(ch) })
		default:
			_ = ch.Reject(ssh.UnknownChannelType, "")
		}
	}
	_ = conn.Close()
}

func forward(ch ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &to); err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	out, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(to.Host), Port: int(to.Port)})
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	in, reqs, err := ch.Accept()
	if err != nil {
		_ = out.Close()
		return
	}
	go ssh.DiscardRequests(reqs)
	done := make(chan struct{})
	go func() { _, _ = io.Copy(out, in); _ = out.Close(); close(done) }()
	_, _ = io.Copy(in, out)
	_ = in.Close()
	<-done
}

func (s *Server) session(c ssh.Channel, reqs <-chan *ssh.Request) {
	defer c.Close()
	for r := range reqs {
		if r.Type != "exec" || s.opts.Refuse {
			_ = r.Reply(false, nil)
			continue
		}
		var msg struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &msg); err != nil {
			_ = r.Reply(false, nil)
			continue
		}
		s.mu.Lock()
		s.commands = append(s.commands, msg.Command)
		s.mu.Unlock()
		_ = r.Reply(true, nil)
		s.done.Go(func() {
			for r := range reqs {
				_ = r.Reply(false, nil)
			}
		})
		s.run(c, msg.Command)
		return
	}
}

func (s *Server) run(c ssh.Channel, line string) {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), s.opts.Env...)
	if s.opts.Path != "" {
		cmd.Env = append(cmd.Env, "PATH="+s.opts.Path+":"+os.Getenv("PATH"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = c, c.Stderr()
	if s.opts.Banner != "" {
		_, _ = io.WriteString(c, s.opts.Banner+"\n")
		_, _ = io.WriteString(c.Stderr(), s.opts.Banner+"\n")
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return
	}
	go func() { _, _ = io.Copy(stdin, c); _ = stdin.Close() }()
	err = cmd.Wait()
	var exit *exec.ExitError
	status := uint32(0)
	if errors.As(err, &exit) {
		if w := exit.Sys().(syscall.WaitStatus); w.Signaled() {
			_, _ = c.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Signal     string
				CoreDumped bool
				Error      string
				Lang       string
			}{Signal: strings.TrimPrefix(unix.SignalName(w.Signal()), "SIG")}))
			return
		}
		status = uint32(exit.ExitCode())
	}
	_, _ = c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}
