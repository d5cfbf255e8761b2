package etcdmirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
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
// doubt is set if it cannot be told whether others deleted keys at the target meanwhile.
func (m *Mirror) copy(ctx context.Context, md *Metadata, reason string) (w *watch, doubt bool, err error) {
	base := md == nil || md.Checkpoint.Phase == PhaseBase
	state, phase := StateResync, PhaseResync
	if base {
		state, phase = StateBaseCopy, PhaseBase
	}
	var since int64
	if !base && !md.Checkpoint.Unlisted && !m.comparesAll(md) {
		since = md.Checkpoint.SourceRevision // else everything is compared: what a new filter keeps was never copied
	}
	m.track.update(func(s *Status) { s.Resyncs++ })
	for round, attempt := 1, (etcdrpc.Backoff{}); ; round++ {
		m.track.setState(state, "")
		m.log.Info(string(state)+" begins", LogKeyReason, reason, LogKeyRound, round, LogKeySince, since)
		call(m.cfg.Hooks.Resync, ResyncInfo{Base: base, Since: since, Round: round, Reason: reason})
		r := &copyRound{m: m, md: md, phase: phase, since: since, number: round}
		w, err := r.run(ctx)
		if err == nil {
			return w, r.doubt, nil
		}
		r.closeWatch()
		switch {
		case ctx.Err() != nil || isFatal(err):
			return nil, false, err
		case errors.Is(err, errAgain), errors.Is(err, errRedo):
			if errors.Is(err, errAgain) { // the target is right about all that did not change since the head
				since = r.head
			}
			reason = "the source compacted what had to be read"
			if err := m.restoreMarks(ctx); err != nil {
				return nil, false, err
			}
			continue
		}
		m.track.waiting(string(state) + ": " + explain(err))
		m.log.Warn(string(state)+" interrupted", LogKeyError, err)
		if err := attempt.Wait(ctx); err != nil {
			return nil, false, err
		}
		if err := m.restoreMarks(ctx); err != nil {
			return nil, false, err
		}
		round--
	}
}

