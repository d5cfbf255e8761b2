package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// Defaults of RevisionFence.
const (
	NameRevisionFence = "revision-fence"
	// DefaultMargin is for a primary whose last revision is known, DefaultMarginUngraceful for one of which only what the mirror saw last is.
	DefaultMargin           = 1_000
	DefaultMarginUngraceful = 100_000
	// DefaultFillLimit is how many revisions are made by writing; each costs the standby's database about 150 bytes until it is compacted and defragmented.
	DefaultFillLimit   = 1_000_000
	DefaultFillRate    = 2_000
	DefaultFillClients = 64
	// bumpSlack is added to the number that is advised for an offline bump: standby and primary go on until then.
	bumpSlack = 1_000_000
)

// RevisionFenceConfig says how far the standby's revision is raised.
type RevisionFenceConfig struct {
	Name      string // "" is NameRevisionFence
	Reference string
	// Pair's Primary is asked for its revision where there is one and the plan has the primary.
	Pair Pair
	// Drain is the name of the Drain step whose revision counts; "" is NameDrain. Where it saved none, what the mirror saw last counts.
	Drain string
	// Margin is how far above the primary's last known revision the fence is, and MarginUngraceful how far in a plan without the primary, where clients may have seen revisions that the mirror
	// did not: about the primary's writes per second times the seconds between the mirror's last contact and the primary's end. 0 is DefaultMargin and DefaultMarginUngraceful.
	Margin, MarginUngraceful int64
	// Limit is how many revisions are made by writing at most; 0 is DefaultFillLimit. A larger gap blocks, with instructions for the offline way.
	Limit int64
	// Rate is how many revisions per second the standby is assumed to make, for the estimate before anything is written; 0 is DefaultFillRate. What is measured then is reported.
	Rate int64
	// Clients is how many writes are under way at once; 0 is DefaultFillClients.
	Clients int
	// MaxDuration is how long the writing may take: once measured, a longer one ends at once with the instructions for the offline way; 0 is failover.DefaultTimeout.
	MaxDuration time.Duration
}

