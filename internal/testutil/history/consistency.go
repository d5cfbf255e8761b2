package history

import (
	"maps"
	"slices"
)

// CheckPrefixConsistency holds, at each target revision of a consistent phase, the copy in the target against the source at
// exactly the checkpoint's revision. A consistent phase begins with a consistent checkpoint and ends before the next
// inconsistent one. A key that stays wrong is reported once.
func CheckPrefixConsistency(source, target *Recorder, o Options) error {
	found := &ViolationsError{Check: "prefix consistency"}
	p := &pair{o: &o, source: source, found: found}
	p.rewind()
	cps := o.checkpoints(target)
	p.got = map[string]*Event{}
	p.wrong = map[string]bool{}
	consistent, everConsistent := false, false
	for _, rev := range target.Revisions() {
		for i := range rev.Events {
			p.changeTarget(&rev.Events[i])
		}
		for ; len(cps) > 0 && cps[0].targetRev == rev.Rev; cps = cps[1:] {
			c := cps[0]
			consistent = c.consistent
			if c.bad != "" {
				found.add(Violation{Kind: c.bad, TargetRev: rev.Rev, Key: o.CheckpointKey})
			}
			if !consistent {
				continue
			}
			everConsistent = true
			if seen := source.Seen(); c.sourceRev > seen {
				found.add(Violation{Kind: KindAhead, TargetRev: rev.Rev, SourceRev: c.sourceRev, Key: o.CheckpointKey})
				consistent = false
				continue
			}
			p.moveSource(c.sourceRev)
		}
		if consistent {
			p.report(rev.Rev)
		}
	}
	if !everConsistent {
		found.add(Violation{Kind: KindNoCheckpoint, Key: o.CheckpointKey})
	}
	return found.result()
}

// CheckConverged compares the last recorded states of both sides. Wait for both recorders' heads first.
func CheckConverged(source, target *Recorder, o Options) error {
	found := &ViolationsError{Check: "convergence"}
	p := &pair{o: &o, source: source, found: found, got: map[string]*Event{}, wrong: map[string]bool{}}
	p.rewind()
	for _, rev := range target.Revisions() {
		for i := range rev.Events {
			p.changeTarget(&rev.Events[i])
		}
	}
	p.moveSource(source.Seen())
	p.report(target.Seen())
	return found.result()
}

// pair is the state of both sides and the difference between them, kept up with every change.
type pair struct {
	o      *Options
	source *Recorder
	cursor *Cursor
	want   map[string]*Event // the source by target key
	got    map[string]*Event
	// differ holds the keys that differ now; wrong those that were reported and have differed since.
	differ map[string]bool
	wrong  map[string]bool
	found  *ViolationsError
}

// rewind puts the source back before its first revision.
func (p *pair) rewind() {
	p.cursor = p.source.Cursor()
	p.want = map[string]*Event{}
	p.differ = map[string]bool{}
	for key := range p.got {
		p.compare(key)
	}
}

func (p *pair) moveSource(rev int64) {
	if rev < p.cursor.Rev() {
		p.rewind()
	}
	for _, r := range p.cursor.Advance(rev) {
		for i := range r.Events {
			e := &r.Events[i]
			key, ok := p.o.mapped(e.Key)
			if !ok || !p.o.compared(key) {
				continue
			}
			if e.Delete {
				delete(p.want, key)
			} else {
				p.want[key] = e
			}
			p.compare(key)
		}
	}
}

func (p *pair) changeTarget(e *Event) {
	if !p.o.compared(e.Key) {
		return
	}
	if e.Delete {
		delete(p.got, e.Key)
	} else {
		p.got[e.Key] = e
	}
	p.compare(e.Key)
}

func (p *pair) compare(key string) {
	want, got := p.want[key], p.got[key]
	if want == got || (want != nil && got != nil && p.o.equal(want, got)) { // the first: both absent
		delete(p.differ, key)
	} else {
		p.differ[key] = true
	}
}

// report adds the keys that differ and were right when it was last called.
func (p *pair) report(targetRev int64) {
	maps.DeleteFunc(p.wrong, func(key string, _ bool) bool { return !p.differ[key] })
	if len(p.differ) == 0 {
		return // nearly always: do not sort nothing
	}
	for _, key := range slices.Sorted(maps.Keys(p.differ)) {
		if p.wrong[key] {
			continue
		}
		p.wrong[key] = true
		v := Violation{Kind: KindDifferent, TargetRev: targetRev, SourceRev: p.cursor.Rev(), Key: key}
		switch {
		case p.want[key] == nil:
			v.Kind = KindSurplus
		case p.got[key] == nil:
			v.Kind = KindMissed
		}
		p.found.add(v)
	}
}
