package nodes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHConfig says how a machine is reached by ssh. A configuration file of ssh is not read.
type SSHConfig struct {
	// Name is what plans call it; "" is Address.
	Name string
	// Address is a host name or address, with ":port" where that is not 22. known_hosts has to have the key under this name. Required.
	Address string
	// User logs in. Required.
	User string
	// KnownHosts are the files with the keys of hosts; nil is ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts, those that are there.
	KnownHosts []string
	// KeyFiles are private keys. A certificate beside one, named as ssh-keygen does (key-cert.pub), is used with it.
	KeyFiles []string
	// Passphrase returns the passphrase of a key file that has one. It is asked when the first connection is made, once for each file.
	Passphrase func(ctx context.Context, keyFile string) ([]byte, error)
	// Agent is the socket of an ssh-agent; "" is $SSH_AUTH_SOCK where that is set, "none" is none. Its keys are tried after those of KeyFiles.
	Agent string
	// Jump is the host through which this one is reached (ProxyJump); nil connects directly. Close it after this one.
	Jump *SSH

	// ConnectTimeout bounds making a connection, login included, and each other answer of the server; 0 is DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// CommandTimeout bounds commands that say none; 0 is DefaultCommandTimeout.
	CommandTimeout time.Duration
	// KeepAlive is how often the server is asked for a sign of life; a connection that gives none for three times as long is given up. 0 is DefaultKeepAlive.
	KeepAlive time.Duration
	// Logger gets connections that were made and lost; nil discards.
	Logger *slog.Logger
}

// SSH is a machine that is reached by ssh. One connection is made when it is needed, kept for the commands that follow, and made anew when it was lost.
type SSH struct {
	cfg    SSHConfig
	addr   string // with the port
	signer []*keyFile
	log    *slog.Logger

	// turn is held while a connection is made. A channel, so that waiting for it ends with a context.
	turn chan struct{}
	// room limits how many commands run at once: sshd allows ten sessions for each connection (MaxSessions), and some are kept for ending commands.
	room chan struct{}

	mu     sync.Mutex
	client *ssh.Client
	closed bool
	loose  sync.WaitGroup // goroutines
}

var _ Host = (*SSH)(nil)

const maxSessions = 6

