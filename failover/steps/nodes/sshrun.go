package nodes

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Run implements Host.
func (s *SSH) Run(ctx context.Context, cmd Command) (Result, error) {
	if err := cmd.check(s.cfg.Name); err != nil {
		return Result{}, err
	}
	ctx, cancel := limit(ctx, cmd.Timeout, s.cfg.CommandTimeout)
	defer cancel()
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return Result{}, &Error{Kind: ErrNotStarted, Host: s.cfg.Name, Detail: "other commands run there", Cause: context.Cause(ctx)}
	}
	client, session, err := s.session(ctx)
	if err != nil {
		return Result{}, err
	}
	in := invoke(cmd, cmd.Root && s.cfg.User != "root")
	session.Stdout, session.Stderr = &in.stdout, &in.stderr
	stdin, err := session.StdinPipe()
	if err != nil {
		return Result{}, &Error{Kind: ErrNotStarted, Host: s.cfg.Name, Cause: err}
	}
	ended := make(chan error, 1)
	s.spawn(func() {
		defer session.Close()
		err := session.Start("exec " + words(in.argv, quote))
		if err != nil {
			ended <- &startError{err}
			return
		}
		// A program need not read what it gets: then this fails, and its status counts.
		s.spawn(func() {
			_, _ = io.Copy(stdin, bytes.NewReader(cmd.Stdin))
			_ = stdin.Close()
		})
		ended <- session.Wait()
	})
	select {
	case err := <-ended:
		return s.end(in, err)
	case <-ctx.Done():
	}
	for _, signal := range []string{"TERM", "KILL"} {
		s.kill(client, in, signal)
		timer := time.NewTimer(killGrace)
		select {
		case err := <-ended:
			timer.Stop()
			var missing *ssh.ExitMissingError
			var start *startError
			if errors.As(err, &missing) || errors.As(err, &start) {
				return Result{}, &Error{Kind: ErrOutcomeUnknown, Host: s.cfg.Name, Detail: "it was to be ended, and the connection was lost", Hint: "look on the host whether it runs", Cause: context.Cause(ctx)}
			}
			return Result{}, &Error{Kind: ErrCancelled, Host: s.cfg.Name, Cause: context.Cause(ctx)}
		case <-timer.C:
		}
	}
	_ = session.Close() // nobody answers any more
	return Result{}, &Error{Kind: ErrOutcomeUnknown, Host: s.cfg.Name, Detail: "it could not be ended", Hint: "look on the host whether it runs", Cause: context.Cause(ctx)}
}

// startError: the request to run the command was sent, and not granted.
type startError struct{ error }

// session opens one, on a new connection if the one that was there is lost. Nothing has run before it is there, so this may be tried again.
func (s *SSH) session(ctx context.Context) (*ssh.Client, *ssh.Session, error) {
	for {
		client, reused, err := s.connected(ctx)
		if err != nil {
			return nil, nil, err
		}
		session, err := s.open(ctx, client)
		if err == nil {
			return client, session, nil
		}
		var open *ssh.OpenChannelError
		if errors.As(err, &open) {
			return nil, nil, &Error{Kind: ErrNotStarted, Host: s.cfg.Name, Detail: "the server opens no session", Hint: "look at its MaxSessions, and at ForceCommand for the user", Cause: err}
		}
		if ctx.Err() != nil { // others may use the connection
			return nil, nil, &Error{Kind: ErrNotStarted, Host: s.cfg.Name, Cause: context.Cause(ctx)}
		}
		s.drop(client)
		if !reused {
			return nil, nil, &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Detail: "the connection was lost before the command was sent", Cause: err}
		}
	}
}

var errNoAnswer = errors.New("the server does not answer")

// open opens a session, or gives up when the server does not answer.
func (s *SSH) open(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	type answer struct {
		session *ssh.Session
		err     error
	}
	answers := make(chan answer)
	gone := make(chan struct{})
	s.spawn(func() {
		session, err := client.NewSession()
		select {
		case answers <- answer{session, err}:
		case <-gone:
			if err == nil {
				_ = session.Close() // nobody wants it any more
			}
		}
	})
	defer close(gone)
	timer := time.NewTimer(s.cfg.ConnectTimeout)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.session, a.err
	case <-timer.C:
		return nil, errNoAnswer
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// kill sends the program a signal from another session of the same connection, which works behind sudo, and where the server does not pass on signals, too.
func (s *SSH) kill(client *ssh.Client, in *invocation, signal string) {
	killer, ok := in.killer(signal)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	session, err := s.open(ctx, client)
	if err != nil {
		return // whether it helped shows in whether the program ends
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	defer session.Close()
	_ = session.Run(words(killer, quote))
}

func (s *SSH) end(in *invocation, err error) (Result, error) {
	var exit *ssh.ExitError
	var start *startError
	switch {
	case errors.As(err, &start):
		// Refused, or the connection was lost: then it may have been granted.
		if strings.HasPrefix(start.Error(), "ssh: command ") { // it has no type, and it quotes the command: it is not passed on
			return Result{}, &Error{Kind: ErrNotStarted, Host: s.cfg.Name, Detail: "the server does not run commands", Hint: "look at ForceCommand and PermitTTY in its sshd_config"}
		}
		return Result{}, &Error{Kind: ErrOutcomeUnknown, Host: s.cfg.Name, Detail: "the connection was lost when it was sent", Hint: "look on the host whether it has run"}
	case errors.As(err, &exit) && exit.Signal() != "":
		return Result{}, &Error{Kind: ErrSignal, Host: s.cfg.Name, Detail: exit.Signal(), Signal: exit.Signal()}
	case err != nil && exit == nil:
		return Result{}, &Error{Kind: ErrOutcomeUnknown, Host: s.cfg.Name, Detail: "the connection was lost while it ran", Hint: "look on the host whether it runs, or what it left", Cause: err}
	}
	status := 0
	if exit != nil {
		status = exit.ExitStatus()
	}
	res, started := in.result(status)
	if !started {
		return Result{}, refused(s.cfg.Name, res)
	}
	return res, nil
}
