package kubemeta

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readJSON walks the top level of an object and decodes its metadata's uid and ownerReferences only. Custom resources are JSON, a copy reads each of them,
// and the general decoder looks at every byte of a value twice.
//
// It accepts some text that is no valid JSON outside of what it decodes. Where a member occurs twice the last one counts, as for the general decoder;
// names are compared exactly.
func readJSON(value []byte, id *Identity) bool {
	var meta []byte
	if !members(value, func(name, content []byte) {
		if string(name) == "metadata" {
			meta = content
		}
	}) {
		return false
	}
	var uid, owners []byte
	if !members(meta, func(name, content []byte) {
		switch string(name) {
		case "uid":
			uid = content
		case "ownerReferences":
			owners = content
		}
	}) {
		return false
	}
	if len(uid) < 3 || uid[0] != '"' {
		return false
	}
	if id.UID = uid[1 : len(uid)-1]; bytes.IndexByte(id.UID, '\\') >= 0 {
		var s string
		if json.Unmarshal(uid, &s) != nil {
			return false
		}
		id.UID = []byte(s)
	}
	if owners == nil {
		return true
	}
	var refs []metav1.OwnerReference
	if json.Unmarshal(owners, &refs) != nil {
		return false
	}
	for _, ref := range refs {
		id.Owners = append(id.Owners, []byte(ref.UID))
	}
	return true
}

// members calls fn for each member of an object and reports whether the object could be walked to its end. Names with escapes are passed as written.
func members(object []byte, fn func(name, content []byte)) bool {
	p := skipSpace(object, 0)
	if p >= len(object) || object[p] != '{' {
		return false
	}
	for p = skipSpace(object, p+1); p < len(object) && object[p] == '"'; {
		end := skipString(object, p)
		if end < 0 {
			return false
		}
		name := object[p+1 : end-1]
		if p = skipSpace(object, end); p >= len(object) || object[p] != ':' {
			return false
		}
		p = skipSpace(object, p+1)
		if end = skipValue(object, p); end < 0 {
			return false
		}
		fn(name, object[p:end])
		if p = skipSpace(object, end); p < len(object) && object[p] == ',' {
			p = skipSpace(object, p+1)
		}
	}
	return p < len(object) && object[p] == '}'
}

func skipSpace(b []byte, p int) int {
	for p < len(b) && (b[p] == ' ' || b[p] == '\n' || b[p] == '\t' || b[p] == '\r') {
		p++
	}
	return p
}

// skipString returns the place after the string that begins at p, -1 if it does not end.
func skipString(b []byte, p int) int {
	for p++; p < len(b); {
		i := bytes.IndexByte(b[p:], '"')
		if i < 0 {
			return -1
		}
		p += i + 1
		escapes := 0
		for q := p - 2; b[q] == '\\'; q-- { // ends at the opening quote at the latest
			escapes++
		}
		if escapes%2 == 0 {
			return p
		}
	}
	return -1
}

// skipValue returns the place after the value that begins at p, -1 if it does not end.
func skipValue(b []byte, p int) int {
	for begin, depth := p, 0; p < len(b); {
		switch b[p] {
		case '"':
			if p = skipString(b, p); p < 0 {
				return -1
			}
		case '{', '[':
			depth++
			p++
			continue
		case '}', ']', ',':
			if depth == 0 { // the end of a number, true, false or null
				if p == begin {
					return -1
				}
				return p
			}
			if b[p] != ',' {
				depth--
			}
			p++
			if b[p-1] == ',' {
				continue
			}
		default:
			p++
			continue
		}
		if depth == 0 {
			return p
		}
	}
	return -1
}
