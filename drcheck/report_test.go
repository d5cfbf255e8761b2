package drcheck

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var updateReports = flag.Bool("update", false, "write the golden files")

// goldenReport compares text with testdata/name.
func goldenReport(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateReports {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run the test with -update:\n%s", path, diff)
	}
}

var reportNoon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// sampleResults are the results of the golden files.
func sampleResults() map[string]*Result {
	sample := func(change func(r *Result, m *MirrorState)) *Result {
		r := &Result{Mode: Content, Began: reportNoon, Ended: reportNoon.Add(3214 * time.Millisecond), SourceClusterID: "8e9e05c52164694d", TargetClusterID: "cdf818194e3a8c32",
			SourceRevision: 1234, TargetRevision: 987, SourceKeys: 12345, TargetKeys: 12345, Filtered: 678, Bytes: 30_000_000, Equal: true,
			Resources: []ResourceCount{{Resource: "apps/deployments", Keys: 45}, {Resource: "pods", Keys: 12300}}, Differences: []Difference{},
			Mirror: &MirrorState{Name: "primary-to-standby", Epoch: 1, Phase: "tail", AppliedRevision: 1240, AppliedAt: reportNoon.Add(2 * time.Second), SourceHead: 1240, SourceHeadAt: reportNoon.Add(2 * time.Second)}}
		change(r, r.Mirror)
		return r
	}
	// counted completes a result by its differences.
	counted := func(r *Result) {
		byName := map[string]*ResourceCount{}
		for _, d := range r.Differences {
			name := strings.Split(d.SourceKey+"//", "/")[2]
			if byName[name] == nil {
				byName[name] = &ResourceCount{Resource: name, Keys: 2}
			}
			byName[name].add(d)
			r.Count.add(d)
		}
		r.Resources = []ResourceCount{{Resource: "leases", Keys: 1}}
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			r.Resources = append(r.Resources, *byName[name])
		}
		r.Equal = r.Count.Total() == 0
	}
	return map[string]*Result{
		"equal": sample(func(r *Result, m *MirrorState) { r.Rechecked = 17 }),
		"equal-keys": sample(func(r *Result, m *MirrorState) {
			r.Mode, r.Bytes, r.SourceKeys, r.TargetKeys, r.Ended = KeysOnly, 0, 1, 1, r.Began.Add(83*time.Second)
			r.Resources, r.Differences = nil, nil
			m.AppliedRevision, m.AppliedAt = 1239, reportNoon.Add(10*time.Minute) // by another clock
		}),
		"every-reason": sample(func(r *Result, m *MirrorState) {
			m.AppliedRevision, m.SourceHead, m.SourceHeadAt, m.AppliedAt = 1200, 1233, reportNoon.Add(-2*time.Minute), reportNoon.Add(-2*time.Minute)
			r.SourceKeys, r.TargetKeys, r.Rechecked = 30, 24, 24
			for i, d := range []Difference{
				{Class: Missed, SourceKey: "/registry/configmaps/a/unexplained"},
				{Class: Missed, SourceKey: "/registry/configmaps/a/late", Reason: ReasonInFlight},
				{Class: Missed, SourceKey: "/registry/configmaps/a/copied-next", Reason: ReasonCopying},
				{Class: Missed, SourceKey: "/registry/secrets/a/guarded", Reason: ReasonGuarded, Detail: "encrypted with aescbc key \"key9\",\nwhich the target lacks"},
				{Class: Missed, SourceKey: "/registry/pods/a/r-1", Reason: ReasonOwnerMissing, Detail: "/registry/replicasets/a/r"},
				{Class: Missed, SourceKey: "/registry/pods/a/r-2", Reason: ReasonOwnerMissing, Detail: "/registry/replicasets/a/r"},
				{Class: Missed, SourceKey: "/registry/pods/b/s-1", Reason: ReasonOwnerExcluded, Detail: "/registry/statefulsets/b/s"},
				{Class: Missed, SourceKey: "/registry/configmaps/a/deleted", Reason: ReasonChangedAtTarget, Detail: "deleted"},
				{Class: Missed, SourceKey: "/registry/events/a/e", Reason: ReasonExpired},
				{Class: Missed, SourceKey: "/registry/\xff\x00 \"odd", Reason: "of a newer version"},
				{Class: Surplus, SourceKey: "/registry/configmaps/a/nobody-knows"},
				{Class: Surplus, SourceKey: "/registry/configmaps/a/own", Reason: ReasonMadeAtTarget},
				{Class: Surplus, SourceKey: "/registry/configmaps/a/replaced", Reason: ReasonChangedAtTarget, Detail: "replaced"},
				{Class: Surplus, SourceKey: "/registry/configmaps/a/deleted-late", Reason: ReasonInFlight},
				{Class: Different, SourceKey: "/registry/configmaps/b/unexplained"},
				{Class: Different, SourceKey: "/registry/configmaps/b/taken", Reason: ReasonMadeAtTarget},
				{Class: Different, SourceKey: "/registry/configmaps/b/changed", Reason: ReasonChangedAtTarget, Detail: "changed"},
				{Class: Different, SourceKey: "/registry/pods/a/status", Reason: ReasonStatus},
				{Class: Different, SourceKey: "/registry/pods/a/managed", Reason: ReasonManagedFields},
				{Class: Different, SourceKey: "/registry/secrets/a/damaged", Reason: ReasonUnreadable, Detail: "encrypted with \u202eaescbc\x07"},
				{Class: Different, SourceKey: "/registry/secrets/a/old", Reason: ReasonGuarded, Detail: "aescbc"},
				{Class: Different, SourceKey: "/registry/secrets/a/late", Reason: ReasonInFlight},
				{Class: Different, SourceKey: "/registry/secrets/a/promoted", Reason: ReasonPromoted},
			} {
				d.Key = d.SourceKey
				if d.Class != Surplus {
					d.SourceRevision = int64(1201 + i)
				}
				if d.Class != Missed {
					d.TargetRevision = int64(900 + i)
				}
				r.Differences = append(r.Differences, d)
			}
			counted(r)
		}),
		"cut": sample(func(r *Result, m *MirrorState) {
			*m = MirrorState{Name: "two words", Epoch: 3, Phase: "resync", AppliedRevision: 234, SourceHead: 1240}
			r.Ended = reportNoon.Add(61 * time.Second)
			for i := range 2 {
				key := fmt.Sprintf("/registry/configmaps/a/%d", i)
				r.Differences = append(r.Differences, Difference{Class: Missed, Reason: ReasonCopying, Key: "/standby" + key, SourceKey: key, SourceRevision: 7})
			}
			counted(r)
			r.Count = Count{Missed: 10_002, Different: 70_000}
			r.Resources[1].Missed, r.Resources[0].Different = 10_002, 70_000
			r.Unlisted, r.Unconfirmed = 80_000, 60_000
		}),
		"promoted": sample(func(r *Result, m *MirrorState) {
			m.Phase, m.Epoch, m.AppliedRevision, m.SourceHead = "promoted", 2, 1100, 1103
			r.Differences = []Difference{
				{Class: Missed, Reason: ReasonOwnerMissing, Detail: "/registry/replicasets/a/r", Key: "/registry/pods/a/r-1", SourceKey: "/registry/pods/a/r-1", SourceRevision: 1203},
				{Class: Surplus, Reason: ReasonPromoted, Key: "/registry/pods/a/new", SourceKey: "/registry/pods/a/new", TargetRevision: 986},
				{Class: Different, Reason: ReasonPromoted, Key: "/registry/pods/a/old", SourceKey: "/registry/pods/a/old", SourceRevision: 1230, TargetRevision: 985},
			}
			counted(r)
		}),
		"no-mirror": sample(func(r *Result, m *MirrorState) {
			r.Mirror = nil
			r.Differences = []Difference{{Class: Missed, Key: "/registry/pods/a/p", SourceKey: "/registry/pods/a/p", SourceRevision: 1230}}
			counted(r)
		}),
		"accepted": sample(func(r *Result, m *MirrorState) {
			*m = MirrorState{Name: "m", Phase: "armed", AppliedAt: reportNoon}
			for _, key := range []string{"/registry/configmaps/a/own", "/registry/secrets/a/own"} {
				r.Differences = append(r.Differences, Difference{Class: Surplus, Reason: ReasonMadeAtTarget, Key: key, SourceKey: key, TargetRevision: 980, Accepted: true})
			}
			counted(r)
			r.Count.Accepted, r.Unlisted = 1003, 1001
		}),
	}
}

