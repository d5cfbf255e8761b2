package encryption

import (
	"errors"
	"fmt"
	"slices"
)

// How a cluster gets from one configuration to another without an unreadable value: every apiserver first has to read what any will write. And the check that a plan does it.

// specsOf are the specs of tables, with what none of them covers.
func specsOf(tables ...*table) []spec {
	all := []spec{}
	for _, t := range tables {
		for _, s := range t.specs {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	if !slices.Contains(all, everything) {
		all = append(all, everything)
	}
	slices.SortStableFunc(all, func(a, b spec) int { return class(a) - class(b) })
	return all
}

// sameTable reports whether two tables read and write the same. Where identity stands among the keys that only read makes no difference.
func sameTable(a, b *table) bool {
	for _, s := range specsOf(a, b) {
		if !a.lookup(s).identityLast().equal(b.lookup(s).identityLast()) {
			return false
		}
	}
	return true
}

// readsAll reports whether t reads whatever other reads.
func readsAll(t, other *table) bool {
	for _, s := range specsOf(t, other) {
		if !containsAll(t.lookup(s), other.lookup(s)) {
			return false
		}
	}
	return true
}

// way is what a cluster runs with on its way, without where it begins.
func (b *planner) way(from, to *table) ([]*table, error) {
	added, err := b.addKeys(from, to)
	if err == nil {
		return distinct(from, added, to), nil
	}
	if !errors.Is(err, ErrKMS) {
		return nil, err
	}
	// A KMS provider may be named once in a file, so that the resources that get it must have one list, and so one writer, before.
	aligned, ok := align(from, to)
	if !ok {
		return nil, b.noWay(err)
	}
	first, err := b.addKeys(from, aligned)
	if err != nil {
		return nil, b.noWay(err)
	}
	second, err := b.addKeys(aligned, to)
	if err != nil {
		return nil, b.noWay(err)
	}
	return distinct(from, first, aligned, second, to), nil
}

func (b *planner) noWay(err error) error {
	return &Error{Kind: ErrPlan, Detail: "on the way to the merged configuration a KMS provider would be needed in two entries", Cause: err,
		Hint: "list the resources that are to share the KMS provider in one entry first, with one writer, and plan again"}
}

// distinct leaves out what makes no difference.
func distinct(from *table, way ...*table) (out []*table) {
	for _, t := range way {
		if !sameTable(from, t) {
			out = append(out, t)
			from = t
		}
	}
	return out
}

// addKeys keeps the writers of from, and reads what to reads.
func (b *planner) addKeys(from, to *table) (*table, error) {
	t := &table{lists: map[spec]list{}}
	for _, s := range specsOf(from, to) {
		l := from.lookup(s).with(to.lookup(s)...).identityLast()
		if s == everything && l.equal(list{identityAtom}) && from.lists[s] == nil && to.lists[s] == nil {
			continue // nobody names it
		}
		t.set(s, l)
	}
	scratch := &merger{} // its notices are those of the merge, which were given
	return scratch.unify(t)
}

// align gives the specs that are to share a KMS provider one list without it; from must not have it.
func align(from, to *table) (*table, bool) {
	t := &table{lists: map[spec]list{}}
	for _, s := range specsOf(from, to) {
		if s != everything || from.lists[s] != nil || to.lists[s] != nil {
			t.set(s, from.lookup(s))
		}
	}
	for _, k := range to.atoms() {
		if !k.isKMS() || from.atoms().has(k) {
			continue
		}
		var group []spec
		all := list{}
		for _, s := range t.specs {
			if to.lookup(s).has(k) {
				group = append(group, s)
				all = all.with(t.lists[s]...)
				for _, a := range to.lookup(s) {
					if !a.isKMS() {
						all = all.with(a)
					}
				}
			}
		}
		if slices.ContainsFunc(all, atom.isKMS) {
			return nil, false
		}
		if w, ok := all.firstKey(); ok {
			all = list{w}.with(all...)
		}
		for _, s := range group {
			t.lists[s] = all.identityLast()
		}
	}
	return t, true
}

// safe checks that apiservers with old and with new, in any mixture, read all that is stored and all that they write.
func (b *planner) safe(role Role, old, new *table) error {
	for _, s := range specsOf(old, new) {
		before, after := old.lookup(s), new.lookup(s)
		bad := func(format string, args ...any) error {
			return &Error{Kind: ErrPlan, Detail: showSpec(s) + ": " + fmt.Sprintf(format, args...), Hint: "bring the two configurations closer to each other by hand, and plan again"}
		}
		if !before.reads(after[0]) {
			return bad("apiservers with the old file could not read what is written with %s", after[0])
		}
		for _, a := range b.stored(role, s).with(before[0]) {
			if !after.reads(a) {
				return bad("apiservers with the new file could not read what is written with %s", a)
			}
		}
		for i, a := range after {
			for _, c := range after[i+1:] {
				if a.spoils(c) && (!b.together(s, a, c) || !before.precedes(a, c) && b.stored(role, s).has(c)) {
					return bad("%s and %s would take each other's values", a, c)
				}
			}
		}
	}
	return nil
}

// stored are the atoms that values of a spec may need by now.
func (b *planner) stored(role Role, s spec) list {
	var kept list
	switch {
	case role == Primary:
		kept = b.m.p.lookup(s)
	case b.relabelled():
		kept = b.m.s.lookup(s)
	default:
		kept = b.m.s0.lookup(s)
	}
	if role == Standby && b.started {
		kept = kept.with(b.m.p.lookup(s)...)
	}
	// What compaction phases have waited for is gone. The relabelled keys are not in m.s any more.
	for _, p := range b.phases {
		if p.Kind == PhaseCompaction {
			kept = slices.DeleteFunc(slices.Clone(kept), p.old.has)
		}
	}
	return kept
}

func (b *planner) relabelled() bool {
	return slices.ContainsFunc(b.phases, func(p Phase) bool { return p.Kind == PhaseCompaction })
}

// together reports whether a cluster has both atoms for a spec anyway: what they do to each other is not the plan's doing.
func (b *planner) together(s spec, x, y atom) bool {
	for _, t := range []*table{b.m.p, b.m.s0, b.m.s} {
		if l := t.lookup(s); l.has(x) && l.has(y) {
			return true
		}
	}
	return false
}
