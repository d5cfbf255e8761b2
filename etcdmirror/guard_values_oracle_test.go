package etcdmirror_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	kubejson "k8s.io/apimachinery/pkg/runtime/serializer/json"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

// decodedValue is what apimachinery's decoders make of a value. Typed decoders for each kind exist in kube-apiserver alone.
type decodedValue struct {
	claims   bool // to be an object
	readable bool
	named    bool
	kind     string
}

func completeKind(gvk schema.GroupVersionKind) bool { return gvk.Kind != "" && gvk.Version != "" }

func decodeValue(value []byte) (d decodedValue) {
	switch {
	case bytes.HasPrefix(value, []byte("k8s\x00")):
		d.claims = true
		var u runtime.Unknown
		var o metav1.PartialObjectMetadata
		if u.Unmarshal(value[4:]) == nil && o.Unmarshal(u.Raw) == nil {
			d.readable, d.named, d.kind = completeKind(u.GroupVersionKind()) && hasMetadata(u.Raw), o.Name != "", u.Kind
		}
	case bytes.HasPrefix(value, []byte("\xd9\xd9\xf7")):
		var o unstructured.Unstructured
		_, _, err := cbor.NewSerializer(nil, nil).Decode(value, nil, &o)
		d = decodedValue{claims: true, readable: err == nil, named: true}
	case bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("{")):
		d.claims, d.named = true, true
		if typed, err := kubejson.DefaultMetaFactory.Interpret(value); err == nil && completeKind(*typed) {
			d.readable = true
		}
		var o unstructured.Unstructured
		if _, gvk, err := unstructured.UnstructuredJSONScheme.Decode(value, nil, &o); err == nil && completeKind(*gvk) {
			d.readable = true
		}
	}
	return d
}

// hasMetadata reports whether field 1 occurs in an object, and whatever it holds if the object is no message that everybody reads.
func hasMetadata(raw []byte) bool {
	for len(raw) > 0 {
		num, _, n := protowire.ConsumeField(raw)
		if n < 0 || num == 1 {
			return true
		}
		raw = raw[n:]
	}
	return false
}

// wantIntact is what Intact should say about a value that is not encrypted.
func wantIntact(key string, value []byte) bool {
	d := decodeValue(value)
	parts := strings.Split(key, "/")
	parent := parts[max(0, len(parts)-2)]
	bookkeeping := d.kind == "Endpoints" && (parent == "masterleases" || parent == "peerserverleases") || d.kind == "RangeAllocation" && parent == "ranges"
	of := len(parts) > 3 && parts[0] == "" && parts[2] != "" && strings.Join(parts[3:], "/") != "" && (parts[1] == "registry" || parts[1] == "kubernetes.io" || parts[1] == "openshift.io")
	switch {
	case bytes.HasPrefix(value, []byte("k8s\x00")):
		return d.readable && (d.named || bookkeeping)
	case !of:
		return true
	case d.claims:
		return d.readable
	}
	for _, begin := range []string{"k8s\x00", "k8s:enc:", "\xd9\xd9\xf7"} {
		if len(value) < len(begin) && strings.HasPrefix(begin, string(value)) {
			return false
		}
	}
	return true
}

func checkIntact(t *testing.T, key string, value []byte) error {
	t.Helper()
	err := etcdmirror.Intact(key, value)
	if want := wantIntact(key, value); want != (err == nil) {
		t.Errorf("%s: %q: intact %v, got %v", key, value, want, err)
	}
	return err
}

