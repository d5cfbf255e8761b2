//go:build unix

package nodes_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
	"github.com/understudy-dr/understudy/internal/testutil/sshserver"
)

func ecdsaKey(t *testing.T) ssh.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// certify makes a certificate of a key.
func certify(t *testing.T, authority ssh.Signer, key ssh.PublicKey, kind uint32, principal string) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: key, CertType: kind, KeyId: "test", ValidPrincipals: []string{principal}, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHostKeys: what known_hosts says decides, and what it says against a host is told with host, fingerprint and file. Nothing is sent before.
func TestHostKeys(t *testing.T) {
	ctx := testutil.Context(t)
	other, authority := sshserver.NewKey(t), sshserver.NewKey(t)
	two := sshserver.Start(t, sshserver.Options{HostKeys: []ssh.Signer{ecdsaKey(t), sshserver.NewKey(t)}})
	plain := sshserver.Start(t, sshserver.Options{})
	hostKey := sshserver.NewKey(t)
	signed, err := ssh.NewCertSigner(certify(t, authority, hostKey.PublicKey(), ssh.HostCert, "127.0.0.1"), hostKey)
	if err != nil {
		t.Fatal(err)
	}
	certified := sshserver.Start(t, sshserver.Options{HostKeys: []ssh.Signer{hostKey, signed}})
	line := func(s *sshserver.Server, key ssh.PublicKey) string {
		return knownhosts.Line([]string{s.Addr}, key) + "\n"
	}
	for name, c := range map[string]struct {
		server *sshserver.Server
		known  string
		kind   error // nil: it is let in
		parts  []string
	}{
		"known":   {plain, plain.KnownLine(), nil, nil},
		"hashed":  {plain, knownhosts.HashHostname(knownhosts.Normalize(plain.Addr)) + strings.TrimPrefix(plain.KnownLine(), knownhosts.Normalize(plain.Addr)), nil, nil},
		"unknown": {plain, "other.example.com " + string(ssh.MarshalAuthorizedKey(other.PublicKey())), nodes.ErrHostKeyUnknown, []string{plain.Addr, ssh.FingerprintSHA256(plain.Host.PublicKey()), "known_hosts", "console"}},
		"changed": {plain, line(plain, other.PublicKey()), nodes.ErrHostKeyChanged,
			[]string{plain.Addr, ssh.FingerprintSHA256(plain.Host.PublicKey()), ssh.FingerprintSHA256(other.PublicKey()), "known_hosts, line 1"}},
		"revoked":                      {plain, "@revoked * " + string(ssh.MarshalAuthorizedKey(plain.Host.PublicKey())) + plain.KnownLine(), nodes.ErrHostKeyRevoked, []string{"line 1", ssh.FingerprintSHA256(plain.Host.PublicKey())}},
		"the key of one type is known": {two, line(two, two.Host.PublicKey()), nil, nil},
		"another type is known":        {plain, line(plain, ecdsaKey(t).PublicKey()), nodes.ErrHostKeyChanged, []string{"ecdsa", "ssh-ed25519"}},
		"an authority":                 {certified, "@cert-authority " + line(certified, authority.PublicKey()), nil, nil},
		"another authority":            {certified, "@cert-authority " + line(certified, other.PublicKey()), nodes.ErrHostKeyUnknown, []string{"authorit"}},
		"a certificate not asked for":  {certified, line(certified, hostKey.PublicKey()), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(c.server.Commands())
			h := sshHost(t, c.server, func(cfg *nodes.SSHConfig) { write(t, cfg.KnownHosts[0], c.known, 0o600) })
			res, err := h.Run(ctx, nodes.Command{Args: []string{"echo", "in"}})
			if c.kind == nil {
				if err != nil || res.Stdout != "in\n" {
					t.Errorf("got %v, %+v", err, res)
				}
				return
			}
			wantError(t, err, c.kind, c.parts...)
			if len(c.server.Commands()) != before {
				t.Error("a command was sent")
			}
		})
	}
	// A key that was added meanwhile counts.
	var file string
	h := sshHost(t, plain, func(cfg *nodes.SSHConfig) { file = cfg.KnownHosts[0]; write(t, file, "", 0o600) })
	if _, err := h.Run(ctx, nodes.Command{Args: []string{"true"}}); !errors.Is(err, nodes.ErrHostKeyUnknown) {
		t.Errorf("without the key: %v", err)
	}
	write(t, file, plain.KnownLine(), 0o600)
	if _, err := h.Run(ctx, nodes.Command{Args: []string{"true"}}); err != nil {
		t.Errorf("with the key: %v", err)
	}
}

