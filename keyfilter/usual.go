package keyfilter

import (
	"bytes"
	"encoding/binary"
)

// This file is the short way for nearly all keys of a cluster: those of a resource of the table that are as they should
// be. It knows less than scan, which has to look wherever this is in doubt.

// Match reports whether the key is mirrored. It allocates nothing and does not keep key.
func (f *Filter) Match(key []byte) bool {
	which := f.under(key)
	if which < 0 {
		return false // outside, or compact_rev_key
	}
	var p parts
	if placed, dropped := p.placeUsual(key[len(f.prefixes[which]):], f.whole[which]); dropped {
		return false // as most writes of a cluster are
	} else if !placed {
		p.scan(f.prefixes[which], key)
	}
	return f.decide(key, &p).include
}

// placeUsual places the path of a key of the usual form: of a resource of the table, whatever the prefix (OpenShift's own
// paths begin otherwise), or a custom resource. If it has not placed it, p is as it was. dropped says that the resource is
// in whole, which is so by its path alone: the rest of the key is not looked at.
func (p *parts) placeUsual(path []byte, whole []bool) (placed, dropped bool) {
	n := bytes.IndexByte(path, '/')
	if n < 0 {
		return false, false
	}
	first := path[:n]
	var e *resource
	if bytes.IndexByte(first, '.') < 0 {
		if e = kubernetesSegments[string(first)]; e == nil && string(first) != "services" {
			return false, false
		}
	} else if !bytes.HasSuffix(first, builtinGroupSuffix) {
		return p.placeCustom(first, path[n+1:]), false
	}
	if e == nil {
		second := bytes.IndexByte(path[n+1:], '/')
		if second < 0 {
			return false, false
		}
		n += 1 + second
		if e = kubernetesSegments[string(path[:n])]; e == nil {
			return false, false
		}
	}
	if whole[e.id] {
		return false, true
	}
	ns, name, ok := usualTail(path[n+1:])
	if !ok || (len(ns) > 0) != e.namespaced {
		return false, false
	}
	p.entry, p.scope, p.ns, p.name = e, e.scope(), ns, name
	return true, false
}

// placeCustom places what follows the first segment, which has a dot and does not end as groups of the table do.
func (p *parts) placeCustom(group, tail []byte) bool {
	n := bytes.IndexByte(tail, '/')
	if n < 0 || !isLabel(tail[:n], true) || !isSubdomain(group) {
		return false
	}
	ns, name, ok := usualTail(tail[n+1:])
	if !ok {
		return false
	}
	p.group, p.resource, p.ns, p.name, p.scope = group, tail[:n], ns, name, Cluster
	if len(ns) > 0 {
		p.scope = Namespaced
	}
	return true
}

// usualTail reads name or namespace/name. ok is false if it is neither, or if the name is not printable ASCII.
func usualTail(tail []byte) (ns, name []byte, ok bool) {
	n := bytes.IndexByte(tail, '/')
	if n < 0 {
		return nil, tail, usualName(tail)
	}
	return tail[:n], tail[n+1:], isLabel(tail[:n], false) && usualName(tail[n+1:])
}

// usualName reports whether s is the name of an object for sure: printable ASCII without a slash or '%', and no dot in front.
func usualName(s []byte) bool {
	if len(s) == 0 || s[0] == '.' {
		return false
	}
	for ; len(s) >= 8; s = s[8:] {
		if unusual(binary.LittleEndian.Uint64(s)) {
			return false
		}
	}
	for _, c := range s {
		if byteClass[c]&(byteBad|byteHigh|byteSlash) != 0 {
			return false
		}
	}
	return true
}

// Words of eight bytes that are the same.
const (
	ones  uint64 = 0x0101010101010101
	highs uint64 = ones << 7
	lows  uint64 = ^highs
)

// unusual reports whether one of eight bytes is a control character, a slash, a '%', or not ASCII.
func unusual(w uint64) bool {
	low := w & lows // none of the sums carries into the next byte
	control := ^(low + ones*(0x80-' ')) | (low + ones)
	percent := ^(low ^ ones*'%' + lows)
	slash := ^(low ^ ones*'/' + lows)
	return (w|control|percent|slash)&highs != 0
}
