package kubeapi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil/freeport"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// readyTimeout bounds a start. It decides nothing: a program that takes longer hangs.
const readyTimeout = 2 * time.Minute

// poll is the pause between two looks at whether a program is ready.
const poll = 50 * time.Millisecond

// process is a program that can be started again.
type process struct {
	t    testing.TB
	name string // of the binary
	log  string // the file that it appends to
	run  *proc.Proc
}

func (p *process) start(args []string) {
	p.t.Helper()
	// The shell becomes the program, so that signals and the parent's death reach that one.
	p.run = proc.StartBinary(p.t, "/bin/sh", []string{"KUBEAPI_LOG=" + p.log}, append([]string{"-c", `exec "$0" "$@" >>"$KUBEAPI_LOG" 2>&1`, asset(p.name)}, args...)...)
}

// running reports whether the program has not ended.
func (p *process) running() bool { return p.run != nil && p.run.Signal(syscall.Signal(0)) == nil }

// await waits until ready returns nil.
func (p *process) await(ctx context.Context, ready func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		running := p.running()
		err := ready(ctx)
		if err == nil && running {
			return nil
		}
		if !running {
			return fmt.Errorf("%s has ended; the end of %s:\n%s", p.name, p.log, tail(p.log))
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; the end of %s:\n%s", p.name, err, p.log, tail(p.log))
		}
	}
}

// stop asks the program to end and waits until it has.
func (p *process) stop(ctx context.Context) error {
	if !p.running() {
		return nil
	}
	_ = p.run.Signal(syscall.SIGTERM)
	_ = p.run.Wait(ctx) // whatever its exit code
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s does not stop: %w", p.name, err)
	}
	return nil
}

func (p *process) kill() {
	if p.run != nil {
		p.run.Kill9()
	}
}

// startOnFreePorts starts a program on ports that nobody else has.
func (p *process) startOnFreePorts(ctx context.Context, n int, args func(ports []int) []string, ready func(ctx context.Context) error) error {
	for attempt := 1; ; attempt++ {
		ports, err := freeport.Reserve(n)
		if err != nil {
			return err
		}
		p.start(args(ports))
		err = p.await(ctx, ready)
		if err == nil || attempt == 5 || !freeport.IsInUse(err) { // the error has the end of the log
			return err
		}
		p.kill()
		if err := os.Truncate(p.log, 0); err != nil {
			return err
		}
	}
}

// process makes a program of the control plane, whose log's end is shown if the test fails.
func (cp *ControlPlane) process(binary, log string) *process {
	p := &process{t: cp.t, name: binary, log: filepath.Join(cp.logs, log+".log")}
	cp.t.Cleanup(func() {
		if cp.t.Failed() {
			cp.t.Logf("the end of %s:\n%s", p.log, tail(p.log))
		}
	})
	return p
}
