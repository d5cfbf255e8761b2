//go:build unix

package nodes_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
	"github.com/understudy-dr/understudy/internal/testutil/sshserver"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// write writes a file of a test and returns its path.
func write(t testing.TB, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// keyFile makes a private key's file with ssh-keygen's format.
func newKeyFile(t testing.TB) (path string, public ssh.PublicKey) {
	t.Helper()
	private, signer := newPrivate(t)
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "id"), string(pemText(block)), 0o600), signer.PublicKey()
}

// sshHost connects to a server that knows its key.
func sshHost(t testing.TB, s *sshserver.Server, change func(*nodes.SSHConfig)) *nodes.SSH {
	t.Helper()
	key, _ := newKeyFile(t)
	cfg := nodes.SSHConfig{Address: s.Addr, User: "ops", KeyFiles: []string{key}, Agent: "none",
		KnownHosts: []string{write(t, filepath.Join(t.TempDir(), "known_hosts"), s.KnownLine(), 0o600)}}
	if change != nil {
		change(&cfg)
	}
	return newSSH(t, cfg)
}

func newSSH(t testing.TB, cfg nodes.SSHConfig) *nodes.SSH {
	t.Helper()
	h, err := nodes.NewSSH(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func local(t testing.TB, name string) *nodes.Local {
	t.Helper()
	h, err := nodes.NewLocal(nodes.LocalConfig{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// sudoPath is a folder with a sudo that does as asked, or refuses as the real one does.
func sudoPath(t testing.TB, refuse bool) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1 $2\" = \"-n --\" ] || exit 99\nshift 2\nUNDERSTUDY_SUDO=yes exec \"$@\"\n"
	if refuse {
		script = "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n"
	}
	write(t, filepath.Join(dir, "sudo"), script, 0o755)
	return dir
}

// sshd starts Debian's sshd in the foreground.
func sshd(t testing.TB) (addr, known, key string) {
	t.Helper()
	path := ""
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if _, err := os.Stat(p); err == nil {
			path = p
		}
	}
	if path == "" {
		t.Skip("sshd is not installed: apt-get install openssh-server")
	}
	if os.Geteuid() != 0 {
		t.Skip("sshd lets only root log in as root")
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its start script makes it
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/host").CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	key, public := newKeyFile(t)
	write(t, dir+"/authorized", string(ssh.MarshalAuthorizedKey(public)), 0o600)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	// bash does not read the user's files, which may be slow, at this level.
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nPidFile none\nAuthorizedKeysFile %s/authorized\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nAllowTcpForwarding yes\nSetEnv SHLVL=5\n", port, dir, dir)
	p := proc.StartBinary(t, path, nil, "-D", "-e", "-f", write(t, dir+"/config", config, 0o600))
	if err := p.WaitOutput(testutil.Context(t), "Server listening"); err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile(dir + "/host.pub")
	if err != nil {
		t.Fatal(err)
	}
	return addr, write(t, dir+"/known_hosts", "[127.0.0.1]:"+port+" "+string(host), 0o600), key
}

// wantError checks an error of a host.
func wantError(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	var e *nodes.Error
	if !errors.Is(err, kind) || !errors.As(err, &e) {
		t.Errorf("got error %v, want %q", err, kind)
		return
	}
	wantParts(t, err, parts...)
}

func wantConfig(t *testing.T, err error, parts ...string) {
	t.Helper()
	var e *failover.Error
	if !errors.Is(err, failover.ErrConfig) || !errors.As(err, &e) || e.Hint == "" {
		t.Errorf("got error %v, want one about the configuration, with a hint", err)
		return
	}
	wantParts(t, err, parts...)
}

func wantParts(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx := testutil.Context(t)
	for !is() {
		if ctx.Err() != nil {
			t.Fatalf("not so in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
