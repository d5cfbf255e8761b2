package keyfilter

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// hashFormat names the way the hash is computed. It changes when the same rules would decide differently for a reason that
// is neither in the rules nor in the table, that is, when the grammar changes.
const hashFormat = "understudy keyfilter 1"

// Hash identifies what the filter keeps: 64 hex digits over the prefixes, all rules in order (names, actions and selectors in
// normal form, the defaults as the policy shapes them), and the table of built-in resources. Two filters with one hash
// decide alike. The order of the selectors within a rule, and its Reason, do not count.
func (f *Filter) Hash() string { return f.hash }

func (f *Filter) computeHash() string {
	type hashedRule struct {
		Rule
		Class class `json:"class,omitempty"`
	}
	content := struct {
		Format   string       `json:"format"`
		Prefixes []string     `json:"prefixes"`
		Rules    []hashedRule `json:"rules"`
		Table    [][]string   `json:"table"`
	}{Format: hashFormat, Prefixes: f.prefixes}
	for _, r := range f.Rules() {
		r.Reason = ""
		content.Rules = append(content.Rules, hashedRule{r, r.class})
	}
	for _, e := range builtin {
		content.Table = append(content.Table, []string{e.segment, e.group, e.resource, e.scope().String()})
	}
	text, err := json.Marshal(content)
	if err != nil {
		panic("keyfilter: strings do not marshal: " + err.Error()) // cannot happen: the content is strings and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
