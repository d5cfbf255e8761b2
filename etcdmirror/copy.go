package etcdmirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// A base copy and a resync are one algorithm, done in rounds. A round opens a watch at the source's head, lists the keys of
// both sides, writes the difference (owners first, deletes last), and leaves the target equal to the source at the head:
// there the watch takes over. Where the source compacts the head away before all is read, reading goes on at a newer
// revision, and the watch tells what changed between the two (bridge); where even that is lost, the next round begins
// where this one did, with only what has changed since.

var (
	// errAgain asks for another round, from this one's head on.
	errAgain = errors.New("another round")
	// errRedo asks for another round from where this one began.
	errRedo = errors.New("the round again")
)

// copy brings the target from the checkpoint's state to equal the source at some revision, and returns the watch that goes on from there.
func (m *Mirror) copy(ctx context.Context, md *Metadata, reason string) (*watch, error) {
	base := md == nil || md.Checkpoint.Phase == PhaseBase
	state, phase := StateResync, PhaseResync
	if base {
		state, phase = StateBaseCopy, PhaseBase
	}
	var since, targetSince int64
	if !base {
		since, targetSince = md.Checkpoint.SourceRevision, md.heldRevision()
	}
	marked := false
	if md != nil && m.filterChanged(md.Identity) {
		since = 0 // everything is compared: what the new filter keeps was never copied
	}
	m.track.update(func(s *Status) { s.Resyncs++ })
	for round, attempt := 1, (etcdrpc.Backoff{}); ; round++ {
		m.track.setState(state, "")
		m.log.Info(string(state)+" begins", LogKeyReason, reason, LogKeyRound, round, LogKeySince, since)
		call(m.cfg.Hooks.Resync, ResyncInfo{Base: base, Since: since, Round: round, Reason: reason})
		r := &copyRound{m: m, md: md, phase: phase, since: since, targetSince: targetSince, marked: marked, number: round}
		w, err := r.run(ctx)
		if err == nil {
			return w, nil
		}
		r.closeWatch()
		marked = r.marked
		switch {
		case ctx.Err() != nil || isFatal(err):
			return nil, err
		case errors.Is(err, errAgain), errors.Is(err, errRedo):
			if errors.Is(err, errAgain) { // the target is right about all that did not change since the head
				since, targetSince = r.head, r.targetHead
			}
			reason = "the source compacted what had to be read"
			if err := m.restoreMarks(ctx); err != nil {
				return nil, err
			}
			continue
		}
		m.track.waiting(string(state) + ": " + err.Error())
		m.log.Warn(string(state)+" interrupted", LogKeyError, err)
		if err := attempt.Wait(ctx); err != nil {
			return nil, err
		}
		if err := m.restoreMarks(ctx); err != nil {
			return nil, err
		}
		round--
	}
}

// copyRound is one round of a copy.
type copyRound struct {
	m      *Mirror
	md     *Metadata // at the start of the first round; nil without a checkpoint
	phase  Phase
	marked bool // the target's own keys have been told from the mirror's, which is possible only before its first write
	number int

	// since is the source revision up to which unchanged keys are known to be right at the target as it was at targetSince; 0: nothing is known.
	since, targetSince int64
	// head is the source revision that the round reads at and ends with; targetHead the target's when the round began.
	head, targetHead int64

	watch    *watch
	pin      *kvstream.Pin
	entries  []entry
	surplus  []surplusKey
	departed []entry         // keys that a changed filter no longer keeps, on both sides
	gone     map[string]bool // guarded keys (at the target) that the source no longer has
}

// surplusKey is a kept key of the target that the source lacks.
type surplusKey struct {
	key    string // at the target
	create int64
}

func (r *copyRound) closeWatch() {
	if r.watch != nil {
		r.watch.close()
	}
}

func (r *copyRound) run(ctx context.Context) (*watch, error) {
	m := r.m
	var err error
	if r.head, err = m.sourceHead(ctx); err != nil {
		return nil, err
	}
	if r.targetHead, err = m.targetHead(ctx); err != nil {
		return nil, err
	}
	r.watch = m.openWatch(ctx, r.head+1)
	r.pin = kvstream.NewPin(m.sourceBegin, r.head)
	m.track.update(func(s *Status) { s.Copy = CopyStatus{Round: r.number, Began: time.Now()} })
	if err := r.list(ctx); err != nil {
		return nil, err
	}
	zombies, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	m.track.update(func(s *Status) {
		s.Copy.Listed += len(r.entries)
		s.Copy.ToWrite, s.Copy.ToDelete = len(r.entries), len(zombies)
	})
	exact, err := r.write(ctx, zombies)
	if err != nil {
		return nil, err
	}
	next := Checkpoint{Phase: PhaseTail, SourceRevision: exact, Bulk: true}
	final := append(r.staleMarkers(), m.identityRecord())
	if err := m.writer.apply(ctx, final, next, AppliedInfo{SourceRevision: exact, Bulk: true}); err != nil {
		return nil, err
	}
	m.track.update(func(s *Status) { s.Copy.Ended = time.Now() })
	m.track.applied(exact)
	return r.watch, nil
}

