package keyfilter

import (
	"bytes"
	"unicode/utf8"
)

// maxSegments is the depth of the deepest key that is placed: subtree/group/resource/namespace/name.
const maxSegments = 5

// scan places key under the normalised prefix. It is the grammar; see the package documentation for it in prose.
func (p *parts) scan(prefix string, key []byte) {
	if len(key) < len(prefix) || string(key[:len(prefix)]) != prefix {
		if string(key) == CompactRevisionKey {
			p.scope, p.internal = Internal, internalCompact
			return
		}
		p.scope, p.why = Outside, whyOutside
		return
	}
	rest := key[len(prefix):]
	var s segments
	why := s.split(rest)
	switch {
	case why != "":
		p.why = why
	case s.n == 1:
		p.why = whyOneSegment
	case s.hasDot(0):
		p.scanGroup(rest, &s)
	default:
		p.scanPlain(prefix, rest, &s)
	}
}

// What split learns from a byte. The bits of a segment's bytes are put together, so that most questions about a segment
// are answered without a second look at it.
const (
	byteDot   uint8 = 1 << iota
	byteOther       // neither a dot nor of a DNS label
	byteHigh        // not ASCII
	byteBad         // control characters and '%'
	byteSlash       // ends the segment
)

var byteClass = func() (class [256]uint8) {
	for c := range class {
		switch b := byte(c); {
		case b == '/':
			class[c] = byteSlash
		case b == '.':
			class[c] = byteDot
		case b < ' ' || b == 0x7f || b == '%':
			class[c] = byteBad
		case b >= utf8.RuneSelf:
			class[c] = byteHigh
		case !labelByte(b):
			class[c] = byteOther
		}
	}
	return class
}()

// segments are the first maxSegments pieces of a path, each with the bits of its bytes.
type segments struct {
	text [maxSegments][]byte
	bits [maxSegments]uint8
	n    int // how many there are, possibly more than are held
}

// split cuts rest at its slashes and checks what holds for every segment. why is empty if all is well.
func (s *segments) split(rest []byte) (why string) {
	start, bits, all := 0, uint8(0), uint8(0)
	for i := 0; i <= len(rest); i++ {
		if i < len(rest) {
			if c := byteClass[rest[i]]; c != byteSlash {
				bits |= c
				continue
			}
		}
		text := rest[start:i]
		switch {
		case len(text) == 0:
			return whyEmptySegment
		case bits&byteBad != 0 && bytes.IndexByte(text, '%') >= 0:
			return whyPercent
		case bits&byteBad != 0:
			return whyControl
		case text[0] == '.' && (len(text) == 1 || len(text) == 2 && text[1] == '.'):
			return whyDotSegment
		}
		if s.n < maxSegments {
			s.text[s.n], s.bits[s.n] = text, bits
		}
		s.n++
		all |= bits
		start, bits = i+1, 0
	}
	if all&byteHigh != 0 && !utf8.Valid(rest) {
		return whyUTF8
	}
	return ""
}

// isLabel is the function isLabel for segment i.
func (s *segments) isLabel(i int, letterFirst bool) bool {
	t := s.text[i]
	return s.bits[i] == 0 && len(t) <= 63 && t[0] != '-' && t[len(t)-1] != '-' && (!letterFirst || t[0] > '9')
}

// isGroup reports whether segment i, which has a dot, is an API group.
func (s *segments) isGroup(i int) bool { return s.bits[i] == byteDot && isSubdomain(s.text[i]) }

func (s *segments) hasDot(i int) bool { return s.bits[i]&byteDot != 0 }

// scanPlain places a key whose first segment has no dot; there are two segments at least.
func (p *parts) scanPlain(prefix string, rest []byte, s *segments) {
	first := s.text[0]
	twoLen := len(first) + 1 + len(s.text[1])
	if prefix == OpenShiftPrefix+"/" {
		if e := openShiftSegments[string(first)]; e != nil {
			p.place(e, s, 1, len(first))
			return
		}
		if e := openShiftSegments[string(rest[:twoLen])]; e != nil {
			p.place(e, s, 2, twoLen)
			return
		}
		switch string(first) {
		case "oauth", "authorization", "registry":
			p.why = whyOpenShift
			return
		}
	}
	if e := kubernetesSegments[string(first)]; e != nil {
		p.place(e, s, 1, len(first))
		return
	}
	switch string(first) {
	case "services":
		if e := kubernetesSegments[string(rest[:twoLen])]; e != nil {
			p.place(e, s, 2, twoLen)
		} else {
			p.why = whyServices
		}
		return
	case "masterleases":
		p.placeInternal(internalMasterLeases, rest, len(first))
		return
	case "peerserverleases":
		p.placeInternal(internalPeerServerLeases, rest, len(first))
		return
	case "ranges":
		p.placeInternal(internalRanges, rest, len(first))
		return
	}
	// Not in the table: the shape says the scope, and nothing says the group.
	switch {
	case storedElsewhere[string(first)]:
		p.why = whyElsewhere
	case !s.isLabel(0, true):
		p.why = whyResource
	case s.n > 3:
		p.why = whyTooDeep
	case s.n == 3 && !s.isLabel(1, false):
		p.why = whyNamespace
	case s.n == 3:
		p.scope, p.resource, p.resLen, p.ns, p.name = Namespaced, first, len(first), s.text[1], s.text[2]
	default:
		p.scope, p.resource, p.resLen, p.name = Cluster, first, len(first), s.text[1]
	}
}

