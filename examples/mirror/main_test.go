package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	proc.RunChild(map[string]func() int{"mirror": func() int { main(); return 0 }})
	testutil.Main(m)
}

// asMain makes the test binary the program, with the arguments of the program.
const asMain = "UNDERSTUDY_MIRROR_AS_MAIN"

// secret is a password that no output may contain.
const secret = "hunter2secret"

// result is what one run of the program left.
type result struct {
	code     int
	out, err string
}

// invoke runs the program in this process.
func invoke(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs buffer
	code := run(testutil.Context(t), args, &out, &errs)
	r := result{code, out.String(), errs.String()}
	if strings.Contains(r.out+r.err, secret) {
		t.Errorf("mirror %q shows the password:\n%s%s", args, r.out, r.err)
	}
	return r
}

// want fails unless the program ended with a code and wrote some texts to one of its outputs.
func (r result) want(t *testing.T, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			t.Errorf("the output lacks %q:\n%s%s", text, r.out, r.err)
		}
	}
	return r
}

// buffer is a bytes.Buffer for several goroutines that tells when it grows.
type buffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	grown chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grown != nil {
		close(b.grown)
		b.grown = nil
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await waits until the buffer contains text.
func (b *buffer) await(t *testing.T, text string) {
	t.Helper()
	ctx := testutil.Context(t)
	for {
		b.mu.Lock()
		found := strings.Contains(b.b.String(), text)
		if b.grown == nil {
			b.grown = make(chan struct{})
		}
		grown := b.grown
		b.mu.Unlock()
		if found {
			return
		}
		select {
		case <-grown:
		case <-ctx.Done():
			t.Fatalf("the output never contained %q:\n%s", text, b.String())
		}
	}
}

// pair is a source and a target with clients.
type pair struct {
	source, target   *embedetcd.Cluster
	sourceC, targetC *clientv3.Client
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{source: testutil.NewCluster(t, embedetcd.Options{}), target: testutil.NewCluster(t, embedetcd.Options{})}
	p.sourceC, p.targetC = testutil.Client(t, p.source), testutil.Client(t, p.target)
	return p
}

// args are a command with the endpoints of both sides.
func (p *pair) args(command string, more ...string) []string {
	args := []string{command}
	if command == "run" {
		args = append(args, "--source-endpoints", p.source.Endpoints()[0], "--session-ttl", "1s")
	}
	return append(append(args, "--target-endpoints", p.target.Endpoints()[0]), more...)
}

func put(t *testing.T, c *clientv3.Client, key, value string) int64 {
	t.Helper()
	resp, err := c.Put(testutil.Context(t), key, value)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// fill puts n keys that the default rules keep, and one that they drop.
func fill(t *testing.T, c *clientv3.Client, n int) {
	t.Helper()
	for i := range n {
		put(t, c, fmt.Sprintf("/registry/configmaps/team-a/cm-%03d", i), "v")
	}
	put(t, c, "/registry/leases/kube-node-lease/n1", "dropped")
}

// values are all keys of an etcd but the metadata of mirrors, and its revision.
func values(t *testing.T, c *clientv3.Client) (map[string]string, int64) {
	t.Helper()
	resp, err := c.Get(testutil.Context(t), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		if !strings.HasPrefix(string(kv.Key), "/understudy/") {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all, resp.Header.Revision
}

// eventually looks again and again until a condition holds that something else brings about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := testutil.Context(t)
	for !holds() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHelp(t *testing.T) {
	invoke(t, "help").want(t, 0, "Usage: mirror <command>", "Exit codes")
	invoke(t, "--help").want(t, 0, "Usage: mirror <command>")
	invoke(t).want(t, 2, "Usage: mirror <command>", "no command")
	for _, cmd := range mirror().Commands {
		byHelp := invoke(t, "help", cmd.Name).want(t, 0, "mirror "+cmd.Name+": ")
		if cmd.Settings == nil {
			continue
		}
		if byFlag := invoke(t, cmd.Name, "-h").want(t, 0); byFlag != byHelp {
			t.Errorf("mirror %s -h and mirror help %s differ", cmd.Name, cmd.Name)
		}
		byHelp.want(t, 0, "--target-endpoints addresses", "--config file")
	}
	invoke(t, "help", "run").want(t, 0, "--source-password-file file", "--exit-after-copy", "(default /registry/)", "(default keep)")
	invoke(t, "help", "fly").want(t, 2, `"fly" is no command`)
	invoke(t, "fly").want(t, 2, `"fly" is no command`)
	invoke(t, "--source-user=root:"+secret, "run").want(t, 2, "the command comes first")
	invoke(t, "version", "x").want(t, 2)
	invoke(t, "demo", "x").want(t, 2)
	invoke(t, "demo", "-h").want(t, 0, "leaves no files")
}

func TestVersion(t *testing.T) {
	invoke(t, "version").want(t, 0, "understudy mirror ", "built   go", "/")
}

// The package comment is what readers of the source and of pkg.go.dev see, the help what operators see.
func TestExitCodesAreDocumentedTwiceAlike(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	comment := strings.NewReplacer("//\t", "", "// ", "", "//", "").Replace(string(source))
	for line := range strings.Lines(exitHelp) {
		if line = strings.TrimSpace(line); !strings.Contains(comment, line) {
			t.Errorf("the package comment lacks %q", line)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p := newPair(t)
	for command, want := range map[string]int{"run": 0, "status": exitInterrupted, "demo": exitInterrupted} {
		args := p.args(command)
		if command == "demo" {
			args = []string{"demo"}
		}
		var out, errs buffer
		if code := run(ctx, args, &out, &errs); code != want {
			t.Errorf("mirror %s ended with %d, want %d\n%s%s", command, code, want, out.String(), errs.String())
		}
	}
}

func deleteRange(prefix string) clientv3.Op { return clientv3.OpDelete(prefix, clientv3.WithPrefix()) }
