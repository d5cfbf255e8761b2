package kubemeta

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/encoding/protowire"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
)

// Problem is what keeps apiservers from reading a value, in words that hold nothing of it; "" is none.
type Problem string

// Problems that the checks find.
const (
	DamagedEnvelope Problem = "its protobuf envelope is damaged or cut off"
	DamagedObject   Problem = "the protobuf object in its envelope is damaged or cut off"
	DamagedJSON     Problem = "its JSON is damaged or cut off"
	DamagedCBOR     Problem = "its CBOR is damaged or cut off"
	// NoType: watching an object needs both, since nothing else says what it is (the decoders of apimachinery answer "Object 'Kind' is missing").
	NoType     Problem = "it names no kind, or no apiVersion that an apiserver can parse"
	NoMetadata Problem = "its protobuf object has no metadata"
)

// Head is what an object says about itself. The byte slices may alias the value.
type Head struct {
	APIVersion, Kind, Name []byte
}

// complete reports whether the type is one that runtime.TypeMeta.GroupVersionKind gives a version and a kind.
func (h *Head) complete() bool {
	version := h.APIVersion
	if i := bytes.IndexByte(version, '/'); i >= 0 {
		version = version[i+1:]
	}
	return len(h.Kind) > 0 && len(version) > 0 && bytes.IndexByte(version, '/') < 0
}

// CheckProtobuf looks at a value for which Protobuf is true. The kind's own fields are checked for their framing only.
//
// Walking costs a fraction of decoding, but there is more that Kubernetes' generated decoders accept: so the walk may say yes, and no is for the decoders to say.
func CheckProtobuf(value []byte) (Head, Problem) {
	body := value[len(protobufEnvelope):]
	head, problem := walkProtobuf(body)
	if problem == DamagedEnvelope || problem == DamagedObject {
		head, problem = decodeProtobuf(body)
	}
	if problem == "" && !head.complete() {
		problem = NoType
	}
	return head, problem
}

func walkProtobuf(body []byte) (head Head, problem Problem) {
	var raw []byte
	if !EachField(body, func(num protowire.Number, typ protowire.Type, content []byte) bool {
		switch {
		case num == unknownType:
			if !EachField(content, func(num protowire.Number, typ protowire.Type, content []byte) bool {
				switch num {
				case typeAPIVersion:
					head.APIVersion = content
				case typeKind:
					head.Kind = content
				}
				return typeMeta.fits(num, typ, content)
			}) {
				return false
			}
		case num == unknownRaw:
			raw = content
		}
		return unknown.fits(num, typ, content)
	}) {
		return head, DamagedEnvelope
	}
	problem = NoMetadata // every kind that is stored has it, also where it is empty
	if !EachField(raw, func(num protowire.Number, typ protowire.Type, content []byte) bool {
		if num != objectMetadata {
			return true
		}
		problem = ""
		return typ == protowire.BytesType && EachField(content, func(num protowire.Number, typ protowire.Type, content []byte) bool {
			if num == metaName {
				head.Name = content
			}
			return objectMeta.fits(num, typ, content)
		})
	}) {
		return head, DamagedObject
	}
	return head, problem
}

// decodeProtobuf does what walkProtobuf does with the decoders of an apiserver.
func decodeProtobuf(body []byte) (Head, Problem) {
	var u runtime.Unknown
	if u.Unmarshal(body) != nil {
		return Head{}, DamagedEnvelope
	}
	var object metav1.PartialObjectMetadata
	if object.Unmarshal(u.Raw) != nil {
		return Head{}, DamagedObject
	}
	return Head{APIVersion: []byte(u.APIVersion), Kind: []byte(u.Kind), Name: []byte(object.Name)}, ""
}

// message is what is known of a message: its fields by number. Fields that are not listed are skipped, as the decoders do.
type message []field

type field struct {
	kind fieldKind
	msg  message // of a submessage
}

type fieldKind int

const (
	skipped fieldKind = iota
	number
	text // or bytes
	submessage
)

