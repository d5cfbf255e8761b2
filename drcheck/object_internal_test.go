package drcheck

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

func realObjects(tb testing.TB) []realcluster.Object {
	tb.Helper()
	objects, err := realcluster.Objects()
	if err != nil {
		tb.Fatal(err)
	}
	return objects
}

// wantClass holds a comparison against what it must be, whichever side is the source.
func wantClass(tb testing.TB, name string, a, b []byte, want objectDifference) {
	tb.Helper()
	for _, sides := range [...][2][]byte{{a, b}, {b, a}} {
		kept := [2][]byte{slices.Clone(sides[0]), slices.Clone(sides[1])}
		if got := compareObjects(sides[0], sides[1]); got != want {
			tb.Errorf("%s: class %d, want %d", name, got, want)
		}
		if !bytes.Equal(kept[0], sides[0]) || !bytes.Equal(kept[1], sides[1]) {
			tb.Errorf("%s: the comparison changed a value", name)
		}
	}
}

// protoObject is an object in protobuf, taken apart by apimachinery's decoder.
type protoObject struct {
	envelope runtime.Unknown
	meta     []wire
	fields   []wire
}

// wire is an encoded field, with its tag.
type wire struct {
	num  protowire.Number
	text []byte
}

func wiresOf(tb testing.TB, msg []byte) (out []wire) {
	tb.Helper()
	for len(msg) > 0 {
		num, _, n := protowire.ConsumeField(msg)
		if n < 0 {
			tb.Fatal(protowire.ParseError(n))
		}
		out = append(out, wire{num, msg[:n]})
		msg = msg[n:]
	}
	return out
}

func bytesField(num protowire.Number, content []byte) wire {
	return wire{num, protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), content)}
}

func varintField(num protowire.Number, v uint64) wire {
	return wire{num, protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)}
}

func join(fields []wire) (msg []byte) {
	for _, f := range fields {
		msg = append(msg, f.text...)
	}
	return msg
}

// contentOf is the content of the only field with a number; nil if there is none.
func contentOf(tb testing.TB, fields []wire, num protowire.Number) []byte {
	tb.Helper()
	for _, f := range fields {
		if f.num == num {
			_, _, n := protowire.ConsumeTag(f.text)
			content, n := protowire.ConsumeBytes(f.text[n:])
			if n < 0 {
				tb.Fatalf("field %d is no bytes", num)
			}
			return content
		}
	}
	return nil
}

func without(fields []wire, num protowire.Number) []wire {
	return slices.DeleteFunc(slices.Clone(fields), func(f wire) bool { return f.num == num })
}

func openProto(tb testing.TB, value []byte) *protoObject {
	tb.Helper()
	var o protoObject
	if err := o.envelope.Unmarshal(value[4:]); err != nil {
		tb.Fatal(err)
	}
	o.fields = wiresOf(tb, o.envelope.Raw)
	o.meta = wiresOf(tb, contentOf(tb, o.fields, 1))
	return &o
}

func (o *protoObject) value(tb testing.TB) []byte {
	tb.Helper()
	o.envelope.Raw = join(append([]wire{bytesField(1, join(o.meta))}, without(o.fields, 1)...))
	body, err := o.envelope.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return append([]byte("k8s\x00"), body...)
}

// editMeta changes the metadata as apimachinery decodes it.
func (o *protoObject) editMeta(tb testing.TB, edit func(*metav1.ObjectMeta)) {
	tb.Helper()
	var meta metav1.ObjectMeta
	if err := meta.Unmarshal(join(o.meta)); err != nil {
		tb.Fatal(err)
	}
	edit(&meta)
	text, err := meta.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	o.meta = wiresOf(tb, text)
}

// touch changes a field: a number by 1, a submessage or text, which may be missing, by a field that it does not have.
func (o *protoObject) touch(tb testing.TB, num protowire.Number) {
	tb.Helper()
	for i, f := range o.fields {
		if _, typ, n := protowire.ConsumeTag(f.text); f.num == num && typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(f.text[n:])
			o.fields = slices.Clone(o.fields)
			o.fields[i] = varintField(num, v+1)
			return
		}
	}
	content := slices.Concat(contentOf(tb, o.fields, num), varintField(1000, 1).text)
	o.fields = append(without(o.fields, num), bytesField(num, content))
}

