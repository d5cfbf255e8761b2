package engine

import (
	"context"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// NewRemover is the mirror.Remover of repairs by drcheck: each key is found surplus by a check before it is deleted, and is left alone if it changes meanwhile. cfg.Name is required: it is the mirror's.
func NewRemover(primary, standby *clientv3.Client, cfg drcheck.Config) (mirror.Remover, error) {
	if cfg.Name == "" {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: "drcheck.Config.Name is empty", Hint: "set it to the mirror's name: repairs are fenced by its record"}
	}
	r := &remover{primary: primary, standby: standby, cfg: cfg}
	_, err := r.checker(0)
	return r, err
}

type remover struct {
	primary, standby *clientv3.Client
	cfg              drcheck.Config
}

// checker is one that lists at least so many keys.
func (r *remover) checker(keys int) (*drcheck.Checker, error) {
	cfg := r.cfg
	cfg.Mode, cfg.AcceptMadeAtTarget = drcheck.KeysOnly, false
	cfg.Limit = max(keys*2, 1<<16) // others may be surplus as well
	c, err := drcheck.New(r.primary, r.standby, cfg)
	if err != nil {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: "drcheck.Config", Cause: err, Hint: "use the mirror's settings"}
	}
	return c, nil
}

func (r *remover) Remove(ctx context.Context, keys []string) (int, error) {
	c, err := r.checker(len(keys))
	if err != nil {
		return 0, err
	}
	result, err := c.Check(ctx)
	if err != nil {
		return 0, err
	}
	var found []string
	asked := make(map[string]bool, len(keys))
	for _, key := range keys {
		asked[key] = true
	}
	result.Differences = slices.DeleteFunc(result.Differences, func(d drcheck.Difference) bool { return d.Class != drcheck.Surplus || !asked[d.Key] }) // what the primary has, the mirror puts
	for _, d := range result.Differences {
		found = append(found, d.Key)
	}
	if len(found) == 0 {
		return 0, nil
	}
	plan, err := c.PlanRepair(ctx, result, drcheck.RepairOptions{DeleteSurplus: found, MaxDeletes: len(found)})
	if err != nil {
		return 0, err
	}
	report, err := c.Repair(ctx, plan)
	if report == nil {
		return 0, err
	}
	return report.Deleted, err
}
