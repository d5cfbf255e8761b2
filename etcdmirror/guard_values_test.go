package etcdmirror_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

const (
	secretKey = "/registry/secrets/team-a/password"
	plainKey  = "/settings/team-a"
)

// envelopeOf is an object in the envelope of Kubernetes.
func envelopeOf(apiVersion, kind string, raw []byte) string {
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	body, err := u.Marshal()
	if err != nil {
		panic(err)
	}
	return "k8s\x00" + string(body)
}

// protobufOf is the protobuf of an object of which there is only the metadata.
func protobufOf(name string) []byte {
	o := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("u-" + name), Labels: map[string]string{"a": "b"}}}
	raw, err := o.Marshal()
	if err != nil {
		panic(err)
	}
	return raw
}

func cborOf(v any) string {
	b, err := direct.Marshal(v)
	if err != nil {
		panic(err)
	}
	return "\xd9\xd9\xf7" + strings.TrimPrefix(string(b), "\xd9\xd9\xf7")
}

// kmsValue is an EncryptedObject with a data key; fields behind it overwrite its own.
func kmsValue(data int, more string) string {
	return "k8s:enc:kms:v2:vault:" + fieldOf(1, data) + "\x12\x03kek" + "\x1a\x03dek" + more
}

// fieldOf is a length-delimited field of n bytes.
func fieldOf(number byte, n int) string {
	return string([]byte{number<<3 | 2, byte(n)&0x7f | 0x80, byte(n >> 7)}) + strings.Repeat("x", n)
}

func zeroBytes(n int) string { return strings.Repeat("\x00", n) }

