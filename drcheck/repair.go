package drcheck

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// RepairReport is what a repair did.
type RepairReport struct {
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	Put     int       `json:"put"`
	Deleted int       `json:"deleted"`
	// Skipped are keys that had become right, or had changed, since they were planned; Why says which.
	Skipped []RepairStep `json:"skipped"`
	// Left is how many steps were not come to, because of the error that Repair returned.
	Left int `json:"left,omitempty"`
}

// repairKeys and repairBytes bound one transaction of a repair.
const (
	repairKeys  = 16
	repairBytes = 512 << 10
	// repairTries is how often a transaction may come too late before fewer keys go together, and one alone is left as it is.
	repairTries = 10
)

// Repair carries out a plan: it puts what the source has now, and deletes what the target still has as it was checked.
//
// Every transaction compares the mirror's epoch and the keys with what was read just before, so it never writes over what the mirror or the target's
// own cluster has written since, and none commits once the target is promoted (ErrPromoted). After an error the report says how far it came;
// check and plan again to go on.
func (c *Checker) Repair(ctx context.Context, plan *RepairPlan) (*RepairReport, error) {
	report := &RepairReport{Began: time.Now().UTC(), Skipped: []RepairStep{}, Left: len(plan.Steps)}
	defer func() { report.Ended = time.Now().UTC() }()
	view, err := c.mayRepair(ctx, plan.SourceClusterID, plan.TargetClusterID)
	if err != nil {
		return report, err
	}
	leases := view != nil && view.leases
	for batch := range slices.Chunk(plan.Steps, repairKeys) {
		if err := c.repairBatch(ctx, batch, leases, report); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return report, err
		}
	}
	return report, nil
}

// mayRepair refuses other clusters than those that were checked, a target that is promoted, and one whose mirror is not named. It returns what the target tells of the mirror; nil without a name.
func (c *Checker) mayRepair(ctx context.Context, wantSource, wantTarget string) (*mirrorView, error) {
	for _, side := range []struct {
		name, prefix, want string
		client             *clientv3.Client
	}{{"source", c.keys.Source, wantSource, c.source}, {"target", c.keys.Target, wantTarget, c.target}} {
		id, _, err := c.head(ctx, side.client, side.name, side.prefix)
		if err != nil {
			return nil, err
		}
		if clusterID(id) != side.want {
			return nil, &Error{Kind: ErrOtherMirror, Side: side.name, Detail: fmt.Sprintf("cluster %s answers, checked was %s", clusterID(id), side.want), Hint: "check again"}
		}
	}
	begin, end := keyspace.MirrorsRange()
	resp, err := etcdrpc.Do(ctx, c.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return c.target.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	})
	switch {
	case err != nil:
		return nil, unavailable("target", "reading "+keyspace.MetadataPrefix, err)
	case c.cfg.Name == "" && len(resp.Kvs) > 0:
		return nil, &Error{Kind: ErrConfig, Side: "target", Detail: "Name is empty, and a mirror writes to the target", Hint: "set Name, so that the repair is fenced as the mirror is"}
	case c.cfg.Name == "":
		return nil, nil
	}
	view, err := readMirror(ctx, c.target, c.cfg.RequestTimeout, c.cfg.Name)
	if err != nil {
		return nil, err
	}
	if view.Phase == phasePromoted {
		return nil, promoted(c.cfg.Name, view.Epoch)
	}
	if view.Phase == phaseArmed {
		return nil, armed(c.cfg.Name)
	}
	return view, view.matches(wantSource, wantTarget, c.keys.Source, c.keys.Target, c.cfg.KeepID, c.transformID())
}

func armed(name string) error {
	return &Error{Kind: ErrNoMirror, Side: "target", Detail: fmt.Sprintf("mirror %q was demoted and has not run since", name), Hint: "start the mirror, and check again"}
}

func promoted(name string, epoch int64) error {
	return &Error{Kind: ErrPromoted, Side: "target", Detail: fmt.Sprintf("mirror %q was promoted in epoch %d", name, epoch),
		Hint: "it serves on its own: nothing of its former primary is to be written there"}
}

// repairBatch carries out some steps, in one transaction or, where values are large or objects are replaced, in several.
func (c *Checker) repairBatch(ctx context.Context, steps []RepairStep, leases bool, report *RepairReport) error {
	attempt, lost := etcdrpc.Backoff{}, 0 // lost: attempts without progress
	for len(steps) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch {
		case lost == repairTries && len(steps) == 1:
			step := steps[0]
			step.Action, step.Why = ActionSkip, "others change it at the target faster than it can be put"
			report.Skipped, report.Left = append(report.Skipped, step), report.Left-1
			return nil
		case lost == repairTries:
			return c.repairHalves(ctx, steps, leases, report)
		}
		fence, targets, err := c.readForRepair(ctx, steps)
		switch {
		case tooMuch(err) && len(steps) > 1:
			return c.repairHalves(ctx, steps, leases, report)
		case err != nil:
			return err
		}
		sourceOps := make([]clientv3.Op, len(steps))
		for i, step := range steps {
			sourceOps[i] = clientv3.OpGet(step.SourceKey)
		}
		resp, err := c.txn(ctx, c.source, "source", sourceOps)
		if err != nil {
			return err
		}
		sources := found(resp)
		t := repairTxn{compare: fence, leases: leases}
		taken := 0
		for i, step := range steps {
			if !t.take(ctx, c, step, sources[i], targets[i]) {
				break
			}
			taken++
		}
		committed, err := c.commitRepair(ctx, &t)
		if err == nil && taken > 0 && committed {
			lost = 0
		} else {
			lost++
		}
		switch {
		case tooMuch(err) && len(steps) > 1:
			return c.repairHalves(ctx, steps, leases, report)
		case err != nil:
			return err
		case !committed: // somebody was faster: look again
			if err := sleep(ctx, min(attempt.Next(), 20*time.Millisecond)); err != nil {
				return err
			}
			continue
		}
		report.Put, report.Deleted, report.Left = report.Put+t.puts, report.Deleted+t.deletes, report.Left-taken
		report.Skipped = append(report.Skipped, t.skipped...)
		steps = steps[taken:]
	}
	return nil
}

