package keyfilter

import (
	"encoding/csv"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
)

// This file is the oracle: the grammar and the walk over the rules written a second time, as plainly as possible, from the
// layout table in testdata instead of the one in resources.go, and with apimachinery's own name checks and regexp instead
// of the package's.

type layoutRow struct {
	pattern, group, resource, scope, writer, mirror, why string
}

var loadLayout = sync.OnceValue(func() []layoutRow {
	f, err := os.Open("testdata/key-layout.tsv")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, 7
	records, err := r.ReadAll()
	if err != nil {
		panic(err)
	}
	var rows []layoutRow
	for _, c := range records[1:] {
		rows = append(rows, layoutRow{c[0], c[1], c[2], c[3], c[4], c[5], c[6]})
	}
	return rows
})

// refResource is a built-in resource as the layout table has it.
type refResource struct {
	group, resource string
	namespaced      bool
}

// refTable maps the segment to the resource, for the rows that are built-in API objects.
var refTable = sync.OnceValue(func() map[string]refResource {
	table := map[string]refResource{}
	for _, row := range loadLayout() {
		seg, ok := strings.CutPrefix(row.pattern, "/registry/")
		if !ok || strings.HasPrefix(seg, "<") || row.scope == "Internal" {
			continue
		}
		seg, _, _ = strings.Cut(seg, "/<")
		group, _, _ := strings.Cut(row.group, " ")
		if row.resource == "events" {
			group = "" // one storage for two groups; the core group's name is used
		}
		table[seg] = refResource{group, row.resource, row.scope == "Namespaced"}
	}
	return table
})

var refOpenShift = map[string]refResource{
	"oauth/accesstokens":         {"oauth.openshift.io", "oauthaccesstokens", false},
	"oauth/authorizetokens":      {"oauth.openshift.io", "oauthauthorizetokens", false},
	"oauth/clients":              {"oauth.openshift.io", "oauthclients", false},
	"oauth/clientauthorizations": {"oauth.openshift.io", "oauthclientauthorizations", false},
	"useridentities":             {"user.openshift.io", "identities", false},
}

var refBadChar = regexp.MustCompile(`[\x00-\x1f\x7f%]`)

// refParse returns the Key without its Reason.
func refParse(prefix, key string) Key {
	if prefix == "" {
		prefix = "/registry"
	}
	prefix = path.Join("/", prefix)
	if prefix != "/" {
		prefix += "/"
	}
	if key == "compact_rev_key" {
		return Key{ResourcePrefix: key, Scope: Internal}
	}
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok {
		return Key{Scope: Outside}
	}
	none := Key{Prefix: prefix}
	seg := strings.Split(rest, "/")
	for _, s := range seg {
		if s == "" || s == "." || s == ".." {
			return none
		}
	}
	if refBadChar.MatchString(rest) || !utf8.ValidString(rest) || len(seg) < 2 {
		return none
	}
	object := func(n int, r refResource, known bool) Key {
		k := Key{Prefix: prefix, ResourcePrefix: strings.Join(seg[:n], "/"), Group: r.group, GroupKnown: known, Resource: r.resource}
		switch tail := seg[n:]; {
		case len(tail) == 1 && !r.namespaced:
			k.Scope, k.Name = Cluster, tail[0]
		case len(tail) == 2 && r.namespaced && len(validation.IsDNS1123Label(tail[0])) == 0:
			k.Scope, k.Namespace, k.Name = Namespaced, tail[0], tail[1]
		default:
			return none
		}
		return k
	}
	first, two := seg[0], seg[0]+"/"+seg[1]
	if prefix == "/openshift.io/" {
		if r, ok := refOpenShift[first]; ok {
			return object(1, r, true)
		}
		if r, ok := refOpenShift[two]; ok {
			return object(2, r, true)
		}
		if slices.Contains([]string{"oauth", "authorization", "registry"}, first) {
			return none
		}
	}
	switch first {
	case "masterleases", "peerserverleases", "ranges":
		return Key{Prefix: prefix, ResourcePrefix: first, Resource: first, Scope: Internal, Name: strings.Join(seg[1:], "/")}
	}
	if r, ok := refTable()[two]; ok {
		return object(2, r, true)
	}
	if r, ok := refTable()[first]; ok {
		return object(1, r, true)
	}
	if first == "services" {
		return none
	}
	isPlural := func(s string) bool { return len(validation.IsDNS1035Label(s)) == 0 }
	isGroup := func(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }
	builtinUnder := func(seg string) bool {
		for s, r := range refTable() {
			if s != seg && (!strings.Contains(seg, "/") && r.resource == seg && !strings.Contains(s, ".") ||
				r.group != "" && r.group+"/"+r.resource == seg) {
				return true
			}
		}
		return false
	}
	if !strings.Contains(first, ".") {
		if !isPlural(first) || builtinUnder(first) {
			return none
		}
		return object(1, refResource{"", first, len(seg) == 3}, false)
	}
	if !isGroup(first) {
		return none
	}
	if strings.Contains(seg[1], ".") {
		if len(seg) < 4 || !isGroup(seg[1]) || !isPlural(seg[2]) {
			return none
		}
		k := object(3, refResource{seg[1], seg[2], len(seg) == 5}, true)
		if k.Scope != Unclassified {
			k.Subtree = first
		}
		return k
	}
	if !isPlural(seg[1]) || builtinUnder(two) {
		return none
	}
	return object(2, refResource{first, seg[1], len(seg) == 4}, true)
}

