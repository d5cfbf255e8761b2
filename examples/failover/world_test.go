package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/daemon"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// What the switches of roles happen in: two clusters of three etcd members, each behind a HAProxy of its own with a virtual IP, a DNS zone with a resolver that caches, and mirrors that run as processes.

const (
	domain     = "platform.example.com"
	mirrorName = "global"
	recordTTL  = 2 * time.Second
)

// centre is one cluster with what is around it.
type centre struct {
	name, vip string
	etcd      *embedetcd.Cluster
	client    *clientv3.Client // past the load balancer
	haproxy   string           // socket of its runtime API
}

type world struct {
	t        *testing.T
	dir      string
	dc1, dc2 *centre
	server   string // of the zone
	resolver string
	mirrors  *supervisor
	// atBrowser is called once when a plan asks for a look by a browser: the users have arrived then.
	atBrowser func()
}

func (w *world) centre(name string) *centre {
	if name == w.dc1.name {
		return w.dc1
	}
	return w.dc2
}

func newWorld(t *testing.T) *world {
	t.Helper()
	daemon.Need(t, "named", "bind9")
	daemon.Need(t, "haproxy", "haproxy")
	dir, err := os.MkdirTemp("", "sw") // the paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir}
	w.dc1, w.dc2 = w.startCentre("dc1", "127.91.0.10"), w.startCentre("dc2", "127.92.0.10")
	w.server = daemon.BIND(t, func(dir string) string {
		w.write(dir, "zone.db", fmt.Sprintf("$TTL %d\n@ SOA ns admin 1 3600 600 86400 1\n@ NS ns\nns A 127.0.0.1\nplatform A %s\n", int(recordTTL.Seconds()), w.dc1.vip))
		key := fmt.Sprintf("key \"dr\" {\n\talgorithm hmac-sha256;\n\tsecret \"%s\";\n};\n", base64.StdEncoding.EncodeToString([]byte("hunter2secret-of-the-zone-0123456")))
		w.write(w.dir, "dns.key", key)
		return key + `zone "example.com" { type primary; file "zone.db"; update-policy { grant dr zonesub A AAAA CNAME; }; };`
	}, "recursion no;")
	_, port, _ := net.SplitHostPort(w.server)
	w.resolver = daemon.BIND(t, func(string) string {
		return fmt.Sprintf(`zone "example.com" { type forward; forward only; forwarders { 127.0.0.1 port %s; }; };`, port)
	}, "recursion yes; allow-recursion { any; };")
	w.mirrors = startSupervisor(w)
	return w
}

