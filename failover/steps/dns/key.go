package dns

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	mdns "github.com/miekg/dns"
)

// Secret is a key's secret. Printing it, by whatever means, shows that it is one.
type Secret []byte

const masked = "[secret]"

// String masks the secret.
func (Secret) String() string { return masked }

// Format masks the secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) }

// MarshalText masks the secret, in JSON too.
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

// Key is a TSIG key: either File, or Name and Secret.
type Key struct {
	// Name is the key's name at the server.
	Name string
	// Algorithm is hmac-sha256, hmac-sha384, hmac-sha512, hmac-sha224 or hmac-sha1; "" is hmac-sha256. hmac-md5 is refused: RFC 8945 forbids it.
	Algorithm string
	// Secret is the shared secret itself, not its base64.
	Secret Secret
	// File holds the key as tsig-keygen prints it: key "name" { algorithm hmac-sha256; secret "…"; }; It is read once, by RFC2136. Others must not be able to read it.
	File string
}

// maxKeyFile bounds what is read of a key's file.
const maxKeyFile = 64 << 10

// load returns the key as the library wants it: canonical name and algorithm, secret in base64. Its errors hold nothing of the secret.
func (k Key) load() (name, algorithm, secret string, err error) {
	if k.File != "" {
		if k.Name != "" || k.Algorithm != "" || len(k.Secret) > 0 {
			return "", "", "", errors.New("it has a File and other fields: use one of the two")
		}
		if k, err = readKeyFile(k.File); err != nil {
			return "", "", "", err
		}
	}
	if name, err = canonicalName(k.Name); err != nil {
		return "", "", "", fmt.Errorf("its Name: %w", err)
	}
	if len(k.Secret) == 0 {
		return "", "", "", errors.New("its Secret is empty")
	}
	switch a := strings.ToLower(strings.TrimSuffix(k.Algorithm, ".")); a {
	case "":
		algorithm = mdns.HmacSHA256
	case "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512":
		algorithm = a + "."
	case "hmac-md5", "hmac-md5.sig-alg.reg.int":
		return "", "", "", errors.New("its Algorithm is hmac-md5, which is forbidden: make a new key with tsig-keygen -a hmac-sha256")
	default:
		return "", "", "", fmt.Errorf("its Algorithm %q is unknown: use hmac-sha256", k.Algorithm)
	}
	return name, algorithm, base64.StdEncoding.EncodeToString(k.Secret), nil
}

func readKeyFile(path string) (k Key, err error) {
	f, err := os.Open(path)
	if err != nil {
		return k, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return k, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return k, fmt.Errorf("%s can be read by everybody (%v): chmod o= it", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return k, err
	}
	if len(text) > maxKeyFile {
		return k, fmt.Errorf("%s has more than %d bytes", path, maxKeyFile)
	}
	if k, err = parseKey(string(text)); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// parseKey reads the one key of a file. Errors tell what is wrong, not what is there: it may be the secret.
func parseKey(text string) (k Key, err error) {
	words, err := keyWords(text)
	if err != nil {
		return k, err
	}
	if len(words) < 3 || words[0] != "key" || words[2] != "{" {
		return k, errors.New(`it does not begin with key "name" {`)
	}
	k.Name = words[1]
	rest := words[3:]
	for ; len(rest) >= 3 && rest[0] != "}"; rest = rest[3:] {
		if rest[2] != ";" {
			return k, errors.New("a statement does not end with ;")
		}
		switch {
		case rest[0] == "algorithm" && k.Algorithm == "":
			k.Algorithm = rest[1]
		case rest[0] == "secret" && k.Secret == nil:
			if k.Secret, err = base64.StdEncoding.DecodeString(rest[1]); err != nil {
				return k, errors.New("the secret is no base64")
			}
		default:
			return k, errors.New("it has a statement that is no algorithm or secret, or one twice")
		}
	}
	switch {
	case len(rest) == 0 || rest[0] != "}" || len(rest) > 2 || len(rest) == 2 && rest[1] != ";":
		return k, errors.New("it does not end with }; after one key")
	case k.Algorithm == "":
		return k, errors.New("the algorithm is missing")
	case len(k.Secret) == 0:
		return k, errors.New("the secret is missing")
	}
	return k, nil
}

// keyWords takes a file in BIND's style apart: words, quoted words without their quotes, and { } ; as words. Comments are // and # to the line's end, and /* */.
func keyWords(text string) (words []string, err error) {
	for text != "" {
		switch c := text[0]; {
		case strings.ContainsRune(" \t\r\n", rune(c)):
			text = text[1:]
		case c == '#' || strings.HasPrefix(text, "//"):
			_, text, _ = strings.Cut(text, "\n")
		case strings.HasPrefix(text, "/*"):
			_, after, ok := strings.Cut(text[2:], "*/")
			if !ok {
				return nil, errors.New("a comment does not end")
			}
			text = after
		case c == '{' || c == '}' || c == ';':
			words, text = append(words, text[:1]), text[1:]
		case c == '"':
			word, after, ok := strings.Cut(text[1:], `"`)
			if !ok || strings.Contains(word, "\n") {
				return nil, errors.New("a quote does not end")
			}
			words, text = append(words, word), after
		default:
			end := strings.IndexAny(text, " \t\r\n{};\"#")
			if end < 0 {
				end = len(text)
			}
			words, text = append(words, text[:end]), text[end:]
		}
	}
	return words, nil
}
