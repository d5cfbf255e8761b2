package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil/daemon"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

// proxy is a real HAProxy in front of an echo server.
type proxy struct {
	t           *testing.T
	admin       HAProxy
	operator    HAProxy
	etcd, extra int // ports of frontends
	tcp         int // port of the API
	proc        *proc.Proc
}

// free returns ports that were free a moment ago.
func free(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func startProxy(t *testing.T) *proxy {
	t.Helper()
	daemon.Need(t, "haproxy", "haproxy")
	dir, err := os.MkdirTemp("", "ha") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					_, _ = c.Write([]byte(line))
				}
			}()
		}
	}()
	back := l.Addr().String()
	ports := free(t, 3)
	p := &proxy{t: t, etcd: ports[0], extra: ports[1], tcp: ports[2],
		admin: HAProxy{Name: "lb1", Address: filepath.Join(dir, "a")}, operator: HAProxy{Name: "lb1", Address: filepath.Join(dir, "o")}}
	conf := fmt.Sprintf(`global
    stats socket %s level admin
    stats socket %s level operator
    stats socket ipv4@127.0.0.1:%d level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend etcd
    bind 127.0.0.1:%d
    bind [::1]:%d
    default_backend etcd
listen extra
    bind 127.0.0.1:%d
    server only %s
backend etcd
    server n1 %s
    server n2 127.0.0.1:%d check inter 50ms
    server n3 %s disabled
`, p.admin.Address, p.operator.Address, p.tcp, p.etcd, p.etcd, p.extra, back, back, closedPort(t), back)
	p.proc = daemon.HAProxy(t, p.admin.Address, conf)
	return p
}

// ask gives a command past the package.
func (p *proxy) ask(command string) string {
	p.t.Helper()
	c, err := net.Dial("unix", p.admin.Address)
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte(command + "\n"))
	var b strings.Builder
	for s := bufio.NewScanner(c); s.Scan(); {
		b.WriteString(s.Text() + "\n")
	}
	return b.String()
}

// frontends is the state of the frontends, seen by clients.
func (p *proxy) frontends() string {
	p.t.Helper()
	var b strings.Builder
	for _, at := range []string{endpoint("127.0.0.1", p.etcd), endpoint("::1", p.etcd), endpoint("127.0.0.1", p.extra)} {
		c, err := net.DialTimeout("tcp", at, 10*time.Second)
		fmt.Fprintf(&b, "%v ", judge(err))
		if err == nil {
			_ = c.Close()
		}
	}
	return b.String()
}

// servers is the administrative state of the servers of backend etcd, without what can only be cleared and not set.
func (p *proxy) servers() string {
	var b strings.Builder
	for line := range strings.Lines(p.ask("show servers state etcd")) {
		if f := strings.Fields(line); len(f) > 6 && f[1] == "etcd" {
			fmt.Fprintf(&b, "%s:%s ", f[3], f[6])
		}
	}
	return b.String()
}

// session is a connection through a frontend.
func (p *proxy) session(port int) *bufio.ReadWriter {
	p.t.Helper()
	c, err := net.Dial("tcp", endpoint("127.0.0.1", port))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	s := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
	if !echoes(s) {
		p.t.Fatal("nothing comes through")
	}
	return s
}

func echoes(s *bufio.ReadWriter) bool {
	if _, err := s.WriteString("hello\n"); err != nil {
		return false
	}
	if s.Flush() != nil {
		return false
	}
	line, err := s.ReadString('\n')
	return err == nil && line == "hello\n"
}

func TestHAProxyFrontends(t *testing.T) {
	p := startProxy(t)
	cfg := FrontendsConfig{HAProxy: p.admin, Frontends: []string{"etcd", "extra"}, Endpoints: []string{endpoint("127.0.0.1", p.etcd), endpoint("::1", p.etcd), endpoint("127.0.0.1", p.extra)}}
	if got := p.frontends(); got != "open open open " {
		t.Fatal(got)
	}
	steprun.Contract(t, func() failover.Step { return must(t)(FrontendsOff(cfg)) }, p.frontends)

	// What was off before stays off, and is not put on by Undo.
	p.ask("disable frontend extra")
	steprun.Contract(t, func() failover.Step { return must(t)(FrontendsOff(cfg)) }, p.frontends)
	if got := p.frontends(); got != "open open refused " {
		t.Fatal(got)
	}
	steprun.Contract(t, func() failover.Step { return must(t)(FrontendsOn(cfg)) }, p.frontends)

	// Verify passes on the real thing, and fails when another listener answers instead.
	off := must(t)(FrontendsOff(cfg))
	if err := steprun.New(t).Run(off); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.Endpoints = []string{endpoint("127.0.0.1", listen(t, "127.0.0.1:0"))}
	if err := steprun.New(t).Run(must(t)(FrontendsOff(other))); !errors.Is(err, failover.ErrNotVerified) {
		t.Errorf("got %v, want ErrNotVerified", err)
	}
}

