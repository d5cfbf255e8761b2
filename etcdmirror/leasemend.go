package etcdmirror

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// What changes the leases of keys that are at the target already is done between the tail's transactions: see leaseEngine.serial.
const (
	// mendAtOnce bounds how many leases are put right while the tail waits.
	mendAtOnce = 16
	// replaceMost is how many keys a lease may have to be replaced, while the tail waits. One with more keeps its short time and is kept alive the more often.
	replaceMost = 1024
)

// leaseUnsettled is the value of a lease's metadata key while some of its keys may be without it. The key is not attached to the lease then.
const leaseUnsettled = "unsettled"

// errLeaseUnfinished: a replacement could not be completed. The lease's keys are put right by restoring them.
var errLeaseUnfinished = errors.New("replacement not completed")

// mendAll puts leases right as that becomes necessary, until ctx ends.
func (l *leases) mendAll(ctx context.Context, alive func(context.Context) bool) {
	for attempt := (etcdrpc.Backoff{}); ; {
		select {
		case <-l.work:
		case <-ctx.Done():
			return
		}
		for {
			ids := l.takeMends()
			if len(ids) == 0 {
				break
			}
			err := l.engine.serial(ctx, func(ctx context.Context) error { return l.mendSome(ctx, ids, alive) })
			l.giveBack(ids)
			if err == nil {
				attempt.Reset()
				continue
			}
			if ctx.Err() == nil {
				l.log.Warn("leases could not be put right yet", LogKeyError, err)
			}
			if attempt.Wait(ctx) != nil {
				return
			}
		}
	}
}

// takeMends takes some leases from those that wait.
func (l *leases) takeMends() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.mends), mendAtOnce)
	ids := l.mends[:n:n]
	l.mends = l.mends[n:]
	if len(l.mends) == 0 {
		l.mends = nil
	}
	return ids
}

// giveBack queues the leases that are not put right, behind the others, and drops those of which nothing is left to be known.
func (l *leases) giveBack(ids []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		e := l.byID[id]
		e.queued = false
		l.enqueue(e)
		if e.state == leaseAbsent && e.mend == 0 {
			delete(l.byID, id)
		}
	}
}

// mendSome puts leases right. The first failure ends it: what fails for one most often fails for all, and the tail waits.
func (l *leases) mendSome(ctx context.Context, ids []int64, alive func(context.Context) bool) error {
	for _, id := range ids {
		var err error
		switch e, _ := l.get(id); {
		case e.mend&mendRestore != 0:
			err = l.restoreKeys(ctx, id)
		case e.mend&mendReplace != 0 && e.state == leaseGranted:
			err = l.replace(ctx, id, alive)
		default:
			l.update(id, func(e *leaseEntry) { e.mend &^= mendReplace })
		}
		if err != nil {
			return fmt.Errorf("lease %x: %w", id, err)
		}
	}
	return nil
}

// restoreKeys puts the keys of a lease right at the target: those that vanished with it, and those that a replacement left without it.
func (l *leases) restoreKeys(ctx context.Context, id int64) (err error) {
	// What happens from here on asks for it anew.
	l.update(id, func(e *leaseEntry) { e.mend = 0 })
	defer func() {
		if err != nil {
			l.update(id, func(e *leaseEntry) { e.mend |= mendRestore })
		}
	}()
	source, err := l.look(ctx, l.source, id, clientv3.WithAttachedKeys())
	switch {
	case err == nil && source.gone:
		// The tail brings the deletion of its keys.
		l.update(id, func(e *leaseEntry) {
			if e.state == leaseGranted {
				e.state = leaseAbsent
			}
		})
	case err == nil:
		if err := l.readopt(ctx, id); err != nil {
			return err
		}
		if err := l.engine.restore(ctx, id, source.keys); err != nil {
			return err
		}
	case etcdrpc.Classify(err) == etcdrpc.Denied:
		l.log.Warn("the source does not tell which keys have a lease; at the target some may be without it", LogKeyLease, leaseName(id), LogKeyError, err)
		l.engine.report(LeaseInfo{ID: id, Kind: LeaseUnread, Reason: err.Error()})
	default:
		return fmt.Errorf("source: %w", err)
	}
	if e, _ := l.get(id); e.marker {
		return l.settleRecord(ctx, id, e.state == leaseGranted)
	}
	return nil
}

// readopt takes over a lease that the target has, though this term does not know it: perhaps all its keys have it, and restoring them would not ask for it.
func (l *leases) readopt(ctx context.Context, id int64) error {
	if e, _ := l.get(id); e.state != leaseAbsent {
		return nil
	}
	there, err := l.look(ctx, l.target, id)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if !there.gone {
		_, err = l.ensure(ctx, id)
	}
	return err
}

// settleRecord says in the metadata that all keys of a lease have it, or that there is nothing more to say about it.
func (l *leases) settleRecord(ctx context.Context, id int64, granted bool) error {
	op := clientv3.OpDelete(l.record(id))
	if granted {
		op = clientv3.OpPut(l.record(id), "", clientv3.WithLease(clientv3.LeaseID(id)))
	}
	_, err := l.engine.fenced(ctx, op)
	if isLeaseNotFound(err) {
		l.lose(id) // and all begins anew
	}
	if err != nil {
		return err
	}
	l.update(id, func(e *leaseEntry) { e.marker = false })
	return nil
}

