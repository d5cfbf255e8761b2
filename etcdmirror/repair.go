package etcdmirror

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/hook"
	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// check is a key to be looked at.
type check struct {
	key string // at the target
	due time.Time
}

// repair is what is remembered of a key that was repaired.
type repair struct {
	times int
	last  time.Time
}

// look has a key looked at after a delay, later if it was repaired before.
func (d *drift) look(key string, delay time.Duration) {
	if d.waiting[key] != nil {
		return
	}
	if f := d.fights[key]; f != nil {
		delay <<= min(f.times, 16)
	}
	d.enqueue(key, delay)
}

// lookAgain has a key looked at again that could not be, because a side did not answer or the source has moved on.
func (d *drift) lookAgain(key string) { d.enqueue(key, max(d.m.cfg.RepairDelay, time.Second)) }

func (d *drift) enqueue(key string, delay time.Duration) {
	c := &check{key: key, due: time.Now().Add(delay)}
	d.waiting[key] = c
	heap.Push(&d.checks, c)
}

// checkDue looks at the keys whose time has come, in the order in which the source made them: owners before dependents, as a rule.
func (d *drift) checkDue(ctx context.Context, now time.Time, seen int64) error {
	type due struct {
		key    string
		source *mvccpb.KeyValue
	}
	var all []due
	for len(all) < checksAtOnce && len(d.checks) > 0 && !now.Before(d.checks[0].due) {
		c := heap.Pop(&d.checks).(*check)
		delete(d.waiting, c.key)
		source, known, err := d.sourceAt(ctx, d.m.keys.ToSource(c.key), seen)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.lookAgain(c.key)
			for _, c := range all {
				d.enqueue(c.key, 0)
			}
			return nil
		case !known: // the tail brings what changed since
			d.lookAgain(c.key)
		default:
			all = append(all, due{c.key, source})
		}
	}
	slices.SortStableFunc(all, func(a, b due) int { return cmp.Compare(a.source.GetCreateRevision(), b.source.GetCreateRevision()) })
	for _, c := range all {
		err := d.check(ctx, c.key, c.source)
		switch {
		case ctx.Err() != nil || isFatal(err):
			return err
		case err != nil: // a side does not answer
			d.lookAgain(c.key)
		}
	}
	return nil
}

// check compares the target's key with the source's, nil if that has none, and, if the policy says so, puts it back.
func (d *drift) check(ctx context.Context, key string, source *mvccpb.KeyValue) error {
	m, sourceKey := d.m, d.m.keys.ToSource(key)
	resp, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) { return m.target.Get(ctx, key) })
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	var target *mvccpb.KeyValue
	if len(resp.Kvs) > 0 {
		target = resp.Kvs[0]
	}
	switch {
	case source == nil:
		m.settled(key)
		switch {
		case target == nil:
			m.forget(key)
		case target.ModRevision == d.repaired[key]: // the source deleted it while the repair was about to put it
			if err := m.saveTail(ctx, []change{{key: key, del: true, made: target.CreateRevision}}, m.writer.within(), AppliedInfo{}); err != nil {
				return err
			}
		default:
			m.markForeign(key)
		}
		delete(d.repaired, key)
		return nil
	case target != nil && m.equal(ctx, sourceKey, key, source.Value, target.Value):
		m.forget(key)
		m.settled(key)
		if !m.leaseMatches(source, target) {
			return d.put(ctx, source, target)
		}
		return nil
	case m.guarded[key] != "":
		return d.retryGuarded(ctx, source, target)
	case target == nil:
		m.markDrift(key, DriftDeleted, resp.Header.Revision)
		if source.Lease != 0 && m.leases != nil {
			return d.put(ctx, source, target) // its lease ran out while nobody kept it alive
		}
	case m.drifted[key] == "" && m.foreign[key]:
		m.markDrift(key, DriftReplaced, target.ModRevision)
	case m.drifted[key] == "":
		m.markDrift(key, DriftChanged, target.ModRevision)
	}
	if m.cfg.Drift != DriftRepair || m.drifted[key] == DriftFought {
		return nil
	}
	return d.repair(ctx, source, target)
}

