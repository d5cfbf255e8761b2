package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// InProcess runs a mirror in this process, again and again: a mirror.Control and a mirror.Waiter. Its methods may be called concurrently.
type InProcess struct {
	primary, standby *clientv3.Client
	cfg              etcdmirror.Config

	mu  sync.Mutex
	now *instance // the last that was started, nil before
}

var (
	_ mirror.Control = (*InProcess)(nil)
	_ mirror.Waiter  = (*InProcess)(nil)
	_ mirror.Failure = (*InProcess)(nil)
)

// instance is one run of the mirror.
type instance struct {
	*etcdmirror.Mirror
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned
	err  error         // of Run; read after done
}

func (i *instance) running() bool {
	if i == nil {
		return false
	}
	select {
	case <-i.done:
		return false
	default:
		return true
	}
}

// NewInProcess checks the configuration and starts nothing. Stop what was started before the clients are closed.
func NewInProcess(primary, standby *clientv3.Client, cfg etcdmirror.Config) (*InProcess, error) {
	if _, err := etcdmirror.New(primary, standby, cfg); err != nil {
		return nil, err
	}
	return &InProcess{primary: primary, standby: standby, cfg: cfg}, nil
}

// About says what it is.
func (p *InProcess) About() string { return "mirror " + p.cfg.Name + " in this process" }

// Running reports whether the mirror runs.
func (p *InProcess) Running(context.Context) (bool, error) {
	return p.last().running(), nil
}

func (p *InProcess) last() *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Start runs the mirror, if it does not run, until Stop: it does not end with ctx. That it runs does not mean that it gets far: see Failure and Status.
func (p *InProcess) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.running() {
		return nil
	}
	m, err := etcdmirror.New(p.primary, p.standby, p.cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	i := &instance{Mirror: m, stop: stop, done: make(chan struct{})}
	p.now = i
	go func() {
		defer close(i.done)
		i.err = m.Run(ctx)
	}()
	return nil
}

// Stop ends the mirror and waits until it has ended.
func (p *InProcess) Stop(ctx context.Context) error {
	i := p.last()
	if i == nil {
		return nil
	}
	i.stop()
	select {
	case <-i.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the mirror has not ended yet: %w", ctx.Err())
	}
}

// Failure is why the mirror that was started last ended by itself; nil if it runs, was stopped, or never ran.
func (p *InProcess) Failure() error {
	i := p.last()
	if i == nil || i.running() {
		return nil
	}
	return i.err
}

// Status is that of the mirror that was started last.
func (p *InProcess) Status() etcdmirror.Status {
	if i := p.last(); i != nil {
		return i.Status()
	}
	return etcdmirror.Status{State: etcdmirror.StateIdle}
}

// WaitForRevision waits as etcdmirror.Mirror does.
func (p *InProcess) WaitForRevision(ctx context.Context, revision int64) error {
	if i := p.last(); i.running() {
		return i.WaitForRevision(ctx, revision)
	}
	return errors.New("the mirror does not run in this process")
}
