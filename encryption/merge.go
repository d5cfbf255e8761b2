package encryption

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ClashPolicy is what Merge does about keys of one kind and name (or of which one's name begins the other's before a colon) that have different secrets.
type ClashPolicy int

const (
	// ClashRefuse returns ErrConflict.
	ClashRefuse ClashPolicy = iota
	// ClashRenameStandby gives the standby's key another name, unused in either configuration. The values that it has written have to be relabelled
	// before the merged file is used: PlanRollout says when, Relabel does it.
	ClashRenameStandby
	// ClashKeepBoth keeps both keys under their names: kube-apiserver tries one after the other. It is refused for aescbc, where no order is right: a wrong key
	// takes one value of 255 for its own, and returns garbage.
	ClashKeepBoth
)

// PlaintextPolicy is what Merge does where the cluster that is asked for writes values unencrypted although there are keys.
type PlaintextPolicy int

const (
	// PlaintextEncrypt writes with the first key of the primary, or else of the standby.
	PlaintextEncrypt PlaintextPolicy = iota
	// PlaintextKeep goes on writing unencrypted.
	PlaintextKeep
	// PlaintextRefuse returns ErrPlaintext.
	PlaintextRefuse
)

// Role is one of the two clusters.
type Role string

// The roles.
const (
	Primary Role = "primary"
	Standby Role = "standby"
)

// MergeOptions say how to merge. The zero value refuses clashes and writes as the primary does.
type MergeOptions struct {
	Clash     ClashPolicy
	Plaintext PlaintextPolicy
	// Writes is the cluster whose first key writes; "" is Primary.
	Writes Role
	// Writer is the key that writes, by name, wherever it is among the keys of a resource; "" leaves it to Writes. Its Provider may be empty if the name is enough to tell it.
	Writer Label
}

// Rename is a key of the standby that has another name in the merged configuration.
type Rename struct {
	Provider string `json:"provider"`
	Old      string `json:"old"`
	New      string `json:"new"`

	secret []byte
}

// Merged is the outcome of Merge.
type Merged struct {
	// Config reads what both clusters have written, once the values of renamed keys are relabelled. It passes Validate.
	Config *Configuration
	// Renames are the standby's keys that have other names there, in the order in which the standby lists them.
	Renames []Rename
	// Notices are what an operator must know.
	Notices []Notice
}

// Codes of the notices of Merge.
const (
	// NoticeRenamed: a key of the standby has another name; its values have to be relabelled first.
	NoticeRenamed = "renamed"
	// NoticeKeptBoth: two keys of one name are tried one after the other.
	NoticeKeptBoth = "kept-both"
	// NoticeEncrypts: a resource that the chosen cluster writes unencrypted will be encrypted.
	NoticeEncrypts = "encrypts"
	// NoticeWriter: the key that was asked for is not among the keys of a resource.
	NoticeWriter = "writer"
	// NoticeKMS: both clusters need the KMS plugin, at the same socket and with the same key.
	NoticeKMS = "kms"
	// NoticeUnified: resources that were listed apart share one list, because a KMS provider may be named only once in a file.
	NoticeUnified = "kms-unified"
	// NoticeBound: values of a provider can be read under their own etcd key only.
	NoticeBound = "bound"
)

// Merge makes one configuration of those of two clusters, so that either's apiservers read what both have written. primary is the cluster whose values are mirrored to standby.
//
// Resources are looked up as kube-apiserver does: by name, then by group, then by *.*, else unencrypted; a wildcard adds nothing to a resource that is listed by name.
// So the merged configuration lists every resource that either lists, each with the keys that either uses for it: the writer, then the primary's, then the standby's,
// identity last where either reads unencrypted values. Identical keys are listed once, one secret under two names twice. The outcome is the same for the same input.
//
// Errors match ErrInvalid (with the side), ErrConflict, ErrKMS, ErrPlaintext or ErrConfig, or ErrPlan if kube-apiserver would refuse the outcome.
func Merge(primary, standby *Configuration, opts MergeOptions) (*Merged, error) {
	m, err := newMerger(primary, standby, opts)
	if err != nil {
		return nil, err
	}
	t, err := m.merge()
	if err != nil {
		return nil, err
	}
	out := &Merged{Config: t.emit(), Renames: m.renames, Notices: m.notices}
	if err := emitted(out.Config); err != nil {
		return nil, err
	}
	return out, nil
}

// emitted checks a configuration that was put together. What is wrong with it lies in how the two fit together.
func emitted(cfg *Configuration) error {
	if _, err := Validate(cfg); err != nil {
		return &Error{Kind: ErrPlan, Detail: "the outcome would be refused by kube-apiserver", Cause: err, Hint: "bring the two configurations closer to each other by hand"}
	}
	return nil
}

