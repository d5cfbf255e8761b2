package etcdmirror

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/hook"
	"github.com/understudy-dr/understudy/internal/keyspace"
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
func (m *Mirror) copy(ctx context.Context, md *Metadata, reason string) (*sourceWatch, error) {
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
		hook.Call(m.cfg.Hooks.Resync, ResyncInfo{Base: base, Since: since, Round: round, Reason: reason})
		r := &copyRound{m: m, md: md, phase: phase, since: since, number: round}
		w, err := r.run(ctx)
		if err == nil {
			return w, nil
		}
		r.closeWatch()
		switch {
		case ctx.Err() != nil || isFatal(err):
			return nil, err
		case errors.Is(err, errAgain), errors.Is(err, errRedo):
			if errors.Is(err, errAgain) { // the target is right about all that did not change since the head
				since = r.head
			}
			reason = "the source compacted what had to be read"
			if err := m.restoreMarks(ctx); err != nil {
				return nil, err
			}
			continue
		}
		m.track.waiting(string(state) + ": " + explain(err))
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
	number int

	// since is the source revision up to which unchanged keys are known to be right at the target, but for those that others changed after watched; 0: nothing is known.
	since int64
	// watched is the target revision up to which the marks tell what others did; own what the mirror did after it.
	watched int64
	own     *ownKeys
	// head is the source revision that the round reads at and ends with; targetHead the target's when the round began.
	head, targetHead int64

	watch    *sourceWatch
	pin      *kvstream.Pin
	entries  []entry
	surplus  []surplusKey
	departed []entry         // keys that a changed filter no longer keeps, on both sides
	gone     map[string]bool // guarded keys (at the target) that the source no longer has
	kept     int64           // keys of the source that take part
	held     int64           // of these, keys of the target
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

func (r *copyRound) run(ctx context.Context) (*sourceWatch, error) {
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
	m.writer.unlisted = false // what others change from here on, the audit lists
	if err := r.audit(ctx); err != nil {
		return nil, err
	}
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
	tbegin, tend := keyspace.Bounds(m.keys.Target)
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
	err := m.keys.Merge(ctx, sources, targets, func(source, target *mvccpb.KeyValue) {
		var kept bool
		if source != nil {
			pos++
			if kept = m.keys.Kept(source.Key); kept {
				r.kept++
			} else {
				filtered++
			}
			if len(r.gone) > 0 {
				delete(r.gone, m.keys.ToTarget(string(source.Key)))
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
			if key := string(target.Key); m.keys.Kept([]byte(m.keys.ToSource(key))) {
				r.surplus = append(r.surplus, surplusKey{key, target.CreateRevision})
			}
		case kept:
			r.held++
			if r.looksAt(source, target) {
				r.entries = append(r.entries, entry{key: string(source.Key), create: source.CreateRevision, pos: pos, tpos: tpos})
			} else {
				m.track.update(func(s *Status) { s.Copy.Listed++ })
			}
		case departs && !m.keys.Reserved(source.Key):
			r.departed = append(r.departed, entry{key: string(source.Key), create: source.CreateRevision, pos: pos, tpos: tpos})
		}
	})
	m.track.update(func(s *Status) { s.Filtered += filtered })
	return err
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
	levels, err := r.ownerLevels(ctx)
	if err != nil {
		return 0, err
	}
	order, glued, ends := copyOrder(r.m.ranks, r.entries, levels)
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
	for _, group := range r.m.targetRanks.DeleteOrder(targetKeys) {
		for _, key := range group {
			changes := append(r.m.unmark(key), change{key: key, del: true, made: r.createOf(key)})
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

// createOf is the create_revision that a surplus key had in the listing.
func (r *copyRound) createOf(targetKey string) int64 {
	i, found := slices.BinarySearchFunc(r.surplus, targetKey, func(s surplusKey, key string) int { return strings.Compare(s.key, key) })
	if !found {
		return 0
	}
	return r.surplus[i].create
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
