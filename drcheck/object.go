package drcheck

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// objectDifference says in which part two stored values of one object differ.
type objectDifference int

const (
	// differsUnknown: in more than the parts below, or nobody can tell: values that are encrypted, damaged, of different encodings or types, or no objects.
	differsUnknown objectDifference = iota
	// differsStatus: in status, and perhaps in what differsManagedFields names. The generation is no part of it: it follows the spec.
	differsStatus
	// differsManagedFields: in metadata.managedFields and metadata.resourceVersion, or in nothing that an apiserver would notice, such as the order of a JSON object's members.
	differsManagedFields
)

// Fields of stored objects, by number in protobuf and by name otherwise. Kinds that have a status in protobuf are those of hasStatus.
const (
	envelopeRaw             = 2
	envelopeContentEncoding = 3
	envelopeContentType     = 4
	objectMetadata          = 1
	objectStatus            = 3
	metaResourceVersion     = 6
	metaManagedFields       = 17

	fieldMetadata        = "metadata"
	fieldStatus          = "status"
	fieldResourceVersion = "resourceVersion"
	fieldManagedFields   = "managedFields"
)

// The beginnings of encoded values, for which kubemeta.Protobuf and kubemeta.CBOR ask.
const (
	protobufEnvelope = "k8s\x00"
	cborTag          = "\xd9\xd9\xf7"
)

// compareObjects tells which part of an object differs between two stored values, without knowing its Go type. When in doubt it says differsUnknown.
func compareObjects(source, target []byte) objectDifference {
	switch {
	case kubemeta.Protobuf(source) && kubemeta.Protobuf(target):
		return compareProtobuf(source, target)
	case kubemeta.JSON(source) && kubemeta.JSON(target), kubemeta.CBOR(source) && kubemeta.CBOR(target):
		return compareFields(decodeFields(source), decodeFields(target))
	}
	return differsUnknown
}

// compareFields compares what decodeFields returns, and changes it.
func compareFields(source, target map[string]any) objectDifference {
	if source == nil || target == nil {
		return differsUnknown
	}
	var statuses [2]any
	var present [2]bool
	for i, object := range [...]map[string]any{source, target} {
		statuses[i], present[i] = object[fieldStatus]
		delete(object, fieldStatus)
		if meta, ok := object[fieldMetadata].(map[string]any); ok {
			delete(meta, fieldManagedFields)
			delete(meta, fieldResourceVersion)
		}
	}
	switch {
	case !sameTree(source, target):
		return differsUnknown
	case present[0] != present[1] || !sameTree(statuses[0], statuses[1]):
		return differsStatus
	}
	return differsManagedFields
}

// sameTree compares what decoders make of JSON and CBOR: maps, arrays, and values that can be compared. No decoder goes deeper than 10,000 levels.
func sameTree(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		other, ok := b.(map[string]any)
		if !ok || len(a) != len(other) {
			return false
		}
		for name, member := range a {
			if o, ok := other[name]; !ok || !sameTree(member, o) {
				return false
			}
		}
		return true
	case []any:
		other, ok := b.([]any)
		return ok && slices.EqualFunc(a, other, sameTree)
	}
	return a == b
}

// decodeFields returns the fields of an object in JSON or CBOR; nil for what is none, and where a name occurs twice: of that each decoder makes something else.
// Numbers of JSON stay text: a float64 makes one of two large ones.
func decodeFields(value []byte) map[string]any {
	var fields map[string]any
	switch {
	case kubemeta.CBOR(value):
		if direct.Unmarshal(value[len(cborTag):], &fields) != nil {
			return nil
		}
	case kubemeta.JSON(value):
		// The check refuses what is cut off, what follows the object, and objects too deep for an apiserver.
		if kubemeta.CheckJSON(value) != "" {
			return nil
		}
		dec := json.NewDecoder(bytes.NewReader(value))
		dec.UseNumber()
		decoded, ok := decodeJSON(dec)
		if !ok {
			return nil
		}
		fields, _ = decoded.(map[string]any)
	}
	apiVersion, _ := fields["apiVersion"].(string)
	kind, _ := fields["kind"].(string)
	if apiVersion == "" || kind == "" {
		return nil
	}
	return fields
}

