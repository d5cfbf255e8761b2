package kubemeta_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

var kmsV2 = []byte("kms:v2")

// encryptedObject is the type that values of kms v2 have, made anew for the decoder of google.golang.org/protobuf.
var encryptedObject = func() protoreflect.MessageDescriptor {
	field := func(name string, number int32, typ descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &typ, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
	}
	annotations := field("annotations", 4, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE)
	annotations.Label, annotations.TypeName = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum(), proto.String(".v2.EncryptedObject.AnnotationsEntry")
	sourceType := field("encryptedDEKSourceType", 5, descriptorpb.FieldDescriptorProto_TYPE_ENUM)
	sourceType.TypeName = proto.String(".v2.EncryptedDEKSourceType")
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("api.proto"), Package: proto.String("v2"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("EncryptedObject"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("encryptedData", 1, descriptorpb.FieldDescriptorProto_TYPE_BYTES), field("keyID", 2, descriptorpb.FieldDescriptorProto_TYPE_STRING),
				field("encryptedDEKSource", 3, descriptorpb.FieldDescriptorProto_TYPE_BYTES), annotations, sourceType,
			},
			NestedType: []*descriptorpb.DescriptorProto{{
				Name: proto.String("AnnotationsEntry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
				Field: []*descriptorpb.FieldDescriptorProto{field("key", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING), field("value", 2, descriptorpb.FieldDescriptorProto_TYPE_BYTES)},
			}},
		}},
		EnumType: []*descriptorpb.EnumDescriptorProto{{
			Name: proto.String("EncryptedDEKSourceType"),
			Value: []*descriptorpb.EnumValueDescriptorProto{
				{Name: proto.String("AES_GCM_KEY"), Number: proto.Int32(0)}, {Name: proto.String("HKDF_SHA256_XNONCE_AES_GCM_SEED"), Number: proto.Int32(1)},
			},
		}},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().Get(0)
}()

func kmsField(number protoreflect.FieldNumber) protoreflect.FieldDescriptor {
	return encryptedObject.Fields().ByNumber(number)
}

// unmarshal reports ok false where the decoder of dynamic messages dies: of a map's entry whose key comes again with another type. That of generated ones, which kube-apiserver has, skips it.
func unmarshal(body []byte, o *dynamicpb.Message) (ok bool, err error) {
	defer func() { ok = recover() == nil }()
	return true, proto.Unmarshal(body, o)
}

// readableByKMS decodes a body and asks of it what kube-apiserver asks, before the plugin sees it and after.
func readableByKMS(body []byte) (readable, known bool) {
	o := dynamicpb.NewMessage(encryptedObject)
	if ok, err := unmarshal(body, o); err != nil || !ok {
		return false, ok
	}
	data, keyID, source := o.Get(kmsField(1)).Bytes(), o.Get(kmsField(2)).String(), o.Get(kmsField(3)).Bytes()
	sourceType := o.Get(kmsField(5)).Enum()
	ok, size := true, 0
	o.Get(kmsField(4)).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		ok = ok && len(validation.IsFullyQualifiedDomainName(field.NewPath("annotations"), k.String())) == 0
		size += len(k.String()) + len(v.Bytes())
		return true
	})
	least := map[protoreflect.EnumNumber]int{0: 12 + 16, 1: 32 + 12 + 16}[sourceType]
	readable = ok && size <= 32<<10 && least > 0 && len(data) >= least && len(keyID) >= 1 && len(keyID) <= 1<<10 && len(source) >= 1 && len(source) <= 1<<10
	return readable, true
}

