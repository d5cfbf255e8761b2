package borders

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wantViolations checks that there is one violation for each wanted start, in any order, and no other.
func wantViolations(t *testing.T, got []string, starts ...string) {
	t.Helper()
	for _, start := range starts {
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, start) })
		if i < 0 {
			t.Errorf("no violation %q", start)
			continue
		}
		got = slices.Delete(slices.Clone(got), i, i+1)
	}
	for _, other := range got {
		t.Errorf("not a violation: %s", other)
	}
}

func TestForbiddenImportsAreFound(t *testing.T) {
	shipped := func(path string, imports ...string) file { return file{path: path, pkg: "p", imports: imports} }
	for _, f := range []file{
		shipped("etcdmirror/a.go", "m/keyfilter"),
		shipped("failover/steps/a.go", "m/drcheck/report"),
		shipped("encryption/a.go", "m/etcdmirror"),
		shipped("keyfilter/a.go", "m/internal/testutil"),
		shipped("internal/kvstream/a.go", "m/internal/testutil/embedetcd"),
		shipped("examples/drcheck/a.go", "m/internal/testutil/embedetcd"),
		shipped("doc.go", "m/internal/testutil"),
		shipped("failover/steps/a_windows.go", "k8s.io/client-go/kubernetes"),
		shipped("internal/kubemeta/a.go", "k8s.io/apiserver"),
		shipped("examples/mirror/a.go", "k8s.io/apiserver/pkg/storage/value"),
		shipped("drcheck/a.go", "k8s.io/kms/apis/v2"),
		shipped("drcheck/a.go", "github.com/prometheus/client_golang/prometheus"),
		shipped("internal/kvstream/a.go", "go.etcd.io/etcd/server/v3/embed"),
	} {
		module := &tree{module: "m", files: []file{f}}
		wantViolations(t, module.checkImports(), f.path+" imports "+f.imports[0])
	}
	module := &tree{module: "m", files: []file{
		shipped("etcdmirror/a.go", "context", "m", "m/internal/kvstream", "m/etcdmirror/part", "go.etcd.io/etcd/client/v3"),
		shipped("doc.go", "m/etcdmirror"),
		shipped("encryption/a.go", "k8s.io/apiserver/pkg/storage/value"),
		shipped("encryption/kms.go", "k8s.io/kms/pkg/service"),
		shipped("failover/steps/kube/a.go", "k8s.io/client-go/kubernetes", "m/failover"),
		shipped("examples/mirror/demo.go", "m/etcdmirror", "m/keyfilter", "m/internal/testutil/embedetcd"),
		shipped("examples/mirror/metrics.go", "github.com/prometheus/client_golang/prometheus"),
		shipped("internal/testutil/a.go", "go.etcd.io/etcd/server/v3/embed", "m/internal/testutil/history"),
		shipped("internal/bench/a.go", "m/internal/testutil", "go.etcd.io/etcd/server/v3/embed"),
		shipped("etcdmirror/a_test.go", "m/keyfilter", "m/internal/testutil", "go.etcd.io/etcd/server/v3/embed", "k8s.io/apiserver"),
	}}
	wantViolations(t, module.checkImports())
}

func TestForbiddenDependenciesAreFound(t *testing.T) {
	module := &tree{module: "m", graph: map[string][]string{
		"m/etcdmirror":          {"context", "m/internal/x", "golang.org/x/sync/errgroup"},
		"m/internal/x":          {"m/keyfilter", "example.com/handy", "go.etcd.io/etcd/client/v3"},
		"m/keyfilter":           {"strings", "m/internal/testutil"},
		"example.com/handy":     {"example.com/deep"},
		"example.com/deep":      {"k8s.io/client-go/rest"},
		"k8s.io/client-go/rest": {"net/http"},
		"m/encryption":          {"k8s.io/apiserver/pkg/storage/value", "example.com/handy"},
		"m/failover/steps/kube": {"k8s.io/client-go/rest"},
		"m/failover/steps/net":  {"m/failover/steps/kube"},
		"m/failover/runbook":    {"m/failover/steps/kube", "m/encryption"},
		"m/failover/steps/dns":  {"github.com/miekg/dns"},
		"m/internal/testutil":   {"go.etcd.io/etcd/server/v3/embed"},
		"m/examples/mirror":     {"m/internal/testutil", "github.com/prometheus/client_golang/prometheus"},
		"go.etcd.io/etcd/client/v3": {
			"example.com/its/own/need"},
	}}
	wantViolations(t, module.checkDependencies(),
		"m/etcdmirror -> m/internal/x -> m/keyfilter: top-level",
		"m/etcdmirror -> m/internal/x -> example.com/handy: not among",
		"m/etcdmirror -> m/internal/x -> example.com/handy -> example.com/deep -> k8s.io/client-go/rest: too heavy for etcdmirror",
		"m/etcdmirror -> m/internal/x -> m/keyfilter -> m/internal/testutil: code for tests",
		"m/etcdmirror -> m/internal/x -> m/keyfilter -> m/internal/testutil -> go.etcd.io/etcd/server/v3/embed: too heavy",
		"m/keyfilter -> m/internal/testutil: code for tests",
		"m/keyfilter -> m/internal/testutil -> go.etcd.io/etcd/server/v3/embed: too heavy",
		"m/failover/steps/net -> m/failover/steps/kube -> k8s.io/client-go/rest: too heavy for failover/steps/net",
	)
}

