package encryption_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/keyfilter"
)

// TestValidateErrors: each of upstream's rules, in words that name the field and show no secret. kube-apiserver's loader refuses the same files.
func TestValidateErrors(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
	key := func(provider, secret string) string {
		return head + "resources:\n- resources: [secrets]\n  providers:\n  - " + provider + ":\n      keys:\n      - name: key1\n        secret: " + secret + "\n"
	}
	resources := func(list string) string {
		return head + "resources:\n- resources: " + list + "\n  providers:\n  - identity: {}\n"
	}
	kms := func(fields string) string {
		return head + "resources:\n- resources: [secrets]\n  providers:\n  - kms: {" + fields + "}\n"
	}
	for name, v := range map[string]struct{ text, says string }{
		"the first example of the procedure":  {key("aescbc", "c2VjcmV0LXByaW1hcg=="), `resources[0].providers[0].aescbc.keys[0].secret: the secret of key "key1" is 13 bytes long, and aescbc takes 16, 24 or 32`},
		"the second example of the procedure": {key("aescbc", "c2VjcmV0LXNlY29uZGFy"), `the secret of key "key1" is 15 bytes long, and aescbc takes 16, 24 or 32`},
		"aesgcm":                              {key("aesgcm", "aHVudGVyMmh1bnRlcjI="), `is 14 bytes long, and aesgcm takes 16, 24 or 32`},
		"secretbox takes one length":          {key("secretbox", "aHVudGVyMmh1bnRlcjJodQ=="), `is 16 bytes long, and secretbox takes 32`},
		"no base64":                           {key("aescbc", "hunter2hunter2-_"), "is no standard base64"},
		"URL alphabet":                        {key("aescbc", "aHVudGVyMmh1bnRlcjJ_-w=="), "is no standard base64"},
		"an empty secret":                     {key("aescbc", `""`), `key "key1" has no secret`},
		"no name":                             {strings.Replace(key("aescbc", secretA), "name: key1", `name: ""`, 1), "keys[0].name: is missing"},
		"name and secret exchanged":           {strings.Replace(key("aescbc", "key1"), "name: key1", "name: "+secretA, 1), "a name that is not shown, because it might be a secret"},
		"no keys":                             {head + "resources:\n- resources: [secrets]\n  providers:\n  - aescbc: {keys: []}\n", "aescbc.keys: is empty"},
		"no keys at all":                      {head + "resources:\n- resources: [secrets]\n  providers:\n  - secretbox: {}\n", "secretbox.keys: is empty"},
		"two providers in one": {strings.Replace(key("aescbc", secretA), "  - aescbc:", "  - identity: {}\n    aescbc:", 1),
			"resources[0].providers[0]: has more than one provider"},
		"no provider":                {head + "resources:\n- resources: [secrets]\n  providers:\n  - {}\n", "resources[0].providers[0]: has no provider"},
		"no providers":               {head + "resources:\n- resources: [secrets]\n  providers: []\n", "resources[0].providers: is empty"},
		"nothing":                    {head, "resources: is empty"},
		"no resources":               {resources("[]"), "resources[0].resources: is empty"},
		"twice":                      {resources("[secrets, secrets]"), "lists a resource twice"},
		"a wildcard and a resource":  {resources("[secrets, '*.']"), "lists a resource and a wildcard that covers it"},
		"all and a resource":         {resources("['*.*', deployments.apps]"), "lists a resource and a wildcard that covers it"},
		"capitals":                   {resources("[Secrets]"), "resources[0].resources[0]: has capital letters"},
		"a star":                     {resources("['*']"), "resources[0].resources[0]: is *"},
		"a resource in every group":  {resources("['secrets.*']"), "is a resource in every group"},
		"events":                     {resources("['*.events.k8s.io']"), "is stored in the core group; write events"},
		"extensions":                 {resources("[ingresses.extensions]"), "is in a group that was removed"},
		"addresses":                  {resources("[serviceipallocations]"), "is no resource of the API"},
		"behind a wildcard":          {resources("['*.*']") + "- resources: [secrets]\n  providers:\n  - identity: {}\n", "resources[1].resources[0]: comes behind the wildcard *.*"},
		"a wildcard twice":           {resources("['*.apps']") + "- resources: ['*.apps']\n  providers:\n  - identity: {}\n", "resources[1].resources[0]: comes behind the wildcard *.apps"},
		"kms without a name":         {kms("endpoint: unix:///a, apiVersion: v2"), "kms.name: is missing"},
		"kms without an endpoint":    {kms("name: a, apiVersion: v2"), "kms.endpoint: is missing"},
		"kms over tcp":               {kms("name: a, apiVersion: v2, endpoint: 'tcp://" + secretA + "'"), "kms.endpoint: is no unix socket"},
		"kms with a broken endpoint": {kms("name: a, apiVersion: v2, endpoint: 'unix://%zz" + secretA + "'"), "kms.endpoint: is no URL"},
		"a colon in a name":          {kms("name: 'a:b', apiVersion: v2, endpoint: unix:///a"), "kms.name: holds a colon"},
		"another version":            {kms("name: a, apiVersion: v3, endpoint: unix:///a"), "kms.apiVersion: is no version of the KMS API"},
		"no time":                    {kms("name: a, apiVersion: v2, endpoint: unix:///a, timeout: 0s"), "kms.timeout: is not positive"},
		"a cache for v2":             {kms("name: a, apiVersion: v2, endpoint: unix:///a, cachesize: 5"), "kms.cachesize: is for KMS v1 only"},
		"no cache for v1":            {kms("name: a, apiVersion: v1, endpoint: unix:///a, cachesize: 0"), "kms.cachesize: is zero"},
		"kms twice":                  {kms("name: a, apiVersion: v2, endpoint: unix:///a") + "  - kms: {name: a, apiVersion: v2, endpoint: unix:///a}\n", "kms.name: is the name of another KMS provider"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := encryption.Parse([]byte(v.text))
			if err != nil {
				t.Fatal(err)
			}
			_, err = encryption.Validate(cfg)
			if !errors.Is(err, encryption.ErrInvalid) || !strings.Contains(err.Error(), v.says) {
				t.Errorf("got %v, want %q", err, v.says)
			}
			if strings.Contains(err.Error(), "is refused by kube-apiserver") {
				t.Errorf("no words for what upstream says: %v", err)
			}
			wantSecret(t, name, err.Error())
			if loads(t, []byte(v.text)) == nil {
				t.Error("kube-apiserver would take it")
			}
			for _, other := range []error{onlyError(encryption.Merge(cfg, cfg, encryption.MergeOptions{})), onlyError(encryption.NewCodec(cfg, encryption.CodecConfig{}))} {
				if !errors.Is(other, encryption.ErrInvalid) {
					t.Errorf("got %v from another function", other)
				}
				wantSecret(t, name, other.Error())
			}
		})
	}
	if _, err := encryption.Validate(nil); !errors.Is(err, encryption.ErrInvalid) {
		t.Errorf("nil: %v", err)
	}
}

