//go:build unix

package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/sshserver"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

// kubelet is a folder in which two programs play crictl and systemctl, and what a kubelet does on the way: a pod with a manifest runs, one without does not. It is no container runtime.
type kubelet struct{ dir, manifest string }

const playCrictl = `#!/bin/sh
cd "$UNDERSTUDY_KUBELET" || exit 9
sync_pods() {
	if [ -e manifests/kube-apiserver.yaml ]; then
		if [ ! -e container ] && [ ! -e stuck ]; then
			n=$(cat count); n=$((n+1)); echo $n >count
			echo "container$n $(date +%s%N)" >container
		fi
	else
		rm -f container
	fi
}
case "$1" in
ps)
	[ "$2 $3 $4" = "--name ^kube-apiserver$ --no-trunc" ] || exit 8
	sync_pods
	if [ -e container ]; then
		read -r id at <container
		if [ "$5" = --quiet ]; then echo "$id"; else
			echo '{"containers": [{"id": "'$id'", "state": "CONTAINER_RUNNING", "createdAt": "'$at'", "labels": {}}]}'; fi
	elif [ "$5" != --quiet ]; then echo '{"containers": []}'; fi ;;
rm)
	[ "$2" = --force ] || exit 7
	read -r id at <container
	[ "$id" = "$3" ] || { echo "no container $3" >&2; exit 1; }
	echo "rm $id" >>log; rm container ;;
*) exit 6 ;;
esac
`

const playSystemctl = `#!/bin/sh
[ "$*" = "restart kubelet.service" ] && echo "$*" >>"$UNDERSTUDY_KUBELET/log"
`

func startKubelet(t *testing.T, name string) (kubelet, nodes.Host) {
	t.Helper()
	dir := t.TempDir()
	k := kubelet{dir, dir + "/manifests/kube-apiserver.yaml"}
	wantDone(t, os.Mkdir(dir+"/manifests", 0o755))
	write(t, k.manifest, "kind: Pod\n", 0o600)
	write(t, dir+"/count", "0\n", 0o600)
	// It has been running for a minute.
	write(t, dir+"/container", fmt.Sprintf("container0 %d\n", time.Now().Add(-time.Minute).UnixNano()), 0o600)
	path := sudoPath(t, false)
	write(t, path+"/crictl", playCrictl, 0o755)
	write(t, path+"/systemctl", playSystemctl, 0o755)
	s := sshserver.Start(t, sshserver.Options{Path: path, Env: []string{"UNDERSTUDY_KUBELET=" + dir}})
	return k, sshHost(t, s, func(c *nodes.SSHConfig) { c.Name = name })
}

func (k kubelet) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

// TestRestartStaticPod restarts one node after the other, both ways, with runners that are given up at every boundary: each pod is restarted once, and the second only when the first is ready.
func TestRestartStaticPod(t *testing.T) {
	for _, way := range []nodes.RestartWay{nodes.RestartContainer, nodes.RestartManifest} {
		t.Run(string(way), func(t *testing.T) {
			a, hostA := startKubelet(t, "node-a")
			b, hostB := startKubelet(t, "node-b")
			var asked atomic.Int32
			var all []failover.Step
			for i, k := range []kubelet{a, b} {
				steps := must2(t)(nodes.RestartStaticPod(nodes.StaticPodConfig{Hosts: []nodes.Host{[]nodes.Host{hostA, hostB}[i]}, Way: way, Manifest: k.manifest, Poll: 5 * time.Millisecond, ReadyCheck: "/readyz says ok",
					Ready: func(_ context.Context, h nodes.Host) error {
						if h.Name() == "node-a" && asked.Load() < 4 && strings.HasPrefix(b.read(t, "container"), "container1") {
							t.Error("node-b was restarted before node-a was ready")
						}
						if asked.Add(1) < 4 {
							return errors.New("not yet")
						}
						return nil
					}}))
				all = append(all, steps...)
			}
			if all[0].Name() != "restart/kube-apiserver/node-a" {
				t.Errorf("the name is %s", all[0].Name())
			}
			run := steprun.NewRun(t, all...)
			run.DryRun()
			if a.read(t, "count") != "0\n" || a.read(t, "log") != "" {
				t.Fatal("a dry run has restarted something")
			}
			run.DoKilled()
			for _, k := range []kubelet{a, b} {
				if got := k.read(t, "container"); !strings.HasPrefix(got, "container1 ") {
					t.Errorf("it runs %q, want the first new one", got)
				}
				want := "rm container0\nrestart kubelet.service\n"
				if way == nodes.RestartManifest {
					want = ""
				}
				if got := k.read(t, "log"); got != want {
					t.Errorf("what was done: %q, want %q", got, want)
				}
				if got := k.read(t, "manifests/kube-apiserver.yaml"); got != "kind: Pod\n" {
					t.Errorf("the manifest holds %q", got)
				}
			}
			wantDone(t, run.Undo())
			if got := a.read(t, "container"); !strings.HasPrefix(got, "container1 ") {
				t.Errorf("after undo it runs %q", got)
			}
		})
	}
}

