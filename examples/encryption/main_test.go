package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/keyfilter"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// secret is a word that no output may contain, in a value or in a key.
const secret = "hunter2secret"

type output struct {
	code     int
	out, err string
}

// invoke runs the program in this process.
func invoke(t *testing.T, args ...string) output {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(testutil.Context(t), args, &out, &errs)
	o := output{code, out.String(), errs.String()}
	for _, word := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))[:12]} {
		if strings.Contains(o.out+o.err, word) {
			t.Errorf("encryption %q shows a secret:\n%s%s", args, o.out, o.err)
		}
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

// keyText is a secret of 32 bytes that begins with the word that no output may contain.
func keyText(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte((secret + strings.Repeat(letter, 32))[:32]))
}

// file writes a configuration of Secrets with keys as name=letter.
func file(t *testing.T, provider string, keys ...string) string {
	t.Helper()
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - " + provider + ":\n      keys:\n"
	for _, key := range keys {
		name, letter, _ := strings.Cut(key, "=")
		text += fmt.Sprintf("      - name: %s\n        secret: %s\n", name, keyText(letter))
	}
	return write(t, text+"  - identity: {}\n")
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "enc.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
	}
	return data
}

func TestHelp(t *testing.T) {
	invoke(t, "help").want(t, 0, "Usage: encryption <command>", "Exit codes")
	invoke(t).want(t, exitFailed, "no command")
	for _, cmd := range encryptionProgram().Commands {
		if byHelp, byFlag := invoke(t, "help", cmd.Name).want(t, 0, "encryption "+cmd.Name+": ", "Flags:"), invoke(t, cmd.Name, "-h").want(t, 0); byFlag != byHelp {
			t.Errorf("encryption %s -h and encryption help %s differ", cmd.Name, cmd.Name)
		}
	}
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

func TestValidate(t *testing.T) {
	good := file(t, "aescbc", "key1=a")
	invoke(t, "validate", "--file", good).want(t, 0, "valid, 1 notices", "hash "+encryption.Hash(read(t, good)), "passphrase") // its secret can be typed
	var answer validated
	if err := json.Unmarshal([]byte(invoke(t, "validate", "--file", good, "--output", "json").want(t, 0).out), &answer); err != nil || answer.Hash != encryption.Hash(read(t, good)) || len(answer.Notices) != 1 {
		t.Errorf("%v %+v", err, answer)
	}
	invoke(t, "validate").want(t, exitFailed, "--file: is missing")
	invoke(t, "validate", "--file", "/no/such").want(t, exitFailed, "--file: ", "/no/such")
	invoke(t, "validate", "--file", write(t, string(read(t, good))+"---\n")).want(t, exitFailed, "--file: ", "a second YAML document")
	short := write(t, strings.ReplaceAll(string(read(t, good)), keyText("a"), base64.StdEncoding.EncodeToString([]byte(secret))))
	invoke(t, "validate", "--file", short).want(t, exitFailed, "--file: ", `the secret of key "key1" is 13 bytes long, and aescbc takes 16, 24 or 32; make one with`)
}

func TestMerge(t *testing.T) {
	p, s, clash := file(t, "aescbc", "key1=p"), file(t, "aescbc", "key2=s"), file(t, "aescbc", "key1=s")
	out := filepath.Join(t.TempDir(), "merged.yaml")
	invoke(t, "merge", "--primary", p, "--standby", s, "--out", out).want(t, 0, "written "+out, "see encryption plan")
	merged := read(t, out)
	if cfg, err := encryption.Parse(merged); err != nil || len(cfg.Resources) != 1 || len(cfg.Resources[0].Providers[0].AESCBC.Keys) != 2 {
		t.Errorf("%v: %d bytes", err, len(merged))
	}
	invoke(t, "merge", "--primary", p, "--standby", s, "--out", out).want(t, 0) // the same again
	invoke(t, "merge", "--primary", s, "--standby", p, "--out", out).want(t, exitFailed, "--out: ", "is there already", "add --replace")
	if !bytes.Equal(merged, read(t, out)) {
		t.Error("the file was replaced")
	}
	invoke(t, "merge", "--primary", s, "--standby", p, "--out", out, "--replace").want(t, 0)
	invoke(t, "merge", "--primary", p, "--standby", clash, "--out", out).want(t, exitFailed, "--clash: ", "key names clash", "different secrets")
	invoke(t, "merge", "--primary", p, "--standby", clash, "--clash", "keep-both", "--out", out).want(t, exitFailed, "--clash: ", "no single file reads all values of both")
	invoke(t, "merge", "--primary", p, "--standby", clash, "--clash", "rename-standby", "--out", out, "--replace").want(t, 0, "notice: ", "have to be relabelled")
	invoke(t, "merge", "--primary", p, "--standby", s, "--writer", "key9", "--out", out).want(t, exitFailed, "--writer: ", "neither cluster has a key")
	invoke(t, "merge", "--primary", p, "--standby", s, "--writer", "aescbc/key2", "--out", out, "--replace").want(t, 0)
	invoke(t, "merge", "--primary", p).want(t, exitFailed, "--standby: is missing", "--out: is missing")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(out, link); err != nil {
		t.Fatal(err)
	}
	invoke(t, "merge", "--primary", p, "--standby", s, "--out", link, "--replace").want(t, exitFailed, "--out: ", "is a symbolic link")
}

func TestPlan(t *testing.T) {
	p, s := file(t, "aescbc", "key1=p"), file(t, "aescbc", "key1=s")
	dir := filepath.Join(t.TempDir(), "plan")
	args := []string{"plan", "--primary", p, "--standby", s, "--clash", "rename-standby", "--primary-apiservers", "p1,p2", "--standby-apiservers", "s1", "--path", "/etc/enc.yaml"}
	invoke(t, append(args, "--dir", dir)...).want(t, 0, "1. stop-mirror: ", "2. alias-add: ", "standby s1  /etc/enc.yaml  sha256:", "encryption relabel --from aescbc/key1 --to aescbc/key1-", "start-mirror: ", "02-alias-add-standby.yaml")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		data := read(t, filepath.Join(dir, e.Name()))
		if e.Name() == "plan.json" {
			if strings.Contains(string(data), keyText("p")) || strings.Contains(string(data), keyText("s")) {
				t.Error("plan.json holds a secret")
			}
			continue
		}
		if _, err := encryption.Parse(data); err != nil {
			t.Errorf("%s: %v", e.Name(), err)
		}
	}
	want := []string{"02-alias-add-standby.yaml", "03-alias-promote-standby.yaml", "07-add-primary.yaml", "07-add-standby.yaml", "09-promote-standby-standby.yaml", "plan.json"}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
	invoke(t, append(args, "--dir", dir, "--drop")...).want(t, exitFailed, "--dir: ", "add --replace")
	var plan encryption.Rollout
	if err := json.Unmarshal([]byte(invoke(t, append(args, "--output", "json")...).want(t, 0).out), &plan); err != nil || len(plan.Phases) != 9 {
		t.Errorf("%v: %d phases", err, len(plan.Phases))
	}
	invoke(t, "plan", "--primary", p, "--standby", s).want(t, exitFailed, "--primary-apiservers: is missing", "--standby-apiservers: is missing")
	invoke(t, append(args[:5:5], "--primary-apiservers", "a", "--standby-apiservers", "b")...).want(t, exitFailed, "--clash: ")
	invoke(t, append(args[:5:5], "--primary-apiservers", "a", "--standby-apiservers", "a", "--clash", "rename-standby")...).want(t, exitFailed, "given twice")
}