// builtinGroupSuffix ends every built-in group that has a dot. It saves two look-ups for most custom resources.
var builtinGroupSuffix = []byte(".k8s.io")

// scanGroup places a key whose first segment has a dot; there are two segments at least.
func (p *parts) scanGroup(rest []byte, s *segments) {
	switch {
	case !s.isGroup(0):
		p.why = whyGroup
		return
	case s.n == 2:
		p.why = whyNoName
		return
	}
	resLen := len(s.text[0]) + 1 + len(s.text[1])
	elsewhere := false
	if bytes.HasSuffix(s.text[0], builtinGroupSuffix) {
		if e := kubernetesSegments[string(rest[:resLen])]; e != nil {
			p.place(e, s, 2, resLen)
			return
		}
		elsewhere = builtinByPath[string(rest[:resLen])] != nil
	}
	group, subLen := 0, 0
	// A plural is a DNS-1035 label and has no dot; a second segment with a dot is the group of an aggregated apiserver
	// whose own prefix is the first segment.
	if s.hasDot(1) {
		if s.n < 4 || s.n > 5 || !s.isGroup(1) {
			p.why = whySubtree
			return
		}
		group, subLen = 1, len(s.text[0])
		resLen += 1 + len(s.text[2])
	}
	tail := group + 2 // the first segment after the resource's
	switch {
	case !s.isLabel(group+1, true):
		p.why = whyResource
		return
	case elsewhere:
		// The apiserver keeps this resource without its group in the path: whoever wrote this key is not the apiserver.
		p.why = whyElsewhere
		return
	case s.n > tail+2:
		p.why = whyTooDeep
		return
	case s.n == tail+2 && !s.isLabel(tail, false):
		p.why = whyNamespace
		return
	}
	p.group, p.resource, p.resLen, p.subLen = s.text[group], s.text[group+1], resLen, subLen
	if s.n == tail+2 {
		p.scope, p.ns, p.name = Namespaced, s.text[tail], s.text[tail+1]
	} else {
		p.scope, p.name = Cluster, s.text[tail]
	}
}

// place puts a resource of the table into its scope; tail is the first segment after the resource's own.
func (p *parts) place(e *resource, s *segments, tail, resLen int) {
	n := s.n - tail
	switch {
	case !e.namespaced && n == 1:
		p.scope, p.name = Cluster, s.text[tail]
	case !e.namespaced && n == 0:
		p.why = whyNoName
		return
	case !e.namespaced:
		p.why = whyWantCluster
		return
	case n != 2:
		p.why = whyWantNamespace
		return
	case !s.isLabel(tail, false):
		p.why = whyNamespace
		return
	default:
		p.scope, p.ns, p.name = Namespaced, s.text[tail], s.text[tail+1]
	}
	p.entry, p.resLen = e, resLen
}

// placeInternal takes the whole rest of the path as the name: what is internal stays internal at any depth.
func (p *parts) placeInternal(which int, rest []byte, resLen int) {
	p.scope, p.internal, p.resLen, p.name = Internal, which, resLen, rest[resLen+1:]
}

// isLabel reports whether s is a DNS-1123 label (namespaces), or a DNS-1035 one (plurals), which starts with a letter.
func isLabel[T string | []byte](s T, letterFirst bool) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	if letterFirst && s[0] <= '9' {
		return false
	}
	bits := uint8(0)
	for i := 0; i < len(s); i++ {
		bits |= byteClass[s[i]]
	}
	return bits == 0
}

// isSubdomain reports whether s is a DNS-1123 subdomain, as an API group is.
func isSubdomain[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	start := 0 // of the label
	for i := 0; i < len(s); i++ {
		switch byteClass[s[i]] {
		case 0:
		case byteDot:
			if i == start || s[start] == '-' || s[i-1] == '-' {
				return false
			}
			start = i + 1
		default:
			return false
		}
	}
	return start < len(s) && s[start] != '-' && s[len(s)-1] != '-'
}

func labelByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }
