// Package kubeobj builds values as a Kubernetes API server stores them, without knowing any kind, and whole data sets of them.
//
// Everything is a function of its inputs: the same Object gives the same bytes, the same random source the same data set.
package kubeobj

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Owner is one owner reference of an object.
type Owner struct {
	APIVersion, Kind, Name, UID string
}

// Object is what a value is made from. Only Kind, Name and UID must be set for Kubernetes to recognise the result.
type Object struct {
	APIVersion, Kind string
	Namespace        string // "" for cluster-scoped objects
	Name, UID        string
	Labels           map[string]string
	Annotations      map[string]string
	Owners           []Owner
	// Generation distinguishes the versions of one object.
	Generation int64
	// Padding is the number of bytes of filler in a data field. 0 leaves the field out.
	Padding int
	// Fill chooses the filler, the creation time and the cipher text.
	Fill uint64
}

// AsOwner is the reference by which dependents name o.
func (o Object) AsOwner() Owner {
	return Owner{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: o.UID}
}

// Field numbers of an object's metadata, and of a ConfigMap's data map, which holds the filler in every kind.
const (
	fieldMetadata = 1
	fieldData     = 2
	fieldMapKey   = 1
	fieldMapValue = 2
)

// bareSize is about what an object has without padding, in bytes.
const bareSize = 250

// Protobuf is the value as built-in resources are stored: runtime.Unknown in the k8s\0 envelope.
func (o Object) Protobuf() []byte {
	meta := o.meta()
	size := meta.Size()
	raw := make([]byte, 0, size+o.Padding+32)
	raw = protowire.AppendTag(raw, fieldMetadata, protowire.BytesType)
	raw = protowire.AppendVarint(raw, uint64(size))
	raw = raw[:len(raw)+size]
	if _, err := meta.MarshalToSizedBuffer(raw[len(raw)-size:]); err != nil {
		panic(fmt.Sprintf("kubeobj: marshal metadata: %v", err)) // only a wrong size gets here
	}
	if o.Padding > 0 {
		var entry []byte
		entry = protowire.AppendTag(entry, fieldMapKey, protowire.BytesType)
		entry = protowire.AppendString(entry, "data")
		entry = protowire.AppendTag(entry, fieldMapValue, protowire.BytesType)
		entry = protowire.AppendVarint(entry, uint64(o.Padding))
		raw = protowire.AppendTag(raw, fieldData, protowire.BytesType)
		raw = protowire.AppendVarint(raw, uint64(len(entry)+o.Padding))
		raw = append(raw, entry...)
		raw = appendFiller(raw, o.Padding, o.Fill)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: o.APIVersion, Kind: o.Kind}, Raw: raw}
	out := make([]byte, 4+u.Size())
	copy(out, "k8s\x00")
	if _, err := u.MarshalToSizedBuffer(out[4:]); err != nil {
		panic(fmt.Sprintf("kubeobj: marshal envelope: %v", err))
	}
	return out
}

// JSON is the value as custom resources are stored.
func (o Object) JSON() []byte {
	type spec struct {
		Data string `json:"data"`
	}
	doc := struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   metav1.ObjectMeta `json:"metadata"`
		Spec       *spec             `json:"spec,omitempty"`
	}{APIVersion: o.APIVersion, Kind: o.Kind, Metadata: o.meta()}
	if o.Padding > 0 {
		doc.Spec = &spec{string(appendFiller(nil, o.Padding, o.Fill))}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("kubeobj: marshal JSON: %v", err)) // these types always marshal
	}
	return append(out, '\n')
}

// Encrypted has the header and the shape of the object encrypted at rest. The body is random: nobody can read it.
// provider is aescbc, aesgcm, secretbox or kms; key is the name of the key or of the KMS plugin.
func (o Object) Encrypted(provider, key string) []byte {
	version := "v1"
	if provider == "kms" {
		version = "v2"
	}
	header := "k8s:enc:" + provider + ":" + version + ":" + key + ":"
	// An initialisation vector, then whole blocks; at least two, since padding always adds to the envelope.
	const block = 16
	body := block + max(2*block, (o.Padding+bareSize)/block*block)
	out := make([]byte, len(header), len(header)+body)
	copy(out, header)
	h := fnv.New64a()
	_, _ = h.Write([]byte(o.UID))
	rng := rand.New(rand.NewPCG(h.Sum64(), o.Fill^uint64(o.Generation)))
	for range body / 8 {
		out = binary.LittleEndian.AppendUint64(out, rng.Uint64())
	}
	return out
}

func (o Object) meta() metav1.ObjectMeta {
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := metav1.ObjectMeta{
		Name: o.Name, Namespace: o.Namespace, UID: types.UID(o.UID),
		Generation: o.Generation, Labels: o.Labels, Annotations: o.Annotations,
		CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(o.Fill%1e7) * time.Second)),
	}
	for i, w := range o.Owners {
		controller := i == 0 // only one owner may be the controller
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{
			APIVersion: w.APIVersion, Kind: w.Kind, Name: w.Name, UID: types.UID(w.UID), Controller: &controller,
		})
	}
	return m
}

// UID is a random one in the usual form.
func UID(rng *rand.Rand) string { return uidOf(rng.Uint64(), rng.Uint64()) }

func uidOf(hi, lo uint64) string {
	hi = hi&^0xf000 | 0x4000 // version 4
	lo = lo&^(3<<62) | 2<<62 // variant of RFC 9562
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 36)
	for i := range 32 {
		switch i {
		case 8, 12, 16, 20:
			out = append(out, '-')
		}
		word := hi
		if i >= 16 {
			word = lo
		}
		out = append(out, digits[word>>(60-4*(i%16))&15])
	}
	return string(out)
}

// fillerBlock is what filler is cut from: drawing 64 KiB of it anew for each value would take most of the time.
var fillerBlock = sync.OnceValue(func() []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" // valid within JSON, too
	rng := rand.New(rand.NewPCG(1, 2))
	block := make([]byte, 256<<10)
	for i := range block {
		block[i] = alphabet[rng.IntN(len(alphabet))]
	}
	return block
})

func appendFiller(dst []byte, n int, fill uint64) []byte {
	block := fillerBlock()
	for from := int(fill % uint64(len(block))); n > 0; from = 0 {
		part := block[from:]
		part = part[:min(n, len(part))]
		dst = append(dst, part...)
		n -= len(part)
	}
	return dst
}
