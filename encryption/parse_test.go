package encryption_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/server/options/encryptionconfig"

	"github.com/understudy-dr/understudy/encryption"
)

// secretA is what no error, notice or log may contain. It is the secret of a key of 32 bytes.
const secretA = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ="

const valid = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, configmaps]
  providers:
  - aescbc:
      keys:
      - name: key1
        secret: ` + secretA + `
  - aesgcm:
      keys:
      - name: key1
        secret: ` + secretA + `
  - kms:
      apiVersion: v2
      name: vault
      endpoint: unix:///run/kms.sock
      timeout: 5s
  - identity: {}
- resources: ['*.apps']
  providers:
  - secretbox:
      keys:
      - name: box
        secret: ` + secretA + `
  - identity: {}
`

// secretParts are what no text may contain: the secret in both forms, and recognisable parts of it.
var secretParts = []string{secretA, secretA[:12], "hunter2hunter2", "hunter2h"}

func wantSecret(t testing.TB, what, text string) {
	t.Helper()
	for _, part := range secretParts {
		if strings.Contains(text, part) {
			t.Errorf("%s shows a secret: %s", what, text)
			return
		}
	}
}

func TestParse(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"as it is": func(s string) string { return s },
		"a marker": func(s string) string { return "---\n" + s },
		"an end":   func(s string) string { return s + "...\n# comment\n" },
		"Windows":  func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		"a mark":   func(s string) string { return "\ufeff" + s },
		"legacy": func(s string) string {
			return strings.Replace(strings.Replace(s, "apiserver.config.k8s.io/v1", "v1", 1), "EncryptionConfiguration", "EncryptionConfig", 1)
		},
		"a comment":   func(s string) string { return "# keys\n" + s },
		"a directive": func(s string) string { return "%YAML 1.1\n---\n" + s },
	} {
		cfg, err := encryption.Parse([]byte(change(valid)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := brief(cfg, true); got != "secrets,configmaps [cbc:key1 gcm:key1 vault identity]; *.apps [secretbox:box identity]" {
			t.Errorf("%s: got %s", name, got)
		}
		if _, err := encryption.Validate(cfg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	const object = `{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"1","secret":"` + secretA + `"}]}},{"identity":{}}]}]}`
	for name, text := range map[string]string{"JSON": object, "JSON with a line's end": object + "\n", "JSON with tabs": strings.ReplaceAll(object, ",", ",\n\t\t")} {
		if cfg, err := encryption.Parse([]byte(text)); err != nil || brief(cfg, false) != "secrets [1 identity]" {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "enc.yaml")
	if _, err := encryption.ParseFile(path); !errors.Is(err, encryption.ErrFile) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("kind: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := encryption.ParseFile(path); !errors.Is(err, encryption.ErrParse) || !strings.HasPrefix(err.Error(), path) {
		t.Errorf("a wrong file: %v", err)
	}
}

// TestParseErrors: what is refused says where and what to do, and never shows what it stumbles over.
func TestParseErrors(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(valid, old) {
			t.Fatalf("the sample lacks %q", old)
		}
		return strings.Replace(valid, old, new, 1)
	}
	for name, v := range map[string]struct{ text, says string }{
		"empty":                   {"", "the file is empty"},
		"only comments":           {"# " + secretA + "\n", "the file is empty"},
		"null":                    {"null\n", "the file is empty"},
		"a list":                  {"- a\n", "does not consist of fields"},
		"a second document":       {valid + "---\n" + valid, "a second YAML document starts"},
		"an empty second one":     {valid + "---\n", "a second YAML document starts"},
		"text behind the end":     {valid + "...\n" + secretA + "\n", "text behind the end"},
		"no line's end":           {strings.TrimSuffix(valid, "\n"), "the last line does not end"},
		"not UTF-8":               {valid + "\xff\n", "not UTF-8"},
		"not YAML":                {replace("- name: key1", "- name: ["+secretA), "not valid YAML"},
		"a tab":                   {replace("      keys:", "\tkeys:"), "not valid YAML"},
		"a field twice":           {replace("- name: key1", "- name: key1\n        name: "+secretA), "a field is given twice"},
		"a secret as a field":     {replace("secret: "+secretA, secretA+": x"), "resources[0].providers[0].aescbc.keys[0]: an unknown field, not shown"},
		"an unknown field":        {replace("- name: key1", "- name: key1\n        secrt: "+secretA), "resources[0].providers[0].aescbc.keys[0]: unknown field secrt; known are name, secret"},
		"a field in capitals":     {replace("secret: "+secretA, "Secret: "+secretA), "unknown field Secret"},
		"an unknown provider":     {replace("aescbc:", "aesccm:"), "resources[0].providers[0]: unknown field aesccm"},
		"identity without value":  {replace("identity: {}", "identity:"), "resources[0].providers[3].identity: has no value, which kube-apiserver takes for no provider at all; write identity: {}"},
		"identity with fields":    {replace("identity: {}", "identity: {"+secretA+": 1}"), "it has no fields: write {}"},
		"a provider without one":  {replace("  - kms:\n      apiVersion: v2\n      name: vault\n      endpoint: unix:///run/kms.sock\n      timeout: 5s\n", "  - kms:\n"), "resources[0].providers[2].kms: has no value"},
		"a number for a name":     {replace("name: key1", "name: 1"), "resources[0].providers[0].aescbc.keys[0].name: is a number where a text belongs; put it into quotes"},
		"a list for a secret":     {replace("secret: "+secretA, "secret: ["+secretA+"]"), "keys[0].secret: is a list where a text belongs"},
		"a text for keys":         {replace("secretbox:\n      keys:\n      - name: box\n        secret: "+secretA, "secretbox:\n      keys: "+secretA), "secretbox.keys: is a text where a list belongs"},
		"a text for a provider":   {replace("- identity: {}", "- "+secretA), "resources[0].providers[3]: is a text where fields belong"},
		"a text for resources":    {replace("['*.apps']", secretA), "resources[1].resources: is a text where a list belongs"},
		"a wrong duration":        {replace("timeout: 5s", "timeout: "+secretA), "kms.timeout: is no duration"},
		"a duration as a number":  {replace("timeout: 5s", "timeout: 5"), "kms.timeout: is no duration"},
		"a cache that is no int":  {replace("timeout: 5s", "cachesize: 1.5"), "kms.cachesize: is no whole number"},
		"a cache that is a text":  {replace("timeout: 5s", "cachesize: "+secretA), "kms.cachesize: is a text where a number belongs"},
		"a cache beyond 32 bits":  {replace("timeout: 5s", "cachesize: 4294967296"), "kms.cachesize: is no whole number"},
		"another kind":            {replace("kind: EncryptionConfiguration", "kind: "+secretA), "apiVersion, kind: are not those"},
		"no kind":                 {replace("kind: EncryptionConfiguration\n", ""), "apiVersion, kind: are not those"},
		"an unregistered version": {replace("k8s.io/v1", "k8s.io/v1beta1"), "apiVersion: is another version"},
		"too large":               {valid + "#" + strings.Repeat("x", 1<<20), "larger than"},
		"JSON that was cut off":   {`{"kind":"EncryptionConfiguration","resources":[{"secret":"` + secretA, "not valid JSON"},
		"JSON twice":              {`{"kind":"a"}{"kind":"` + secretA + `"}`, "text behind the end of the JSON"},
		"a JSON field twice":      {`{"kind":"a","kind":"` + secretA + `"}`, "a field is given twice"},
		"JSON with a comma":       {`{"kind":"` + secretA + `",}`, "not valid JSON"},
		"deep JSON":               {strings.Repeat(`{"a":`, 100), "not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := encryption.Parse([]byte(v.text))
			if err == nil {
				t.Fatalf("accepted as %s", brief(cfg, true))
			}
			if !errors.Is(err, encryption.ErrParse) || !strings.Contains(err.Error(), v.says) {
				t.Errorf("got %v, want %q", err, v.says)
			}
			var e *encryption.Error
			if !errors.As(err, &e) || e.Hint == "" {
				t.Errorf("%v has no hint", err)
			}
			wantSecret(t, name, err.Error())
		})
	}
}

