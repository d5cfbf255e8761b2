package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// LogKeyLease is the attribute of log records that holds a lease's ID, as etcdctl prints it.
const LogKeyLease = "lease"

// leases keeps at the target, under their own IDs, the leases that mirrored keys have at the source, for one term of leadership. It is safe for concurrent use.
//
// A lease is granted with the source's remaining time when the first key with it comes (ensure), and kept alive as long as the source says that its own lives (run).
// Whatever ends that, a promotion, the loss of the source, the end of the mirror, lets it run out by itself.
//
// A lease that was granted late in its life has too short a time once the source's is renewed. etcd cannot change that time, so the lease is replaced, once:
// see replace. A lease that ran out at the target though the source's lived, because the source could not be asked, is granted again and its keys are put back.
//
// For each lease there is a key below /understudy/<name>/lease/, attached to it, which says that the mirror granted it. While some of a lease's keys may be without it,
// as in the middle of a replacement, that key is without it too and says so, and whoever finds it puts the keys right.
type leases struct {
	source, target *clientv3.Client
	grants         pb.LeaseClient // the client's own Grant chooses an ID
	timeout        time.Duration
	keys           metaKeys
	log            *slog.Logger
	engine         leaseEngine
	began          time.Time

	mu       sync.Mutex
	byID     map[int64]*leaseEntry
	queue    leaseQueue
	granting map[int64]chan struct{} // closed when the grant under way has ended
	mends    []int64                 // leases that wait for the engine's goroutine
	wake     chan struct{}           // the queue has changed
	work     chan struct{}           // mends has grown
}

// leaseEngine is what leases need of the engine.
type leaseEngine struct {
	// fenced commits operations in one transaction that compares what every transaction of this term compares, and returns an error if the comparison fails.
	// It need not move the checkpoint. It is called by ensure, on the caller's goroutine, and within serial. What it writes are metadata, but for a replacement's puts,
	// each of which changes nothing but the lease of one key.
	fenced func(ctx context.Context, ops ...clientv3.Op) (*clientv3.TxnResponse, error)
	// serial runs work where the tail commits, while no transaction of this mirror is under way and none sent before can still arrive, and returns its error.
	// It waits until that is possible, or until ctx ends.
	serial func(ctx context.Context, work func(context.Context) error) error
	// restore looks at keys of the source that have the lease there now. Each one that takes part, has the lease and was not changed after the source revision
	// that the target equals must have the source's value at the target, and the lease that ensure returns; restore writes what differs. It is called within serial.
	restore func(ctx context.Context, id int64, sourceKeys []string) error
	// report is told what an operator may want to know. It must not block.
	report func(LeaseInfo)
}

// leaseState says what is known of a lease.
type leaseState uint8

const (
	leaseAbsent  leaseState = iota // the target may not have it; ensure grants it
	leaseGranted                   // the target has it
	leaseGone                      // the source no longer had it a moment ago
	leaseTaken                     // the target has another one under the ID
)

// leaseEntry is what is held of one lease. Times count from leases.began.
type leaseEntry struct {
	id      int64
	due     time.Duration // when to look at it again
	target  time.Duration // the target's lives until then at least, as far as is known
	source  time.Duration // the source's lives no longer than this unless it is renewed
	granted int32         // its time to live at the target in seconds; 0: not known yet
	index   int32         // in the queue; -1: not there
	gen     uint32        // changes with the state
	state   leaseState
	mend    leaseMend
	renewed bool // the source's was seen to be renewed
	marker  bool // its metadata key exists and is not attached to it
	tried   bool // to replace it
	queued  bool // in leases.mends
}

// leaseMend is what is to be done about a lease within leaseEngine.serial.
type leaseMend uint8

const (
	mendReplace leaseMend = 1 << iota
	mendRestore
)

// goneFor is how long a lease that the source does not know is believed to be gone without asking again: many keys of a backlog share one.
const goneFor = time.Second

// newLeases returns leases that know of none.
func newLeases(source, target *clientv3.Client, timeout time.Duration, keys metaKeys, log *slog.Logger, engine leaseEngine) *leases {
	return &leases{source: source, target: target, grants: clientv3.RetryLeaseClient(target), timeout: timeout, keys: keys, log: log, engine: engine, began: time.Now(),
		byID: map[int64]*leaseEntry{}, granting: map[int64]chan struct{}{}, wake: make(chan struct{}, 1), work: make(chan struct{}, 1)}
}

