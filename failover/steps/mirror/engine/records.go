package engine

import (
	"context"
	"errors"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// Records is the mirror.Records of a mirror by etcdmirror with this name at a standby.
func Records(standby *clientv3.Client, name string) mirror.Records { return records{standby, name} }

type records struct {
	standby *clientv3.Client
	name    string
}

func (r records) State(ctx context.Context) (mirror.State, error) {
	md, err := etcdmirror.ReadMetadata(ctx, r.standby, r.name)
	if errors.Is(err, etcdmirror.ErrNoMirror) {
		return mirror.State{}, nil
	}
	if err != nil {
		return mirror.State{}, err
	}
	c := md.Checkpoint
	return mirror.State{Phase: mirror.Phase(c.Phase), Epoch: c.Epoch, AppliedRevision: c.SourceRevision, Complete: c.Complete || c.Phase == etcdmirror.PhaseTail,
		SourceHead: c.SourceHead, SourceHeadAt: c.SourceHeadAt, Revision: md.CheckpointRevision, SourceClusterID: md.Identity.SourceClusterID,
		Guarded: len(md.Guarded), Drifted: len(md.Drift), Foreign: md.Foreign, Tripped: md.Trip != nil, Replicas: md.Replicas}, nil
}

func (r records) Promote(ctx context.Context, incomplete bool) error {
	_, err := etcdmirror.Promote(ctx, r.standby, r.name, etcdmirror.PromoteOptions{AllowIncomplete: incomplete})
	if errors.Is(err, etcdmirror.ErrPromoted) {
		return nil
	}
	return err
}

func (r records) Demote(ctx context.Context) error {
	return etcdmirror.Demote(ctx, r.standby, r.name)
}

// Keys are the settings of a mirror that say which keys take part.
func Keys(cfg etcdmirror.Config) mirror.Keys {
	return mirror.Keys{Prefix: cfg.Prefix, AllKeys: cfg.AllKeys, TargetPrefix: cfg.TargetPrefix, StripPrefix: cfg.StripPrefix, Keep: cfg.Keep, KeepID: cfg.KeepID, Skip: slices.Clone(cfg.Skip)}
}

// Pair is the mirror.Pair of a mirror by etcdmirror with this configuration, wherever it runs. The steps check it.
func Pair(primary, standby *clientv3.Client, cfg etcdmirror.Config) mirror.Pair {
	return mirror.Pair{Mirror: cfg.Name, Primary: primary, Standby: standby, Keys: Keys(cfg), Records: Records(standby, cfg.Name), RequestTimeout: cfg.RequestTimeout}
}