// decodeJSON returns the next value of a text that is known to be valid, or false if a name occurs twice in an object.
func decodeJSON(dec *json.Decoder) (any, bool) {
	token, err := dec.Token()
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for dec.More() {
			token, err = dec.Token()
			name, isName := token.(string)
			if _, twice := object[name]; err != nil || !isName || twice {
				return nil, false
			}
			member, ok := decodeJSON(dec)
			if !ok {
				return nil, false
			}
			object[name] = member
		}
		_, err = dec.Token() // the brace
		return object, err == nil
	case json.Delim('['):
		array := []any{}
		for dec.More() {
			element, ok := decodeJSON(dec)
			if !ok {
				return nil, false
			}
			array = append(array, element)
		}
		_, err = dec.Token() // the bracket
		return array, err == nil
	}
	return token, err == nil
}

// compareProtobuf compares fields as they are encoded: fields that this version of apimachinery does not know count as well.
func compareProtobuf(source, target []byte) objectDifference {
	a, okA := splitObject(source)
	b, okB := splitObject(target)
	switch {
	case !okA || !okB, !a.envelope.equal(b.envelope), !a.meta.equal(b.meta), !a.rest.equal(b.rest):
		return differsUnknown
	case !a.status.equal(b.status):
		return differsStatus
	}
	return differsManagedFields
}

// splitFields are the fields of an object in protobuf but for managedFields and resourceVersion.
type splitFields struct {
	envelope, meta, status, rest wireFields
}

// splitObject reports false for what an apiserver cannot read, and for what it does not write.
func splitObject(value []byte) (s splitFields, ok bool) {
	head, problem := kubemeta.CheckProtobuf(value)
	if problem != "" {
		return s, false
	}
	var raws [][]byte
	ok = kubemeta.EachField(value[len(protobufEnvelope):], func(num protowire.Number, typ protowire.Type, content []byte) bool {
		switch num {
		case envelopeRaw:
			raws = append(raws, content)
		case envelopeContentEncoding, envelopeContentType:
			return len(content) == 0 // set, the raw part would be something else than an object in protobuf
		default:
			s.envelope.add(num, typ, content)
		}
		return true
	})
	if !ok || len(raws) != 1 {
		return s, false
	}
	withStatus := hasStatus(string(head.APIVersion), string(head.Kind))
	ok = kubemeta.EachField(raws[0], func(num protowire.Number, typ protowire.Type, content []byte) bool {
		switch {
		case num == objectMetadata:
			return typ == protowire.BytesType && kubemeta.EachField(content, func(num protowire.Number, typ protowire.Type, content []byte) bool {
				if num != metaManagedFields && num != metaResourceVersion {
					s.meta.add(num, typ, content)
				}
				return true
			})
		case num == objectStatus && withStatus:
			s.status.add(num, typ, content)
			return typ == protowire.BytesType && kubemeta.EachField(content, func(protowire.Number, protowire.Type, []byte) bool { return true })
		}
		s.rest.add(num, typ, content)
		return true
	})
	return s, ok
}

// wireFields are fields of one message. What they mean does not depend on the order among fields of different numbers.
type wireFields []wireField

type wireField struct {
	num     protowire.Number
	typ     protowire.Type
	content []byte
}

func (f *wireFields) add(num protowire.Number, typ protowire.Type, content []byte) {
	*f = append(*f, wireField{num, typ, content})
}

func (f wireFields) equal(other wireFields) bool {
	for _, fields := range [...]wireFields{f, other} {
		slices.SortStableFunc(fields, func(a, b wireField) int { return cmp.Compare(a.num, b.num) })
	}
	return slices.EqualFunc(f, other, func(a, b wireField) bool {
		return a.num == b.num && a.typ == b.typ && bytes.Equal(a.content, b.content)
	})
}

