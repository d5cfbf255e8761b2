package keyfilter

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// maxSegments is the depth of the deepest key that is placed: subtree/group/resource/namespace/name.
const maxSegments = 5

// segments are the first maxSegments pieces of a path.
type segments struct {
	text [maxSegments][]byte
	n    int // how many there are, possibly more than are held
}

// split cuts rest at its slashes and checks what holds for every segment. why is empty if all is well.
func (s *segments) split(rest []byte) (why string) {
	if s.cut(rest) {
		return ""
	}
	return examine(rest)
}

// cut cuts rest at its slashes, eight bytes at a time. ok says that all of it is printable ASCII without '%', and that no
// segment is empty or a dot segment. If not, examine has to look, and if that finds nothing wrong, the segments are right.
func (s *segments) cut(rest []byte) (ok bool) {
	ok = true
	start, i := 0, 0
	for ; i < len(rest); i += 8 {
		var w uint64
		switch left := len(rest) - i; {
		case left >= 8:
			w = binary.LittleEndian.Uint64(rest[i:])
		case len(rest) >= 8: // the last bytes, and padding that is neither a slash nor unusual
			w = binary.LittleEndian.Uint64(rest[len(rest)-8:])>>(8*(8-left)) | padding<<(8*left)
		default:
			w = padding << (8 * left)
			for j, c := range rest[i:] {
				w |= uint64(c) << (8 * j)
			}
		}
		if unusual(w) {
			ok = false
		}
		for m := zeroBytes(w ^ ones*'/'); m != 0; m &= m - 1 {
			at := i + bits.TrailingZeros64(m)/8
			ok = s.add(rest[start:at]) && ok
			start = at + 1
		}
	}
	return s.add(rest[start:]) && ok
}

// add takes a segment, and reports whether it has a form that a segment can have.
func (s *segments) add(text []byte) bool {
	if s.n < maxSegments {
		s.text[s.n] = text
	}
	s.n++
	return len(text) > 0 && (text[0] != '.' || len(text) > 2)
}

// Words of eight bytes that are the same.
const (
	ones    uint64 = 0x0101010101010101
	highs   uint64 = ones << 7
	lows    uint64 = ^highs
	padding uint64 = ones * 'a'
)

// zeroBytes has the high bit of each byte of w that is zero.
func zeroBytes(w uint64) uint64 { return ^((w&lows + lows) | w | lows) }

// unusual reports whether a byte of w is a control character, a '%', or not ASCII.
func unusual(w uint64) bool {
	low := w & lows                                    // no sum below carries into the next byte
	control := ^(low + ones*(0x80-' ')) | (low + ones) // below ' ', or 0x7f
	return (control|w)&highs|zeroBytes(w^ones*'%') != 0
}

// examine finds what is wrong with a path; "" if it is nothing.
func examine(rest []byte) (why string) {
	for segment := range bytes.SplitSeq(rest, []byte{'/'}) {
		switch {
		case len(segment) == 0:
			return whyEmptySegment
		case bytes.IndexByte(segment, '%') >= 0:
			return whyPercent
		case bytes.ContainsFunc(segment, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return whyControl
		case string(segment) == "." || string(segment) == "..":
			return whyDotSegment
		}
	}
	if !utf8.Valid(rest) {
		return whyUTF8
	}
	return ""
}

// isLabel is the function isLabel for segment i.
func (s *segments) isLabel(i int, letterFirst bool) bool { return isLabel(s.text[i], letterFirst) }

// isGroup reports whether segment i, which has a dot, is an API group.
func (s *segments) isGroup(i int) bool { return isSubdomain(s.text[i]) }

func (s *segments) hasDot(i int) bool { return bytes.IndexByte(s.text[i], '.') >= 0 }

// isLabel reports whether s is a DNS-1123 label (namespaces), or a DNS-1035 one (plurals), which starts with a letter.
func isLabel[T string | []byte](s T, letterFirst bool) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	if letterFirst && s[0] <= '9' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !labelBytes[s[i]] {
			return false
		}
	}
	return true
}

// isSubdomain reports whether s is a DNS-1123 subdomain, as an API group is.
func isSubdomain[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	prev := byte('.')
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case labelBytes[c] && c != '-':
		case c == '-' && prev != '.':
		case c == '.' && prev != '.' && prev != '-':
		default:
			return false
		}
		prev = c
	}
	return prev != '.' && prev != '-'
}

func labelByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }

// labelBytes is labelByte as a table.
var labelBytes = func() (table [256]bool) {
	for c := range table {
		table[c] = labelByte(byte(c))
	}
	return table
}()