// RevisionFence raises the standby's etcd revision above the primary's last one and compacts what is below. Clients bring along resourceVersions of the primary: a watch from one that the standby has not reached
// yet is accepted and silent until it has, and one within the standby's own history replays another cluster's events. Below a compaction they are told that it is gone (410), and list again.
//
// Each write makes one revision, however many keys it holds, so the gap costs time: the observation says how much. Where it is too large the step is blocked and says how to raise the revision offline.
// The written keys are below /understudy/.revisions/, which no mirror takes part in, and are removed. API servers of the standby keep older revisions in their watch caches: restart them after this step.
//
// Undo takes nothing back: a higher revision and a shorter history change no object, and are as good under either role.
func RevisionFence(cfg RevisionFenceConfig) (failover.Step, error) {
	c := checks{config: "RevisionFenceConfig"}
	p := cfg.Pair.check(&c, false)
	clients := int64(cfg.Clients)
	c.number("Margin", &cfg.Margin, DefaultMargin)
	c.number("MarginUngraceful", &cfg.MarginUngraceful, DefaultMarginUngraceful)
	c.number("Limit", &cfg.Limit, DefaultFillLimit)
	c.number("Rate", &cfg.Rate, DefaultFillRate)
	c.number("Clients", &clients, DefaultFillClients)
	c.duration("MaxDuration", &cfg.MaxDuration, failover.DefaultTimeout)
	if clients > 4096 {
		c.bad(fmt.Sprintf("Clients is %d", clients), "use at most 4096")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	cfg.Clients, cfg.Drain = int(clients), orDefault(cfg.Drain, NameDrain)
	return (&revisionFence{cfg: cfg, pair: p}).step(), nil
}

type revisionFence struct {
	cfg RevisionFenceConfig
	*pair
	ungraceful bool
}

func (r *revisionFence) margin() int64 {
	if r.ungraceful {
		return r.cfg.MarginUngraceful
	}
	return r.cfg.Margin
}

func (r *revisionFence) step() failover.Step {
	f := failover.Funcs{
		Name: orDefault(r.cfg.Name, NameRevisionFence),
		Description: failover.Description{
			Action: fmt.Sprintf("Raise the standby's etcd revision to %d above the primary's last known one by up to %d small writes, and compact the standby there", r.margin(), r.cfg.Limit),
			Undo:   "Nothing to take back: a higher revision and a shorter history change no object", Reference: r.cfg.Reference,
			Inputs: struct {
				Pair        pairInputs `json:"pair"`
				Drain       string     `json:"drain"`
				Margin      int64      `json:"margin"`
				Limit       int64      `json:"limit"`
				Rate        int64      `json:"rate"`
				Clients     int        `json:"clients"`
				MaxDuration string     `json:"maxDuration"`
				Ungraceful  bool       `json:"ungraceful,omitempty"`
			}{r.inputs, r.cfg.Drain, r.margin(), r.cfg.Limit, r.cfg.Rate, r.cfg.Clients, r.cfg.MaxDuration.String(), r.ungraceful},
		},
		Observe: r.observe, Do: r.do, Timeout: r.cfg.MaxDuration + time.Minute, Retry: failover.Retry{Attempts: 3},
		Undo: func(ctx context.Context) error {
			if err := r.clean(ctx); err != nil {
				return err
			}
			return withdraw(ctx)
		},
	}
	if !r.ungraceful {
		variant := *r
		variant.ungraceful = true
		f.Ungraceful = variant.step
	}
	return f.Step()
}

// keyFence is what Do saves its fence under, so that a primary whose revision still moves does not move the fence.
const keyFence = "fence"

// fence is a revision of the primary that no client has reached: the standby's history is to be compacted above it.
func (r *revisionFence) fence(ctx context.Context) (known, fence int64, err error) {
	if ok, err := failover.Load(ctx, keyFence, &fence); err != nil || ok && fence > 0 {
		return fence - r.margin(), fence, err
	}
	st, err := r.state(ctx)
	if err != nil {
		return 0, 0, err
	}
	known = max(st.SourceHead, st.AppliedRevision)
	var drained Drained
	if _, err := failover.LoadFrom(ctx, r.cfg.Drain, KeyDrained, &drained); err != nil {
		return 0, 0, err
	}
	known = max(known, drained.Head)
	if !r.ungraceful && r.Primary != nil {
		head, err := r.primaryHead(ctx, st)
		if err != nil {
			return 0, 0, err
		}
		known = max(known, head)
	}
	return known, known + r.margin(), nil
}

// compaction is the revision that the standby's history is to begin with. A client that saw the fence's revision watches from the next one on, and a watch is told that its revision is gone
// only if that is below the compaction.
func compaction(fence int64) int64 { return fence + 2 }

// gap is how many revisions the standby lacks, so that the compaction is not its last one.
func gap(fence, head int64) int64 { return max(compaction(fence)+1-head, 0) }

func (r *revisionFence) observe(ctx context.Context) (failover.Observation, error) {
	if is, err := withdrawn(ctx); err != nil {
		return failover.Observation{}, err
	} else if is {
		return pending("undone by leaving it: a higher revision and a shorter history change no object"), nil
	}
	known, fence, err := r.fence(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if known == 0 {
		return blocked("no revision of the primary is known: the standby knows no mirror %s, or none that has copied", r.Mirror), nil
	}
	_, head, err := r.standbyHead(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	missing := gap(fence, head)
	switch {
	case missing > r.cfg.Limit:
		return blocked("the standby is at revision %d, the fence at %d: %d more are needed, and at most %d are made by writing. %s", head, fence, missing, r.cfg.Limit, offline(missing)), nil
	case missing > 0:
		return pending("the standby is at revision %d, the primary's last known is %d and the fence %d: %d more by writing, about %v at %d per second",
			head, known, fence, missing, estimate(missing, r.cfg.Rate), r.cfg.Rate), nil
	}
	compacted, err := r.compacted(ctx, compaction(fence)-1)
	if err != nil {
		return failover.Observation{}, err
	}
	left, err := r.fillers(ctx)
	switch {
	case err != nil:
		return failover.Observation{}, err
	case !compacted:
		return pending("the standby is at revision %d, above the fence %d, and still tells of revisions below it", head, fence), nil
	case left > 0:
		return partial("the fence stands at %d, and %s below %s is left to be removed", fence, plural(left, "key"), fillerPrefix), nil
	}
	return done("the standby is at revision %d and has forgotten all up to the fence %d, which is %d above the primary's last known revision", head, fence, fence-known), nil
}

func estimate(missing, rate int64) time.Duration {
	return max(time.Duration(float64(missing)/float64(rate)*float64(time.Second)).Round(time.Second), time.Second)
}

// offline says how to raise the revision without writing.
func offline(missing int64) string {
	return fmt.Sprintf("Raise it offline: (1) stop the standby's API servers; (2) etcdctl snapshot save snap.db at one member; (3) stop all members of the standby's etcd and set their data folders aside; "+
		"(4) at each member, with its own --name, --initial-cluster, --initial-advertise-peer-urls, the --initial-cluster-token of now and --data-dir: "+
		"etcdutl snapshot restore snap.db --bump-revision %d --mark-compacted; (5) start the members together, then the API servers, and resume this plan", missing+bumpSlack)
}

// compacted reports whether the standby's history begins above a revision.
func (r *revisionFence) compacted(ctx context.Context, revision int64) (bool, error) {
	begin, _ := keyspace.Bounds(r.keys.Target)
	_, err := etcdrpc.Do(ctx, r.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return r.Standby.Get(ctx, begin, clientv3.WithRev(revision), clientv3.WithCountOnly())
	})
	switch {
	case err == nil:
		return false, nil
	case etcdrpc.Classify(err) == etcdrpc.Compacted:
		return true, nil
	}
	return false, fmt.Errorf("reading the standby at revision %d: %w", revision, err)
}

func (r *revisionFence) do(ctx context.Context) error {
	if err := begins(ctx); err != nil {
		return err
	}
	known, fence, err := r.fence(ctx)
	if err != nil {
		return err
	}
	if err := failover.Save(ctx, keyFence, fence); err != nil {
		return err
	}
	_, head, err := r.standbyHead(ctx)
	if err != nil {
		return err
	}
	missing := gap(fence, head)
	if missing > r.cfg.Limit {
		return failover.Permanent(fmt.Errorf("%d revisions are needed and at most %d are made by writing. %s", missing, r.cfg.Limit, offline(missing)))
	}
	if missing > 0 {
		failover.Note(ctx, fmt.Sprintf("the primary's last known revision is %d; raising the standby from %d to above %d", known, head, fence))
		if err := r.fill(ctx, head, compaction(fence)+1); err != nil {
			return err
		}
	}
	if err := r.clean(ctx); err != nil {
		return err
	}
	_, err = etcdrpc.Do(ctx, r.RequestTimeout, func(ctx context.Context) (*clientv3.CompactResponse, error) {
		return r.Standby.Compact(ctx, compaction(fence))
	})
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compacting the standby at revision %d: %w", compaction(fence), err)
	}
	return nil
}