// NewSSH checks the configuration and reads the key files; it connects to nothing. Errors match failover.ErrConfig.
func NewSSH(cfg SSHConfig) (*SSH, error) {
	s := &SSH{cfg: cfg, log: cfg.Logger, turn: make(chan struct{}, 1), room: make(chan struct{}, maxSessions)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	bad := func(field, detail, hint string) { errs = append(errs, badConfig("SSHConfig."+field+" "+detail, hint)) }
	switch host, port, err := splitAddress(cfg.Address); {
	case cfg.Address == "":
		bad("Address", "is missing", "give a host name or address")
	case err != nil:
		bad("Address", fmt.Sprintf("is %q: %v", cfg.Address, err), "give a host name or address, and a port only if it is not 22")
	default:
		s.addr = net.JoinHostPort(host, port)
	}
	if s.cfg.Name == "" {
		s.cfg.Name = cfg.Address
	}
	if cfg.Address != "" && !hostName.MatchString(s.cfg.Name) {
		bad("Name", fmt.Sprintf("is %q", s.cfg.Name), "use letters, digits and . _ - : @")
	}
	if cfg.User == "" {
		bad("User", "is missing", "name the user who logs in")
	}
	for _, d := range []struct {
		field string
		value *time.Duration
		zero  time.Duration
	}{{"ConnectTimeout", &s.cfg.ConnectTimeout, DefaultConnectTimeout}, {"CommandTimeout", &s.cfg.CommandTimeout, DefaultCommandTimeout}, {"KeepAlive", &s.cfg.KeepAlive, DefaultKeepAlive}} {
		if *d.value < 0 {
			bad(d.field, "is negative", "leave it 0 for the default")
		} else if *d.value == 0 {
			*d.value = d.zero
		}
	}
	switch s.cfg.Agent {
	case "":
		s.cfg.Agent = os.Getenv("SSH_AUTH_SOCK")
	case "none":
		s.cfg.Agent = ""
	}
	if len(cfg.KeyFiles) == 0 && s.cfg.Agent == "" {
		bad("KeyFiles", "is empty and there is no ssh-agent", "give a private key file, or start an agent (SSH_AUTH_SOCK)")
	}
	for i, path := range cfg.KeyFiles {
		key, err := readKeyFile(path, cfg.Passphrase != nil)
		if err != nil {
			bad(fmt.Sprintf("KeyFiles[%d]", i), "cannot be used: "+err.Error(), "give a private key file that this user may read; for one with a passphrase set SSHConfig.Passphrase or use an agent")
			continue
		}
		s.signer = append(s.signer, key)
	}
	if cfg.KnownHosts == nil {
		s.cfg.KnownHosts = defaultKnownHosts()
		if len(s.cfg.KnownHosts) == 0 {
			bad("KnownHosts", "is not set, and neither ~/.ssh/known_hosts nor /etc/ssh/ssh_known_hosts is there", "give a file with the keys of the hosts")
		}
	} else if len(cfg.KnownHosts) == 0 {
		bad("KnownHosts", "is empty", "give a file with the keys of the hosts, or leave it nil for the default")
	}
	if _, err := knownhosts.New(s.cfg.KnownHosts...); err != nil {
		bad("KnownHosts", "cannot be read: "+err.Error(), "give files in the format of ssh's known_hosts")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func splitAddress(address string) (host, port string, err error) {
	if ip := net.ParseIP(address); ip != nil {
		return address, "22", nil
	}
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		host, port, err = net.SplitHostPort(address + ":22")
	}
	if err == nil && (host == "" || port == "") {
		err = errors.New("the host or the port is empty")
	}
	return host, port, err
}

func defaultKnownHosts() (files []string) {
	all := []string{"/etc/ssh/ssh_known_hosts"}
	if home, err := os.UserHomeDir(); err == nil {
		all = append([]string{filepath.Join(home, ".ssh", "known_hosts")}, all...)
	}
	for _, path := range all {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			files = append(files, path)
		}
	}
	return files
}

// Name implements Host.
func (s *SSH) Name() string { return s.cfg.Name }

// Close ends the connection; commands that run are not waited for. Later ones fail with ErrClosed.
func (s *SSH) Close() error {
	s.mu.Lock()
	client := s.client
	s.client, s.closed = nil, true
	s.mu.Unlock()
	if client != nil {
		_ = client.Close() // it may be lost already
	}
	s.loose.Wait()
	return nil
}

// connected returns the connection, and makes one if there is none. reused is set if it was there before.
func (s *SSH) connected(ctx context.Context) (client *ssh.Client, reused bool, err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, false, &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Detail: "no connection was made in time", Cause: context.Cause(ctx)}
	}
	s.mu.Lock()
	client, closed := s.client, s.closed
	s.mu.Unlock()
	if closed {
		return nil, false, &Error{Kind: ErrClosed, Host: s.cfg.Name, Hint: "close hosts after the run"}
	}
	if client != nil {
		return client, true, nil
	}
	client, err = s.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = client.Close() // nothing has used it
		return nil, false, &Error{Kind: ErrClosed, Host: s.cfg.Name, Hint: "close hosts after the run"}
	}
	s.client = client
	s.log.Info("connected by ssh", "host", s.cfg.Name, "user", s.cfg.User)
	s.loose.Go(func() { s.watch(client) })
	return client, false, nil
}

// spawn runs a goroutine that Close waits for.
func (s *SSH) spawn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // it ends with the connection
		go f()
		return
	}
	s.loose.Go(f)
}

// drop forgets a connection that does not work.
func (s *SSH) drop(client *ssh.Client) {
	s.mu.Lock()
	if s.client == client {
		s.client = nil
	}
	s.mu.Unlock()
	_ = client.Close() // it may be lost already
}

// watch asks for signs of life until the connection ends.
func (s *SSH) watch(client *ssh.Client) {
	ended := make(chan error, 1)
	s.spawn(func() { ended <- client.Wait() })
	tick := time.NewTicker(s.cfg.KeepAlive)
	defer tick.Stop()
	heard := time.Now()
	answers := make(chan error, 1)
	asked := false
	for {
		select {
		case err := <-ended:
			s.drop(client)
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if !closed {
				s.log.Warn("lost the connection", "host", s.cfg.Name, "error", err)
			}
			return
		case err := <-answers:
			asked = false
			if err == nil {
				heard = time.Now()
			}
		case <-tick.C:
			if time.Since(heard) > 3*s.cfg.KeepAlive {
				_ = client.Close() // ended tells
			} else if !asked {
				asked = true
				s.spawn(func() {
					// Whatever the server answers, it lives; most do not know the request.
					_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
					answers <- err
				})
			}
		}
	}
}
