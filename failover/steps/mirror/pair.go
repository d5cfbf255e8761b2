package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// DefaultRequestTimeout is the deadline of each request to an etcd.
const DefaultRequestTimeout = 5 * time.Second

// Pair is a mirror with the two etcds between which it runs. After a switch of roles the pair in the other direction is another Pair.
type Pair struct {
	// Mirror is the mirror's name, under which its metadata lives at the standby. Required.
	Mirror string
	// Primary is the source's client, Standby the target's. The caller owns them. Standby is required; Primary is by steps that say so.
	Primary, Standby *clientv3.Client
	// Keys say which keys take part, as the mirror's configuration does.
	Keys Keys
	// Records reads and fences the mirror. Required: see engine.Records.
	Records Records
	// RequestTimeout is the deadline of each request to either etcd; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
}

// Keys are the settings of the mirror of the same names: see etcdmirror.Config. engine.Keys takes them from there.
type Keys struct {
	Prefix       string
	AllKeys      bool
	TargetPrefix string
	StripPrefix  bool
	Keep         func(key []byte) bool
	KeepID       string
	Skip         []string
}

// Records is what the standby's etcd tells of one mirror, and the two acts that change it. It needs no primary. It must be safe for concurrent use.
type Records interface {
	// State reads what is there: a State without a Phase if there is no such mirror. An error says that it could not be read.
	State(ctx context.Context) (State, error)
	// Promote fences everything that mirrored until then, for good: from its return on the standby refuses it. incomplete allows a standby to which a copy was under way.
	// A standby that was promoted before is no error.
	Promote(ctx context.Context, incomplete bool) error
	// Demote makes a promoted standby a standby again, for the next mirror to begin anew.
	Demote(ctx context.Context) error
}

// Phase says how the standby's kept keys relate to the primary's: the words of etcdmirror.Phase.
type Phase string

// Phases.
const (
	PhaseNone     Phase = "" // no mirror
	PhaseBase     Phase = "base"
	PhaseResync   Phase = "resync"
	PhaseTail     Phase = "tail"
	PhasePartial  Phase = "partial"
	PhasePromoted Phase = "promoted"
	PhaseArmed    Phase = "armed"
)

// State is what a standby's etcd tells of its mirror.
type State struct {
	Phase Phase
	Epoch int64
	// AppliedRevision is the primary's revision that the standby's kept keys equal in PhaseTail; in PhasePromoted equalled, if Complete.
	AppliedRevision int64
	Complete        bool
	// SourceHead is the primary's highest revision that the mirror has seen, at SourceHeadAt by the clock of the mirror's host.
	SourceHead   int64
	SourceHeadAt time.Time
	// Revision is the standby's revision that wrote the record: of a promoted one, that of the promotion.
	Revision int64
	// SourceClusterID is the primary's, in hexadecimal.
	SourceClusterID string
	// Guarded and Drifted count keys of which the standby does not have the primary's value: the mirror kept it away, or others changed it there.
	Guarded, Drifted int
	// Foreign are the standby's keys that its own cluster made.
	Foreign []string
	// Tripped is set while the guard against mass deletion stops the mirror.
	Tripped bool
	// Replicas are the instances of the mirror that run, by name, the one that writes first.
	Replicas []string
}

// pair is a checked Pair.
type pair struct {
	Pair
	keys    keyspace.Space
	primary *kvstream.Reader // nil without a primary
	standby *kvstream.Reader
	inputs  pairInputs
}

// pairInputs is what a Description tells of a pair.
type pairInputs struct {
	Mirror       string   `json:"mirror"`
	Primary      []string `json:"primary,omitempty"`
	Standby      []string `json:"standby"`
	Prefix       string   `json:"prefix"`
	TargetPrefix string   `json:"targetPrefix"`
	KeepID       string   `json:"keepID,omitempty"`
	Skip         []string `json:"skip,omitempty"`
	Timeout      string   `json:"requestTimeout"`
}

// check validates a Pair that is the field of a Config. primary says whether a step cannot do without one.
func (p Pair) check(c *checks, primary bool) *pair {
	if !keyspace.ValidName(p.Mirror) {
		c.bad(fmt.Sprintf("Pair.Mirror %q is no mirror name", p.Mirror), "use 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit")
	}
	if p.Standby == nil {
		c.bad("Pair.Standby is nil", "pass a clientv3 client of the standby's etcd")
	}
	if p.Primary == nil && primary {
		c.bad("Pair.Primary is nil", "pass a clientv3 client of the primary's etcd")
	}
	if p.Primary != nil && p.Primary == p.Standby {
		c.bad("Pair.Primary and Pair.Standby are one client", "pass a client of each etcd")
	}
	if p.Records == nil {
		c.bad("Pair.Records is nil", "use engine.Records, or an implementation for another mirror")
	}
	c.duration("Pair.RequestTimeout", &p.RequestTimeout, DefaultRequestTimeout)
	p.Keys.Skip = slices.Clone(p.Keys.Skip)
	space, problems := keyspace.Settings(p.Keys).Space()
	for _, problem := range problems {
		c.bad("Pair.Keys."+problem.Detail, problem.Hint)
	}
	checked := &pair{Pair: p, keys: space}
	checked.inputs = pairInputs{Mirror: p.Mirror, Prefix: space.Source, TargetPrefix: space.Target, KeepID: p.Keys.KeepID, Skip: p.Keys.Skip, Timeout: p.RequestTimeout.String()}
	if p.Standby != nil {
		checked.standby = &kvstream.Reader{Client: p.Standby, Timeout: p.RequestTimeout}
		checked.inputs.Standby = slices.Clone(p.Standby.Endpoints())
	}
	if p.Primary != nil {
		checked.primary = &kvstream.Reader{Client: p.Primary, Timeout: p.RequestTimeout}
		checked.inputs.Primary = slices.Clone(p.Primary.Endpoints())
	}
	return checked
}

