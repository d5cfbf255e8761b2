package encryption_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/encryption"
)

// TestMergeVectors is the table of merges that were worked out by hand.
func TestMergeVectors(t *testing.T) {
	type options = encryption.MergeOptions
	const encrypts = encryption.NoticeEncrypts
	for name, v := range map[string]struct {
		p, s  string
		opts  options
		want  string
		kinds bool
		err   error
		note  string
		says  string // the error
	}{
		"1 one key":                       {p: "cbc a=P", s: "cbc a=P", want: "secrets [a]"},
		"2 two keys":                      {p: "cbc a=P", s: "cbc b=S", want: "secrets [a b]"},
		"2 the standby writes":            {p: "cbc a=P", s: "cbc b=S", opts: options{Writes: encryption.Standby}, want: "secrets [b a]"},
		"3 a key that is asked for":       {p: "cbc a=P n=N", s: "cbc b=S", opts: options{Writer: encryption.Label{Name: "n"}}, want: "secrets [n a b]"},
		"4 a clash":                       {p: "cbc key1=P", s: "cbc key1=S", err: encryption.ErrConflict},
		"4 a clash of aescbc, both kept":  {p: "cbc key1=P", s: "cbc key1=S", opts: options{Clash: encryption.ClashKeepBoth}, err: encryption.ErrConflict, says: "no single file reads all values of both"},
		"5 renamed":                       {p: "cbc key1=P", s: "cbc key1=S", opts: options{Clash: encryption.ClashRenameStandby}, want: "secrets [key1 key1-724f4471]", note: encryption.NoticeRenamed},
		"6 both kept":                     {p: "secretbox key1=P", s: "secretbox key1=S", opts: options{Clash: encryption.ClashKeepBoth}, want: "secrets [key1 key1]", note: encryption.NoticeKeptBoth},
		"7 two names":                     {p: "cbc a=P", s: "cbc b=P", want: "secrets [a b]"},
		"8 two kinds":                     {p: "cbc key1=P", s: "secretbox key1=S", want: "secrets [cbc:key1 secretbox:key1]", kinds: true},
		"10 identity of the standby":      {p: "cbc a=P", s: "cbc b=S, identity", want: "secrets [a b identity]"},
		"11 the primary does not encrypt": {p: "identity, cbc a=P", s: "cbc b=S", want: "secrets [a b identity]", note: encrypts},
		"11 and goes on":                  {p: "identity, cbc a=P", s: "cbc b=S", opts: options{Plaintext: encryption.PlaintextKeep}, want: "secrets [identity a b]"},
		"11 and must not":                 {p: "identity, cbc a=P", s: "cbc b=S", opts: options{Plaintext: encryption.PlaintextRefuse}, err: encryption.ErrPlaintext},
		"12 the standby does not encrypt": {p: "cbc a=P", s: "identity, cbc b=S", want: "secrets [a b identity]"},
		"15 another order":                {p: "secrets,configmaps: cbc a=P", s: "configmaps,secrets: cbc b=S", want: "secrets,configmaps [a b]"},
		"16 a wildcard":                   {p: "secrets: cbc a=P", s: "*.*: cbc b=S", want: "secrets [a b]; *.* [b identity]", note: encrypts},
		"20 kms":                          {p: "kms2 k, identity", s: "cbc b=S", want: "secrets [k b identity]", note: encryption.NoticeKMS},
		"21 kms of two resources":         {p: "secrets,configmaps: kms2 k, identity", s: "secrets: cbc b=S", want: "secrets,configmaps [k b identity]", note: encryption.NoticeUnified},
		"23 kms with two sockets":         {p: "kms2 k@/x", s: "kms2 k@/y", err: encryption.ErrKMS},

		// Further ones.
		"names that begin another":      {p: "cbc a=P", s: "cbc a:b=S", err: encryption.ErrConflict},
		"such names, renamed":           {p: "cbc a=P", s: "cbc a:b=S", opts: options{Clash: encryption.ClashRenameStandby}, want: "secrets [a a-b-724f4471]"},
		"such names, the other way":     {p: "cbc a:b=P", s: "cbc a=S", opts: options{Clash: encryption.ClashRenameStandby}, want: "secrets [a:b a-724f4471]"},
		"a clash of gcm":                {p: "gcm key1=P", s: "gcm key1=S", err: encryption.ErrConflict},
		"gcm, both kept":                {p: "gcm key1=P", s: "gcm key1=S", opts: options{Clash: encryption.ClashKeepBoth}, want: "secrets [key1 key1]"},
		"the new name is taken":         {p: "cbc key1=P key1-724f4471=X", s: "cbc key1=S", opts: options{Clash: encryption.ClashRenameStandby}, want: "secrets [key1 key1-724f4471 key1-724f4471-2]"},
		"a clash behind a wildcard":     {p: "secrets: cbc k=P", s: "*.*: cbc k=S", err: encryption.ErrConflict},
		"no clash in other resources":   {p: "secrets: cbc k=P", s: "secrets: identity; configmaps: cbc k=S", want: "secrets [k identity]; configmaps [k identity]", note: encrypts},
		"repeated entries":              {p: "secrets: cbc a=P; secrets: cbc c=Q", s: "cbc b=S", want: "secrets [a c b]"},
		"groups":                        {p: "*.apps: cbc a=P", s: "deployments.apps: cbc b=S", want: "deployments.apps [a b]; *.apps [a identity]"},
		"the core group":                {p: "*.: cbc a=P", s: "secrets: cbc b=S", want: "secrets [a b]; *. [a identity]"},
		"kms 1":                         {p: "kms1 k, identity", s: "cbc b=S", want: "secrets [k b identity]"},
		"one kms in both":               {p: "kms2 k, identity", s: "cbc b=S, kms2 k", want: "secrets [k b identity]"},
		"kms 1 and 2 of one name":       {p: "kms1 k", s: "kms2 k", err: encryption.ErrKMS},
		"kms, folded into a wildcard":   {p: "*.*: kms2 k, identity", s: "secrets: cbc b=S", want: "*.* [k b identity]"},
		"kms in two groups":             {p: "*.apps: kms2 k, identity", s: "secrets: kms2 k, identity", err: encryption.ErrKMS},
		"keys that kms brings together": {p: "secrets: kms2 k, cbc a=P; configmaps: cbc x=X", s: "secrets,configmaps: kms2 k, cbc b=S, cbc a:y=Q", err: encryption.ErrConflict},
		"kms, two writers":              {p: "secrets,configmaps: kms2 k, identity", s: "secrets: cbc b=S", opts: options{Writes: encryption.Standby, Plaintext: encryption.PlaintextKeep}, err: encryption.ErrKMS},
		"nothing encrypted":             {p: "identity", s: "identity", want: "secrets [identity]"},
		"identity twice":                {p: "identity, cbc a=P, identity", s: "identity", opts: options{Plaintext: encryption.PlaintextKeep}, want: "secrets [identity a]"},
		"a writer that nobody has":      {p: "cbc a=P", s: "cbc b=S", opts: options{Writer: encryption.Label{Name: "z"}}, err: encryption.ErrConfig},
		"a writer of two kinds":         {p: "cbc a=P", s: "gcm a=S", opts: options{Writer: encryption.Label{Name: "a"}}, err: encryption.ErrConfig},
		"a writer of one of two kinds":  {p: "cbc a=P", s: "gcm a=S", opts: options{Writer: encryption.Label{Name: "a", Provider: encryption.AESGCM}}, want: "secrets [gcm:a cbc:a]", kinds: true},
		"a writer of some resources":    {p: "secrets: cbc a=P; configmaps: cbc c=Q", s: "secrets,configmaps: cbc b=S", opts: options{Writer: encryption.Label{Name: "a"}}, want: "secrets [a b]; configmaps [c b]", note: encryption.NoticeWriter},
		"a wrong policy":                {p: "cbc a=P", s: "cbc b=S", opts: options{Clash: 9}, err: encryption.ErrConfig},
		"a wrong role":                  {p: "cbc a=P", s: "cbc b=S", opts: options{Writes: "other"}, err: encryption.ErrConfig},
		"an invalid standby":            {p: "cbc a=P", s: "a,*.: cbc b=S", err: encryption.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := config(t, v.p), config(t, v.s)
			before := [2][]byte{encode(t, p), encode(t, s)}
			got, err := encryption.Merge(p, s, v.opts)
			if !bytes.Equal(before[0], encode(t, p)) || !bytes.Equal(before[1], encode(t, s)) {
				t.Error("the configurations were changed")
			}
			if v.err != nil {
				if !errors.Is(err, v.err) || !strings.Contains(err.Error(), v.says) {
					t.Fatalf("got %v, want %v %s", err, v.err, v.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if text := brief(got.Config, v.kinds); text != v.want {
				t.Errorf("got %s, want %s", text, v.want)
			}
			if v.note != "" && !slices.ContainsFunc(got.Notices, func(n encryption.Notice) bool { return n.Code == v.note }) {
				t.Errorf("no notice %s among %v", v.note, got.Notices)
			}
			for _, n := range got.Notices {
				if strings.Count(n.Text, ". ") > 0 || !strings.HasSuffix(n.Text, ".") {
					t.Errorf("notice %q is not one sentence", n.Text)
				}
			}
			again, err := encryption.Merge(p, s, v.opts)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(encode(t, got.Config), encode(t, again.Config)) {
				t.Error("the outcome is not always the same")
			}
			back, err := encryption.Parse(encode(t, got.Config))
			if err != nil {
				t.Fatalf("the outcome cannot be parsed: %v", err)
			}
			if diff := cmp.Diff(got.Config, back); diff != "" {
				t.Errorf("another configuration after Encode and Parse:\n%s", diff)
			}
		})
	}
}
