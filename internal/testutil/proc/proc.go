// Package proc runs child processes for tests that kill them: the test binary itself in another role, or any binary.
//
// A test package offers its roles in TestMain:
//
//	func TestMain(m *testing.M) {
//		proc.RunChild(map[string]func() int{"mirror": mirrorMain})
//		testutil.Main(m)
//	}
//
// and a test starts one with proc.Start(t, "mirror", []string{"ENDPOINT=" + ep}).
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// roleVariable names the role of a child in its environment.
const roleVariable = "UNDERSTUDY_TEST_CHILD"

// RunChild ends the process with the result of the role that Start asked for. It returns if the process is no child.
func RunChild(roles map[string]func() int) {
	name, ok := os.LookupEnv(roleVariable)
	if !ok {
		return
	}
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "proc: the child has no role %q\n", name)
		os.Exit(2)
	}
	os.Exit(role())
}

// Proc is a running or ended child. Its methods may be called from several goroutines.
type Proc struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child is reaped and its output complete
	err  error         // of Wait; read after done

	mu     sync.Mutex
	output bytes.Buffer
	grown  chan struct{} // closed and replaced when output grows
}

// Start runs the test binary in a role of RunChild. env holds NAME=value pairs that are added to the environment.
func Start(t testing.TB, role string, env []string, args ...string) *Proc {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("find the test binary: %v", err)
	}
	return StartBinary(t, self, append([]string{roleVariable + "=" + role}, env...), args...)
}

// StartBinary runs a binary. The child is killed when the test ends, or when the test's process dies (on Linux).
// What it wrote is logged if the test failed.
func StartBinary(t testing.TB, path string, env []string, args ...string) *Proc {
	t.Helper()
	p := &Proc{done: make(chan struct{}), grown: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = (*capture)(p), (*capture)(p)
	p.cmd.WaitDelay = 5 * time.Second // grandchildren may hold the output open
	p.cmd.SysProcAttr = dieWithParent()

	started := make(chan error, 1)
	go func() {
		// On Linux the child dies with the thread that started it, so that thread has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	t.Cleanup(func() {
		p.Kill9()
		if t.Failed() {
			t.Logf("output of child %d:\n%s", p.Pid(), p.Output())
		}
	})
	return p
}

// Pid is the child's process ID.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal; os.ErrProcessDone when the child has ended.
func (p *Proc) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill9 kills the child without a chance to clean up and waits until it is gone.
func (p *Proc) Kill9() {
	_ = p.cmd.Process.Kill() // fails only when the child has ended
	<-p.done
}

// Wait waits for the end of the child: nil for exit code 0, *exec.ExitError otherwise.
func (p *Proc) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("child %d runs on: %w", p.Pid(), context.Cause(ctx))
	}
}

// Output is what the child wrote to its standard output and error so far.
func (p *Proc) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// ErrEnded says that the child ended without writing what WaitOutput waits for.
var ErrEnded = errors.New("the child has ended")

// WaitOutput waits until the child's output contains text.
func (p *Proc) WaitOutput(ctx context.Context, text string) error {
	for ended := false; ; {
		p.mu.Lock()
		found, grown := strings.Contains(p.output.String(), text), p.grown
		p.mu.Unlock()
		if found {
			return nil
		}
		if ended {
			return fmt.Errorf("wait for %q: %w", text, ErrEnded)
		}
		select {
		case <-grown:
		case <-p.done:
			ended = true // the output is complete now: look once more
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w", text, context.Cause(ctx))
		}
	}
}

// capture is the writer behind the child's output.
type capture Proc

func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.grown)
	c.grown = make(chan struct{})
	return c.output.Write(b)
}