// merger holds what merging works with.
type merger struct {
	p, s    *table // s with renamed keys
	s0      *table // s as it is
	opts    MergeOptions
	renames []Rename
	notices []Notice
}

func newMerger(primary, standby *Configuration, opts MergeOptions) (*merger, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	m := &merger{opts: opts}
	var errs []error
	for _, side := range []struct {
		role Role
		cfg  *Configuration
		to   **table
	}{{Primary, primary, &m.p}, {Standby, standby, &m.s0}} {
		_, err := Validate(side.cfg)
		if err == nil {
			*side.to, err = newTable(side.cfg)
		}
		errs = append(errs, onSide(string(side.role), err))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := m.checkKMS(); err != nil {
		return nil, err
	}
	m.s = m.s0.clone()
	if err := m.settleClashes(); err != nil {
		return nil, err
	}
	return m, nil
}

func (o *MergeOptions) check() error {
	var errs []error
	bad := func(field, hint string) {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "MergeOptions." + field + " is unknown", Hint: hint})
	}
	if o.Clash < ClashRefuse || o.Clash > ClashKeepBoth {
		bad("Clash", "use ClashRefuse, ClashRenameStandby or ClashKeepBoth")
	}
	if o.Plaintext < PlaintextEncrypt || o.Plaintext > PlaintextRefuse {
		bad("Plaintext", "use PlaintextEncrypt, PlaintextKeep or PlaintextRefuse")
	}
	if o.Writes == "" {
		o.Writes = Primary
	}
	if o.Writes != Primary && o.Writes != Standby {
		bad("Writes", "use Primary or Standby")
	}
	if o.Writer.Name == "" && o.Writer.Provider != "" && o.Writer.Provider != Identity {
		bad("Writer", "give it the name of a key")
	}
	return errors.Join(errs...)
}

