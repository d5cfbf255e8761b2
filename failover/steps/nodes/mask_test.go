package nodes_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// TestMask: what has to go and what should stay.
func TestMask(t *testing.T) {
	key := "MTE0NTE0MTkxOTgxMA=="
	pem := "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBnd\nshort\n-----END EC PRIVATE KEY-----"
	for name, c := range map[string]struct {
		text string
		gone []string
		stay []string
	}{
		"encryption config":    {"        - aescbc:\n            keys:\n            - name: key1\n              secret: " + key + "\n", []string{key, "MTE0"}, []string{"- name: key1", "secret: " + nodes.Masked}},
		"quoted":               {`{"name":"key1","secret":"short one"}`, []string{"short one"}, []string{`"name":"key1"`}},
		"single quoted":        {`secret: 'p q'`, []string{"p q"}, []string{"secret"}},
		"escaped JSON":         {`{\"secret\":\"abc\"}`, []string{"abc"}, []string{"secret"}},
		"block":                {"a: 1\npassword: |\n  line one\n  line two\nb: 2\n", []string{"line one", "line two"}, []string{"a: 1", "b: 2"}},
		"next line":            {"- secret:\n    deeper\n  name: x\n", []string{"deeper"}, []string{"name: x"}},
		"pem":                  {"before\n" + pem + "\nafter", []string{"MHcC", "short"}, []string{"before", "after"}},
		"pem cut off":          {"before\n" + pem[:50], []string{"MHcC"}, []string{"before"}},
		"kubeconfig":           {"client-key-data: LS0tLS1CRUdJTg==\nserver: https://10.0.0.1:6443", []string{"LS0t"}, []string{"server: https://10.0.0.1:6443"}},
		"command line":         {"tool --password hunter2 --token=abc --name x", []string{"hunter2", "abc"}, []string{"--name x"}},
		"environment":          {"ETCD_ROOT_PASSWORD=hunter2 ETCD_NAME=a", []string{"hunter2"}, []string{"ETCD_NAME=a"}},
		"header":               {"Authorization: Bearer abc.def-123", []string{"abc.def"}, []string{"Authorization"}},
		"what is no secret":    {"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 /etc/kubernetes/manifests/kube-apiserver.yaml", nil, []string{"9f86d081884c7d65", "/etc/kubernetes/manifests/kube-apiserver.yaml"}},
		"settings":             {"cluster.quorum-type=fixed", nil, []string{"cluster.quorum-type=fixed"}},
		"bare base64 of a key": {"got " + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef")) + " there", []string{"MDEy"}, []string{"got", "there"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := nodes.NewMasker().Mask(c.text)
			for _, s := range c.gone {
				if strings.Contains(got, s) {
					t.Errorf("%q is still there: %q", s, got)
				}
			}
			for _, s := range c.stay {
				if !strings.Contains(got, s) {
					t.Errorf("%q is gone: %q", s, got)
				}
			}
			if again := nodes.NewMasker().Mask(got); again != got {
				t.Errorf("masked again: %q, once: %q", again, got)
			}
		})
	}
}

// TestMaskRandom: keys of all sizes that apiservers take, in base64, and given secrets in any form, are gone wherever they stand.
func TestMaskRandom(t *testing.T) {
	seed := mathrand.Uint64()
	rng := mathrand.New(mathrand.NewPCG(seed, 1))
	frames := []string{"%s", "x %s y", "key=%s", "[%s]", "a\n\t%s\nb", `{"k":"%s"}`, "keys: [%s, z]", "-> %s."}
	for range 3000 {
		key := make([]byte, []int{16, 24, 32}[rng.IntN(3)])
		_, _ = rand.Read(key)
		text := base64.StdEncoding.EncodeToString(key)
		if got := nodes.NewMasker().Mask(fmt.Sprintf(frames[rng.IntN(len(frames))], text)); strings.Contains(got, text) || strings.Contains(got, text[:16]) {
			t.Fatalf("seed %d: %s: %s", seed, text, got)
		}
		secret := string(bytes.Repeat([]byte{byte('a' + rng.IntN(26))}, 3+rng.IntN(5))) + "!" + fmt.Sprint(rng.IntN(1000))
		m := nodes.NewMasker(secret, secret[:3])
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret))} {
			if got := m.Mask(fmt.Sprintf(frames[rng.IntN(len(frames))], form)); strings.Contains(got, strings.TrimRight(form, "=")) {
				t.Fatalf("seed %d: %q: %s", seed, form, got)
			}
		}
	}
}

// FuzzMask: a given secret never comes through, whatever stands around it, and masking ends.
func FuzzMask(f *testing.F) {
	f.Add("secret: ", "\nx")
	f.Add("-----BEGIN X-----", "-----END X-----")
	f.Add(`"password":"`, `\"`)
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "zq0Kx!"
		if got := nodes.NewMasker(secret).Mask(before + secret + after); strings.Contains(got, secret) {
			t.Errorf("%q", got)
		}
	})
}