// TestIntactAgreesWithTheDecodersOnDamage cuts the values of a real cluster off at each byte, and changes each byte of them.
func TestIntactAgreesWithTheDecodersOnDamage(t *testing.T) {
	objects, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	cuts, changes, refused := 0, 0, 0
	for i, o := range objects {
		if o.Key == "compact_rev_key" {
			continue
		}
		for n := range o.Value {
			cuts++
			passes := etcdmirror.Intact(o.Key, o.Value[:n]) == nil
			// What may be missing is short, which saves decoding every cut.
			if passes != (len(o.Value)-n <= 8 && sameObject(o.Value[:n], o.Value)) {
				t.Errorf("%s without the last %d bytes: passes %v", o.Key, len(o.Value)-n, passes)
			}
		}
		if value := bytes.Clone(o.Value); value[0] != '{' || i%4 == 0 { // decoding JSON takes long
			for j := range value {
				changes++
				value[j] ^= byte(1 + rng.IntN(255))
				if checkIntact(t, o.Key, value) != nil {
					refused++
				}
				value[j] = o.Value[j]
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if cuts < 300000 || refused < changes/50 || refused == changes {
		t.Errorf("%d cuts, %d of %d changed values refused: the data does not exercise the guard", cuts, refused, changes)
	}
}

// sameObject reports whether two values hold the same object: what may be missing at the end is empty fields of the envelope, and white space.
func sameObject(a, b []byte) bool {
	var ua, ub runtime.Unknown
	if bytes.HasPrefix(a, []byte("k8s\x00")) && ua.Unmarshal(a[4:]) == nil && ub.Unmarshal(b[4:]) == nil {
		return ua.TypeMeta == ub.TypeMeta && bytes.Equal(ua.Raw, ub.Raw)
	}
	return bytes.Equal(bytes.TrimSpace(a), bytes.TrimSpace(b))
}

var keyNames = []string{"key1", "key10", "key", "a", "a:b", "a:b:c", "schlüssel", "k 1", "2026-01-01", strings.Repeat("n", 300)}

// encryptValue makes a value as kube-apiserver does, with a random key. The body of secretbox is random.
func encryptValue(rng *rand.Rand, provider, name string, plaintext []byte) []byte {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	block, err := aes.NewCipher(random(32))
	if err != nil {
		panic(err)
	}
	cbc := func() []byte {
		iv := random(aes.BlockSize)
		pad := aes.BlockSize - len(plaintext)%aes.BlockSize
		padded := append(bytes.Clone(plaintext), bytes.Repeat([]byte{byte(pad)}, pad)...)
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
		return append(iv, padded...)
	}
	gcm := func() []byte {
		aead, err := cipher.NewGCM(block)
		if err != nil {
			panic(err)
		}
		nonce := random(aead.NonceSize())
		return aead.Seal(nonce, nonce, plaintext, nil)
	}
	var body []byte
	switch provider {
	case "aescbc:v1":
		body = cbc()
	case "aesgcm:v1":
		body = gcm()
	case "secretbox:v1":
		body = random(24 + 16 + len(plaintext))
	case "kms:v1":
		body = append([]byte{0, 48}, random(48)...)
		if rng.IntN(2) == 0 {
			body = append(body, cbc()...)
		} else {
			body = append(body, gcm()...)
		}
	case "kms:v2":
		data := gcm()
		if rng.IntN(2) == 0 {
			data = append(random(32), data...)
			body = protowire.AppendVarint(protowire.AppendTag(body, 5, protowire.VarintType), 1)
		}
		for num, content := range [][]byte{data, []byte("kek-1"), random(60)} {
			body = protowire.AppendBytes(protowire.AppendTag(body, protowire.Number(num+1), protowire.BytesType), content)
		}
	}
	return append([]byte("k8s:enc:"+provider+":"+name+":"), body...)
}

// TestEncryptedValues encrypts for real, and damages what comes out.
func TestEncryptedValues(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	providers := []string{"aescbc:v1", "aesgcm:v1", "secretbox:v1", "kms:v1", "kms:v2"}
	for range 4000 {
		provider, name := providers[rng.IntN(len(providers))], keyNames[rng.IntN(len(keyNames))]
		if provider == "kms:v2" {
			name = strings.ReplaceAll(name, ":", "")
		}
		value := encryptValue(rng, provider, name, make([]byte, rng.IntN(100)))
		header := "k8s:enc:" + provider + ":" + name
		if err := etcdmirror.Intact(secretKey, value); err != nil {
			t.Fatalf("%s: %v", header, err)
		}
		var others []string
		for _, other := range keyNames {
			if other != name && !strings.HasPrefix(name, other+":") && (provider != "kms:v2" || !strings.Contains(other, ":")) {
				others = append(others, "k8s:enc:"+provider+":"+other)
			}
		}
		rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		if err := mustReadable(t, others...)(secretKey, value); !errors.Is(err, etcdmirror.ErrUnreadable) {
			t.Fatalf("%s passes though only %q can be read: %v", header, others, err)
		}
		if err := mustReadable(t, append(others, header)...)(secretKey, value); err != nil {
			t.Fatalf("%s: %v", header, err)
		}
		// Cut off, a value of aescbc passes at whole blocks only, the others where their least size is left. Never what kills an apiserver.
		only := mustReadable(t, header)
		for n := range value {
			body := n - len(header) - 1
			ok := only(secretKey, value[:n]) == nil
			want := false
			switch provider {
			case "aescbc:v1":
				want = body >= 32 && body%16 == 0
			case "aesgcm:v1":
				want = body >= 28
			case "secretbox:v1":
				want = body >= 40
			case "kms:v1":
				want = body >= 2+48+28
			}
			if ok != want {
				t.Fatalf("%s with a body of %d bytes: readable %v, want %v", header, body, ok, want)
			}
			if ok && etcdmirror.Intact(secretKey, value[:n]) != nil {
				t.Fatalf("%s with a body of %d bytes is readable, but not intact", header, body)
			}
		}
	}
}

func mustReadable(t *testing.T, headers ...string) etcdmirror.Guard {
	t.Helper()
	guard, err := etcdmirror.Readable(headers...)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

var (
	quotedText   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"(?:\.\.\.)?`)
	providerText = regexp.MustCompile(`with (aescbc|aesgcm|secretbox) key|KMS v[12]`)
)

// maskedError is an error without what it may hold of a value.
func maskedError(text string) string {
	return providerText.ReplaceAllString(quotedText.ReplaceAllString(text, "NAME"), "PROVIDER")
}

// guardSayings are all errors that a guard may return, masked.
func guardSayings(t testing.TB) map[string]bool {
	all := map[string]bool{}
	add := func(err error) {
		if err == nil {
			t.Fatal("a value that should be refused is not")
		}
		all[maskedError(err.Error())] = true
	}
	for _, tt := range refusedValues {
		add(etcdmirror.Intact(tt.key, []byte(tt.value)))
	}
	guard, err := etcdmirror.Readable("k8s:enc:aescbc:v1:key1")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"k8s:enc:aescbc:v1:key2:x", "k8s:enc:kms:v2:key2:x", "k8s:enc:rot13:v1:key1:x", "k8s\x00"} {
		add(guard(secretKey, []byte(value)))
	}
	return all
}

// mustSayNothing fails if an error holds anything of a value but the names in its header.
func mustSayNothing(t *testing.T, err error, value []byte, sayings map[string]bool) {
	t.Helper()
	if err == nil {
		return
	}
	if text := maskedError(err.Error()); !sayings[text] {
		t.Errorf("an unknown error: %s", text)
	}
	for _, quoted := range quotedText.FindAllString(err.Error(), -1) {
		name, err := strconv.Unquote(strings.TrimSuffix(quoted, "..."))
		if err != nil || len(name) > 64 || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("shows %s", quoted)
		}
		header, _, ok := bytes.Cut(value[min(len(value), len("k8s:enc:")):], []byte(name))
		if scheme, _, _ := strings.Cut(name, ":"); !ok || bytes.Count(header, []byte{':'}) > 2 && scheme == name {
			t.Errorf("shows %s, which is not from the header", quoted)
		}
	}
}

// FuzzIntact looks for values that the guards die of, that they show anything of, or that Intact judges other than apimachinery's decoders do.
func FuzzIntact(f *testing.F) {
	for _, tt := range refusedValues {
		if len(tt.value) < 2000 {
			f.Add(tt.key, []byte(tt.value))
		}
	}
	objects, err := realcluster.Objects()
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(objects); i += 25 {
		if len(objects[i].Value) < 800 {
			f.Add(objects[i].Key, objects[i].Value)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, provider := range []string{"aescbc:v1", "aesgcm:v1", "secretbox:v1", "kms:v1", "kms:v2"} {
		f.Add(secretKey, encryptValue(rng, provider, "a:b"[:1+2*rng.IntN(2)], nil))
	}
	known := guardSayings(f)
	var guards []etcdmirror.Guard
	for _, headers := range [][]string{{"identity"}, {"k8s:enc:aescbc:v1:key1", "k8s:enc:aescbc:v1:a:b", "k8s:enc:kms:v1:vault", "k8s:enc:kms:v2:vault"}} {
		guard, err := etcdmirror.Readable(headers...)
		if err != nil {
			f.Fatal(err)
		}
		guards = append(guards, guard)
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		kept := bytes.Clone(value)
		intact := etcdmirror.Intact(key, value)
		mustSayNothing(t, intact, value, known)
		for _, guard := range guards {
			err := guard(key, value)
			mustSayNothing(t, err, value, known)
			if err == nil && intact != nil && bytes.HasPrefix(value, []byte("k8s:enc:")) {
				t.Errorf("readable, but %v", intact)
			}
		}
		if !bytes.Equal(kept, value) {
			t.Fatal("a guard changed the value")
		}
		if bytes.HasPrefix(value, []byte("k8s:enc:")) {
			return
		}
		checkIntact(t, key, value)
		// The text of JSON is judged as encoding/json does.
		if d := decodeValue(value); d.claims && !d.readable && bytes.HasPrefix(value, []byte("{")) {
			if text := fmt.Sprint(etcdmirror.Intact(secretKey, value)); json.Valid(value) == strings.Contains(text, "JSON is damaged") {
				t.Errorf("JSON valid %v, but %s", json.Valid(value), text)
			}
		}
	})
}
