package kubemeta

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readJSON walks the top level of an object and decodes its metadata's uid and ownerReferences only. Custom resources are JSON, a copy reads each of them,
// and the general decoder looks at every byte of a value twice. Where a member occurs twice the last one counts, as for the general decoder;
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
		if ref.UID != "" {
			id.Owners = append(id.Owners, []byte(ref.UID))
		}
	}
	return true
}

// members calls fn for each member of an object and reports whether the text is one object, valid to its end. Names with escapes are passed as written.
func members(text []byte, fn func(name, content []byte)) bool {
	p := skipSpace(text, 0)
	if p >= len(text) || text[p] != '{' {
		return false
	}
	p = skipObject(text, p, 1, fn)
	return p >= 0 && skipSpace(text, p) == len(text)
}

// The functions below begin at a place p of b and return the place after what they skip. All but skipSpace return -1 for what is no valid JSON.

// maxDepth is how deep encoding/json, and the fork of it that apiservers use, let objects and arrays be nested.
const maxDepth = 10000

func skipSpace(b []byte, p int) int {
	for p < len(b) && (b[p] == ' ' || b[p] == '\n' || b[p] == '\t' || b[p] == '\r') {
		p++
	}
	return p
}

func skipValue(b []byte, p, depth int) int {
	if p >= len(b) {
		return -1
	}
	switch c := b[p]; {
	case c == '"':
		return skipString(b, p)
	case c == '{':
		return skipObject(b, p, depth+1, nil)
	case c == '[':
		return skipArray(b, p, depth+1)
	case c == '-' || isDigit(c):
		return skipNumber(b, p)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if end := p + len(word); end <= len(b) && string(b[p:end]) == word {
			return end
		}
	}
	return -1
}

func skipObject(b []byte, p, depth int, fn func(name, content []byte)) int {
	if depth > maxDepth {
		return -1
	}
	if p = skipSpace(b, p+1); p < len(b) && b[p] == '}' {
		return p + 1
	}
	for p < len(b) && b[p] == '"' {
		begin := p
		if p = skipString(b, p); p < 0 {
			return -1
		}
		name := b[begin+1 : p-1]
		if p = skipSpace(b, p); p >= len(b) || b[p] != ':' {
			return -1
		}
		begin = skipSpace(b, p+1)
		if p = skipValue(b, begin, depth); p < 0 {
			return -1
		}
		if fn != nil {
			fn(name, b[begin:p])
		}
		if p = skipSpace(b, p); p < len(b) && b[p] == '}' {
			return p + 1
		}
		if p >= len(b) || b[p] != ',' {
			return -1
		}
		p = skipSpace(b, p+1)
	}
	return -1
}

func skipArray(b []byte, p, depth int) int {
	if depth > maxDepth {
		return -1
	}
	if p = skipSpace(b, p+1); p < len(b) && b[p] == ']' {
		return p + 1
	}
	for {
		if p = skipValue(b, p, depth); p < 0 {
			return -1
		}
		if p = skipSpace(b, p); p < len(b) && b[p] == ']' {
			return p + 1
		}
		if p >= len(b) || b[p] != ',' {
			return -1
		}
		p = skipSpace(b, p+1)
	}
}

// special bytes of a string are its end, escapes, and what may not be in it.
var special = func() (special [256]bool) {
	for c := range byte(' ') {
		special[c] = true
	}
	special['"'], special['\\'] = true, true
	return special
}()

func skipString(b []byte, p int) int {
	for p++; p < len(b); p++ {
		if !special[b[p]] {
			continue
		}
		if b[p] == '"' {
			return p + 1
		}
		if b[p] != '\\' {
			return -1
		}
		if p++; p >= len(b) {
			return -1
		}
		switch b[p] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			for range 4 {
				if p++; p >= len(b) || !isHex(b[p]) {
					return -1
				}
			}
		default:
			return -1
		}
	}
	return -1
}

func skipNumber(b []byte, p int) int {
	if b[p] == '-' {
		p++
	}
	if p < len(b) && b[p] == '0' {
		p++
	} else if p = skipDigits(b, p); p < 0 {
		return -1
	}
	if p < len(b) && b[p] == '.' {
		if p = skipDigits(b, p+1); p < 0 {
			return -1
		}
	}
	if p < len(b) && (b[p] == 'e' || b[p] == 'E') {
		if p++; p < len(b) && (b[p] == '+' || b[p] == '-') {
			p++
		}
		return skipDigits(b, p)
	}
	return p
}

// skipDigits skips one digit or more.
func skipDigits(b []byte, p int) int {
	begin := p
	for p < len(b) && isDigit(b[p]) {
		p++
	}
	if p == begin {
		return -1
	}
	return p
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
