package keyfilter

import (
	"cmp"
	"slices"
	"strings"
)

// busiest are the resources that a cluster writes most of the time, the busiest first: heartbeats every few seconds, then
// what comes with each start of a container.
var busiest = []string{"leases", "events", "masterleases", "minions", "pods", "endpointslices", "services/endpoints", "jobs"}

// Skips returns prefixes of keys below prefix under which the filter keeps nothing at all: for every key that begins with
// one of them Match is false, malformed keys included. A reader of an etcd need neither list nor watch them. They are the
// resources that are dropped as a whole, such as "/registry/leases/", and the custom resources and raw prefixes that rules
// exclude. prefix is where the reader begins, such as "/registry/"; "" is the whole etcd.
//
// Each ends in "/", begins with prefix, and none contains another. The busiest come first (leases, events, masterleases,
// nodes, pods, endpoints, jobs) and the others follow in the order of their bytes, so that a reader that can leave out only
// a few takes the first ones.
//
// The list may lack a prefix; it has none too many. A resource of which a rule might keep a single key is not in it. If
// unclassified keys are included, by policy or by a rule's raw prefix, they may lie below any resource, and only what an
// earlier rule excludes by its raw prefix can be skipped. To have a whole group in the list, exclude it by its raw prefix,
// too: a rule for the group says nothing about an aggregated apiserver that keeps other groups in a subtree of that name.
func (f *Filter) Skips(prefix string) []string {
	ranks := map[string]int{}
	for _, s := range f.skipCandidates() {
		if strings.HasPrefix(s, prefix) && f.keepsNothing(s) {
			ranks[s] = f.rank(s)
		}
	}
	var skips []string
	for s := range ranks {
		if !containedInAnother(s, ranks) {
			skips = append(skips, s)
		}
	}
	slices.SortFunc(skips, func(a, b string) int { return cmp.Or(cmp.Compare(ranks[a], ranks[b]), cmp.Compare(a, b)) })
	return skips
}

// containedInAnother reports whether s lies below another prefix of the set.
func containedInAnother(s string, set map[string]int) bool {
	for i := range len(s) - 1 {
		if _, ok := set[s[:i+1]]; ok {
			return true
		}
	}
	return false
}

// rank is the place among the busiest of what s contains, or lies in.
func (f *Filter) rank(s string) int {
	for i, segment := range busiest {
		for _, p := range f.prefixes {
			if comparable(s, p+segment+"/") {
				return i
			}
		}
	}
	return len(busiest)
}