// settleClashes looks for the clashes of each resource, and refuses, renames or keeps them.
func (m *merger) settleClashes() error {
	var errs []error
	reported := map[Label]bool{}
	var renamed list
	for _, s := range m.specs() {
		for _, b := range m.s0.lookup(s) {
			for _, a := range m.p.lookup(s) {
				if a.isKMS() || b.isKMS() || a.same(b) || !a.overlaps(b) || a.Label == b.Label && string(a.secret) == string(b.secret) {
					continue
				}
				switch {
				case m.opts.Clash == ClashRenameStandby:
					renamed = renamed.with(b)
				case reported[b.Label]:
				case m.opts.Clash == ClashKeepBoth && b.authenticated():
					reported[b.Label] = true
					m.note(NoticeKeptBoth, fmt.Sprintf("%s: the two clusters have different secrets for %s, and each is tried until one fits.", showSpec(s), b))
				default:
					reported[b.Label] = true
					errs = append(errs, clash(s, a, b, m.opts.Clash))
				}
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m.rename(renamed)
	return nil
}

func clash(s spec, a, b atom, policy ClashPolicy) error {
	detail := fmt.Sprintf("%s: %s has different secrets in the two clusters", showSpec(s), b)
	if a.Name != b.Name {
		detail = fmt.Sprintf("%s: %s of the primary and %s of the standby take each other's values, because one name begins the other up to a colon", showSpec(s), a, b)
	}
	hint := "rename the standby's key (ClashRenameStandby) and roll out by PlanRollout, or let the mirror transcode, so that the clusters share no key"
	switch {
	case b.authenticated():
		hint += "; keeping both (ClashKeepBoth) is possible, too"
	case policy == ClashKeepBoth:
		detail += ", and with aescbc no single file reads all values of both, in whatever order"
	}
	return &Error{Kind: ErrConflict, Detail: detail, Hint: hint}
}

// rename gives keys of the standby new names, wherever the standby has them.
func (m *merger) rename(keys list) {
	if len(keys) == 0 {
		return
	}
	taken := append(m.p.atoms(), m.s0.atoms()...)
	for _, old := range m.s0.atoms() {
		if !keys.has(old) {
			continue
		}
		renamed := old
		base := strings.ReplaceAll(old.Name, ":", "-") + "-" + old.fingerprint()
		renamed.Name = base
		for n := 2; slices.ContainsFunc(taken, renamed.overlaps); n++ {
			renamed.Name = fmt.Sprintf("%s-%d", base, n)
		}
		taken = append(taken, renamed)
		m.renames = append(m.renames, Rename{Provider: old.Provider, Old: old.Name, New: renamed.Name, secret: old.secret})
		m.s.each(func(_ spec, l list) list {
			for i := range l {
				if l[i].same(old) {
					l[i] = renamed
				}
			}
			return l
		})
		m.note(NoticeRenamed, fmt.Sprintf("%s of the standby is called %s: before this configuration is used anywhere, the standby's values have to be relabelled, as PlanRollout says.", old, showName(renamed.Name)))
	}
}

func (m *merger) note(code, text string) {
	m.notices = append(m.notices, Notice{Code: code, Text: text})
}

// specs are those of both clusters, the primary's first, in the order of a file.
func (m *merger) specs() []spec {
	all := slices.Clone(m.p.specs)
	for _, s := range m.s0.specs {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b spec) int { return class(a) - class(b) })
	return all
}

// merge makes the lists.
func (m *merger) merge() (*table, error) {
	t := &table{lists: map[spec]list{}}
	asked := m.opts.Writer
	found := asked.Name == ""
	var without []string
	var errs []error
	for _, s := range m.specs() {
		l, has, err := m.mergeList(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = found || has
		if !has && asked.Name != "" {
			without = append(without, showSpec(s))
		}
		t.set(s, l)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if !found {
		return nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("MergeOptions.Writer: neither cluster has a key %s", showName(asked.Name)), Hint: "give the name that the key has in the merged configuration"}
	}
	if len(without) > 0 {
		m.note(NoticeWriter, fmt.Sprintf("%s are written by the %s's first key, because %s is not among their keys.", strings.Join(without, ", "), m.opts.Writes, asked))
	}
	t, err := m.unify(t)
	if err != nil {
		return nil, err
	}
	if err := m.checkLists(t); err != nil {
		return nil, err
	}
	m.noteProviders(t)
	return t, nil
}

// checkLists refuses lists in which keys take each other's values, unless they do so in one of the clusters already, in the same order. Lists that share a KMS provider may bring them together.
func (m *merger) checkLists(t *table) error {
	for _, s := range t.specs {
		l := t.lists[s]
		for i, a := range l {
			for _, b := range l[i+1:] {
				p, q := m.p.lookup(s), m.s.lookup(s)
				if !a.spoils(b) || (p.precedes(a, b) || q.precedes(a, b)) && !p.precedes(b, a) && !q.precedes(b, a) {
					continue
				}
				return &Error{Kind: ErrConflict, Detail: fmt.Sprintf("%s: %s and %s come into one list, where they take each other's values", showSpec(s), a, b),
					Hint: "rename one of the keys in its cluster first, or let the mirror transcode, so that the clusters share no key"}
			}
		}
	}
	return nil
}

// mergeList merges what the clusters use for one spec. asked reports whether the key that was asked for is there.
func (m *merger) mergeList(s spec) (l list, asked bool, err error) {
	p, q := m.p.lookup(s), m.s.lookup(s)
	chosen, other := p, q
	if m.opts.Writes == Standby {
		chosen, other = q, p
	}
	writer := chosen[0]
	if name := m.opts.Writer.Name; name != "" {
		matches := func(a atom) bool {
			return a.Name == name && (m.opts.Writer.Provider == "" || m.opts.Writer.Provider == a.Provider)
		}
		all := chosen.with(other...)
		if i := slices.IndexFunc(all, matches); i >= 0 {
			writer, asked = all[i], true
			for _, a := range all[i+1:] {
				if matches(a) && a.Provider != writer.Provider {
					return nil, false, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("MergeOptions.Writer: %s is the name of both %s and %s", showName(name), writer.Provider, a.Provider), Hint: "give the provider, too"}
				}
			}
		}
	}
	if writer.isIdentity() {
		key, has := p.firstKey()
		if !has {
			key, has = q.firstKey()
		}
		switch {
		case !has || m.opts.Plaintext == PlaintextKeep:
		case m.opts.Plaintext == PlaintextRefuse:
			return nil, false, &Error{Kind: ErrPlaintext, Detail: fmt.Sprintf("the %s writes %s unencrypted, and there is %s", m.opts.Writes, showSpec(s), key),
				Hint: "choose to encrypt them (PlaintextEncrypt) or to go on (PlaintextKeep), or name the key that writes"}
		default:
			writer = key
			m.note(NoticeEncrypts, fmt.Sprintf("%s are encrypted with %s from now on, though the %s writes them unencrypted.", showSpec(s), key, m.opts.Writes))
		}
	}
	return list{writer}.with(p...).with(q...).identityLast(), asked, nil
}

// noteProviders says what the kinds of providers ask for.
func (m *merger) noteProviders(t *table) {
	bound := map[string]bool{}
	for _, a := range t.atoms() {
		if a.isKMS() {
			m.note(NoticeKMS, fmt.Sprintf("every apiserver of both clusters needs the KMS plugin %s at its socket, with access to the same key.", showName(a.Name)))
		}
		if a.bound() && !bound[a.Provider] {
			bound[a.Provider] = true
			m.note(NoticeBound, fmt.Sprintf("values of %s can be read under their own etcd key only: both clusters need the same --etcd-prefix, unless the mirror transcodes.", a.Provider))
		}
	}
}
