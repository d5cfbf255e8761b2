package etcdmirror

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/hook"
)

// Small sets live at the target beside the checkpoint, one key each, and in memory during a term of leadership:
// foreign keys, which the target's own cluster made; guarded keys, whose value was not written; and drifted keys, which others changed or deleted.
// What the mirror's own writes change about them changes in the same transaction; what others did is noted soon after, before the checkpoint says that it is (see Checkpoint.Watched).

// marks are those sets.
type marks struct {
	foreign map[string]bool      // target key
	guarded map[string]string    // target key -> reason
	drifted map[string]DriftKind // target key

	pending map[string]change // not yet written, by key of the metadata
}

// loadMarks takes the sets over from the target's metadata.
func (m *Mirror) loadMarks(md *Metadata) {
	m.marks = marks{foreign: map[string]bool{}, guarded: map[string]string{}, drifted: map[string]DriftKind{}, pending: map[string]change{}}
	m.trip = nil
	if md != nil {
		m.trip = md.Trip
		for _, key := range md.Foreign {
			m.foreign[key] = true
		}
		for _, g := range md.Guarded {
			m.guarded[g.Key] = g.Reason
		}
		for _, d := range md.Drift {
			m.drifted[d.Key] = d.Kind
		}
	}
	m.noteMarks()
}

func (m *Mirror) noteMarks() {
	m.track.update(func(s *Status) {
		s.Foreign, s.Guarded, s.Drifted = len(m.foreign), len(m.guarded), len(m.drifted)
	})
}

// unmark returns what removes the marks of a key, nothing if it has none.
func (m *Mirror) unmark(targetKey string) (changes []change) {
	keys := metaKeys(m.cfg.Name)
	remove := func(key string) {
		delete(m.pending, key)
		changes = append(changes, change{key: key, del: true})
	}
	if m.foreign[targetKey] {
		delete(m.foreign, targetKey)
		remove(keys.foreign() + targetKey)
	}
	if _, ok := m.guarded[targetKey]; ok {
		delete(m.guarded, targetKey)
		remove(keys.guarded() + targetKey)
	}
	if _, ok := m.drifted[targetKey]; ok {
		delete(m.drifted, targetKey)
		remove(keys.drift() + targetKey)
	}
	if changes != nil {
		m.noteMarks()
	}
	return changes
}

// markForeign notes that a key is the target's own.
func (m *Mirror) markForeign(targetKey string) {
	if m.foreign[targetKey] {
		return
	}
	m.foreign[targetKey] = true
	m.later(change{key: metaKeys(m.cfg.Name).foreign() + targetKey})
	hook.Call(m.cfg.Hooks.Foreign, ForeignInfo{Key: targetKey})
}

// forget notes that a foreign key is gone, or never was.
func (m *Mirror) forget(targetKey string) {
	if m.foreign[targetKey] {
		delete(m.foreign, targetKey)
		m.later(change{key: metaKeys(m.cfg.Name).foreign() + targetKey, del: true})
	}
}

// maxDrift bounds the drifted keys that are listed.
const maxDrift = 10000

// markDrift notes what others did to a mirrored key.
func (m *Mirror) markDrift(targetKey string, kind DriftKind, rev int64) {
	before, known := m.drifted[targetKey]
	switch {
	case before == kind:
		return
	case !known && len(m.drifted) >= maxDrift:
		m.writer.unlisted = true
		return
	}
	m.drifted[targetKey] = kind
	m.later(change{key: metaKeys(m.cfg.Name).drift() + targetKey, value: []byte(kind)})
	if !known || kind == DriftFought {
		hook.Call(m.cfg.Hooks.Drift, DriftInfo{Key: targetKey, Kind: kind, TargetRevision: rev})
	}
}

// settled notes that a drifted key is as it should be.
func (m *Mirror) settled(targetKey string) {
	if _, ok := m.drifted[targetKey]; ok {
		delete(m.drifted, targetKey)
		m.later(change{key: metaKeys(m.cfg.Name).drift() + targetKey, del: true})
	}
}

// later notes a change of the metadata to be written.
func (m *Mirror) later(c change) {
	m.pending[c.key] = c
	m.noteMarks()
}

// takePending returns the changes of the metadata that wait, and clears them.
func (m *Mirror) takePending() []change {
	changes := slices.Collect(maps.Values(m.pending))
	clear(m.pending)
	return changes
}

// changesOf returns what brings a source value to the target; written is false where a guard or the transformation keeps it away, which is marked then.
func (m *Mirror) changesOf(ctx context.Context, source *mvccpb.KeyValue) (changes []change, written bool, err error) {
	sourceKey := string(source.Key)
	targetKey := m.keys.ToTarget(sourceKey)
	value, refused := m.admit(ctx, sourceKey, targetKey, source.Value)
	if refused == nil {
		c := change{key: targetKey, value: value}
		if m.leases != nil && source.Lease != 0 {
			if c.lease, err = m.leases.ensure(ctx, source.Lease); err != nil {
				return nil, false, err
			}
		}
		return append(m.unmark(targetKey), c), true, nil
	}
	reason := refused.Error()
	if reason == "" {
		reason = "refused by a guard"
	}
	if m.guarded[targetKey] == reason {
		return nil, false, nil
	}
	m.guarded[targetKey] = reason
	m.noteMarks()
	m.log.Warn("value not written", LogKeyKey, sourceKey, LogKeyReason, reason)
	hook.Call(m.cfg.Hooks.Guarded, GuardedInfo{Key: sourceKey, Reason: reason})
	return []change{{key: metaKeys(m.cfg.Name).guarded() + targetKey, value: []byte(reason)}}, false, nil
}

// leaseMatches reports whether the target's key has the lease that it should have.
func (m *Mirror) leaseMatches(source, target *mvccpb.KeyValue) bool {
	if m.leases == nil {
		return target.Lease == 0 // it would run out, as nobody keeps it alive
	}
	return m.leases.matches(source.Lease, target.Lease)
}

// admit asks the guards and transforms.
func (m *Mirror) admit(ctx context.Context, sourceKey, targetKey string, value []byte) ([]byte, error) {
	for _, guard := range m.cfg.Guards {
		if err := guard(sourceKey, value); err != nil {
			return nil, err
		}
	}
	if m.cfg.Transform == nil {
		return value, nil
	}
	return m.cfg.Transform.Transform(ctx, sourceKey, targetKey, value)
}

// equal reports whether the target has what the source's value would become. Where that cannot be told, it has not.
func (m *Mirror) equal(ctx context.Context, sourceKey, targetKey string, source, target []byte) bool {
	if m.cfg.Transform == nil {
		return bytes.Equal(source, target)
	}
	equal, err := m.cfg.Transform.Equal(ctx, sourceKey, targetKey, source, target)
	return err == nil && equal
}
