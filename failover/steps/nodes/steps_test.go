//go:build unix

package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/sshserver"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

// me is the owner that a test's user may give a file.
func me() (owner, group string) { return fmt.Sprint(os.Geteuid()), fmt.Sprint(os.Getegid()) }

// snapshot is all that a folder has: names, contents, modes.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d %q\n", strings.TrimPrefix(path, dir), info.Mode(), stat.Uid, stat.Gid, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func must(t testing.TB, steps []failover.Step, err error) []failover.Step {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func wantDone(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFile installs over ssh, with a runner that is given up at every boundary, and undoes it the same way: all is as it was, modes included. A dry run before has touched nothing.
func TestFile(t *testing.T) {
	owner, group := me()
	const secret = "the word is plugh-4711"
	for name, before := range map[string]func(path string){
		"no file":      func(string) {},
		"another file": func(path string) { write(t, path, "old content\n", 0o640) },
		"another mode": func(path string) { write(t, path, secret, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			var hosts []nodes.Host
			var dirs []string
			dir := t.TempDir() // one for all: each host is a link to another folder
			file := filepath.Join(dir, "it's here", "enc.yaml")
			wantDone(t, os.Mkdir(filepath.Dir(file), 0o755))
			before(file)
			dirs = append(dirs, dir)
			s := sshserver.Start(t, sshserver.Options{Path: sudoPath(t, false)})
			hosts = append(hosts, sshHost(t, s, func(c *nodes.SSHConfig) { c.Name = "node-1" }))
			steps := must2(t)(nodes.File(nodes.FileConfig{Hosts: hosts, Path: file, Content: []byte(secret), Secret: true, Owner: owner, Group: group, Mode: 0o600}))
			was := snapshot(t, dirs[0])
			run := steprun.NewRun(t, steps...)
			run.DryRun()
			if now := snapshot(t, dir); now != was {
				t.Fatalf("a dry run has changed\n%sto\n%s", was, now)
			}
			run.DoKilled()
			data, err := os.ReadFile(file)
			info, err2 := os.Stat(file)
			if err != nil || err2 != nil || string(data) != secret || info.Mode() != 0o600 {
				t.Fatalf("installed: %q, %v, %v", data, info, err)
			}
			if texts := run.Texts(); strings.Contains(texts, "plugh") {
				t.Error("the plan or the journal hold the content")
			}
			run.UndoKilled()
			if now := snapshot(t, dir); now != was {
				t.Errorf("after undo\n%swant\n%s", now, was)
			}
		})
	}
}

func must2(t *testing.T) func([]failover.Step, error) []failover.Step {
	return func(s []failover.Step, err error) []failover.Step { t.Helper(); return must(t, s, err) }
}

// TestFileRefusals: what somebody else has done is not undone, and what is no regular file is left.
func TestFileRefusals(t *testing.T) {
	owner, group := me()
	dir := t.TempDir()
	cfg := nodes.FileConfig{Hosts: []nodes.Host{local(t, "")}, Path: dir + "/f", Content: []byte("new"), Owner: owner, Group: group}
	write(t, cfg.Path, "old", 0o600)
	run := steprun.NewRun(t, must2(t)(nodes.File(cfg))...)
	wantDone(t, run.Do())
	write(t, cfg.Path, "somebody's", 0o600)
	if err := run.Undo(); !errors.Is(err, failover.ErrUndoFailed) || !strings.Contains(err.Error(), ".f.before-") {
		t.Errorf("undo of what somebody has changed: %v", err)
	}
	if data, _ := os.ReadFile(cfg.Path); string(data) != "somebody's" {
		t.Errorf("it holds %q", data)
	}
	wantDone(t, os.Symlink(cfg.Path, dir+"/link"))
	for path, part := range map[string]string{dir + "/link": "symbolic link", dir: "no regular file", dir + "/none/f": "no folder"} {
		cfg.Path = path
		step := must2(t)(nodes.File(cfg))[0]
		if _, err := step.Observe(testutil.Context(t)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %q", path, err, part)
		}
	}
	for _, c := range []struct {
		cfg   nodes.FileConfig
		parts []string
	}{
		{nodes.FileConfig{}, []string{"FileConfig.Path", "FileConfig.Hosts"}},
		{nodes.FileConfig{Path: "/a/../b", Hosts: []nodes.Host{local(t, "a"), local(t, "a")}, Owner: "a b", Mode: fs.ModeSetuid}, []string{"FileConfig.Path", "FileConfig.Hosts[1]", "FileConfig.Owner", "FileConfig.Mode"}},
		{nodes.FileConfig{Path: "/a", Hosts: []nodes.Host{nil}, Content: make([]byte, nodes.MaxContent+1)}, []string{"FileConfig.Hosts[0]", "FileConfig.Content"}},
	} {
		_, err := nodes.File(c.cfg)
		wantConfig(t, err, c.parts...)
	}
}

