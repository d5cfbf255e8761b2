package drcheck

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// finish turns what is left of the suspects into differences, with reasons, and completes the result.
func (r *round) finish(ctx context.Context) error {
	res := r.result
	if r.cfg.Name != "" {
		// Read again: what the mirror noted meanwhile explains what was found.
		view, err := patiently(ctx, r.Checker, func() (*mirrorView, error) { return readMirror(ctx, r.target, r.cfg.RequestTimeout, r.cfg.Name) })
		if err != nil {
			return err
		}
		r.view = view
		res.Mirror = &view.MirrorState
	}
	byClass := map[Class][]Difference{}
	for _, s := range r.suspects {
		d := r.difference(s)
		r.countOf(s.key).add(d)
		res.Count.add(d)
		byClass[d.Class] = append(byClass[d.Class], d)
	}
	for _, class := range Classes {
		list := append(byClass[class], r.beyond[class]...)
		slices.SortFunc(list, func(a, b Difference) int { return cmp.Compare(a.Key, b.Key) })
		list = list[:min(len(list), max(r.cfg.Limit, 0))]
		if err := r.lookInto(ctx, list); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.log.Warn("some differences could not be looked into, and stay unexplained", "error", err)
		}
		res.Differences = append(res.Differences, list...)
	}
	res.Unlisted = res.Count.Total() + res.Count.Accepted - len(res.Differences)
	res.Equal = res.Count.Total() == 0
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		res.Resources = append(res.Resources, *r.counts[name])
	}
	res.Bytes = r.bytes.Load()
	res.Ended = time.Now().UTC()
	return nil
}

// difference describes a suspect, with the reason that the mirror's metadata tells.
func (r *round) difference(s suspect) Difference {
	d := Difference{Class: s.class, Reason: s.reason, Key: r.keys.ToTarget(s.key), SourceKey: s.key, SourceRevision: s.source, TargetRevision: s.target}
	if r.view == nil || d.Reason != ReasonUnknown {
		return d
	}
	switch {
	case d.Class != Surplus && r.view.guarded[d.Key] != "":
		d.Reason, d.Detail = ReasonGuarded, r.view.guarded[d.Key]
	case r.view.foreign[d.Key]:
		d.Reason = ReasonMadeAtTarget
		d.Accepted = d.Class == Surplus && r.cfg.AcceptMadeAtTarget
	case r.view.drifted[d.Key] != "":
		d.Reason, d.Detail = ReasonChangedAtTarget, r.view.drifted[d.Key]
	case r.view.Phase == phasePromoted:
		d.Reason = ReasonPromoted
	}
	return d
}