// What a client sees of a disabled frontend: a new connection is refused, one that is there goes on until it is ended.
func TestSessionsOfADisabledFrontend(t *testing.T) {
	p := startProxy(t)
	there, other := p.session(p.etcd), p.session(p.extra)
	cfg := FrontendsConfig{HAProxy: p.admin, Frontends: []string{"etcd"}}
	if err := steprun.New(t).Run(must(t)(FrontendsOff(cfg))); err != nil {
		t.Fatal(err)
	}
	if got := p.frontends(); got != "refused refused open " {
		t.Errorf("clients see %s", got)
	}
	if !echoes(there) {
		t.Error("the connection that was there ended")
	}
	cfg.EndSessions = true
	end := must(t)(FrontendsOff(cfg))
	look(t, end, failover.Partial, "etcd off", "1 sessions go on")
	lab := steprun.New(t)
	if err := lab.Run(end); err != nil {
		t.Fatal(err)
	}
	if echoes(there) {
		t.Error("the connection lives on")
	}
	if !echoes(other) {
		t.Error("the connection through another frontend ended")
	}
	// The frontend was off before: undoing leaves it.
	if err := lab.Undo(end); err != nil {
		t.Error(err)
	}
	if got := p.frontends(); got != "refused refused open " {
		t.Errorf("after undoing clients see %s", got)
	}
}

func TestHAProxyServers(t *testing.T) {
	p := startProxy(t)
	p.ask("set server etcd/n3 state ready") // so that what it was can be set again
	p.ask("set server etcd/n3 state maint")
	for _, state := range []ServerState{ServerDrain, ServerMaint, ServerReady} {
		cfg := ServersConfig{HAProxy: p.admin, Servers: []string{"etcd/n1", "etcd/n3"}, State: state}
		steprun.Contract(t, func() failover.Step { return must(t)(Servers(cfg)) }, p.servers)
	}
	p.ask("set server etcd/n3 state drain")
	// By TCP, too.
	tcp := HAProxy{Name: "lb1", Network: "tcp", Address: endpoint("127.0.0.1", p.tcp)}
	steprun.Contract(t, func() failover.Step {
		return must(t)(Servers(ServersConfig{HAProxy: tcp, Servers: []string{"etcd/n1", "etcd/n2", "etcd/n3"}, State: ServerMaint}))
	}, p.servers)

	// A server whose check fails is ready, and not verified.
	err := steprun.New(t).Run(must(t)(Servers(ServersConfig{HAProxy: p.admin, Servers: []string{"etcd/n2", "etcd/n1"}, State: ServerReady, UpWithin: 300 * time.Millisecond})))
	if !errors.Is(err, failover.ErrNotVerified) || !strings.Contains(err.Error(), "etcd/n2 is DOWN") {
		t.Errorf("got %v, want that etcd/n2 is not verified", err)
	}

	there := p.session(p.etcd)
	if err := steprun.New(t).Run(must(t)(Servers(ServersConfig{HAProxy: p.admin, Servers: []string{"etcd/n1"}, State: ServerMaint}))); err != nil {
		t.Fatal(err)
	}
	if !echoes(there) {
		t.Error("maintenance ended a connection")
	}
	if err := steprun.New(t).Run(must(t)(Servers(ServersConfig{HAProxy: p.admin, Servers: []string{"etcd/n1"}, State: ServerMaint, EndSessions: true}))); err != nil {
		t.Fatal(err)
	}
	if echoes(there) {
		t.Error("the connection lives on")
	}
}

// A step that was interrupted between two of its effects goes on, and undoes only its own.
func TestPartOfTheFrontends(t *testing.T) {
	p := startProxy(t)
	cfg := FrontendsConfig{HAProxy: p.admin, Frontends: []string{"etcd", "extra"}}
	// Only the first order comes through, also when the step is tried again: one frontend is off then.
	broken := cfg
	orders := 0
	broken.HAProxy.Dialer = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &orderConn{Conn: c, allow: func(order string) bool {
			if strings.HasPrefix(order, "disable") {
				orders++
			}
			return orders < 2 || !strings.HasPrefix(order, "disable")
		}}, err
	})
	lab := steprun.New(t)
	if err := lab.Run(must(t)(FrontendsOff(broken))); !errors.Is(err, failover.ErrStepFailed) {
		t.Fatalf("got %v, want ErrStepFailed", err)
	}
	if got := p.frontends(); got != "refused refused open " {
		t.Fatal(got)
	}
	if err := lab.Undo(must(t)(FrontendsOff(cfg))); err != nil {
		t.Fatal(err)
	}
	if got := p.frontends(); got != "open open open " {
		t.Errorf("after undoing clients see %s", got)
	}
}

type orderConn struct {
	net.Conn
	allow func(string) bool
}

func (c *orderConn) Write(b []byte) (int, error) {
	if !c.allow(string(b)) {
		return 0, errors.New("broken")
	}
	return c.Conn.Write(b)
}

