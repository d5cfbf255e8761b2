package drcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

func TestCompareHostileValues(t *testing.T) {
	const size = 64 << 10
	head := `{"apiVersion":"v1","kind":"K","x":`
	nested := func(open, middle, end string, depth int) []byte {
		return []byte(head + strings.Repeat(open, depth) + middle + strings.Repeat(end, depth) + "}")
	}
	cborHead := []byte(cborTag + "\xa3\x6aapiVersion\x62v1\x64kind\x61K\x61x")
	proto := func(raw []byte) []byte {
		u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}
		body, err := u.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte(protobufEnvelope), body...)
	}
	meta := bytesField(1, nil).text
	for name, c := range map[string]struct {
		value []byte
		want  objectDifference // from itself
	}{
		"JSON too deep":             {nested("[", "", "]", size/2), differsUnknown},
		"JSON objects too deep":     {nested(`{"":`, "0", "}", size/5), differsUnknown},
		"JSON as deep as allowed":   {nested(`{"":`, "0", "}", 9999), differsManagedFields},
		"JSON without end":          {[]byte(head + strings.Repeat("[", size)), differsUnknown},
		"JSON of many members":      {nested("[", strings.Repeat("{},", size/3)+"{}", "]", 1), differsManagedFields},
		"JSON with a long number":   {[]byte(head + strings.Repeat("9", size) + "}"), differsManagedFields},
		"JSON without kind":         {[]byte(`{"apiVersion":"v1"}`), differsUnknown},
		"JSON with a Kind":          {[]byte(`{"apiVersion":"v1","Kind":"K"}`), differsUnknown},
		"CBOR without kind":         {[]byte(cborTag + "\xa1\x6aapiVersion\x62v1"), differsUnknown},
		"JSON with a kind twice":    {[]byte(`{"apiVersion":"v1","kind":"K","kind":"K"}`), differsUnknown},
		"two objects":               {[]byte(`{"apiVersion":"v1","kind":"K"}{}`), differsUnknown},
		"CBOR too deep":             {slices.Concat(cborHead, bytes.Repeat([]byte{0x81}, size), []byte{0}), differsUnknown},
		"CBOR of a long array":      {slices.Concat(cborHead, []byte{0x9a, 0x7f, 0xff, 0xff, 0xff}), differsUnknown},
		"CBOR with a member twice":  {slices.Concat([]byte{0xd9, 0xd9, 0xf7, 0xa3}, cborHead[4:], cborHead[4:20]), differsUnknown},
		"CBOR null":                 {[]byte(cborTag + "\xf6"), differsUnknown},
		"CBOR":                      {slices.Concat(cborHead, []byte{0}), differsManagedFields},
		"protobuf of many fields":   {proto(append(slices.Clone(meta), bytes.Repeat(varintField(9, 1).text, size/2)...)), differsManagedFields},
		"protobuf of falling order": {proto(append(slices.Clone(meta), falling(size)...)), differsManagedFields},
		"protobuf with open groups": {proto(append(slices.Clone(meta), bytes.Repeat([]byte{0x4b}, size)...)), differsUnknown},
		"protobuf without metadata": {proto(varintField(9, 1).text), differsUnknown},
		"two protobuf objects":      {append(proto(meta), bytesField(2, meta).text...), differsUnknown},
		"envelope":                  {[]byte(protobufEnvelope), differsUnknown},
		"encrypted":                 {[]byte("k8s:enc:aescbc:v1:key1:" + strings.Repeat("x", 32)), differsUnknown},
		"empty":                     {nil, differsUnknown},
		"YAML":                      {[]byte("apiVersion: v1\nkind: K\n"), differsUnknown},
	} {
		wantClass(t, name, c.value, c.value, c.want)
		if owners := readOwners(c.value); owners != nil {
			t.Errorf("%s: has %d owners", name, len(owners))
		}
	}
}

func TestCompareFieldsOfOtherNumberOrType(t *testing.T) {
	o := openProto(t, kubeobj.Object{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}.Protobuf())
	with := func(f wire) []byte {
		o.fields = append(without(o.fields, o.fields[len(o.fields)-1].num), f)
		return o.value(t)
	}
	o.fields = append(o.fields, varintField(9, 1))
	a := o.value(t)
	wantClass(t, "itself", a, with(varintField(9, 1)), differsManagedFields)
	wantClass(t, "value", a, with(varintField(9, 2)), differsUnknown)
	wantClass(t, "number", a, with(varintField(8, 1)), differsUnknown)
	// Without its length, this text is what the number 1 is as a varint.
	wantClass(t, "type", a, with(bytesField(9, []byte{1})), differsUnknown)
}

// falling are fields with falling numbers.
func falling(size int) (msg []byte) {
	for num := protowire.Number(size / 4); num > 3; num-- {
		msg = protowire.AppendVarint(protowire.AppendTag(msg, num, protowire.VarintType), 1)
	}
	return msg
}