func (l *leases) now() time.Duration { return time.Since(l.began) }

func leaseName(id int64) string { return strconv.FormatInt(id, 16) }

func (l *leases) record(id int64) string { return l.keys.lease() + leaseName(id) }

// update changes what is held of a lease, new or old.
func (l *leases) update(id int64, change func(*leaseEntry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID[id]
	if e == nil {
		e = &leaseEntry{id: id, index: -1}
		l.byID[id] = e
	}
	change(e)
	e.gen++
	l.enqueue(e)
}

// forget drops what is held of a lease, but for what is left to do about it.
func (l *leases) forget(id int64) {
	l.update(id, func(e *leaseEntry) {
		e.state = leaseAbsent
		if e.marker {
			e.mend |= mendRestore
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byID[id]; e.mend == 0 && !e.queued {
		delete(l.byID, id)
	}
}

// get returns a copy of what is held of a lease.
func (l *leases) get(id int64) (leaseEntry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID[id]
	if e == nil {
		return leaseEntry{}, false
	}
	return *e, true
}

// count is the number of leases that the target has.
func (l *leases) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, e := range l.byID {
		if e.state == leaseGranted {
			n++
		}
	}
	return n
}

// ensure makes sure that the target has a lease of the source, and returns the ID to put a key with: id, or 0 where the source's is gone, and the tail is about to
// bring the key's deletion, or where the target has another lease under the ID, which is reported. An error may pass.
func (l *leases) ensure(ctx context.Context, id int64) (int64, error) {
	for {
		l.mu.Lock()
		if e := l.byID[id]; e != nil && e.state != leaseAbsent {
			has := e.state == leaseGranted
			l.mu.Unlock()
			if !has {
				return 0, nil
			}
			return id, nil
		}
		other := l.granting[id]
		if other == nil {
			done := make(chan struct{})
			l.granting[id] = done
			l.mu.Unlock()
			got, err := l.introduce(ctx, id)
			l.mu.Lock()
			delete(l.granting, id)
			l.mu.Unlock()
			close(done)
			return got, err
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// again is ensure for a lease with which the target refused a transaction, for it does not have that lease.
func (l *leases) again(ctx context.Context, id int64) (int64, error) {
	there, err := l.look(ctx, l.target, id)
	if err != nil {
		return 0, fmt.Errorf("target: reading lease %x: %w", id, err)
	}
	if there.gone {
		l.lose(id)
	}
	return l.ensure(ctx, id)
}

// matches reports whether a key's lease at the target is the one that it should have for its lease at the source, as far as is known.
func (l *leases) matches(source, target int64) bool {
	if source == target {
		return true
	}
	if source == 0 || target != 0 {
		return false
	}
	e, _ := l.get(source)
	return e.state == leaseGone || e.state == leaseTaken
}

// lose notes that the target does not have a lease that it had.
func (l *leases) lose(id int64) {
	lost := false
	l.update(id, func(e *leaseEntry) {
		if lost = e.state == leaseGranted; lost {
			e.state, e.mend = leaseAbsent, mendRestore
		}
	})
	if lost {
		l.log.Warn("a lease ran out at the target", LogKeyLease, leaseName(id))
		l.engine.report(LeaseInfo{ID: id, Kind: LeaseLost, Reason: "it ran out at the target"})
	}
}

// introduce grants the target a lease of the source, with the time that it has left.
func (l *leases) introduce(ctx context.Context, id int64) (int64, error) {
	source, err := l.look(ctx, l.source, id)
	if err != nil {
		return 0, fmt.Errorf("source: reading lease %x: %w", id, err)
	}
	if source.gone {
		// Looked at once more (see settle): it may have been granted again, or the member that answered may have been behind.
		l.update(id, func(e *leaseEntry) { e.state, e.due = leaseGone, l.now()+goneFor })
		return 0, nil
	}
	known, _ := l.get(id)
	there, err := l.grant(ctx, id, max(1, min(source.ttl+1, source.full)))
	if isLeaseExist(err) {
		var foreign string
		if there, foreign, err = l.adopt(ctx, id); err == nil && foreign != "" {
			l.update(id, func(e *leaseEntry) { e.state, e.due = leaseTaken, l.now()+slowestLook })
			l.log.Warn("a lease's ID is taken at the target; its keys get none", LogKeyLease, leaseName(id), LogKeyReason, foreign)
			l.engine.report(LeaseInfo{ID: id, Kind: LeaseCollided, Reason: foreign})
			return 0, nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("target: granting lease %x: %w", id, err)
	}
	if !known.marker {
		if _, err := l.engine.fenced(ctx, clientv3.OpPut(l.record(id), "", clientv3.WithLease(clientv3.LeaseID(id)))); err != nil {
			return 0, fmt.Errorf("target: writing down lease %x: %w", id, err)
		}
	}
	l.update(id, func(e *leaseEntry) {
		e.meet(there)
		e.observe(source)
		if e.due = l.now(); there.fresh { // else it may be in need of something at once
			e.due = e.next(e.due)
		}
	})
	return id, nil
}

// adopt looks at a lease that the target has already: it is the mirror's own if the metadata say so, or if nothing is attached to it, as after a grant that nobody
// lived to write down. Otherwise foreign says whose it is.
func (l *leases) adopt(ctx context.Context, id int64) (there leaseSample, foreign string, err error) {
	resp, err := etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) { return l.target.Get(ctx, l.record(id)) })
	if err != nil {
		return there, "", err
	}
	if len(resp.Kvs) > 0 {
		there, err = l.look(ctx, l.target, id)
	} else {
		there, err = l.look(ctx, l.target, id, clientv3.WithAttachedKeys())
		switch {
		case err != nil && etcdrpc.Classify(err) == etcdrpc.Denied:
			return there, "keys that this user may not read have it", nil
		case err == nil && len(there.keys) > 0:
			return there, fmt.Sprintf("%d keys that the mirror did not write have it, such as %q", len(there.keys), there.keys[0]), nil
		}
	}
	if err == nil && there.gone {
		err = rpctypes.ErrLeaseNotFound // it has just ended: the next attempt grants it
	}
	return there, "", err
}

// load takes over the leases that earlier terms granted.
func (l *leases) load(ctx context.Context) error {
	dir := l.keys.lease()
	end := clientv3.GetPrefixRangeEnd(dir)
	for begin := dir; ; {
		resp, err := etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return l.target.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(1000))
		})
		if err != nil {
			return fmt.Errorf("target: reading %s: %w", dir, err)
		}
		for _, kv := range resp.Kvs {
			id, err := strconv.ParseInt(strings.TrimPrefix(string(kv.Key), dir), 16, 64)
			if err != nil {
				continue // nobody's
			}
			l.update(id, func(e *leaseEntry) {
				if kv.Lease == id {
					e.state = leaseGranted // looked at once run begins
				} else {
					e.marker, e.mend = true, mendRestore
				}
			})
		}
		if !resp.More {
			return nil
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// grant asks the target for a lease.
func (l *leases) grant(ctx context.Context, id, ttl int64) (leaseSample, error) {
	s := leaseSample{sent: l.now()}
	resp, err := etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*pb.LeaseGrantResponse, error) {
		return l.grants.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
	})
	if err != nil {
		return s, err
	}
	s.got, s.ttl, s.full, s.fresh = l.now(), resp.TTL, resp.TTL, true
	return s, nil
}

// look asks one side about a lease.
func (l *leases) look(ctx context.Context, c *clientv3.Client, id int64, opts ...clientv3.LeaseOption) (leaseSample, error) {
	s := leaseSample{sent: l.now()}
	resp, err := etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		return c.TimeToLive(ctx, clientv3.LeaseID(id), opts...)
	})
	if err != nil {
		return s, err
	}
	// One that has expired and waits for its revocation has a time of 0 or less too, and may live on under a new leader.
	s.got, s.ttl, s.full, s.gone = l.now(), resp.TTL, resp.GrantedTTL, resp.GrantedTTL == 0
	for _, key := range resp.Keys {
		s.keys = append(s.keys, string(key))
	}
	return s, nil
}

func isLeaseExist(err error) bool { return errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist) }

func isLeaseNotFound(err error) bool {
	return errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound)
}
