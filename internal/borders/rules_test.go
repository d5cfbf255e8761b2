package borders

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// tree is a module as its files and the go tool show it.
type tree struct {
	module string
	files  []file
	// graph has the imports of each package that the module's packages need, by import path, without those of tests.
	graph map[string][]string
}

// file is a Go or Markdown file. A Markdown file has neither package nor imports.
type file struct {
	path    string // from the module's root, with slashes
	pkg     string
	imports []string
	text    string
}

func (f file) dir() string { return path.Dir(f.path) }

// shipped reports whether the file is Go code that is no test.
func (f file) shipped() bool { return f.pkg != "" && !strings.HasSuffix(f.path, "_test.go") }

// below reports whether a path is one of the given ones or inside of one.
func below(p string, parents ...string) bool {
	return slices.ContainsFunc(parents, func(parent string) bool { return p == parent || strings.HasPrefix(p, parent+"/") })
}

// heavy are modules that a library must not bring into its users' builds, with the folders that may import them all the same.
var heavy = []struct {
	prefixes []string
	allowed  []string
}{
	{[]string{"k8s.io/apiserver", "k8s.io/client-go", "k8s.io/component-base", "k8s.io/kms"}, []string{"encryption", "failover/steps/kube", "internal/testutil", "internal/e2e", "examples/encryption"}},
	{[]string{"github.com/prometheus"}, []string{"examples"}},
	{[]string{"go.etcd.io/etcd/server"}, []string{"internal/testutil", "internal/bench"}},
}

// outside is all that the light packages, and the internal ones that they need, may import themselves besides the standard library.
var outside = []string{
	"go.etcd.io/etcd/api", "go.etcd.io/etcd/client", "k8s.io/apimachinery", "sigs.k8s.io/yaml",
	"golang.org/x", "google.golang.org/grpc", "google.golang.org/protobuf",
}

// more is what single folders may need beyond that.
var more = map[string][]string{"failover/steps/dns": {"github.com/miekg/dns"}}

// composing are the packages that put the others together, so that each of these can do without the rest.
var composing = []string{"failover/steps/mirror/engine", "failover/steps/rollout", "failover/runbook"}

// light reports whether a folder's package compiles without any heavy module.
func light(dir string) bool {
	return topLevel(dir) != "" && !below(dir, "encryption", "failover/steps/kube", "failover/steps/rollout", "failover/runbook")
}

// topLevel is the name of the top-level package that a folder belongs to, or "" if none.
func topLevel(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	switch first {
	case ".", "internal", "examples":
		return ""
	}
	return first
}

// folder is the folder of an import path, or "" outside of the module.
func (t *tree) folder(importPath string) string {
	if importPath == t.module {
		return "."
	}
	dir, ok := strings.CutPrefix(importPath, t.module+"/")
	if !ok {
		return ""
	}
	return dir
}

// checkImports looks at what each file of shipped code imports itself, whatever its build constraints.
func (t *tree) checkImports() (violations []string) {
	for _, f := range t.files {
		if !f.shipped() {
			continue
		}
		for _, imported := range f.imports {
			for _, h := range heavy {
				if below(imported, h.prefixes...) && !below(f.dir(), h.allowed...) {
					violations = append(violations, fmt.Sprintf("%s imports %s: only code below %s may", f.path, imported, strings.Join(h.allowed, ", ")))
				}
			}
			dir := t.folder(imported)
			if below(dir, "internal/testutil") && !below(f.dir(), "internal/testutil", "internal/bench", "internal/soak", "examples/mirror") {
				violations = append(violations, fmt.Sprintf("%s imports %s, which is for tests and the demo", f.path, imported))
			}
			if own, other := topLevel(f.dir()), topLevel(dir); dir != "" && own != "" && other != "" && own != other && !below(f.dir(), composing...) {
				violations = append(violations, fmt.Sprintf("%s imports %s: top-level packages meet through func values and interfaces", f.path, imported))
			}
		}
	}
	return violations
}

// checkDependencies follows the imports of the top-level packages to all that they bring into a build.
func (t *tree) checkDependencies() (violations []string) {
	for _, root := range slices.Sorted(maps.Keys(t.graph)) {
		dir := t.folder(root)
		if dir == "" || topLevel(dir) == "" {
			continue
		}
		for _, chain := range t.chains(root) {
			last := chain[len(chain)-1]
			by := strings.Join(chain, " -> ")
			inside := t.folder(last)
			switch {
			case below(inside, "internal/testutil"):
				violations = append(violations, by+": code for tests must not reach users")
			case inside != "" && topLevel(inside) != "" && topLevel(inside) != topLevel(dir) && !below(dir, composing...):
				violations = append(violations, by+": top-level packages meet through func values and interfaces")
			case inside == "" && light(dir) && slices.ContainsFunc(heavy, func(h struct{ prefixes, allowed []string }) bool { return below(last, h.prefixes...) }):
				violations = append(violations, by+": too heavy for "+dir)
			case inside == "" && light(dir) && !standard(last) && t.folder(chain[len(chain)-2]) != "" && !below(last, outside...) && !below(last, more[t.folder(chain[len(chain)-2])]...):
				violations = append(violations, by+": not among what "+dir+" is allowed to need: "+strings.Join(outside, ", "))
			}
		}
	}
	return violations
}

// reaches reports whether a package, by folder, brings packages below a path into a build.
func (t *tree) reaches(dir, parent string) bool {
	return slices.ContainsFunc(t.chains(t.module+"/"+dir), func(chain []string) bool { return below(chain[len(chain)-1], parent) })
}

// chains gives, for each import on the way to everything that root needs, a shortest way there. A package has more than one if several import it.
func (t *tree) chains(root string) (all [][]string) {
	seen := map[string]bool{root: true}
	for queue := [][]string{{root}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		for _, imported := range t.graph[chain[len(chain)-1]] {
			next := append(slices.Clone(chain), imported)
			all = append(all, next)
			if !seen[imported] {
				seen[imported] = true
				queue = append(queue, next)
			}
		}
	}
	return all
}

// standard reports whether an import path belongs to the standard library, whose first part never has a dot.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

var emptyNames = []string{"util", "utils", "common", "helper", "helpers"}

// checkNames refuses packages and folders whose name says nothing.
func (t *tree) checkNames() (violations []string) {
	for _, f := range t.files {
		if f.pkg == "" {
			continue
		}
		if name := strings.TrimSuffix(f.pkg, "_test"); slices.Contains(emptyNames, name) || slices.Contains(emptyNames, path.Base(f.dir())) {
			violations = append(violations, fmt.Sprintf("%s: package %s in folder %s: name it after what it does", f.path, f.pkg, f.dir()))
		}
	}
	return violations
}

// The words are put together here so that this file does not hold them.
var (
	badWords = regexp.MustCompile("(?i)mas" + "ter|sla" + "ve")
	// quotedNames are names that Kubernetes gave.
	quotedNames = regexp.MustCompile("(?i)mas" + "terleases|node-role.kubernetes.io/mas" + "ter")
)

// checkWords refuses terms that the project does not use.
func (t *tree) checkWords() (violations []string) {
	for _, f := range t.files {
		for i, line := range strings.Split(f.text, "\n") {
			if word := badWords.FindString(quotedNames.ReplaceAllString(line, "")); word != "" {
				violations = append(violations, fmt.Sprintf("%s:%d: %q: say source and target, or primary and standby", f.path, i+1, word))
			}
		}
	}
	return violations
}
