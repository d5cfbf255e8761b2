package encryption

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// Providers, as they are called in the header of an encrypted value and, but for KMS, in a configuration.
const (
	AESCBC    = "aescbc"
	AESGCM    = "aesgcm"
	Secretbox = "secretbox"
	KMSv1     = "kms:v1"
	KMSv2     = "kms:v2"
	Identity  = "identity"
)

// Label tells which key a stored value claims to be encrypted with. The provider is one of the constants, Name the name of its key or of the KMS plugin.
// Values that are not encrypted have the provider Identity and no name. Nothing authenticates a label.
type Label struct {
	Provider string `json:"provider"`
	Name     string `json:"name,omitempty"`
}

// String is the label as it may be shown: "aescbc key1".
func (l Label) String() string {
	if l.Name == "" {
		return l.Provider
	}
	return l.Provider + " " + showName(l.Name)
}

// prefix begins the values that have the label.
func (l Label) prefix() string {
	switch l.Provider {
	case Identity:
		return ""
	case KMSv1, KMSv2:
		return encryptedPrefix + l.Provider + ":" + l.Name + ":"
	}
	return encryptedPrefix + l.Provider + ":v1:" + l.Name + ":"
}

const encryptedPrefix = "k8s:enc:"

// maxShown bounds what is shown of a name, in bytes.
const maxShown = 64

// showName shows the name of a key unless it might be a secret that was put into the wrong field.
func showName(name string) string {
	switch {
	case len(name) > maxShown, strings.ContainsFunc(name, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }):
		return "(a name that is too long or cannot be printed)"
	case looksSecret(name):
		return "(a name that is not shown, because it might be a secret)"
	}
	return strconv.Quote(name)
}

// looksSecret reports whether a name is base64 of 12 bytes or more, and no word with separators.
func looksSecret(name string) bool {
	raw, err := base64.StdEncoding.DecodeString(name)
	return err == nil && len(raw) >= 12
}

// atom is one key, one KMS plugin, or identity: what upstream makes one transformer of.
type atom struct {
	Label
	secret []byte // of local keys
	kms    *apiserverv1.KMSConfiguration
}

var identityAtom = atom{Label: Label{Provider: Identity}}

func (a atom) isIdentity() bool { return a.Provider == Identity }
func (a atom) isKMS() bool      { return a.kms != nil }

// same reports whether two atoms read and write the same values.
func (a atom) same(b atom) bool {
	return a.Label == b.Label && bytes.Equal(a.secret, b.secret) && sameKMS(a.kms, b.kms)
}

func sameKMS(a, b *apiserverv1.KMSConfiguration) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.APIVersion == b.APIVersion && a.Name == b.Name && a.Endpoint == b.Endpoint &&
		(a.CacheSize == nil) == (b.CacheSize == nil) && (a.CacheSize == nil || *a.CacheSize == *b.CacheSize) &&
		(a.Timeout == nil) == (b.Timeout == nil) && (a.Timeout == nil || a.Timeout.Duration == b.Timeout.Duration)
}

// overlaps reports whether some values have the labels of both: kube-apiserver looks for "name:" only, so that a takes what belongs to a:b.
func (a atom) overlaps(b atom) bool {
	return !a.isIdentity() && !b.isIdentity() &&
		(strings.HasPrefix(a.prefix(), b.prefix()) || strings.HasPrefix(b.prefix(), a.prefix()))
}

// bound reports whether the atom's values can be read under their own etcd key only.
func (a atom) bound() bool { return a.Provider == AESGCM || a.isKMS() }

// authenticated reports whether another secret is refused with certainty, instead of in 254 of 255 cases.
func (a atom) authenticated() bool { return a.Provider != AESCBC && a.Provider != KMSv1 }

// fingerprint identifies a secret without telling it.
func (a atom) fingerprint() string {
	sum := sha256.Sum256(a.secret)
	return hex.EncodeToString(sum[:4])
}

// list is what is tried in order to read a value; the first writes.
type list []atom

func (l list) has(a atom) bool { return slices.ContainsFunc(l, a.same) }

// with is the list and what of more it lacks.
func (l list) with(more ...atom) list {
	out := slices.Clone(l)
	for _, a := range more {
		if !out.has(a) {
			out = append(out, a)
		}
	}
	return out
}

