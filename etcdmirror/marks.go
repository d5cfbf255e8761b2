package etcdmirror

import (
	"context"

	"bytes"
)

// Two small sets live at the target beside the checkpoint, one key each, and in memory while the mirror runs:
// foreign keys, which the target's own cluster made, and guarded keys, whose value was not written.
// They change in the transaction that makes them true.

// loadMarks takes the sets over from the target's metadata.
func (m *Mirror) loadMarks(md *Metadata) {
	m.foreign, m.guarded = map[string]bool{}, map[string]string{}
	if md != nil {
		for _, key := range md.Foreign {
			m.foreign[key] = true
		}
		for _, g := range md.Guarded {
			m.guarded[g.Key] = g.Reason
		}
	}
	m.noteMarks()
}

func (m *Mirror) noteMarks() {
	m.track.update(func(s *Status) { s.Foreign, s.Guarded = len(m.foreign), len(m.guarded) })
}

// unmark returns what removes the marks of a key, nothing if it has none.
func (m *Mirror) unmark(targetKey string) (changes []change) {
	keys := metaKeys(m.cfg.Name)
	if m.foreign[targetKey] {
		delete(m.foreign, targetKey)
		changes = append(changes, change{key: keys.foreign() + targetKey, del: true})
	}
	if _, ok := m.guarded[targetKey]; ok {
		delete(m.guarded, targetKey)
		changes = append(changes, change{key: keys.guarded() + targetKey, del: true})
	}
	if changes != nil {
		m.noteMarks()
	}
	return changes
}

// changesOf returns what brings a source value to the target; written is false where a guard or the transformation keeps it away, which is marked then.
func (m *Mirror) changesOf(ctx context.Context, sourceKey string, value []byte) (changes []change, written bool) {
	targetKey := m.keys.toTarget(sourceKey)
	value, err := m.admit(ctx, sourceKey, targetKey, value)
	if err == nil {
		return append(m.unmark(targetKey), change{key: targetKey, value: value}), true
	}
	reason := err.Error()
	if reason == "" {
		reason = "refused by a guard"
	}
	if m.guarded[targetKey] == reason {
		return nil, false
	}
	m.guarded[targetKey] = reason
	m.noteMarks()
	m.log.Warn("value not written", LogKeyKey, sourceKey, LogKeyReason, reason)
	call(m.cfg.Hooks.Guarded, GuardedInfo{Key: sourceKey, Reason: reason})
	return []change{{key: metaKeys(m.cfg.Name).guarded() + targetKey, value: []byte(reason)}}, false
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