// repairHalves goes on with fewer steps at a time.
func (c *Checker) repairHalves(ctx context.Context, steps []RepairStep, leases bool, report *RepairReport) error {
	half := len(steps) / 2
	if err := c.repairBatch(ctx, steps[:half], leases, report); err != nil {
		return err
	}
	return c.repairBatch(ctx, steps[half:], leases, report)
}

// readForRepair reads the target's keys and what fences a write to them, in one transaction.
func (c *Checker) readForRepair(ctx context.Context, steps []RepairStep) (fence []clientv3.Cmp, targets []*mvccpb.KeyValue, err error) {
	ops := make([]clientv3.Op, len(steps), len(steps)+1)
	for i, step := range steps {
		ops[i] = clientv3.OpGet(step.Key)
	}
	checkpoint := metadataDir(c.cfg.Name) + "checkpoint"
	if c.cfg.Name != "" {
		ops = append(ops, clientv3.OpGet(checkpoint))
	}
	resp, err := c.once(ctx, c.target, "target", ops)
	if err != nil {
		return nil, nil, err
	}
	kvs := found(resp)
	if c.cfg.Name == "" {
		begin, end := keyspace.MirrorsRange()
		return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(begin), "=", 0).WithRange(end)}, kvs, nil
	}
	record := kvs[len(steps)]
	if record == nil {
		return nil, nil, noMirror(c.cfg.Name)
	}
	state, err := decodeCheckpoint(record)
	switch {
	case err != nil:
		return nil, nil, err
	case state.Phase == phasePromoted:
		return nil, nil, promoted(c.cfg.Name, state.Epoch)
	case state.Phase == phaseArmed:
		return nil, nil, armed(c.cfg.Name)
	}
	return sameEpoch(record, state.Epoch), kvs[:len(steps)], nil
}

// repairTxn is a transaction of a repair under construction.
type repairTxn struct {
	leases        bool // the mirror keeps leases
	compare       []clientv3.Cmp
	ops           []clientv3.Op
	bytes         int
	puts, deletes int
	skipped       []RepairStep
}

// take adds what a step needs. It returns false if the step has to wait for the next transaction.
func (t *repairTxn) take(ctx context.Context, c *Checker, step RepairStep, source, target *mvccpb.KeyValue) bool {
	skip := func(why string) bool {
		step.Action, step.Why = ActionSkip, why
		t.skipped = append(t.skipped, step)
		return true
	}
	unchanged := clientv3.Compare(clientv3.ModRevision(step.Key), "=", target.GetModRevision())
	if step.Action == ActionDelete {
		switch {
		case target == nil:
			return skip("it is gone")
		case source != nil:
			return skip("the source has it now")
		case target.ModRevision != step.targetRevision:
			return skip("it has changed since it was checked")
		}
		t.compare, t.ops = append(t.compare, unchanged), append(t.ops, clientv3.OpDelete(step.Key))
		t.deletes++
		return true
	}
	switch {
	case source == nil:
		return skip("the source has it no more")
	case target != nil && c.equal(ctx, step.SourceKey, source.Value, target.Value):
		return skip("it is right by now")
	case source.Lease != 0 && t.leases:
		return skip("it has a lease at the source: the mirror puts it back, and keeps its lease")
	}
	value := source.Value
	if c.cfg.Transform != nil {
		var err error
		if value, err = c.cfg.Transform.Transform(ctx, step.SourceKey, step.Key, value); err != nil {
			return skip("the transformation refuses it: " + err.Error())
		}
	}
	if len(t.ops) > 0 && t.bytes+len(value) > repairBytes {
		return false
	}
	t.compare = append(t.compare, unchanged)
	if target != nil && kubemeta.OtherObject(c.opened(ctx, step.SourceKey, source.Value), target.Value) {
		// Watchers are to see one object go and another one come: the put takes another transaction.
		t.ops = append(t.ops, clientv3.OpDelete(step.Key))
		return false
	}
	t.ops, t.bytes = append(t.ops, clientv3.OpPut(step.Key, string(value))), t.bytes+len(value)
	t.puts++
	return true
}

// commitRepair commits a transaction; false if something that it compares has changed.
func (c *Checker) commitRepair(ctx context.Context, t *repairTxn) (bool, error) {
	if len(t.ops) == 0 {
		return true, nil
	}
	if c.cfg.Name != "" {
		// The mirror takes this revision for its own: what is put here is deleted with the source's, and is not the standby's for ever.
		t.ops = append(t.ops, clientv3.OpPut(metadataDir(c.cfg.Name)+"repaired/"+rand.Text(), ""))
	}
	resp, err := etcdrpc.Do(ctx, c.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return c.target.Txn(ctx).If(t.compare...).Then(t.ops...).Commit()
	})
	if err != nil {
		// Whether it has been committed is not known, and need not be: a repair that is begun again finds out.
		return false, unavailable("target", "writing", err)
	}
	return resp.Succeeded, nil
}
