package etcdmirror

import "time"

// pace tells when the tail has to merge source revisions regardless of their resources to keep up, though few of them wait: a target that takes longer for a
// transaction than the source for a change of a resource would fall behind by MergeBehind revisions, and stay there.
type pace struct {
	waiting time.Time // since when there have been revisions waiting without a pause; zero: there are none
	until   time.Time // until when everything is merged
}

// paceHold is how long merging goes on after it was last of use.
const paceHold = time.Second

// bulk reports whether everything that waits is to be merged.
func (p *pace) bulk(now time.Time) bool { return now.Before(p.until) }

// note learns from a group: whether others still wait, and whether revisions were merged that touch one resource.
func (p *pace) note(now time.Time, wait, crowded bool, after time.Duration) {
	switch {
	case !wait:
		p.waiting = time.Time{}
	case p.waiting.IsZero():
		p.waiting = now
	}
	if crowded || wait && now.Sub(p.waiting) >= after {
		p.until = now.Add(paceHold)
	}
}
