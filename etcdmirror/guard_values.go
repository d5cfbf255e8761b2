package etcdmirror

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// ErrUnreadable: the standby's apiserver could not read the value. One such value makes every LIST of its resource fail, freezes the resource's watch cache,
// and keeps an apiserver that restarts from becoming ready.
var ErrUnreadable = errors.New("unreadable for the standby's apiserver")

// What to do about a value that a guard refuses.
const (
	hintDamaged = "look at the key in the primary: restore the object from a backup, or delete the key from the primary's etcd; a sound value is mirrored as soon as it is written"
	hintAddKey  = "add it there as a read key, restart its apiservers, then restart the mirror with it in its list of readable headers"
	hintPlain   = "add identity as the last provider there, restart its apiservers, then restart the mirror with identity in its list of readable headers"
)

func unreadable(detail, hint string) error {
	return &Error{Kind: ErrUnreadable, Detail: detail, Hint: hint}
}

// Intact is a Guard that refuses values which no kube-apiserver can read, whatever its version and configuration, and which would therefore break the standby's.
// The errors match ErrUnreadable. They hold nothing of the value but the provider and the key's name in the header of an encrypted one.
//
// Looked at are values that claim to be Kubernetes', under any key:
//   - encrypted ones ("k8s:enc:"): the header, and the shape of what follows it as far as the provider is known (aescbc, aesgcm, secretbox, kms v1 and v2);
//   - protobuf ("k8s\0"): the envelope with apiVersion and kind, the object's framing, its metadata and, but for the bookkeeping of apiservers, a name;
//
// and, under keys of Kubernetes only:
//   - JSON: its syntax, apiVersion and kind;
//   - CBOR: that it can be decoded, apiVersion and kind;
//   - values cut off before they claim anything, empty ones among them.
//
// Keys of Kubernetes are those below /registry/, /kubernetes.io/ and /openshift.io/, the --etcd-prefix of nearly all clusters, with at least a resource and a name. JSON and CBOR elsewhere
// belong to others, who need no apiVersion, and apiservers never read them; so a mirror of all keys keeps them. All other values pass: apiservers also try YAML and base64.
//
// What an encrypted value holds stays unknown, as does what only the kind or the version could tell, such as a version that the standby does not serve.
// For the keys of encryption see Readable.
func Intact(sourceKey string, value []byte) error {
	var problem kubemeta.Problem
	switch {
	case kubemeta.Encrypted(value):
		if h, problem := kubemeta.CheckEncrypted(value); problem != "" {
			return damagedEncryption(h, problem)
		}
		return nil
	case kubemeta.Protobuf(value):
		var head kubemeta.Head
		head, problem = kubemeta.CheckProtobuf(value)
		// Apiservers list an object without a name, but cannot get it; none of them writes one.
		if problem == "" && len(head.Name) == 0 && !bookkeeping(sourceKey, head.Kind) {
			problem = "its protobuf object has no name"
		}
	case !ofKubernetes(sourceKey):
	case kubemeta.JSON(value):
		problem = kubemeta.CheckJSON(value)
	case kubemeta.CBOR(value):
		problem = kubemeta.CheckCBOR(value)
	case kubemeta.CutOff(value):
		problem = "it is empty or cut off at its beginning"
	}
	if problem != "" {
		return unreadable(string(problem), hintDamaged)
	}
	return nil
}

// ofKubernetes reports whether an apiserver with a usual --etcd-prefix reads the key as an object's.
func ofKubernetes(key string) bool {
	for _, prefix := range [...]string{DefaultPrefix, "/kubernetes.io/", "/openshift.io/"} {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			resource, name, _ := strings.Cut(rest, "/")
			return resource != "" && name != ""
		}
	}
	return false
}

// bookkeeping reports whether a key holds what apiservers keep about themselves, in objects without a name: /registry/masterleases/192.0.2.10 and the like.
func bookkeeping(key string, kind []byte) bool {
	dir := key[:max(0, strings.LastIndexByte(key, '/'))]
	switch string(kind) {
	case "Endpoints":
		return strings.HasSuffix(dir, "/masterleases") || strings.HasSuffix(dir, "/peerserverleases")
	case "RangeAllocation":
		return strings.HasSuffix(dir, "/ranges")
	}
	return false
}

