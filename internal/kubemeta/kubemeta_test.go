package kubemeta_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

// identity is an Identity in comparable form.
type identity struct {
	UID    string
	Owners []string
}

func read(value []byte) (identity, bool) {
	var id kubemeta.Identity
	ok := kubemeta.Read(value, &id)
	got := identity{UID: string(id.UID)}
	for _, o := range id.Owners {
		got.Owners = append(got.Owners, string(o))
	}
	if !ok {
		return identity{}, false
	}
	return got, true
}

// decode reads the same by apimachinery's generated decoders.
func decode(value []byte) (identity, bool) {
	var meta metav1.ObjectMeta
	switch {
	case bytes.HasPrefix(value, []byte("k8s\x00")):
		var unknown runtime.Unknown
		if unknown.Unmarshal(value[4:]) != nil {
			return identity{}, false
		}
		var obj metav1.PartialObjectMetadata
		if obj.Unmarshal(unknown.Raw) != nil {
			return identity{}, false
		}
		meta = obj.ObjectMeta
	case len(value) > 0 && value[0] == '{':
		var obj metav1.PartialObjectMetadata
		if json.Unmarshal(value, &obj) != nil {
			return identity{}, false
		}
		meta = obj.ObjectMeta
	}
	if meta.UID == "" {
		return identity{}, false
	}
	want := identity{UID: string(meta.UID)}
	for _, o := range meta.OwnerReferences {
		if o.UID != "" {
			want.Owners = append(want.Owners, string(o.UID))
		}
	}
	return want, true
}

func TestReadAgreesWithAPIMachineryOnARealCluster(t *testing.T) {
	objects, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	withUID, withOwners := 0, 0
	for _, obj := range objects {
		got, ok := read(obj.Value)
		want, wantOK := decode(obj.Value)
		if ok != wantOK {
			t.Errorf("%s: read %v, apimachinery %v", obj.Key, ok, wantOK)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-apimachinery +read)\n%s", obj.Key, diff)
		}
		if ok {
			withUID++
		}
		if len(got.Owners) > 0 {
			withOwners++
		}
	}
	if withUID < 400 || withOwners < 10 {
		t.Errorf("only %d objects with a UID and %d with owners: the data does not exercise the reader", withUID, withOwners)
	}
}

func TestReadCBOR(t *testing.T) {
	obj := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "x", UID: types.UID("u1"),
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "K", Name: "o", UID: "u0"}}}}
	value, err := direct.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	value = append([]byte{0xd9, 0xd9, 0xf7}, bytes.TrimPrefix(value, []byte{0xd9, 0xd9, 0xf7})...)
	got, ok := read(value)
	if want := (identity{UID: "u1", Owners: []string{"u0"}}); !ok || !cmp.Equal(want, got) {
		t.Errorf("got %+v, %v; want %+v", got, ok, want)
	}
}

func TestReadRefusesWhatIsNoObject(t *testing.T) {
	for name, value := range map[string][]byte{
		"empty": nil, "text": []byte("revision 12"), "encrypted": []byte("k8s:enc:aescbc:v1:key1:aaaaaaaaaaaaaaaa"),
		"envelope without content": []byte("k8s\x00"), "truncated": []byte("k8s\x00\x12\x7f\x0a"), "JSON without UID": []byte(`{"metadata":{}}`), "broken JSON": []byte(`{"metadata":{"uid":"u`),
	} {
		if got, ok := read(value); ok {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	if !kubemeta.Encrypted([]byte("k8s:enc:kms:v2:x:")) || kubemeta.Encrypted([]byte("k8s\x00")) {
		t.Error("Encrypted does not tell encrypted values from others")
	}
}

// FuzzRead holds the reader against apimachinery's decoders. The reader walks only what it needs, so it may accept a value of which other parts are damaged;
// what both accept, they read alike.
func FuzzRead(f *testing.F) {
	objects, err := realcluster.Objects()
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(objects); i += 25 {
		f.Add(objects[i].Value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		kept := slices.Clone(value)
		got, ok := read(value)
		if !bytes.Equal(kept, value) {
			t.Fatal("Read changed the value")
		}
		want, wantOK := decode(value)
		if json.Valid(value) {
			// encoding/json folds case and merges members that occur twice; stored objects have neither.
			if want.UID == got.UID && ok != wantOK {
				t.Errorf("read %v, apimachinery %v", ok, wantOK)
			}
			return
		}
		if ok && wantOK {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-apimachinery +read)\n%s", diff)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	objects, err := realcluster.Objects()
	if err != nil {
		b.Fatal(err)
	}
	for _, format := range []struct{ name, prefix string }{{"protobuf", "k8s\x00"}, {"json", "{"}} {
		var values [][]byte
		size := 0
		for _, obj := range objects {
			if bytes.HasPrefix(obj.Value, []byte(format.prefix)) {
				values = append(values, obj.Value)
				size += len(obj.Value)
			}
		}
		b.Run(format.name, func(b *testing.B) {
			b.SetBytes(int64(size / len(values)))
			b.ReportAllocs()
			var id kubemeta.Identity
			for i := 0; b.Loop(); i++ {
				kubemeta.Read(values[i%len(values)], &id)
			}
		})
	}
}

func TestKindsAgreeWithAPIMachineryOnARealCluster(t *testing.T) {
	objects, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	kind := func(apiVersion, kind string) kubemeta.Kind {
		gvk := schema.FromAPIVersionAndKind(apiVersion, kind)
		return kubemeta.Kind{Group: gvk.Group, Kind: gvk.Kind}
	}
	withOwners := 0
	for _, obj := range objects {
		var want kubemeta.Kind
		var owners []kubemeta.Kind
		var meta metav1.PartialObjectMetadata
		switch {
		case bytes.HasPrefix(obj.Value, []byte("k8s\x00")):
			var unknown runtime.Unknown
			if unknown.Unmarshal(obj.Value[4:]) != nil || meta.Unmarshal(unknown.Raw) != nil {
				continue // of other things than objects, such as allocators' bitmaps
			}
			want = kind(unknown.APIVersion, unknown.Kind)
		case json.Unmarshal(obj.Value, &meta) == nil:
			want = kind(meta.APIVersion, meta.Kind)
		default:
			continue
		}
		for _, o := range meta.OwnerReferences {
			owners = append(owners, kind(o.APIVersion, o.Kind))
		}
		if len(owners) > 0 {
			withOwners++
		}
		got, gotOwners, ok := kubemeta.Kinds(obj.Value)
		if !ok || got != want || !slices.Equal(gotOwners, owners) {
			t.Errorf("%s: %v owned by %v (%v), want %v owned by %v", obj.Key, got, gotOwners, ok, want, owners)
		}
	}
	if withOwners == 0 {
		t.Error("no object of the cluster has an owner")
	}
	for _, value := range []string{"", "k8s\x00", "k8s:enc:aescbc:v1:key1:", "{", "plain"} {
		if _, _, ok := kubemeta.Kinds([]byte(value)); ok {
			t.Errorf("%q has a kind", value)
		}
	}
}
