package dns

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func keyText(secret string) string {
	return fmt.Sprintf("# made by hand\nkey \"update-key\" { // name\n\talgorithm hmac-sha512;\n\tsecret \"%s\"; /* x */\n};\n", secret)
}

func TestKeyFiles(t *testing.T) {
	secret := base64.StdEncoding.EncodeToString(goodSecret)
	file := filepath.Join(t.TempDir(), "key")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(keyText(secret), 0o640)
	name, algorithm, got, err := Key{File: file}.load()
	if err != nil || name != "update-key." || algorithm != "hmac-sha512." || got != secret {
		t.Errorf("got %q, %q, %v", name, algorithm, err)
	}
	if made, err := exec.Command("tsig-keygen", "-a", "hmac-sha384", "x.example.com").Output(); err == nil {
		write(string(made), 0o600)
		if _, algorithm, _, err := (Key{File: file}).load(); err != nil || algorithm != "hmac-sha384." {
			t.Errorf("what tsig-keygen printed: %q, %v", algorithm, err)
		}
	}
	for text, want := range map[string]string{
		"": "does not begin", secret: "does not begin", strings.Replace(keyText(secret), "};", "", 1): "does not end", keyText("!!"): "no base64", keyText(""): "secret is missing",
		keyText(secret) + keyText(secret): "does not end with }; after one key", strings.Replace(keyText(secret), "algorithm", "secret", 1): "", strings.Replace(keyText(secret), "hmac-sha512;", "hmac-sha512", 1): "does not end with ;",
		"key \"x": "quote", "/* ": "comment",
	} {
		write(text, 0o600)
		_, err := RFC2136(RFC2136Config{Server: "127.0.0.1", Key: Key{File: file}})
		wantConfig(t, err, want)
	}
	write(keyText(secret), 0o644)
	_, err = RFC2136(RFC2136Config{Server: "127.0.0.1", Key: Key{File: file}})
	wantConfig(t, err, "can be read by everybody")
	_, err = RFC2136(RFC2136Config{Server: "127.0.0.1", Key: Key{File: file + "x"}})
	wantConfig(t, err, "no such file")
}

// FuzzParseKey: what is taken means the same when it is written again, and no error shows what was in the file.
func FuzzParseKey(f *testing.F) {
	f.Add(keyText(base64.StdEncoding.EncodeToString(goodSecret)))
	f.Add(`key a{algorithm b;secret "YQ==";}`)
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parseKey(text)
		if err != nil {
			return
		}
		if len(k.Secret) == 0 || k.Algorithm == "" {
			t.Fatal("a key without secret or algorithm is taken")
		}
		if strings.ContainsAny(k.Name+k.Algorithm, "\"\n") {
			return
		}
		again, err := parseKey(fmt.Sprintf("key \"%s\" { algorithm \"%s\"; secret \"%s\"; };", k.Name, k.Algorithm, base64.StdEncoding.EncodeToString(k.Secret)))
		if err != nil || again.Name != k.Name || again.Algorithm != k.Algorithm || !bytes.Equal(again.Secret, k.Secret) {
			t.Fatalf("it reads otherwise when written again: %v", err)
		}
	})
}
