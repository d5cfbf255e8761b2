package keyfilter

import (
	"cmp"
	"errors"
	"slices"
)

// Config says what a Filter keeps. The zero value is a filter by the package's defaults.
type Config struct {
	// Prefixes are the --etcd-prefix values of the apiservers that use this etcd, with or without slashes at their ends.
	// None is DefaultPrefix. The longest that fits a key is its prefix, so the prefix of an aggregated apiserver may lie
	// inside of another one. Keys outside of all of them are never mirrored.
	Prefixes []string `json:"prefixes,omitempty"`
	// ExcludedNamespaces are names or globs of namespaces that stay with their cluster, with everything in them and their
	// Namespace objects. nil is DefaultExcludedNamespaces; empty but not nil is none at all.
	ExcludedNamespaces []string `json:"excludedNamespaces,omitzero"`
	// Policy decides where the defaults have a choice.
	Policy Policy `json:"policy,omitzero"`
	// Rules come before the defaults; the first that matches decides. An Include rule opens the way for all that it
	// selects, cluster-local state included: prefer to narrow it to resources.
	Rules []Rule `json:"rules,omitempty"`
}

// Filter decides which keys are mirrored. It is immutable and safe for concurrent use.
type Filter struct {
	prefixes []string       // normalised, longest first
	fixed    []compiledRule // outside, then the internal kinds
	rules    []compiledRule // user, defaults, policies, final; the last one matches every object
	hash     string

	// Decision lists, each a subsequence of rules: of those that can still match when group and resource are known.
	byEntry      [][]candidate          // by resource.id
	byGroup      map[string][]candidate // custom resources of the groups that some rule names exactly
	otherGroups  []candidate            // custom resources of all other groups
	unknown      []candidate            // resources whose group is not known
	unclassified []candidate

	whole [][]bool // by prefix and resource.id: every key below the resource's first segment is dropped
}

// candidate is a rule in a decision list, with what is left to check.
type candidate struct {
	*compiledRule
	checkGroup, checkResource bool
}

