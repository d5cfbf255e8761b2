package encryption

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
)

// Codes of the notices of Validate.
const (
	// NoticeResource: a resource's name is none that kube-apiserver stores, or is misspelt.
	NoticeResource = "resource"
	// NoticeColon: the name of a key holds a colon.
	NoticeColon = "colon"
	// NoticeOverlap: two keys of one kind take each other's values: the same name, or one that is followed by a colon in the other.
	NoticeOverlap = "overlap"
	// NoticeRepeated: a resource is listed in several entries, whose providers follow one another.
	NoticeRepeated = "repeated"
	// NoticeMasked: a resource that is listed by name does not use the keys of a wildcard.
	NoticeMasked = "masked"
	// NoticePlaintextWriter: values are written unencrypted although there are keys.
	NoticePlaintextWriter = "plaintext-writer"
	// NoticeNoPlaintext: values that are not encrypted cannot be read.
	NoticeNoPlaintext = "no-plaintext"
	// NoticeWeakKey: a secret consists of printable characters, as a passphrase does.
	NoticeWeakKey = "weak-key"
	// NoticeKMSv1: the KMS v1 API is off since Kubernetes 1.29 unless a feature gate turns it on.
	NoticeKMSv1 = "kms-v1"
	// NoticeNothing: nothing is encrypted at all.
	NoticeNothing = "nothing-encrypted"
)