// TestCopyFile copies from one host to several, as it is then, and undoes it.
func TestCopyFile(t *testing.T) {
	owner, group := me()
	dir := t.TempDir()
	source := dir + "/source"
	const content = "secret: plugh\x00\xff binary"
	from := sshHost(t, sshserver.Start(t, sshserver.Options{}), func(c *nodes.SSHConfig) { c.Name = "primary-1" })
	to := []nodes.Host{local(t, "standby-1"), sshHost(t, sshserver.Start(t, sshserver.Options{}), func(c *nodes.SSHConfig) { c.Name = "standby-2" })}
	var steps []failover.Step
	for i, h := range to {
		wantDone(t, os.Mkdir(fmt.Sprintf("%s/%d", dir, i), 0o755))
		steps = append(steps, must2(t)(nodes.CopyFile(nodes.CopyFileConfig{From: from, FromPath: source, To: []nodes.Host{h}, Path: fmt.Sprintf("%s/%d/enc", dir, i), Owner: owner, Group: group, Mode: 0o640, User: true,
			Check: func(data []byte) error {
				if !strings.HasPrefix(string(data), "secret: ") {
					return errors.New("it is no configuration")
				}
				return nil
			}}))...)
	}
	write(t, dir+"/0/enc", "old", 0o644)
	if o, err := steps[0].Observe(testutil.Context(t)); err != nil || o.State != failover.Blocked || !strings.Contains(o.Detail, "primary-1 has no ") {
		t.Errorf("without a source: %+v, %v", o, err)
	}
	write(t, source, "garbage", 0o600)
	run := steprun.NewRun(t, steps...)
	if err := run.Do(); !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "no configuration") {
		t.Errorf("a content that is refused: %v", err)
	}
	write(t, source, content, 0o600)
	was := snapshot(t, dir)
	run = steprun.NewRun(t, steps...)
	run.DryRun()
	if snapshot(t, dir) != was {
		t.Error("a dry run has changed something")
	}
	run.DoKilled()
	for i := range to {
		path := fmt.Sprintf("%s/%d/enc", dir, i)
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			t.Errorf("copy %d: %q, %v", i, data, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
			t.Errorf("copy %d: %v, %v", i, info, err)
		}
	}
	if strings.Contains(run.Texts(), "plugh") {
		t.Error("the plan or the journal hold the content")
	}
	run.UndoKilled()
	if now := snapshot(t, dir); now != was {
		t.Errorf("after undo\n%swant\n%s", now, was)
	}
	_, err := nodes.CopyFile(nodes.CopyFileConfig{})
	wantConfig(t, err, "CopyFileConfig.From ", "CopyFileConfig.FromPath", "CopyFileConfig.To")
}