// New validates cfg, takes a copy, and compiles it. The error joins a *ConfigError per problem.
func New(cfg Config) (*Filter, error) {
	prefixes, errs := validatePrefixes(cfg.Prefixes)
	errs = append(errs, validateNamespaceList(cfg.ExcludedNamespaces)...)
	errs = append(errs, cfg.Policy.validate()...)
	if len(errs) == 0 {
		errs = validateRules(cfg.Rules, prefixes)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	namespaces := cfg.ExcludedNamespaces
	if namespaces == nil {
		namespaces = DefaultExcludedNamespaces()
	}
	f := &Filter{prefixes: prefixes}
	for _, r := range fixedRules() {
		f.fixed = append(f.fixed, compileRule(r.normalized()))
	}
	for _, r := range cfg.Rules {
		r.class = classAny // a rule copied from Defaults says no more than its fields do
		f.rules = append(f.rules, compileRule(r.normalized()))
	}
	for _, r := range defaultRules(namespaces, &cfg.Policy) {
		f.rules = append(f.rules, compileRule(r.normalized()))
	}
	f.compile()
	f.hash = f.computeHash()
	return f, nil
}

// validatePrefixes normalises the prefixes and sorts them, the longest first, as decide needs them.
func validatePrefixes(list []string) (out []string, errs []error) {
	if len(list) == 0 {
		return []string{DefaultPrefix + "/"}, nil
	}
	for i, s := range list {
		norm, err := normalizePrefix(s)
		var ce *ConfigError
		switch {
		case s == "":
			errs = append(errs, &ConfigError{Field: indexed("prefixes", i), Problem: "is empty", Hint: `write "/" for an apiserver with an empty prefix`})
		case errors.As(err, &ce):
			ce.Field = indexed("prefixes", i)
			errs = append(errs, ce)
		case slices.Contains(out, norm):
			errs = append(errs, &ConfigError{Field: indexed("prefixes", i), Value: s, Problem: "is listed twice", Hint: "remove one"})
		default:
			out = append(out, norm)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	return out, errs
}

// compile makes the decision lists.
func (f *Filter) compile() {
	f.byEntry = make([][]candidate, len(builtin))
	for i := range builtin {
		e := &builtin[i]
		group, res := []byte(selectorGroup(e.group)), []byte(e.resource)
		for j := range f.rules {
			r := &f.rules[j]
			if r.rule.class == classAny && r.groups.match(group) && r.resources.match(res) && (e.namespaced || !r.namespaces.set) {
				f.byEntry[i] = append(f.byEntry[i], candidate{compiledRule: r})
				if r.decidesAll() {
					break
				}
			}
		}
	}
	f.byGroup = make(map[string][]candidate)
	for i := range f.rules {
		for _, g := range patterns(f.rules[i].rule.Groups) {
			if g.exact {
				f.byGroup[g.text] = nil
			}
		}
	}
	for i := range f.rules {
		r := &f.rules[i]
		switch r.rule.class {
		case classUnclassified:
			f.unclassified = append(f.unclassified, candidate{compiledRule: r})
			continue
		case classUnknown:
			f.unknown = append(f.unknown, candidate{compiledRule: r})
			continue
		}
		if len(r.rule.Prefixes) > 0 {
			f.unclassified = append(f.unclassified, candidate{compiledRule: r})
		}
		if r.groups.free() && r.rule.class == classAny {
			f.unknown = append(f.unknown, candidate{compiledRule: r, checkResource: !r.resources.free()})
		}
		for g := range f.byGroup {
			if r.groups.match([]byte(g)) {
				f.byGroup[g] = append(f.byGroup[g], candidate{compiledRule: r, checkResource: !r.resources.free()})
			}
		}
		if r.groups.free() || len(r.groups.globs) > 0 {
			f.otherGroups = append(f.otherGroups, candidate{compiledRule: r, checkGroup: !r.groups.free(), checkResource: !r.resources.free()})
		}
	}
	for _, p := range f.prefixes {
		whole := make([]bool, len(builtin))
		for path, e := range kubernetesSegments {
			whole[e.id] = f.keepsNothing(p + path + "/")
		}
		f.whole = append(f.whole, whole)
	}
}

// decidesAll reports whether the rule matches every object of the resources it selects, so that no later rule is asked.
func (r *compiledRule) decidesAll() bool {
	return !r.namespaces.set && r.names.free() && len(r.rule.Prefixes) == 0
}

// under returns the index of the prefix that the key lies under, -1 if there is none.
func (f *Filter) under(key []byte) int {
	for i, prefix := range f.prefixes {
		if len(key) >= len(prefix) && string(key[:len(prefix)]) == prefix {
			return i
		}
	}
	return -1
}

// decide finds the first rule that matches a key, which was scanned into p.
func (f *Filter) decide(key []byte, p *parts) *compiledRule {
	var list []candidate
	switch {
	case p.scope == Outside:
		return &f.fixed[0]
	case p.scope == Internal:
		return &f.fixed[1+p.internal]
	case p.scope == Unclassified:
		list = f.unclassified
	case p.entry != nil:
		list = f.byEntry[p.entry.id]
	case len(p.group) == 0:
		list = f.unknown
	default:
		var ok bool
		if list, ok = f.byGroup[string(p.group)]; !ok {
			list = f.otherGroups
		}
	}
	last := len(list) - 1 // matches whatever gets here
	for i := 0; i < last; i++ {
		if c := &list[i]; c.matches(key, p) {
			return c.compiledRule
		}
	}
	return list[last].compiledRule
}

// matches checks what the choice of the decision list has not.
func (c *candidate) matches(key []byte, p *parts) bool {
	if c.checkGroup && !c.groups.match(p.group) || c.checkResource && !c.resources.match(p.resource) {
		return false
	}
	if c.rule.class == classAggregated && p.subLen == 0 {
		return false
	}
	if !c.namespaces.match(p.ns) || !c.names.match(p.name) {
		return false
	}
	if len(c.rule.Prefixes) == 0 {
		return true
	}
	for _, prefix := range c.rule.Prefixes {
		if underPrefix(key, prefix) {
			return true
		}
	}
	return false
}