// Validate tells whether kube-apiserver would start with a configuration, by upstream's own rules (k8s.io/apiserver/pkg/apis/apiserver/validation, and the order of
// wildcards in pkg/server/options/encryptionconfig), as with --encryption-provider-config-automatic-reload, where they are strictest. Errors match ErrInvalid,
// one for each thing that is wrong, and name the field; for a secret of a wrong length they name the key, the length found and the lengths allowed.
//
// The notices are what kube-apiserver accepts and operators regret. Neither holds key material.
func Validate(cfg *Configuration) ([]Notice, error) {
	if cfg == nil {
		return nil, &Error{Kind: ErrInvalid, Detail: "there is none", Hint: "make it with Parse"}
	}
	internal := &apiserver.EncryptionConfiguration{}
	copied := cfg.DeepCopy()
	scheme.Default(copied)
	if err := scheme.Convert(copied, internal, nil); err != nil {
		return nil, &Error{Kind: ErrInvalid, Detail: "it has no form that kube-apiserver uses", Hint: "make it with Parse"}
	}
	errs := checkKeys(copied)
	for _, e := range validation.ValidateEncryptionConfiguration(internal, true) {
		if strings.Contains(e.Field, ".keys") {
			continue // checkKeys says the same, with the key's name
		}
		errs = append(errs, explainUpstream(e))
	}
	errs = append(errs, checkOrder(copied)...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return notices(copied)
}

// keyLists are the keys of a provider, and the lengths that their secrets may have.
func keyLists(p apiserverv1.ProviderConfiguration) (provider string, keys []apiserverv1.Key, lengths []int) {
	switch {
	case p.AESGCM != nil:
		return AESGCM, p.AESGCM.Keys, []int{16, 24, 32}
	case p.AESCBC != nil:
		return AESCBC, p.AESCBC.Keys, []int{16, 24, 32}
	case p.Secretbox != nil:
		return Secretbox, p.Secretbox.Keys, []int{32}
	}
	return "", nil, nil
}

// checkKeys repeats validateKeys of upstream in words that name the key.
func checkKeys(cfg *Configuration) (errs []error) {
	for i, entry := range cfg.Resources {
		for j, p := range entry.Providers {
			provider, keys, lengths := keyLists(p)
			if provider == "" {
				continue
			}
			path := fmt.Sprintf("resources[%d].providers[%d].%s.keys", i, j, provider)
			bad := func(path, detail, hint string) {
				errs = append(errs, &Error{Kind: ErrInvalid, Field: path, Detail: detail, Hint: hint})
			}
			if len(keys) == 0 {
				bad(path, "is empty", "give at least one key, or remove the provider")
			}
			for k, key := range keys {
				at := fmt.Sprintf("%s[%d]", path, k)
				who := "key " + showName(key.Name)
				if key.Name == "" {
					bad(at+".name", "is missing", "give the key a name")
					who = "the key"
				}
				secret, err := base64.StdEncoding.DecodeString(key.Secret)
				wanted := fmt.Sprintf("make one with: head -c %d /dev/urandom | base64 -w 0", lengths[len(lengths)-1])
				switch {
				case key.Secret == "":
					bad(at+".secret", who+" has no secret", wanted)
				case err != nil:
					bad(at+".secret", "the secret of "+who+" is no standard base64", "write it with the letters A-Z, a-z, 0-9, + and /, padded with =; "+wanted)
				case !slices.Contains(lengths, len(secret)):
					bad(at+".secret", fmt.Sprintf("the secret of %s is %d bytes long, and %s takes %s", who, len(secret), provider, numbers(lengths)), wanted)
				}
			}
		}
	}
	return errs
}

func numbers(list []int) string {
	var words []string
	for _, n := range list {
		words = append(words, fmt.Sprint(n))
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
	return strings.Join(words, "")
}

// explainUpstream says in own words what upstream found. Its own may quote the configuration: an element with two providers is printed with its secrets.
func explainUpstream(e *field.Error) error {
	detail, hint := "is refused by kube-apiserver", "compare it with the documentation of EncryptionConfiguration"
	for _, known := range []struct{ says, detail, hint string }{
		{"more than one provider specified", "has more than one provider", "make each provider an element of the list"},
		{"provider does not contain any", "has no provider", "give one of aesgcm, aescbc, secretbox, kms or identity: {}"},
		{"at least one resources is required", "is empty", "give at least one entry"},
		{"at least one resources[", "is empty", "list at least one"},
		{"the same resource cannot be specified", "lists a resource twice", "remove one of them"},
		{"using overlapping resources", "lists a resource and a wildcard that covers it", "put the wildcard into an entry of its own, behind the others"},
		{"resource name should not contain capital", "has capital letters", "write resources in lower case and in plural, such as secrets or deployments.apps"},
		{"use '*.' to encrypt", "is *", "write *. for the core group or *.* for everything"},
		{"resources which do not have REST API", "is no resource of the API, and is never encrypted", "remove it"},
		{"'*.events.k8s.io'", "is stored in the core group", "write events"},
		{"'extensions' group has been removed", "is in a group that was removed", "write the resource's present group"},
		{"encrypting the same resource across groups", "is a resource in every group, which does not exist", "write resource.group, *.group or *.*"},
		{"invalid KMS provider name", "holds a colon", "rename the plugin's entry: names of KMS v2 have none"},
		{"duplicate KMS provider name", "is the name of another KMS provider in the file", "list the resources of a KMS provider in one entry"},
		{"name is a mandatory field", "is missing", "give the plugin a name"},
		{"endpoint is a mandatory field", "is missing", "give the plugin's socket, such as unix:///var/run/kms.sock"},
		{"invalid endpoint for kms provider", "is no URL", "give the plugin's socket, such as unix:///var/run/kms.sock"},
		{"unsupported scheme", "is no unix socket", "give the plugin's socket, such as unix:///var/run/kms.sock"},
		{"unsupported apiVersion", "is no version of the KMS API", "write v2, or v1 for an old plugin"},
		{"timeout should be a positive", "is not positive", "write a duration such as 3s"},
		{"cachesize is not supported in v2", "is for KMS v1 only", "remove it"},
		{"cachesize should be a positive", "is zero", "write a positive number, or a negative one for no cache"},
	} {
		if strings.Contains(e.Detail, known.says) {
			detail, hint = known.detail, known.hint
			break
		}
	}
	return &Error{Kind: ErrInvalid, Field: e.Field, Detail: detail, Hint: hint}
}

// checkOrder repeats the loader's rule that nothing follows a wildcard that covers it (getTransformerOverridesAndKMSPluginProbes in server/options/encryptionconfig/config.go).
func checkOrder(cfg *Configuration) (errs []error) {
	seen := map[spec]bool{}
	for i, entry := range cfg.Resources {
		for j, resource := range entry.Resources {
			s := schema.ParseGroupResource(resource)
			for _, wild := range []spec{{Group: s.Group, Resource: "*"}, everything} {
				if seen[wild] {
					errs = append(errs, &Error{Kind: ErrInvalid, Field: fmt.Sprintf("resources[%d].resources[%d]", i, j), Detail: "comes behind the wildcard " + specText(wild) + ", which covers it",
						Hint: "put wildcards last, and each of them once"})
					break
				}
			}
			seen[s] = true
		}
	}
	return errs
}

// notices looks at a configuration that kube-apiserver accepts.
func notices(cfg *Configuration) ([]Notice, error) {
	t, err := newTable(cfg)
	if err != nil {
		return nil, err
	}
	var all []Notice
	note := func(code, field, text string) { all = append(all, Notice{Code: code, Field: field, Text: text}) }
	first := map[spec]int{}
	encrypts := false
	for i, entry := range cfg.Resources {
		for j, resource := range entry.Resources {
			at := fmt.Sprintf("resources[%d].resources[%d]", i, j)
			s := schema.ParseGroupResource(resource)
			if odd := misspelt(s); odd != "" {
				note(NoticeResource, at, fmt.Sprintf("%s %s.", showName(resource), odd))
			}
			if before, ok := first[s]; ok {
				note(NoticeRepeated, at, fmt.Sprintf("%s is also in resources[%d]: the providers of both are used, the earlier ones first.", showSpec(s), before))
			} else {
				first[s] = i
			}
		}
		for j, p := range entry.Providers {
			provider, keys, _ := keyLists(p)
			for k, key := range keys {
				at := fmt.Sprintf("resources[%d].providers[%d].%s.keys[%d]", i, j, provider, k)
				if strings.Contains(key.Name, ":") {
					note(NoticeColon, at+".name", fmt.Sprintf("the name %s holds a colon: a key that is called like its beginning would take its values.", showName(key.Name)))
				}
				if secret, err := base64.StdEncoding.DecodeString(key.Secret); err == nil && printable(secret) {
					note(NoticeWeakKey, at+".secret", fmt.Sprintf("the secret of key %s consists of characters that one can type, as if it were a passphrase: random bytes are stronger.", showName(key.Name)))
				}
			}
			if p.KMS != nil && p.KMS.APIVersion != "v2" {
				note(NoticeKMSv1, fmt.Sprintf("resources[%d].providers[%d].kms.apiVersion", i, j), "the KMS v1 API is off since Kubernetes 1.29, unless --feature-gates=KMSv1=true.")
			}
		}
	}
	for _, s := range t.specs {
		l := t.lists[s]
		key, has := l.firstKey()
		encrypts = encrypts || has
		switch {
		case has && l[0].isIdentity():
			note(NoticePlaintextWriter, "", fmt.Sprintf("%s are written unencrypted, because identity comes before %s.", showSpec(s), key))
		case !l.has(identityAtom):
			note(NoticeNoPlaintext, "", fmt.Sprintf("%s that are not encrypted cannot be read, because identity is not among the providers.", showSpec(s)))
		}
		for i, a := range l {
			for _, b := range l[i+1:] {
				if !a.same(b) && a.overlaps(b) {
					note(NoticeOverlap, "", overlapText(s, a, b))
				}
			}
		}
		for _, wild := range []spec{{Group: s.Group, Resource: "*"}, everything} {
			if m, ok := t.lists[wild]; ok && wild != s && !containsAll(l, m) {
				note(NoticeMasked, "", fmt.Sprintf("%s use their own providers only: those of %s are not added.", showSpec(s), showSpec(wild)))
				break
			}
		}
	}
	if !encrypts {
		note(NoticeNothing, "", "nothing is encrypted: there is no key.")
	}
	return all, nil
}

func overlapText(s spec, a, b atom) string {
	if a.authenticated() {
		return fmt.Sprintf("%s: %s and %s take each other's values; each is tried until one fits.", showSpec(s), a, b)
	}
	return fmt.Sprintf("%s: %s and %s take each other's values; one of 255 that belong to the later one is read as garbage, and one such value makes every list of its resource fail.", showSpec(s), a, b)
}

func containsAll(l, m list) bool {
	for _, a := range m {
		if !l.has(a) {
			return false
		}
	}
	return true
}

func printable(secret []byte) bool {
	for _, c := range secret {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
