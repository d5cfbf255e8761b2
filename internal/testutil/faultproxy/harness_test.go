package faultproxy_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// patience bounds what must happen; nothing depends on how fast it does.
const patience = 20 * time.Second

// line is a member behind a proxy.
type line struct {
	t       *testing.T
	group   *faultproxy.Group
	proxy   *faultproxy.Proxy
	address string
	members chan *net.TCPConn // connections that reached the member
}

func newLine(t *testing.T, seed uint64) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &line{t: t, members: make(chan *net.TCPConn, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.members <- c.(*net.TCPConn)
		}
	}()
	n.group = startGroup(t, faultproxy.Options{Seed: seed, Targets: []string{l.Addr().String()}})
	n.proxy, n.address = n.group.Proxy(0), n.group.Endpoints()[0]
	t.Cleanup(func() {
		n.group.Close()
		_ = l.Close()
		<-done
		close(n.members)
		for c := range n.members {
			_ = c.Close()
		}
	})
	return n
}

func startGroup(t *testing.T, opts faultproxy.Options) *faultproxy.Group {
	t.Helper()
	g, err := faultproxy.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// end is one end of a connection with the test's patience.
type end struct {
	t *testing.T
	*net.TCPConn
}

func (n *line) dial() end {
	n.t.Helper()
	c, err := net.Dial("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	return newEnd(n.t, c.(*net.TCPConn))
}

// member is the next connection that reaches the member.
func (n *line) member() end {
	n.t.Helper()
	select {
	case c := <-n.members:
		return newEnd(n.t, c)
	case <-time.After(patience):
		n.t.Fatal("no connection reaches the member")
		return end{}
	}
}

func newEnd(t *testing.T, c *net.TCPConn) end {
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return end{t, c}
}

func (n *line) pair() (client, member end) {
	n.t.Helper()
	return n.dial(), n.member()
}

func (e end) send(s string) {
	e.t.Helper()
	if _, err := io.WriteString(e, s); err != nil {
		e.t.Fatal(err)
	}
}

// get reads exactly what is expected.
func (e end) get(want string) {
	e.t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(e, buf); err != nil || string(buf) != want {
		e.t.Fatalf("got %q, %v; want %q", buf, err, want)
	}
}

// ends reads to the end, which must be of the kind (nil: FIN) after the text and nothing else.
func (e end) ends(text string, kind error) {
	e.t.Helper()
	got, err := io.ReadAll(e)
	if string(got) != text || !errors.Is(err, kind) || kind == nil && err != nil {
		e.t.Fatalf("got %q and the end %v; want %q and %v", got, err, text, kind)
	}
}

func (n *line) apply(f faultproxy.Fault) {
	n.t.Helper()
	if err := n.proxy.Apply(f); err != nil {
		n.t.Fatal(err)
	}
}

// dialledInVain makes a connection that is reset at once, perhaps before the client knows that it was accepted.
func (n *line) dialledInVain() {
	n.t.Helper()
	c, err := net.Dial("tcp", n.address)
	if err == nil {
		newEnd(n.t, c.(*net.TCPConn)).ends("", reset)
	} else if !errors.Is(err, reset) {
		n.t.Fatal(err)
	}
}

// until waits for a counter.
func (n *line) until(kind faultproxy.Kind, want faultproxy.Counter) {
	n.t.Helper()
	for began := time.Now(); n.proxy.Counters()[kind] != want; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			n.t.Fatalf("counter of %s is %+v; want %+v", kind, n.proxy.Counters()[kind], want)
		}
	}
}

const reset = syscall.ECONNRESET
