package keyfilter

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

func indexed(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// validateNamespaceList checks Config.ExcludedNamespaces.
func validateNamespaceList(list []string) []error {
	v := ruleCheck{field: ""}
	v.list("excludedNamespaces", list, checkNamespace)
	return v.errs
}

// validateRules checks the user's rules one by one, and then each against those before it: a rule that repeats another one
// or can never be reached is a mistake that would otherwise show at the failover.
func validateRules(rules []Rule, etcdPrefixes []string) []error {
	var errs []error
	seen := make([]Rule, 0, len(rules)) // the valid ones, normalised
	for i := range rules {
		v := ruleCheck{field: indexed("rules", i), rule: rules[i].Name, etcdPrefixes: etcdPrefixes}
		v.check(&rules[i])
		norm := rules[i].normalized()
		for j := range rules[:i] {
			if rules[j].Name == rules[i].Name && rules[i].Name != "" {
				v.fail("name", rules[i].Name, fmt.Sprintf("is also the name of rules[%d]", j), "give every rule a name of its own")
				break
			}
		}
		if len(v.errs) > 0 {
			errs = append(errs, v.errs...)
			continue
		}
		for j := range seen {
			s := &seen[j]
			switch {
			case s.sameSelectors(&norm) && s.Action != norm.Action:
				v.fail("", "", fmt.Sprintf("selects the same as rule %q, which says %s while this one says %s", s.Name, s.Action, norm.Action), "keep one of them")
			case s.sameSelectors(&norm):
				v.fail("", "", fmt.Sprintf("repeats rule %q", s.Name), "remove one of them")
			case s.covers(&norm, etcdPrefixes):
				v.fail("", "", fmt.Sprintf("can never match: rule %q before it selects all that it selects", s.Name), "put the narrower rule first, or remove it")
			default:
				continue
			}
			break
		}
		errs = append(errs, v.errs...)
		seen = append(seen, norm)
	}
	return errs
}

// ruleCheck collects what is wrong with one rule.
type ruleCheck struct {
	field        string // "rules[2]"
	rule         string
	etcdPrefixes []string
	errs         []error
}

func (v *ruleCheck) fail(field, value, problem, hint string) {
	if v.field != "" && field != "" {
		field = v.field + "." + field
	} else if field == "" {
		field = v.field
	}
	v.errs = append(v.errs, &ConfigError{Rule: v.rule, Field: field, Value: value, Problem: problem, Hint: hint})
}

func (v *ruleCheck) check(r *Rule) {
	switch {
	case r.Name == "":
		v.fail("name", "", "is missing", "name the rule: explanations and errors refer to it")
	case !validRuleName(r.Name):
		v.fail("name", r.Name, "is not a rule name", "use up to 63 letters, digits, '.', '_' and '-'")
	}
	switch {
	case r.Action == "":
		v.fail("action", "", "is missing", "use include or exclude")
	case r.Action != Include && r.Action != Exclude:
		v.fail("action", string(r.Action), "is not an action", "use include or exclude")
	}
	if strings.TrimSpace(r.Reason) == "" || !utf8.ValidString(r.Reason) {
		v.fail("reason", "", "is missing or not UTF-8", "say why, for whoever reads the explanation")
	}
	selectors := len(r.Groups) + len(r.Resources) + len(r.Namespaces) + len(r.Names)
	switch {
	case selectors+len(r.Prefixes) == 0:
		v.fail("", "", "selects nothing", `give groups, namespaces, names or prefixes; groups: ["*"] selects every object`)
		return
	case selectors > 0 && len(r.Prefixes) > 0:
		v.fail("prefixes", "", "cannot be combined with groups, resources, namespaces or names", "make two rules of it")
		return
	case len(r.Resources) > 0 && len(r.Groups) == 0:
		v.fail("resources", r.Resources[0], "is without groups, and several groups may have such a resource", "add "+groupHint(r.Resources[0]))
		return
	}
	before := len(v.errs)
	v.list("groups", r.Groups, checkGroup)
	v.list("resources", r.Resources, checkResource)
	v.list("namespaces", r.Namespaces, checkNamespace)
	v.list("names", r.Names, checkName)
	v.prefixes(r.Prefixes)
	if len(v.errs) == before {
		v.possible(r)
	}
}

// list checks every element of one selector, and that none is listed twice.
func (v *ruleCheck) list(field string, list []string, check func(pattern) (problem, hint string)) {
	seen := map[string]bool{}
	for i, s := range list {
		p, problem := parsePattern(s)
		hint := `use an exact name, or a glob of '*' and '?', with '\' in front of a literal one`
		switch {
		case problem != "":
		case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
			problem = "has a control character or is not UTF-8"
		case seen[p.source]:
			problem, hint = "is listed twice", "remove one"
		default:
			problem, hint = check(p)
		}
		if problem != "" {
			v.fail(indexed(field, i), s, problem, hint)
		}
		seen[p.source] = true
	}
}

// literals calls ok for the literal texts of a pattern, and reports whether all pass.
func (p *pattern) literals(ok func(c byte) bool) bool {
	for _, t := range p.tokens {
		for i := 0; i < len(t.lit); i++ {
			if !ok(t.lit[i]) {
				return false
			}
		}
	}
	return true
}

func checkNamespace(p pattern) (problem, hint string) {
	if p.exact && !isLabel(p.text, false) || !p.literals(labelByte) {
		return "can never match: it is not a namespace's name", "namespaces are lower-case letters, digits and '-', at most 63"
	}
	return "", ""
}

func checkResource(p pattern) (problem, hint string) {
	if p.exact && !isLabel(p.text, true) || !p.literals(labelByte) {
		return "can never match: it is not the plural of a resource", "write the plural in lower case, without its group"
	}
	return "", ""
}

func checkGroup(p pattern) (problem, hint string) {
	switch {
	case p.exact && builtinGroups[p.text]:
		return "", ""
	case p.exact && !strings.Contains(p.text, "."):
		return "can never match: no such built-in group has storage of its own, and the group of a custom resource has a dot",
			`write the full group, "` + CoreGroup + `" for the core group`
	case p.exact && !isSubdomain(p.text), !p.literals(func(c byte) bool { return labelByte(c) || c == '.' }):
		return "can never match: it is not an API group", "groups are lower-case DNS names such as apps or stable.example.com"
	}
	return "", ""
}

func checkName(p pattern) (problem, hint string) {
	if p.exact && (p.text == "." || p.text == "..") || !p.literals(func(c byte) bool { return c != '/' && c != '%' }) {
		return "can never match: no object has such a name", "names have no '/' and no '%', and are not '.' or '..'"
	}
	return "", ""
}

// prefixes checks raw prefixes: inside of an etcd prefix, and not inside of what is never mirrored anyway.
func (v *ruleCheck) prefixes(list []string) {
	for i, s := range list {
		field := indexed("prefixes", i)
		inside := slices.ContainsFunc(v.etcdPrefixes, func(p string) bool { return underPrefix(s, p) || s+"/" == p })
		switch {
		case s == "":
			v.fail(field, "", "is empty", "write the beginning of the key, such as /registry/foo/")
		case !utf8.ValidString(s):
			v.fail(field, s, "is not UTF-8", "write the beginning of the key, such as /registry/foo/")
		case slices.Contains(list[:i], s):
			v.fail(field, s, "is listed twice", "remove one")
		case !inside:
			v.fail(field, s, "can never match: it is not under an etcd prefix of the filter ("+strings.Join(v.etcdPrefixes, ", ")+")", "keys outside are never mirrored")
		case v.internal(s):
			v.fail(field, s, "can never match: the keys below it are internal to one apiserver and never mirrored", "remove it")
		}
	}
}

func (v *ruleCheck) internal(s string) bool {
	for _, p := range v.etcdPrefixes {
		for _, dir := range internalSegments {
			if strings.HasPrefix(s, p+dir+"/") || s == p+dir {
				return true
			}
		}
	}
	return false
}

// possible checks the selectors against the table: every group listed needs a resource that it can have, every resource a
// group, and with namespaces one that is namespaced.
func (v *ruleCheck) possible(r *Rule) {
	if len(r.Groups) == 0 {
		return
	}
	groups, resources := patterns(r.Groups), patterns(r.Resources)
	if len(resources) == 0 {
		resources = patterns([]string{"*"})
	}
	namespaced, blamed := len(r.Namespaces) > 0, false
	for i := range r.Resources {
		if !slices.ContainsFunc(groups, func(p pattern) bool { return pairPossible(&p, &resources[i], namespaced) }) {
			v.impossibleResource(indexed("resources", i), r.Resources[i], r)
			blamed = true
		}
	}
	for i := range groups {
		if !blamed && !slices.ContainsFunc(resources, func(p pattern) bool { return pairPossible(&groups[i], &p, namespaced) }) {
			v.fail(indexed("groups", i), r.Groups[i], "can never match with the other selectors of the rule", "check the resources, and whether they have a namespace")
		}
	}
}

// impossibleResource says which of the other selectors a resource does not go with.
func (v *ruleCheck) impossibleResource(field, value string, r *Rule) {
	clusterScoped := func(g string) bool { e := builtinByPath[g+"/"+value]; return e != nil && !e.namespaced }
	if len(r.Namespaces) > 0 && slices.ContainsFunc(r.Groups, clusterScoped) {
		v.fail(field, value, "can never match: it is cluster-scoped, and the rule selects by namespaces", "select by names instead of namespaces")
		return
	}
	v.fail(field, value, "can never match with the other selectors of the rule", "it is in "+groupHint(value))
}

// pairPossible reports whether a key can have a group and a resource that match. Custom groups can have anything.
func pairPossible(group, res *pattern, namespaced bool) bool {
	if !group.exact || !builtinGroups[group.text] {
		return true
	}
	for i := range builtin {
		e := &builtin[i]
		if selectorGroup(e.group) == group.text && res.match([]byte(e.resource)) && (e.namespaced || !namespaced) {
			return true
		}
	}
	// A built-in group with a dot in its name may have custom resources as well (the project's own CRDs do).
	return strings.Contains(group.text, ".") && (!res.exact || builtinByPath[group.text+"/"+res.text] == nil)
}

// groupHint names the groups that have a resource, as YAML.
func groupHint(resource string) string {
	var groups []string
	for i := range builtin {
		if builtin[i].resource == resource || builtin[i].segment == resource {
			hint := "groups: [" + selectorGroup(builtin[i].group) + "]"
			if builtin[i].resource != resource {
				hint += ", where it is called " + builtin[i].resource
			}
			groups = append(groups, hint)
		}
	}
	if len(groups) == 0 {
		return `the groups that have it, or groups: ["*"]`
	}
	return strings.Join(groups, " or ")
}

func validRuleName(s string) bool {
	if len(s) > 63 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !labelByte(c) && (c < 'A' || c > 'Z') && c != '.' && c != '_' {
			return false
		}
	}
	return true
}