// copyRound is one round of a copy.
type copyRound struct {
	m      *Mirror
	md     *Metadata // at the start of the first round; nil without a checkpoint
	phase  Phase
	number int

	// since is the source revision up to which unchanged keys are known to be right at the target, but for those that others changed after watched; 0: nothing is known.
	since int64
	// watched is the target revision up to which the marks tell what others did; own what the mirror did after it.
	watched int64
	own     *ownKeys
	// head is the source revision that the round reads at and ends with; targetHead the target's when the round began.
	head, targetHead int64

	watch    *watch
	pin      *kvstream.Pin
	entries  []entry
	surplus  []surplusKey
	departed []entry         // keys that a changed filter no longer keeps, on both sides
	gone     map[string]bool // guarded keys (at the target) that the source no longer has
	kept     int64           // keys of the source that take part
	held     int64           // of these, keys of the target
	doubt    bool            // see copy
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
	r.watched = m.writer.own.position()
	if r.own, err = m.writer.readOwn(ctx); err != nil {
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
	if err := r.audit(ctx); err != nil {
		return nil, err
	}
	m.writer.unlisted = false
	next := Checkpoint{Phase: PhaseTail, SourceRevision: exact, Bulk: true}
	final := []change{m.identityRecord(), m.writer.clearOwn()}
	if err := m.writer.apply(ctx, final, next, AppliedInfo{SourceRevision: exact, Bulk: true}); err != nil {
		return nil, err
	}
	m.deletions.peaks = nil
	m.track.update(func(s *Status) { s.Keys = m.writer.held })
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
	err := mergeKeys(ctx, m.keys, sources, targets, func(source, target *mvccpb.KeyValue) {
		var kept bool
		if source != nil {
			pos++
			if kept = m.kept(source.Key); kept {
				r.kept++
			} else {
				filtered++
			}
			if len(r.gone) > 0 {
				delete(r.gone, m.keys.toTarget(string(source.Key)))
			}
		}
		if target != nil {
			tpos++
		}
		switch {
		case target == nil:
			if kept {
				r.entries = append(r.entries, entry{key: string(source.Key), create: source.CreateRevision, pos: pos})
			}
		case source == nil:
			if key := string(target.Key); m.kept([]byte(m.keys.toSource(key))) {
				r.surplus = append(r.surplus, surplusKey{key, target.CreateRevision})
			}
		case kept:
			r.held++
			if r.looksAt(source, target) {
				r.entries = append(r.entries, entry{key: string(source.Key), create: source.CreateRevision, pos: pos, tpos: tpos})
			} else {
				m.track.update(func(s *Status) { s.Copy.Listed++ })
			}
		case departs && !m.reserved(source.Key):
			r.departed = append(r.departed, entry{key: string(source.Key), create: source.CreateRevision, pos: pos, tpos: tpos})
		}
	})
	m.track.update(func(s *Status) { s.Filtered += filtered })
	return err
}

// looksAt reports whether the values of a key that both sides have are to be compared.
func (r *copyRound) looksAt(source, target *mvccpb.KeyValue) bool {
	m := r.m
	if r.since == 0 || source.ModRevision > r.since {
		return true
	}
	key := string(target.Key)
	if m.drifted[key] != "" {
		return true
	}
	if target.ModRevision <= r.watched || m.writer.made(r.own, key, target.ModRevision) {
		return false
	}
	m.markDrift(key, DriftChanged, target.ModRevision) // so that it is not forgotten if this round is interrupted
	return true
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
	before := len(m.foreign)
	for _, s := range r.surplus {
		switch {
		case m.cfg.Surplus == SurplusDelete:
			zombies = append(zombies, s.key)
		case m.foreign[s.key]:
		case r.madeByOthers(s.key, s.create):
			m.markForeign(s.key)
		default:
			zombies = append(zombies, s.key)
		}
	}
	if found := len(m.foreign) - before; found > 0 {
		m.log.Warn("keys of the target's own cluster are kept", LogKeyCount, found)
	}
	if err := r.guard(ctx, zombies); err != nil {
		return nil, err
	}
	// The marks come first: once the checkpoint says so, they tell all that others did up to now.
	if err := r.saveMarks(ctx); err != nil {
		return nil, err
	}
	m.writer.own.move(r.targetHead)
	begun := Checkpoint{Phase: r.phase, SourceRevision: r.since, Bulk: true}
	changes := []change{m.writer.clearOwn()}
	if r.md == nil {
		changes = append(changes, m.identityRecord()) // a changed filter is recorded when its resync is done
	}
	return zombies, m.writer.apply(ctx, changes, begun, AppliedInfo{Bulk: true})
}

// saveMarks writes what is noted.
func (r *copyRound) saveMarks(ctx context.Context) error {
	if len(r.m.pending) == 0 {
		return nil
	}
	return r.m.writer.deliver(ctx, r.m.takePending(), AppliedInfo{Bulk: true})
}

// guard waits for approval if too much would be deleted.
func (r *copyRound) guard(ctx context.Context, zombies []string) error {
	if r.md == nil || len(zombies) == 0 {
		return nil
	}
	m := r.m
	m.writer.held = r.held + int64(len(zombies))
	return m.guardDeletes(ctx, r.head, r.kept, zombies[0])
}

// madeByOthers reports whether a key of the target that the source lacks was made by the target's own cluster.
// Without a checkpoint the mirror has made nothing. After a change of the filter nobody knows what the old one kept, and what is not known is not deleted.
func (r *copyRound) madeByOthers(key string, create int64) bool {
	if r.m.writer.made(r.own, key, create) {
		return false
	}
	return create > r.watched || r.md != nil && r.m.filterChanged(r.md.Identity)
}

// dropStale removes the marks of what this copy has settled: of keys that the target's own cluster no longer has to itself, of guarded keys that the source no longer has, and of drifted ones.
func (r *copyRound) dropStale() {
	m, keys := r.m, metaKeys(r.m.cfg.Name)
	surplus := make(map[string]bool, len(r.surplus))
	for _, s := range r.surplus {
		surplus[s.key] = true
	}
	for key := range m.foreign {
		if !surplus[key] {
			m.forget(key)
		}
	}
	for key := range r.gone {
		delete(m.guarded, key)
		m.later(change{key: keys.guarded() + key, del: true})
	}
	for key := range m.drifted {
		m.settled(key)
	}
}

// audit notes what others did at the target while the copy wrote. Everything that the copy sent is committed.
func (r *copyRound) audit(ctx context.Context) error {
	m := r.m
	r.dropStale()
	own, err := m.writer.readOwn(ctx)
	if err != nil {
		return err
	}
	head, err := m.targetHead(ctx)
	if err != nil {
		return err
	}
	begin, end := bounds(m.keys.target)
	targets := m.targets.Keys(begin, end, kvstream.NewPin(begin, head))
	defer targets.Close()
	held := int64(0)
	gone := maps.Clone(m.foreign)
	for {
		target, err := targets.Next(ctx)
		if err != nil {
			return fmt.Errorf("target: listing keys: %w", err)
		}
		if target == nil {
			break
		}
		if !m.keptAtTarget(target.Key) {
			continue
		}
		key := string(target.Key)
		delete(gone, key)
		switch {
		case target.ModRevision <= r.targetHead || m.writer.made(own, key, target.ModRevision):
		case target.CreateRevision <= r.targetHead || m.writer.made(own, key, target.CreateRevision):
			if !m.foreign[key] {
				m.markDrift(key, DriftChanged, target.ModRevision)
			}
		default:
			if r.wants(m.keys.toSource(key)) {
				m.markDrift(key, DriftReplaced, target.ModRevision)
			}
			m.markForeign(key)
		}
		if !m.foreign[key] {
			held++
		}
	}
	for key := range gone {
		m.forget(key)
	}
	r.doubt = r.pin.Moved() || len(m.guarded) > 0 || held != r.kept
	m.writer.held = held
	if err := r.saveMarks(ctx); err != nil {
		return err
	}
	m.writer.own.move(head)
	return nil
}

// wants reports whether the round had a key to write.
func (r *copyRound) wants(sourceKey string) bool {
	_, found := slices.BinarySearchFunc(r.entries, sourceKey, func(e entry, key string) int { return strings.Compare(e.key, key) })
	return found
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