// kmsBody draws a body around the limits of what is allowed.
func kmsBody(rng *rand.Rand) []byte {
	o := dynamicpb.NewMessage(encryptedObject)
	text := func(sizes ...int) []byte { return bytes.Repeat([]byte("k"), sizes[rng.IntN(len(sizes))]) }
	o.Set(kmsField(1), protoreflect.ValueOfBytes(text(0, 27, 28, 59, 60, 200)))
	o.Set(kmsField(2), protoreflect.ValueOfString(string(text(0, 1, 20, 1024, 1025))))
	o.Set(kmsField(3), protoreflect.ValueOfBytes(text(0, 1, 100, 1024, 1025)))
	o.Set(kmsField(5), protoreflect.ValueOfEnum(protoreflect.EnumNumber(rng.IntN(3))))
	m := o.Mutable(kmsField(4)).Map()
	for range rng.IntN(3) {
		name := []string{"a.example.com", "version.azure.akv.io.", "nodots", "", "UPPER.example.com"}[rng.IntN(5)]
		if rng.IntN(3) > 0 {
			name = "local-kek.kms.kubernetes.io"
		}
		m.Set(protoreflect.ValueOfString(name).MapKey(), protoreflect.ValueOfBytes(text(0, 10, 32<<10-28, 32<<10-27, 32<<10-26)))
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(o)
	if err != nil {
		panic(err)
	}
	return body
}

func checkKMS(t *testing.T, body []byte) (readable bool) {
	t.Helper()
	problem := kubemeta.CheckBody(kmsV2, body)
	want, known := readableByKMS(body)
	if known && (problem == "") != want {
		t.Errorf("%q: readable %v, the check says %q", body, want, problem)
	}
	return want
}

// TestKMSAgreesWithProtobuf holds the check of kms v2 against the decoder, for messages around all limits and for what damage makes of them.
func TestKMSAgreesWithProtobuf(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	good, damaged, still := 0, 0, 0
	for range 3000 {
		body := kmsBody(rng)
		if checkKMS(t, body) {
			good++
		}
		if len(body) > 1000 {
			continue
		}
		for range 20 {
			b := bytes.Clone(body)
			switch at := rng.IntN(len(b) + 1); {
			case at == len(b):
			case rng.IntN(4) == 0:
				b = b[:at]
			case rng.IntN(3) == 0:
				b = append(b[:at:at], append([]byte{byte(rng.Uint32())}, b[at:]...)...)
			default:
				b[at] = byte(rng.Uint32())
			}
			damaged++
			if checkKMS(t, b) {
				still++
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if good < 100 || still < 100 || damaged-still < 100 {
		t.Errorf("%d bodies readable, %d of %d still after damage: the data does not exercise the check", good, still, damaged)
	}
}

// FuzzEncrypted looks for values that the checks die of, and for bodies of kms v2 about which they disagree with the decoder.
func FuzzEncrypted(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		if body := kmsBody(rng); len(body) < 500 {
			f.Add("kms:v2:vault:", body)
		}
	}
	f.Add("aescbc:v1:a:b:", make([]byte, 32))
	f.Add("kms:v1:vault:", make([]byte, 40))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		if len(body) < 32<<10 { // above, a name that occurs twice counts twice
			checkKMS(t, body)
		}
		value := append([]byte("k8s:enc:"+header), body...)
		h, problem := kubemeta.CheckEncrypted(value)
		if again, malformed := kubemeta.ReadHeader(value); malformed != "" && problem != malformed || string(again.Name) != string(h.Name) {
			t.Errorf("the header is read as %q (%s) and as %q (%s)", h.Name, problem, again.Name, malformed)
		}
		if problem == kubemeta.MalformedScheme || problem == kubemeta.MalformedName {
			return
		}
		if len(h.Scheme) > 48 || len(h.Name) == 0 || bytes.ContainsAny(h.Name, ":\n\x00") || !utf8.Valid(h.Name) || strings.Count(string(h.Scheme), ":") != 1 {
			t.Errorf("scheme %q, name %q", h.Scheme, h.Name)
		}
		if problem == "" != anyName(h, value) {
			t.Errorf("problem %q", problem)
		}
	})
}

// anyName reports whether the body behind any colon that may end the name is sound.
func anyName(h kubemeta.Header, value []byte) bool {
	rest := value[len("k8s:enc:")+len(h.Scheme)+1:]
	for i := range rest {
		if rest[i] != ':' || i == 0 {
			continue
		}
		if kubemeta.CheckBody(h.Scheme, rest[i+1:]) == "" && printable(rest[:i]) {
			return true
		}
		if string(h.Scheme) == "kms:v2" {
			return false
		}
	}
	return false
}

func printable(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return !unicode.IsPrint(r) })
}