// comparable reports whether keys exist that begin with a and with b: one of them begins with the other.
func comparable(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

// skipCandidates are the prefixes that are worth a question, some of them twice.
func (f *Filter) skipCandidates() []string {
	var list []string
	for _, p := range f.prefixes {
		for _, segment := range slices.Concat(internalSegments, []string{"services"}) {
			list = append(list, p+segment+"/")
		}
		for i := range builtin {
			if e := &builtin[i]; !e.openShift || p == OpenShiftPrefix+"/" {
				list = append(list, p+e.segment+"/")
			}
		}
		for i := range f.rules {
			if f.rules[i].include {
				continue
			}
			r := &f.rules[i].rule
			for _, group := range patterns(r.Groups) {
				if !group.exact || !strings.Contains(group.text, ".") {
					continue
				}
				list = append(list, p+group.text+"/")
				for _, res := range patterns(r.Resources) {
					if res.exact && builtinByPath[group.text+"/"+res.text] == nil { // those have a path of their own
						list = append(list, p+group.text+"/"+res.text+"/")
					}
				}
			}
		}
	}
	for i := range f.rules {
		if r := &f.rules[i]; !r.include {
			for _, q := range r.rule.Prefixes {
				list = append(list, strings.TrimSuffix(q, "/")+"/")
			}
		}
	}
	return list
}

// below is a set of keys: those that begin with prefix and are of one kind.
type below struct {
	prefix string
	kind   class // classAny: of a resource whose group is known
	// Of objects. Empty is any.
	group, resource string
	scope           Scope // Namespaced or Cluster for all of them; anything else is any
}

// keepsNothing reports whether every key that begins with s is dropped. It may say no where the answer is yes, never the
// other way round: it goes through all kinds of keys that the grammar can see below s, and perhaps some that it cannot.
func (f *Filter) keepsNothing(s string) bool {
	if !strings.HasSuffix(s, "/") {
		return false
	}
	etcdPrefix := ""
	for _, p := range f.prefixes { // the longest first
		switch {
		case p != s && strings.HasPrefix(p, s):
			return false // another tree begins below s
		case etcdPrefix == "" && strings.HasPrefix(s, p):
			etcdPrefix = p
		}
	}
	if etcdPrefix == "" {
		return false
	}
	// Wherever keys are placed there are malformed ones, too.
	if !f.drops(&below{prefix: s, kind: classUnclassified}) {
		return false
	}
	for i := range builtin {
		e := &builtin[i]
		if comparable(s, etcdPrefix+e.segment+"/") &&
			!f.drops(&below{prefix: s, group: selectorGroup(e.group), resource: e.resource, scope: e.scope()}) {
			return false
		}
	}
	for _, b := range othersBelow(s, etcdPrefix) {
		if !f.drops(&b) {
			return false
		}
	}
	return true // internal keys are left, which are never kept
}

// othersBelow are the kinds of objects below s that are not in the table. s ends in a slash.
func othersBelow(s, etcdPrefix string) []below {
	if s == etcdPrefix {
		return []below{{prefix: s}, {prefix: s, kind: classAggregated}, {prefix: s, kind: classUnknown}}
	}
	segments := strings.Split(strings.TrimSuffix(s[len(etcdPrefix):], "/"), "/")
	first, second := segments[0], ""
	if len(segments) > 1 {
		second = segments[1]
	}
	path := first + "/" + second
	switch {
	case !strings.Contains(first, "."):
		if kubernetesSegments[first] != nil || storedElsewhere[first] || first == "services" || slices.Contains(internalSegments, first) ||
			etcdPrefix == OpenShiftPrefix+"/" && (openShiftSegments[first] != nil || openShiftSegments[path] != nil) {
			return nil // the grammar never takes it for an unknown resource
		}
		return []below{{prefix: s, kind: classUnknown, resource: first}}
	case second == "":
		return []below{{prefix: s, group: first}, {prefix: s, kind: classAggregated}}
	case !strings.Contains(second, "."):
		if strings.HasSuffix(first, string(builtinGroupSuffix)) && kubernetesSegments[path] != nil {
			return nil
		}
		return []below{{prefix: s, group: first, resource: second}}
	}
	b := below{prefix: s, kind: classAggregated, group: second}
	if len(segments) > 2 {
		b.resource = segments[2]
	}
	return []below{b}
}

// drops reports whether a rule that excludes all of b comes before any that might include some of it.
func (f *Filter) drops(b *below) bool {
	for i := range f.rules {
		r := &f.rules[i]
		switch some, all := r.selects(b); {
		case r.include && some:
			return false
		case !r.include && all:
			return true
		}
	}
	return false
}

// selects reports whether the rule might select some key of b, and whether it selects all of them for sure.
func (r *compiledRule) selects(b *below) (some, all bool) {
	if len(r.rule.Prefixes) > 0 {
		for _, q := range r.rule.Prefixes {
			some = some || comparable(q, b.prefix)
			all = all || underPrefix(b.prefix, q)
		}
		return some, all
	}
	if r.rule.class != classAny {
		return r.rule.class == b.kind, r.rule.class == b.kind
	}
	if b.kind == classUnclassified || b.kind == classUnknown && !r.groups.free() || b.scope == Cluster && r.namespaces.set {
		return false, false
	}
	all = r.names.free() && (!r.namespaces.set || r.namespaces.all && b.scope == Namespaced)
	for _, m := range []struct {
		matcher *matcher
		text    string
	}{{&r.groups, b.group}, {&r.resources, b.resource}} {
		switch {
		case m.matcher.free():
		case m.text == "":
			all = false
		case !m.matcher.match([]byte(m.text)):
			return false, false
		}
	}
	return true, all
}
