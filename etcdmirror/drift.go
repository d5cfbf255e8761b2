package etcdmirror

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// drift watches the target's kept space while the tail runs, tells the mirror's own writes from others by their revisions, and notes what others did:
// keys they made are foreign; mirrored keys that they changed or deleted have drifted. Some time later a drifted key is looked at on both sides, and put back if the policy says so.
//
// It is used by the tail's goroutine only, between transactions: then every revision that the mirror made is known.
type drift struct {
	m       *Mirror
	feed    *watch // nil while it is lost, or a scan makes up for what the target has compacted
	pos     int64  // everything up to here is noted
	lost    etcdrpc.Backoff
	reopen  time.Time // when to open the feed again; zero: not waiting
	flushAt time.Time // when to write what is noted; zero: nothing is
	timer   *time.Timer

	checks  checkQueue
	waiting map[string]*check  // by target key
	fights  map[string]*repair // keys that were repaired lately

	scanning *scan
	scanDue  bool // the last scan did not end
}

const (
	// flushDelay is how long marks wait for a transaction of the tail to go with.
	flushDelay = 200 * time.Millisecond
	// maxPending is how many marks go with a transaction of data.
	maxPending = 64
	// checksAtOnce bounds how long checks keep the tail waiting.
	checksAtOnce = 16
	// maxOwnKnown bounds what the ledger holds while the feed is lost. Beyond it a scan costs less.
	maxOwnKnown = 1 << 16
	// repairMemory is how long repairs of one key count as one fight.
	repairMemory = time.Hour
)

// errUnlisted ends the tail when more has drifted than is listed, and everything has to be compared.
var errUnlisted = errors.New("more keys were changed at the target than are listed")

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

func (m *Mirror) newDrift() *drift {
	return &drift{m: m, timer: time.NewTimer(time.Hour), waiting: map[string]*check{}, fights: map[string]*repair{}}
}

// begin follows the target from where the last term or copy had noted everything. scan asks for a comparison of all keys besides.
func (d *drift) begin(ctx context.Context, scan bool) {
	d.pos = d.m.writer.own.position()
	// What waits for a change outside, or for its repair, gets another chance.
	for key := range d.m.guarded {
		d.look(key, 0)
	}
	for key, kind := range d.m.drifted {
		if kind == DriftFought && d.m.cfg.Drift == DriftRepair {
			d.m.markDrift(key, DriftChanged, 0)
		}
		d.look(key, d.m.cfg.RepairDelay)
	}
	if scan || d.pos == 0 {
		d.startScan(ctx)
	} else {
		d.feed = d.m.openDriftWatch(ctx, d.pos+1)
	}
	d.rearm()
}

func (d *drift) close() {
	d.timer.Stop()
	if d.feed != nil {
		d.feed.close()
		d.feed = nil
	}
	if d.scanning != nil {
		d.scanning.stop()
		d.scanning = nil
	}
}

// openDriftWatch follows the target's kept keys.
func (m *Mirror) openDriftWatch(ctx context.Context, from int64) *watch {
	begin, end := bounds(m.keys.target)
	return m.open(ctx, watchSpec{client: m.target, side: "target", begin: begin, end: end, from: from, clusterID: m.targetID, stall: m.cfg.StallTimeout,
		keep: m.keptAtTarget, bare: true, head: m.targetHead, seen: func(int64) {},
		behind: func(head int64) error {
			return fmt.Errorf("its revision is %d, revision %d was seen before", head, from-1)
		}})
}

// keptAtTarget reports whether a key of the target is the image of a source key that takes part.
func (m *Mirror) keptAtTarget(key []byte) bool {
	return !isMetadata(string(key)) && m.kept([]byte(m.keys.toSource(string(key))))
}

// items is where the feed delivers; nil while there is none.
func (d *drift) items() <-chan revision {
	if d.feed == nil || d.scanning != nil {
		return nil
	}
	return d.feed.items
}

// got notes what one revision of the target holds, and what waits behind it.
func (d *drift) got(ctx context.Context, r revision, open bool) error {
	for more := true; more; {
		next, _, err := d.feed.got(r, open)
		if err != nil {
			return d.feedLost(ctx, err)
		}
		d.lost.Reset()
		for _, event := range next.events {
			d.fold(event)
		}
		d.pos = max(d.pos, next.rev)
		select {
		case r, open = <-d.feed.items:
		default:
			more = false
		}
	}
	d.m.writer.own.move(d.pos)
	if len(d.m.pending) > 0 && d.flushAt.IsZero() {
		d.flushAt = time.Now().Add(flushDelay)
	}
	d.rearm()
	if d.m.writer.unlisted && d.m.cfg.Drift == DriftRepair {
		return errUnlisted
	}
	return nil
}

// fold notes one event of the target.
func (d *drift) fold(event *mvccpb.Event) {
	m, key, rev := d.m, string(event.Kv.Key), event.Kv.ModRevision
	switch {
	case m.writer.own.has(rev):
		m.forget(key)
		m.settled(key)
		return
	case event.Type == mvccpb.Event_PUT && event.Kv.CreateRevision == rev:
		if _, ours := m.drifted[key]; ours {
			m.markDrift(key, DriftReplaced, rev)
			d.look(key, m.cfg.RepairDelay)
		}
		m.markForeign(key)
		return
	case event.Type == mvccpb.Event_PUT:
		if m.foreign[key] {
			return
		}
		if m.drifted[key] != DriftFought {
			m.markDrift(key, DriftChanged, rev)
		}
	default:
		_, ours := m.drifted[key]
		if m.foreign[key] {
			m.forget(key)
			if !ours {
				return
			}
		}
		m.markDrift(key, DriftDeleted, rev)
	}
	d.look(key, m.cfg.RepairDelay)
}

