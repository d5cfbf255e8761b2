package history

import (
	"fmt"
	"math"
)

// CheckOrder holds the order of the mirror's writes against the source:
//
//   - an object is put in the same revision as, or after, each of its owners (by Config.Identify) that live in the source;
//   - a put never overwrites another incarnation of its key (one with another create_revision in the source): that one is
//     deleted first, in a revision of its own;
//   - the source held what is put.
//
// What the mirror knew of the source when it wrote is bounded by the consistent checkpoints around the write. The check
// reports only what is wrong whatever the mirror saw between them; in a tail, where every revision has its checkpoint, that is exact.
func CheckOrder(source, target *Recorder, o Options) error {
	c := &orderCheck{
		o: &o, found: &ViolationsError{Check: "order"},
		index: o.index(source), lives: map[string][]life{},
		present: map[string]int{}, held: map[string]holding{},
	}
	c.indexLives(source)
	cps := consistentOnly(o.checkpoints(target))
	before := int64(0) // the source revision of the last consistent checkpoint
	for _, rev := range target.Revisions() {
		w := window{lo: before, hi: source.Seen()}
		if len(cps) > 0 {
			w.hi = cps[0].sourceRev
			w.exact = cps[0].targetRev == rev.Rev
		}
		if w.lo > w.hi { // the source was replaced by an older state of itself
			w.lo = 0
		}
		c.revision(rev, w)
		for ; len(cps) > 0 && cps[0].targetRev == rev.Rev; cps = cps[1:] {
			before = cps[0].sourceRev
		}
	}
	return c.found.result()
}

func consistentOnly(cps []checkpoint) []checkpoint {
	var out []checkpoint
	for _, c := range cps {
		if c.consistent {
			out = append(out, c)
		}
	}
	return out
}

// window is the range of source revisions that the mirror may have seen when it wrote. exact: the write leaves the target
// in the state of hi.
type window struct {
	lo, hi int64
	exact  bool
}

// life is the range of source revisions in which a kept key held a UID; to is exclusive.
type life struct{ from, to int64 }

// holding is what a target key holds.
type holding struct {
	put          *Event
	uid          string
	incarnations map[int64]bool // possible create_revisions in the source; nil: unknown
}

type orderCheck struct {
	o       *Options
	found   *ViolationsError
	index   sourceIndex
	lives   map[string][]life // by UID
	present map[string]int    // UID -> how many target keys hold it
	held    map[string]holding
}

func (c *orderCheck) indexLives(source *Recorder) {
	for key, events := range c.index {
		if !c.o.compared(key) {
			continue
		}
		for i, e := range events {
			if e.UID == "" {
				continue
			}
			l := life{e.Mod, math.MaxInt64}
			if i+1 < len(events) {
				l.to = events[i+1].Mod
			}
			// Updates of an object continue its life.
			if n := len(c.lives[e.UID]); n > 0 && c.lives[e.UID][n-1].to == l.from {
				c.lives[e.UID][n-1].to = l.to
			} else {
				c.lives[e.UID] = append(c.lives[e.UID], l)
			}
		}
	}
}

// livesThrough tells whether the UID existed in the source at each revision of the range.
func (c *orderCheck) livesThrough(uid string, lo, hi int64) bool {
	for _, l := range c.lives[uid] {
		if l.from <= lo && hi < l.to {
			return true
		}
	}
	return false
}

func (c *orderCheck) revision(rev Revision, w window) {
	foreign := c.o.foreign(rev.Rev)
	type put struct {
		*Event
		since int64 // the source's revision of what was put
	}
	var puts []put
	for i := range rev.Events {
		e := &rev.Events[i]
		if !c.o.compared(e.Key) {
			continue
		}
		old := c.held[e.Key]
		c.drop(old)
		delete(c.held, e.Key)
		if e.Delete {
			continue
		}
		now := holding{put: e, uid: e.UID}
		if !foreign {
			var since int64
			now.incarnations, since = c.incarnations(e, w)
			switch {
			case len(now.incarnations) == 0:
				c.found.add(Violation{Kind: KindUnknownValue, TargetRev: rev.Rev, SourceRev: w.hi, Key: e.Key})
				now.incarnations = nil
			case old.incarnations != nil:
				if both := intersect(old.incarnations, now.incarnations); len(both) > 0 {
					now.incarnations = both
				} else if !c.alsoHeld(old.put, now.incarnations, w.lo) {
					c.found.add(Violation{Kind: KindOverwritten, TargetRev: rev.Rev, SourceRev: w.hi, Key: e.Key})
				}
			}
			puts = append(puts, put{e, since})
		}
		c.held[e.Key] = now
		if now.uid != "" {
			c.present[now.uid]++
		}
	}
	// Owners may come later within the revision, so dependents are looked at last.
	for _, p := range puts {
		c.owners(p.Event, rev.Rev, window{lo: max(w.lo, p.since), hi: w.hi})
	}
}

func (c *orderCheck) owners(e *Event, targetRev int64, w window) {
	for _, uid := range e.Owners {
		if c.present[uid] == 0 && c.livesThrough(uid, w.lo, w.hi) {
			c.found.add(Violation{Kind: KindOwnerAbsent, TargetRev: targetRev, SourceRev: w.hi, Key: e.Key, Detail: fmt.Sprintf("owner with UID %s", uid)})
		}
	}
}

// incarnations are the create_revisions that the source's key had while it held what e puts, and the last revision of the
// source at which such a state began.
func (c *orderCheck) incarnations(e *Event, w window) (creates map[int64]bool, since int64) {
	creates = map[int64]bool{}
	lo := w.lo
	if w.exact {
		lo = w.hi
	}
	c.index.during(e.Key, lo, w.hi, func(s *Event) {
		if c.o.equal(s, e) {
			creates[s.Create] = true
			since = s.Mod
		}
	})
	return creates, since
}

// alsoHeld tells whether one of the incarnations, by the last consistent checkpoint, held byte for byte what the target's key holds. A mirror writes nothing where nothing differs,
// so the target was holding that incarnation then. Objects of Kubernetes never come to this: their UIDs differ.
func (c *orderCheck) alsoHeld(put *Event, incarnations map[int64]bool, lo int64) (held bool) {
	if put.UID != "" {
		return false
	}
	c.index.during(put.Key, 0, lo, func(s *Event) {
		held = held || incarnations[s.Create] && c.o.equal(s, put)
	})
	return held
}

func (c *orderCheck) drop(h holding) {
	if h.uid == "" {
		return
	}
	if c.present[h.uid]--; c.present[h.uid] == 0 {
		delete(c.present, h.uid)
	}
}

func intersect(a, b map[int64]bool) map[int64]bool {
	out := map[int64]bool{}
	for k := range a {
		if b[k] {
			out[k] = true
		}
	}
	return out
}
