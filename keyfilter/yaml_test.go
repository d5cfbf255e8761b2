package keyfilter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// exampleYAML is the document of doc.go, with every kind of field.
const exampleYAML = `# A filter for two sites that share their storage.
prefixes: [/registry]
excludedNamespaces:
- kube-system
- platform-*
policy:
  persistentVolumes: include
  persistentVolumeClaims: include
  cronJobs: include
rules:
- name: team-a-locks
  action: include
  reason: the lock holds business state
  groups: [coordination.k8s.io]
  resources: [leases]
  namespaces: [team-a]
  names: ["ledger-*"]
- name: scratch
  action: exclude
  reason: nobody misses it
  namespaces: ["scratch-*", playground]
- name: old-apiserver
  action: exclude
  reason: left over from an experiment
  prefixes: [/registry/wardle.example.com/]
`

var exampleConfig = Config{
	Prefixes:           []string{"/registry"},
	ExcludedNamespaces: []string{"kube-system", "platform-*"},
	Policy:             Policy{PersistentVolumes: Include, PersistentVolumeClaims: Include, CronJobs: Include},
	Rules: []Rule{
		{Name: "team-a-locks", Action: Include, Reason: "the lock holds business state", Groups: []string{"coordination.k8s.io"},
			Resources: []string{"leases"}, Namespaces: []string{"team-a"}, Names: []string{"ledger-*"}},
		{Name: "scratch", Action: Exclude, Reason: "nobody misses it", Namespaces: []string{"scratch-*", "playground"}},
		{Name: "old-apiserver", Action: Exclude, Reason: "left over from an experiment", Prefixes: []string{"/registry/wardle.example.com/"}},
	},
}

var ignoreClass = cmpopts.IgnoreUnexported(Rule{})

func TestLoad(t *testing.T) {
	for text, want := range map[string]Config{
		exampleYAML: exampleConfig,
		"{}":        {},
		"--- # the defaults\n{}\n...\n# the end\n":             {},
		"\ufeff# saved by an editor\n{}\n":                     {},
		"%YAML 1.1\n---\nexcludedNamespaces: []\n":             {ExcludedNamespaces: []string{}},
		"prefixes: [\"/kubernetes.io\", openshift.io]\r\n":     {Prefixes: []string{"/kubernetes.io", "openshift.io"}},
		"policy: {pods: include}\n":                            {Policy: Policy{Pods: Include}},
		"policy:\n  pods: include\n  # ---\n  jobs: exclude\n": {Policy: Policy{Pods: Include, Jobs: Exclude}},
		`{"policy": {"unclassified": "exclude"}}`:              {Policy: Policy{Unclassified: Exclude}},
	} {
		got, err := Load(strings.NewReader(text))
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, ignoreClass); diff != "" {
			t.Errorf("%s\n(-want +got):\n%s", text, diff)
		}
		written, err := got.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Load(strings.NewReader(string(written)))
		if diff := cmp.Diff(got, again, ignoreClass); err != nil || diff != "" {
			t.Errorf("%s\nwritten and loaded again: %v (-want +got):\n%s", written, err, diff)
		}
	}
}

// TestDocShowsTheExample: the document in the package documentation is the one that the tests load.
func TestDocShowsTheExample(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	shown := "//\t" + strings.ReplaceAll(strings.TrimSuffix(exampleYAML, "\n"), "\n", "\n//\t")
	if !strings.Contains(string(doc), shown) {
		t.Errorf("doc.go does not contain\n%s", shown)
	}
}