// TestTruncated cuts a file at each byte: it is refused, unless the cut leaves whole lines that make a whole configuration by themselves.
func TestTruncated(t *testing.T) {
	var whole []string // the last line of what is left
	for i := range len(valid) {
		cut := []byte(valid[:i])
		cfg, err := encryption.Parse(cut)
		if err == nil {
			_, err = encryption.Validate(cfg)
		}
		if err != nil {
			wantSecret(t, "a cut file", err.Error())
			continue
		}
		lines := strings.Split(string(cut), "\n")
		whole = append(whole, strings.TrimSpace(lines[len(lines)-2])+"|"+lines[len(lines)-1])
	}
	want := []string{"secret: " + secretA + "|", "secret: " + secretA + "|", "endpoint: unix:///run/kms.sock|", "timeout: 5s|", "- identity: {}|", "secret: " + secretA + "|"}
	if !slices.Equal(whole, want) {
		t.Errorf("what is left is accepted where it ends with %q, want %q", whole, want)
	}
	const object = `{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"identity":{}}]}]}`
	for i := range len(object) {
		if _, err := encryption.Parse([]byte(object[:i])); err == nil {
			t.Errorf("JSON cut at byte %d: accepted", i)
		}
	}
}

// loads reports whether kube-apiserver's own loader takes a file. It needs no KMS plugin for that.
func loads(t testing.TB, data []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "enc.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := encryptionconfig.LoadEncryptionConfig(ctx, path, true, "test")
	return err
}

// FuzzParse: whatever is parsed and valid is taken by kube-apiserver's loader, and comes back from Encode as it was; no error holds the secret.
func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(strings.ReplaceAll(valid, "aesgcm", "identity")))
	f.Add([]byte("apiVersion: v1\nkind: EncryptionConfig\nresources:\n- resources: ['*.*']\n  providers: [{identity: {}}]\n"))
	f.Add([]byte(`{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"identity":{}}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := encryption.Parse(data)
		if err == nil {
			var notices []encryption.Notice
			if notices, err = encryption.Validate(cfg); err == nil {
				for _, n := range notices {
					wantSecret(t, "a notice", n.String())
				}
				if bytes.Contains(data, []byte("kms")) {
					return // the loader would begin to look for plugins
				}
				if err := loads(t, data); err != nil {
					t.Fatalf("kube-apiserver refuses what is valid here: %v\n%s", err, data)
				}
				again, err := encryption.Parse(encode(t, cfg))
				if err != nil || brief(again, true) != brief(cfg, true) {
					t.Fatalf("not the same after Encode: %v", err)
				}
				return
			}
		}
		wantSecret(t, "an error", err.Error())
	})
}
