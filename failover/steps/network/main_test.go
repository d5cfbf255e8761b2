package network

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// listen accepts connections on a loopback address until the test ends, and closes them.
func listen(t *testing.T, address string) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// closedPort is a port on which nothing listens: it stays bound, so that nobody else gets it.
func closedPort(t *testing.T) int {
	t.Helper()
	fd := socket(t)
	return bind(t, fd)
}

func wantConfig(t *testing.T, err error, field string) {
	t.Helper()
	var e *failover.Error
	if !errors.Is(err, failover.ErrConfig) || !errors.As(err, &e) || !strings.Contains(err.Error(), field) || e.Hint == "" {
		t.Errorf("got %v, want ErrConfig that names %s, with a hint", err, field)
	}
}

func endpoint(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// look observes a step and checks the state and what the detail says.
func look(t *testing.T, s failover.Step, state failover.State, parts ...string) {
	t.Helper()
	obs, err := s.Observe(testutil.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if obs.State != state {
		t.Errorf("%s is %s (%s), want %s", s.Name(), obs.State, obs.Detail, state)
	}
	for _, part := range parts {
		if !strings.Contains(obs.Detail, part) {
			t.Errorf("the detail does not say %q: %s", part, obs.Detail)
		}
	}
}

func must(t *testing.T) func(failover.Step, error) failover.Step {
	return func(s failover.Step, err error) failover.Step {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}