// fits reports whether a field is encoded as the message wants it, to any depth.
func (m message) fits(num protowire.Number, typ protowire.Type, content []byte) bool {
	if int(num) >= len(m) {
		return true
	}
	switch f := m[num]; f.kind {
	case number:
		return typ == protowire.VarintType
	case text:
		return typ == protowire.BytesType
	case submessage:
		return typ == protowire.BytesType && EachField(content, f.msg.fits)
	}
	return true
}

// The messages as k8s.io/apimachinery's generated decoders read them: pkg/runtime/generated.pb.go, pkg/apis/meta/v1/generated.pb.go and time_proto.go there.
// A timestamp of any length is read, and labels, annotations and managed fields hold text whose content no decoder looks at.
var (
	unknown   = message{unknownType: {kind: text}, unknownRaw: {kind: text}, 3: {kind: text}, 4: {kind: text}}
	typeMeta  = message{typeAPIVersion: {kind: text}, typeKind: {kind: text}}
	timestamp = message{1: {kind: number}, 2: {kind: number}}
	mapEntry  = message{1: {kind: text}, 2: {kind: text}}
	fieldsV1  = message{1: {kind: text}}

	ownerReference = message{
		1: {kind: text}, 3: {kind: text}, ownerReferenceID: {kind: text}, 5: {kind: text}, 6: {kind: number}, 7: {kind: number},
	}
	managedFields = message{
		1: {kind: text}, 2: {kind: text}, 3: {kind: text}, 4: {submessage, timestamp}, 6: {kind: text}, 7: {submessage, fieldsV1}, 8: {kind: text},
	}
	objectMeta = message{
		metaName: {kind: text}, 2: {kind: text}, 3: {kind: text}, 4: {kind: text}, metaUID: {kind: text}, 6: {kind: text},
		7: {kind: number}, 8: {submessage, timestamp}, 9: {submessage, timestamp}, 10: {kind: number},
		11: {submessage, mapEntry}, 12: {submessage, mapEntry}, metaOwners: {submessage, ownerReference}, 14: {kind: text}, 17: {submessage, managedFields},
	}
)

// CheckJSON looks at a value for which JSON is true. What is inside of the object, but for its type, is checked for its syntax only.
func CheckJSON(value []byte) Problem {
	var head Head
	if !members(value, func(name, content []byte) {
		switch string(name) {
		case "apiVersion":
			head.APIVersion = plainText(content)
		case "kind":
			head.Kind = plainText(content)
		}
	}) {
		return DamagedJSON
	}
	if head.complete() {
		return ""
	}
	// Here as well no is for the decoders to say. Of custom resources the names must match exactly, of built-in ones case does not count
	// (SimpleMetaFactory.Interpret in apimachinery's pkg/runtime/serializer/json).
	var folded struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if json.Unmarshal(value, &folded) == nil && (&Head{APIVersion: []byte(folded.APIVersion), Kind: []byte(folded.Kind)}).complete() {
		return ""
	}
	var exact map[string]any
	if json.Unmarshal(value, &exact) != nil {
		return NoType
	}
	return checkFields(exact)
}

// plainText is the content of a JSON string without escapes; nil for anything else.
func plainText(content []byte) []byte {
	if len(content) < 2 || content[0] != '"' || bytes.IndexByte(content, '\\') >= 0 {
		return nil
	}
	return content[1 : len(content)-1]
}

// CheckCBOR looks at a value for which CBOR is true. It decodes the value: CBOR is rare, and its decoder refuses more than what is not well-formed, such as keys that occur twice.
func CheckCBOR(value []byte) Problem {
	var fields map[string]any
	if direct.Unmarshal(value, &fields) != nil {
		return DamagedCBOR
	}
	return checkFields(fields)
}

func checkFields(fields map[string]any) Problem {
	apiVersion, _ := fields["apiVersion"].(string)
	kind, _ := fields["kind"].(string)
	if !(&Head{APIVersion: []byte(apiVersion), Kind: []byte(kind)}).complete() {
		return NoType
	}
	return ""
}
