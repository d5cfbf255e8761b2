package etcdmirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// What a copy does about others' keys and changes at the target: at its beginning, when it has listed both sides, and at its end.

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
	m.dropTrip()
	own, err := m.writer.readOwn(ctx)
	if err != nil {
		return err
	}
	head, err := m.targetHead(ctx)
	if err != nil {
		return err
	}
	begin, end := keyspace.Bounds(m.keys.Target)
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
		if !m.keys.KeptAtTarget(target.Key) {
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
			if r.wants(m.keys.ToSource(key)) {
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
	m.writer.unscanned = r.pin.Moved() || len(m.guarded) > 0 || held != r.kept
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