func TestReports(t *testing.T) {
	for name, r := range sampleResults() {
		var text strings.Builder
		if err := r.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		goldenReport(t, name+".text.golden", text.String())
		encoded, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		goldenReport(t, name+".json.golden", indented(t, encoded))
	}
}

// indented lays JSON out without changing anything in it.
func indented(t *testing.T, encoded []byte) string {
	t.Helper()
	text, err := json.MarshalIndent(json.RawMessage(encoded), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// Every phase that the mirror can be in, one that it cannot, and a head that was never seen.
func TestReportOfPhases(t *testing.T) {
	var out strings.Builder
	for _, phase := range []string{"base", "resync", "tail", "partial", "promoted", "armed", "", "x\n"} {
		for _, head := range []int64{0, 90, 101} { // behind what was applied: no lag
			r := sampleResults()["equal"]
			*r.Mirror = MirrorState{Name: "m", Phase: phase, AppliedRevision: 100, SourceHead: head, SourceHeadAt: reportNoon.Add(-time.Hour)}
			var text strings.Builder
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			from, to := strings.Index(text.String(), "  phase"), strings.Index(text.String(), "\nLOCAL ETCD")
			out.WriteString(text.String()[from:to])
		}
		out.WriteByte('\n')
	}
	goldenReport(t, "phases.golden", out.String())
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestWriteTextReturnsTheWritersError(t *testing.T) {
	want := fmt.Errorf("no space")
	for name, r := range sampleResults() {
		if err := r.WriteText(failingWriter{want}); err != want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// constants returns the values of the constants of a type in result.go.
func constants(t *testing.T, typeName string) (values []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "result.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && fmt.Sprint(spec.Type) == typeName {
			for _, v := range spec.Values {
				value, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, value)
			}
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("result.go has no constants of type %s", typeName)
	}
	return values
}

// A reason that is added has to be explained, documented and shown in a sample.
func TestEveryReasonIsExplained(t *testing.T) {
	page := documentation(t)
	sampled := map[Reason]bool{}
	for _, d := range sampleResults()["every-reason"].Differences {
		sampled[d.Reason] = true
	}
	reasons := constants(t, "Reason")
	for _, reason := range reasons {
		if _, e := explained(Reason(reason)); e.reason != Reason(reason) || e.means == "" || e.advice == "" {
			t.Errorf("reason %q has no explanation", reason)
		}
		if !sampled[Reason(reason)] {
			t.Errorf("reason %q is in no sample", reason)
		}
		if reason != "" && !strings.Contains(page, "\n| `"+reason+"` | ") {
			t.Errorf("reason %q is not documented", reason)
		}
	}
	if len(explanations) != len(reasons) {
		t.Errorf("%d explanations for %d reasons", len(explanations), len(reasons))
	}
	for _, value := range append(constants(t, "Class"), constants(t, "Mode")...) {
		if !strings.Contains(page, "`"+value+"`") {
			t.Errorf("%q is not documented", value)
		}
	}
}

func documentation(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "drcheck-result.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// jsonField is a field as its type has it and as the documentation says.
type jsonField struct {
	Type     string
	Optional bool
}

// jsonFields finds the fields that encoding/json makes of a type.
func jsonFields(t *testing.T, typ reflect.Type, path string, fields map[string]jsonField) {
	t.Helper()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			jsonFields(t, f.Type, path, fields)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			t.Errorf("%s.%s has no name in JSON", typ, f.Name)
			continue
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		kind := ""
		switch {
		case inner == reflect.TypeFor[time.Time]():
			kind = "time"
		case inner.Kind() == reflect.Struct:
			kind = "object"
			if inner != reflect.TypeFor[Result]() {
				jsonFields(t, inner, path+name+".", fields)
			}
		case inner.Kind() == reflect.Slice:
			kind = "list"
			jsonFields(t, inner.Elem(), path+name+"[].", fields)
		case inner.Kind() == reflect.String:
			kind = "text"
		case inner.Kind() == reflect.Bool:
			kind = "true or false"
		case strings.HasSuffix(f.Name, "Revision") || f.Name == "SourceHead":
			kind = "revision"
		case inner.Kind() == reflect.Int || inner.Kind() == reflect.Int64 || inner.Kind() == reflect.Float64:
			kind = "number"
		default:
			t.Errorf("%s.%s: the documentation has no word for %s", typ, f.Name, inner)
		}
		fields[path+name] = jsonField{kind, fields[path+name].Optional || strings.Contains(options, "omitempty")}
	}
}

// The documentation has each field of the JSON, and no other.
func TestTheJSONIsDocumented(t *testing.T) {
	fields := map[string]jsonField{}
	for _, typ := range []reflect.Type{reflect.TypeFor[Result](), reflect.TypeFor[madeBody](), reflect.TypeFor[failedBody]()} {
		jsonFields(t, typ, "", fields)
	}
	page := documentation(t)
	documented := map[string]jsonField{}
	inTable := false
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case strings.HasPrefix(line, "| field |"):
			inTable = true
		case inTable && !strings.HasPrefix(line, "|---"):
			name := strings.Trim(cells[1], " `")
			if _, twice := documented[name]; twice {
				t.Errorf("%s is documented twice", name)
			}
			documented[name] = jsonField{strings.TrimSpace(cells[2]), strings.Contains(strings.ToLower(cells[3]), "*optional*")}
		}
	}
	if diff := cmp.Diff(fields, documented); diff != "" {
		t.Errorf("the fields (-) are not those of docs/drcheck-result.md (+):\n%s", diff)
	}
	_, example, _ := strings.Cut(page, "```json\n")
	example, _, _ = strings.Cut(example, "```")
	encoded, err := json.Marshal(sampleResults()["promoted"])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(indented(t, encoded), example); diff != "" {
		t.Errorf("the example in docs/drcheck-result.md is not the sample (-):\n%s", diff)
	}
}
