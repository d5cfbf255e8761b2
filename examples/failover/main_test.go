package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/keyfilter"
)

type output struct {
	code     int
	out, err string
}

// invoke runs the program in this process.
func invoke(t *testing.T, args ...string) output {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(testutil.Context(t), args, &out, &errs)
	return output{code, out.String(), errs.String()}
}

// want fails unless the program ended with a code and wrote some texts.
func (o output) want(t *testing.T, code int, texts ...string) output {
	t.Helper()
	if o.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", o.code, code, o.out, o.err)
	}
	for _, text := range texts {
		if !strings.Contains(o.out+o.err, text) {
			t.Errorf("the output lacks %q:\n%s%s", text, o.out, o.err)
		}
	}
	return o
}

// bereft is an inventory of a standby whose primary was mirrored, and has died.
func bereft(t *testing.T) (inventory string, standby *embedetcd.Cluster) {
	t.Helper()
	primary, standby := testutil.NewCluster(t, embedetcd.Options{}), testutil.NewCluster(t, embedetcd.Options{})
	source, target := testutil.Client(t, primary), testutil.Client(t, standby)
	for i := range 20 {
		if _, err := source.Put(testutil.Context(t), fmt.Sprintf("/registry/configmaps/team/c%d", i), `{"kind":"ConfigMap","apiVersion":"v1"}`); err != nil {
			t.Fatal(err)
		}
	}
	filter, err := keyfilter.New(keyfilter.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := etcdmirror.New(source, target, etcdmirror.Config{Name: mirrorName, Keep: filter.Match, KeepID: filter.Hash(), Skip: filter.Skips(etcdmirror.DefaultPrefix)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testutil.Context(t))
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	head, err := source.Get(ctx, "\x00")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WaitForRevision(ctx, head.Header.Revision); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := primary.StopMember(0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	text := fmt.Sprintf(`clusters:
  dc1: {vips: [127.93.0.10], ports: [6443], etcd: {endpoints: [%q]}}
  dc2:
    vips: [127.0.0.1]
    ports: [%s]
    etcd: {endpoints: [%q]}
    hosts: [{name: m1}]
    mirror: {host: m1, start: ["true"], stop: ["true"], running: ["false"]}
primary: dc1
standby: dc2
domain: platform.example.com
mirror: {name: %s}
withoutRoot: true
approval: {role: boss}
revisionMarginUngraceful: 100
`, primary.Endpoints()[0], port(standby), strings.Replace(standby.Endpoints()[0], "127.0.0.1", "localhost", 1), mirrorName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, standby
}

// port is that of a cluster's only member: something that listens behind the virtual IP.
func port(c *embedetcd.Cluster) string {
	e := c.Endpoints()[0]
	return e[strings.LastIndex(e, ":")+1:]
}

// A failover by its commands: looked at, approved, the loss accepted, tasks confirmed, ended; and undone.
func TestCommands(t *testing.T) {
	inventory, _ := bereft(t)
	journal := filepath.Join(t.TempDir(), "failover.journal")
	source := []string{"--inventory", inventory, "--runbook", "failover"}
	with := func(command string, more ...string) output {
		t.Helper()
		return invoke(t, append(append([]string{command}, source...), more...)...)
	}
	with("plan").want(t, 0, "Plan failover (ungraceful)", "epoch-fence", "prompt")
	with("plan", "--output", "markdown").want(t, 0, "# ")
	var asJSON struct{ Hash string }
	if err := json.Unmarshal([]byte(with("plan", "--output", "json").want(t, 0).out), &asJSON); err != nil || len(asJSON.Hash) != hashLength {
		t.Fatalf("%q, %v", asJSON.Hash, err)
	}
	with("dry-run").want(t, 0, "wait until the stated loss is accepted")
	if _, err := os.Stat(journal); err == nil {
		t.Fatal("a dry run made a journal")
	}
	invoke(t, "status", "--journal", journal).want(t, exitUsage, "no such journal")
	with("resume", "--journal", journal).want(t, exitUsage, "no such journal")
	invoke(t, "approve", "--journal", journal, "--hash", "abc", "--role", "boss").want(t, exitUsage, "--hash", "all of the hash")

	// Each time the run says what it waits for, and with which command it goes on.
	hint := regexp.MustCompile(`failover (approve --journal .*)`)
	begin := []string{"run", "--no-wait", "--journal", journal, "--by", "alice"}
	o := invoke(t, append(begin, source...)...).want(t, exitWaiting, `approval by role "boss"`)
	invoke(t, "approve", "--journal", journal).want(t, exitUsage, "--hash: is missing", "approval by role")
	invoke(t, "approve", "--journal", journal, "--hash", strings.Repeat("0", 12), "--role", "boss").want(t, exitUsage, "the journal's plan is "+asJSON.Hash[:12])
	invoke(t, "approve", "--journal", journal, "--hash", asJSON.Hash, "--role", "clerk").want(t, exitUsage, "decision refused", "boss")
	invoke(t, "approve", "--journal", journal, "--hash", asJSON.Hash, "--role", "boss", "--reject", "--confirm").want(t, exitUsage, "more than one is given")
	var decided []string
	for range 12 {
		commands := hint.FindStringSubmatch(invoke(t, "status", "--journal", journal).want(t, 0).out)
		if o.code != exitWaiting || commands == nil {
			break
		}
		args := words(t, commands[1])
		decided = append(decided, strings.Join(args[5:], " "))
		if strings.Contains(commands[1], "--accept-loss") {
			invoke(t, "approve", "--journal", journal, "--hash", asJSON.Hash, "--step", "verdict", "--accept-loss", "nothing").want(t, 0)
			with("resume", "--no-wait", "--journal", journal).want(t, exitWaiting, "accepted another loss: nothing")
		}
		invoke(t, args...).want(t, 0, "by ")
		o = with("resume", "--no-wait", "--journal", journal)
	}
	o.want(t, 0, "completed")
	if len(decided) != 7 || decided[0] != "--role boss" || decided[1] != "--step primary-off --confirm" || !strings.HasPrefix(decided[2], "--step verdict --accept-loss") || decided[4] != "--step dns --confirm" {
		t.Errorf("decided was %q", decided)
	}
	invoke(t, "status", "--journal", journal, "--timeline").want(t, 0, "alice", "epoch-fence")
	var s statusView
	if err := json.Unmarshal([]byte(invoke(t, "status", "--journal", journal, "--output", "json").want(t, 0).out), &s); err != nil {
		t.Fatal(err)
	}
	if s.State != failover.RunEnded || s.Outcome != failover.OutcomeCompleted || s.Hash != asJSON.Hash || s.Next != "" {
		t.Errorf("%+v", s)
	}
	with("run", "--journal", journal).want(t, exitUsage, "run has ended")

	// Another plan is refused, with what changed.
	text, err := os.ReadFile(inventory)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inventory, bytes.Replace(text, []byte("127.93.0.10"), []byte("127.93.0.11"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	with("dry-run", "--journal", journal).want(t, exitUsage, "plan changed", "127.93.0.11")
}

// A run that waits for its first task is taken back: the standby is a standby again.
func TestUndoByCommand(t *testing.T) {
	inventory, standby := bereft(t)
	journal := filepath.Join(t.TempDir(), "failover.journal")
	source := []string{"--inventory", inventory, "--runbook", "failover", "--journal", journal, "--no-wait"}
	hash := struct{ Hash string }{}
	if err := json.Unmarshal([]byte(invoke(t, append([]string{"plan", "--output", "json"}, source[:4]...)...).want(t, 0).out), &hash); err != nil {
		t.Fatal(err)
	}
	invoke(t, "approve", "--journal", journal, "--hash", hash.Hash, "--role", "boss").want(t, 0)
	invoke(t, append([]string{"run"}, source...)...).want(t, exitWaiting, "primary-off")
	invoke(t, "approve", "--journal", journal, "--hash", hash.Hash, "--step", "primary-off", "--confirm").want(t, 0)
	invoke(t, append([]string{"resume"}, source...)...).want(t, exitWaiting, "verdict")
	var s statusView
	if err := json.Unmarshal([]byte(invoke(t, "status", "--journal", journal, "--output", "json").want(t, 0).out), &s); err != nil {
		t.Fatal(err)
	}
	invoke(t, "approve", "--journal", journal, "--hash", hash.Hash, "--step", "verdict", "--accept-loss", s.Waiting.Loss).want(t, 0)
	invoke(t, append([]string{"resume"}, source...)...).want(t, exitWaiting, "restart-apiservers")
	promoted := func() bool {
		t.Helper()
		md, err := etcdmirror.ReadMetadata(testutil.Context(t), testutil.Client(t, standby), mirrorName)
		if err != nil {
			t.Fatal(err)
		}
		return md.Checkpoint.Phase == etcdmirror.PhasePromoted
	}
	if !promoted() {
		t.Error("the standby is not promoted")
	}
	invoke(t, append([]string{"undo", "--reason", "a test"}, source...)...).want(t, 0, "undone")
	if promoted() {
		t.Error("the standby is promoted still")
	}
}

func TestUsage(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"help"}, 0, "inventory"},
		{[]string{"help", "run"}, 0, "--no-wait"},
		{[]string{"help", "plan"}, 0, "stretch-failback"},
		{[]string{"inventory"}, 0, "platformServices: true"},
		{[]string{"version"}, 0, "understudy"},
		{[]string{"plan"}, exitUsage, "--inventory: is missing"},
		{[]string{"plan", "--inventory", "x", "--runbook", "switch"}, exitUsage, `"switch" is no runbook; give one of setup, switchover`},
		{[]string{"plan", "--inventory", "/nowhere.yaml", "--runbook", "drill"}, exitUsage, "/nowhere.yaml: no such file"},
		{[]string{"run", "--inventory", "x", "--runbook", "drill"}, exitUsage, "--journal: is missing"},
		{[]string{"approve", "--journal", "x", "--valid-for", "-1s"}, exitUsage, "--valid-for: -1s is negative"},
		{[]string{"status"}, exitUsage, "--journal: is missing"},
		{[]string{"dance"}, exitUsage, `"dance" is no command`},
	} {
		invoke(t, tc.args...).want(t, tc.code, tc.text)
	}
}

// words are those of a command line as a shell would take it.
func words(t *testing.T, line string) (all []string) {
	t.Helper()
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		if line[0] != '\'' {
			word, rest, _ := strings.Cut(line, " ")
			all, line = append(all, word), rest
			continue
		}
		end := strings.IndexByte(line[1:], '\'')
		if end < 0 {
			t.Fatalf("a quote is not closed: %s", line)
		}
		all, line = append(all, line[1:end+1]), line[end+2:]
	}
	return all
}