// TestCommandStep: the check decides, what commands print is noted masked, and undo runs.
func TestCommandStep(t *testing.T) {
	dir := t.TempDir()
	h := sshHost(t, sshserver.Start(t, sshserver.Options{}), func(c *nodes.SSHConfig) { c.Name = "node-1" })
	sh := func(script string) nodes.Command { return nodes.Command{Args: []string{"sh", "-c", script}} }
	undo := sh("rm -f " + dir + "/flag")
	cfg := nodes.CommandConfig{Host: h, Action: "Set the flag", Check: sh("test -e " + dir + "/flag"), Undo: &undo,
		Do: nodes.Command{Args: []string{"sh", "-c", "cat >" + dir + "/flag; echo secret: plugh; echo done", "sh", "--password", "plover"}, Stdin: []byte("xyzzy")}}
	step, err := nodes.CommandStep(cfg)
	wantDone(t, err)
	run := steprun.NewRun(t, step)
	run.DryRun()
	if _, err := os.Stat(dir + "/flag"); err == nil {
		t.Fatal("a dry run has set it")
	}
	run.DoKilled()
	if data, err := os.ReadFile(dir + "/flag"); err != nil || string(data) != "xyzzy" {
		t.Errorf("the flag holds %q: %v", data, err)
	}
	texts := run.Texts()
	for _, word := range []string{"plugh", "plover", "xyzzy"} {
		if strings.Contains(texts, word) {
			t.Errorf("the plan or the journal say %s", word)
		}
	}
	if !strings.Contains(texts, "node-1$ sh -c") || !strings.Contains(texts, "done\n(status 0)") {
		t.Error("the journal does not have what the command printed")
	}
	run.UndoKilled()
	if _, err := os.Stat(dir + "/flag"); err == nil {
		t.Error("the flag is there after undo")
	}

	hash := func(cfg nodes.CommandConfig) string {
		step, err := nodes.CommandStep(cfg)
		wantDone(t, err)
		return steprun.NewRun(t, step).Plan().Hash()
	}
	other := cfg
	other.Do.Args = append(other.Do.Args[:len(other.Do.Args)-1:len(other.Do.Args)-1], "plover2")
	third := cfg
	third.Do.Stdin = []byte("xyzzz")
	if a := hash(cfg); a == hash(other) || a == hash(third) {
		t.Error("the plan's hash does not cover a masked argument or the standard input")
	}

	cfg.Undo = nil
	cfg.Exit = map[int]failover.State{0: failover.Done, 3: failover.Blocked}
	for script, want := range map[string]failover.State{"exit 0": failover.Done, "echo the disk is full; echo more; exit 3": failover.Blocked, "exit 1": ""} {
		cfg.Check = sh(script)
		step, err := nodes.CommandStep(cfg)
		wantDone(t, err)
		o, err := step.Observe(testutil.Context(t))
		if o.State != want || (err != nil) != (want == "") || want == failover.Blocked && o.Detail != "the disk is full" {
			t.Errorf("%s: %+v, %v", script, o, err)
		}
	}
	cfg.Check, cfg.Exit, cfg.Do = sh("exit 1"), nil, sh("echo token: plugh >&2; exit 9")
	step, err = nodes.CommandStep(cfg)
	wantDone(t, err)
	run = steprun.NewRun(t, step)
	if run.Plan().PointOfNoReturn() != step.Name() {
		t.Error("without Undo it is no point of no return")
	}
	if err := run.Do(); !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "status 9") || strings.Contains(err.Error(), "plugh") {
		t.Errorf("a command that fails: %v", err)
	}
	_, err = nodes.CommandStep(nodes.CommandConfig{Exit: map[int]failover.State{1: "odd"}})
	wantConfig(t, err, "CommandConfig.Host", "CommandConfig.Action", "CommandConfig.Check", "CommandConfig.Do", "CommandConfig.Exit")
}

// TestPreflight names each host that is not ready, and why, before anything has run there.
func TestPreflight(t *testing.T) {
	good := sshserver.Start(t, sshserver.Options{Path: sudoPath(t, false)})
	noSudo := sshserver.Start(t, sshserver.Options{Path: sudoPath(t, true)})
	named := func(s *sshserver.Server, name string, change func(*nodes.SSHConfig)) nodes.Host {
		return sshHost(t, s, func(c *nodes.SSHConfig) {
			c.Name = name
			if change != nil {
				change(c)
			}
		})
	}
	step, err := nodes.Preflight(nodes.PreflightConfig{Hosts: []nodes.Host{named(good, "good", nil)}, Programs: []string{"sh", "cat"}})
	wantDone(t, err)
	if o, err := step.Observe(testutil.Context(t)); err != nil || o.State != failover.Done {
		t.Errorf("all is well: %+v, %v", o, err)
	}
	step, err = nodes.Preflight(nodes.PreflightConfig{Hosts: []nodes.Host{
		named(good, "good", nil),
		named(good, "strange", func(c *nodes.SSHConfig) { write(t, c.KnownHosts[0], "", 0o600) }),
		named(noSudo, "plain", nil),
		named(good, "dead", func(c *nodes.SSHConfig) { c.Address = "127.0.0.1:1" }),
	}})
	wantDone(t, err)
	acted := false
	run := steprun.NewRun(t, step, failover.Funcs{Name: "act", Observe: func(context.Context) (failover.Observation, error) {
		return failover.Observation{State: failover.Pending}, nil
	}, Do: func(context.Context) error { acted = true; return nil }}.Step())
	err = run.Do()
	if !errors.Is(err, failover.ErrBlocked) || acted {
		t.Fatalf("the gate let it pass: %v", err)
	}
	wantParts(t, err, "strange: host key unknown", "plain: sudo refused", "dead: host unreachable")
	if strings.Contains(err.Error(), "good:") {
		t.Errorf("the good one is named: %v", err)
	}
	step, err = nodes.Preflight(nodes.PreflightConfig{Hosts: []nodes.Host{named(good, "good", nil)}, Programs: []string{"no-such-program"}})
	wantDone(t, err)
	if o, err := step.Observe(testutil.Context(t)); err != nil || o.State != failover.Blocked || !strings.Contains(o.Detail, "no program no-such-program") {
		t.Errorf("a missing program: %+v, %v", o, err)
	}
	_, err = nodes.Preflight(nodes.PreflightConfig{})
	wantConfig(t, err, "PreflightConfig.Hosts")
}