// lookInto reads the values of differences that are to be listed, where these may tell the reason better.
func (r *round) lookInto(ctx context.Context, list []Difference) error {
	var open []*Difference
	for i := range list {
		switch d := &list[i]; d.Reason {
		case ReasonUnknown, ReasonChangedAtTarget, ReasonPromoted:
			if d.Class != Surplus {
				open = append(open, d)
			}
		}
	}
	for batch := range slices.Chunk(open, lookKeys) {
		var ops, targetOps []clientv3.Op
		for _, d := range batch {
			ops = append(ops, clientv3.OpGet(d.SourceKey))
			targetOps = append(targetOps, clientv3.OpGet(d.Key))
		}
		sources, err := r.txn(ctx, r.source, "source", ops)
		if err != nil {
			return err
		}
		targets, err := r.txn(ctx, r.target, "target", targetOps)
		if err != nil {
			return err
		}
		s, t := found(sources), found(targets)
		for i, d := range batch {
			if s[i] == nil || (t[i] == nil) != (d.Class == Missed) {
				continue // it has changed since
			}
			if d.Class == Missed {
				err = r.explainMissed(ctx, d, s[i])
			} else {
				r.explainDifferent(ctx, d, s[i], t[i])
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// explainMissed asks why a key is not at the target.
func (r *round) explainMissed(ctx context.Context, d *Difference, source *mvccpb.KeyValue) error {
	value := source.Value
	if kubemeta.Encrypted(value) && r.cfg.OpenSource != nil {
		if plain, err := r.cfg.OpenSource(ctx, d.SourceKey, value); err == nil {
			value = plain
		}
	}
	for _, owner := range readOwners(value) {
		key, err := r.ownerKey(ctx, d.SourceKey, owner)
		if err != nil {
			return err
		}
		if key == "" {
			continue
		}
		if !strings.HasPrefix(key, r.keys.Source) && r.keys.Source != r.keys.Target {
			continue // not of this mirror, and not known what it is called at the target
		}
		if strings.HasPrefix(key, r.keys.Source) && !r.keys.Kept([]byte(key)) {
			d.Reason, d.Detail = ReasonOwnerExcluded, key
			return nil
		}
		there, err := r.txn(ctx, r.target, "target", []clientv3.Op{clientv3.OpGet(r.keys.ToTarget(key), clientv3.WithKeysOnly())})
		if err != nil {
			return err
		}
		if found(there)[0] == nil {
			d.Reason, d.Detail = ReasonOwnerMissing, r.keys.ToTarget(key)
			if !strings.HasPrefix(key, r.keys.Source) {
				d.Reason = ReasonOwnerExcluded
			}
			return nil
		}
	}
	if d.Reason == ReasonUnknown && source.Lease != 0 {
		d.Reason = ReasonExpired
	}
	return nil
}

// ownerKey finds an owner's key at the source; "" if it is not found under any of the names that it should have.
func (r *round) ownerKey(ctx context.Context, dependentKey string, owner ownerReference) (string, error) {
	candidates := ownerKeys(r.registry(), namespaceOf(dependentKey), owner)
	if len(candidates) == 0 {
		return "", nil
	}
	ops := make([]clientv3.Op, len(candidates))
	for i, key := range candidates {
		ops[i] = clientv3.OpGet(key)
	}
	resp, err := r.txn(ctx, r.source, "source", ops)
	if err != nil {
		return "", err
	}
	for i, kv := range found(resp) {
		var id kubemeta.Identity
		if kv != nil && kubemeta.Read(kv.Value, &id) && string(id.UID) == owner.UID {
			return candidates[i], nil
		}
	}
	return "", nil
}

// namespaceOf is the segment of a key that holds its namespace, if it has one.
func namespaceOf(key string) string {
	segments := strings.Split(key, "/")
	if len(segments) < 3 {
		return ""
	}
	return segments[len(segments)-2]
}

// registry is the source's prefix of Kubernetes objects, of which the check may cover a part.
func (c *Checker) registry() string {
	if c.keys.Source == "" || strings.HasPrefix(c.keys.Source, DefaultPrefix) {
		return DefaultPrefix
	}
	return c.keys.Source
}

// explainDifferent asks what differs between two values, and whether the target's can be read.
func (r *round) explainDifferent(ctx context.Context, d *Difference, source, target *mvccpb.KeyValue) {
	s, t := source.Value, target.Value
	if r.cfg.OpenTarget != nil && kubemeta.Encrypted(t) {
		plain, err := r.cfg.OpenTarget(ctx, d.Key, t)
		if err != nil {
			d.Reason, d.Detail = ReasonUnreadable, err.Error()
			return
		}
		t = plain
	}
	if r.cfg.OpenSource != nil && kubemeta.Encrypted(s) {
		if plain, err := r.cfg.OpenSource(ctx, d.SourceKey, s); err == nil {
			s = plain
		}
	}
	if why := unreadable(t); why != "" && unreadable(s) == "" {
		d.Reason, d.Detail = ReasonUnreadable, why
		return
	}
	switch compareObjects(s, t) {
	case differsStatus:
		d.Reason = ReasonStatus
	case differsManagedFields:
		d.Reason = ReasonManagedFields
	}
}

// defaultResource names resources by the first segment of a key below the prefix, or by the first two where the first is an API group or "services".
func defaultResource(prefix string) func(key string) string {
	return func(key string) string {
		rest := strings.TrimPrefix(key, prefix)
		if prefix == "" {
			rest = strings.TrimPrefix(rest, DefaultPrefix)
		}
		first, after, ok := strings.Cut(rest, "/")
		if ok && (first == "services" || strings.Contains(first, ".")) {
			second, _, _ := strings.Cut(after, "/")
			return rest[:len(first)+1+len(second)]
		}
		return first
	}
}