// TestUnreadableDecidesAsTheMirror holds the decision against the guard of the mirror, for sound values and damaged ones.
func TestUnreadableDecidesAsTheMirror(t *testing.T) {
	const seed = 5
	rng := rand.New(rand.NewPCG(seed, 0))
	refused, passed := map[string]int{}, 0
	check := func(key string, value []byte) {
		t.Helper()
		why := unreadable(value)
		err := etcdmirror.Intact(key, value)
		if (err == nil) != (why == "") {
			t.Errorf("seed %d: %s: %q, the mirror says %v", seed, key, why, err)
		}
		var e *etcdmirror.Error
		if !errors.As(err, &e) {
			passed++
			return
		}
		refused[why]++
		if _, problem, ok := strings.Cut(why, ", but "); !strings.HasSuffix(e.Detail, why) && (!ok || !strings.HasSuffix(e.Detail, problem)) {
			t.Errorf("seed %d: %s: %q, the mirror says %q", seed, key, why, e.Detail)
		}
	}
	for _, obj := range realObjects(t) {
		if !strings.HasPrefix(obj.Key, realcluster.Prefix) {
			continue
		}
		check(obj.Key, obj.Value)
		check(obj.Key, obj.Value[:rng.IntN(len(obj.Value))])
		damaged := slices.Clone(obj.Value)
		damaged[rng.IntN(len(damaged))] ^= byte(1 + rng.IntN(255))
		check(obj.Key, damaged)
	}
	object := kubeobj.Object{APIVersion: "v1", Kind: "Secret", Name: "s", UID: "u"}
	for _, provider := range []string{"aescbc", "aesgcm", "secretbox", "kms", "other"} {
		for _, key := range []string{"key1", "x" + strings.Repeat("ü", 60), ""} {
			value := object.Encrypted(provider, key)
			for end := range value {
				check("/registry/secrets/ns/s", value[:end])
			}
			check("/registry/secrets/ns/s", value)
		}
	}
	object.Name = ""
	check("/registry/secrets/ns/s", object.Protobuf())
	object.Kind = "Endpoints"
	check("/registry/masterleases/192.0.2.1", object.Protobuf())
	for _, value := range []string{"", "k8s", "\xd9", cborTag, cborTag + "\xa0", "{", "{}", `{"apiVersion":"v1","kind":"K"}`, "kind: K", "12"} {
		check("/registry/stable.example.com/widgets/ns/w", []byte(value))
	}
	if len(refused) < 12 || passed < 500 {
		t.Errorf("%d kinds of damage and %d sound values do not exercise the check: %v", len(refused), passed, refused)
	}
}

// FuzzCompareObjects holds what compareObjects says of two values against what encoding/json makes of them, and readOwners against apimachinery's decoders.
func FuzzCompareObjects(f *testing.F) {
	objects := realObjects(f)
	for i := 0; i < len(objects); i += 25 {
		value := objects[i].Value
		f.Add(value, value)
		if kubemeta.Protobuf(value) {
			o := openProto(f, value)
			o.touch(f, 3)
			o.editMeta(f, bookkeeping["a manager more"])
			f.Add(value, o.value(f))
		}
	}
	r := randomJSON{rand.New(rand.NewPCG(3, 3))}
	for range 10 {
		object := r.object()
		value := r.value(object, 0)
		object["status"] = r.edit(object["status"])
		f.Add(value, r.value(object, 0))
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"K","status":null}`), []byte(`{"apiVersion":"v1","kind":"K"}`))
	cbor, err := direct.Marshal(metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "K"}, ObjectMeta: metav1.ObjectMeta{UID: types.UID("u")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte(cborTag), cbor...), append([]byte(cborTag), cbor...))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		class := compareObjects(a, b)
		if back := compareObjects(b, a); back != class {
			t.Errorf("class %d, %d the other way round", class, back)
		}
		for _, value := range [][]byte{a, b} {
			if compareObjects(value, value) == differsStatus {
				t.Error("a value has another status than itself")
			}
			if got := readOwners(value); got != nil && !kubemeta.CBOR(value) {
				if want, ok := ownersOf(value); ok && !cmp.Equal(want, got) {
					t.Errorf("owners %v, apimachinery %v", got, want)
				}
			}
		}
		if class == differsUnknown {
			return
		}
		if bytes.Equal(a, b) && class != differsManagedFields {
			t.Error("equal values have different statuses")
		}
		if !json.Valid(a) || !json.Valid(b) {
			return
		}
		var sides [2]map[string]any
		var statuses [2]any
		for i, value := range [][]byte{a, b} {
			dec := json.NewDecoder(bytes.NewReader(value))
			dec.UseNumber()
			if err := dec.Decode(&sides[i]); err != nil {
				t.Fatal(err)
			}
			status, ok := sides[i]["status"]
			statuses[i] = []any{ok, status}
			delete(sides[i], "status")
			if meta, ok := sides[i]["metadata"].(map[string]any); ok {
				delete(meta, "managedFields")
				delete(meta, "resourceVersion")
			}
		}
		if !cmp.Equal(sides[0], sides[1]) {
			t.Errorf("class %d, though more than the status differs", class)
		}
		if cmp.Equal(statuses[0], statuses[1]) != (class == differsManagedFields) {
			t.Errorf("class %d is not what the statuses say", class)
		}
	})
}
