package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// NameRemoveUnsent is the name of RemoveUnsent's step.
const NameRemoveUnsent = "remove-unsent"

// Remover deletes keys of a standby that its primary lacks. engine.NewRemover makes one of drcheck.
type Remover interface {
	// Remove deletes those of the keys that the standby has and the primary lacks, and nothing else. It says how many that were.
	Remove(ctx context.Context, keys []string) (int, error)
}

// RemoveUnsentConfig says which keys are removed. Pair.Primary is required.
type RemoveUnsentConfig struct {
	Name      string // "" is NameRemoveUnsent
	Reference string
	// Pair is the one of StartReverse: its Standby is the old primary.
	Pair Pair
	// Report is the path of the DifferenceReport. Required.
	Report  string
	Remover Remover // required
	// Timeout bounds the step; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// RemoveUnsent removes from the old primary, once it is mirrored into, the keys that it had made and never sent: those that the report lists as created, and that the new primary lacks.
// The mirror does not: to it they are keys of the standby's own. What changed or deleted keys there the mirror puts right itself.
//
// It cannot be undone; the report, and its values where they were exported, are what is left.
func RemoveUnsent(cfg RemoveUnsentConfig) (failover.Step, error) {
	c := checks{config: "RemoveUnsentConfig"}
	p := cfg.Pair.check(&c, true)
	if cfg.Report == "" {
		c.bad("Report is empty", "give the path of the difference report")
	}
	if cfg.Remover == nil {
		c.bad("Remover is nil", "use engine.NewRemover, or an implementation of your own")
	}
	c.duration("Timeout", &cfg.Timeout, failover.DefaultTimeout)
	if err := c.err(); err != nil {
		return nil, err
	}
	r := &unsent{cfg: cfg, pair: p}
	return failover.Funcs{
		Name: orDefault(cfg.Name, NameRemoveUnsent),
		Description: failover.Description{
			Action:    fmt.Sprintf("Remove from the old primary what it had created and never sent, as %s lists it", cfg.Report),
			Reference: cfg.Reference,
			Inputs: struct {
				Pair   pairInputs `json:"pair"`
				Report string     `json:"report"`
			}{p.inputs, cfg.Report},
		},
		Observe: r.observe, Do: r.do, Timeout: cfg.Timeout, Retry: failover.Retry{Attempts: 3},
		Ungraceful: func() failover.Step { return nil },
		Drill:      func() failover.Step { return nil },
	}.Step(), nil
}

type unsent struct {
	cfg RemoveUnsentConfig
	*pair
}

func (r *unsent) observe(ctx context.Context) (failover.Observation, error) {
	left, why, err := r.left(ctx)
	switch {
	case err != nil:
		return failover.Observation{}, err
	case why != "":
		return blocked("%s", why), nil
	case len(left) > 0:
		return pending("the old primary has %s that it had not sent: %s", plural(len(left), "key"), some(left, len(left))), nil
	}
	return done("the old primary has no key that it had created and not sent"), nil
}

func (r *unsent) do(ctx context.Context) error {
	left, why, err := r.left(ctx)
	switch {
	case err != nil:
		return err
	case why != "":
		return failover.Permanent(errors.New(why))
	case len(left) == 0:
		return nil
	}
	n, err := r.cfg.Remover.Remove(ctx, left)
	failover.Note(ctx, fmt.Sprintf("removed %s of %d", plural(n, "key"), len(left)))
	return err
}

// left are the keys that are still to be removed. why says what is in the way.
func (r *unsent) left(ctx context.Context) (keys []string, why string, err error) {
	report, list, err := ReadDifferenceList(r.cfg.Report)
	if err != nil {
		return nil, fmt.Sprintf("the difference report cannot be read: %v", err), nil
	}
	standby, _, err := r.standbyHead(ctx)
	switch {
	case err != nil:
		return nil, "", err
	case report.OldPrimary != standby:
		return nil, fmt.Sprintf("the report is about cluster %s, and the old primary is cluster %s", report.OldPrimary, standby), nil
	}
	var created []string
	for _, d := range list {
		if d.Kind == Created {
			created = append(created, d.Key)
		}
	}
	there, err := present(ctx, r.Standby, r.RequestTimeout, created)
	if err != nil {
		return nil, "", fmt.Errorf("old primary: %w", err)
	}
	again, err := present(ctx, r.Primary, r.RequestTimeout, there)
	if err != nil {
		return nil, "", fmt.Errorf("new primary: %w", err)
	}
	return slices.DeleteFunc(there, func(key string) bool { return slices.Contains(again, key) }), "", nil
}

// presentBatch is how many keys one transaction asks for: etcd's default limit is 128.
const presentBatch = 100

// present are those of some keys that an etcd has.
func present(ctx context.Context, client *clientv3.Client, timeout time.Duration, keys []string) (there []string, err error) {
	for batch := range slices.Chunk(keys, presentBatch) {
		ops := make([]clientv3.Op, len(batch))
		for i, key := range batch {
			ops[i] = clientv3.OpGet(key, clientv3.WithCountOnly())
		}
		resp, err := etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) { return client.Txn(ctx).Then(ops...).Commit() })
		if err != nil {
			return nil, err
		}
		for i, r := range resp.Responses {
			if r.GetResponseRange().Count > 0 {
				there = append(there, batch[i])
			}
		}
	}
	return there, nil
}
