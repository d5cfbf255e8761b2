//go:build unix

package nodes_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/sshserver"
)

func newPrivate(t testing.TB) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer
}

func pemText(block *pem.Block) []byte { return pem.EncodeToMemory(block) }

// TestHosts holds every kind of host to one contract: this machine, a server within the process, and OpenSSH's.
func TestHosts(t *testing.T) {
	for name, host := range map[string]func(t *testing.T) nodes.Host{
		"local": func(t *testing.T) nodes.Host { return local(t, "") },
		"ssh":   func(t *testing.T) nodes.Host { return sshHost(t, sshserver.Start(t, sshserver.Options{}), nil) },
		"ssh, sudo": func(t *testing.T) nodes.Host {
			return asRoot{sshHost(t, sshserver.Start(t, sshserver.Options{Path: sudoPath(t, false)}), nil)}
		},
		"sshd": func(t *testing.T) nodes.Host {
			addr, known, key := sshd(t)
			return newSSH(t, nodes.SSHConfig{Address: addr, User: "root", KnownHosts: []string{known}, KeyFiles: []string{key}, Agent: "none"})
		},
		"sshd, sudo": func(t *testing.T) nodes.Host {
			if _, err := exec.LookPath("sudo"); err != nil {
				t.Skip("sudo is not installed: apt-get install sudo")
			}
			addr, known, key := sshd(t)
			return viaSudo{newSSH(t, nodes.SSHConfig{Address: addr, User: "root", KnownHosts: []string{known}, KeyFiles: []string{key}, Agent: "none"})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contract(t, host(t))
		})
	}
}

// asRoot runs everything as root.
type asRoot struct{ nodes.Host }

func (h asRoot) Run(ctx context.Context, cmd nodes.Command) (nodes.Result, error) {
	cmd.Root = true
	return h.Host.Run(ctx, cmd)
}

// viaSudo puts the real sudo in front, whoever the user is.
type viaSudo struct{ nodes.Host }

func (h viaSudo) Run(ctx context.Context, cmd nodes.Command) (nodes.Result, error) {
	cmd.Args = append([]string{"sudo", "-n", "--"}, cmd.Args...)
	return h.Host.Run(ctx, cmd)
}

