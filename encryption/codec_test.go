package encryption_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/keyfilter"
)

func resourceFunc(t testing.TB, prefix string) encryption.ResourceFunc {
	t.Helper()
	resource, err := keyfilter.Resource(prefix)
	if err != nil {
		t.Fatal(err)
	}
	return resource
}

func newCodec(t testing.TB, cfg *encryption.Configuration) *encryption.Codec {
	t.Helper()
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resourceFunc(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(codec.Close)
	return codec
}

// apiserver is kube-apiserver's own loader with one configuration.
type apiserver struct {
	encryptionconfig.StaticTransformers
	resource encryption.ResourceFunc
}

func loadReal(t testing.TB, cfg *encryption.Configuration) *apiserver {
	t.Helper()
	dir, err := os.MkdirTemp("", "enc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "enc.yaml")
	if err := os.WriteFile(path, encode(t, cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c, err := encryptionconfig.LoadEncryptionConfig(ctx, path, true, "test")
	if err != nil {
		t.Fatalf("kube-apiserver refuses %s: %v", brief(cfg, true), err)
	}
	return &apiserver{encryptionconfig.StaticTransformers(c.Transformers), resourceFunc(t, "")}
}

func (a *apiserver) transformer(key string) value.Transformer {
	group, resource, _ := a.resource(key)
	return a.TransformerForResource(schema.GroupResource{Group: group, Resource: resource})
}

func (a *apiserver) open(key string, stored []byte) ([]byte, error) {
	plain, _, err := a.transformer(key).TransformFromStorage(context.Background(), stored, value.DefaultContext(key))
	return plain, err
}

func (a *apiserver) seal(t testing.TB, key string, plain []byte) []byte {
	t.Helper()
	stored, err := a.transformer(key).TransformToStorage(context.Background(), plain, value.DefaultContext(key))
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// panics reports whether kube-apiserver's code panics on a value.
func (a *apiserver) panics(key string, stored []byte) (panics bool) {
	defer func() { panics = recover() != nil }()
	_, _ = a.open(key, stored)
	return false
}

// logBuffer is a log that can be waited for.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) grown(t testing.TB, text string) {
	t.Helper()
	if !strings.Contains(l.String(), text) {
		t.Errorf("the log lacks %q: %s", text, l)
	}
}

var someKeys = []string{secretKey, "/registry/configmaps/team-a/c", "/registry/deployments/team-a/d", "/registry/statefulsets/team-a/s", "/registry/services/specs/team-a/s",
	"/registry/stable.example.com/widgets/team-a/w", "/registry/minions/n1"}

// randomConfig makes a valid configuration of a few keys. kinds are providers without KMS; names and secrets are few, so that they clash.
func randomConfig(t testing.TB, rng *rand.Rand, kms ...string) *encryption.Configuration {
	t.Helper()
	for {
		var entries []string
		groups := [][]string{{"secrets"}, {"secrets", "configmaps"}, {"configmaps"}, {"deployments.apps"}, {"widgets.stable.example.com"}}
		rng.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
		groups = groups[:1+rng.IntN(3)]
		if rng.IntN(4) == 0 {
			groups = append(groups, []string{[]string{"*.apps", "*.", "*.stable.example.com"}[rng.IntN(3)]})
		}
		if rng.IntN(4) == 0 {
			groups = append(groups, []string{"*.*"})
		}
		for _, resources := range groups {
			var providers []string
			for range 1 + rng.IntN(3) {
				switch kind := rng.IntN(8); {
				case kind == 0:
					providers = append(providers, "identity")
				case kind == 1 && len(kms) > 0:
					providers = append(providers, kms[rng.IntN(len(kms))])
				default:
					p := []string{"cbc", "cbc", "gcm", "secretbox"}[rng.IntN(4)]
					for range 1 + rng.IntN(2) {
						p += fmt.Sprintf(" %s=%c", []string{"key1", "key2", "k", "k:x"}[rng.IntN(4)], 'A'+rune(rng.IntN(6)))
					}
					providers = append(providers, p)
				}
			}
			entries = append(entries, strings.Join(resources, ",")+": "+strings.Join(providers, ", "))
		}
		cfg := config(t, strings.Join(entries, "; "))
		if _, err := encryption.Validate(cfg); err == nil {
			return cfg
		}
	}
}

// TestCodecLikeTheLoader holds Codec against kube-apiserver's own loader: random configurations read random values, their own and others', whole and damaged.
// They agree, but where kube-apiserver panics, and where it takes what a wrong key makes of a value for the object.
func TestCodecLikeTheLoader(t *testing.T) {
	ctx := testutil.Context(t)
	reads, panics, garbage, refused := 0, 0, 0, 0
	schedules(t, 60, func(t *testing.T, seed uint64, rng *rand.Rand) {
		mine, others := randomConfig(t, rng), randomConfig(t, rng)
		codec, real := newCodec(t, mine), loadReal(t, mine)
		writers := []*apiserver{real, loadReal(t, others)}
		for range 40 {
			key := someKeys[rng.IntN(len(someKeys))]
			stored := writers[rng.IntN(2)].seal(t, key, object)
			switch rng.IntN(8) {
			case 0: // cut off: aescbc with nothing but its vector among them
				if i := bytes.LastIndexByte(stored[:min(len(stored), 40)], ':'); i > 0 {
					stored = stored[:min(len(stored), i+1+[]int{0, 12, 16, 17, 28, 32, 40}[rng.IntN(7)])]
				}
			case 1:
				stored = bytes.Clone(stored)
				stored[rng.IntN(len(stored))] ^= 1
			case 2:
				key = someKeys[rng.IntN(len(someKeys))]
			case 3:
				stored = []byte(`{"apiVersion":"v1","kind":"Secret"}`)
			}
			reads++
			plain, err := codec.Open(ctx, key, stored)
			if real.panics(key, stored) {
				panics++
				if !errors.Is(err, encryption.ErrUnreadable) {
					t.Errorf("a value that kube-apiserver panics on: %v", err)
				}
				continue
			}
			want, realErr := real.open(key, stored)
			switch {
			case realErr != nil:
				refused++
				if !errors.Is(err, encryption.ErrUnreadable) {
					t.Errorf("%s, %s: %v, and kube-apiserver cannot read it: %v", brief(mine, true), key, err, realErr)
				}
			case err != nil && !bytes.HasPrefix(want, []byte("k8s\x00")) && !bytes.HasPrefix(want, []byte("{")):
				garbage++
			case err != nil || !bytes.Equal(plain, want):
				t.Errorf("%s, %s, %q: %v, and kube-apiserver reads it", brief(mine, true), key, stored, err)
			}
			sealed, err := codec.Seal(ctx, key, object)
			if err != nil {
				t.Fatal(err)
			}
			if encryption.LabelOf(sealed) != encryption.LabelOf(real.seal(t, key, object)) {
				t.Errorf("another key writes")
			}
			if plain, err := real.open(key, sealed); err == nil && !bytes.Equal(plain, object) {
				t.Error("kube-apiserver reads something else")
			}
		}
	})
	t.Logf("%d reads: %d refused by both, %d on which kube-apiserver panics, %d garbage", reads, refused, panics, garbage)
	if _, repeat := number(t, "UNDERSTUDY_SEED"); !repeat && refused == 0 {
		t.Error("the values were too kind")
	}
}

// TestMalformedCBC: an aescbc value of nothing but its vector makes kube-apiserver panic. Here it is an error, everywhere.
func TestMalformedCBC(t *testing.T) {
	ctx := testutil.Context(t)
	cfg := config(t, "secrets: cbc key1=P, identity")
	codec := newCodec(t, cfg)
	stored := append([]byte("k8s:enc:aescbc:v1:key1:"), make([]byte, 16)...)
	if !loadReal(t, cfg).panics(secretKey, stored) {
		t.Fatal("kube-apiserver does not panic: the test shows nothing")
	}
	transcoder, err := encryption.NewTranscoder(codec, codec)
	if err != nil {
		t.Fatal(err)
	}
	_, openErr := codec.Open(ctx, secretKey, stored)
	_, transformErr := transcoder.Transform(ctx, secretKey, secretKey, stored)
	_, equalErr := transcoder.Equal(ctx, secretKey, secretKey, stored, stored)
	for name, err := range map[string]error{"Open": openErr, "Transform": transformErr, "Equal": equalErr, "Guard": codec.Guard(ctx, nil)(secretKey, stored)} {
		if !errors.Is(err, encryption.ErrUnreadable) || !strings.Contains(err.Error(), "its body is shorter than an initialisation vector and one block") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFalseAccept: about one of 255 values is taken by a wrong aescbc key. None may come out as an object.
func TestFalseAccept(t *testing.T) {
	ctx := testutil.Context(t)
	cfg := config(t, "secrets: cbc key1=P")
	codec, real, other := newCodec(t, cfg), loadReal(t, cfg), newCodec(t, config(t, "secrets: cbc key1=S"))
	taken := 0
	for range 3000 {
		stored, err := other.Seal(ctx, secretKey, object)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := real.open(secretKey, stored); err == nil {
			taken++
		}
		if plain, err := codec.Open(ctx, secretKey, stored); err == nil {
			t.Fatalf("garbage was taken for an object: %q", plain)
		}
	}
	if taken == 0 {
		t.Error("kube-apiserver takes none: the test shows nothing")
	}
}

// TestUnknownGroup: of a resource that nobody knows, the object itself tells the group.
func TestUnknownGroup(t *testing.T) {
	ctx := testutil.Context(t)
	const key = "/registry/somethingnew/team-a/x"
	for text, want := range map[string]string{
		"somethingnew.example.com: cbc a=A":                     "aescbc a",
		"somethingnew.other.com: cbc a=A":                       "identity",
		"secrets: cbc a=A":                                      "identity",
		"*.example.com: gcm g=G":                                "aesgcm g",
		"*.*: cbc a=A":                                          "aescbc a",
		"*.other.com: cbc a=A; *.*: cbc b=B":                    "aescbc b",
		"somethingnew.example.com: cbc a=A; *.*: secretbox b=B": "aescbc a",
	} {
		codec := newCodec(t, config(t, text))
		for form, plain := range map[string][]byte{
			"JSON":     []byte(`{"apiVersion":"example.com/v1","kind":"SomethingNew"}`),
			"protobuf": []byte("k8s\x00\x0a\x1e\x0a\x0eexample.com/v1\x12\x0cSomethingNew\x12\x04\x0a\x02\x0a\x00"),
			"CBOR":     []byte("\xd9\xd9\xf7\xa2\x4aapiVersion\x4eexample.com/v1\x44kind\x41a"),
		} {
			stored, err := codec.Seal(ctx, key, plain)
			if err != nil {
				t.Errorf("%s, %s: %v", text, form, err)
				continue
			}
			if got := strings.ReplaceAll(encryption.LabelOf(stored).String(), `"`, ""); got != want {
				t.Errorf("%s, %s: written by %s, want %s", text, form, got, want)
			}
			if back, err := codec.Open(ctx, key, stored); err != nil || !bytes.Equal(back, plain) {
				t.Errorf("%s, %s: %v", text, form, err)
			}
		}
	}
	for _, stored := range []string{`{"apiVersion":"other.com/v1","kind":"SomethingNew"}`, "nothing"} {
		_, err := newCodec(t, config(t, "somethingnew.example.com: cbc a=A; *.other.com: gcm g=G")).Open(ctx, key, []byte(stored))
		if !errors.Is(err, encryption.ErrUnreadable) {
			t.Errorf("%q, unencrypted: %v", stored, err)
		}
	}
	// What is no resource at all is not touched.
	codec := newCodec(t, config(t, "*.*: cbc a=A"))
	for _, key := range []string{"compact_rev_key", "/registry/ranges/serviceips", "/elsewhere/x"} {
		if stored, err := codec.Open(ctx, key, []byte("x")); err != nil || string(stored) != "x" {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := codec.Seal(ctx, key, []byte("x")); !errors.Is(err, encryption.ErrUnreadable) {
			t.Errorf("%s: sealed: %v", key, err)
		}
	}
}

func TestCodecErrors(t *testing.T) {
	ctx := testutil.Context(t)
	codec := newCodec(t, config(t, "secrets: cbc key1=P, gcm g=G; configmaps: identity, cbc key1=P"))
	gcm, err := newCodec(t, config(t, "secrets: gcm g=G")).Seal(ctx, secretKey, object)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]struct {
		key, stored, says string
	}{
		"another key's name":     {secretKey, "k8s:enc:aescbc:v1:key2:" + strings.Repeat("x", 32), `encrypted with aescbc "key2", which the configuration does not have for the resource; add the key`},
		"another resource":       {"/registry/configmaps/a/b", string(gcm), "which the configuration does not have for the resource"},
		"not encrypted":          {secretKey, string(object), "not encrypted, and the configuration reads encrypted values only; add identity"},
		"another etcd key":       {secretKey + "2", string(gcm), "the key of this name does not fit; the key has the right name and another secret, the value lies under another etcd key"},
		"a short body":           {secretKey, "k8s:enc:aescbc:v1:key1:x", "its body is shorter than an initialisation vector and one block; the value is damaged"},
		"no header":              {secretKey, "k8s:enc:", "encrypted with malformed"},
		"a header without name":  {secretKey, "k8s:enc:aescbc:v1:", `encrypted with aescbc "?"`},
		"a provider of tomorrow": {secretKey, "k8s:enc:quantum:v9:q:x", `encrypted with quantum:v9 "q"`},
		"a secret as the name":   {secretKey, "k8s:enc:aescbc:v1:" + secretA + ":x", "a name that is not shown"},
	} {
		_, err := codec.Open(ctx, v.key, []byte(v.stored))
		if !errors.Is(err, encryption.ErrUnreadable) || !strings.Contains(err.Error(), v.says) {
			t.Errorf("%s: got %v, want %q", name, err, v.says)
			continue
		}
		wantSecret(t, name, err.Error())
	}
	if _, err := codec.Seal(ctx, secretKey, gcm); !errors.Is(err, encryption.ErrUnreadable) {
		t.Errorf("encrypted twice: %v", err)
	}
	if _, err := encryption.NewCodec(config(t, "cbc a=A"), encryption.CodecConfig{}); !errors.Is(err, encryption.ErrConfig) {
		t.Errorf("without Resource: %v", err)
	}
	if _, err := encryption.NewTranscoder(codec, nil); !errors.Is(err, encryption.ErrConfig) {
		t.Errorf("without a target: %v", err)
	}
}
