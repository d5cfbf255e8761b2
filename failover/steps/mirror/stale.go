package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// NameRemoveStale is the name of RemoveStale's step.
const NameRemoveStale = "remove-stale"

// Remover deletes keys of a standby that its primary lacks. engine.NewRemover makes one of drcheck.
type Remover interface {
	// Remove deletes those of the keys that the standby has and the primary lacks, and nothing else. It says how many that were.
	Remove(ctx context.Context, keys []string) (int, error)
}

// RemoveStaleConfig says which keys are removed.
type RemoveStaleConfig struct {
	Name      string // "" is NameRemoveStale
	Reference string
	// Pair is the one of StartReverse: its Standby is the old primary. Primary is required.
	Pair Pair
	// Former reads the record of the mirror that ran before the roles changed, at the new primary: engine.Records of its etcd. Required.
	Former Records
	// Report is the path of the DifferenceReport of a failback; "" is none: the roles were switched as planned.
	Report string
	// Drain is the name of the Drain step that tells, without a Report, which revision of the old primary was the last; "" is NameDrain.
	Drain   string
	Remover Remover // required
	// Timeout bounds the step; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// RemoveStale removes from the old primary, once it is mirrored into, what it has and the new primary has not: keys that were there when the roles changed, so that the new primary had them and has deleted them since,
// and those that the report lists as created and never sent. The mirror does not: to it, such keys are the standby's own. What the old primary made for itself since is left alone.
//
// It cannot be undone; the report, and its values where they were exported, are what is left.
func RemoveStale(cfg RemoveStaleConfig) (failover.Step, error) {
	c := checks{config: "RemoveStaleConfig"}
	p := cfg.Pair.check(&c, true)
	if cfg.Remover == nil {
		c.bad("Remover is nil", "use engine.NewRemover, or an implementation of your own")
	}
	if cfg.Former == nil {
		c.bad("Former is nil", "use engine.Records of the new primary's etcd")
	}
	c.duration("Timeout", &cfg.Timeout, failover.DefaultTimeout)
	if err := c.err(); err != nil {
		return nil, err
	}
	cfg.Drain = orDefault(cfg.Drain, NameDrain)
	s := &stale{cfg: cfg, pair: p}
	return failover.Funcs{
		Name: orDefault(cfg.Name, NameRemoveStale),
		Description: failover.Description{
			Action:    "Remove from the old primary what the new one has deleted since it took over, and what the old one had created and never sent",
			Reference: cfg.Reference,
			Inputs: struct {
				Pair   pairInputs `json:"pair"`
				Report string     `json:"report,omitempty"`
				Drain  string     `json:"drain"`
			}{p.inputs, cfg.Report, cfg.Drain},
		},
		Observe: s.observe, Do: s.do, Timeout: cfg.Timeout, Retry: failover.Retry{Attempts: 3},
		Ungraceful: func() failover.Step { return nil },
		Drill:      func() failover.Step { return nil },
	}.Step(), nil
}

type stale struct {
	cfg RemoveStaleConfig
	*pair
}

func (s *stale) observe(ctx context.Context) (failover.Observation, error) {
	left, why, err := s.left(ctx)
	switch {
	case err != nil:
		return failover.Observation{}, err
	case why != "":
		return blocked("%s", why), nil
	case len(left) > 0:
		return pending("the old primary has %s that the new one has deleted or never had: %s", plural(len(left), "key"), some(left, len(left))), nil
	}
	return done("the old primary has no key of before that the new one lacks"), nil
}

func (s *stale) do(ctx context.Context) error {
	left, why, err := s.left(ctx)
	switch {
	case err != nil:
		return err
	case why != "":
		return failover.Permanent(errors.New(why))
	case len(left) == 0:
		return nil
	}
	n, err := s.cfg.Remover.Remove(ctx, left)
	failover.Note(ctx, fmt.Sprintf("removed %s of %d", plural(n, "key"), len(left)))
	return err
}

// boundary is the last revision of the old primary that the new one has, and the keys that were created after it and never sent. 0: nothing of before is removed.
func (s *stale) boundary(ctx context.Context) (revision int64, created map[string]bool, why string, err error) {
	created = map[string]bool{}
	if s.cfg.Report == "" {
		var drained Drained
		if _, err := failover.LoadFrom(ctx, s.cfg.Drain, KeyDrained, &drained); err != nil {
			return 0, nil, "", err
		}
		return drained.Revision, created, "", nil
	}
	report, list, err := ReadDifferenceList(s.cfg.Report)
	if err != nil {
		return 0, nil, fmt.Sprintf("the difference report cannot be read: %v", err), nil
	}
	standby, _, err := s.standbyHead(ctx)
	switch {
	case err != nil:
		return 0, nil, "", err
	case report.OldPrimary != standby:
		return 0, nil, fmt.Sprintf("the report is about cluster %s, and the old primary is cluster %s", report.OldPrimary, standby), nil
	}
	for _, d := range list {
		if d.Kind == Created {
			created[d.Key] = true
		}
	}
	if report.Exact {
		revision = report.From
	}
	return revision, created, "", nil
}

// left are the keys that are still to be removed. why says what is in the way.
func (s *stale) left(ctx context.Context) (keys []string, why string, err error) {
	revision, created, why, err := s.boundary(ctx)
	if err != nil || why != "" {
		return nil, why, err
	}
	former, err := s.cfg.Former.State(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("reading what the new primary tells of the mirror before: %w", err)
	}
	if former.Guarded > 0 {
		revision = 0 // what was kept away from the new primary it has not deleted
	}
	primaryHead, err := s.primaryHead(ctx, State{})
	if err != nil {
		return nil, "", err
	}
	_, standbyHead, err := s.standbyHead(ctx)
	if err != nil {
		return nil, "", err
	}
	begin, end := keyspace.Bounds(s.keys.Source)
	targetBegin, targetEnd := keyspace.Bounds(s.keys.Target)
	news := s.primary.Keys(begin, end, kvstream.NewPin(begin, primaryHead))
	olds := s.standby.Keys(targetBegin, targetEnd, kvstream.NewPin(targetBegin, standbyHead))
	defer news.Close()
	defer olds.Close()
	err = s.keys.Merge(ctx, news, olds, func(now, old *mvccpb.KeyValue) {
		if now == nil && old != nil && s.keys.KeptAtTarget(old.Key) && (old.CreateRevision <= revision || created[string(old.Key)]) {
			keys = append(keys, string(old.Key))
		}
	})
	return keys, "", err
}