// refusedValues are values that Intact refuses, one for each thing that can be wrong at least. want is all that the error says about the value.
var refusedValues = []struct{ name, key, value, want string }{
	{"nothing but the prefix", plainKey, "k8s:enc:", "encrypted, but the provider or version in its header is malformed"},
	{"no provider", secretKey, "k8s:enc::v1:key1:" + zeroBytes(32), "encrypted, but the provider or version in its header is malformed"},
	{"no version", secretKey, "k8s:enc:aescbc:key1:" + zeroBytes(32), "encrypted, but the provider or version in its header is malformed"},
	{"version without a number", secretKey, "k8s:enc:aescbc:v:key1:" + zeroBytes(32), "encrypted, but the provider or version in its header is malformed"},
	{"hostile provider", secretKey, "k8s:enc:\x1b[2J:v1:key1:" + zeroBytes(32), "encrypted, but the provider or version in its header is malformed"},
	{"endless provider", secretKey, "k8s:enc:" + strings.Repeat("a", 1000) + ":v1:key1:" + zeroBytes(32), "encrypted, but the provider or version in its header is malformed"},
	{"ends in the version", secretKey, "k8s:enc:aescbc:v1", "encrypted, but the provider or version in its header is malformed"},
	{"no name", secretKey, "k8s:enc:aescbc:v1::" + zeroBytes(32), "encrypted, but the name in its header is missing or malformed"},
	{"ends in the name", secretKey, "k8s:enc:aescbc:v1:key1", "encrypted, but the name in its header is missing or malformed"},
	{"the name has no end", secretKey, "k8s:enc:aescbc:v1:key1" + zeroBytes(100) + ":", "encrypted, but the name in its header is missing or malformed"},
	{"the name is no text", secretKey, "k8s:enc:aescbc:v1:\xff\xfe:" + zeroBytes(32), "encrypted, but the name in its header is missing or malformed"},
	{"hostile name", secretKey, "k8s:enc:aescbc:v1:\x1b[2J:" + zeroBytes(32), "encrypted, but the name in its header is missing or malformed"},
	{"unknown provider without a name", secretKey, "k8s:enc:new:v7:", "encrypted, but the name in its header is missing or malformed"},
	{"long name", secretKey, "k8s:enc:aescbc:v1:" + strings.Repeat("ü", 40) + ":", `encrypted with aescbc key "` + strings.Repeat("ü", 32) + `"..., but its body is shorter than an initialisation vector and one block`},
	{"name with a quote", secretKey, `k8s:enc:aescbc:v1:a"b:`, `encrypted with aescbc key "a\"b", but its body is shorter than an initialisation vector and one block`},

	{"aescbc of 16 bytes, which kills apiservers", secretKey, "k8s:enc:aescbc:v1:key1:" + zeroBytes(16), `encrypted with aescbc key "key1", but its body is shorter than an initialisation vector and one block`},
	{"aescbc of 31 bytes", secretKey, "k8s:enc:aescbc:v1:key1:" + zeroBytes(31), `encrypted with aescbc key "key1", but its body is shorter than an initialisation vector and one block`},
	{"aescbc of 33 bytes", plainKey, "k8s:enc:aescbc:v1:key1:" + zeroBytes(33), `encrypted with aescbc key "key1", but its body is not made of whole blocks`},
	{"aesgcm of 27 bytes", secretKey, "k8s:enc:aesgcm:v1:key1:" + zeroBytes(27), `encrypted with aesgcm key "key1", but its body is shorter than a nonce and a tag`},
	{"secretbox of 39 bytes", secretKey, "k8s:enc:secretbox:v1:key1:" + zeroBytes(39), `encrypted with secretbox key "key1", but its body is shorter than a nonce and a tag`},
	{"kms v1 of one byte", secretKey, "k8s:enc:kms:v1:vault:\x00", `encrypted with KMS v1 provider "vault", but its body ends before the length of the encrypted data key`},
	{"kms v1 ends in the key", secretKey, "k8s:enc:kms:v1:vault:\x01\x00" + zeroBytes(255), `encrypted with KMS v1 provider "vault", but its body ends within the encrypted data key`},
	{"kms v1 of 16 bytes of data, which kill apiservers", secretKey, "k8s:enc:kms:v1:vault:\x00\x20" + zeroBytes(32+16), `encrypted with KMS v1 provider "vault", but its data is shorter than a nonce and a tag`},
	{"kms v1 of 27 bytes of data", secretKey, "k8s:enc:kms:v1:vault:\x00\x20" + zeroBytes(32+27), `encrypted with KMS v1 provider "vault", but its data is shorter than a nonce and a tag`},
	{"kms v2 cut off", secretKey, kmsValue(60, "")[:60], `encrypted with KMS v2 provider "vault", but its envelope is damaged or cut off`},
	{"kms v2 empty", secretKey, "k8s:enc:kms:v2:vault:", `encrypted with KMS v2 provider "vault", but the source of its data key is missing or too long`},
	{"kms v2 with a long source", secretKey, kmsValue(60, fieldOf(3, 1025)), `encrypted with KMS v2 provider "vault", but the source of its data key is missing or too long`},
	{"kms v2 without key ID", secretKey, kmsValue(60, "\x12\x00"), `encrypted with KMS v2 provider "vault", but its KMS key ID is missing or too long`},
	{"kms v2 of an unknown type", secretKey, kmsValue(60, "\x28\x02"), `encrypted with KMS v2 provider "vault", but the source of its data key is of an unknown type`},
	{"kms v2 with 27 bytes of data", secretKey, kmsValue(27, ""), `encrypted with KMS v2 provider "vault", but its data is shorter than AES-GCM needs`},
	{"kms v2 with a seed and 59 bytes of data", secretKey, kmsValue(59, "\x28\x01"), `encrypted with KMS v2 provider "vault", but its data is shorter than AES-GCM needs`},
	{"kms v2 with a bad annotation", secretKey, kmsValue(60, "\x22\x03\x0a\x01a"), `encrypted with KMS v2 provider "vault", but an annotation is no domain name`},
	{"kms v2 with huge annotations", secretKey, kmsValue(60, "\x22\x88\x80\x02\x0a\x03a.b\x12\xff\xff\x01"+zeroBytes(32767)), `encrypted with KMS v2 provider "vault", but its annotations are too long`},

	{"envelope alone", plainKey, "k8s\x00", "its protobuf object has no metadata"},
	{"envelope of garbage", secretKey, "k8s\x00\xff\xff", "its protobuf envelope is damaged or cut off"},
	{"envelope with the type as a number", secretKey, "k8s\x00\x08\x01", "its protobuf envelope is damaged or cut off"},
	{"object of garbage", secretKey, envelopeOf("v1", "Secret", []byte("\xff\xff")), "the protobuf object in its envelope is damaged or cut off"},
	{"metadata of garbage", secretKey, envelopeOf("v1", "Secret", []byte("\x0a\x02\xff\xff")), "the protobuf object in its envelope is damaged or cut off"},
	{"metadata with the name as a number", secretKey, envelopeOf("v1", "Secret", []byte("\x0a\x02\x08\x01")), "the protobuf object in its envelope is damaged or cut off"},
	{"owner reference of garbage", secretKey, envelopeOf("v1", "Secret", append([]byte("\x0a\x05\x0a\x01x\x6a\x01"), 0xff)), "the protobuf object in its envelope is damaged or cut off"},
	{"no metadata", secretKey, envelopeOf("v1", "Secret", []byte("\x12\x01x")), "its protobuf object has no metadata"},
	{"no kind", secretKey, envelopeOf("v1", "", protobufOf("x")), "it names no kind, or no apiVersion that an apiserver can parse"},
	{"no apiVersion", secretKey, envelopeOf("", "Secret", protobufOf("x")), "it names no kind, or no apiVersion that an apiserver can parse"},
	{"group without version", secretKey, envelopeOf("apps/", "Deployment", protobufOf("x")), "it names no kind, or no apiVersion that an apiserver can parse"},
	{"apiVersion of three parts", secretKey, envelopeOf("a/b/v1", "Secret", protobufOf("x")), "it names no kind, or no apiVersion that an apiserver can parse"},
	{"no object name", secretKey, envelopeOf("v1", "Secret", protobufOf("")), "its protobuf object has no name"},
	{"no object name in a namespace called ranges", "/registry/configmaps/ranges/x", envelopeOf("v1", "ConfigMap", protobufOf("")), "its protobuf object has no name"},
	{"allocations that are no bookkeeping", "/registry/ranges/more/x", envelopeOf("v1", "RangeAllocation", protobufOf("")), "its protobuf object has no name"},
	{"Endpoints that are no bookkeeping", "/registry/services/endpoints/default/x", envelopeOf("v1", "Endpoints", protobufOf("")), "its protobuf object has no name"},

	{"JSON cut off", secretKey, `{"apiVersion":"v1","kind":"Secret"`, "its JSON is damaged or cut off"},
	{"JSON with more behind it", secretKey, `{"apiVersion":"v1","kind":"Secret"}}`, "its JSON is damaged or cut off"},
	{"JSON behind white space", secretKey, "\n {", "its JSON is damaged or cut off"},
	{"YAML that begins like JSON", secretKey, "{apiVersion: v1, kind: Secret}", "its JSON is damaged or cut off"},
	{"JSON with a control character", secretKey, "{\"apiVersion\":\"v1\",\"kind\":\"Sec\nret\"}", "its JSON is damaged or cut off"},
	{"JSON without apiVersion", secretKey, `{"kind":"Secret"}`, "it names no kind, or no apiVersion that an apiserver can parse"},
	{"JSON with a number for apiVersion", "/openshift.io/x.example.com/things/a", `{"apiVersion":1,"kind":"Thing"}`, "it names no kind, or no apiVersion that an apiserver can parse"},
	{"JSON with kind further down", "/kubernetes.io/secrets/ns/a", `{"apiVersion":"v1","spec":{"kind":"Secret"}}`, "it names no kind, or no apiVersion that an apiserver can parse"},
	{"JSON with null for kind", secretKey, `{"apiVersion":"v1","kind":"Secret","kind":null,"KIND":""}`, "it names no kind, or no apiVersion that an apiserver can parse"},

	{"CBOR alone", secretKey, "\xd9\xd9\xf7", "its CBOR is damaged or cut off"},
	{"CBOR cut off", secretKey, cborOf(map[string]any{"apiVersion": "v1", "kind": "Secret"})[:20], "its CBOR is damaged or cut off"},
	{"CBOR list", secretKey, cborOf([]any{1}), "its CBOR is damaged or cut off"},
	{"CBOR without kind", secretKey, cborOf(map[string]any{"apiVersion": "v1"}), "it names no kind, or no apiVersion that an apiserver can parse"},

	{"empty", secretKey, "", "it is empty or cut off at its beginning"},
	{"beginning of an envelope", secretKey, "k8s", "it is empty or cut off at its beginning"},
	{"beginning of a header", secretKey, "k8s:en", "it is empty or cut off at its beginning"},
	{"beginning of CBOR", secretKey, "\xd9\xd9", "it is empty or cut off at its beginning"},
}

