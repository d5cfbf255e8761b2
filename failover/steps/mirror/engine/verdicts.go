package engine

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// NewVerdicts is the mirror.Verdicts of checks by drcheck. cfg.Name is required: it is the mirror's. primary may be of a cluster that is dead, or nil: then only Standing can be used.
func NewVerdicts(primary, standby *clientv3.Client, cfg drcheck.Config) (mirror.Verdicts, error) {
	if cfg.Name == "" {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: "drcheck.Config.Name is empty", Hint: "set it to the mirror's name: what checks find is recorded under it"}
	}
	v := &verdicts{standby: standby, name: cfg.Name}
	if primary == nil {
		return v, nil
	}
	var err error
	if v.checker, err = drcheck.New(primary, standby, cfg); err != nil {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: "drcheck.Config", Cause: err, Hint: "use the mirror's settings"}
	}
	return v, nil
}

type verdicts struct {
	checker *drcheck.Checker // nil without a primary
	standby *clientv3.Client
	name    string
}

func (v *verdicts) Check(ctx context.Context) (mirror.Outcome, error) {
	if v.checker == nil {
		return mirror.Outcome{}, failover.Permanent(errors.New("there is no client of the primary to compare with"))
	}
	r, err := v.checker.Check(ctx)
	if err != nil {
		return mirror.Outcome{}, err
	}
	return mirror.Outcome{Equal: r.Equal, Content: r.Mode == drcheck.Content, Began: r.Began, SourceRevision: r.SourceRevision, SourceClusterID: r.SourceClusterID,
		Keys: r.SourceKeys, Missed: r.Count.Missed, Surplus: r.Count.Surplus, Different: r.Count.Different, Accepted: r.Count.Accepted}, nil
}

func (v *verdicts) Standing(ctx context.Context) (mirror.Standing, bool, error) {
	s, err := drcheck.ReadVerdict(ctx, v.standby, v.name)
	if errors.Is(err, drcheck.ErrNoMirror) {
		return mirror.Standing{}, false, nil
	}
	if err != nil {
		return mirror.Standing{}, false, err
	}
	return mirror.Standing{Phase: mirror.Phase(s.Phase), Complete: s.Complete, AppliedRevision: s.AppliedRevision, SourceHead: s.SourceHead, MissingRevisions: s.MissingRevisions,
		HoldsUntil: s.HoldsUntil, Guarded: s.Guarded, Drifted: s.Drifted, Unlisted: s.DriftUnlisted, Tripped: s.Tripped,
		LastEqual: outcome(s.LastEqual), LastEqualKeys: outcome(s.LastEqualKeys), LastDiffers: outcome(s.LastDiffers)}, true, nil
}

// outcome is a recorded one. It has no cluster ID: a record of another mirror or source is none to drcheck.
func outcome(o *drcheck.CheckOutcome) *mirror.Outcome {
	if o == nil {
		return nil
	}
	return &mirror.Outcome{Equal: o.Equal, Content: o.Mode == drcheck.Content, Began: o.Began, SourceRevision: o.SourceRevision, Keys: o.Keys,
		Missed: o.Missed, Surplus: o.Surplus, Different: o.Different, Accepted: o.Accepted}
}