func contract(t *testing.T, h nodes.Host) {
	ctx := testutil.Context(t)
	run := func(stdin string, args ...string) nodes.Result {
		t.Helper()
		res, err := h.Run(ctx, nodes.Command{Args: args, Stdin: []byte(stdin)})
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return res
	}
	_, sudo := h.(viaSudo)

	seed := mathrand.Uint64()
	rng := mathrand.New(mathrand.NewPCG(seed, 1))
	letters := []string{"'", `"`, `\`, "$", "`", "!", "\n", "\t", " ", "*", "?", "~", "#", "&", ";", "|", "<", ">", "(", ")", "{", "}", "[", "=", "%", "-", "a", "B", "0", "é", "\x01", "\xff", "\r"}
	for range 40 {
		args := []string{"printf", `%s\000`}
		var want strings.Builder
		for range 1 + rng.IntN(5) {
			var arg strings.Builder
			for range rng.IntN(12) {
				arg.WriteString(letters[rng.IntN(len(letters))])
			}
			args = append(args, arg.String())
			want.WriteString(arg.String() + "\x00")
		}
		if got := run("", args...); got.Stdout != want.String() || got.Stderr != "" || got.Exit != 0 {
			t.Fatalf("seed %d: %q printed %q, %q, %d", seed, args, got.Stdout, got.Stderr, got.Exit)
		}
	}

	input := make([]byte, 300_000)
	_, _ = rand.Read(input)
	if got := run(string(input), "cat"); got.Stdout != string(input) || got.Truncated {
		t.Errorf("cat gave %d bytes of %d", len(got.Stdout), len(input))
	}
	if got := run(string(input), "true"); got.Exit != 0 {
		t.Errorf("a program that does not read its input: %+v", got)
	}
	if got := run("", "sh", "-c", "echo out; echo err >&2; exit 37"); got != (nodes.Result{Stdout: "out\n", Stderr: "err\n", Exit: 37}) {
		t.Errorf("got %+v", got)
	}
	if got := run("", "no-such-program-of-understudy"); got.Exit != 127 && !sudo {
		t.Errorf("no such program: %+v", got)
	}
	big := run("", "sh", "-c", fmt.Sprintf("head -c %d /dev/zero; echo done >&2", 3*nodes.MaxOutput))
	if !big.Truncated || len(big.Stdout) != nodes.MaxOutput || big.Exit != 0 || big.Stderr != "done\n" {
		t.Errorf("much output: %d bytes, cut %v, status %d, %q", len(big.Stdout), big.Truncated, big.Exit, big.Stderr)
	}
	_, err := h.Run(ctx, nodes.Command{Args: []string{"sh", "-c", "kill -s USR1 $$"}})
	var e *nodes.Error
	if !errors.Is(err, nodes.ErrSignal) || !errors.As(err, &e) || e.Signal != "USR1" {
		t.Errorf("ended by a signal: %v", err)
	}
	for _, bad := range []nodes.Command{{}, {Args: []string{""}}, {Args: []string{"echo", "a\x00b"}}} {
		if _, err := h.Run(ctx, bad); !errors.Is(err, nodes.ErrNotStarted) && !sudo {
			t.Errorf("%+v: %v", bad, err)
		}
	}

	// Cancelled, or out of time: the program and its children are gone, also such as do not care about SIGTERM.
	for _, c := range []struct {
		name, script string
		cause        error
	}{
		{"cancelled", "sleep 300 & echo $! >%[1]s.tmp; mv %[1]s.tmp %[1]s; wait", context.Canceled},
		{"out of time", "sleep 300 & echo $! >%[1]s.tmp; mv %[1]s.tmp %[1]s; wait", context.DeadlineExceeded},
		{"deaf", "trap '' TERM; echo $$ >%[1]s.tmp; mv %[1]s.tmp %[1]s; while :; do sleep 0.05; done", context.Canceled},
	} {
		if c.name == "deaf" && sudo {
			continue // SIGKILL takes the sudo that the test put in between, not what it runs: a Host that is asked for Root ends that as well
		}
		pidFile := filepath.Join(t.TempDir(), "pid")
		short, cancel := context.WithCancel(ctx)
		cmd := nodes.Command{Args: []string{"sh", "-c", fmt.Sprintf(c.script, pidFile)}}
		if c.cause == context.DeadlineExceeded {
			cmd.Timeout = 700 * time.Millisecond
		}
		go func() {
			for ctx.Err() == nil && c.cause == context.Canceled {
				if _, err := os.Stat(pidFile); err == nil {
					cancel()
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		}()
		_, err := h.Run(short, cmd)
		cancel()
		if !errors.Is(err, nodes.ErrCancelled) || !errors.Is(err, c.cause) {
			t.Errorf("%s: %v", c.name, err)
		}
		pid, err := os.ReadFile(pidFile)
		if err != nil {
			if c.cause == context.DeadlineExceeded {
				continue // it had no time to begin
			}
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(string(bytes.TrimSpace(pid)))
		eventually(t, c.name+": the program is gone", func() bool { return syscall.Kill(n, 0) != nil || zombie(n) })
	}
	if got := run("", "echo", "still there"); got.Stdout != "still there\n" {
		t.Errorf("after all that: %+v", got)
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// TestSudoRefused: a sudo that wants a password is no failed program.
func TestSudoRefused(t *testing.T) {
	ctx := testutil.Context(t)
	s := sshserver.Start(t, sshserver.Options{Path: sudoPath(t, true)})
	mark := filepath.Join(t.TempDir(), "mark")
	_, err := sshHost(t, s, nil).Run(ctx, nodes.Command{Args: []string{"touch", mark}, Root: true})
	wantError(t, err, nodes.ErrSudo, "a password is required", "NOPASSWD")
	if _, err := os.Stat(mark); err == nil {
		t.Error("the program has run")
	}
	if res, err := sshHost(t, s, func(c *nodes.SSHConfig) { c.User = "root" }).Run(ctx, nodes.Command{Args: []string{"touch", mark}, Root: true}); err != nil || res.Exit != 0 {
		t.Errorf("root needs no sudo: %v, %+v", err, res)
	}
}

func TestLocalConfig(t *testing.T) {
	if h := local(t, ""); h.Name() != "localhost" {
		t.Errorf("the name is %q", h.Name())
	}
	_, err := nodes.NewLocal(nodes.LocalConfig{Name: "a b"})
	wantConfig(t, err, "LocalConfig.Name", `"a b"`)
	_, err = nodes.NewLocal(nodes.LocalConfig{CommandTimeout: -1})
	wantConfig(t, err, "LocalConfig.CommandTimeout")
}