func TestVerify(t *testing.T) {
	path := file(t, "aescbc", "key1=a")
	metrics := write(t, fmt.Sprintf("apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=\"sha256:x\",hash=%q} 1\n", encryption.Hash(read(t, path))))
	invoke(t, "verify", "--file", path, "--metrics", metrics).want(t, 0, "it tells the file's hash")
	invoke(t, "verify", "--file", file(t, "aescbc", "key1=b"), "--metrics", metrics).want(t, exitNo, "--metrics: ", "runs with another file")
	old := write(t, "process_start_time_seconds 1.7e9\n")
	invoke(t, "verify", "--file", path, "--metrics", old).want(t, exitNo, "tells no hash")
	invoke(t, "verify", "--file", path, "--metrics", old, "--installed", "2020-01-01T00:00:00Z").want(t, 0, "it was started since")
	invoke(t, "verify", "--file", path, "--metrics", old, "--installed", "yesterday").want(t, exitFailed, "--installed: ")
	invoke(t, "verify").want(t, exitFailed, "--file: is missing", "--metrics: is missing")
	invoke(t, "verify", "--file", path, "--metrics", "/no/such").want(t, exitFailed, "--metrics: ")
}

func codec(t *testing.T, path string) *encryption.Codec {
	t.Helper()
	cfg, err := encryption.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resource, err := keyfilter.Resource("")
	if err != nil {
		t.Fatal(err)
	}
	c, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAuditRelabelRewrite(t *testing.T) {
	ctx := testutil.Context(t)
	cluster := testutil.NewCluster(t, embedetcd.Options{})
	client := testutil.Client(t, cluster)
	const n = 20
	old, both, after := file(t, "aescbc", "key1=s"), file(t, "aescbc", "key2=s", "key1=s"), file(t, "aescbc", "key2=s")
	key := func(i int) string { return fmt.Sprintf("/registry/secrets/team-a/s%02d", i) }
	seal := func(c *encryption.Codec, i int) {
		value, err := c.Seal(ctx, key(i), fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","data":"%s"}`, secret))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(ctx, key(i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		seal(codec(t, old), i)
	}
	at := func(command string, more ...string) []string {
		return append([]string{command, "--etcd-endpoints", cluster.Endpoints()[0]}, more...)
	}
	revision := func() int64 {
		resp, err := client.Get(ctx, "x")
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	invoke(t, at("audit")...).want(t, 0, "secrets   aescbc    key1  20")
	invoke(t, at("audit", "--encryption-config", old)...).want(t, 0, "20 readable, 0 not")
	invoke(t, at("audit", "--encryption-config", after, "--limit", "2")...).want(t, exitNo, "0 readable, 20 not", "unreadable: \""+key(0), "and 18 more")
	var report encryption.AuditReport
	if err := json.Unmarshal([]byte(invoke(t, at("audit", "--encryption-config", after, "--output", "json")...).want(t, exitNo).out), &report); err != nil || report.Unreadable != n {
		t.Errorf("%v %+v", err, report)
	}

	before := revision()
	relabel := at("relabel", "--encryption-config", both, "--from", "aescbc/key1", "--to", "aescbc/key2", "--rate", "10000")
	invoke(t, append(relabel, "--loaded", both+","+old)...).want(t, exitNo, "--loaded: ", "still written with aescbc")
	invoke(t, append(relabel, "--loaded", both)...).want(t, 0, "20 to change, 0 changed", "to do it, add --apply")
	invoke(t, relabel...).want(t, exitFailed, "--loaded: is missing")
	invoke(t, at("relabel", "--encryption-config", both, "--loaded", both)...).want(t, exitFailed, "--from, --to: are both needed")
	invoke(t, at("relabel", "--encryption-config", both, "--loaded", both, "--from", "aescbc/key1", "--to", "aescbc/key3")...).want(t, exitFailed, "--from, --to: ")
	if revision() != before {
		t.Error("something was written")
	}
	invoke(t, append(relabel, "--loaded", both, "--apply")...).want(t, 0, "20 changed")
	invoke(t, at("audit", "--encryption-config", after)...).want(t, 0, "20 readable")

	// And to another provider.
	other := write(t, strings.Replace(string(read(t, after)), "  - aescbc:", "  - secretbox:\n      keys:\n      - name: box\n        secret: "+keyText("x")+"\n  - aescbc:", 1))
	invoke(t, at("rewrite", "--encryption-config", other, "--loaded", after, "--apply")...).want(t, exitNo, "--loaded: ", "written with aescbc")
	invoke(t, at("rewrite", "--encryption-config", other, "--loaded", other, "--only", "aescbc/key1", "--apply")...).want(t, 0, "0 to change")
	var done encryption.InPlaceReport
	if err := json.Unmarshal([]byte(invoke(t, at("rewrite", "--encryption-config", other, "--loaded", other, "--only", "aescbc/key2", "--apply", "--output", "json")...).want(t, 0).out), &done); err != nil || done.Written != n {
		t.Errorf("%v %+v", err, done)
	}
	invoke(t, at("audit", "--encryption-config", file(t, "secretbox", "box=x"))...).want(t, 0, "20 readable")

	invoke(t, "audit").want(t, exitFailed, "--etcd-endpoints: is missing")
	invoke(t, at("audit", "--prefix", "registry")...).want(t, exitFailed, "--prefix: ")
	invoke(t, at("audit", "--limit", "-1")...).want(t, exitFailed, "--limit: ")
	invoke(t, append(relabel, "--loaded", both, "--rate", "0")...).want(t, exitFailed, "--rate: ")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if code := run(ended, at("audit"), &bytes.Buffer{}, &bytes.Buffer{}); code != 130 {
		t.Errorf("interrupted: exit code %d", code)
	}
}
