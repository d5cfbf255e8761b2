package keyfilter

import (
	"slices"
	"strings"
)

// CoreGroup is how a rule's Groups name the core group, whose name in the API is the empty string.
const CoreGroup = "core"

// Action is what a rule or a policy does with a key. The empty string is no action: for a policy it means the documented
// default, in a rule it is an error.
type Action string

const (
	// Include mirrors the key.
	Include Action = "include"
	// Exclude leaves the key to the cluster it is in.
	Exclude Action = "exclude"
)

// Rule decides for the keys that it selects, unless an earlier rule has. Within a list of selectors one has to match, and
// every list that is given has to.
//
// A selector is an exact text or a glob: '*' is any run of characters, '?' any one, and '\' takes the next character as it
// is. Groups, resources, namespaces and names select classified objects only; Prefixes alone reach Unclassified keys.
type Rule struct {
	// Name identifies the rule in explanations and errors: letters, digits, '.', '_', '-', at most 63. Required, unique.
	Name string `json:"name"`
	// Action is Include or Exclude. Required.
	Action Action `json:"action"`
	// Reason says why, for whoever reads an explanation two years later. Required. It has no part in Filter.Hash.
	Reason string `json:"reason"`
	// Groups selects by API group. The core group is "core". ["*"] selects every group, and also the unknown group of a
	// resource that is not in the table.
	Groups []string `json:"groups,omitempty"`
	// Resources selects by plural as the API spells it ("nodes", not "minions"). It needs Groups, because a custom
	// resource may be called "pods" too.
	Resources []string `json:"resources,omitempty"`
	// Namespaces selects objects in these namespaces. A Namespace object is not in a namespace: select it by group core,
	// resource namespaces and its name.
	Namespaces []string `json:"namespaces,omitempty"`
	// Names selects by object name.
	Names []string `json:"names,omitempty"`
	// Prefixes selects by whole segments of the raw key: "/registry/foo" selects that key and all below "/registry/foo/",
	// but not "/registry/foobar". No globs. Not together with the other selectors.
	Prefixes []string `json:"prefixes,omitempty"`

	// class restricts rules of the defaults to what the selectors cannot say.
	class class
}

// class is a property of a key that only default rules select by.
type class uint8

const (
	classAny          class = iota
	classUnclassified       // Scope Unclassified
	classUnknown            // an object whose group is not known
	classAggregated         // an object in the subtree of an aggregated apiserver
)

// normalized returns the rule with sorted copies of its selectors in their shortest spelling.
func (r Rule) normalized() Rule {
	for _, list := range []*[]string{&r.Groups, &r.Resources, &r.Namespaces, &r.Names} {
		sorted := make([]string, len(*list))
		for i, s := range *list {
			p, _ := parsePattern(s)
			sorted[i] = p.source
		}
		slices.Sort(sorted)
		*list = nilIfEmpty(sorted)
	}
	prefixes := slices.Clone(r.Prefixes)
	slices.Sort(prefixes)
	r.Prefixes = nilIfEmpty(prefixes)
	return r
}

func nilIfEmpty(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
}

// sameSelectors reports whether two normalised rules select the same by the same words.
func (r *Rule) sameSelectors(o *Rule) bool {
	return slices.Equal(r.Groups, o.Groups) && slices.Equal(r.Resources, o.Resources) && slices.Equal(r.Namespaces, o.Namespaces) &&
		slices.Equal(r.Names, o.Names) && slices.Equal(r.Prefixes, o.Prefixes)
}

// compiledRule is a Rule in the form that Match walks. An index of them per resource is made by New.
type compiledRule struct {
	rule       Rule
	groups     matcher
	resources  matcher
	namespaces matcher
	names      matcher
	include    bool
}

func compileRule(r Rule) compiledRule {
	return compiledRule{
		rule: r, include: r.Action == Include,
		groups: newMatcher(patterns(r.Groups)), resources: newMatcher(patterns(r.Resources)),
		namespaces: newMatcher(patterns(r.Namespaces)), names: newMatcher(patterns(r.Names)),
	}
}

// patterns compiles selectors that were validated before.
func patterns(list []string) []pattern {
	out := make([]pattern, 0, len(list))
	for _, s := range list {
		p, _ := parsePattern(s)
		out = append(out, p)
	}
	return out
}

// underPrefix reports whether key is prefix or lies below it, by whole segments.
func underPrefix[T string | []byte](key T, prefix string) bool {
	if len(key) < len(prefix) || string(key[:len(prefix)]) != prefix {
		return false
	}
	return len(key) == len(prefix) || strings.HasSuffix(prefix, "/") || key[len(prefix)] == '/'
}

// covers reports whether every key that the normalised rule q selects is also selected by r. It may miss a case; it does
// not invent one.
func (r *Rule) covers(q *Rule, etcdPrefixes []string) bool {
	if len(r.Prefixes) > 0 {
		wanted := q.Prefixes
		if len(wanted) == 0 {
			wanted = etcdPrefixes // q selects objects under any of them
		}
		for _, w := range wanted {
			if !slices.ContainsFunc(r.Prefixes, func(p string) bool { return underPrefix(w, p) }) {
				return false
			}
		}
		return true
	}
	if len(q.Prefixes) > 0 {
		return false // q may reach unclassified keys, which r does not
	}
	return listCovers(r.Groups, q.Groups, true) && listCovers(r.Resources, q.Resources, true) &&
		listCovers(r.Namespaces, q.Namespaces, false) && listCovers(r.Names, q.Names, true)
}

// listCovers compares one selector. Not selecting covers everything, and so does "*" except for namespaces, which not
// every object has: always says which.
func listCovers(r, q []string, always bool) bool {
	if len(r) == 0 || always && slices.Contains(r, "*") {
		return true
	}
	if len(q) == 0 {
		return false
	}
	rp, qp := patterns(r), patterns(q)
	for i := range qp {
		if !slices.ContainsFunc(rp, func(p pattern) bool { return p.covers(&qp[i]) }) {
			return false
		}
	}
	return true
}