func TestEmptyNamesAreFound(t *testing.T) {
	module := &tree{files: []file{
		{path: "internal/util/a.go", pkg: "strutil"}, {path: "internal/b/b.go", pkg: "utils"},
		{path: "common/c.go", pkg: "common"}, {path: "d/d_test.go", pkg: "helpers_test"},
		{path: "internal/testutil/a.go", pkg: "testutil"}, {path: "docs/common/a.md"}, {path: "commonly/a.go", pkg: "commonly"},
	}}
	wantViolations(t, module.checkNames(), "internal/util/a.go: package strutil", "internal/b/b.go: package utils", "common/c.go: package common", "d/d_test.go: package helpers_test")
}

func TestForbiddenWordsAreFound(t *testing.T) {
	m, s := "mas"+"ter", "sla"+"ve"
	module := &tree{files: []file{
		{path: "README.md", text: "one\nthe " + m + " and\nits " + strings.ToUpper(s) + "s"},
		{path: "a/a_test.go", pkg: "a", text: "package a\n\nvar is" + strings.ToUpper(m[:1]) + m[1:] + " bool"},
		{path: "b/b.go", pkg: "b", text: "/registry/" + m + "leases/x internal" + strings.ToUpper(m[:1]) + m[1:] + "Leases node-role.kubernetes.io/" + m},
		{path: "c/c.go", pkg: "c", text: m + "leases of the " + m},
	}}
	wantViolations(t, module.checkWords(), "README.md:2: ", "README.md:3: ", "a/a_test.go:3: ", "c/c.go:1: ")
}

// A module on the disk breaks each rule once, and is read by the go tool like the real one.
func TestViolationsOfARealModuleAreFound(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                        "module example.com/m\n\ngo 1.26\n",
		"README.md":                     "the " + "mas" + "ter copy\n",
		"etcdmirror/a.go":               "package etcdmirror\n\nimport _ \"example.com/m/internal/x\"\n",
		"etcdmirror/a_test.go":          "package etcdmirror\n\nimport _ \"example.com/m/keyfilter\"\n",
		"internal/x/x.go":               "package x\n\nimport _ \"example.com/m/keyfilter\"\n",
		"keyfilter/a.go":                "package keyfilter\n",
		"keyfilter/a_plan9.go":          "package keyfilter\n\nimport _ \"example.com/m/internal/testutil\"\n",
		"internal/testutil/testutil.go": "package testutil\n",
		"internal/common/a.go":          "package common\n",
		".git/hooks/a.go":               "no Go",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	module, err := load(filepath.Join(dir, "keyfilter"))
	if err != nil {
		t.Fatal(err)
	}
	wantViolations(t, module.checkImports(), "keyfilter/a_plan9.go imports example.com/m/internal/testutil")
	wantViolations(t, module.checkDependencies(), "example.com/m/etcdmirror -> example.com/m/internal/x -> example.com/m/keyfilter")
	wantViolations(t, module.checkNames(), "internal/common/a.go: package common")
	wantViolations(t, module.checkWords(), "README.md:1: ")
	if _, err := load(filepath.Join(dir, ".git")); err != nil {
		t.Errorf("from a folder without Go files: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keyfilter", "broken.go"), []byte("package"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(dir); err == nil {
		t.Error("a file that does not parse was passed over")
	}
}