func TestHAProxyRefusals(t *testing.T) {
	p := startProxy(t)
	off := FrontendsConfig{HAProxy: p.operator, Frontends: []string{"etcd"}}
	look(t, must(t)(FrontendsOff(off)), failover.Blocked, `its level is "operator"`)
	look(t, must(t)(Servers(ServersConfig{HAProxy: p.operator, Servers: []string{"etcd/n1"}, State: ServerMaint})), failover.Blocked, `its level is "operator"`)
	off.HAProxy, off.Frontends = p.admin, []string{"etcd", "nosuch"}
	look(t, must(t)(FrontendsOff(off)), failover.Blocked, `there is no frontend "nosuch"`)
	look(t, must(t)(Servers(ServersConfig{HAProxy: p.admin, Servers: []string{"etcd/n9"}, State: ServerMaint})), failover.Blocked, `there is no server "etcd/n9"`)
	// A frontend that was shut down is off, and cannot be put on.
	p.ask("shutdown frontend etcd")
	off.Frontends = []string{"etcd"}
	look(t, must(t)(FrontendsOff(off)), failover.Done)
	look(t, must(t)(FrontendsOn(off)), failover.Blocked, "only by a restart")
	admin := p.admin
	admin.complete(new(configErrors))
	if err := admin.order(t.Context(), "bogus"); err == nil || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("an unknown command gives %v", err)
	}

	// A process that is gone: an error, and without the primary it is taken as off.
	p.proc.Kill9()
	off.OfPrimary = true
	step := must(t)(FrontendsOff(off))
	if _, err := step.Observe(t.Context()); !errors.Is(err, ErrHAProxy) || !strings.Contains(err.Error(), off.HAProxy.Address) {
		t.Errorf("got %v, want ErrHAProxy with the address", err)
	}
	lab := steprun.New(t)
	lab.Mode = failover.ModeUngraceful
	if err := lab.Run(step); err != nil {
		t.Error(err)
	}
	if got := lab.Step(); got.State != failover.StepAlready || !strings.Contains(got.Detail, "taken as gone") {
		t.Errorf("without the primary the step is %+v", got)
	}
}

// A process that takes the connection and says nothing does not hold the plan up.
func TestHAProxyThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := must(t)(FrontendsOff(FrontendsConfig{Frontends: []string{"etcd"}, HAProxy: HAProxy{Name: "lb1", Network: "tcp", Address: l.Addr().String(), Timeout: 100 * time.Millisecond}}))
	if _, err := s.Observe(t.Context()); !errors.Is(err, ErrHAProxy) || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Errorf("got %v", err)
	}
}

// Drills leave real frontends alone unless told otherwise.
func TestDrillsLeaveFrontendsAlone(t *testing.T) {
	cfg := FrontendsConfig{Frontends: []string{"etcd"}, HAProxy: HAProxy{Name: "lb1", Address: "/nowhere"}}
	for inDrill, want := range map[bool]bool{false: true, true: false} {
		cfg.InDrill = inDrill
		lab := steprun.New(t)
		lab.Mode = failover.ModeDrill
		if got := lab.Plan(must(t)(FrontendsOff(cfg)), must(t)(VIPHeld(VIPConfig{VIP: VIP{Address: "10.0.0.1", Holder: &local{name: "a"}}}))).Document().Steps[0].LeftOut; got != want {
			t.Errorf("InDrill %v: left out %v", inDrill, got)
		}
	}
}

func TestHAProxyConfig(t *testing.T) {
	ok := HAProxy{Name: "lb1", Address: "/run/haproxy.sock"}
	for field, cfg := range map[string]FrontendsConfig{
		"HAProxy.Name": {}, "HAProxy.Address": {HAProxy: HAProxy{Name: "a"}}, "Frontends is empty": {HAProxy: ok}, "Frontends[0]": {HAProxy: ok, Frontends: []string{"etcd; shutdown frontend web"}},
		"Frontends[1]": {HAProxy: ok, Frontends: []string{"a", "a"}}, "Endpoints[0]": {HAProxy: ok, Frontends: []string{"a"}, Endpoints: []string{"a"}}, "HAProxy.Network": {HAProxy: HAProxy{Name: "a", Network: "udp"}},
	} {
		_, err := FrontendsOff(cfg)
		wantConfig(t, err, field)
	}
	_, err := FrontendsOn(FrontendsConfig{HAProxy: ok, Frontends: []string{"a"}, EndSessions: true})
	wantConfig(t, err, "EndSessions")
	for field, cfg := range map[string]ServersConfig{
		"Servers is empty": {HAProxy: ok}, "Servers[0]": {HAProxy: ok, Servers: []string{"n1"}}, `"a/b\nc"`: {HAProxy: ok, Servers: []string{"a/b\nc"}}, "State": {HAProxy: ok, Servers: []string{"a/b"}},
		"EndSessions": {HAProxy: ok, Servers: []string{"a/b"}, State: ServerReady, EndSessions: true},
	} {
		_, err := Servers(cfg)
		wantConfig(t, err, field)
	}
}