func TestIntactRefuses(t *testing.T) {
	for _, tt := range refusedValues {
		err := etcdmirror.Intact(tt.key, []byte(tt.value))
		var e *etcdmirror.Error
		if !errors.As(err, &e) || !errors.Is(err, etcdmirror.ErrUnreadable) {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if e.Detail != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, e.Detail, tt.want)
		}
		if !strings.HasPrefix(e.Hint, "look at the key in the primary") {
			t.Errorf("%s: hint %q", tt.name, e.Hint)
		}
	}
}

func TestIntactPasses(t *testing.T) {
	endpoints := func() string { return envelopeOf("v1", "Endpoints", protobufOf("")) }
	for _, tt := range []struct{ name, key, value string }{
		{"aescbc", secretKey, "k8s:enc:aescbc:v1:key1:" + zeroBytes(32)},
		{"aescbc with colons in the name", secretKey, "k8s:enc:aescbc:v1:a:b:c d:" + zeroBytes(48)},
		{"aesgcm", secretKey, "k8s:enc:aesgcm:v1:key1:" + zeroBytes(28)},
		{"secretbox", secretKey, "k8s:enc:secretbox:v1:schlüssel:" + zeroBytes(40)},
		{"kms v1", secretKey, "k8s:enc:kms:v1:a:b:\x01\x00" + zeroBytes(256+28)},
		{"kms v1 with AES-CBC", secretKey, "k8s:enc:kms:v1:vault:\x00\x20" + zeroBytes(32+32)},
		{"kms v2 with a key", secretKey, kmsValue(28, "")},
		{"kms v2 with a seed", secretKey, kmsValue(60, "\x28\x01")},
		{"kms v2 with an annotation", secretKey, kmsValue(28, "\x22\x07\x0a\x05a.b.c")},
		{"kms v2 with a field of the future", secretKey, kmsValue(28, "\xf8\x07\x01")},
		{"unknown provider", secretKey, "k8s:enc:rot13:v1:key1:x"},
		{"unknown version", secretKey, "k8s:enc:aescbc:v2:key1:x"},

		{"protobuf", secretKey, envelopeOf("v1", "Secret", protobufOf("x"))},
		{"protobuf with a group", secretKey, envelopeOf("apps/v1", "Deployment", protobufOf("x"))},
		{"protobuf of which the metadata comes twice", secretKey, envelopeOf("v1", "Secret", append(protobufOf("x"), "\x0a\x02\x2a\x00"...))},
		{"protobuf as only the decoders of Kubernetes read it", secretKey, "k8s\x00\x8a\x80\x80\x80\x80\x80\x80\x80\x80\x02\x00" + envelopeOf("v1", "Secret", protobufOf("x"))[4:]},
		{"address of an apiserver", "/registry/masterleases/192.0.2.10", endpoints()},
		{"address for peers", "/kubernetes.io/peerserverleases/apiserver-x", endpoints()},
		{"allocations", "/other/prefix/ranges/servicenodeports", envelopeOf("v1", "RangeAllocation", protobufOf(""))},

		{"JSON", secretKey, `{"kind":"Secret","apiVersion":"v1"}` + "\n"},
		{"JSON with escapes", secretKey, `{"kin\u0064":"\u0053ecret","apiVersion":"v1"}`},
		{"JSON in other case, which built-in kinds may have", secretKey, `{"Kind":"Secret","APIVERSION":"v1"}`},
		{"CBOR", "/registry/stable.example.com/widgets/team-a/x", cborOf(map[string]any{"apiVersion": "stable.example.com/v1", "kind": "Widget", "spec": map[string]any{"n": 1}})},

		{"other JSON", plainKey, `{"a":1}`},
		{"other JSON, cut off", plainKey, `{"a":`},
		{"a template", plainKey, `{{ .Name }}`},
		{"JSON of one who shares the prefix", "/registry/settings", `{"a":1}`},
		{"JSON without a resource", "/registry//x", `{"a":1}`},
		{"other CBOR, cut off", plainKey, "\xd9\xd9\xf7\xa1"},
		{"empty", plainKey, ""},
		{"text like a beginning", plainKey, "k8s"},
		{"text", secretKey, "revision 12"},
		{"revision", "compact_rev_key", "0"},
		{"old envelope", secretKey, "k8s\x01x"},
	} {
		if err := etcdmirror.Intact(tt.key, []byte(tt.value)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestIntactPassesARealClusterWithoutAllocating(t *testing.T) {
	objects, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	good := map[string][]byte{
		secretKey + "-cbc": []byte("k8s:enc:aescbc:v1:a:b:" + zeroBytes(64)),
		secretKey + "-gcm": []byte("k8s:enc:aesgcm:v1:key1:" + zeroBytes(64)),
		secretKey + "-kms": []byte(kmsValue(60, "\x28\x01")),
	}
	for _, o := range objects {
		good[o.Key] = o.Value
	}
	readable, err := etcdmirror.Readable("identity", "k8s:enc:aescbc:v1:a:b", "k8s:enc:aesgcm:v1:key1", "k8s:enc:kms:v2:vault")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range good {
		for _, guard := range []etcdmirror.Guard{etcdmirror.Intact, readable} {
			if err := guard(key, value); err != nil {
				t.Errorf("%s: %v", key, err)
			} else if n := testing.AllocsPerRun(10, func() { _ = guard(key, value) }); n > 0 {
				t.Errorf("%s: %v allocations", key, n)
			}
		}
	}
}

func TestReadable(t *testing.T) {
	cbc := func(name string, n int) string { return "k8s:enc:aescbc:v1:" + name + ":" + zeroBytes(n) }
	const elsewhere = ", which the standby's configuration does not have"
	protobuf := envelopeOf("v1", "Secret", protobufOf("x"))
	for _, tt := range []struct {
		headers, key, value string
		want                string // "" passes
	}{
		{"k8s:enc:aescbc:v1:key1", secretKey, cbc("key1", 32), ""},
		{"k8s:enc:aescbc:v1:key1", secretKey, cbc("key10", 32), `encrypted with aescbc key "key10"` + elsewhere},
		{"k8s:enc:aescbc:v1:key10", secretKey, cbc("key1", 32), `encrypted with aescbc key "key1"` + elsewhere},
		{"k8s:enc:aescbc:v1:key1 k8s:enc:aescbc:v1:key10", secretKey, cbc("key10", 32), ""},
		{"k8s:enc:aescbc:v1:key1", secretKey, "k8s:enc:aesgcm:v1:key1:" + zeroBytes(32), `encrypted with aesgcm key "key1"` + elsewhere},
		{"k8s:enc:kms:v1:vault", secretKey, kmsValue(28, ""), `encrypted with KMS v2 provider "vault"` + elsewhere},
		{"k8s:enc:kms:v2:vault", secretKey, kmsValue(28, ""), ""},
		{"k8s:enc:aescbc:v1:key1", secretKey, "k8s:enc:rot13:v1:key1:x", `encrypted with key "key1" of the unknown provider "rot13:v1"` + elsewhere},
		{"k8s:enc:rot13:v1:key1", secretKey, "k8s:enc:rot13:v1:key1:x", ""},
		// Names with colons.
		{"k8s:enc:aescbc:v1:a:b", secretKey, cbc("a:b", 32), ""},
		{"k8s:enc:aescbc:v1:a:b", secretKey, cbc("a", 32), `encrypted with aescbc key "a"` + elsewhere},
		{"k8s:enc:aescbc:v1:a", secretKey, cbc("a:b", 32), `encrypted with aescbc key "a", but its body is not made of whole blocks`},
		{"k8s:enc:aescbc:v1:a k8s:enc:aescbc:v1:a:b", secretKey, cbc("a:b", 32), ""},
		{"k8s:enc:aescbc:v1:a:b k8s:enc:aescbc:v1:a", secretKey, cbc("a:b", 32), ""},
		// Bodies, and headers that fit no configuration.
		{"k8s:enc:aescbc:v1:key1 identity", secretKey, cbc("key1", 16), `encrypted with aescbc key "key1", but its body is shorter than an initialisation vector and one block`},
		{"k8s:enc:aescbc:v1:key1 identity", secretKey, "k8s:enc:aescbc:v1::x", "encrypted, but the name in its header is missing or malformed"},
		{"identity", secretKey, "k8s:enc:", "encrypted, but the provider or version in its header is malformed"},
		{"identity", secretKey, cbc("key1", 32), `encrypted with aescbc key "key1"` + elsewhere},
		// Values that are not encrypted.
		{"identity", secretKey, protobuf, ""},
		{"identity", secretKey, "", ""},
		{"k8s:enc:aescbc:v1:key1", secretKey, protobuf, "not encrypted, and the standby's configuration reads encrypted values only"},
		{"k8s:enc:aescbc:v1:key1", secretKey, `{}`, "not encrypted, and the standby's configuration reads encrypted values only"},
		{"k8s:enc:aescbc:v1:key1", "/elsewhere/secrets/ns/x", protobuf, "not encrypted, and the standby's configuration reads encrypted values only"},
		{"k8s:enc:aescbc:v1:key1", plainKey, `{}`, ""},
		{"k8s:enc:aescbc:v1:key1", "compact_rev_key", "12", ""},
	} {
		guard, err := etcdmirror.Readable(strings.Fields(tt.headers)...)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := guard(tt.key, []byte(tt.value)); err != nil {
			var e *etcdmirror.Error
			if !errors.As(err, &e) || !errors.Is(err, etcdmirror.ErrUnreadable) || e.Hint == "" {
				t.Errorf("error %v", err)
				continue
			}
			got = e.Detail
		}
		if got != tt.want {
			t.Errorf("%s for %.30q under %s:\n got %s\nwant %s", tt.headers, tt.value, tt.key, got, tt.want)
		}
	}
}

func TestReadableRefusesBadHeaders(t *testing.T) {
	for header, want := range map[string]string{
		"": "is no header of an encrypted value", "Identity": "is no header of an encrypted value", "aescbc:v1:key1": "is no header of an encrypted value",
		"k8s:enc:aescbc:key1":       "the provider or version in its header is malformed",
		"k8s:enc:aescbc:v1":         "the name in its header is missing or malformed",
		"k8s:enc:aescbc:v1:":        "the name in its header is missing or malformed",
		"k8s:enc:aescbc:v1::key1":   "the name in its header is missing or malformed",
		"k8s:enc:aescbc:v1:a\nb":    "the name in its header is missing or malformed",
		"k8s:enc:aescbc:v1:a:\xff":  "the name in its header is missing or malformed",
		"k8s:enc:aescbc:v1:key1:":   "it ends with a colon",
		"k8s:enc:aescbc:v2:key1":    "aescbc has no version v2",
		"k8s:enc:kms:v3:vault":      "kms has no version v3",
		"k8s:enc:kms:v2:a:b":        "the name of a kms v2 provider holds no colon",
		"k8s:enc:secretbox:v1beta1": "the name in its header is missing or malformed",
		"k8s:enc:secretbox:1:key1":  "the provider or version in its header is malformed",
	} {
		_, err := etcdmirror.Readable("identity", header)
		wrong := fmt.Sprintf("headers[1] %q: %s", header, want)
		if !errors.Is(err, etcdmirror.ErrConfig) || !strings.Contains(errString(err), wrong) {
			t.Errorf("%q: %v, want %s", header, err, wrong)
		}
	}
	if _, err := etcdmirror.Readable(); !errors.Is(err, etcdmirror.ErrConfig) {
		t.Errorf("no headers: %v", err)
	}
	_, err := etcdmirror.Readable("x", "identity", "y")
	if text := errString(err); !strings.Contains(text, "headers[0]") || !strings.Contains(text, "headers[2]") {
		t.Errorf("two bad headers: %v", err)
	}
}
