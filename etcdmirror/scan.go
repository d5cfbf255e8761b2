package etcdmirror

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// scan compares the keys of both sides, beside the running tail, where the target's log no longer tells what others did there.
// It reads both at a pair of revisions at which they should be equal; what it finds is looked at again one by one.
type scan struct {
	target int64 // the target revision that it reads at
	cancel context.CancelFunc
	done   chan struct{}

	// Set when done.
	created, changed, deleted []string // target keys
	err                       error
}

// startScan begins a scan. The feed goes on from where it reads.
func (d *drift) startScan(ctx context.Context) {
	d.m.log.Info("comparing keys with the target: its log does not reach back to what was last noted", LogKeyTargetRevision, d.pos)
	ctx, cancel := context.WithCancel(ctx)
	d.scanning, d.scanDue = &scan{cancel: cancel, done: make(chan struct{})}, true
	// Read here, while no transaction is under way, so that the two revisions belong together.
	seen := d.m.writer.record.SourceRevision
	head, err := d.m.targetHead(ctx)
	if err != nil {
		d.scanning.err = err
		close(d.scanning.done)
		return
	}
	d.scanning.target = head
	d.feed = d.m.openDriftWatch(ctx, head+1)
	go func(s *scan, since int64) {
		defer close(s.done)
		s.err = d.m.findDrift(ctx, s, seen, since)
	}(d.scanning, d.m.writer.own.position())
}

func (s *scan) stop() {
	s.cancel()
	<-s.done
}

// scanned is closed when a scan has ended; nil while none runs.
func (d *drift) scanned() <-chan struct{} {
	if d.scanning == nil {
		return nil
	}
	return d.scanning.done
}

// endScan notes what a scan found.
func (d *drift) endScan(ctx context.Context) error {
	s := d.scanning
	d.scanning = nil
	s.cancel()
	m := d.m
	if s.err != nil {
		if d.feed != nil {
			d.feed.close()
			d.feed = nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.log.Warn("comparison of keys with the target interrupted", LogKeyError, s.err)
		d.reopen, d.pos = time.Now().Add(d.lost.Next()), m.writer.own.position()
		d.rearm()
		return nil
	}
	d.scanDue = false
	for key := range m.foreign {
		d.look(key, 0) // it may be gone
	}
	for _, key := range s.created {
		m.markForeign(key)
		d.look(key, 0)
	}
	for _, found := range []struct {
		keys []string
		kind DriftKind
	}{{s.changed, DriftChanged}, {s.deleted, DriftDeleted}} {
		for _, key := range found.keys {
			if m.guarded[key] == "" { // a guarded key is not at the target, or old there, by the mirror's own doing
				m.markDrift(key, found.kind, s.target)
			}
			d.look(key, 0)
		}
	}
	m.log.Info("compared keys with the target", "created", len(s.created), "changed", len(s.changed), "deleted", len(s.deleted))
	d.pos = s.target
	m.writer.own.move(s.target)
	m.writer.unscanned = false
	d.rearm()
	if m.writer.record.Unscanned {
		return m.saveTail(ctx, nil, m.writer.within(), AppliedInfo{})
	}
	return nil
}

// findDrift finds what others did at the target after its revision since.
func (m *Mirror) findDrift(ctx context.Context, s *scan, source, since int64) error {
	tbegin, tend := keyspace.Bounds(m.keys.Target)
	sources := m.sources.Keys(m.sourceBegin, m.sourceEnd, kvstream.NewPin(m.sourceBegin, source))
	defer sources.Close()
	targets := m.targets.Keys(tbegin, tend, kvstream.NewPin(tbegin, s.target))
	defer targets.Close()
	return m.keys.Merge(ctx, sources, targets, func(source, target *mvccpb.KeyValue) {
		switch {
		case target == nil:
			if m.keys.Kept(source.Key) {
				s.deleted = append(s.deleted, m.keys.ToTarget(string(source.Key)))
			}
		case !m.keys.KeptAtTarget(target.Key):
		case source == nil:
			// Where the source has compacted its revision away, a key may be missing because it was deleted since: its age tells whose it is.
			if target.CreateRevision > since && !m.writer.own.has(target.CreateRevision) {
				s.created = append(s.created, string(target.Key))
			}
		case target.ModRevision > since && !m.writer.own.has(target.ModRevision):
			s.changed = append(s.changed, string(target.Key))
		}
	})
}