// bookkeeping are changes of the metadata that do not matter, significant those that do.
var (
	bookkeeping = map[string]func(*metav1.ObjectMeta){
		"a manager more": func(m *metav1.ObjectMeta) {
			m.ManagedFields = append(m.ManagedFields, metav1.ManagedFieldsEntry{Manager: "standby", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)})
		},
		"managers, or none": func(m *metav1.ObjectMeta) {
			if m.ManagedFields == nil {
				m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "standby"}}
			} else {
				m.ManagedFields = nil
			}
		},
		"resource version": func(m *metav1.ObjectMeta) { m.ResourceVersion += "7" },
	}
	significant = map[string]func(*metav1.ObjectMeta){
		"name":          func(m *metav1.ObjectMeta) { m.Name += "x" },
		"namespace":     func(m *metav1.ObjectMeta) { m.Namespace += "x" },
		"generate name": func(m *metav1.ObjectMeta) { m.GenerateName += "x" },
		"UID":           func(m *metav1.ObjectMeta) { m.UID += "x" },
		"generation":    func(m *metav1.ObjectMeta) { m.Generation++ },
		"creation":      func(m *metav1.ObjectMeta) { m.CreationTimestamp = metav1.Unix(m.CreationTimestamp.Unix()+1, 0) },
		"deletion":      func(m *metav1.ObjectMeta) { m.DeletionTimestamp = &metav1.Time{Time: time.Unix(7, 0)} },
		"grace": func(m *metav1.ObjectMeta) {
			seconds := int64(7)
			if m.DeletionGracePeriodSeconds != nil {
				seconds = *m.DeletionGracePeriodSeconds + 1
			}
			m.DeletionGracePeriodSeconds = &seconds
		},
		"label": func(m *metav1.ObjectMeta) {
			m.Labels = maps.Clone(m.Labels)
			metav1.SetMetaDataLabel(m, "test/new", "1")
		},
		"annotation": func(m *metav1.ObjectMeta) {
			m.Annotations = maps.Clone(m.Annotations)
			metav1.SetMetaDataAnnotation(m, "test/new", "1")
		},
		"finalizer": func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, "test/new") },
		"owner": func(m *metav1.ObjectMeta) {
			m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "K", Name: "n", UID: "u"})
		},
	}
)

// noStatus are the kinds of the cluster whose message has no status in its generated.proto, in Kubernetes 1.36 and 1.37: those with other data in field 3, then those without one.
var noStatus = strings.Fields(`ClusterRole ClusterRoleBinding ConfigMap ControllerRevision CSIStorageCapacity EndpointSlice Event PriorityClass RangeAllocation RoleBinding RuntimeClass
	Secret ServiceAccount StorageClass VolumeAttributesClass
	ClusterTrustBundle CSIDriver DeviceClass Endpoints IPAddress IngressClass Lease LeaseCandidate LimitRange MutatingAdmissionPolicy MutatingAdmissionPolicyBinding
	MutatingWebhookConfiguration NetworkPolicy PodTemplate ResourceClaimTemplate ResourceSlice Role ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration Workload`)

func TestCompareProtobufOfARealCluster(t *testing.T) {
	kinds := map[string]bool{}
	for _, obj := range realObjects(t) {
		if !kubemeta.Protobuf(obj.Value) {
			continue
		}
		original := openProto(t, obj.Value)
		kind := original.envelope.Kind
		statusClass := differsStatus
		if slices.Contains(noStatus, kind) {
			statusClass = differsUnknown
		}
		kinds[kind] = statusClass == differsStatus
		check := func(name string, want objectDifference, edit func(o *protoObject)) {
			t.Helper()
			o := *original
			edit(&o)
			wantClass(t, obj.Key+": "+name, obj.Value, o.value(t), want)
		}
		check("nothing", differsManagedFields, func(*protoObject) {})
		check("order of fields", differsManagedFields, func(o *protoObject) {
			for _, fields := range []*[]wire{&o.meta, &o.fields} {
				*fields = slices.SortedStableFunc(slices.Values(*fields), func(a, b wire) int { return int(b.num - a.num) })
			}
		})
		check("status", statusClass, func(o *protoObject) { o.touch(t, 3) })
		for name, edit := range bookkeeping {
			check(name, differsManagedFields, func(o *protoObject) { o.editMeta(t, edit) })
			check("status, "+name, statusClass, func(o *protoObject) { o.editMeta(t, edit); o.touch(t, 3) })
		}
		for name, edit := range significant {
			check(name, differsUnknown, func(o *protoObject) { o.editMeta(t, edit) })
			check("status, "+name, differsUnknown, func(o *protoObject) { o.editMeta(t, edit); o.touch(t, 3) })
		}
		if len(without(original.fields, 3)) < len(original.fields) {
			check("no status", statusClass, func(o *protoObject) { o.fields = without(o.fields, 3) })
		}
		check("spec or data", differsUnknown, func(o *protoObject) { o.touch(t, 2) })
		check("spec or data, status", differsUnknown, func(o *protoObject) { o.touch(t, 2); o.touch(t, 3) })
		check("a later version's field", differsUnknown, func(o *protoObject) { o.touch(t, 500) })
		check("a later version's metadata", differsUnknown, func(o *protoObject) { o.meta = append(o.meta[:len(o.meta):len(o.meta)], varintField(500, 1)) })
		check("kind", differsUnknown, func(o *protoObject) { o.envelope.Kind += "x" })
		check("version", differsUnknown, func(o *protoObject) { o.envelope.APIVersion += "x" })
		check("content type", differsUnknown, func(o *protoObject) { o.envelope.ContentType = "application/json" })
		check("content encoding", differsUnknown, func(o *protoObject) { o.envelope.ContentEncoding = "gzip" })
		check("damaged status", differsUnknown, func(o *protoObject) { o.fields = append(without(o.fields, 3), bytesField(3, []byte{0x0a, 0x7f})) })
		wantClass(t, obj.Key+": cut off", obj.Value, obj.Value[:len(obj.Value)-1], differsUnknown)
		wantClass(t, obj.Key+": encrypted", obj.Value, append([]byte("k8s:enc:aescbc:v1:k:"), obj.Value...), differsUnknown)
		wantClass(t, obj.Key+": JSON", obj.Value, []byte(`{"apiVersion":"`+original.envelope.APIVersion+`","kind":"`+kind+`"}`), differsUnknown)
	}
	for _, kind := range []string{"Pod", "Deployment", "Node", "Service", "Namespace", "HorizontalPodAutoscaler", "PodGroup", "StorageVersion"} {
		if !kinds[kind] {
			t.Errorf("%s: not seen with a status: the data does not exercise the comparison", kind)
		}
	}
	for _, kind := range noStatus {
		if status, ok := kinds[kind]; !ok || status {
			t.Errorf("%s: not in the data, or with a status", kind)
		}
	}
}

