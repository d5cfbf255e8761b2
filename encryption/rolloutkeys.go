package encryption

import (
	"slices"
	"strings"
)

// The phases by which the standby's own keys get other names, and by which they go.

// rename gives the standby's clashing keys their new names.
func (b *planner) rename() error {
	if len(b.m.renames) == 0 {
		return nil
	}
	alias := func(a atom) (atom, bool) {
		for _, r := range b.m.renames {
			if a.Provider == r.Provider && a.Name == r.Old && string(a.secret) == string(r.secret) {
				renamed := a
				renamed.Name = r.New
				return renamed, true
			}
		}
		return atom{}, false
	}
	added, promoted := b.m.s0.clone(), b.m.s0.clone()
	added.each(func(_ spec, l list) list {
		for _, a := range l {
			if n, ok := alias(a); ok {
				l = append(l, n)
			}
		}
		return l.identityLast()
	})
	promoted.each(func(_ spec, l list) list {
		// Each before its old name, so that keys that take each other's values keep their order.
		var out list
		for _, a := range l {
			if n, ok := alias(a); ok {
				out = append(out, n)
			}
			out = append(out, a)
		}
		return out.identityLast()
	})
	for _, step := range []struct {
		name string
		t    *table
	}{{"alias-add", added}, {"alias-promote", promoted}} {
		if err := b.install(step.name, map[Role]*table{Standby: step.t}); err != nil {
			return err
		}
	}
	var relabels []Relabeling
	var old list
	for _, r := range b.m.renames {
		from := atom{Label: Label{Provider: r.Provider, Name: r.Old}, secret: r.secret}
		relabels = append(relabels, Relabeling{From: from.Label, To: Label{Provider: r.Provider, Name: r.New}})
		old = old.with(from)
	}
	b.add(Phase{Name: "relabel", Kind: PhaseRelabel, Cluster: Standby, Relabels: relabels, Labels: old.labels(), old: old, Title: "give the standby's values the new names of their keys",
		Why: "the old names are going to mean the primary's keys", Verify: []string{"a last pass over all values has found none to relabel"}})
	b.clean(old)
	return nil
}

// clean adds the phases that make sure that nothing has some labels any more.
func (b *planner) clean(old list) {
	var names []string
	for _, a := range old {
		if !slices.Contains(names, a.String()) {
			names = append(names, a.String())
		}
	}
	labels := strings.Join(names, ", ")
	suffix := ""
	if b.started {
		suffix = "-drop"
	}
	b.add(Phase{Name: "audit" + suffix, Kind: PhaseAudit, Cluster: Standby, Labels: old.labels(), old: old, Title: "count the standby's values that need " + labels,
		Why: "each of them would be lost", Verify: []string{"there is none"}})
	b.add(Phase{Name: "compaction" + suffix, Kind: PhaseCompaction, Cluster: Standby, Labels: old.labels(), old: old, Title: "wait until the standby's etcd has compacted the revisions in which values needed " + labels,
		Why: "a watch that begins in the past reads them (kube-apiserver lets etcd compact every 5 minutes)", Verify: []string{"no revision that the etcd still has holds such a value"}})
}

// drop removes the standby's own keys.
func (b *planner) drop() error {
	writers := list{}
	for _, s := range b.final.specs {
		writers = writers.with(b.final.lists[s][0])
	}
	dropped := list{}
	for _, a := range b.m.s.atoms() {
		if !a.isIdentity() && !b.m.p.atoms().has(a) && !writers.has(a) {
			dropped = dropped.with(a)
		}
	}
	if len(dropped) == 0 {
		b.m.note("nothing-dropped", "the standby has no key of its own that could be dropped.")
		return nil
	}
	rest := b.final.clone()
	rest.each(func(_ spec, l list) list { return slices.DeleteFunc(l, dropped.has) })
	b.add(Phase{Name: "rewrite", Kind: PhaseRewrite, Cluster: Standby, Labels: dropped.labels(), old: dropped, Title: "encrypt the standby's own values with the common key",
		Why: "their keys are to be dropped", Verify: []string{"a last pass over all values has found none to rewrite"}})
	b.clean(dropped)
	return b.install("drop", map[Role]*table{Primary: rest, Standby: rest})
}
