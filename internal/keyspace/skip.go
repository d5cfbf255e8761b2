package keyspace

import (
	"fmt"
	"slices"
	"strings"
)

// Range is a range of keys as etcd wants it: from Begin up to, but without, End; an End of "\x00" is the end of all keys.
type Range struct{ Begin, End string }

// skips are prefixes of source keys below which nothing takes part.
type skips struct {
	given  []string // in the order of their traffic
	sorted []string // none below another
}

// newSkips checks and sorts prefixes.
func newSkips(source string, given []string, bad func(detail, hint string)) skips {
	s := skips{given: slices.Clone(given), sorted: outermost(given)}
	for i, p := range given {
		if len(p) <= len(source) || !strings.HasPrefix(p, source) {
			bad(fmt.Sprintf("Skip[%d] %q does not lie below the prefix %q", i, p, source), "give whole prefixes of source keys, such as /registry/leases/")
		}
	}
	return s
}

// outermost sorts prefixes and drops those below another.
func outermost(prefixes []string) []string {
	var sorted []string
	for _, p := range slices.Sorted(slices.Values(prefixes)) {
		if n := len(sorted); n == 0 || !strings.HasPrefix(p, sorted[n-1]) {
			sorted = append(sorted, p)
		}
	}
	return sorted
}

// has reports whether a key lies below one of the prefixes.
func (s skips) has(key []byte) bool {
	if len(s.sorted) == 0 {
		return false
	}
	low, high := 0, len(s.sorted) // the last prefix that is not behind the key is the only one that it can have
	for low < high {
		if mid := (low + high) / 2; s.sorted[mid] <= string(key) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return false
	}
	p := s.sorted[low-1]
	return len(key) >= len(p) && string(key[:len(p)]) == p
}

// Skip returns the prefixes of source keys below which nothing takes part, those with the most traffic first.
func (s *Space) Skip() []string { return s.skip.given }

// Ranges returns ranges of source keys outside of which nothing takes part, in order: what the first of the skipped prefixes leave, as so many ranges at most.
func (s *Space) Ranges(most int) []Range {
	begin, end := Bounds(s.Source)
	var ranges []Range
	for _, p := range outermost(s.skip.given[:min(len(s.skip.given), max(most-1, 0))]) {
		from, to := Bounds(p)
		if begin < from {
			ranges = append(ranges, Range{begin, from})
		}
		if begin = to; to == "\x00" {
			return ranges // the prefix goes on to the last of all keys
		}
	}
	if end == "\x00" || begin < end {
		ranges = append(ranges, Range{begin, end})
	}
	return ranges
}
