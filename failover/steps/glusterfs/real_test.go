//go:build linux

package glusterfs_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/glusterfs"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// pool is a real glusterd of one machine, with its files in a folder of the test.
type pool struct {
	t      *testing.T
	socket string
	host   nodes.Host
}

func startGlusterd(t *testing.T) *pool {
	t.Helper()
	path, err := exec.LookPath("glusterd")
	if err != nil {
		if path = "/usr/sbin/glusterd"; os.Geteuid() == 0 {
			_, err = os.Stat(path)
		}
	}
	if err != nil {
		t.Skip("glusterd is not installed: apt-get install glusterfs-server")
	}
	if os.Geteuid() != 0 {
		t.Skip("glusterd needs root")
	}
	dir, err := os.MkdirTemp("", "gl") // a socket's path may not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, sub := range []string{"run", "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	p := &pool{t: t, socket: dir + "/g.sock"}
	volfile := fmt.Sprintf(`volume management
    type mgmt/glusterd
    option working-directory %[1]s/work
    option run-directory %[1]s/run
    option glusterd-sockfile %[1]s/g.sock
    option transport-type socket
    option transport.socket.listen-port %[2]d
    option transport.socket.bind-address 127.0.0.1
    option ping-timeout 0
    option event-threads 1
end-volume
`, dir, port)
	if err := os.WriteFile(dir+"/glusterd.vol", []byte(volfile), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := proc.StartBinary(t, path, nil, "-N", "-f", dir+"/glusterd.vol", "-p", dir+"/pid", "-l", dir+"/log")
	ctx := testutil.Context(t)
	for {
		if exec.CommandContext(ctx, "gluster", p.args("volume", "list")...).Run() == nil {
			break
		}
		if err := daemon.Signal(0); err != nil || ctx.Err() != nil {
			t.Fatalf("glusterd does not serve: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if p.host, err = nodes.NewLocal(nodes.LocalConfig{Name: "storage-1"}); err != nil {
		t.Fatal(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range []string{"a", "heketi_storage-1"} {
		args := []string{"volume", "create", volume, "replica", "3"}
		for i := range 3 {
			args = append(args, fmt.Sprintf("%s:%s/brick-%s-%d", name, dir, volume, i))
		}
		if out, err := exec.CommandContext(ctx, "gluster", p.args(append(args, "force")...)...).CombinedOutput(); err != nil {
			t.Skipf("glusterd makes no volume on a machine whose name is %s: %s", name, out)
		}
	}
	return p
}

func (p *pool) args(args ...string) []string {
	return append([]string{"--mode=script", "--glusterd-sock=" + p.socket}, args...)
}

func (p *pool) gluster(args ...string) string {
	p.t.Helper()
	out, err := exec.CommandContext(testutil.Context(p.t), "gluster", p.args(args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("gluster %q: %v: %s", args, err, out)
	}
	return string(out)
}

// options are the quorum options of all volumes as gluster shows them to people: another way than the steps take.
func (p *pool) options() string {
	p.t.Helper()
	var all []string
	volume := ""
	for line := range strings.SplitSeq(p.gluster("volume", "info"), "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case name == "Volume Name":
			volume = value
		case strings.HasPrefix(name, "cluster.quorum-"):
			all = append(all, volume+" "+strings.TrimPrefix(name, "cluster.quorum-")+"="+value)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (p *pool) cluster() glusterfs.Cluster {
	// env stands for what leads into a pod.
	return glusterfs.Cluster{Host: p.host, Exec: []string{"env", "UNDERSTUDY=1"}, Options: []string{"--glusterd-sock=" + p.socket}}
}

const emergency = "a count=1, a type=fixed, heketi_storage-1 count=1, heketi_storage-1 type=fixed"

// TestRealGlusterd sets the options on a real glusterd and takes them back, in one plan by Undo, and weeks later in another by the exported file. Runners are given up at every boundary.
func TestRealGlusterd(t *testing.T) {
	p := startGlusterd(t)
	before := "a count=2, a type=fixed"
	p.gluster("volume", "set", "a", "cluster.quorum-type", "fixed")
	p.gluster("volume", "set", "a", "cluster.quorum-count", "2")
	if got := p.options(); got != before {
		// A volume of three replicas comes without options.
		t.Fatalf("before: %s", got)
	}
	export := filepath.Join(t.TempDir(), "quorum.json")
	set, err := glusterfs.SetQuorum(glusterfs.SetConfig{Cluster: p.cluster(), Export: export})
	if err != nil {
		t.Fatal(err)
	}
	run := steprun.NewRun(t, set)
	run.DryRun()
	if got := p.options(); got != before {
		t.Fatalf("a dry run has changed them to %s", got)
	}
	run.DoKilled()
	if got := p.options(); got != emergency {
		t.Errorf("set: %s", got)
	}
	run.UndoKilled()
	if got := p.options(); got != before {
		t.Errorf("after undo: %s, want %s", got, before)
	}

	if err := steprun.NewRun(t, set).Do(); err != nil {
		t.Fatal(err)
	}
	former, err := glusterfs.ReadExport(export)
	want := map[string]glusterfs.Quorum{"a": {Type: "fixed", Count: "2"}, "heketi_storage-1": {}}
	if err != nil || !maps.Equal(former, want) {
		t.Errorf("exported: %v, %v", former, err)
	}
	if err := steprun.NewRun(t, set).Do(); err != nil { // declared twice: it is done already
		t.Fatal(err)
	}
	if again, err := glusterfs.ReadExport(export); err != nil || !maps.Equal(again, want) {
		t.Errorf("exported again: %v, %v", again, err)
	}
	restore, err := glusterfs.RestoreQuorum(glusterfs.RestoreConfig{Cluster: p.cluster(), Former: former})
	if err != nil {
		t.Fatal(err)
	}
	run = steprun.NewRun(t, restore)
	if err := run.Do(); err != nil {
		t.Fatal(err)
	}
	if got := p.options(); got != before {
		t.Errorf("restored: %s, want %s", got, before)
	}
	if err := run.Undo(); err != nil {
		t.Fatal(err)
	}
	if got := p.options(); got != emergency {
		t.Errorf("after undo of the restoration: %s", got)
	}
	usual, err := glusterfs.RestoreQuorum(glusterfs.RestoreConfig{Cluster: p.cluster(), Otherwise: &glusterfs.Usual})
	if err != nil {
		t.Fatal(err)
	}
	if err := steprun.NewRun(t, usual).Do(); err != nil {
		t.Fatal(err)
	}
	if got := p.options(); got != strings.NewReplacer("count=1", "count=3", "fixed", "auto").Replace(emergency) {
		t.Errorf("the usual: %s", got)
	}
	// A stale file is not believed, and nothing is changed.
	run = steprun.NewRun(t, set)
	if err := run.Do(); !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "another time") {
		t.Errorf("a file from another time: %v", err)
	}
	if got := p.options(); strings.Contains(got, "fixed") {
		t.Errorf("in spite of it: %s", got)
	}
	some := p.cluster()
	some.Volumes = []string{"a", "gone"}
	step, err := glusterfs.SetQuorum(glusterfs.SetConfig{Cluster: some})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := step.Observe(testutil.Context(t)); err != nil || o.State != failover.Blocked || !strings.Contains(o.Detail, "gone") {
		t.Errorf("a volume that is not there: %+v, %v", o, err)
	}
	some.Volumes = []string{"a"}
	if step, err = glusterfs.SetQuorum(glusterfs.SetConfig{Cluster: some}); err != nil {
		t.Fatal(err)
	}
	if err := steprun.NewRun(t, step).Do(); err != nil {
		t.Fatal(err)
	}
	if got := p.options(); got != "a count=1, a type=fixed, heketi_storage-1 count=3, heketi_storage-1 type=auto" {
		t.Errorf("one volume: %s", got)
	}
}
