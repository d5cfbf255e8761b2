package etcdmirror

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// follow applies what the watch brings, revision by revision, until ctx ends or the watch cannot be continued. It opens the watch again after a loss.
// It returns an error that isCompacted when the source no longer has what comes next.
func (m *Mirror) follow(ctx context.Context, w *sourceWatch) error {
	defer func() { w.close() }()
	m.track.setState(StateTail, "")
	m.log.Info("following the source", LogKeyRevision, m.writer.record.SourceRevision)
	seen := m.writer.record.SourceRevision // everything up to it is applied
	attempt := etcdrpc.Backoff{}
	for {
		err := m.drainWatch(ctx, w, &seen, &attempt)
		switch {
		case ctx.Err() != nil, isFatal(err), isCompacted(err), errors.Is(err, errUnlisted):
			return err
		}
		if errors.Is(err, errStalled) && w.live { // a source that cannot be reached needs no more time than others
			m.stalls++
		}
		m.track.waiting("source: " + explain(err))
		m.log.Warn("watch lost", LogKeyError, err, LogKeyRevision, seen)
		if err := attempt.Wait(ctx); err != nil {
			return err
		}
		w.close()
		w = m.openWatch(ctx, seen+1)
		m.track.update(func(s *Status) { s.Reconnects++ })
	}
}