// encodings are JSON and CBOR: how fields of objects become values.
var encodings = map[string]func(fields map[string]any) ([]byte, error){
	"JSON": func(fields map[string]any) ([]byte, error) { return json.MarshalIndent(fields, " ", "\t") },
	"CBOR": func(fields map[string]any) ([]byte, error) {
		value, err := direct.Marshal(fields)
		return append([]byte(cborTag), bytes.TrimPrefix(value, []byte(cborTag))...), err
	},
}

func TestCompareFieldsOfARealCluster(t *testing.T) {
	fieldsOf := func(value []byte) (fields map[string]any) {
		if err := utiljson.Unmarshal(value, &fields); err != nil {
			t.Fatal(err)
		}
		return fields
	}
	withMeta := func(fields map[string]any, edit func(*metav1.ObjectMeta)) map[string]any {
		var meta metav1.ObjectMeta
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields["metadata"].(map[string]any), &meta); err != nil {
			t.Fatal(err)
		}
		edit(&meta)
		edited, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&meta)
		if err != nil {
			t.Fatal(err)
		}
		fields["metadata"] = edited
		return fields
	}
	with := func(fields map[string]any, name string, v any) map[string]any {
		fields[name] = v
		return fields
	}
	seen := 0
	for _, obj := range realObjects(t) {
		if !kubemeta.JSON(obj.Value) {
			continue
		}
		if seen++; seen%4 != 0 && strings.Contains(obj.Key, "/apiservices/") {
			continue // they are alike
		}
		other := map[string][]byte{}
		for encoding, encode := range encodings {
			value := func(fields map[string]any) []byte {
				v, err := encode(fields)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			name := obj.Key + " in " + encoding + ": "
			base := value(withMeta(fieldsOf(obj.Value), func(*metav1.ObjectMeta) {}))
			other[encoding] = base
			check := func(what string, want objectDifference, fields map[string]any) {
				t.Helper()
				wantClass(t, name+what, base, value(fields), want)
			}
			object := func() map[string]any { return fieldsOf(obj.Value) }
			check("nothing", differsManagedFields, withMeta(object(), func(*metav1.ObjectMeta) {}))
			for what, edit := range bookkeeping {
				check(what, differsManagedFields, withMeta(object(), edit))
				check("status, "+what, differsStatus, with(withMeta(object(), edit), "status", map[string]any{"phase": "new"}))
			}
			for what, edit := range significant {
				check(what, differsUnknown, withMeta(object(), edit))
			}
			check("spec", differsUnknown, with(object(), "spec", map[string]any{"new": true}))
			check("data", differsUnknown, with(object(), "data", map[string]any{"new": "x"}))
			check("Status", differsUnknown, with(object(), "Status", "x"))
			check("kind", differsUnknown, with(object(), "kind", "Other"))
			check("version", differsUnknown, with(object(), "apiVersion", "other/v1"))
			check("metadata of another type", differsUnknown, with(object(), "metadata", "x"))
			wantClass(t, name+"cut off", base, base[:len(base)-1], differsUnknown)
		}
		wantClass(t, obj.Key+": as it was written", obj.Value, other["JSON"], differsManagedFields)
		wantClass(t, obj.Key+": two encodings", other["JSON"], other["CBOR"], differsUnknown)
	}
	if seen < 40 {
		t.Errorf("only %d objects are JSON", seen)
	}
}