var refGlobs sync.Map // compiled ones, since compiling is most of the oracle's time

func refGlob(glob string) *regexp.Regexp {
	re, ok := refGlobs.Load(glob)
	if !ok {
		re, _ = refGlobs.LoadOrStore(glob, globExpression(glob))
	}
	return re.(*regexp.Regexp)
}

// globExpression is a glob as a regular expression.
func globExpression(glob string) *regexp.Regexp {
	var b strings.Builder
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		case '\\':
			i++
			fallthrough
		default:
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	return regexp.MustCompile(`(?s)\A` + b.String() + `\z`)
}

// refDecide walks the rules in the order in which a reader of the configuration would.
func refDecide(f *Filter, key string) (rule string, include bool) {
	prefixes := f.Prefixes()
	best := prefixes[0]
	for _, p := range prefixes {
		if strings.HasPrefix(key, p) && (!strings.HasPrefix(key, best) || len(p) > len(best)) {
			best = p
		}
	}
	k := refParse(best, key)
	if k.Scope == Outside {
		return "fixed/outside-prefix", false
	}
	if k.Scope == Internal {
		if k.ResourcePrefix == "compact_rev_key" {
			return "fixed/compact-revision", false
		}
		return "fixed/" + k.ResourcePrefix, false
	}
	any := func(list []string, value string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(g string) bool { return refGlob(g).MatchString(value) })
	}
	for _, r := range f.Rules() {
		if strings.HasPrefix(r.Name, "fixed/") {
			continue
		}
		if len(r.Prefixes) > 0 {
			if slices.ContainsFunc(r.Prefixes, func(p string) bool {
				return key == p || strings.HasPrefix(key, strings.TrimSuffix(p, "/")+"/")
			}) {
				return r.Name, r.Action == Include
			}
			continue
		}
		group := k.Group
		switch {
		case k.GroupKnown && group == "":
			group = "core"
		case !k.GroupKnown && len(r.Groups) > 0 && !slices.Contains(r.Groups, "*"):
			continue
		case !k.GroupKnown:
			group = "anything"
		}
		var ok bool
		switch r.class {
		case classUnclassified:
			ok = k.Scope == Unclassified
		case classUnknown:
			ok = k.Scope != Unclassified && !k.GroupKnown
		case classAggregated:
			ok = k.Subtree != ""
		default:
			ok = k.Scope != Unclassified && (any(r.Groups, group) || !k.GroupKnown) && any(r.Resources, k.Resource) && any(r.Names, k.Name) &&
				(len(r.Namespaces) == 0 || k.Scope == Namespaced && any(r.Namespaces, k.Namespace))
		}
		if ok {
			return r.Name, r.Action == Include
		}
	}
	return "no rule", false
}

// mustNew is New for configurations that are meant to be valid.
func mustNew(t testing.TB, cfg Config) *Filter {
	t.Helper()
	f, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return f
}

// checkAgainstReference compares Match and Explain with each other and with the oracle.
func checkAgainstReference(t testing.TB, f *Filter, key string) {
	t.Helper()
	e := f.Explain([]byte(key))
	if got := f.Match([]byte(key)); got != e.Include {
		t.Fatalf("key %q: Match %v, Explain %v by %s", key, got, e.Include, e.Rule)
	}
	if rule, include := refDecide(f, key); rule != e.Rule || include != e.Include {
		t.Fatalf("key %q: %v by %s, want %v by %s", key, e.Include, e.Rule, include, rule)
	}
}