// reads reports whether the list reads what the atom writes.
func (l list) reads(a atom) bool { return l.has(a) }

// identityLast moves identity behind all keys, unless it writes. For reading its place does not matter: it passes what is encrypted on.
func (l list) identityLast() list {
	out := make(list, 0, len(l))
	late := false
	for i, a := range l {
		if a.isIdentity() && i > 0 {
			late = true
			continue
		}
		out = append(out, a)
	}
	if late && !out.has(identityAtom) {
		out = append(out, identityAtom)
	}
	return out
}

// precedes reports whether a comes before b, both being there.
func (l list) precedes(a, b atom) bool {
	i, j := slices.IndexFunc(l, a.same), slices.IndexFunc(l, b.same)
	return i >= 0 && j >= 0 && i < j
}

// spoils reports whether a, tried first, could take a value of b for its own and make garbage of it.
func (a atom) spoils(b atom) bool {
	return !a.same(b) && a.overlaps(b) && !(a.authenticated() && b.authenticated())
}

// labels are those of the atoms, each once.
func (l list) labels() (labels []Label) {
	for _, a := range l {
		if !slices.Contains(labels, a.Label) {
			labels = append(labels, a.Label)
		}
	}
	return labels
}

func (l list) equal(m list) bool { return slices.EqualFunc(l, m, atom.same) }

// firstKey is the first atom that encrypts.
func (l list) firstKey() (atom, bool) {
	for _, a := range l {
		if !a.isIdentity() {
			return a, true
		}
	}
	return atom{}, false
}

// spec is what a configuration calls a resource, parsed as upstream does: secrets, deployments.apps, *.apps, *. or *.*.
type spec = schema.GroupResource

var everything = spec{Group: "*", Resource: "*"}

// class orders specs as a file must: what is exact, then groups, then everything.
func class(s spec) int {
	switch {
	case s == everything:
		return 2
	case s.Resource == "*":
		return 1
	}
	return 0
}

// specText writes a spec as a configuration does (grYAMLString in server/options/encryptionconfig/config.go).
func specText(s spec) string {
	if s.Group == "" && s.Resource == "*" {
		return "*."
	}
	return s.String()
}

// showSpec is specText for messages: what might be a secret in the wrong field is not shown.
func showSpec(s spec) string {
	text := specText(s)
	if !coreResources[text] && (looksSecret(text) || len(text) > 4*maxShown) {
		return "(a resource that is not shown, because it might be a secret)"
	}
	return text
}

// table is a configuration as kube-apiserver uses it: a list for each spec, in the order of the file.
type table struct {
	specs []spec
	lists map[spec]list
}

// newTable flattens a configuration that Validate accepts. Entries of one spec follow each other.
func newTable(cfg *Configuration) (*table, error) {
	t := &table{lists: map[spec]list{}}
	for i, entry := range cfg.Resources {
		var atoms list
		for j, provider := range entry.Providers {
			more, err := atomsOf(provider)
			if err != nil {
				return nil, &Error{Kind: ErrInvalid, Field: fmt.Sprintf("resources[%d].providers[%d]", i, j), Detail: "is no usable provider", Hint: "see Validate"}
			}
			atoms = append(atoms, more...)
		}
		for _, resource := range entry.Resources {
			s := schema.ParseGroupResource(resource)
			t.set(s, append(slices.Clone(t.lists[s]), atoms...))
		}
	}
	return t, nil
}

func (t *table) set(s spec, l list) {
	if _, ok := t.lists[s]; !ok {
		t.specs = append(t.specs, s)
	}
	t.lists[s] = l
}

func (t *table) remove(s spec) {
	delete(t.lists, s)
	t.specs = slices.DeleteFunc(t.specs, func(o spec) bool { return o == s })
}

func (t *table) clone() *table {
	out := &table{specs: slices.Clone(t.specs), lists: map[spec]list{}}
	for s, l := range t.lists {
		out.lists[s] = slices.Clone(l)
	}
	return out
}

// lookup is the list that kube-apiserver uses for a resource (transformerFromOverrides, same file). A spec with a wildcard is looked up like a resource that no narrower spec names.
func (t *table) lookup(s spec) list {
	for _, candidate := range []spec{s, {Group: s.Group, Resource: "*"}, everything} {
		if l, ok := t.lists[candidate]; ok {
			return l
		}
	}
	return list{identityAtom}
}

