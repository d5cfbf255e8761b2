package nodes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// LocalConfig says how this machine is used.
type LocalConfig struct {
	// Name is what plans call it; "" is "localhost".
	Name string
	// CommandTimeout bounds commands that say none; 0 is DefaultCommandTimeout.
	CommandTimeout time.Duration
}

// Local is the machine that the program runs on.
type Local struct{ cfg LocalConfig }

var _ Host = (*Local)(nil)

// NewLocal returns the host. Errors match failover.ErrConfig.
func NewLocal(cfg LocalConfig) (*Local, error) {
	if cfg.Name == "" {
		cfg.Name = "localhost"
	}
	if !hostName.MatchString(cfg.Name) {
		return nil, badConfig(fmt.Sprintf("LocalConfig.Name is %q", cfg.Name), "use letters, digits and . _ - : @")
	}
	if cfg.CommandTimeout < 0 {
		return nil, badConfig("LocalConfig.CommandTimeout is negative", "leave it 0 for the default")
	}
	if cfg.CommandTimeout == 0 {
		cfg.CommandTimeout = DefaultCommandTimeout
	}
	return &Local{cfg}, nil
}

// Name implements Host.
func (l *Local) Name() string { return l.cfg.Name }

// Run implements Host.
func (l *Local) Run(ctx context.Context, cmd Command) (Result, error) {
	if err := cmd.check(l.cfg.Name); err != nil {
		return Result{}, err
	}
	ctx, cancel := limit(ctx, cmd.Timeout, l.cfg.CommandTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return Result{}, &Error{Kind: ErrNotStarted, Host: l.cfg.Name, Cause: context.Cause(ctx)}
	}
	in := invoke(cmd, cmd.Root && os.Geteuid() != 0)
	c := exec.Command(in.argv[0], in.argv[1:]...)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(cmd.Stdin), &in.stdout, &in.stderr
	c.WaitDelay = killGrace // what the program left behind may hold its output open
	ownGroup(c)
	if err := c.Start(); err != nil {
		return Result{}, &Error{Kind: ErrNotStarted, Host: l.cfg.Name, Cause: err}
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		return l.end(in, err)
	case <-ctx.Done():
	}
	for _, signal := range []string{"TERM", "KILL"} {
		l.kill(c, in, signal)
		timer := time.NewTimer(killGrace + c.WaitDelay)
		select {
		case <-ended:
			timer.Stop()
			return Result{}, &Error{Kind: ErrCancelled, Host: l.cfg.Name, Cause: context.Cause(ctx)}
		case <-timer.C:
		}
	}
	return Result{}, &Error{Kind: ErrOutcomeUnknown, Host: l.cfg.Name, Detail: "it does not end", Cause: context.Cause(ctx)}
}

func (l *Local) kill(c *exec.Cmd, in *invocation, signal string) {
	if !in.sudo {
		killGroup(c, signal)
		return
	}
	if killer, ok := in.killer(signal); ok {
		ctx, cancel := context.WithTimeout(context.Background(), killGrace)
		defer cancel()
		_ = exec.CommandContext(ctx, killer[0], killer[1:]...).Run() // whether it helped shows in what comes
	}
}

func (l *Local) end(in *invocation, err error) (Result, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		res, _ := in.result(0)
		return res, nil
	case !errors.As(err, &exit):
		// The standard input or output failed: the program itself has ended, with an unknown status.
		return Result{}, &Error{Kind: ErrOutcomeUnknown, Host: l.cfg.Name, Cause: err}
	}
	if name := signalOf(exit); name != "" {
		return Result{}, &Error{Kind: ErrSignal, Host: l.cfg.Name, Detail: name, Signal: name}
	}
	res, started := in.result(exit.ExitCode())
	if !started {
		return Result{}, refused(l.cfg.Name, res)
	}
	return res, nil
}

// limit bounds a command.
func limit(ctx context.Context, own, host time.Duration) (context.Context, context.CancelFunc) {
	if own > 0 {
		host = own
	}
	return context.WithTimeoutCause(ctx, host, fmt.Errorf("not ended within %s: %w", host, context.DeadlineExceeded))
}
