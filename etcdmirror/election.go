package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/hook"
)

// Several instances of one mirror may run; the target's etcd elects the one that writes. Each holds a lease, its session, and a key
// below /understudy/<name>/election/ bound to it; the oldest key leads. Keys are laid out as those of concurrency.Election, so that its Observe and
// `etcdctl elect --listen` tell the leader. Its Campaign is not used: it waits without bound in a watch and cleans up by calls without a deadline.

// errSuperseded ends a term: another instance leads, or this one's session has expired.
var errSuperseded = errors.New("leadership lost")

// leadership is one term of this instance as the one that writes.
type leadership struct {
	m       *Mirror
	key     string // at the target; every transaction compares its create_revision
	create  int64
	session *concurrency.Session
}

// campaign waits until this instance leads. A promotion ends the waiting.
func (m *Mirror) campaign(ctx context.Context) (*leadership, error) {
	for attempt := (etcdrpc.Backoff{}); ; {
		l, err := m.enter(ctx)
		if err == nil {
			if err = l.await(ctx); err == nil {
				return l, nil
			}
			l.resign()
		}
		switch {
		case ctx.Err() != nil: // then the session ends too
			return nil, ctx.Err()
		case isFatal(err) && !errors.Is(err, errSuperseded):
			return nil, err
		}
		m.track.waiting("target: becoming a candidate for leadership: " + explain(err))
		if err := attempt.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// enter opens a session and puts this instance's name up.
func (m *Mirror) enter(ctx context.Context) (*leadership, error) {
	ttl := int64((m.cfg.SessionTTL + time.Second - 1) / time.Second)
	// Raw: the client's own Grant repeats until the deadline and then says no more than that it was reached.
	grant, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*pb.LeaseGrantResponse, error) {
		return pb.NewLeaseClient(m.target.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: ttl}, grpc.WaitForReady(true))
	})
	if err != nil {
		return nil, err
	}
	id := clientv3.LeaseID(grant.ID)
	session, err := concurrency.NewSession(m.target, concurrency.WithLease(id), concurrency.WithContext(clientv3.WithRequireLeader(ctx)))
	if err != nil {
		m.revoke(id)
		return nil, err
	}
	l := &leadership{m: m, key: fmt.Sprintf("%s%x", metaKeys(m.cfg.Name).election(), grant.ID), session: session}
	// Put again after an unknown outcome, the key keeps its place in the order.
	_, err = etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return m.target.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(l.key), "=", 0)).
			Then(clientv3.OpPut(l.key, m.cfg.Replica, clientv3.WithLease(id))).Commit()
	})
	if err != nil {
		l.resign()
		return nil, err
	}
	return l, nil
}

// await returns when this instance's key is the oldest. Meanwhile the status tells how far the leader is.
func (l *leadership) await(ctx context.Context) error {
	const fastest, slowest = 50 * time.Millisecond, time.Second
	m := l.m
	tick := time.NewTicker(min(max(m.cfg.SessionTTL/20, fastest), slowest))
	defer tick.Stop()
	began := time.Now()
	for {
		resp, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return m.target.Txn(ctx).Then(
				clientv3.OpGet(metaKeys(m.cfg.Name).election(), clientv3.WithFirstCreate()...),
				clientv3.OpGet(l.key, clientv3.WithKeysOnly()),
				clientv3.OpGet(metaKeys(m.cfg.Name).checkpoint())).Commit()
		})
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			m.track.waiting("target: waiting for leadership: " + explain(err))
		default:
			first, own := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
			if len(own) == 0 {
				return errSuperseded // the session expired, or somebody removed the key
			}
			if string(first[0].Key) == l.key {
				l.create = first[0].CreateRevision
				m.track.update(func(s *Status) { s.Leader = m.cfg.Replica })
				m.log.Info("leading", LogKeyReplica, m.cfg.Replica, LogKeyDuration, time.Since(began))
				hook.Call(m.cfg.Hooks.Leading, LeadingInfo{Replica: m.cfg.Replica, Waited: time.Since(began)})
				return nil
			}
			if err := l.follow(string(first[0].Value), resp.Responses[2].GetResponseRange().Kvs); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-l.session.Done():
			return errSuperseded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow notes what the leader has written.
func (l *leadership) follow(leader string, record []*mvccpb.KeyValue) error {
	m := l.m
	m.track.setState(StateReplica, fmt.Sprintf("replica %q leads", leader))
	m.track.update(func(s *Status) { s.Leader, s.TargetContact = leader, time.Now() })
	if len(record) == 0 {
		return nil
	}
	byName := map[string]*Metadata{}
	if err := addMetadata(byName, "target", record[0]); err != nil {
		return err
	}
	c := byName[m.cfg.Name].Checkpoint
	switch c.Phase {
	case PhasePromoted:
		return &FencedError{Name: m.cfg.Name, Epoch: c.Epoch - 1, Current: c.Epoch, Promoted: true}
	case PhaseTail:
		m.track.saved(c.SourceRevision)
	}
	m.track.update(func(s *Status) { s.Epoch = c.Epoch })
	return nil
}

// resign ends the term: another instance need not wait for the session to expire.
func (l *leadership) resign() {
	l.session.Orphan()
	l.m.revoke(l.session.Lease())
	l.m.track.update(func(s *Status) { s.Leader = "" })
}

// revoke gives a lease back, as far as the target answers soon. Otherwise it expires.
func (m *Mirror) revoke(id clientv3.LeaseID) {
	const patience = 2 * time.Second
	_, _ = etcdrpc.Do(context.Background(), min(m.cfg.RequestTimeout, patience), func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return m.target.Revoke(ctx, id)
	})
}