// Readable returns a Guard that refuses values which a standby cannot read for lack of a key. headers are what its EncryptionConfiguration can read: "identity" for values that are
// not encrypted, and for each key and each KMS provider "k8s:enc:<provider>:v<n>:<name>", such as "k8s:enc:aescbc:v1:key1" or "k8s:enc:kms:v2:vault". The order does not matter.
// The errors match ErrUnreadable and hold nothing of the value but what Intact's hold.
//
// Leave "identity" out only if no provider list of the standby has it: a resource that the configuration does not mention is not encrypted, and is read only as such.
// Where the lists of resources differ, call one Guard or another by key.
//
// Keys are told apart by name. A key that has the right name and another secret cannot be noticed here. Guards see values as the source has them:
// with a Transform that encrypts anew, it is the Transform that must know the source's keys.
func Readable(headers ...string) (Guard, error) {
	var r readableValues
	var errs []error
	bad := func(detail, hint string) {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: detail, Hint: hint})
	}
	if len(headers) == 0 {
		bad("Readable: no headers", `list what the standby can read; "identity" if it encrypts nothing`)
	}
	for i, header := range headers {
		if header == "identity" {
			r.plain = true
			continue
		}
		key, problem := parseReadable(header)
		if problem != "" {
			bad(fmt.Sprintf("Readable: headers[%d] %q: %s", i, header, problem), `use "identity" or "k8s:enc:<provider>:v<n>:<name>", without the colon behind the name`)
			continue
		}
		r.keys = append(r.keys, key)
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return r.guard, nil
}

// readableValues are what a standby can read.
type readableValues struct {
	plain bool
	keys  []readableKey
}

// readableKey is a key or a KMS provider.
type readableKey struct {
	prefix []byte // of values, with the colon that ends the name: key1 is not the beginning of key10
	scheme []byte // provider and version
}

func parseReadable(s string) (k readableKey, problem string) {
	header := []byte(s + ":")
	if !kubemeta.Encrypted(header) {
		return k, "is no header of an encrypted value"
	}
	h, malformed := kubemeta.ReadHeader(header)
	if malformed != "" {
		return k, string(malformed)
	}
	provider, version, _ := strings.Cut(string(h.Scheme), ":")
	name := header[len("k8s:enc:")+len(h.Scheme)+1 : len(header)-1]
	switch {
	case kubemeta.KnownProvider(provider) && !kubemeta.KnownScheme(h.Scheme):
		return k, fmt.Sprintf("%s has no version %s", provider, version)
	case bytes.HasSuffix(name, []byte(":")):
		return k, "it ends with a colon"
	case provider == "kms" && version == "v2" && len(name) > len(h.Name):
		return k, "the name of a kms v2 provider holds no colon"
	case bytes.ContainsFunc(name, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }):
		return k, string(kubemeta.MalformedName)
	}
	return readableKey{prefix: header, scheme: h.Scheme}, ""
}

// guard tries every key whose header fits, as kube-apiserver does (storage/value/transformer.go in k8s.io/apiserver): names may hold colons, so that the header of one can be the beginning of another's.
func (r *readableValues) guard(sourceKey string, value []byte) error {
	if !kubemeta.Encrypted(value) {
		// Others' values are never read by an apiserver.
		if r.plain || !kubemeta.Protobuf(value) && !ofKubernetes(sourceKey) {
			return nil
		}
		return unreadable("not encrypted, and the standby's configuration reads encrypted values only", hintPlain)
	}
	var damage kubemeta.Problem
	for i := range r.keys {
		body, ok := bytes.CutPrefix(value, r.keys[i].prefix)
		if !ok {
			continue
		}
		if damage = kubemeta.CheckBody(r.keys[i].scheme, body); damage == "" {
			return nil
		}
	}
	h, problem := kubemeta.ReadHeader(value)
	if damage != "" {
		problem = damage
	}
	if problem != "" {
		return damagedEncryption(h, problem)
	}
	return unreadable(describe(h)+", which the standby's configuration does not have", hintAddKey)
}

func damagedEncryption(h kubemeta.Header, problem kubemeta.Problem) error {
	return unreadable(describe(h)+", but "+string(problem), hintDamaged)
}

// describe names the key of an encrypted value, as far as the header can be read.
func describe(h kubemeta.Header) string {
	provider, version, _ := strings.Cut(string(h.Scheme), ":")
	switch {
	case len(h.Name) == 0:
		return "encrypted"
	case !kubemeta.KnownScheme(h.Scheme):
		return fmt.Sprintf("encrypted with key %s of the unknown provider %q", quoted(h.Name), h.Scheme)
	case provider == "kms":
		return fmt.Sprintf("encrypted with KMS %s provider %s", version, quoted(h.Name))
	}
	return fmt.Sprintf("encrypted with %s key %s", provider, quoted(h.Name))
}

// maxShown bounds what is shown of a key's name, in bytes.
const maxShown = 64

// quoted shows the name of a key, which is text that can be printed.
func quoted(name []byte) string {
	if len(name) <= maxShown {
		return strconv.Quote(string(name))
	}
	cut := maxShown
	for !utf8.RuneStart(name[cut]) {
		cut--
	}
	return strconv.Quote(string(name[:cut])) + "..."
}