func onlyError[T any](_ T, err error) error { return err }

// TestNotices: what kube-apiserver accepts and operators regret.
func TestNotices(t *testing.T) {
	for text, want := range map[string]struct {
		codes []string
		says  string
	}{
		"secrets: cbc a=A, identity":                                     {},
		"secret: cbc a=A, identity":                                      {[]string{"resource"}, "write secrets"},
		"deployments: cbc a=A, identity":                                 {[]string{"resource"}, "write deployments.apps"},
		"deployment.apps: cbc a=A, identity":                             {[]string{"resource"}, "write deployments.apps"},
		"secrets.core: cbc a=A, identity":                                {[]string{"resource"}, "in no group that exists"},
		"pods/status: cbc a=A, identity":                                 {[]string{"resource"}, "subresource"},
		"widgets: cbc a=A, identity":                                     {[]string{"resource"}, "no resource of the core group"},
		"widgets.example.com: cbc a=A, identity":                         {},
		": cbc a=A, identity":                                            {[]string{"resource"}, "names no resource"},
		"secrets: cbc a:b=A, identity":                                   {[]string{"colon"}, "holds a colon"},
		"secrets: cbc a=A a:b=B, identity":                               {[]string{"colon", "overlap"}, "one of 255"},
		"secrets: gcm a=A a=B, identity":                                 {[]string{"overlap"}, "tried until one fits"},
		"secrets: cbc a=A; secrets: cbc b=B, identity":                   {[]string{"repeated"}, "resources[0]"},
		"secrets: cbc a=A, identity; *.*: cbc b=B, identity":             {[]string{"masked"}, "those of *.* are not added"},
		"secrets: cbc a=A, identity; *.: cbc a=A, identity":              {},
		"deployments.apps: cbc a=A, identity; *.apps: gcm g=G, identity": {[]string{"masked"}, "those of *.apps"},
		"secrets: identity, cbc a=A":                                     {[]string{"plaintext-writer"}, "identity comes before aescbc"},
		"secrets: cbc a=A":                                               {[]string{"no-plaintext"}, "cannot be read"},
		"secrets: identity":                                              {[]string{"nothing-encrypted"}, "no key"},
		"secrets: kms1 k, identity":                                      {[]string{"kms-v1"}, "feature-gates"},
		"secrets: kms2 k, identity":                                      {},
	} {
		notices, err := encryption.Validate(config(t, text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var codes []string
		var all strings.Builder
		for _, n := range notices {
			codes = append(codes, n.Code)
			all.WriteString(n.String())
		}
		slices.Sort(codes)
		if !slices.Equal(codes, want.codes) || !strings.Contains(all.String(), want.says) {
			t.Errorf("%s: %v %s, want %v", text, codes, &all, want)
		}
	}
	cfg, err := encryption.Parse([]byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	notices, err := encryption.Validate(cfg)
	if err != nil || !slices.ContainsFunc(notices, func(n encryption.Notice) bool { return n.Code == encryption.NoticeWeakKey }) {
		t.Errorf("no notice about a passphrase: %v, %v", notices, err)
	}
	for _, n := range notices {
		wantSecret(t, "a notice", n.String())
	}
}

// TestResourceNames holds the names that notices suggest against the layout of keys that package keyfilter knows.
func TestResourceNames(t *testing.T) {
	for group, names := range encryption.ResourceNames() {
		for _, name := range names {
			path := "/registry/" + name + "/x"
			if k, err := keyfilter.Parse("", []byte(path)); err != nil || k.GroupKnown && (k.Group != group || k.Resource != name) {
				t.Errorf("%s.%s: keyfilter knows it as %s.%s (%v)", name, group, k.Resource, k.Group, err)
			}
		}
	}
}
