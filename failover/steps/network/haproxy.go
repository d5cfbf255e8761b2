package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// DefaultHAProxyTimeout bounds one command of a runtime API, from the connection to the answer's end.
const DefaultHAProxyTimeout = 5 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// ErrHAProxy: HAProxy's runtime API cannot be reached, or refused a command. The text says which.
var ErrHAProxy = errors.New("HAProxy")

// HAProxy is the runtime API of one HAProxy process: what its line "stats socket" opens, with "level admin". There is a step for each process, so that a crash between two of them costs nothing.
//
// What is set by it lives in the process alone: a reload or restart of HAProxy begins again with what the configuration says. Change that too where the change is meant to stay.
type HAProxy struct {
	// Name is what plans call it, such as the host's name. Required: letters, digits and . _ -.
	Name string
	// Network is "unix" or "tcp"; "" is "unix". Address is the socket's path, or host:port. Required.
	Network, Address string
	// Dialer opens connections; nil is this machine's. An *ssh.Client reaches a socket on another machine, also one of Network "unix".
	Dialer Dialer
	// Timeout bounds each command; 0 is DefaultHAProxyTimeout.
	Timeout time.Duration
}

var (
	plainName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	// proxyName is what HAProxy allows in names; nothing of it ends a command.
	proxyName = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)
)

func (h *HAProxy) complete(errs *configErrors) {
	if !plainName.MatchString(h.Name) {
		errs.add(fmt.Sprintf("HAProxy.Name %q is no name", h.Name), "use 1 to 63 letters, digits, '.', '_' and '-'")
	}
	if h.Network == "" {
		h.Network = "unix"
	}
	switch h.Network {
	case "unix":
		if h.Address == "" {
			errs.add("HAProxy.Address is empty", `give the path of HAProxy's "stats socket", such as /run/haproxy/admin.sock`)
		}
	case "tcp":
		if _, _, err := splitEndpoint(h.Address); err != nil {
			errs.add(fmt.Sprintf("HAProxy.Address %q: %v", h.Address, err), `give the host:port of HAProxy's "stats socket"`)
		}
	default:
		errs.add(fmt.Sprintf("HAProxy.Network %q is unknown", h.Network), `use "unix" or "tcp"`)
	}
	errs.positive("HAProxy.Timeout", &h.Timeout, DefaultHAProxyTimeout)
	if h.Dialer == nil {
		h.Dialer = &net.Dialer{}
	}
}

func (h *HAProxy) inputs() map[string]any {
	return map[string]any{"name": h.Name, "network": h.Network, "address": h.Address, "timeout": h.Timeout.String()}
}

// byHand is how a person gives a command.
func (h *HAProxy) byHand(command string) string {
	to := "UNIX-CONNECT:" + h.Address
	if h.Network == "tcp" {
		to = "TCP:" + h.Address
	}
	return fmt.Sprintf("echo %q | socat - %s", command, to)
}

// unreachableError says that no connection to the API came about.
type unreachableError struct{ error }

func (e unreachableError) Unwrap() error { return e.error }

// ask gives one command and returns the answer.
func (h *HAProxy) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	fail := func(err error) error {
		return fmt.Errorf("%w %s at %s, %q: %w", ErrHAProxy, h.Name, h.Address, command, err)
	}
	conn, err := h.Dialer.DialContext(ctx, h.Network, h.Address)
	if err != nil {
		return "", fail(unreachableError{err})
	}
	defer conn.Close()
	// Connections of ssh know no deadlines: closing ends their calls as well.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", fail(err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return "", fail(fmt.Errorf("no answer within %v", h.Timeout))
	case err != nil:
		return "", fail(err)
	case len(answer) > maxAnswer:
		return "", fail(fmt.Errorf("the answer has more than %d bytes", maxAnswer))
	}
	return string(answer), nil
}

// order gives a command that answers with nothing, or with one of the given texts if there was nothing to do.
func (h *HAProxy) order(ctx context.Context, command string, fine ...string) error {
	answer, err := h.ask(ctx, command)
	if err != nil {
		return err
	}
	answer = strings.TrimSpace(answer)
	if answer == "" {
		return nil
	}
	for _, f := range fine {
		if answer == f {
			return nil
		}
	}
	// An answer to a command that is not known is a page of help.
	line, _, _ := strings.Cut(answer, "\n")
	err = fmt.Errorf("%w %s, %q: it answered %q", ErrHAProxy, h.Name, command, line)
	if line == "Permission denied" {
		return failover.Permanent(err)
	}
	return err
}

// level is what the socket may do: user, operator or admin.
func (h *HAProxy) level(ctx context.Context) (string, error) {
	answer, err := h.ask(ctx, "show cli level")
	return strings.TrimSpace(answer), err
}

// locked says why the socket may not change anything; "" if it may. It is asked only where there is something to change.
func (h *HAProxy) locked(ctx context.Context) (string, error) {
	level, err := h.level(ctx)
	if err != nil || level == "admin" {
		return "", err
	}
	return fmt.Sprintf(`the socket may not change anything: its level is %q (set "level admin" on its line "stats socket")`, level), nil
}

// withoutProcess is how an ungraceful plan looks at a process of the primary: if nobody answers, nothing goes through it.
func withoutProcess(observe func(ctx context.Context) (failover.Observation, error)) func(ctx context.Context) (failover.Observation, error) {
	return func(ctx context.Context) (failover.Observation, error) {
		var err error
		for range 3 {
			var obs failover.Observation
			if obs, err = observe(ctx); !errors.As(err, new(unreachableError)) {
				return obs, err
			}
		}
		return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("taken as gone: %v; when it comes back it is as its configuration says: change that before it does", err)}, nil
	}
}