// sourceAt reads a source key as it was at the revision that the target equals; known is false if that is gone.
func (d *drift) sourceAt(ctx context.Context, key string, seen int64) (kv *mvccpb.KeyValue, known bool, err error) {
	m := d.m
	resp, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return m.source.Get(ctx, key, clientv3.WithRev(seen))
	})
	if isCompacted(err) {
		resp, err = etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) { return m.source.Get(ctx, key) })
		if err == nil && (len(resp.Kvs) == 0 && resp.Header.Revision > seen || len(resp.Kvs) > 0 && resp.Kvs[0].ModRevision > seen) {
			return nil, false, nil
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("source: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return nil, true, nil
	}
	return resp.Kvs[0], true, nil
}

// retryGuarded writes a value that a guard kept away before, if it no longer does.
func (d *drift) retryGuarded(ctx context.Context, source, target *mvccpb.KeyValue) error {
	if _, err := d.m.admit(ctx, string(source.Key), d.m.keys.ToTarget(string(source.Key)), source.Value); err != nil {
		return nil
	}
	return d.put(ctx, source, target)
}

// repair puts the source's value back, unless that was done too often.
func (d *drift) repair(ctx context.Context, source, target *mvccpb.KeyValue) error {
	m, key := d.m, d.m.keys.ToTarget(string(source.Key))
	now := time.Now()
	f := d.fights[key]
	if f == nil || now.Sub(f.last) > repairMemory {
		d.forgetRepairs(now)
		f = &repair{}
		d.fights[key] = f
	}
	if f.times >= m.cfg.RepairLimit {
		rev := int64(0)
		if target != nil {
			rev = target.ModRevision
		}
		m.markDrift(key, DriftFought, rev)
		m.track.update(func(s *Status) { s.Fights++ })
		m.log.Warn("a key is changed at the target again and again; it is left alone", LogKeyKey, key, LogKeyCount, f.times)
		return nil
	}
	f.times, f.last = f.times+1, now
	if err := d.put(ctx, source, target); err != nil {
		return err
	}
	m.track.update(func(s *Status) { s.Repairs++ })
	hook.Call(m.cfg.Hooks.Drift, DriftInfo{Key: key, Kind: DriftRepaired, TargetRevision: m.writer.mod.Load()})
	return nil
}

// forgetRepairs keeps the memory of repairs small.
func (d *drift) forgetRepairs(now time.Time) {
	if len(d.fights) < maxDrift {
		return
	}
	for key, f := range d.fights {
		if now.Sub(f.last) > repairMemory {
			delete(d.fights, key)
		}
	}
	if len(d.fights) >= maxDrift {
		clear(d.fights)
	}
}

// put writes a source value; what others made in its place is deleted before, in a revision of its own.
func (d *drift) put(ctx context.Context, source, target *mvccpb.KeyValue) error {
	m, key := d.m, d.m.keys.ToTarget(string(source.Key))
	another := target != nil && (m.foreign[key] || kubemeta.OtherObject(source.Value, target.Value))
	changes, written, err := m.changesOf(ctx, source)
	switch {
	case err != nil:
		return err
	case !written && len(changes) > 0: // that a guard refuses it is to be known
		return m.saveTail(ctx, changes, m.writer.within(), AppliedInfo{})
	case !written:
		return nil
	}
	if another {
		if err := m.saveTail(ctx, []change{{key: key, del: true}}, m.writer.within(), AppliedInfo{}); err != nil {
			return err
		}
	}
	return m.saveTail(ctx, changes, m.writer.within(), AppliedInfo{})
}

// checkQueue is a heap of checks by due time.
type checkQueue []*check

func (q checkQueue) Len() int           { return len(q) }
func (q checkQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q checkQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *checkQueue) Push(x any)        { *q = append(*q, x.(*check)) }
func (q *checkQueue) Pop() any {
	old := *q
	c := old[len(old)-1]
	*q = old[:len(old)-1]
	return c
}
