package kubemeta

import (
	"encoding/binary"
	"slices"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Encrypted values are k8s:enc:<provider>:v<n>:<name>: and a body. What is asked of them here is what kube-apiserver asks before it decrypts, in k8s.io/apiserver v0.36.3 and v0.37.2:
// below pkg/storage/value, from where the names of files are given, and in pkg/server/options/encryptionconfig/config.go, which puts the headers together.

const (
	kmsV2     = "kms:v2"
	maxScheme = 48 // bytes of a provider and its version; a longer one is none
)

// shapeOf returns what checks the body of a provider and version, nil if they are unknown. A check says what is wrong, "" if nothing is.
func shapeOf(scheme []byte) func(body []byte) Problem {
	switch string(scheme) {
	case "aescbc:v1":
		return aescbcShape
	case "aesgcm:v1":
		return aesgcmShape
	case "secretbox:v1":
		return secretboxShape
	case "kms:v1":
		return kmsV1Shape
	case kmsV2:
		return kmsV2Shape
	}
	return nil
}

// Sizes in bytes.
const (
	aesBlock          = 16
	gcmOverhead       = 12 + 16 // nonce and tag
	secretboxOverhead = 24 + 16 // nonce and tag
	hkdfInfo          = 32      // of AES-GCM with a key derived for each value
	maxKMSField       = 1 << 10
	maxKMSAnnotations = 32 << 10
)

// aescbcShape: an initialisation vector and whole blocks, of which padding makes at least one (encrypt/aes/aes.go, cbc).
// kube-apiserver does not expect less: it looks at the last byte of what follows the vector, and dies if nothing does.
func aescbcShape(body []byte) Problem {
	if len(body) < 2*aesBlock {
		return "its body is shorter than an initialisation vector and one block"
	}
	if len(body)%aesBlock != 0 {
		return "its body is not made of whole blocks"
	}
	return ""
}

// aesgcmShape: encrypt/aes/aes.go, gcm.
func aesgcmShape(body []byte) Problem {
	if len(body) < gcmOverhead {
		return "its body is shorter than a nonce and a tag"
	}
	return ""
}

// secretboxShape: encrypt/secretbox/secretbox.go.
func secretboxShape(body []byte) Problem {
	if len(body) < secretboxOverhead {
		return "its body is shorter than a nonce and a tag"
	}
	return ""
}

// kmsV1Shape: the encrypted key behind its length in two bytes (encrypt/envelope/envelope.go), then AES-GCM, or AES-CBC as written before 1.25
// (envelopePrefixTransformer in encryptionconfig/config.go). Both are tried on every body, and AES-GCM is content with any length that AES-CBC can have.
// How long an encrypted key is, the KMS plugin alone knows.
func kmsV1Shape(body []byte) Problem {
	if len(body) < 2 {
		return "its body ends before the length of the encrypted data key"
	}
	key := int(binary.BigEndian.Uint16(body))
	if body = body[2:]; len(body) < key {
		return "its body ends within the encrypted data key"
	}
	if len(body)-key < gcmOverhead {
		return "its data is shorter than a nonce and a tag"
	}
	return ""
}

// Field numbers of EncryptedObject (encrypt/envelope/kmsv2/v2/api.proto).
const (
	kmsData        = 1
	kmsKeyID       = 2
	kmsSource      = 3
	kmsAnnotations = 4
	kmsSourceType  = 5
)

// Values of its encryptedDEKSourceType.
const (
	kmsSourceKey  = 0
	kmsSourceSeed = 1
)

// kmsV2Shape: a protobuf message by the decoder of google.golang.org/protobuf, then ValidateEncryptedObject (encrypt/envelope/kmsv2/envelope.go), then AES-GCM,
// behind 32 bytes from which its key was derived if the source is a seed (encrypt/aes/aes_extended_nonce.go). Of a field that occurs twice the last one counts.
func kmsV2Shape(body []byte) Problem {
	var data, keyID, source []byte
	var sourceType int32
	annotations, problem := 0, Problem("")
	if !EachField(body, func(num protowire.Number, typ protowire.Type, content []byte) bool {
		isBytes := typ == protowire.BytesType // with another type a field is skipped like an unknown one
		switch {
		case num > protowire.MaxValidNumber:
			return false
		case num == kmsData && isBytes:
			data = content
		case num == kmsKeyID && isBytes:
			keyID = content
			return utf8.Valid(content)
		case num == kmsSource && isBytes:
			source = content
		case num == kmsAnnotations && isBytes:
			name, value, ok := kmsAnnotation(content)
			if ok && len(validation.IsFullyQualifiedDomainName(nil, string(name))) > 0 {
				problem = "an annotation is no domain name"
			}
			annotations += len(name) + len(value)
			return ok
		case num == kmsSourceType && typ == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(content)
			sourceType = int32(v)
		}
		return true
	}) {
		return "its envelope is damaged or cut off"
	}
	least := gcmOverhead
	if sourceType == kmsSourceSeed {
		least += hkdfInfo
	}
	switch {
	case problem != "":
		return problem
	case sourceType != kmsSourceKey && sourceType != kmsSourceSeed:
		return "the source of its data key is of an unknown type"
	case len(source) == 0 || len(source) > maxKMSField:
		return "the source of its data key is missing or too long"
	case len(keyID) == 0 || len(keyID) > maxKMSField:
		return "its KMS key ID is missing or too long"
	case annotations > maxKMSAnnotations:
		return "its annotations are too long"
	case len(data) < least:
		return "its data is shorter than AES-GCM needs"
	}
	return ""
}

// kmsAnnotation is an entry of a map from string to bytes.
func kmsAnnotation(entry []byte) (name, value []byte, ok bool) {
	ok = EachField(entry, func(num protowire.Number, typ protowire.Type, content []byte) bool {
		switch {
		case num > protowire.MaxValidNumber:
			return false
		case num == 1 && typ == protowire.BytesType:
			name = content
			return utf8.Valid(content)
		case num == 2 && typ == protowire.BytesType:
			value = content
		}
		return true
	})
	return name, value, ok
}

// Header is what an encrypted value says about its key. The byte slices alias the value.
type Header struct {
	Scheme []byte // provider and version, such as aescbc:v1: letters, digits, '-', '_' and one colon, at most 48
	Name   []byte // of the key or KMS provider, up to the first colon if the name holds any: text that can be printed
	rest   []byte // what follows the scheme and a colon: the name, a colon, the body
}

// Problems of headers.
const (
	MalformedScheme Problem = "the provider or version in its header is malformed"
	MalformedName   Problem = "the name in its header is missing or malformed"
)

// ReadHeader reads the header of a value for which Encrypted is true. It has a Scheme where the Name alone is malformed.
func ReadHeader(value []byte) (Header, Problem) {
	scheme, rest, ok := cutScheme(value)
	if !ok {
		return Header{}, MalformedScheme
	}
	h := Header{Scheme: scheme, rest: rest}
	// The validation of configurations asks of a name only that there is one. Names of other than printable characters are taken for a header that has lost its end, with a body as the name.
	end := nameEnd(rest)
	if end <= 0 {
		return h, MalformedName
	}
	h.Name = rest[:end]
	return h, ""
}

// KnownScheme reports whether there is a provider and version with the name.
func KnownScheme(scheme []byte) bool { return shapeOf(scheme) != nil }

// KnownProvider reports whether there is a version of a provider.
func KnownProvider(provider string) bool {
	return slices.Contains([]string{"aescbc", "aesgcm", "secretbox", "kms"}, provider)
}

// CheckBody looks at what follows the header of an encrypted value. The body of an unknown scheme has no Problem.
func CheckBody(scheme, body []byte) Problem {
	if shape := shapeOf(scheme); shape != nil {
		return shape(body)
	}
	return ""
}

// CheckEncrypted looks at a value for which Encrypted is true. Where the Problem lies in the body, the Header has a Name.
func CheckEncrypted(value []byte) (Header, Problem) {
	h, problem := ReadHeader(value)
	if problem != "" {
		return h, problem
	}
	end := len(h.Name)
	if problem = CheckBody(h.Scheme, h.rest[end+1:]); problem == "" || string(h.Scheme) == kmsV2 {
		return h, problem
	}
	// Names may hold colons, but for those of kms v2 (validateKMSConfigName in pkg/apis/apiserver/validation/validation_encryption.go).
	// Which colon ends the name only a configuration can tell, so that one which fits the body will do.
	for {
		n := nameEnd(h.rest[end+1:])
		if n < 0 {
			return h, problem
		}
		end += 1 + n
		if CheckBody(h.Scheme, h.rest[end+1:]) == "" {
			return h, ""
		}
	}
}

// cutScheme cuts off the beginning of a header up to the name. k8s:enc:a:v1: is the shortest.
func cutScheme(value []byte) (scheme, rest []byte, ok bool) {
	value = value[len(encrypted):]
	provider := schemeWord(value)
	if provider < 1 || provider >= len(value) || value[provider] != ':' {
		return nil, nil, false
	}
	version := value[provider+1:]
	n := schemeWord(version)
	if n < 2 || n >= len(version) || version[n] != ':' || version[0] != 'v' || version[1] < '0' || version[1] > '9' {
		return nil, nil, false
	}
	end := provider + 1 + n
	return value[:end], value[end+1:], end <= maxScheme
}

// schemeWord is the length of the letters, digits, '-' and '_' that b begins with.
func schemeWord(b []byte) int {
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return i
		}
	}
	return len(b)
}

// nameEnd is the place of the first colon in b if only printable text comes before it, otherwise -1.
func nameEnd(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		switch {
		case r == ':':
			return i
		case r == utf8.RuneError && size == 1, !unicode.IsPrint(r):
			return -1
		}
		i += size
	}
	return -1
}