// replace gives a lease at the target the source's full time to live. There is no other way than to detach its keys, to revoke it, to grant it again,
// and to attach the keys again: two revisions for each key, and none in which one is gone or which holds two (P11). It is tried once in a term.
//
// Whatever interrupts it, the lease's metadata key tells: the keys are then compared with the source's and put right, by restoreKeys, in this term or the next.
// A key that somebody else changes in between is left alone, and compared too.
func (l *leases) replace(ctx context.Context, id int64, alive func(context.Context) bool) error {
	source, err := l.look(ctx, l.source, id)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	there, err := l.look(ctx, l.target, id, clientv3.WithAttachedKeys())
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if there.gone {
		l.lose(id)
		return nil
	}
	keys := make([]string, 0, len(there.keys))
	for _, key := range there.keys {
		if key != l.record(id) {
			keys = append(keys, key)
		}
	}
	if e, _ := l.get(id); source.gone || !e.wantsReplace(source) || len(keys) > replaceMost {
		// Unless it has too many keys, the next look asks for it again when the time is right.
		l.update(id, func(e *leaseEntry) {
			e.mend &^= mendReplace
			e.tried = len(keys) > replaceMost
		})
		return nil
	}
	if !alive(ctx) {
		return fmt.Errorf("target: %w: it is not certain that this instance may write", errLeaseUnfinished)
	}
	if _, err := l.engine.fenced(ctx, clientv3.OpPut(l.record(id), leaseUnsettled)); err != nil {
		return err
	}
	// From here on the lease counts as absent, and its keys as in need of restoring.
	l.update(id, func(e *leaseEntry) { e.state, e.mend, e.marker, e.tried = leaseAbsent, mendRestore, true, true })
	detached, err := l.detach(ctx, id, keys)
	if err != nil {
		return err
	}
	if err := l.revokeEmpty(ctx, id, alive); err != nil {
		return err
	}
	granted, err := l.grant(ctx, id, source.full)
	if err != nil {
		return fmt.Errorf("target: %w", rpctypes.Error(err))
	}
	l.update(id, func(e *leaseEntry) {
		e.meet(granted)
		e.observe(source)
		e.due = e.next(l.now())
	})
	if err := l.attach(ctx, id, detached); err != nil {
		return err
	}
	if err := l.settleRecord(ctx, id, true); err != nil {
		return err
	}
	l.update(id, func(e *leaseEntry) {
		if e.state == leaseGranted { // not lost meanwhile
			e.mend = 0
		}
	})
	l.log.Info("a lease has its full time at the target now", LogKeyLease, leaseName(id), LogKeyCount, len(keys))
	l.engine.report(LeaseInfo{ID: id, Kind: LeaseReplaced, Reason: fmt.Sprintf("time to live %d s instead of %d s, %d keys", granted.full, there.full, len(keys))})
	return nil
}

// detachedKey is a key that was taken from a lease in a revision.
type detachedKey struct {
	key string
	rev int64
}

// detach takes keys from a lease, those that still have it.
func (l *leases) detach(ctx context.Context, id int64, keys []string) (detached []detachedKey, err error) {
	for _, key := range keys {
		read, err := etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return l.target.Get(ctx, key, clientv3.WithKeysOnly())
		})
		if err != nil {
			return nil, fmt.Errorf("target: %w", err)
		}
		if len(read.Kvs) == 0 {
			continue
		}
		rev, err := l.putLease(ctx, key, 0, clientv3.Compare(clientv3.ModRevision(key), "=", read.Kvs[0].ModRevision), clientv3.Compare(clientv3.LeaseValue(key), "=", id))
		if err != nil {
			return nil, err
		}
		if rev != 0 {
			detached = append(detached, detachedKey{key, rev})
		}
	}
	return detached, nil
}

// attach gives keys that were detached their lease back, those that nobody has changed since.
func (l *leases) attach(ctx context.Context, id int64, detached []detachedKey) error {
	var changed error
	for _, d := range detached {
		rev, err := l.putLease(ctx, d.key, id, clientv3.Compare(clientv3.ModRevision(d.key), "=", d.rev))
		if err != nil {
			return err
		}
		if rev == 0 {
			changed = fmt.Errorf("target: %w: key %q was changed meanwhile", errLeaseUnfinished, d.key)
		}
	}
	return changed
}

// putLease changes the lease of a key, not its value, if that is as compared: with the key's mod_revision among it, a request that is repeated or late changes nothing.
// It returns the revision, 0 if the comparison failed.
func (l *leases) putLease(ctx context.Context, key string, id int64, as ...clientv3.Cmp) (rev int64, err error) {
	put := clientv3.OpPut(key, "", clientv3.WithIgnoreValue(), clientv3.WithLease(clientv3.LeaseID(id)))
	done, err := l.engine.fenced(ctx, clientv3.OpTxn(as, []clientv3.Op{put}, nil))
	if err != nil || !done.Responses[0].GetResponseTxn().Succeeded {
		return 0, err
	}
	return done.Header.Revision, nil
}

// revokeEmpty revokes a lease that no key has.
func (l *leases) revokeEmpty(ctx context.Context, id int64, alive func(context.Context) bool) error {
	there, err := l.look(ctx, l.target, id, clientv3.WithAttachedKeys())
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if len(there.keys) > 0 {
		return fmt.Errorf("target: %w: key %q has got the lease meanwhile", errLeaseUnfinished, there.keys[0])
	}
	// Nothing fences a revocation but the question just before it, and that it does no harm while the lease has no keys. A later term
	// attaches them again only to a lease that it has granted or found itself; one that it then loses is granted again, and its keys are put back.
	if !alive(ctx) {
		return fmt.Errorf("target: %w: it is not certain that this instance may write", errLeaseUnfinished)
	}
	_, err = etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return l.target.Revoke(ctx, clientv3.LeaseID(id))
	})
	if err != nil && !isLeaseNotFound(err) {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}