func (w *world) write(dir, name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startCentre(name, vip string) *centre {
	w.t.Helper()
	etcd := testutil.NewCluster(w.t, embedetcd.Options{Members: 3})
	c := &centre{name: name, vip: vip, etcd: etcd, client: testutil.Client(w.t, etcd), haproxy: filepath.Join(w.dir, name+".sock")}
	var servers strings.Builder
	for i, e := range etcd.Endpoints() {
		_, address, _ := strings.Cut(e, "://")
		fmt.Fprintf(&servers, "    server m%d %s check inter 200ms\n", i, address)
	}
	daemon.HAProxy(w.t, c.haproxy, fmt.Sprintf(`global
    stats socket %s level admin
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
frontend api
    bind %s:6443
    default_backend etcd
frontend etcd
    bind %s:2379
    default_backend etcd
backend etcd
%s`, c.haproxy, vip, vip, servers.String()))
	return c
}

// until waits for something that comes about by itself.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	for ctx := testutil.Context(w.t); !done(); {
		select {
		case <-ctx.Done():
			w.t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// inventory writes the inventory with the roles as they are.
func (w *world) inventory(primary, standby *centre) string {
	w.t.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, "clusters:")
	for _, c := range []*centre{w.dc1, w.dc2} {
		fmt.Fprintf(&b, `  %[1]s:
    vips: [%[2]s]
    ports: [6443, 2379]
    etcd: {endpoints: [%[3]s]}
    hosts: [{name: %[1]s-m1}]
    haproxy: [{name: lb-%[1]s, socket: "unix:%[4]s", clients: [api], etcd: [etcd]}]
    mirror: {host: %[1]s-m1, start: [%[5]s, start], stop: [%[5]s, stop], running: [%[5]s, state]}
`, c.name, c.vip, strings.Join(c.etcd.Endpoints(), ", "), c.haproxy, strings.Join(w.mirrors.command(c.name), ", "))
	}
	fmt.Fprintf(&b, `primary: %s
standby: %s
domain: %s
mirror: {name: %s}
dns: {server: "%s", keyFile: dns.key, switchTTL: 1s, ttl: %s, resolvers: ["%s", "%s"]}
differenceReport: differences.jsonl
revisionMargin: 1000
revisionMarginUngraceful: 3000
journalCopy: true
withoutRoot: true
`, primary.name, standby.name, domain, mirrorName, w.server, recordTTL, w.server, w.resolver)
	w.write(w.dir, "inventory.yaml", b.String())
	return filepath.Join(w.dir, "inventory.yaml")
}

// supervisor runs the mirrors, as systemd would: processes of the mirror's own binary, which outlive the runner.
type supervisor struct {
	w      *world
	socket string
	binary string

	mu      sync.Mutex
	running map[string]*proc.Proc // by the standby's name
}

func startSupervisor(w *world) *supervisor {
	w.t.Helper()
	s := &supervisor{w: w, socket: filepath.Join(w.dir, "s.sock"), binary: filepath.Join(w.dir, "mirror"), running: map[string]*proc.Proc{}}
	if out, err := exec.Command("go", "build", "-o", s.binary, "../mirror").CombinedOutput(); err != nil {
		w.t.Fatalf("building the mirror: %v: %s", err, out)
	}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

// command asks the supervisor, in the inventory: the test binary in another role.
func (s *supervisor) command(standby string) []string {
	self, err := os.Executable()
	if err != nil {
		s.w.t.Fatal(err)
	}
	return []string{"/usr/bin/env", "UNDERSTUDY_TEST_CHILD=mirrorctl", self, s.socket, standby}
}

// mirrorctl is that role.
func mirrorctl() int {
	conn, err := net.Dial("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	defer conn.Close()
	fmt.Fprintln(conn, os.Args[2], os.Args[3])
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	switch strings.TrimSpace(answer) {
	case "on", "ok":
		return 0
	case "off":
		return 3
	}
	fmt.Fprint(os.Stderr, answer)
	return 4
}

func (s *supervisor) serve(conn net.Conn) {
	defer conn.Close()
	var standby, verb string
	if _, err := fmt.Fscanln(conn, &standby, &verb); err != nil {
		return
	}
	answer := "ok"
	switch verb {
	case "start":
		s.start(standby)
	case "stop":
		if err := s.stop(standby); err != nil {
			answer = err.Error()
		}
	case "state":
		answer = "off"
		if s.isOn(standby) {
			answer = "on"
		}
	}
	fmt.Fprintln(conn, answer)
}

func (s *supervisor) isOn(standby string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.running[standby]
	return p != nil && p.Signal(syscall.Signal(0)) == nil
}

func (s *supervisor) start(standby string) {
	if s.isOn(standby) {
		return
	}
	to := s.w.centre(standby)
	from := s.w.dc1
	if to == s.w.dc1 {
		from = s.w.dc2
	}
	p := proc.StartBinary(s.w.t, s.binary, nil, "run", "--name", mirrorName, "--source-endpoints", strings.Join(from.etcd.Endpoints(), ","), "--target-endpoints", strings.Join(to.etcd.Endpoints(), ","))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[standby] = p
}

func (s *supervisor) stop(standby string) error {
	s.mu.Lock()
	p := s.running[standby]
	s.mu.Unlock()
	if p == nil || p.Signal(syscall.SIGTERM) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// kill kills a mirror without a chance to clean up.
func (s *supervisor) kill(standby string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.running[standby]; p != nil {
		p.Kill9()
	}
}
