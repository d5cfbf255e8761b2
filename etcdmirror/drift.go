package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
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
	asked   int64     // everything that repairs did up to here is known
	flushAt time.Time // when to write what is noted; zero: nothing is
	timer   *time.Timer

	checks  checkQueue
	waiting map[string]*check  // by target key
	fights  map[string]*repair // keys that were repaired lately
	// repaired are keys that drcheck's repairs put, with the revision, until they have been looked at: what was put may be what the source has deleted meanwhile.
	repaired map[string]int64

	scanning *scan
	scanDue  bool // the last scan did not end
}

const (
	// flushDelay is how long marks wait for a transaction of the tail to go with.
	flushDelay = 200 * time.Millisecond
	// maxPending is how many marks go with a transaction of data.
	maxPending = 64
	// checksAtOnce bounds how long checks keep the tail waiting.
	checksAtOnce = 64
	// maxOwnKnown bounds what the ledger holds while the feed is lost. Beyond it a scan costs less.
	maxOwnKnown = 1 << 16
	// repairMemory is how long repairs of one key count as one fight.
	repairMemory = time.Hour
)

// errUnlisted ends the tail when more has drifted than is listed, and everything has to be compared.
var errUnlisted = errors.New("more keys were changed at the target than are listed")

func (m *Mirror) newDrift() *drift {
	return &drift{m: m, timer: time.NewTimer(time.Hour), waiting: map[string]*check{}, fights: map[string]*repair{}, repaired: map[string]int64{}}
}

// begin follows the target from where the last term or copy had noted everything.
func (d *drift) begin(ctx context.Context) {
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
	if d.m.writer.unscanned || d.pos == 0 {
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
	begin, end := keyspace.Bounds(m.keys.Target)
	return m.open(ctx, watchSpec{client: m.target, side: "target", begin: begin, end: end, from: from, clusterID: m.targetID, stall: m.cfg.StallTimeout,
		keep: m.keys.KeptAtTarget, bare: true, head: m.targetHead, seen: func(int64) {}, room: m.cfg.BufferBytes,
		trust: func(ctx context.Context) bool { return m.trustProgress(ctx, m.target, "target") },
		behind: func(head int64) error {
			return fmt.Errorf("its revision is %d, revision %d was seen before", head, from-1)
		}})
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
		if len(next.events) > 0 && next.rev > d.asked && !d.m.writer.own.has(next.rev) {
			// Not the mirror's, but perhaps a repair's: that stands beside.
			if d.asked, err = d.m.writer.learnOwn(ctx); err != nil {
				return err
			}
		}
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
	delete(d.repaired, key)
	switch {
	case m.writer.own.has(rev):
		m.forget(key)
		m.settled(key)
		if event.Type == mvccpb.Event_PUT && m.writer.own.repaired(rev) {
			d.repaired[key] = rev
			d.look(key, 0)
		}
		return
	case event.Type == mvccpb.Event_PUT && event.Kv.CreateRevision == rev:
		if _, ours := m.drifted[key]; ours {
			m.markDrift(key, DriftReplaced, rev)
		}
		m.markForeign(key)
		d.look(key, m.cfg.RepairDelay) // it may be what the source has: put back by hand, or by a repair
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
	if err := d.checkDue(ctx, now, seen); err != nil {
		return err
	}
	if len(d.m.pending) > 0 && (!d.flushAt.IsZero() && !now.Before(d.flushAt) || len(d.m.pending) > maxPending) {
		return d.m.saveTail(ctx, nil, d.m.writer.within(), AppliedInfo{})
	}
	if len(d.m.pending) > 0 && d.flushAt.IsZero() {
		d.flushAt = now.Add(flushDelay)
	}
	return nil
}
