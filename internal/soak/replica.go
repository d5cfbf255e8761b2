package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// Child is a process that runs a replica.
type Child interface {
	Signal(syscall.Signal) error
	// Kill9 kills it and waits until it is gone.
	Kill9()
	// Wait waits for its end: nil for exit code 0, *exec.ExitError otherwise, or ctx's error.
	Wait(ctx context.Context) error
	// Output is what it wrote so far.
	Output() string
}

// childVariable holds the instance of a child process, as JSON.
const childVariable = "UNDERSTUDY_SOAK_REPLICA"

// Exit codes of RunReplica.
const (
	exitUsage = iota + 2
	exitUnreachable
	exitPromoted
	exitEnded
)

// instance is what a replica needs to know.
type instance struct {
	Replica        string
	Source, Target []string // endpoints
	Mirror         mirrorPlan
}

// RunReplica runs a replica in a process of its own, as Options.Child asks for, until SIGTERM or until the mirror ends. It returns the exit code.
func RunReplica() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var in instance
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &in); err != nil {
		fmt.Printf("%s: %v\n", childVariable, err)
		return exitUsage
	}
	err := in.run(ctx, etcdmirror.Hooks{State: func(i etcdmirror.StateInfo) { fmt.Printf("%s: %s\n", i.State, i.Reason) }}, func(*etcdmirror.Mirror) {})
	switch {
	case err == nil:
		return 0
	case errors.Is(err, etcdmirror.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, etcdmirror.ErrPromoted):
		return exitPromoted
	}
	fmt.Println(err)
	return exitEnded
}

// run connects and mirrors until ctx ends, which returns nil.
func (in instance) run(ctx context.Context, hooks etcdmirror.Hooks, made func(*etcdmirror.Mirror)) error {
	source, err := clientv3.New(clientConfig(in.Source))
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := clientv3.New(clientConfig(in.Target))
	if err != nil {
		return err
	}
	defer target.Close()
	cfg := in.Mirror.config()
	cfg.Replica, cfg.Hooks = in.Replica, hooks
	m, err := etcdmirror.New(source, target, cfg)
	if err != nil {
		return err
	}
	made(m)
	return m.Run(ctx)
}

// clientConfig connects again soon after a fault: nobody learns from waiting.
func clientConfig(endpoints []string) clientv3.Config {
	quick := backoff.DefaultConfig
	quick.BaseDelay, quick.MaxDelay = 20*time.Millisecond, 200*time.Millisecond
	return clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second})}}
}

// replica keeps one instance of the mirror running, as an init system would: one that could not reach an etcd when it began starts again.
type replica struct {
	in    instance
	child func(env []string) (Child, error) // nil: runs in this process

	mu       sync.Mutex
	cancel   context.CancelFunc // nil while it is not to run
	done     chan struct{}
	gently   bool // end by SIGTERM
	paused   bool
	proc     Child
	mirror   *etcdmirror.Mirror
	promoted bool // ended because the target was promoted
	failure  error
	outputs  []string // of children that ended
}

// endTimeout bounds the end of an instance that was told to end.
const endTimeout = 30 * time.Second

// start runs the replica until stop.
func (r *replica) start(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, r.cancel = context.WithCancel(ctx)
	done := make(chan struct{})
	r.done, r.paused = done, false
	go func() {
		defer close(done)
		for r.once(ctx) {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
}

// once runs one instance and tells whether to run another.
func (r *replica) once(ctx context.Context) (again bool) {
	var err error
	if r.child != nil {
		err = r.process(ctx)
	} else {
		err = r.in.run(ctx, etcdmirror.Hooks{}, func(m *etcdmirror.Mirror) { r.mu.Lock(); defer r.mu.Unlock(); r.mirror = m })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proc, r.mirror, r.paused = nil, nil, false
	switch {
	case err == nil:
		return false
	case errors.Is(err, etcdmirror.ErrUnreachable):
		return ctx.Err() == nil
	case errors.Is(err, etcdmirror.ErrPromoted):
		r.promoted = true
		return false
	}
	r.failure = err
	return false
}

// process runs one child until it ends, or ctx does.
func (r *replica) process(ctx context.Context) error {
	in, err := json.Marshal(r.in)
	if err != nil {
		return err
	}
	r.mu.Lock()
	p, err := r.child([]string{childVariable + "=" + string(in)})
	r.proc = p
	r.mu.Unlock()
	if err != nil {
		return err
	}
	err = p.Wait(ctx)
	if ctx.Err() != nil {
		r.mu.Lock()
		gently := r.gently
		r.mu.Unlock()
		if gently {
			_ = p.Signal(syscall.SIGTERM) // fails only when it has ended
			_ = p.Signal(syscall.SIGCONT)
			patience, cancel := context.WithTimeout(context.Background(), endTimeout)
			err = p.Wait(patience)
			cancel()
		} else {
			p.Kill9()
			err = nil
		}
	}
	p.Kill9() // it has ended, but for one that does not end
	r.mu.Lock()
	r.outputs = append(r.outputs, p.Output())
	r.mu.Unlock()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) {
		return err
	}
	switch code := exit.ExitCode(); code {
	case exitUnreachable:
		return etcdmirror.ErrUnreachable
	case exitPromoted:
		return etcdmirror.ErrPromoted
	case -1: // by a signal
		if ctx.Err() != nil {
			return nil // told to end before it listened for that
		}
	}
	lines := strings.Split(strings.TrimSpace(p.Output()), "\n")
	return fmt.Errorf("child ended (%w): %s", exit, lines[len(lines)-1])
}

// stop ends the replica: a child is killed unless gently is set.
func (r *replica) stop(gently bool) {
	r.mu.Lock()
	cancel, done := r.cancel, r.done
	r.cancel, r.gently = nil, gently
	r.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	select {
	case <-done:
	case <-time.After(2 * endTimeout):
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failure = errors.New("the mirror does not end though its context has")
	}
}

// running tells whether the replica is to run and able to.
func (r *replica) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel == nil || r.paused {
		return false
	}
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// pause stops a child in its tracks; false if there is none.
func (r *replica) pause() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil || r.paused || r.proc.Signal(syscall.SIGSTOP) != nil {
		return false
	}
	r.paused = true
	return true
}

// resume lets a paused child go on.
func (r *replica) resume() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.paused {
		return false
	}
	r.paused = false
	if r.proc != nil {
		_ = r.proc.Signal(syscall.SIGCONT) // fails only when it has ended
	}
	return true
}

// failed is why the replica ended by itself, nil if it did not or had a good reason.
func (r *replica) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// untilPromoted returns when the replica, if it runs, has ended because of a promotion.
func (r *replica) untilPromoted(ctx context.Context) error {
	if !r.running() {
		return r.failed()
	}
	select {
	case <-r.done:
	case <-time.After(settleTimeout):
		return fmt.Errorf("it still runs after %v", settleTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := r.failed(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.promoted {
		return errors.New("it ended without an error")
	}
	return nil
}

// current is the mirror of a replica in this process, or nil.
func (r *replica) current() *etcdmirror.Mirror {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mirror
}

// describe is what is known of the replica, for a failing schedule.
func (r *replica) describe() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failure != nil:
		return r.failure.Error()
	case r.mirror != nil:
		return fmt.Sprintf("%+v", r.mirror.Status())
	case r.proc != nil:
		return tail(r.proc.Output())
	case len(r.outputs) > 0:
		return tail(r.outputs[len(r.outputs)-1])
	}
	return "not running"
}

// tail is the last lines of a text.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n\t\t")
}
