// Package borders has no code. Its test keeps the module's packages apart: what may import what, which names packages
// have, and which words the project does not use.
package borders

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// load reads the module around a folder.
func load(dir string) (*tree, error) {
	root, err := run(dir, "list", "-m", "-f", "{{.Dir}}\n{{.Path}}")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(root)), "\n")
	if len(lines) != 2 {
		return nil, fmt.Errorf("go list -m says %q: want the folder and the path of one module", root)
	}
	t := &tree{module: lines[1], graph: map[string][]string{}}
	if err := t.readFiles(lines[0]); err != nil {
		return nil, err
	}
	// A look at go.mod tells the cache of test results that the answer depends on it.
	if _, err := os.Stat(filepath.Join(lines[0], "go.mod")); err != nil {
		return nil, err
	}
	listed, err := run(lines[0], "list", "-mod=readonly", "-deps", "-json=ImportPath,Imports", "./...")
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(listed)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list -deps: %w", err)
		}
		t.graph[p.ImportPath] = p.Imports
	}
}

func run(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}

// readFiles reads every Go and Markdown file, those of nested modules included.
func (t *tree) readFiles(root string) error {
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != root && strings.HasPrefix(entry.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		ext := filepath.Ext(name)
		if ext != ".go" && ext != ".md" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f := file{path: filepath.ToSlash(rel), text: string(text)}
		if ext == ".go" {
			parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
			if err != nil {
				return err
			}
			f.pkg = parsed.Name.Name
			for _, spec := range parsed.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				f.imports = append(f.imports, imported)
			}
		}
		t.files = append(t.files, f)
		return nil
	})
}

func TestBorders(t *testing.T) {
	module, err := load(".")
	if err != nil {
		t.Fatal(err)
	}
	// The rules see what they are about.
	if want := "go.etcd.io/etcd/client/v3"; !slices.Contains(module.graph[module.module+"/internal/kvstream"], want) {
		t.Errorf("the go tool does not show that internal/kvstream imports %s", want)
	}
	for _, name := range []string{"etcdmirror", "keyfilter", "drcheck", "encryption"} {
		if len(module.graph[module.module+"/"+name]) == 0 {
			t.Errorf("the go tool does not show package %s", name)
		}
		if !slices.ContainsFunc(module.files, func(f file) bool { return f.dir() == name && f.shipped() && len(f.imports) > 0 }) {
			t.Errorf("no file of package %s was read", name)
		}
	}
	for dir, want := range map[string]bool{"encryption": true, "etcdmirror": false, "drcheck": false, "keyfilter": false, "internal/kvstream": false, "internal/kubemeta": false} {
		if got := module.reaches(dir, "k8s.io/apiserver"); got != want {
			t.Errorf("%s brings k8s.io/apiserver into a build: %v, want %v", dir, got, want)
		}
	}
	for name, check := range map[string]func() []string{
		"imports": module.checkImports, "dependencies": module.checkDependencies, "names": module.checkNames, "words": module.checkWords,
	} {
		t.Run(name, func(t *testing.T) {
			for _, violation := range check() {
				t.Error(violation)
			}
		})
	}
}