// list reads the keys of both sides and finds what differs by their metadata.
func (r *copyRound) list(ctx context.Context) error {
	m := r.m
	tbegin, tend := bounds(m.keys.target)
	sources := m.sources.Keys(m.sourceBegin, m.sourceEnd, r.pin)
	defer sources.Close()
	targets := m.targets.Keys(tbegin, tend, kvstream.NewPin(tbegin, r.targetHead))
	defer targets.Close()

	r.gone = make(map[string]bool, len(m.guarded))
	for key := range m.guarded {
		r.gone[key] = true
	}
	departs := r.md != nil && m.filterChanged(r.md.Identity) && m.cfg.LeftFilter == LeftFilterDelete
	var pos, tpos, filtered int64
	var source, target *mvccpb.KeyValue
	nextSource := func() (err error) {
		pos++
		source, err = sources.Next(ctx)
		if err != nil {
			return fmt.Errorf("source: listing keys: %w", err)
		}
		return nil
	}
	nextTarget := func() (err error) {
		for {
			tpos++
			if target, err = targets.Next(ctx); err != nil {
				return fmt.Errorf("target: listing keys: %w", err)
			}
			if target == nil || !isMetadata(string(target.Key)) {
				return nil
			}
		}
	}
	if err := errors.Join(nextSource(), nextTarget()); err != nil {
		return err
	}
	for source != nil || target != nil {
		side := compareKeys(m.keys, source, target)
		if side <= 0 && len(r.gone) > 0 {
			delete(r.gone, m.keys.toTarget(string(source.Key)))
		}
		switch {
		case side < 0:
			if m.kept(source.Key) {
				r.entries = append(r.entries, entry{key: string(source.Key), create: source.CreateRevision, pos: pos})
			} else {
				filtered++
			}
		case side == 0:
			e := entry{create: source.CreateRevision, pos: pos, tpos: tpos}
			switch {
			case !m.kept(source.Key):
				filtered++
				if departs && !m.reserved(source.Key) {
					e.key = string(source.Key)
					r.departed = append(r.departed, e)
				}
			case r.since == 0 || source.ModRevision > r.since || target.ModRevision > r.targetSince:
				e.key = string(source.Key)
				r.entries = append(r.entries, e)
			default:
				m.track.update(func(s *Status) { s.Copy.Listed++ })
			}
		default:
			key := string(target.Key)
			if m.kept([]byte(m.keys.toSource(key))) {
				r.surplus = append(r.surplus, surplusKey{key, target.CreateRevision})
			}
		}
		if side <= 0 {
			if err := nextSource(); err != nil {
				return err
			}
		}
		if side >= 0 {
			if err := nextTarget(); err != nil {
				return err
			}
		}
	}
	m.track.update(func(s *Status) { s.Filtered += filtered })
	return nil
}

// compareKeys says which of the two comes first in the order they share; a side at its end comes last.
func compareKeys(keys mapping, source, target *mvccpb.KeyValue) int {
	switch {
	case target == nil:
		return -1
	case source == nil:
		return 1
	}
	return bytes.Compare(source.Key[len(keys.source):], target.Key[len(keys.target):])
}

// prepare notes what belongs to the target's own cluster, and that a copy has begun: the first writes. It returns the keys to delete.
func (r *copyRound) prepare(ctx context.Context) (zombies []string, err error) {
	m := r.m
	var found []change
	for _, s := range r.surplus {
		switch {
		case m.cfg.Surplus == SurplusDelete:
		case m.foreign[s.key]:
			continue
		case !r.marked && r.foreignBefore(s):
			m.foreign[s.key] = true
			found = append(found, change{key: metaKeys(m.cfg.Name).foreign() + s.key})
			call(m.cfg.Hooks.Foreign, ForeignInfo{Key: s.key})
			continue
		}
		zombies = append(zombies, s.key)
	}
	if len(found) > 0 {
		m.log.Warn("keys of the target's own cluster are kept", LogKeyCount, len(found))
	}
	// The marks come first: once the checkpoint says that a copy is under way, a restart no longer tells the mirror's keys from others by their age.
	// Until then a restart finds the same marks again.
	if err := m.writer.deliver(ctx, found, AppliedInfo{Bulk: true}); len(found) > 0 && err != nil {
		return nil, err
	}
	m.noteMarks()
	begun := Checkpoint{Phase: r.phase, SourceRevision: r.since, Bulk: true}
	var identity []change
	if r.md == nil {
		identity = append(identity, m.identityRecord()) // a changed filter is recorded when its resync is done
	}
	if err := m.writer.apply(ctx, identity, begun, AppliedInfo{Bulk: true}); err != nil {
		return nil, err
	}
	r.marked = true
	return zombies, nil
}