// TestRestartNotReady: a pod that does not come back stops the plan at its node.
func TestRestartNotReady(t *testing.T) {
	a, hostA := startKubelet(t, "node-a")
	b, hostB := startKubelet(t, "node-b")
	ctx, cancel := context.WithCancel(testutil.Context(t))
	defer cancel()
	asked := 0
	cfg := nodes.StaticPodConfig{Hosts: []nodes.Host{hostA}, Manifest: a.manifest, Poll: 5 * time.Millisecond, ReadyCheck: "it serves",
		Ready: func(context.Context, nodes.Host) error {
			if asked++; asked == 5 {
				cancel()
			}
			return errors.New("connection refused")
		}}
	all := must2(t)(nodes.RestartStaticPod(cfg))
	if o, err := all[0].Observe(ctx); err != nil || o.State != failover.Pending {
		t.Errorf("before: %+v, %v", o, err)
	}
	cfg.Hosts, cfg.Manifest = []nodes.Host{hostB}, b.manifest
	run := steprun.NewRun(t, append(all, must2(t)(nodes.RestartStaticPod(cfg))...)...)
	if err := run.Runner().Run(ctx); !errors.Is(err, failover.ErrInterrupted) {
		t.Errorf("got %v", err)
	}
	if b.read(t, "log") != "" {
		t.Error("the second node was touched")
	}
	_, err := nodes.RestartStaticPod(nodes.StaticPodConfig{Container: "A b", Way: "odd", Manifest: "x"})
	wantConfig(t, err, "StaticPodConfig.Container", "StaticPodConfig.Way", "StaticPodConfig.Manifest", "StaticPodConfig.Ready", "StaticPodConfig.Hosts")
}

// TestStopAndStartStaticPod moves the manifest away and back, each with its undo.
func TestStopAndStartStaticPod(t *testing.T) {
	k, h := startKubelet(t, "node-a")
	cfg := nodes.StaticPodConfig{Hosts: []nodes.Host{h}, Manifest: k.manifest, Poll: 5 * time.Millisecond}
	stop := must2(t)(nodes.StopStaticPod(cfg))
	cfg.Ready, cfg.ReadyCheck = func(context.Context, nodes.Host) error { return nil }, "it serves"
	start := must2(t)(nodes.StartStaticPod(cfg))
	run := steprun.NewRun(t, stop...)
	run.DoKilled()
	if k.read(t, "container") != "" {
		t.Error("it runs after a stop")
	}
	run.UndoKilled()
	if !strings.HasPrefix(k.read(t, "container"), "container1 ") {
		t.Errorf("after undo it runs %q", k.read(t, "container"))
	}
	wantDone(t, steprun.NewRun(t, stop...).Do())
	run = steprun.NewRun(t, start...)
	run.DoKilled()
	if !strings.HasPrefix(k.read(t, "container"), "container2 ") {
		t.Errorf("after a start it runs %q", k.read(t, "container"))
	}
	run.UndoKilled()
	if k.read(t, "container") != "" {
		t.Error("it runs after the undo of a start")
	}
	// Two manifests, or none: a person's matter.
	write(t, k.manifest, "another", 0o600)
	for _, want := range []string{"two manifests", "no manifest"} {
		if o, err := start[0].Observe(testutil.Context(t)); err != nil || o.State != failover.Blocked || !strings.Contains(o.Detail, want) {
			t.Errorf("%s: %+v, %v", want, o, err)
		}
		wantDone(t, os.RemoveAll(k.dir+"/manifests"))
	}
}

// TestRestartAndInstall: the two that steps of other packages act through; a restart waits for the new container.
func TestRestartAndInstall(t *testing.T) {
	ctx := testutil.Context(t)
	for _, way := range []nodes.RestartWay{nodes.RestartContainer, nodes.RestartManifest} {
		k, h := startKubelet(t, "node-a")
		asked := 0
		cfg := nodes.StaticPodConfig{Way: way, Manifest: k.manifest, Poll: 5 * time.Millisecond, ReadyCheck: "it serves", Ready: func(context.Context, nodes.Host) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			return nil
		}}
		for i := 1; i < 3; i++ {
			wantDone(t, nodes.Restart(ctx, h, cfg))
			if got := k.read(t, "container"); !strings.HasPrefix(got, fmt.Sprintf("container%d ", i)) || asked < 3 {
				t.Errorf("%s: restart %d: it runs %q, asked %d times", way, i, got, asked)
			}
		}
		owner, group := me()
		file := nodes.FileConfig{Path: k.dir + "/enc", Content: []byte("x"), Owner: owner, Group: group}
		for i, want := range []bool{true, false} {
			if changed, err := nodes.Install(ctx, h, file); err != nil || changed != want {
				t.Errorf("install %d: changed %v, %v", i, changed, err)
			}
		}
		if k.read(t, "enc") != "x" {
			t.Error("the file is not there")
		}
	}
	wantConfig(t, nodes.Restart(ctx, local(t, ""), nodes.StaticPodConfig{}), "StaticPodConfig.Ready")
	_, err := nodes.Install(ctx, local(t, ""), nodes.FileConfig{})
	wantConfig(t, err, "FileConfig.Path")
}