// state reads the mirror's state, and says where that failed.
func (p *pair) state(ctx context.Context) (State, error) {
	st, err := p.Records.State(ctx)
	if err != nil {
		return State{}, fmt.Errorf("reading what the standby tells of mirror %q: %w", p.Mirror, err)
	}
	return st, nil
}

// primaryHead reads the primary's revision, linearizably, and refuses another cluster than the mirror's source.
func (p *pair) primaryHead(ctx context.Context, st State) (int64, error) {
	begin, _ := keyspace.Bounds(p.keys.Source)
	id, rev, err := etcdrpc.Head(ctx, p.Primary, p.RequestTimeout, begin)
	if err != nil {
		return 0, fmt.Errorf("reading the primary's revision: %w", err)
	}
	if got := clusterID(id); st.SourceClusterID != "" && got != st.SourceClusterID {
		return 0, failover.Permanent(fmt.Errorf("the primary is cluster %s, mirror %q belongs to cluster %s: check the endpoints, or the primary was rebuilt", got, p.Mirror, st.SourceClusterID))
	}
	return rev, nil
}

// standbyHead reads the standby's cluster ID and revision.
func (p *pair) standbyHead(ctx context.Context) (string, int64, error) {
	begin, _ := keyspace.Bounds(p.keys.Target)
	id, rev, err := etcdrpc.Head(ctx, p.Standby, p.RequestTimeout, begin)
	if err != nil {
		return "", 0, fmt.Errorf("reading the standby's revision: %w", err)
	}
	return clusterID(id), rev, nil
}

// clusterID writes a cluster's ID as etcdctl does.
func clusterID(id uint64) string { return strconv.FormatUint(id, 16) }

// poll is how often a step that waits for the mirror looks at its state.
const poll = 200 * time.Millisecond

// until looks again and again until done says true, or ctx ends: then the error has what was seen last.
func until(ctx context.Context, look func(context.Context) (done bool, seen string, err error)) error {
	last := "nothing yet"
	for {
		done, seen, err := look(ctx)
		switch {
		case done:
			return nil
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil:
			last = seen
			failover.Report(ctx, seen)
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return fmt.Errorf("%w while waiting: %s", ctx.Err(), last)
		}
	}
}

// Some steps change nothing that needs to be taken back, or nothing that can and harms. They are Undoers all the same, because one that is not would be a point of no return.
// Their Undo notes that what they found counts no longer, and Observe says so.
const keyWithdrawn = "withdrawn"

func withdrawn(ctx context.Context) (bool, error) {
	var is bool
	_, err := failover.Load(ctx, keyWithdrawn, &is)
	return is, err
}

// withdraw is for Undo, begins for Do.
func withdraw(ctx context.Context) error { return failover.Save(ctx, keyWithdrawn, true) }

func begins(ctx context.Context) error {
	is, err := withdrawn(ctx)
	if err == nil && is {
		err = failover.Save(ctx, keyWithdrawn, false)
	}
	return err
}

// checks collects what is wrong with a Config.
type checks struct {
	config string
	errs   []error
}

func (c *checks) bad(detail, hint string) {
	c.errs = append(c.errs, &failover.Error{Kind: failover.ErrConfig, Detail: c.config + "." + detail, Hint: hint})
}

func (c *checks) duration(field string, value *time.Duration, zero time.Duration) {
	if *value < 0 {
		c.bad(fmt.Sprintf("%s is %v", field, *value), "use a positive duration, or 0 for the default")
	}
	if *value == 0 {
		*value = zero
	}
}

func (c *checks) number(field string, value *int64, zero int64) {
	if *value < 0 {
		c.bad(fmt.Sprintf("%s is %d", field, *value), "use a positive number, or 0 for the default")
	}
	if *value == 0 {
		*value = zero
	}
}

func (c *checks) err() error { return errors.Join(c.errs...) }

func pending(format string, args ...any) failover.Observation {
	return failover.Observation{State: failover.Pending, Detail: fmt.Sprintf(format, args...)}
}

func partial(format string, args ...any) failover.Observation {
	return failover.Observation{State: failover.Partial, Detail: fmt.Sprintf(format, args...)}
}

func done(format string, args ...any) failover.Observation {
	return failover.Observation{State: failover.Done, Detail: fmt.Sprintf(format, args...)}
}

func blocked(format string, args ...any) failover.Observation {
	return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf(format, args...)}
}

func plural[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// stamp writes a moment for observations and losses: in UTC, to the second, the same wherever it is read.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// some names the first of many.
func some(keys []string, total int) string {
	const most = 3
	shown := keys[:min(len(keys), most)]
	text := strings.Join(shown, ", ")
	if more := total - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
