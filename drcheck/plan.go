package drcheck

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// DefaultMaxDeletes is how many keys a repair deletes at most, unless told otherwise.
const DefaultMaxDeletes = 100

// RepairOptions says what a repair may do. The zero value puts missed and different keys and deletes nothing.
type RepairOptions struct {
	// Classes are those whose keys are put: Missed, Different; nil is both.
	Classes []Class
	// DeleteSurplus are surplus keys of the target to delete. A key that the check has not found surplus is an error.
	DeleteSurplus []string
	// DeleteAllSurplus deletes all surplus keys that the result lists.
	DeleteAllSurplus bool
	// MaxDeletes is how many keys a plan may delete; more is ErrTooMany. 0 is DefaultMaxDeletes.
	MaxDeletes int
}

// Action is what a repair does to one key.
type Action string

// The actions of a repair.
const (
	// ActionPut writes what the source has when the repair runs.
	ActionPut Action = "put"
	// ActionDelete deletes the target's key.
	ActionDelete Action = "delete"
	// ActionSkip leaves the key as it is.
	ActionSkip Action = "skip"
)

// RepairStep is one key of a repair.
type RepairStep struct {
	Action Action `json:"action"`
	// Key is the target's key, SourceKey the source's.
	Key       string `json:"key"`
	SourceKey string `json:"sourceKey"`
	// Class and Reason are the check's.
	Class  Class  `json:"class"`
	Reason Reason `json:"reason,omitempty"`
	// Why explains an ActionSkip.
	Why string `json:"why,omitempty"`

	targetRevision int64 // the mod_revision of the key when it was checked
}

// RepairPlan is what a repair would do, in order: owners are put before their dependents, deletes come last.
type RepairPlan struct {
	SourceClusterID string       `json:"sourceClusterID"`
	TargetClusterID string       `json:"targetClusterID"`
	Puts            int          `json:"puts"`
	Deletes         int          `json:"deletes"`
	Steps           []RepairStep `json:"steps"`
	// Skipped are keys that differ and are left as they are, with the reason in Why.
	Skipped []RepairStep `json:"skipped"`
	// Unlisted is how many differences the result had beyond Config.Limit: they need another check after this repair.
	Unlisted int `json:"unlisted,omitempty"`
}

// PlanRepair says what a repair of a result's differences would do. It writes nothing.
func (c *Checker) PlanRepair(ctx context.Context, result *Result, opts RepairOptions) (*RepairPlan, error) {
	if _, err := c.mayRepair(ctx, result.SourceClusterID, result.TargetClusterID); err != nil {
		return nil, err
	}
	deletable, err := chosenDeletes(result, opts)
	if err != nil {
		return nil, err
	}
	plan := &RepairPlan{SourceClusterID: result.SourceClusterID, TargetClusterID: result.TargetClusterID, Steps: []RepairStep{}, Skipped: []RepairStep{}, Unlisted: result.Unlisted}
	var puts, deletes []RepairStep
	owners := map[string]Difference{} // of keys to be put
	coming := map[string]bool{}       // keys that the mirror brings or this repair puts
	for _, d := range result.Differences {
		step := RepairStep{Key: d.Key, SourceKey: d.SourceKey, Class: d.Class, Reason: d.Reason, targetRevision: d.TargetRevision}
		switch {
		case d.Class == Surplus && deletable[d.Key] && d.Reason != ReasonInFlight && d.Reason != ReasonCopying:
			step.Action = ActionDelete
			deletes = append(deletes, step)
			continue
		case d.Class == Surplus && !deletable[d.Key]:
			step.Why = "surplus keys are deleted only if they are named"
		case d.Reason == ReasonInFlight, d.Reason == ReasonCopying:
			step.Why = "the mirror brings it"
			coming[d.Key] = d.Class == Missed
		case len(opts.Classes) > 0 && !slices.Contains(opts.Classes, d.Class):
			step.Why = "its class is not to be repaired"
		case d.Reason == ReasonGuarded:
			step.Why = "a guard keeps the value from the target: " + d.Detail
		case d.Reason == ReasonOwnerExcluded:
			step.Why = "the target's garbage collector would delete it again: the filter drops its owner " + d.Detail
		default:
			step.Action = ActionPut
			coming[d.Key], owners[d.Key] = d.Class == Missed, d
			puts = append(puts, step)
			continue
		}
		step.Action = ActionSkip
		plan.Skipped = append(plan.Skipped, step)
	}
	for found := true; found; { // one that is not put may own others
		found = false
		puts = slices.DeleteFunc(puts, func(step RepairStep) bool {
			d := owners[step.Key]
			if d.Reason != ReasonOwnerMissing || coming[d.Detail] {
				return false
			}
			step.Action, step.Why = ActionSkip, "the target's garbage collector would delete it again: its owner is missing there, and not to be put: "+d.Detail
			plan.Skipped, found = append(plan.Skipped, step), true
			delete(coming, step.Key)
			return true
		})
	}
	if most := cmp.Or(opts.MaxDeletes, DefaultMaxDeletes); len(deletes) > most {
		return nil, &Error{Kind: ErrTooMany, Detail: fmt.Sprintf("%d keys of the target would be deleted, at most %d may", len(deletes), most),
			Hint: "look at them; raise MaxDeletes if they are to go"}
	}
	if puts, err = c.ownersFirst(ctx, puts); err != nil {
		return nil, err
	}
	plan.Puts, plan.Deletes = len(puts), len(deletes)
	plan.Steps = append(puts, c.dependentsFirst(deletes)...)
	return plan, nil
}