var badYAML = []struct{ name, text, want string }{
	{"empty", "", "the file is empty"},
	{"only comments", "# nothing\n\n# here\n", "the file is empty"},
	{"only a marker", "---\n", "the file is empty"},
	{"null", "null\n", "the file is empty"},
	{"not YAML", "a: [b\n", "not valid YAML: line 1"},
	{"tab", "policy:\n\tpods: include\n", "not valid YAML: line 2"},
	{"not UTF-8", "policy: {pods: \"\xff\"}\n", "not UTF-8"},
	{"other line break", "policy: {}\rrules: []\n", "line 1: a line break"},
	{"invisible line break", "policy: {}\n# x\u2028---\n", "line 2: a line break"},
	{"too large", "# " + strings.Repeat("x", maxFileSize), "larger than"},
	{"a list", "- name: x\n", "is a list where fields belong"},
	{"a text", "exclude everything\n", "is a text where fields belong"},
	{"second document", "policy: {}\n---\npolicy: {pods: include}\n", "line 2: a second YAML document"},
	{"second document behind an empty one", "---\n---\npolicy: {}\n", "line 2: a second YAML document"},
	{"second document on the marker's line", "policy: {}\n--- {rules: []}\n", "line 2: a second YAML document"},
	{"second document behind an end", "policy: {}\n...\n---\n{}\n", "line 3: a second YAML document"},
	{"text behind the end", "policy: {}\n...\nrules: []\n", "line 3: text behind the end"},
	{"unknown field", "excludedNamespace: [a]\n", "excludedNamespace: is not a known field; known are excludedNamespaces, policy, prefixes, rules"},
	{"unknown policy", "policy: {pod: include}\n", "policy.pod: is not a known field"},
	{"unknown rule field", "rules:\n- name: a\n  namespace: x\n", "rules[0].namespace: is not a known field"},
	{"field in another case", "Policy: {pods: include}\n", "Policy: is not a known field"},
	{"field in two cases", "policy: {pods: include, Pods: exclude}\n", "policy.Pods: is not a known field"},
	{"repeated field", "policy: {}\nrules: []\npolicy: {pods: include}\n", `line 3: key "policy" already set`},
	{"repeated policy", "policy:\n  pods: include\n  pods: exclude\n", `line 3: key "pods" already set`},
	{"include and exclude both", "rules:\n- name: a\n  action: include\n  action: exclude\n  reason: r\n  namespaces: [a]\n", `line 4: key "action" already set`},
	{"no value", "policy: {pods: }\n", "policy.pods: has no value"},
	{"no list", "rules:\n", "rules: has no value"},
	{"no element", "prefixes: [~]\n", "prefixes[0]: has no value"},
	{"a number", "excludedNamespaces: [12]\n", "excludedNamespaces[0]: is a number where a text belongs; put it into quotes"},
	{"a truth", "excludedNamespaces: [yes]\n", "excludedNamespaces[0]: is true or false where a text belongs"},
	{"no list but a text", "excludedNamespaces: kube-system\n", "excludedNamespaces: is a text where a list belongs"},
	{"a list of lists", "excludedNamespaces: [[a]]\n", "excludedNamespaces[0]: is a list where a text belongs"},
	{"fields as text", "policy: {pods: {a: b}}\n", "policy.pods: is a set of fields where a text belongs"},
	{"unknown policy value", "policy: {pods: maybe}\n", `policy.pods: "maybe" is not a policy; use include or exclude, or leave it out for exclude`},
	{"impossible rule", "rules: [{name: a, action: include, reason: r, groups: [core], resources: [nodes], namespaces: [x]}]\n",
		`rules[0].resources[0] (rule "a"): "nodes" can never match: it is cluster-scoped`},
}

func TestLoadRefuses(t *testing.T) {
	for _, tc := range badYAML {
		t.Run(tc.name, func(t *testing.T) {
			cfg, err := Load(strings.NewReader(tc.text))
			if err == nil {
				t.Fatalf("loads as %+v", cfg)
			}
			if !strings.Contains(err.Error(), tc.want) || !errors.Is(err, ErrConfig) {
				t.Errorf("error %q, want one that has %q and is ErrConfig", err, tc.want)
			}
			if diff := cmp.Diff(Config{}, cfg, ignoreClass); diff != "" {
				t.Errorf("a Config along with the error: %s", diff)
			}
		})
	}
}

func TestLoadReportsAllUnknownFields(t *testing.T) {
	_, err := Load(strings.NewReader("a: 1\nb: 2\npolicy: {c: include}\n"))
	for _, want := range []string{"keyfilter: a: is not", "keyfilter: b: is not", "policy.c: is not"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestLoadFile(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	for file, text := range map[string]string{good: exampleYAML, bad: "policies: {}\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := LoadFile(good)
	if diff := cmp.Diff(exampleConfig, cfg, ignoreClass); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := LoadFile(bad); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), bad) {
		t.Errorf("%v, want an error that names the file", err)
	}
	if _, err := LoadFile(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist", err)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

func TestLoadReadError(t *testing.T) {
	broken := errors.New("disk on fire")
	if _, err := Load(brokenReader{broken}); !errors.Is(err, broken) {
		t.Errorf("%v, want the reader's error", err)
	}
}
