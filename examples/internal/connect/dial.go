package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// laggardWait is how long the other endpoints have once one has answered, so that a wrong address in the list is
// noticed before the day it is needed.
const laggardWait = time.Second

// Conn is a connected side. Close it after use.
type Conn struct {
	// Client is connected and logged in; Close closes it.
	Client *clientv3.Client
	// Warnings are endpoints that do not answer, and why.
	Warnings []string

	cancel context.CancelFunc
}

// Close closes the client.
func (c *Conn) Close() {
	_ = c.Client.Close() // its error says that the client was closed
	c.cancel()
}

// Dial checks the settings and connects, within the side's dial timeout. Errors match ErrUsage, ErrUnreachable or
// ErrDenied, or ctx's error when it ends; they name the setting to look at. Nothing is written.
func (s *Side) Dial(ctx context.Context) (*Conn, error) {
	p, err := s.plan()
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(s.dialTimeout)
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	warnings, err := s.knockAll(limited, p)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	conn, err := s.login(limited, p, deadline)
	switch {
	case ctx.Err() != nil:
		if conn != nil {
			conn.Close()
		}
		return nil, ctx.Err()
	case err != nil:
		return nil, s.refusal(err, p)
	}
	conn.Warnings = warnings
	return conn, nil
}

// Open checks the settings and makes a client that connects when it is used, for a cluster that may be down: calls then wait until it is up, or their own deadline ends.
// Only a user has to log in first, within the side's dial timeout. Errors are those of Dial.
func (s *Side) Open(ctx context.Context) (*Conn, error) {
	p, err := s.plan()
	if err != nil {
		return nil, err
	}
	conn, err := s.client(ctx, p, s.dialTimeout)
	switch {
	case ctx.Err() != nil:
		if conn != nil {
			conn.Close()
		}
		return nil, ctx.Err()
	case err != nil:
		return nil, s.refusal(err, p)
	}
	return conn, nil
}

// client makes the client, which logs in if there is a user.
func (s *Side) client(ctx context.Context, p *plan, timeout time.Duration) (*Conn, error) {
	cfg := s.clientConfig(p)
	cfg.DialTimeout = max(timeout, time.Millisecond)
	// New authenticates under the client's own context, which must outlive this call.
	own, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	cfg.Context = own
	client, err := clientv3.New(cfg)
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	conn := &Conn{Client: client, cancel: cancel}
	if !stop() { // ctx has ended, and the client with it
		return conn, ctx.Err()
	}
	return conn, nil
}

// knockAll knocks at every endpoint at once. It fails if none answers; otherwise those that do not become warnings.
func (s *Side) knockAll(ctx context.Context, p *plan) (warnings []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		index int
		err   *knockError
	}
	var conf *tls.Config
	if p.tls != nil {
		conf = p.tls.config()
	}
	results := make(chan result)
	for i, endpoint := range p.endpoints {
		go func() { results <- result{i, knock(ctx, endpoint, conf)} }()
	}
	failures := make([]*knockError, len(p.endpoints))
	reached := false
	for range p.endpoints {
		r := <-results
		failures[r.index] = r.err
		if r.err == nil && !reached {
			reached = true
			timer := time.AfterFunc(laggardWait, cancel)
			defer timer.Stop()
		}
	}
	var reasons []string
	var first *knockError
	for i, failure := range failures {
		if failure == nil {
			continue
		}
		if first == nil {
			first = failure
		}
		reasons = append(reasons, p.endpoints[i].String()+": "+failure.problem)
	}
	if reached {
		for _, reason := range reasons {
			warnings = append(warnings, s.name+" endpoint "+reason)
		}
		return warnings, nil
	}
	return nil, &Error{Kind: ErrUnreachable, Setting: s.Where(first.setting),
		Problem: "the " + s.name + " cannot be reached: " + strings.Join(reasons, "; "), Hint: first.hint}
}

// login makes the client and asks for something that needs a leader.
func (s *Side) login(ctx context.Context, p *plan, deadline time.Time) (*Conn, error) {
	conn, err := s.client(ctx, p, time.Until(deadline))
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, err
	}
	_, err = conn.Client.Get(ctx, "\x00", clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	if err == nil || errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied) { // what the user may do, the caller finds out
		return conn, nil
	}
	conn.Close()
	return nil, err
}

// refusal explains a failed login.
func (s *Side) refusal(err error, p *plan) error {
	denied := func(setting, problem, hint string) error {
		return &Error{Kind: ErrDenied, Setting: s.Where(setting), Problem: problem, Hint: hint}
	}
	switch rpctypes.Error(err) {
	case rpctypes.ErrAuthFailed:
		setting := "user"
		if s.passwordFile != "" {
			setting = "password-file"
		}
		return denied(setting, fmt.Sprintf("the %s refuses user %q: unknown user or wrong password", s.name, p.user), "correct user and password")
	case rpctypes.ErrUserEmpty:
		return denied("user", "the "+s.name+" asks for a user", "give --"+s.flag("user")+" and --"+s.flag("password-file")+", or a client certificate whose common name is a user")
	case rpctypes.ErrInvalidAuthToken, rpctypes.ErrPermissionDenied:
		return denied("user", "the "+s.name+" refuses the user: "+rpctypes.Error(err).Error(), "check the user's roles")
	}
	why := err.Error()
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || strings.Contains(why, context.DeadlineExceeded.Error()) {
		why = fmt.Sprintf("connected, but no answer within %v", s.dialTimeout)
	}
	return &Error{Kind: ErrUnreachable, Setting: s.Where("endpoints"), Problem: "the " + s.name + " does not work: " + why,
		Hint: "check that the etcd has a leader and is not overloaded, or raise --" + s.flag("dial-timeout")}
}
