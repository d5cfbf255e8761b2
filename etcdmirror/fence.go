package etcdmirror

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// arrived returns the target revision of the checkpoint if it is next's, else 0.
func (t *target) arrived(ctx context.Context, next Checkpoint) (int64, error) {
	md, err := t.read(ctx)
	if err != nil || md == nil || md.Checkpoint.Writer != next.Writer || md.Checkpoint.Seq != next.Seq {
		return 0, err
	}
	return md.CheckpointRevision, nil
}

func (t *target) read(ctx context.Context) (*Metadata, error) {
	resp, err := etcdrpc.Do(ctx, t.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return t.client.Get(ctx, t.keys.checkpoint())
	})
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	byName := map[string]*Metadata{}
	if err := addMetadata(byName, "target", resp.Kvs[0]); err != nil {
		return nil, err
	}
	return byName[string(t.keys)], nil
}

// fenced explains a refused comparison: a promotion, removed metadata, or the end of this instance's leadership.
func (t *target) fenced(ctx context.Context) error {
	for attempt := (etcdrpc.Backoff{}); attempt.Wait(ctx) == nil; {
		md, err := t.read(ctx)
		switch {
		case err != nil && !isFatal(err):
			continue
		case err != nil:
			return err
		case md == nil && t.mod.Load() == 0:
			return errSuperseded
		case md == nil:
			return &FencedError{Name: string(t.keys), Epoch: t.record.Epoch}
		case md.Checkpoint.Phase == PhasePromoted:
			return &FencedError{Name: string(t.keys), Epoch: t.record.Epoch, Current: md.Checkpoint.Epoch, Promoted: true}
		case md.Checkpoint.Writer != t.id, md.CheckpointRevision == t.mod.Load(), attempt.Long():
			return errSuperseded
		}
		// The record is this instance's own, written again by a promotion that is about to say so (see Promote).
	}
	return ctx.Err()
}
