package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// lockRecord says who runs a plan.
type lockRecord struct {
	// Place is the journal's file. Who has its lock has the right to this one: a runner that held both and crashed is gone.
	Place string    `json:"place"`
	Since time.Time `json:"since"`
	Identity
}

// copyLock is a key that one runner writes, bound to a lease that it keeps alive.
type copyLock struct {
	cfg  CopyConfig
	key  string
	mine lockRecord

	lease    clientv3.LeaseID // 0: none
	revision int64            // mod_revision of the key as this runner wrote it; 0: not held
	stop     context.CancelFunc
	alive    sync.WaitGroup
}

// held compares that the key is as this runner wrote it.
func (l *copyLock) held() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(l.key), "=", l.revision)
}

// lost forgets that the lock is held.
func (l *copyLock) lost() { l.revision = 0 }

// hold takes the lock unless it is held. ErrBusy if another runner has it.
func (l *copyLock) hold(ctx context.Context) error {
	if l.revision != 0 {
		return nil
	}
	l.endLease()
	grant, err := etcdrpc.Do(ctx, l.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return l.cfg.Etcd.Grant(ctx, int64(l.cfg.LockTTL/time.Second))
	})
	if err != nil {
		return err
	}
	l.keepAlive(grant.ID)
	l.mine.Since = time.Now().UTC().Round(0)
	value, err := json.Marshal(l.mine)
	if err != nil {
		return err
	}
	put := clientv3.OpPut(l.key, string(value), clientv3.WithLease(grant.ID))
	free := clientv3.Compare(clientv3.CreateRevision(l.key), "=", 0)
	for {
		resp, err := etcdrpc.Do(ctx, l.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return l.cfg.Etcd.Txn(ctx).If(free).Then(put).Else(clientv3.OpGet(l.key)).Commit()
		})
		if err != nil {
			return err
		}
		if resp.Succeeded {
			l.revision = resp.Header.Revision
			return nil
		}
		kvs := resp.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 { // it changed between the comparison of a former revision and now
			free = clientv3.Compare(clientv3.CreateRevision(l.key), "=", 0)
			continue
		}
		var other lockRecord
		if err := json.Unmarshal(kvs[0].Value, &other); err != nil || other.Place != l.mine.Place {
			return &Error{Kind: ErrBusy, Detail: fmt.Sprintf("the copy in the etcd is held by %v, since %s", other.Identity, other.Since.Format(time.RFC3339)),
				Hint: fmt.Sprintf("see its status; if that runner is gone, its lock ends by itself within its time to live (%v here)", l.cfg.LockTTL)}
		}
		free = clientv3.Compare(clientv3.ModRevision(l.key), "=", kvs[0].ModRevision)
	}
}

// keepAlive renews a lease until endLease. A renewal that fails needs nobody's attention: each write compares the key.
func (l *copyLock) keepAlive(lease clientv3.LeaseID) {
	ctx, stop := context.WithCancel(context.Background())
	l.lease, l.stop = lease, stop
	l.alive.Go(func() {
		tick := time.NewTicker(l.cfg.LockTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, err := etcdrpc.Do(ctx, l.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
				return l.cfg.Etcd.KeepAliveOnce(ctx, lease)
			})
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return
			}
		}
	})
}

// endLease stops the renewals.
func (l *copyLock) endLease() {
	if l.stop != nil {
		l.stop()
		l.alive.Wait()
		l.stop = nil
	}
}

// release lets the lock go: at once if the etcd can be reached, else when the lease runs out.
func (l *copyLock) release(ctx context.Context, reachable bool) {
	l.endLease()
	if l.lease != 0 && reachable {
		_, _ = etcdrpc.Do(ctx, l.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
			return l.cfg.Etcd.Revoke(ctx, l.lease)
		})
	}
	l.lease, l.revision = 0, 0
}
