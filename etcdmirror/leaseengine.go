package etcdmirror

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/hook"
)

// How leases and the engine meet: see leaseEngine.

// startLeases begins to keep leases for this term; the returned func ends it.
func (m *Mirror) startLeases(ctx context.Context) (stop func(), err error) {
	if m.cfg.Leases != LeaseMirror {
		m.leases = nil
		return func() {}, nil
	}
	m.serial = make(chan serialWork)
	m.leases = newLeases(m.source, m.target, m.cfg.RequestTimeout, metaKeys(m.cfg.Name), m.log, leaseEngine{
		fenced: m.writer.fencedTxn, serial: m.inTail, restore: m.restoreLease, report: func(i LeaseInfo) { hook.Call(m.cfg.Hooks.Lease, i) },
	})
	m.writer.leases = m.leases
	m.track.keeps(m.leases)
	for attempt := (etcdrpc.Backoff{}); ; {
		if err = m.leases.load(ctx); err == nil || ctx.Err() != nil {
			break
		}
		m.track.waiting(explain(err))
		if err := attempt.Wait(ctx); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.leases.run(ctx, m.writer.stillLeads)
	}()
	return func() { cancel(); <-done; m.track.keeps(nil) }, nil
}

// serialWork is something to be done where the tail commits.
type serialWork struct {
	ctx  context.Context
	do   func(context.Context) error
	done chan<- error
}

// inTail runs work on the tail's goroutine, between its transactions.
func (m *Mirror) inTail(ctx context.Context, work func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case m.serial <- serialWork{ctx, work, done}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restoreLease puts keys with a lease right.
func (m *Mirror) restoreLease(ctx context.Context, id int64, sourceKeys []string) error {
	for _, key := range sourceKeys {
		if !m.keys.Kept([]byte(key)) {
			continue
		}
		source, known, err := m.drift.sourceAt(ctx, key, m.track.status().AppliedRevision)
		if err != nil {
			return err
		}
		if !known || source == nil || source.Lease != id {
			continue // the tail brings what has changed
		}
		if err := m.drift.check(ctx, m.keys.ToTarget(key), source); err != nil {
			return err
		}
	}
	return nil
}

// fencedTxn commits operations in one transaction that compares what every transaction compares.
func (t *target) fencedTxn(ctx context.Context, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := etcdrpc.Do(ctx, t.timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return t.client.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(t.keys.checkpoint()), "=", t.mod.Load()),
			clientv3.Compare(clientv3.CreateRevision(t.lead.key), "=", t.lead.create)).Then(ops...).Commit()
	})
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, t.fenced(ctx)
	}
	if wrote(resp.Responses) { // else the revision is another's
		t.own.add(resp.Header.Revision, false)
	}
	return resp, nil
}

// wrote reports whether operations of a transaction have made a revision.
func wrote(responses []*pb.ResponseOp) bool {
	return slices.ContainsFunc(responses, func(r *pb.ResponseOp) bool {
		return r.GetResponsePut() != nil || r.GetResponseDeleteRange().GetDeleted() > 0 || wrote(r.GetResponseTxn().GetResponses())
	})
}

// stillLeads asks the target whether this instance may still write.
func (t *target) stillLeads(ctx context.Context) bool {
	resp, err := etcdrpc.Do(ctx, t.timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return t.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(t.lead.key), "=", t.lead.create)).Then(clientv3.OpGet(t.keys.checkpoint())).Commit()
	})
	if err != nil || !resp.Succeeded {
		return false
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return t.mod.Load() == 0
	}
	byName := map[string]*Metadata{}
	if addMetadata(byName, "target", kvs[0]) != nil {
		return false
	}
	c := byName[string(t.keys)].Checkpoint
	return c.Writer == t.id && c.Phase != PhasePromoted
}

// renewLeases makes sure of the leases of changes after the target has refused one of them: it had expired meanwhile.
func (t *target) renewLeases(ctx context.Context, changes []change) error {
	for i, c := range changes {
		if c.lease == 0 {
			continue
		}
		id, err := t.leases.again(ctx, c.lease)
		if err != nil {
			return fmt.Errorf("lease of %q: %w", c.key, err)
		}
		changes[i].lease = id
	}
	return nil
}
