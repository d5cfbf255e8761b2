package kubemeta

import (
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind is a kind of objects: in all versions of its group, which is "" for the core group.
type Kind struct{ Group, Kind string }

// Field numbers of metav1.OwnerReference.
const (
	ownerReferenceKind       = 1
	ownerReferenceAPIVersion = 5
)

// Kinds tells from a stored value of which kind its object is, and of which kinds its owners are. ok is false for what is neither protobuf nor JSON.
// It serves guesses about other objects of the resource: unlike Read it does not look for all that could be wrong with a value.
func Kinds(value []byte) (own Kind, owners []Kind, ok bool) {
	switch {
	case Protobuf(value):
		return protobufKinds(value[len(protobufEnvelope):])
	case JSON(value):
		return jsonKinds(value)
	}
	return Kind{}, nil, false
}

func protobufKinds(unknown []byte) (own Kind, owners []Kind, ok bool) {
	head, _ := lastField(unknown, unknownType)
	raw, ok := lastField(unknown, unknownRaw)
	if !ok {
		return Kind{}, nil, false
	}
	own = protobufKind(head, typeAPIVersion, typeKind)
	meta, _ := lastField(raw, objectMetadata)
	EachField(meta, func(num protowire.Number, typ protowire.Type, content []byte) bool {
		if num == metaOwners && typ == protowire.BytesType {
			owners = append(owners, protobufKind(content, ownerReferenceAPIVersion, ownerReferenceKind))
		}
		return true
	})
	return own, owners, own.Kind != ""
}

func protobufKind(message []byte, apiVersion, kind protowire.Number) Kind {
	v, _ := lastField(message, apiVersion)
	k, _ := lastField(message, kind)
	return kindOf(string(v), string(k))
}

func jsonKinds(value []byte) (own Kind, owners []Kind, ok bool) {
	var object struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			OwnerReferences []metav1.OwnerReference `json:"ownerReferences"`
		} `json:"metadata"`
	}
	if json.Unmarshal(value, &object) != nil {
		return Kind{}, nil, false
	}
	for _, o := range object.Metadata.OwnerReferences {
		owners = append(owners, kindOf(o.APIVersion, o.Kind))
	}
	own = kindOf(object.APIVersion, object.Kind)
	return own, owners, own.Kind != ""
}

func kindOf(apiVersion, kind string) Kind {
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group = ""
	}
	return Kind{group, kind}
}
