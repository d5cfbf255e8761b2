package etcdcluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

const etcdBinary = "/usr/bin/etcd"

// localHost runs commands on this machine; those that it has itself come first.
type localHost struct{ bin string }

func (h localHost) Name() string { return "here" }
func (h localHost) Run(ctx context.Context, c nodes.Command) (nodes.Result, error) {
	program := filepath.Join(h.bin, c.Args[0])
	if _, err := os.Stat(program); err != nil || h.bin == "" {
		program = c.Args[0]
	}
	cmd := exec.CommandContext(ctx, program, c.Args[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	return nodes.Result{Stdout: out.String(), Stderr: errOut.String(), Exit: cmd.ProcessState.ExitCode()}, err
}

// systemctlMain is the child behind the script that stands in for systemctl: it asks the supervisor in the test.
func systemctlMain() int {
	conn, err := net.Dial("unix", os.Getenv("SUPERVISOR"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer conn.Close()
	fmt.Fprintln(conn, strings.Join(os.Args[1:], " "))
	answer, _ := io.ReadAll(conn)
	if os.Args[1] != "is-active" {
		return 0
	}
	fmt.Println(string(answer))
	return map[string]int{"active": 0, "inactive": 3}[string(answer)]
}

// supervisor keeps services: it runs etcd with the variables of an environment file, as a shell reads them.
type supervisor struct {
	t     *testing.T
	bin   string // the folder of its systemctl
	mu    sync.Mutex
	units map[string]*proc.Proc
	files map[string]string
}

func startSupervisor(t *testing.T) *supervisor {
	t.Helper()
	s := &supervisor{t: t, units: map[string]*proc.Proc{}, files: map[string]string{}}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	lis := must[net.Listener](t)(net.Listen("unix", socket))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			var line [256]byte
			n, _ := conn.Read(line[:])
			_, _ = io.WriteString(conn, s.do(strings.Fields(string(line[:n]))))
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = lis.Close(); wg.Wait() })
	self := must[string](t)(os.Executable())
	script := fmt.Sprintf("#!/bin/sh\nUNDERSTUDY_TEST_CHILD=systemctl SUPERVISOR=%s exec %s \"$@\"\n", socket, self)
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.bin = dir
	return s
}

func (s *supervisor) do(args []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	unit := args[len(args)-1]
	p := s.units[unit]
	switch args[0] {
	case "start":
		if p == nil {
			s.units[unit] = proc.StartBinary(s.t, "/bin/sh", nil, "-c", "set -a; . "+s.files[unit]+"; exec "+etcdBinary)
		}
	case "stop":
		if p != nil {
			p.Kill9()
			delete(s.units, unit)
		}
	}
	if s.units[unit] != nil {
		return "active"
	}
	return "inactive"
}

// TestRealServicesRecover drives processes of etcd as Debian has it, by environment files and systemctl.
func TestRealServicesRecover(t *testing.T) {
	if _, err := os.Stat(etcdBinary); err != nil {
		t.Skip("etcd is not installed (Debian: etcd-server)")
	}
	t.Parallel()
	ctx := testutil.Context(t)
	s := startSupervisor(t)
	var all []etcdcluster.Node
	var initial []string
	var listeners []net.Listener
	var ports []string
	for range 6 {
		l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
		listeners = append(listeners, l)
		ports = append(ports, l.Addr().String())
	}
	for _, l := range listeners {
		_ = l.Close()
	}
	for i := range 3 {
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, ports[2*i]))
	}
	dir := t.TempDir()
	for i := range 3 {
		name, unit := fmt.Sprintf("m%d", i), fmt.Sprintf("etcd-m%d.service", i)
		file, data := filepath.Join(dir, name+".conf"), filepath.Join(dir, name)
		text := fmt.Sprintf("# [Member]\nETCD_NAME=%s\nETCD_DATA_DIR=%s\nETCD_LISTEN_PEER_URLS=http://%s\nETCD_INITIAL_ADVERTISE_PEER_URLS=http://%s\nETCD_LISTEN_CLIENT_URLS=http://%s\nETCD_ADVERTISE_CLIENT_URLS=http://%s\n"+
			"ETCD_INITIAL_CLUSTER=%s\nETCD_INITIAL_CLUSTER_TOKEN=%s\nETCD_INITIAL_CLUSTER_STATE=new\nETCD_HEARTBEAT_INTERVAL=50\nETCD_ELECTION_TIMEOUT=500\nETCD_LOGGER=zap\n",
			name, data, ports[2*i], ports[2*i], ports[2*i+1], ports[2*i+1], strings.Join(initial, ","), filepath.Base(filepath.Dir(dir)))
		if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		s.files[unit] = file
		cli := must[*clientv3.Client](t)(clientv3.New(clientv3.Config{Endpoints: []string{"http://" + ports[2*i+1]}, Logger: zap.NewNop()}))
		t.Cleanup(func() { _ = cli.Close() })
		member := must[etcdcluster.Member](t)(etcdcluster.Systemd(etcdcluster.SystemdConfig{Host: localHost{s.bin}, Unit: unit, EnvFile: file, DataDir: data}))
		all = append(all, etcdcluster.Node{Name: name, PeerURLs: []string{"http://" + ports[2*i]}, Client: cli, Member: member})
		if err := member.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	put := func(n etcdcluster.Node, key string) {
		t.Helper()
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if _, err := n.Client.Put(short, key, "v"); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range all { // each serves: one that has not yet would be mute without a quorum
		put(n, "before")
	}
	began := must[string](t)(readFile(s.files["etcd-m2.service"]))
	for _, n := range all[:2] {
		if err := n.Member.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	l := &lab{t: t, ctx: ctx, nodes: all, cut: &cutter{seen: map[string]bool{}, armed: true}}
	lost := time.Now()
	forced := l.recovery(filepath.Join(dir, "backup.db"))
	journal := l.journal()
	sessions, err := l.drive(plan(t, forced...), journal, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("recovered in %v, with %d runners", time.Since(lost), sessions)
	for _, r := range must[*failover.Log](t)(failover.ReadJournal(journal)).Records {
		if r.Kind == failover.RecordNote {
			t.Logf("%s: %s", r.Step, r.Detail)
		}
	}
	if after := must[string](t)(readFile(s.files["etcd-m2.service"])); after != began {
		t.Errorf("the survivor's file is\n%s\nand was\n%s", after, began)
	}
	joined := must[string](t)(readFile(s.files["etcd-m0.service"]))
	if !strings.Contains(joined, "ETCD_INITIAL_CLUSTER_STATE=existing\n") || !strings.HasPrefix(joined, "# [Member]\nETCD_NAME=m0\n") {
		t.Errorf("the file of m0 is\n%s", joined)
	}
	if info, err := os.Stat(s.files["etcd-m0.service"]); err != nil || info.Mode() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	put(all[1], "after")
	// All of them again, with what the files say now.
	for _, n := range all {
		if err := n.Member.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range all {
		if err := n.Member.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	put(all[0], "restarted")
	wantState(t, step(t)(etcdcluster.Health(etcdcluster.HealthConfig{Nodes: all, RequestTimeout: 5 * time.Second})), failover.Done, "3 members", "the same data")
	for _, n := range all {
		if got, err := n.Client.Get(ctx, "before"); err != nil || len(got.Kvs) != 1 {
			t.Errorf("%s has lost what was written before: %v", n.Name, err)
		}
	}
}

func readFile(name string) (string, error) {
	b, err := os.ReadFile(name)
	return string(b), err
}

// TestStaticPodMovesItsManifest drives a manifest through a shell; the container is a file that follows the manifest, as the kubelet would have it.
func TestStaticPodMovesItsManifest(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	manifests, data := filepath.Join(dir, "manifests"), filepath.Join(dir, "data")
	for _, d := range []string{manifests, filepath.Join(data, "member")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file, parked := filepath.Join(manifests, "etcd.yaml"), filepath.Join(dir, "etcd.yaml.stopped")
	text := "spec:\n  containers:\n  - name: etcd\n    command:\n    - etcd\n    - --name=m1\n    - --data-dir=/var/lib/etcd\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m := must[etcdcluster.Member](t)(etcdcluster.StaticPod(etcdcluster.StaticPodConfig{Host: localHost{}, Manifest: file, Parked: parked, DataDir: data, ListRunning: []string{"sh", "-c", "ls " + file + " 2>/dev/null || true"}}))
	running := func(want bool) {
		t.Helper()
		if got, err := m.Running(ctx); err != nil || got != want {
			t.Fatalf("running: %v, %v", got, err)
		}
	}
	running(true)
	s := must[etcdcluster.Settings](t)(m.Settings(ctx))
	s.ForceNewCluster = true
	if err := m.Configure(ctx, s); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a manifest under the kubelet was edited: %v", err)
	}
	for range 2 {
		if err := m.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		running(false)
	}
	if err := m.Configure(ctx, s); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.MoveData(ctx, "20260102-030405"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(data, "member-20260102-030405")); err != nil {
		t.Error(err)
	}
	if err := m.RestoreData(ctx, "20260102-030405"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(data, "member")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		running(true)
	}
	if got := must[string](t)(readFile(file)); got != strings.Replace(text, "- --data-dir=/var/lib/etcd\n", "- --data-dir=/var/lib/etcd\n    - --force-new-cluster=true\n", 1) {
		t.Errorf("the manifest is\n%s", got)
	}
	// Both places taken: which one counts, a person has to say.
	if err := os.WriteFile(parked, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(ctx); err == nil || !strings.Contains(err.Error(), "both there") {
		t.Errorf("%v", err)
	}
}
