package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/keyfilter"
)

const (
	encryptedKey = "/registry/secrets/team-a/encrypted"
	plainObject  = `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"encrypted"},"data":"` + secret + `"}`
)

// encryptionFile writes an EncryptionConfiguration with one key, whose secret holds the word that no output may show.
func encryptionFile(t *testing.T, provider, name, letters string) string {
	t.Helper()
	key := base64.StdEncoding.EncodeToString([]byte((secret + strings.Repeat(letters, 32))[:32]))
	text := fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - %s:\n      keys:\n      - name: %s\n        secret: %s\n  - identity: {}\n", provider, name, key)
	path := filepath.Join(t.TempDir(), "enc.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func encryptionCodec(t *testing.T, path, prefix string) *encryption.Codec {
	t.Helper()
	cfg, err := encryption.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resource, err := keyfilter.Resource(prefix)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(codec.Close)
	return codec
}

func sealed(t *testing.T, codec *encryption.Codec, key string) []byte {
	t.Helper()
	value, err := codec.Seal(context.Background(), key, []byte(plainObject))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestRunTranscodes: with both configurations the target's apiservers read what the source's have written, under another prefix, too; the files may be given in the settings' file.
func TestRunTranscodes(t *testing.T) {
	ctx := testutil.Context(t)
	p := newPair(t)
	source, target := encryptionFile(t, "aesgcm", "key1", "p"), encryptionFile(t, "secretbox", "key1", "s")
	put(t, p.sourceC, encryptedKey, string(sealed(t, encryptionCodec(t, source, ""), encryptedKey)))
	config := filepath.Join(t.TempDir(), "mirror.yaml")
	if err := os.WriteFile(config, []byte("source-encryption-config: "+source+"\ntarget-encryption-config: "+target+"\ntarget-prefix: /kubernetes.io/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	invoke(t, p.args("run", "--config", config, "--exit-after-copy")...).want(t, 0)
	key := strings.Replace(encryptedKey, "/registry/", "/kubernetes.io/", 1)
	resp, err := p.targetC.Get(ctx, key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	if plain, err := encryptionCodec(t, target, "/kubernetes.io").Open(ctx, key, resp.Kvs[0].Value); err != nil || !bytes.Equal(plain, []byte(plainObject)) {
		t.Errorf("the target does not read it: %v", err)
	}
	invoke(t, p.args("status")...).want(t, 0, "transcode-")
}

// TestRunGuardsByTheTargetsConfiguration: a key of the right name and another secret keeps a value from the target.
func TestRunGuardsByTheTargetsConfiguration(t *testing.T) {
	ctx := testutil.Context(t)
	p := newPair(t)
	target, other := encryptionFile(t, "aescbc", "key1", "s"), encryptionFile(t, "aescbc", "key1", "p")
	const wrong = "/registry/secrets/team-a/wrong"
	put(t, p.sourceC, encryptedKey, string(sealed(t, encryptionCodec(t, target, ""), encryptedKey)))
	put(t, p.sourceC, wrong, string(sealed(t, encryptionCodec(t, other, ""), wrong)))
	invoke(t, p.args("run", "--target-encryption-config", target, "--exit-after-copy")...).want(t, 0)
	for key, want := range map[string]int{encryptedKey: 1, wrong: 0} {
		if resp, err := p.targetC.Get(ctx, key); err != nil || len(resp.Kvs) != want {
			t.Errorf("%s: %v, %v", key, resp, err)
		}
	}
	invoke(t, p.args("status", "--keys")...).want(t, 0, "wrong", `encrypted with aescbc`)
}

func TestRunEncryptionErrors(t *testing.T) {
	good := encryptionFile(t, "aescbc", "key1", "s")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, bytes.Replace(text, []byte("secret: "), []byte("secret: AAAA"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(t.TempDir(), "unknown.yaml")
	if err := os.WriteFile(unknown, bytes.Replace(text, []byte("secret: "), []byte("secrets: "), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	none := []string{"run", "--source-endpoints", "192.0.2.1:1", "--target-endpoints", "192.0.2.2:1"}
	for name, v := range map[string]struct {
		args []string
		says []string
	}{
		"the source alone":     {[]string{"--source-encryption-config", good}, []string{"--source-encryption-config: does nothing alone"}},
		"no such file":         {[]string{"--target-encryption-config", "/no/such"}, []string{"--target-encryption-config: ", "/no/such"}},
		"a wrong length":       {[]string{"--target-encryption-config", broken}, []string{"--target-encryption-config: ", `the secret of key "key1" is 35 bytes long`}},
		"two wrong ones":       {[]string{"--source-encryption-config", broken, "--target-encryption-config", unknown}, []string{"--source-encryption-config: ", "--target-encryption-config: ", "unknown field secrets"}},
		"an unusual --prefix":  {[]string{"--target-encryption-config", good, "--prefix", "\x01", "--no-rules"}, []string{"--prefix: "}},
		"not an encryption...": {[]string{"--target-encryption-config", os.Args[0]}, []string{"--target-encryption-config: "}},
	} {
		r := invoke(t, append(none, v.args...)...).want(t, 2, v.says...)
		if strings.Contains(r.err, "Mh1") || strings.Contains(r.err, base64.StdEncoding.EncodeToString([]byte(secret))[:8]) {
			t.Errorf("%s: shows a secret: %s", name, r.err)
		}
	}
}