// staleMarkers removes the marks of keys that the target's own cluster no longer has to itself, and of guarded keys that the source no longer has.
func (r *copyRound) staleMarkers() (changes []change) {
	surplus := make(map[string]bool, len(r.surplus))
	for _, s := range r.surplus {
		surplus[s.key] = true
	}
	for key := range r.m.foreign {
		if !surplus[key] {
			changes = append(changes, r.m.unmark(key)...)
		}
	}
	for key := range r.gone {
		changes = append(changes, r.m.unmark(key)...)
	}
	return changes
}

// foreignBefore reports whether a surplus key was made by the target's own cluster, when the first round of a copy finds it.
//
// Without a checkpoint the mirror has made nothing. With a complete one it has made nothing since. While a copy is under way it has; the marks were set when it began.
// After a change of the filter nobody knows what the old one kept, and what is not known is not deleted.
func (r *copyRound) foreignBefore(s surplusKey) bool {
	switch {
	case r.md == nil:
		return true
	case r.md.Checkpoint.Phase != PhaseTail:
		return false
	}
	return r.m.filterChanged(r.md.Identity) || s.create > r.md.heldRevision()
}

// write makes the target equal to the source at the revision it returns: puts first, deletes last.
func (r *copyRound) write(ctx context.Context, zombies []string) (exact int64, err error) {
	m := r.m
	b := newBulk(ctx, m.writer, m.cfg)
	p := &placer{m: m, target: m.writer, bulk: b, pin: r.pin, keys: m.keys, entries: r.entries,
		since: r.since, head: r.head, targetHead: r.targetHead, limit: r.head, seed: maphash.MakeSeed(), placed: make(map[uint64]int32, len(r.entries))}
	exact, err = r.put(b.ctx, p, &zombies)
	if err == nil {
		err = r.depart(b.ctx, p, &zombies)
	}
	if err == nil {
		err = r.delete(b, zombies)
	}
	if closeErr := b.close(); closeErr != nil {
		return 0, closeErr // the first failure; err follows from it
	}
	return exact, err
}

// put writes what was listed, and what the watch tells if compactions moved the pin meanwhile.
func (r *copyRound) put(ctx context.Context, p *placer, zombies *[]string) (exact int64, err error) {
	order, glued, ends := r.m.ranks.copyOrder(r.entries)
	if err := p.place(ctx, order, glued, ends); err != nil {
		return 0, err
	}
	if !r.pin.Moved() {
		return r.head, p.finish(ctx)
	}
	until, last, err := r.bridge(ctx)
	if errors.Is(err, errAgain) && len(p.waiting) > 0 {
		err = errRedo // they are older than the head, and not written
	}
	if err != nil {
		return 0, err
	}
	return until, r.settle(ctx, p, until, last, zombies)
}

// delete removes keys, those that others live in last.
func (r *copyRound) delete(b *bulk, targetKeys []string) error {
	if err := b.drain(); err != nil {
		return err
	}
	for _, group := range r.m.targetRanks.deleteOrder(targetKeys) {
		for _, key := range group {
			changes := append(r.m.unmark(key), change{key: key, del: true})
			if _, err := b.add(nil, false, changes...); err != nil {
				return err
			}
			r.m.track.update(func(s *Status) { s.Copy.Deleted++ })
		}
		if err := b.drain(); err != nil {
			return err
		}
	}
	return nil
}

// depart adds to the keys to delete those that left the filter and still equal the source's.
func (r *copyRound) depart(ctx context.Context, p *placer, targetKeys *[]string) error {
	order := make([]int32, len(r.departed))
	for i := range order {
		order[i] = int32(i)
	}
	p.entries = r.departed
	return r.m.sources.Fetch(ctx, entryList{r.departed, order}, r.pin, func(first int, kvs []*mvccpb.KeyValue) error {
		there, err := p.atTarget(ctx, order[first:first+len(kvs)])
		if err != nil {
			return err
		}
		for j, kv := range kvs {
			target := there[int32(first+j)]
			if kv == nil || target == nil {
				continue
			}
			if r.m.equal(ctx, string(kv.Key), string(target.Key), kv.Value, target.Value) {
				*targetKeys = append(*targetKeys, string(target.Key))
			}
		}
		return nil
	})
}
