package kubeobj

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Identify reads the UID of a stored object and those of its owners with the decoders of Kubernetes; "" for what it cannot
// read, such as encrypted values. It is slow and plain, to hold faster readers against.
func Identify(value []byte) (uid string, owners []string) {
	var meta metav1.ObjectMeta
	if body, ok := bytes.CutPrefix(value, []byte("k8s\x00")); ok {
		var u runtime.Unknown
		if u.Unmarshal(body) != nil {
			return "", nil
		}
		num, typ, n := protowire.ConsumeTag(u.Raw)
		if n < 0 || num != fieldMetadata || typ != protowire.BytesType {
			return "", nil
		}
		content, m := protowire.ConsumeBytes(u.Raw[n:])
		if m < 0 || meta.Unmarshal(content) != nil {
			return "", nil
		}
	} else {
		doc := struct {
			Metadata *metav1.ObjectMeta `json:"metadata"`
		}{&meta}
		if json.Unmarshal(value, &doc) != nil || doc.Metadata == nil {
			return "", nil
		}
	}
	for _, o := range meta.OwnerReferences {
		owners = append(owners, string(o.UID))
	}
	return string(meta.UID), owners
}