// TestLogin: key files with and without passphrase, certificates, and an agent.
func TestLogin(t *testing.T) {
	ctx := testutil.Context(t)
	private, signer := newPrivate(t)
	authority := sshserver.NewKey(t)
	checker := &ssh.CertChecker{IsUserAuthority: func(key ssh.PublicKey) bool { return string(key.Marshal()) == string(authority.PublicKey().Marshal()) }}
	s := sshserver.Start(t, sshserver.Options{Allow: func(user string, key ssh.PublicKey) error {
		if cert, ok := key.(*ssh.Certificate); ok && user == "certified" && checker.CheckCert(user, cert) == nil {
			return nil
		}
		if user == "ops" && string(key.Marshal()) == string(signer.PublicKey().Marshal()) {
			return nil
		}
		return errors.New("no")
	}})
	dir := t.TempDir()
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	locked := write(t, filepath.Join(dir, "locked"), string(pemText(block)), 0o600)
	block, err = ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	plain := write(t, filepath.Join(dir, "plain"), string(pemText(block)), 0o600)
	certified := write(t, filepath.Join(dir, "certified"), string(pemText(block)), 0o600)
	write(t, certified+"-cert.pub", string(ssh.MarshalAuthorizedKey(certify(t, authority, signer.PublicKey(), ssh.UserCert, "certified"))), 0o600)
	other, _ := newKeyFile(t)

	asked := 0
	passphrase := func(text string, err error) func(context.Context, string) ([]byte, error) {
		return func(_ context.Context, file string) ([]byte, error) {
			if asked++; file != locked {
				t.Errorf("asked for %s", file)
			}
			return []byte(text), err
		}
	}
	for name, c := range map[string]struct {
		change func(cfg *nodes.SSHConfig)
		kind   error
		parts  []string
	}{
		"key file": {func(cfg *nodes.SSHConfig) { cfg.KeyFiles = []string{other, plain} }, nil, nil},
		"passphrase": {func(cfg *nodes.SSHConfig) {
			cfg.KeyFiles, cfg.Passphrase = []string{locked}, passphrase("open sesame", nil)
		}, nil, nil},
		"wrong passphrase": {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.Passphrase = []string{locked}, passphrase("guess", nil) }, nodes.ErrAuth, []string{locked}},
		"no passphrase": {func(cfg *nodes.SSHConfig) {
			cfg.KeyFiles, cfg.Passphrase = []string{locked}, passphrase("", errors.New("nobody is there"))
		}, nodes.ErrAuth, []string{"nobody is there"}},
		"certificate":      {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.User = []string{certified}, "certified" }, nil, nil},
		"agent":            {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.Agent = nil, serveAgent(t, private) }, nil, nil},
		"agent behind":     {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.Agent = []string{other}, serveAgent(t, private) }, nil, nil},
		"empty agent":      {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.Agent = nil, serveAgent(t, nil) }, nodes.ErrAuth, []string{"the agent has none"}},
		"dead agent":       {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.Agent = nil, filepath.Join(dir, "none.sock") }, nodes.ErrAuth, []string{"none.sock"}},
		"refused":          {func(cfg *nodes.SSHConfig) { cfg.KeyFiles = []string{other} }, nodes.ErrAuth, []string{"user ops", "SHA256:", "authorized_keys"}},
		"the other user's": {func(cfg *nodes.SSHConfig) { cfg.KeyFiles, cfg.User = []string{plain}, "root" }, nodes.ErrAuth, []string{"user root"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := sshHost(t, s, c.change)
			asked = 0
			_, err := h.Run(ctx, nodes.Command{Args: []string{"true"}})
			if c.kind != nil {
				wantError(t, err, c.kind, c.parts...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.Drop() // a new connection does not ask again
			eventually(t, "connected again", func() bool { _, err := h.Run(ctx, nodes.Command{Args: []string{"true"}}); return err == nil })
			if asked > 1 {
				t.Errorf("asked %d times for the passphrase", asked)
			}
		})
	}
}

