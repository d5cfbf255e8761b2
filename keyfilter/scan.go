package keyfilter

import "bytes"

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
	if p.first == nil {
		p.first = kubernetesSegments[string(first)]
	}
	if p.first != nil {
		p.place(p.first, s, 1, len(first))
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
