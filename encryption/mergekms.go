package encryption

import (
	"fmt"
	"slices"
	"strings"
)

// What merging has to know about KMS providers: a file may name each of them once.

// checkKMS refuses one name for two plugins: a file has room for one.
func (m *merger) checkKMS() error {
	for _, a := range m.p.atoms() {
		for _, b := range m.s0.atoms() {
			if !a.isKMS() || !b.isKMS() || a.same(b) {
				continue
			}
			if a.Name != b.Name && a.overlaps(b) {
				return &Error{Kind: ErrKMS, Detail: fmt.Sprintf("the KMS providers %s and %s take each other's values, because one name begins the other up to a colon", showName(a.Name), showName(b.Name)),
					Hint: "give one of them another name, where its values then have to be written anew"}
			}
			if a.Name == b.Name {
				return &Error{Kind: ErrKMS, Detail: fmt.Sprintf("the KMS provider %s is defined differently in the two clusters (%s)", showName(a.Name), kmsDifference(a, b)),
					Hint: "give the provider one definition in both, or another name in one of them, where its values then have to be written anew"}
			}
		}
	}
	return nil
}

func kmsDifference(a, b atom) string {
	var fields []string
	for _, f := range []struct {
		name  string
		equal bool
	}{
		{"apiVersion", a.kms.APIVersion == b.kms.APIVersion}, {"endpoint", a.kms.Endpoint == b.kms.Endpoint},
	} {
		if !f.equal {
			fields = append(fields, f.name)
		}
	}
	if len(fields) == 0 {
		fields = []string{"timeout or cachesize"}
	}
	return strings.Join(fields, ", ")
}

// unify brings together the lists that name one KMS provider: a file may name it once. It changes what is read, by more keys, but not what writes.
func (m *merger) unify(t *table) (*table, error) {
	for _, k := range t.atoms() {
		if !k.isKMS() {
			continue
		}
		var group []spec
		for _, s := range t.specs {
			if t.lists[s].has(k) {
				group = append(group, s)
			}
		}
		all := t.lists[group[0]]
		changed := false
		for _, s := range group[1:] {
			l := t.lists[s]
			if !l[0].same(all[0]) {
				return nil, &Error{Kind: ErrKMS, Detail: fmt.Sprintf("%s and %s share the KMS provider %s, and are written by %s and %s", showSpec(group[0]), showSpec(s), showName(k.Name), all[0], l[0]),
					Hint: "a file may name a KMS provider once: write both with one key, or leave the provider out of one of them"}
			}
			changed = changed || !l.equal(all)
			all = all.with(l...)
		}
		all = all.identityLast()
		for _, s := range group {
			t.lists[s] = all
		}
		if changed {
			m.note(NoticeUnified, fmt.Sprintf("%s share one list of providers, because a file may name the KMS provider %s once.", joinSpecs(group), showName(k.Name)))
		}
		if err := fold(t, k); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// fold leaves specs of one list to a wildcard that has the same list, so that entries of different classes do not both name a KMS provider.
func fold(t *table, k atom) error {
	for _, s := range slices.Clone(t.specs) {
		l := t.lists[s]
		if !l.has(k) || s == everything {
			continue
		}
		rest := t.clone()
		rest.remove(s)
		if class(s) == 1 { // what is left of a group's wildcard is *.*
			if m, ok := rest.lists[everything]; ok && m.equal(l) {
				t.remove(s)
			}
			continue
		}
		for _, wild := range []spec{{Group: s.Group, Resource: "*"}, everything} {
			if m, ok := rest.lists[wild]; ok {
				if m.equal(l) {
					t.remove(s)
				}
				break
			}
		}
	}
	seen := map[int]spec{}
	for _, s := range t.specs {
		if t.lists[s].has(k) {
			seen[class(s)] = s
		}
	}
	if len(seen) > 1 {
		var specs []spec
		for c := range 3 {
			if s, ok := seen[c]; ok {
				specs = append(specs, s)
			}
		}
		return &Error{Kind: ErrKMS, Detail: fmt.Sprintf("%s share the KMS provider %s, and cannot be listed in one entry", joinSpecs(specs), showName(k.Name)),
			Hint: "a file may name a KMS provider once: list the resources by name, or use one wildcard for all of them"}
	}
	return nil
}

func joinSpecs(specs []spec) string {
	var names []string
	for _, s := range specs {
		names = append(names, showSpec(s))
	}
	return strings.Join(names, ", ")
}