// serveAgent is an ssh-agent with one key, or none.
func serveAgent(t *testing.T, key any) string {
	t.Helper()
	ring := agent.NewKeyring()
	if key != nil {
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { _ = agent.ServeAgent(ring, c); _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); done.Wait() })
	return path
}

// TestConnection: one connection serves many commands, is made anew when it was lost, and a command that ran meanwhile is said to have an unknown outcome, and is not run again.
func TestConnection(t *testing.T) {
	ctx := testutil.Context(t)
	s := sshserver.Start(t, sshserver.Options{})
	h := sshHost(t, s, nil)
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if _, err := h.Run(ctx, nodes.Command{Args: []string{"true"}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if s.Logins() != 1 {
		t.Errorf("%d connections for 30 commands", s.Logins())
	}

	mark := filepath.Join(t.TempDir(), "mark")
	ended := make(chan error, 1)
	go func() {
		_, err := h.Run(ctx, nodes.Command{Args: []string{"sh", "-c", "echo x >>" + mark + "; sleep 1"}})
		ended <- err
	}()
	eventually(t, "it runs", func() bool { _, err := os.Stat(mark); return err == nil })
	s.Drop()
	wantError(t, <-ended, nodes.ErrOutcomeUnknown, "while it ran")
	if res, err := h.Run(ctx, nodes.Command{Args: []string{"cat", mark}}); err != nil || res.Stdout != "x\n" {
		t.Errorf("after the loss: %v, %+v: want one run", err, res)
	}
	if s.Logins() != 2 {
		t.Errorf("%d connections, want another one", s.Logins())
	}
	noisy := sshHost(t, sshserver.Start(t, sshserver.Options{Banner: "Welcome!"}), nil)
	if res, err := noisy.Run(ctx, nodes.Command{Args: []string{"sh", "-c", "echo out; echo err >&2"}}); err != nil || res != (nodes.Result{Stdout: "out\n", Stderr: "err\n"}) {
		t.Errorf("a login shell that prints something: %v, %+v", err, res)
	}
	refusing := sshHost(t, sshserver.Start(t, sshserver.Options{Refuse: true}), nil)
	_, err := refusing.Run(ctx, nodes.Command{Args: []string{"echo", "hidden-word"}})
	wantError(t, err, nodes.ErrNotStarted)
	if strings.Contains(err.Error(), "hidden-word") {
		t.Errorf("the error holds the command: %v", err)
	}
	_ = h.Close()
	_, err = h.Run(ctx, nodes.Command{Args: []string{"true"}})
	wantError(t, err, nodes.ErrClosed)
}

// TestSilence: a connection that gives no sign of life is given up, though it never ends.
func TestSilence(t *testing.T) {
	ctx := testutil.Context(t)
	s := sshserver.Start(t, sshserver.Options{})
	proxy, err := faultproxy.Start(faultproxy.Options{Targets: []string{"http://" + s.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	addr := strings.TrimPrefix(proxy.Endpoints()[0], "http://")
	h := sshHost(t, s, func(cfg *nodes.SSHConfig) {
		cfg.Address, cfg.KeepAlive, cfg.ConnectTimeout = addr, 50*time.Millisecond, 20*time.Second
		write(t, cfg.KnownHosts[0], knownhosts.Line([]string{addr}, s.Host.PublicKey())+"\n", 0o600)
	})
	mark := filepath.Join(t.TempDir(), "mark")
	ended := make(chan error, 1)
	go func() {
		_, err := h.Run(ctx, nodes.Command{Args: []string{"sh", "-c", "echo x >" + mark + "; sleep 3"}})
		ended <- err
	}()
	eventually(t, "it runs", func() bool { _, err := os.Stat(mark); return err == nil })
	if err := proxy.Apply(faultproxy.Fault{Kind: faultproxy.Blackhole}); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-ended, nodes.ErrOutcomeUnknown, "while it ran")
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := h.Run(short, nodes.Command{Args: []string{"true"}}); !errors.Is(err, nodes.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that says nothing: %v", err)
	}
	proxy.Clear()
	if _, err := h.Run(ctx, nodes.Command{Args: []string{"true"}}); err != nil {
		t.Errorf("after the silence: %v", err)
	}
}

// TestJump: through another host, whose connection is made anew as well; its own failures are told as such.
func TestJump(t *testing.T) {
	ctx := testutil.Context(t)
	far, near := sshserver.Start(t, sshserver.Options{}), sshserver.Start(t, sshserver.Options{})
	jump := sshHost(t, near, func(c *nodes.SSHConfig) { c.Name = "bastion" })
	h := sshHost(t, far, func(c *nodes.SSHConfig) { c.Jump = jump })
	for range 2 {
		if res, err := h.Run(ctx, nodes.Command{Args: []string{"echo", "far"}}); err != nil || res.Stdout != "far\n" {
			t.Fatalf("through the jump host: %v, %+v", err, res)
		}
		far.Drop()
		near.Drop()
		eventually(t, "connected again", func() bool { _, err := h.Run(ctx, nodes.Command{Args: []string{"true"}}); return err == nil })
	}
	if n := len(near.Commands()); n != 0 {
		t.Errorf("%d commands ran on the jump host", n)
	}
	gone := sshHost(t, far, func(c *nodes.SSHConfig) { c.Address, c.Jump = "127.0.0.1:1", jump })
	_, err := gone.Run(ctx, nodes.Command{Args: []string{"true"}})
	wantError(t, err, nodes.ErrUnreachable, "through bastion")
	strange := sshHost(t, near, func(c *nodes.SSHConfig) { c.Name = "bastion"; write(t, c.KnownHosts[0], "", 0o600) })
	_, err = sshHost(t, far, func(c *nodes.SSHConfig) { c.Jump = strange }).Run(ctx, nodes.Command{Args: []string{"true"}})
	wantError(t, err, nodes.ErrHostKeyUnknown, "through bastion")
	unknown := sshHost(t, far, func(c *nodes.SSHConfig) { c.Jump = jump; write(t, c.KnownHosts[0], "", 0o600) })
	_, err = unknown.Run(ctx, nodes.Command{Args: []string{"true"}})
	wantError(t, err, nodes.ErrHostKeyUnknown, far.Addr)
}

// TestSSHConfig: what is wrong is named, all of it at once, before anything is connected to.
func TestSSHConfig(t *testing.T) {
	key, _ := newKeyFile(t)
	dir := t.TempDir()
	known := write(t, filepath.Join(dir, "known_hosts"), "", 0o600)
	good := nodes.SSHConfig{Address: "10.0.0.1", User: "ops", KeyFiles: []string{key}, KnownHosts: []string{known}, Agent: "none"}
	if h := newSSH(t, good); h.Name() != "10.0.0.1" {
		t.Errorf("the name is %q", h.Name())
	}
	for name, c := range map[string]struct {
		change func(cfg *nodes.SSHConfig)
		parts  []string
	}{
		"nothing":     {func(c *nodes.SSHConfig) { *c = nodes.SSHConfig{Agent: "none", KnownHosts: []string{}} }, []string{"SSHConfig.Address", "SSHConfig.User", "SSHConfig.KeyFiles", "SSHConfig.KnownHosts"}},
		"address":     {func(c *nodes.SSHConfig) { c.Address = "a:b:c" }, []string{"SSHConfig.Address", "a:b:c"}},
		"port":        {func(c *nodes.SSHConfig) { c.Address = "host:" }, []string{"SSHConfig.Address"}},
		"name":        {func(c *nodes.SSHConfig) { c.Name = "a/b" }, []string{"SSHConfig.Name"}},
		"timeout":     {func(c *nodes.SSHConfig) { c.ConnectTimeout, c.KeepAlive = -1, -1 }, []string{"SSHConfig.ConnectTimeout", "SSHConfig.KeepAlive"}},
		"no key":      {func(c *nodes.SSHConfig) { c.KeyFiles = []string{known} }, []string{"SSHConfig.KeyFiles[0]", known}},
		"missing key": {func(c *nodes.SSHConfig) { c.KeyFiles = []string{key, dir + "/none"} }, []string{"SSHConfig.KeyFiles[1]", "none"}},
		"known hosts": {func(c *nodes.SSHConfig) { c.KnownHosts = []string{write(t, dir+"/bad", "garbage\n", 0o600)} }, []string{"SSHConfig.KnownHosts", "bad"}},
		"no file":     {func(c *nodes.SSHConfig) { c.KnownHosts = []string{dir + "/nowhere"} }, []string{"SSHConfig.KnownHosts", "nowhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			_, err := nodes.NewSSH(cfg)
			wantConfig(t, err, c.parts...)
		})
	}
}