// atoms are all atoms of the table, each once, in order.
func (t *table) atoms() list {
	var all list
	for _, s := range t.specs {
		all = all.with(t.lists[s]...)
	}
	return all
}

// each changes every list.
func (t *table) each(change func(s spec, l list) list) {
	for _, s := range t.specs {
		t.lists[s] = change(s, t.lists[s])
	}
}

// atomsOf flattens a provider. Errors say nothing.
func atomsOf(p apiserverv1.ProviderConfiguration) (list, error) {
	keys := func(provider string, keys []apiserverv1.Key) (list, error) {
		var atoms list
		for _, key := range keys {
			secret, err := base64.StdEncoding.DecodeString(key.Secret)
			if err != nil {
				return nil, ErrInvalid
			}
			atoms = append(atoms, atom{Label: Label{Provider: provider, Name: key.Name}, secret: secret})
		}
		return atoms, nil
	}
	switch {
	case p.AESGCM != nil:
		return keys(AESGCM, p.AESGCM.Keys)
	case p.AESCBC != nil:
		return keys(AESCBC, p.AESCBC.Keys)
	case p.Secretbox != nil:
		return keys(Secretbox, p.Secretbox.Keys)
	case p.KMS != nil:
		kms := *p.KMS
		apiserverv1.SetDefaults_KMSConfiguration(&kms)
		return list{{Label: Label{Provider: "kms:" + kms.APIVersion, Name: kms.Name}, kms: &kms}}, nil
	case p.Identity != nil:
		return list{identityAtom}, nil
	}
	return nil, ErrInvalid
}

// emit writes a table as a configuration: an entry for each list of a class, in the order of a file.
func (t *table) emit() *Configuration {
	cfg := &Configuration{}
	cfg.APIVersion, cfg.Kind = apiVersion, kind
	for c := range 3 {
		var lists []list
		var resources [][]string
	specs:
		for _, s := range t.specs {
			if class(s) != c {
				continue
			}
			for i := range lists {
				if lists[i].equal(t.lists[s]) {
					resources[i] = append(resources[i], specText(s))
					continue specs
				}
			}
			lists = append(lists, t.lists[s])
			resources = append(resources, []string{specText(s)})
		}
		for i := range lists {
			cfg.Resources = append(cfg.Resources, apiserverv1.ResourceConfiguration{Resources: resources[i], Providers: providersOf(lists[i])})
		}
	}
	return cfg
}

// providersOf puts neighbouring keys of one kind into one provider.
func providersOf(l list) (providers []apiserverv1.ProviderConfiguration) {
	for _, a := range l {
		key := apiserverv1.Key{Name: a.Name, Secret: base64.StdEncoding.EncodeToString(a.secret)}
		var last *apiserverv1.ProviderConfiguration
		if n := len(providers); n > 0 {
			last = &providers[n-1]
		}
		switch a.Provider {
		case AESCBC:
			if last == nil || last.AESCBC == nil {
				providers = append(providers, apiserverv1.ProviderConfiguration{AESCBC: &apiserverv1.AESConfiguration{}})
				last = &providers[len(providers)-1]
			}
			last.AESCBC.Keys = append(last.AESCBC.Keys, key)
		case AESGCM:
			if last == nil || last.AESGCM == nil {
				providers = append(providers, apiserverv1.ProviderConfiguration{AESGCM: &apiserverv1.AESConfiguration{}})
				last = &providers[len(providers)-1]
			}
			last.AESGCM.Keys = append(last.AESGCM.Keys, key)
		case Secretbox:
			if last == nil || last.Secretbox == nil {
				providers = append(providers, apiserverv1.ProviderConfiguration{Secretbox: &apiserverv1.SecretboxConfiguration{}})
				last = &providers[len(providers)-1]
			}
			last.Secretbox.Keys = append(last.Secretbox.Keys, key)
		case KMSv1, KMSv2:
			kms := *a.kms
			providers = append(providers, apiserverv1.ProviderConfiguration{KMS: &kms})
		case Identity:
			providers = append(providers, apiserverv1.ProviderConfiguration{Identity: &apiserverv1.IdentityConfiguration{}})
		}
	}
	return providers
}
