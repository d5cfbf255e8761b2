package glusterfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/glusterfs"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

// transcript answers as gluster 10 does, and keeps what was asked. It is for what a test's glusterd does not show: very many volumes, and failures.
type transcript struct {
	mu      sync.Mutex
	volumes map[string]glusterfs.Quorum
	asked   []string
	fail    string // a volume that cannot be changed
	cut     bool   // the list of all is too long
	text    string // an answer instead
}

func (s *transcript) Name() string { return "storage-1" }

const head = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n<cliOutput>\n  <opRet>0</opRet>\n  <opErrno>0</opErrno>\n  <opErrstr/>\n"

func (s *transcript) Run(_ context.Context, cmd nodes.Command) (nodes.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := strings.Join(cmd.Args, " ")
	s.asked = append(s.asked, line)
	args, ok := strings.CutPrefix(line, "kubectl exec -n storage glusterfs-1 -- gluster --mode=script ")
	if !ok || !cmd.Root {
		return nodes.Result{Exit: 2, Stderr: "what is that"}, nil
	}
	if s.text != "" {
		return nodes.Result{Stdout: s.text}, nil
	}
	words := strings.Fields(args)
	switch {
	case args == "--xml volume list":
		out := head + "  <volList>\n    <count>" + fmt.Sprint(len(s.volumes)) + "</count>\n"
		for name := range s.volumes {
			out += "    <volume>" + name + "</volume>\n"
		}
		return nodes.Result{Stdout: out + "  </volList>\n</cliOutput>\n"}, nil
	case strings.HasPrefix(args, "--xml volume info"):
		out := head + "<volInfo><volumes>"
		for name, q := range s.volumes {
			if len(words) == 4 && words[3] != name {
				continue
			}
			out += "<volume><name>" + name + "</name><id>x</id><bricks><brick uuid=\"u\">h:/b<name>h:/b</name></brick></bricks><options><option><name>nfs.disable</name><value>on</value></option>"
			if q.Type != "" {
				out += "<option><name>cluster.quorum-type</name><value>" + q.Type + "</value></option>"
			}
			if q.Count != "" {
				out += "<option><name>cluster.quorum-count</name><value>" + q.Count + "</value></option>"
			}
			out += "</options></volume>"
		}
		return nodes.Result{Stdout: out + "</volumes></volInfo></cliOutput>", Truncated: s.cut && len(words) == 3}, nil
	case words[0] == "volume" && words[2] == s.fail:
		return nodes.Result{Exit: 1, Stderr: "volume set: failed: Another transaction is in progress for " + s.fail + ". Please try again after some time.\n"}, nil
	case words[0] == "volume" && (words[1] == "set" || words[1] == "reset"):
		q := s.volumes[words[2]]
		for i := 3; i < len(words); i++ {
			value := ""
			option := words[i]
			if words[1] == "set" {
				i++
				value = words[i]
			}
			switch option {
			case "cluster.quorum-type":
				q.Type = value
			case "cluster.quorum-count":
				q.Count = value
			default:
				return nodes.Result{Exit: 1, Stderr: "no such option"}, nil
			}
		}
		s.volumes[words[2]] = q
		return nodes.Result{Stdout: "volume " + words[1] + ": success\n"}, nil
	}
	return nodes.Result{Exit: 1, Stderr: "unrecognized command"}, nil
}

func (s *transcript) cluster() glusterfs.Cluster {
	return glusterfs.Cluster{Host: s, Exec: []string{"kubectl", "exec", "-n", "storage", "glusterfs-1", "--"}}
}

// changes are the commands that changed something since the last call.
func (s *transcript) changes() (all []string) {
	for _, line := range s.asked {
		if _, cmd, _ := strings.Cut(line, "--mode=script "); !strings.HasPrefix(cmd, "--xml") {
			all = append(all, cmd)
		}
	}
	s.asked = nil
	return all
}

