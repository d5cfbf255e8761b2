package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/keyfilter"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// secret is a value and a password that no output may contain.
const secret = "hunter2secret"

// output is what one run of the program left.
type output struct {
	code     int
	out, err string
}

// invoke runs the program in this process.
func invoke(t *testing.T, args ...string) output {
	t.Helper()
	return invokeWithin(t, testutil.Context(t), args...)
}

func invokeWithin(t *testing.T, ctx context.Context, args ...string) output {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(ctx, args, &out, &errs)
	o := output{code, out.String(), errs.String()}
	if strings.Contains(o.out+o.err, secret) {
		t.Errorf("drcheck %q shows a value or the password:\n%s%s", args, o.out, o.err)
	}
	return o
}

// want fails unless the program ended with a code and wrote some texts to one of its outputs.
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

// args are a command with the endpoints that it takes. A difference is reported after a moment, since tests change nothing meanwhile.
func (p *pair) args(command string, more ...string) []string {
	args := []string{command, "--target-endpoints", p.target.Endpoints()[0]}
	if command != "verdict" {
		args = append(args, "--source-endpoints", p.source.Endpoints()[0], "--settle", "50ms")
	}
	return append(args, more...)
}

// mirrored is a pair after a mirror has copied keys and ended: n ConfigMaps, a Secret and a key that the default rules drop.
func mirrored(t *testing.T, n int) *pair {
	t.Helper()
	p := newPair(t)
	for i := range n {
		put(t, p.sourceC, fmt.Sprintf("/registry/configmaps/team-a/cm-%03d", i), "v")
	}
	put(t, p.sourceC, "/registry/secrets/team-a/s", secret)
	put(t, p.sourceC, "/registry/leases/kube-node-lease/n1", "dropped")
	p.mirror(t, mirrorflags.DefaultName)
	return p
}

// mirror lets a mirror by the default rules copy and follow until the target has all that the source has now.
func (p *pair) mirror(t *testing.T, name string) {
	t.Helper()
	filter, err := keyfilter.New(keyfilter.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := etcdmirror.New(p.sourceC, p.targetC, etcdmirror.Config{Name: name, Keep: filter.Match, KeepID: filter.Hash(), SessionTTL: time.Second, Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testutil.Context(t))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Errorf("the mirror ended: %v", err)
			cancel()
		}
	})
	resp, err := p.sourceC.Get(ctx, "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WaitForRevision(ctx, resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(testutil.Context(t), key, value); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	if resp, err := c.Delete(testutil.Context(t), key); err != nil || resp.Deleted != 1 {
		t.Fatalf("%s: %v, %v", key, resp, err)
	}
}

// values are all keys of an etcd but the metadata of mirrors.
func values(t *testing.T, c *clientv3.Client) map[string]string {
	t.Helper()
	resp, err := c.Get(testutil.Context(t), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		if !strings.HasPrefix(string(kv.Key), etcdmirror.MetadataPrefix) {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// byIPv6 makes an etcd reachable at the IPv6 loopback, where this host has that, and returns the address.
func byIPv6(t *testing.T, cluster *embedetcd.Cluster) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback: %v", err)
	}
	_, address, _ := strings.Cut(cluster.Endpoints()[0], "://")
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				_ = in.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
			wg.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
			wg.Go(func() { _, _ = io.Copy(in, out); _ = in.Close(); stop() })
		}
	})
	return l.Addr().String()
}

func TestHelp(t *testing.T) {
	invoke(t, "help").want(t, 0, "Usage: drcheck <command>", "Exit codes")
	invoke(t).want(t, exitNoAnswer, "Usage: drcheck <command>", "no command")
	for _, cmd := range drcheckProgram().Commands {
		byHelp := invoke(t, "help", cmd.Name).want(t, 0, "drcheck "+cmd.Name+": ", "--target-endpoints addresses", "--config file", "--name name", "--output text|json")
		if byFlag := invoke(t, cmd.Name, "-h").want(t, 0); byFlag != byHelp {
			t.Errorf("drcheck %s -h and drcheck help %s differ", cmd.Name, cmd.Name)
		}
	}
	invoke(t, "help", "check").want(t, 0, "--source-endpoints", "--settle duration", "(default 10s)", "--accept-made-at-target", "--rules file")
	invoke(t, "help", "repair").want(t, 0, "--delete-surplus-file file", "(default missed,different)", "(default 100)")
	if o := invoke(t, "help", "verdict").want(t, 0, "--at time"); strings.Contains(o.out, "\n  --source") {
		t.Error("verdict asks for a source")
	}
	invoke(t, "version").want(t, 0, "understudy drcheck ", "built   go")
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