// look has a key looked at after a delay, later if it was repaired before.
func (d *drift) look(key string, delay time.Duration) {
	if d.waiting[key] != nil {
		return
	}
	if f := d.fights[key]; f != nil {
		delay <<= min(f.times, 16)
	}
	c := &check{key: key, due: time.Now().Add(delay)}
	d.waiting[key] = c
	heap.Push(&d.checks, c)
}

// feedLost decides how to go on without the feed.
func (d *drift) feedLost(ctx context.Context, err error) error {
	d.feed.close()
	d.feed = nil
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if isCompacted(err) {
		d.startScan(ctx)
		return nil
	}
	d.m.log.Warn("watch of the target lost", LogKeyError, err, LogKeyTargetRevision, d.pos)
	d.reopen = time.Now().Add(d.lost.Next())
	d.rearm()
	return nil
}

// rearm sets the timer to what is due next.
func (d *drift) rearm() {
	next := time.Hour
	for _, at := range []time.Time{d.flushAt, d.reopen} {
		if !at.IsZero() {
			next = min(next, time.Until(at))
		}
	}
	if len(d.checks) > 0 {
		next = min(next, time.Until(d.checks[0].due))
	}
	d.timer.Reset(max(next, 0))
}

// tick does what is due. seen is the source revision that the target equals.
func (d *drift) tick(ctx context.Context, seen int64) error {
	now := time.Now()
	defer d.rearm()
	if !d.reopen.IsZero() && !now.Before(d.reopen) {
		d.reopen = time.Time{}
		if d.scanDue || d.m.writer.own.len() > maxOwnKnown {
			d.startScan(ctx)
		} else {
			d.feed = d.m.openDriftWatch(ctx, d.pos+1)
		}
	}
	for n := 0; n < checksAtOnce && len(d.checks) > 0 && !now.Before(d.checks[0].due); n++ {
		c := heap.Pop(&d.checks).(*check)
		delete(d.waiting, c.key)
		again, err := d.check(ctx, c.key, seen)
		switch {
		case ctx.Err() != nil || isFatal(err):
			return err
		case err != nil: // a side does not answer
			d.look(c.key, max(d.m.cfg.RepairDelay, time.Second))
			return nil
		case again:
			d.look(c.key, d.m.cfg.RepairDelay)
		}
	}
	if len(d.m.pending) > 0 && (!d.flushAt.IsZero() && !now.Before(d.flushAt) || len(d.m.pending) > maxPending) {
		return d.m.saveTail(ctx, nil, d.m.writer.within(), AppliedInfo{})
	}
	if len(d.m.pending) > 0 && d.flushAt.IsZero() {
		d.flushAt = now.Add(flushDelay)
	}
	return nil
}

// check looks at a key on both sides and, if the policy says so, puts it back. again asks for another look.
func (d *drift) check(ctx context.Context, key string, seen int64) (again bool, err error) {
	m := d.m
	sourceKey := m.keys.toSource(key)
	source, known, err := d.sourceAt(ctx, sourceKey, seen)
	if err != nil || !known { // what changed since, the tail brings
		return false, err
	}
	resp, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) { return m.target.Get(ctx, key) })
	if err != nil {
		return false, fmt.Errorf("target: %w", err)
	}
	var target *mvccpb.KeyValue
	if len(resp.Kvs) > 0 {
		target = resp.Kvs[0]
	}
	switch {
	case source == nil:
		m.settled(key)
		if target == nil {
			m.forget(key)
		} else {
			m.markForeign(key)
		}
		return false, nil
	case target != nil && m.equal(ctx, sourceKey, key, source.Value, target.Value) && m.leaseMatches(source, target):
		m.forget(key)
		m.settled(key)
		return false, nil
	case m.guarded[key] != "":
		return false, d.retryGuarded(ctx, source, target)
	case target == nil:
		m.markDrift(key, DriftDeleted, resp.Header.Revision)
		if source.Lease != 0 && m.leases != nil {
			return false, d.put(ctx, source, target) // its lease ran out while nobody kept it alive
		}
	case m.drifted[key] == "":
		m.markDrift(key, DriftChanged, target.ModRevision)
	}
	if m.cfg.Drift != DriftRepair || m.drifted[key] == DriftFought {
		return false, nil
	}
	return false, d.repair(ctx, source, target)
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
	if _, err := d.m.admit(ctx, string(source.Key), d.m.keys.toTarget(string(source.Key)), source.Value); err != nil {
		return nil
	}
	return d.put(ctx, source, target)
}

// repair puts the source's value back, unless that was done too often.
func (d *drift) repair(ctx context.Context, source, target *mvccpb.KeyValue) error {
	m, key := d.m, d.m.keys.toTarget(string(source.Key))
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
	call(m.cfg.Hooks.Drift, DriftInfo{Key: key, Kind: DriftRepaired, TargetRevision: m.writer.mod.Load()})
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
	m, key := d.m, d.m.keys.toTarget(string(source.Key))
	another := target != nil && (m.foreign[key] || otherObject(source.Value, target.Value))
	changes, written, err := m.changesOf(ctx, source)
	if err != nil || !written {
		return err
	}
	if another {
		if err := m.saveTail(ctx, []change{{key: key, del: true}}, m.writer.within(), AppliedInfo{}); err != nil {
			return err
		}
	}
	return m.saveTail(ctx, changes, m.writer.within(), AppliedInfo{})
}

// otherObject reports whether two values are of objects with different UIDs.
func otherObject(a, b []byte) bool {
	var x, y kubemeta.Identity
	return kubemeta.Read(a, &x) && kubemeta.Read(b, &y) && string(x.UID) != string(y.UID)
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
