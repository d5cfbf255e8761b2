package drcheck

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

const (
	// looksAtOnce is how many keys one transaction reads, each with its value, beside the checkpoint.
	lookKeys = 16
	// looksAtOnce is how many such transactions are under way.
	looksAtOnce = 4
	// proof is how many looks must show a key wrong.
	proof = 2
	// firstPause and lastPause bound the time between looks; it doubles.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// settle looks at the suspects again until each is found equal or is confirmed.
//
// A look reads keys of the target and the mirror's checkpoint in one transaction: what the checkpoint says of a tail is exact (the target's kept keys equal
// the source's at that revision), so the same keys are read from the source as they were then. There, a difference is a difference, whatever the traffic;
// and a key that is equal there is right once the checkpoint has reached the revision at which the check began. Where no checkpoint helps,
// because no mirror is known or a copy is under way, a key counts as different when it has stayed the same and unequal on both sides for all of Settle.
func (r *round) settle(ctx context.Context) error {
	deadline := time.Now().Add(r.cfg.Settle)
	open := make([]*suspect, len(r.suspects))
	for i := range r.suspects {
		open[i] = &r.suspects[i]
	}
	r.result.Rechecked = len(open)
	for pause := firstPause; len(open) > 0; pause = min(2*pause, lastPause) {
		last := !time.Now().Before(deadline)
		if err := r.lookAtAll(ctx, open, last); err != nil {
			if ctx.Err() != nil || last {
				return err
			}
			r.log.Warn("a look at keys that differ failed, and is repeated", "error", err)
		}
		open = slices.DeleteFunc(open, func(s *suspect) bool { return s.done })
		if last {
			break // what the last look left open differs, as it says
		}
		if len(open) > 0 {
			if err := sleep(ctx, min(pause, max(time.Until(deadline), 0))); err != nil {
				return err
			}
		}
	}
	r.suspects = slices.DeleteFunc(r.suspects, func(s suspect) bool { return s.class == "" })
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lookAtAll looks at each of the suspects once.
func (r *round) lookAtAll(ctx context.Context, open []*suspect, last bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(looksAtOnce)
	for batch := range slices.Chunk(open, lookKeys) {
		g.Go(func() error { return r.look(ctx, batch, last) })
	}
	return g.Wait()
}

// look looks at some suspects together.
func (r *round) look(ctx context.Context, batch []*suspect, last bool) error {
	targets, state, err := r.readTarget(ctx, batch)
	if half := len(batch) / 2; half > 0 && tooMuch(err) {
		if err := r.look(ctx, batch[:half], last); err != nil {
			return err
		}
		return r.look(ctx, batch[half:], last)
	}
	if err != nil {
		return err
	}
	exact := state != nil && state.Phase == phaseTail
	rev := int64(0)
	if exact {
		rev = state.AppliedRevision
	}
	sources, err := r.readSource(ctx, batch, rev)
	if exact && err != nil && etcdrpc.Classify(err) == etcdrpc.Compacted {
		// The mirror is further behind than the source's log reaches: nothing is exact until it has caught up.
		exact = false
		sources, err = r.readSource(ctx, batch, 0)
	}
	if err != nil {
		return err
	}
	for i, s := range batch {
		r.judge(ctx, s, sources[i], targets[i], state, exact)
		if last {
			s.done = true
		}
	}
	return nil
}

// judge draws the conclusion from one look.
func (r *round) judge(ctx context.Context, s *suspect, source, target *mvccpb.KeyValue, state *MirrorState, exact bool) {
	class := r.classify(ctx, s.key, source, target)
	same := class == s.class && source.GetModRevision() == s.source && target.GetModRevision() == s.target
	s.source, s.target = source.GetModRevision(), target.GetModRevision()
	s.reason = ReasonUnknown
	switch {
	case exact && class != "":
		s.class = class
		s.wrong++
		s.done = s.wrong >= proof
	case exact && state.AppliedRevision >= r.result.SourceRevision:
		s.class, s.done = "", true
	case exact: // right as far as the mirror has come, which is not yet far enough
		s.reason = ReasonInFlight
	case class == "":
		s.class, s.done = "", true
	default:
		s.class = class
		switch phase := phaseOf(state); {
		case phase == phaseBase || phase == phaseResync:
			s.reason = ReasonCopying
		case phase == phasePromoted && same:
			if s.wrong++; s.wrong >= proof {
				s.done = true
			}
		case phase == phasePromoted:
			s.wrong = 0
		case !same || phase == phasePartial || phase == phaseTail:
			s.reason = ReasonInFlight
		}
	}
}

func phaseOf(state *MirrorState) string {
	if state == nil {
		return ""
	}
	return state.Phase
}

// readTarget reads the suspects' keys at the target and, with a name, the checkpoint, in one transaction.
func (r *round) readTarget(ctx context.Context, batch []*suspect) ([]*mvccpb.KeyValue, *MirrorState, error) {
	ops := r.gets(batch, 0, r.keys.ToTarget)
	if r.cfg.Name != "" {
		ops = append(ops, clientv3.OpGet(metadataDir(r.cfg.Name)+"checkpoint"))
	}
	resp, err := r.once(ctx, r.target, "target", ops)
	if err != nil {
		return nil, nil, err
	}
	kvs := found(resp)
	if r.cfg.Name == "" {
		return kvs, nil, nil
	}
	record := kvs[len(batch)]
	if record == nil {
		return kvs[:len(batch)], nil, nil // removed: no mirror is known any more
	}
	state, err := decodeCheckpoint(record)
	if err != nil {
		return nil, nil, err
	}
	return kvs[:len(batch)], &state, nil
}

// readSource reads the suspects' keys at the source, as they were at a revision; 0: as they are.
func (r *round) readSource(ctx context.Context, batch []*suspect, rev int64) ([]*mvccpb.KeyValue, error) {
	resp, err := r.txn(ctx, r.source, "source", r.gets(batch, rev, func(key string) string { return key }))
	if err != nil {
		return nil, err
	}
	return found(resp), nil
}

func (r *round) gets(batch []*suspect, rev int64, name func(sourceKey string) string) []clientv3.Op {
	ops := make([]clientv3.Op, 0, len(batch)+1)
	for _, s := range batch {
		opts := []clientv3.OpOption{clientv3.WithRev(rev)}
		if r.cfg.Mode == KeysOnly {
			opts = append(opts, clientv3.WithKeysOnly())
		}
		ops = append(ops, clientv3.OpGet(name(s.key), opts...))
	}
	return ops
}

// txn makes a transaction of reads, or several where the server's limit is low.
func (c *Checker) txn(ctx context.Context, client *clientv3.Client, side string, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := c.once(ctx, client, side, ops)
	half := len(ops) / 2
	if half == 0 || !tooMuch(err) {
		return resp, err
	}
	if resp, err = c.txn(ctx, client, side, ops[:half]); err != nil {
		return nil, err
	}
	rest, err := c.txn(ctx, client, side, ops[half:])
	if err != nil {
		return nil, err
	}
	resp.Responses = append(resp.Responses, rest.Responses...)
	return resp, nil
}

// once makes one transaction of reads.
func (c *Checker) once(ctx context.Context, client *clientv3.Client, side string, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := etcdrpc.Do(ctx, c.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).Then(ops...).Commit()
	})
	if err != nil && etcdrpc.Classify(err) != etcdrpc.Compacted {
		return nil, unavailable(side, "reading keys that differ", err)
	}
	return resp, err
}

// found returns what each read of a transaction found, nil for nothing.
func found(resp *clientv3.TxnResponse) []*mvccpb.KeyValue {
	kvs := make([]*mvccpb.KeyValue, len(resp.Responses))
	for i, op := range resp.Responses {
		if got := op.GetResponseRange().Kvs; len(got) > 0 {
			kvs[i] = got[0]
		}
	}
	return kvs
}

// tooMuch reports whether fewer keys could be read: the server allows fewer operations, or large values take longer than a request may.
func tooMuch(err error) bool {
	return err != nil && (etcdrpc.Classify(err) == etcdrpc.TooManyOps || errors.Is(err, etcdrpc.ErrTimeout))
}