// drainWatch applies what one watch brings until it ends, and sees to the target in between.
func (m *Mirror) drainWatch(ctx context.Context, w *sourceWatch, seen *int64, attempt *etcdrpc.Backoff) error {
	saved := time.NewTimer(m.cfg.CheckpointInterval)
	defer saved.Stop()
	for {
		var first revision
		if w.unread != nil {
			first, w.unread = *w.unread, nil
		} else {
			var err error
			select {
			case r, open := <-w.items:
				first, _, err = w.got(r, open)
			case r, open := <-m.drift.items():
				if err := m.drift.got(ctx, r, open); err != nil {
					return err
				}
				continue
			case <-m.drift.timer.C:
				if err := m.drift.tick(ctx, *seen); err != nil {
					return err
				}
				continue
			case <-m.drift.scanned():
				if err := m.drift.endScan(ctx); err != nil {
					return err
				}
				continue
			case work := <-m.serial:
				err := work.do(work.ctx)
				work.done <- err
				if isFatal(err) {
					return err
				}
				continue
			case <-saved.C:
				if err := m.saveProgress(ctx, *seen); err != nil {
					return err
				}
				saved.Reset(m.cfg.CheckpointInterval)
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
			if err != nil {
				return err
			}
		}
		attempt.Reset()
		m.stalls = 0
		m.track.working()
		if len(first.events) > 0 {
			group, err := m.gather(ctx, w, first)
			if err != nil {
				return err
			}
			if err := m.applyGroup(ctx, group); err != nil {
				return err
			}
			*seen = group.last
			saved.Reset(m.cfg.CheckpointInterval)
		} else {
			*seen = max(*seen, first.rev)
			if w.backlog() == 0 {
				m.track.setState(StateTail, "")
			}
			if w.backlog() == 0 && m.track.waited() {
				if err := m.saveProgress(ctx, *seen); err != nil {
					return err
				}
			}
		}
		m.track.applied(*seen)
	}
}

// watchedBehind is how far the noted position of the target may be ahead of the saved one before it is worth a transaction of its own.
const watchedBehind = 1000

// saveProgress writes a checkpoint without data: of what is applied, of the target's position, or, with a source that is idle, of its having been asked lately.
func (m *Mirror) saveProgress(ctx context.Context, seen int64) error {
	record := m.writer.record
	if seen > record.SourceRevision {
		return m.saveTail(ctx, nil, Checkpoint{Phase: PhaseTail, SourceRevision: seen}, AppliedInfo{SourceRevision: seen})
	}
	// Contacts and saves beat at intervals of their own: asked for a whole interval, every other save would just miss it.
	contacted := m.track.status().SourceContact.Sub(record.SourceHeadAt) >= m.cfg.CheckpointInterval/2
	if !contacted && m.writer.own.position() < record.Watched+watchedBehind {
		return nil
	}
	next := m.writer.within() // a revision of which a part is applied stays one
	return m.saveTail(ctx, nil, next, AppliedInfo{SourceRevision: next.SourceRevision, Bulk: next.Bulk})
}

// saveTail commits changes and a checkpoint, together with what is noted of the target.
func (m *Mirror) saveTail(ctx context.Context, changes []change, next Checkpoint, note AppliedInfo) error {
	if len(m.pending) > maxPending {
		if err := m.writer.deliver(ctx, m.takePending(), AppliedInfo{}); err != nil {
			return err
		}
	}
	changes = append(changes, m.takePending()...)
	m.drift.flushAt = time.Time{}
	if err := m.writer.apply(ctx, changes, next, note); err != nil {
		return err
	}
	m.track.update(func(s *Status) { s.Keys, s.Unlisted = m.writer.held, m.writer.unlisted })
	return nil
}

// group is one or several source revisions to be applied as one target revision.
type group struct {
	last    int64 // the source revision it ends with
	events  []*mvccpb.Event
	byKey   map[string]int // key -> place in events; nil while there is one revision
	bytes   int
	bulk    bool // may be merged regardless of resources
	crowded bool // several of its revisions touch one resource
	seen    map[string]bool

	created, deleted int64  // keys
	victim           string // a deleted source key
}

// count keeps the number of keys of a revision's events.
func (g *group) count(events []*mvccpb.Event) {
	for _, event := range events {
		switch {
		case event.Type == mvccpb.Event_DELETE:
			g.deleted++
			g.victim = string(event.Kv.Key)
		case event.Kv.CreateRevision == event.Kv.ModRevision:
			g.created++
		}
	}
}

// gather takes further revisions that wait into one group with first.
//
// While few wait, only revisions that touch different resources go together: a client whose watch was cut off within a revision resumes behind it,
// and would miss what else that revision had for its resource (P11). When many wait, or some have been waiting all the time, so that the target would
// not keep up otherwise, everything goes together up to the limits of a bulk transaction.
func (m *Mirror) gather(ctx context.Context, w *sourceWatch, first revision) (*group, error) {
	behind := w.backlog() >= m.cfg.MergeBehind
	g := &group{last: first.rev, events: first.events, bulk: behind || m.pace.bulk(time.Now())}
	defer func() { m.pace.note(time.Now(), w.backlog() > 0, g.crowded, m.cfg.MergeAfter) }()
	for _, event := range first.events {
		g.bytes += len(event.Kv.Key) + len(event.Kv.Value)
	}
	g.count(first.events)
	if behind {
		m.track.setState(StateCatchingUp, "")
	} else {
		m.track.setState(StateTail, "")
	}
	for w.backlog() > 0 && len(g.events) < m.cfg.BatchOps && g.bytes < m.cfg.BatchBytes {
		next, ok, err := w.next(ctx, nil)
		if err != nil || !ok {
			if isCompacted(err) || err != nil && ctx.Err() == nil {
				return g, nil // what came before is applied first; the next call meets the error again
			}
			return g, err
		}
		if !m.merge(g, next) {
			w.giveBack(next)
			break
		}
	}
	return g, nil
}

// merge adds a revision to a group if the two may become one target revision.
func (m *Mirror) merge(g *group, next revision) bool {
	if len(next.events) == 0 {
		g.last = max(g.last, next.rev)
		return true
	}
	bytes := g.bytes
	for _, event := range next.events {
		bytes += len(event.Kv.Key) + len(event.Kv.Value)
	}
	if len(g.events)+len(next.events) > m.cfg.BatchOps || bytes > m.cfg.BatchBytes {
		return false
	}
	if g.byKey == nil {
		g.byKey = make(map[string]int, len(g.events))
		g.seen = map[string]bool{}
		for i, event := range g.events {
			g.byKey[string(event.Kv.Key)] = i
			g.seen[m.ranks.Segment(string(event.Kv.Key))] = true
		}
		g.events = append([]*mvccpb.Event(nil), g.events...)
	}
	crowded := g.crowded
	for _, event := range next.events {
		if g.seen[m.ranks.Segment(string(event.Kv.Key))] {
			if !g.bulk {
				return false
			}
			crowded = true
		}
		// A delete and the put of another object after it never become one (P10).
		if i, ok := g.byKey[string(event.Kv.Key)]; ok && g.events[i].Type == mvccpb.Event_DELETE && event.Type == mvccpb.Event_PUT {
			return false
		}
	}
	for _, event := range next.events {
		key := string(event.Kv.Key)
		g.seen[m.ranks.Segment(key)] = true
		if i, ok := g.byKey[key]; ok {
			g.events[i] = event // the last one wins
			continue
		}
		g.byKey[key] = len(g.events)
		g.events = append(g.events, event)
	}
	g.count(next.events)
	g.last, g.bytes, g.crowded = next.rev, bytes, crowded
	return true
}

// applyGroup writes a group and the checkpoint that says so.
func (m *Mirror) applyGroup(ctx context.Context, g *group) error {
	held := m.writer.held + g.created - g.deleted
	if g.deleted > 0 {
		if err := m.guardDeletes(ctx, g.last, held, m.keys.ToTarget(g.victim)); err != nil {
			return err
		}
	} else {
		m.dropTrip()
	}
	var changes, cleared []change
	for _, event := range g.events {
		targetKey := m.keys.ToTarget(string(event.Kv.Key))
		if event.Type == mvccpb.Event_DELETE {
			if m.foreign[targetKey] {
				// What the source deletes is gone already; the target's own cluster has made another object under the key.
				m.settled(targetKey)
				continue
			}
			changes = append(changes, m.unmark(targetKey)...)
			changes = append(changes, change{key: targetKey, del: true})
			continue
		}
		foreign := m.foreign[targetKey]
		put, written, err := m.changesInTime(ctx, event.Kv)
		if err != nil {
			return err
		}
		if foreign && written {
			// The target's own cluster has an object under the key. The source's takes its place, as another object: delete and put.
			cleared = append(cleared, change{key: targetKey, del: true})
		}
		changes = append(changes, put...)
	}
	if len(cleared) > 0 {
		before := m.writer.within()
		if err := m.saveTail(ctx, cleared, before, AppliedInfo{Bulk: before.Bulk}); err != nil {
			return err
		}
	}
	m.writer.held = max(held, 0)
	next := Checkpoint{Phase: PhaseTail, SourceRevision: g.last, Bulk: g.crowded}
	return m.saveTail(ctx, changes, next, AppliedInfo{SourceRevision: g.last, Bulk: next.Bulk})
}

// changesInTime returns what brings a source value to the target, and waits where a lease is needed that cannot be had yet.
func (m *Mirror) changesInTime(ctx context.Context, source *mvccpb.KeyValue) (changes []change, written bool, err error) {
	for attempt := (etcdrpc.Backoff{}); ; {
		changes, written, err = m.changesOf(ctx, source)
		if err == nil || ctx.Err() != nil || isFatal(err) {
			return changes, written, err
		}
		m.track.waiting(explain(err))
		if err := m.writer.pause(ctx, &attempt); err != nil {
			return nil, false, err
		}
	}
}
