package keyfilter

import "slices"

// Explanation is a decision with its grounds.
type Explanation struct {
	// Include is the decision, the same that Match returns.
	Include bool
	// Rule is the name of the rule that decided. Names with a slash are the package's own: "fixed/..." cannot be overruled,
	// "default/..." and "policy/..." can.
	Rule string
	// Reason is the rule's reason.
	Reason string
	// Attention is set if the key is excluded for want of knowledge: it is Unclassified, or of an unknown resource, or of
	// an aggregated apiserver's subtree. A report should list such keys, since user data may be among them.
	Attention bool
	// Key is what the grammar makes of the key.
	Key Key
}

// Explain decides as Match does and says why. It allocates.
func (f *Filter) Explain(key []byte) Explanation {
	var p parts
	prefix := f.prefixes[max(f.under(key), 0)]
	p.scan(prefix, key)
	r := f.decide(key, &p)
	return Explanation{
		Include: r.include, Rule: r.rule.Name, Reason: r.rule.Reason,
		Attention: !r.include && r.rule.class != classAny,
		Key:       p.key(prefix, key),
	}
}

// Rules returns all rules in the order in which they are asked: the fixed ones, the user's, the defaults. The result is a
// copy in normal form.
func (f *Filter) Rules() []Rule {
	rules := make([]Rule, 0, len(f.fixed)+len(f.rules))
	for _, list := range [][]compiledRule{f.fixed, f.rules} {
		for i := range list {
			r := list[i].rule
			for _, s := range []*[]string{&r.Groups, &r.Resources, &r.Namespaces, &r.Names, &r.Prefixes} {
				*s = slices.Clone(*s)
			}
			rules = append(rules, r)
		}
	}
	return rules
}

// Prefixes returns the etcd prefixes that the filter knows, each with both slashes, the longest first.
func (f *Filter) Prefixes() []string { return slices.Clone(f.prefixes) }