// chosenDeletes is which surplus keys are to be deleted.
func chosenDeletes(result *Result, opts RepairOptions) (map[string]bool, error) {
	if opts.MaxDeletes < 0 {
		return nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("MaxDeletes %d is negative", opts.MaxDeletes), Hint: "use 0 for the default or a positive number"}
	}
	for _, class := range opts.Classes {
		if class != Missed && class != Different {
			return nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("Classes has %q", class), Hint: "use Missed and Different; surplus keys are deleted by DeleteSurplus or DeleteAllSurplus"}
		}
	}
	surplus := map[string]bool{}
	for _, d := range result.Differences {
		if d.Class == Surplus && !(opts.DeleteAllSurplus && d.Accepted) { // what is accepted is no difference, and deleted by name only
			surplus[d.Key] = true
		}
	}
	if opts.DeleteAllSurplus {
		return surplus, nil
	}
	chosen := map[string]bool{}
	for _, key := range opts.DeleteSurplus {
		if !surplus[key] {
			return nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("DeleteSurplus names %q, which the check does not list as surplus", key),
				Hint: "name keys as the report writes them, or raise Config.Limit if it was cut"}
		}
		chosen[key] = true
	}
	return chosen, nil
}

// ownersFirst orders puts as a base copy does: by what their keys tell, then owners before those that name their UID, then as the source made them.
func (c *Checker) ownersFirst(ctx context.Context, steps []RepairStep) ([]RepairStep, error) {
	type object struct {
		step   RepairStep
		rank   int
		create int64
		uid    string
		owners []string
	}
	ranks := c.keys.SourceRanks()
	var objects []*object
	for batch := range slices.Chunk(steps, lookKeys) {
		ops := make([]clientv3.Op, len(batch))
		for i, step := range batch {
			ops[i] = clientv3.OpGet(step.SourceKey)
		}
		resp, err := c.txn(ctx, c.source, "source", ops)
		if err != nil {
			return nil, err
		}
		for i, kv := range found(resp) {
			rank, _ := ranks.Of(batch[i].SourceKey)
			o := &object{step: batch[i], rank: int(rank), create: kv.GetCreateRevision()}
			var id kubemeta.Identity
			if kv != nil && kubemeta.Read(c.opened(ctx, batch[i].SourceKey, kv.Value), &id) {
				o.uid = string(id.UID)
				for _, owner := range id.Owners {
					o.owners = append(o.owners, string(owner))
				}
			}
			objects = append(objects, o)
		}
	}
	slices.SortStableFunc(objects, func(a, b *object) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.create, b.create), cmp.Compare(a.step.Key, b.step.Key))
	})
	byUID := map[string]*object{}
	for _, o := range objects {
		if o.uid != "" {
			byUID[o.uid] = o
		}
	}
	ordered, placed := make([]RepairStep, 0, len(steps)), map[*object]bool{}
	var place func(o *object)
	place = func(o *object) {
		if placed[o] {
			return
		}
		placed[o] = true // before its owners: owners that own each other are placed as they come
		for _, uid := range o.owners {
			if owner := byUID[uid]; owner != nil {
				place(owner)
			}
		}
		ordered = append(ordered, o.step)
	}
	for _, o := range objects {
		place(o)
	}
	return ordered, nil
}

// opened is a source's value in clear, where that can be had.
func (c *Checker) opened(ctx context.Context, sourceKey string, value []byte) []byte {
	if c.cfg.OpenSource == nil || !kubemeta.Encrypted(value) {
		return value
	}
	plain, err := c.cfg.OpenSource(ctx, sourceKey, value)
	if err != nil {
		return value
	}
	return plain
}

// dependentsFirst orders deletes: what lives in namespaces and under definitions goes before these.
func (c *Checker) dependentsFirst(steps []RepairStep) []RepairStep {
	byKey := map[string]RepairStep{}
	keys := make([]string, len(steps))
	for i, step := range steps {
		keys[i], byKey[step.Key] = step.Key, step
	}
	slices.Sort(keys)
	ordered := make([]RepairStep, 0, len(steps))
	for _, group := range c.keys.TargetRanks().DeleteOrder(keys) {
		for _, key := range group {
			ordered = append(ordered, byKey[key])
		}
	}
	return ordered
}
