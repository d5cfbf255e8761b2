// Package kubemeta reads the identity of Kubernetes objects (their UID and the UIDs of their owners) from stored values,
// without knowing the kind: from protobuf in its k8s\0 envelope, from JSON and from CBOR. It also tells what keeps an apiserver from reading one.
//
// A base copy reads every value once, so the protobuf case walks the wire format of the three messages involved
// (runtime.Unknown, the object, metav1.ObjectMeta) instead of building them, and the JSON case walks to the metadata; the tests hold the result against apimachinery's own decoders.
package kubemeta

import (
	"bytes"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"google.golang.org/protobuf/encoding/protowire"
)

var (
	protobufEnvelope = []byte("k8s\x00")
	cborTag          = []byte{0xd9, 0xd9, 0xf7} // self-described CBOR
	encrypted        = []byte("k8s:enc:")
)

// Field numbers of runtime.Unknown and its runtime.TypeMeta, of every object's metadata, and of metav1.ObjectMeta and metav1.OwnerReference.
const (
	unknownType      = 1
	unknownRaw       = 2
	typeAPIVersion   = 1
	typeKind         = 2
	objectMetadata   = 1
	metaName         = 1
	metaUID          = 5
	metaOwners       = 13
	ownerReferenceID = 4
)

// Identity is what Read finds. The byte slices may alias the value.
type Identity struct {
	UID    []byte
	Owners [][]byte // without those that have no UID
}

// OtherObject reports whether two values are of objects with different UIDs. Where one cannot be read, it is not known to be.
func OtherObject(a, b []byte) bool {
	var x, y Identity
	return Read(a, &x) && Read(b, &y) && string(x.UID) != string(y.UID)
}

// Encrypted reports whether the value carries the header of encryption at rest.
func Encrypted(value []byte) bool { return bytes.HasPrefix(value, encrypted) }

// Protobuf reports whether the value carries the envelope of an object in protobuf.
func Protobuf(value []byte) bool { return bytes.HasPrefix(value, protobufEnvelope) }

// CBOR reports whether the value carries the tag of an object in CBOR.
func CBOR(value []byte) bool { return bytes.HasPrefix(value, cborTag) }

// JSON reports whether apiservers take the value for JSON: white space may come before the brace.
func JSON(value []byte) bool {
	p := skipSpace(value, 0)
	return p < len(value) && value[p] == '{'
}

// CutOff reports whether the value ends within what Encrypted, Protobuf or CBOR look for, such as an empty one.
func CutOff(value []byte) bool {
	for _, begin := range [...][]byte{encrypted, protobufEnvelope, cborTag} {
		if len(value) < len(begin) && bytes.HasPrefix(begin, value) {
			return true
		}
	}
	return false
}

// Read fills id from a stored value and reports whether the value could be read as an object with a UID.
// It reuses the space of id.Owners.
func Read(value []byte, id *Identity) bool {
	id.UID, id.Owners = nil, id.Owners[:0]
	switch {
	case Protobuf(value):
		return readProtobuf(value[len(protobufEnvelope):], id)
	case CBOR(value):
		return readCBOR(value[len(cborTag):], id)
	case JSON(value):
		return readJSON(value, id)
	}
	return false
}

func readCBOR(value []byte, id *Identity) bool {
	// The decoder refuses fields that a struct lacks, so it decodes into maps. CBOR is rare (an alpha feature for custom resources).
	var fields map[string]any
	if direct.Unmarshal(value, &fields) != nil {
		return false
	}
	meta, _ := fields["metadata"].(map[string]any)
	uid, _ := meta["uid"].(string)
	if uid == "" {
		return false
	}
	id.UID = []byte(uid)
	owners, _ := meta["ownerReferences"].([]any)
	for _, owner := range owners {
		fields, _ := owner.(map[string]any)
		if uid, _ := fields["uid"].(string); uid != "" {
			id.Owners = append(id.Owners, []byte(uid))
		}
	}
	return true
}

func readProtobuf(unknown []byte, id *Identity) bool {
	raw, ok := lastField(unknown, unknownRaw)
	if !ok {
		return false
	}
	// Of metadata that comes in several parts the decoders make one.
	ok = EachField(raw, func(num protowire.Number, typ protowire.Type, meta []byte) bool {
		return num != objectMetadata || EachField(meta, func(num protowire.Number, typ protowire.Type, content []byte) bool {
			switch {
			case typ != protowire.BytesType:
			case num == metaUID:
				id.UID = content
			case num == metaOwners:
				if uid, ok := lastField(content, ownerReferenceID); ok && len(uid) > 0 {
					id.Owners = append(id.Owners, uid)
				}
			}
			return true
		})
	})
	return ok && len(id.UID) > 0
}

// lastField returns the last length-delimited field with the number, as protobuf's decoders do for a repeated occurrence of a scalar.
func lastField(msg []byte, want protowire.Number) (content []byte, ok bool) {
	valid := EachField(msg, func(num protowire.Number, typ protowire.Type, c []byte) bool {
		if num == want && typ == protowire.BytesType {
			content, ok = c, true
		}
		return true
	})
	return content, ok && valid
}

// EachField calls fn for the fields of a message until fn returns false, and reports whether that did not happen and the message is well-formed.
// The content is that of a length-delimited field without its length, and aliases msg; of any other field it is the encoded value.
func EachField(msg []byte, fn func(num protowire.Number, typ protowire.Type, content []byte) bool) bool {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return false
		}
		msg = msg[n:]
		var content []byte
		if typ == protowire.BytesType {
			content, n = protowire.ConsumeBytes(msg)
		} else if n = protowire.ConsumeFieldValue(num, typ, msg); n >= 0 {
			content = msg[:n]
		}
		if n < 0 || !fn(num, typ, content) {
			return false
		}
		msg = msg[n:]
	}
	return true
}
