// Package kubemeta reads the identity of Kubernetes objects (their UID and the UIDs of their owners) from stored values,
// without knowing the kind: from protobuf in its k8s\0 envelope, from JSON and from CBOR.
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

// Field numbers of runtime.Unknown, of every object's metadata, and of metav1.ObjectMeta and metav1.OwnerReference.
const (
	unknownRaw       = 2
	objectMetadata   = 1
	metaUID          = 5
	metaOwners       = 13
	ownerReferenceID = 4
)

// Identity is what Read finds. The byte slices may alias the value.
type Identity struct {
	UID    []byte
	Owners [][]byte
}

// Encrypted reports whether the value carries the header of encryption at rest.
func Encrypted(value []byte) bool { return bytes.HasPrefix(value, encrypted) }

// Read fills id from a stored value and reports whether the value could be read as an object with a UID.
// It reuses the space of id.Owners.
func Read(value []byte, id *Identity) bool {
	id.UID, id.Owners = nil, id.Owners[:0]
	switch {
	case bytes.HasPrefix(value, protobufEnvelope):
		return readProtobuf(value[len(protobufEnvelope):], id)
	case bytes.HasPrefix(value, cborTag):
		return readCBOR(value[len(cborTag):], id)
	case len(value) > 0 && value[0] == '{':
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
		if uid, ok := fields["uid"].(string); ok {
			id.Owners = append(id.Owners, []byte(uid))
		}
	}
	return true
}

func readProtobuf(unknown []byte, id *Identity) bool {
	raw, ok := field(unknown, unknownRaw)
	if !ok {
		return false
	}
	meta, ok := field(raw, objectMetadata)
	if !ok {
		return false
	}
	ok = each(meta, func(num protowire.Number, content []byte) {
		switch num {
		case metaUID:
			id.UID = content
		case metaOwners:
			if uid, ok := field(content, ownerReferenceID); ok {
				id.Owners = append(id.Owners, uid)
			}
		}
	})
	return ok && len(id.UID) > 0
}

// field returns the last length-delimited field with the number, as protobuf's decoders do for a repeated occurrence of a scalar.
func field(msg []byte, want protowire.Number) (content []byte, ok bool) {
	valid := each(msg, func(num protowire.Number, c []byte) {
		if num == want {
			content, ok = c, true
		}
	})
	return content, ok && valid
}

// each calls fn for the length-delimited fields of a message and reports whether the message is well-formed.
func each(msg []byte, fn func(protowire.Number, []byte)) bool {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return false
		}
		msg = msg[n:]
		if typ == protowire.BytesType {
			content, n := protowire.ConsumeBytes(msg)
			if n < 0 {
				return false
			}
			fn(num, content)
			msg = msg[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return false
		}
		msg = msg[n:]
	}
	return true
}