func TestTranscript(t *testing.T) {
	s := &transcript{volumes: map[string]glusterfs.Quorum{"a": {Type: "auto", Count: "3"}, "b": {}, "c": {Type: "fixed", Count: "1"}, "d": {Type: "fixed"}}}
	step, err := glusterfs.SetQuorum(glusterfs.SetConfig{Cluster: s.cluster()})
	if err != nil {
		t.Fatal(err)
	}
	run := steprun.NewRun(t, step)
	for _, cut := range []bool{false, true} {
		s.cut = cut
		if cut {
			run = steprun.NewRun(t, step)
		}
		run.DoKilled()
		want := []string{"volume set a cluster.quorum-type fixed cluster.quorum-count 1", "volume set b cluster.quorum-type fixed cluster.quorum-count 1", "volume set d cluster.quorum-count 1"}
		if got := s.changes(); !slices.Equal(got, want) {
			t.Errorf("cut %v: set by %q", cut, got)
		}
		run.UndoKilled()
		want = []string{"volume set a cluster.quorum-type auto cluster.quorum-count 3", "volume reset b cluster.quorum-type", "volume reset b cluster.quorum-count", "volume reset d cluster.quorum-count"}
		if got := s.changes(); !slices.Equal(got, want) {
			t.Errorf("cut %v: undone by %q", cut, got)
		}
	}

	// One volume that cannot be changed does not keep the others from it, and what was there before is still known after it.
	s.fail = "a"
	run = steprun.NewRun(t, step)
	if err := run.Do(); !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "volume a") || !strings.Contains(err.Error(), "Another transaction") {
		t.Errorf("a volume that cannot be changed: %v", err)
	}
	if s.volumes["b"] != (glusterfs.Quorum{Type: "fixed", Count: "1"}) {
		t.Errorf("the others: %v", s.volumes)
	}
	s.fail = ""
	if err := run.Do(); err != nil {
		t.Fatal(err)
	}
	if err := run.Undo(); err != nil {
		t.Fatal(err)
	}
	if s.volumes["a"] != glusterfs.Usual || s.volumes["b"] != (glusterfs.Quorum{}) || s.volumes["d"] != (glusterfs.Quorum{Type: "fixed"}) {
		t.Errorf("after undo: %v", s.volumes)
	}

	for text, want := range map[string]string{
		"no xml": "cannot be read",
		"<cliOutput><opRet>-1</opRet><opErrstr>Locking failed</opErrstr></cliOutput>": "Locking failed",
		"<cliOutput/>": "no opRet",
		"<cliOutput><opRet>0</opRet></cliOutput>":                                                                          "no volumes",
		"<cliOutput><opRet>0</opRet><volInfo><volumes/></volInfo></cliOutput>":                                             "there are no volumes",
		"<cliOutput><opRet>0</opRet><volInfo><volumes><volume><name>-x; y</name></volume></volumes></volInfo></cliOutput>": "no name",
		"<cliOutput><opRet>0</opRet><volInfo><volumes><volume><name>x</name><options><option><name>cluster.quorum-count</name><value>many</value></option></options></volume></volumes></volInfo></cliOutput>": "want a number",
	} {
		s.text = text
		o, err := step.Observe(testutil.Context(t))
		if got := fmt.Sprint(o.Detail, err); !strings.Contains(got, want) || err == nil && o.State != failover.Blocked {
			t.Errorf("%s: %v, want %q", text, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	s := &transcript{}
	bad := func(err error, parts ...string) {
		t.Helper()
		if !errors.Is(err, failover.ErrConfig) {
			t.Errorf("got %v", err)
			return
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %s", err, part)
			}
		}
	}
	_, err := glusterfs.SetQuorum(glusterfs.SetConfig{Quorum: glusterfs.Quorum{Type: "often"}, Export: "here", Cluster: glusterfs.Cluster{Volumes: []string{"a", "a", "-b"}}})
	bad(err, "SetConfig.Cluster.Host", "SetConfig.Quorum", "SetConfig.Export", "Volumes[1]", "Volumes[2]")
	_, err = glusterfs.RestoreQuorum(glusterfs.RestoreConfig{Cluster: s.cluster()})
	bad(err, "RestoreConfig.Former", "&Usual")
	_, err = glusterfs.RestoreQuorum(glusterfs.RestoreConfig{Cluster: s.cluster(), Former: map[string]glusterfs.Quorum{"a b": {}, "c": {Count: "0"}}, Otherwise: &glusterfs.Quorum{Type: "x"}})
	bad(err, `Former["a b"]`, `Former["c"]`, "Otherwise")
	dir := t.TempDir()
	for name, content := range map[string]string{"unknown": `{"version":1,"volumes":{"a":{}},"more":1}`, "two": `{"version":1,"volumes":{"a":{}}} {}`, "version": `{"version":2,"volumes":{"a":{}}}`, "none": `{"version":1}`, "odd": `{"version":1,"volumes":{"a":{"type":"x"}}}`} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := glusterfs.ReadExport(path)
		bad(err, path)
	}
	_, err = glusterfs.ReadExport(dir + "/nowhere")
	bad(err, "nowhere")
}
