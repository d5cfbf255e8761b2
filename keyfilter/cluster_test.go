package keyfilter

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// plural makes a kind's resource, by English and not by the table.
func plural(kind string) string {
	s := strings.ToLower(kind)
	switch {
	case s == "endpoints":
		return s
	case s == "podthing":
		return "pods" // the custom resource whose plural is a trap on purpose
	case strings.HasSuffix(s, "y"):
		return s[:len(s)-1] + "ies"
	case strings.HasSuffix(s, "s"):
		return s + "es"
	}
	return s + "s"
}

// TestClusterObjects compares Parse with what the objects of a real cluster say about themselves: the file was made from
// the values (apiVersion, kind, metadata), with no look at the keys.
func TestClusterObjects(t *testing.T) {
	text, err := os.ReadFile("testdata/kubernetes-1.36-objects.tsv")
	if err != nil {
		t.Fatal(err)
	}
	keys := clusterKeys(t)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")[1:]
	if len(lines) != len(keys) {
		t.Fatalf("%d objects, %d keys", len(lines), len(keys))
	}
	internal := 0
	for i, line := range lines {
		col := strings.Split(line, "\t")
		key, apiVersion, kind, ns, name := col[0], col[1], col[2], col[3], col[4]
		if key != keys[i] {
			t.Fatalf("line %d is about %q, the key is %q", i, key, keys[i])
		}
		k, err := Parse("", []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		checkParse(t, "", []byte(key))
		if kind == "" || kind == "RangeAllocation" || kind == "Endpoints" && name == "" { // bookkeeping has no names inside
			if internal++; k.Scope != Internal {
				t.Errorf("%s: %s, want internal", key, k.Scope)
			}
			continue
		}
		group, _, ok := strings.Cut(apiVersion, "/")
		if !ok {
			group = ""
		}
		scope := Cluster
		if ns != "" {
			scope = Namespaced
		}
		got := []any{k.GroupKnown, k.Group, k.Resource, k.Namespace, k.Name, k.Scope}
		want := []any{true, group, plural(kind), ns, name, scope}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-object +key):\n%s", key, diff)
		}
	}
	if internal != 4 {
		t.Errorf("%d internal keys, want 4", internal)
	}
}

// TestClusterGolden holds the default filter's decision about every key of a real cluster, for a reader to go through line
// by line.
func TestClusterGolden(t *testing.T) {
	f := mustNew(t, Config{})
	var b strings.Builder
	b.WriteString("decision\trule\tscope\tgroup\tresource\tnamespace\tname\tkey\n")
	for _, key := range clusterKeys(t) {
		e := f.Explain([]byte(key))
		decision := "-"
		if e.Include {
			decision = "mirror"
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", decision, e.Rule, e.Key.Scope, e.Key.Group, e.Key.Resource, e.Key.Namespace, e.Key.Name, key)
		checkAgainstReference(t, f, key)
	}
	compareGolden(t, "testdata/kubernetes-1.36-decisions.tsv", b.String())
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); go through the changes before running with -update:\n%s", file, diff)
	}
}