// hasStatus reports whether an object of a kind has the field objectStatus in protobuf, and whether that is its status. Others have data there.
func hasStatus(apiVersion, kind string) bool {
	gv, err := schema.ParseGroupVersion(apiVersion)
	return err == nil && slices.Contains(statusKinds[gv.Group], kind)
}

// statusKinds are the kinds, by group, that kube-apiserver stores with the spec in field 2 and the status in field 3, in each of the group's versions that have the kind.
// They hold for Kubernetes 1.20 to 1.37.
var statusKinds = map[string][]string{
	"": {
		"Namespace", "Node", "PersistentVolume", "PersistentVolumeClaim", "Pod", "ReplicationController", "ResourceQuota", "Service",
	},
	"admissionregistration.k8s.io": {"ValidatingAdmissionPolicy"},
	"apiextensions.k8s.io":         {"CustomResourceDefinition"},
	"apiregistration.k8s.io":       {"APIService"},
	"apps":                         {"DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"},
	"autoscaling":                  {"HorizontalPodAutoscaler"},
	"batch":                        {"CronJob", "Job"},
	"certificates.k8s.io":          {"CertificateSigningRequest", "PodCertificateRequest"},
	"extensions":                   {"DaemonSet", "Deployment", "Ingress", "ReplicaSet"},
	"flowcontrol.apiserver.k8s.io": {"FlowSchema", "PriorityLevelConfiguration"},
	"internal.apiserver.k8s.io":    {"StorageVersion"},
	"lifecycle.k8s.io":             {"Eviction", "EvictionRequest"},
	"networking.k8s.io":            {"Ingress", "ServiceCIDR"},
	"policy":                       {"PodDisruptionBudget"},
	"resource.k8s.io":              {"DeviceTaintRule", "PodSchedulingContext", "ResourceClaim", "ResourcePoolStatusRequest"},
	"scheduling.k8s.io":            {"CompositePodGroup", "PodGroup"},
	"storage.k8s.io":               {"CSINode", "VolumeAttachment"},
	"storagemigration.k8s.io":      {"StorageVersionMigration"},
}

// unreadable says why no apiserver can read a value that is stored under a key of Kubernetes, "" if one may. It holds nothing of the value but the header of an encrypted one.
// It decides as the mirror's guard etcdmirror.Intact does. Under other keys JSON and empty values are none of an apiserver's business.
func unreadable(value []byte) string {
	switch {
	case kubemeta.Encrypted(value):
		h, problem := kubemeta.CheckEncrypted(value)
		switch {
		case problem == "":
			return ""
		case len(h.Name) == 0:
			return "encrypted, but " + string(problem)
		}
		return fmt.Sprintf("encrypted with %s key %s, but %s", h.Scheme, quoteName(h.Name), problem)
	case kubemeta.Protobuf(value):
		head, problem := kubemeta.CheckProtobuf(value)
		if problem == "" && len(head.Name) == 0 && !nameless(string(head.Kind)) {
			problem = "its protobuf object has no name"
		}
		return string(problem)
	case kubemeta.JSON(value):
		return string(kubemeta.CheckJSON(value))
	case kubemeta.CBOR(value):
		return string(kubemeta.CheckCBOR(value))
	case kubemeta.CutOff(value):
		return "it is empty or cut off at its beginning"
	}
	return ""
}

// nameless reports whether apiservers keep their own affairs in objects of a kind, which have no name then: leases of apiservers, and allocations of addresses and ports.
func nameless(kind string) bool { return kind == "Endpoints" || kind == "RangeAllocation" }

// maxKeyName bounds what is shown of the name of an encryption key, in bytes.
const maxKeyName = 64

// quoteName shows a name, which is text that can be printed.
func quoteName(name []byte) string {
	if len(name) <= maxKeyName {
		return strconv.Quote(string(name))
	}
	cut := maxKeyName
	for !utf8.RuneStart(name[cut]) {
		cut--
	}
	return strconv.Quote(string(name[:cut])) + "..."
}
