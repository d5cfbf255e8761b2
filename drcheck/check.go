package drcheck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// Checker compares two etcds. It holds no connection or goroutine between calls and is safe for concurrent use.
type Checker struct {
	source, target   *clientv3.Client
	sources, targets *kvstream.Reader
	cfg              Config
	keys             *keyspace.Space
	log              *slog.Logger
}

// New checks the configuration and returns a Checker that has not contacted anything. The caller owns the clients.
func New(source, target *clientv3.Client, cfg Config) (*Checker, error) {
	if source == nil || target == nil {
		return nil, &Error{Kind: ErrConfig, Detail: "source or target client is nil", Hint: "pass two clientv3 clients"}
	}
	cfg, keys, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	return &Checker{source: source, target: target, cfg: cfg, keys: keys, log: cfg.Logger,
		sources: &kvstream.Reader{Client: source, Timeout: cfg.RequestTimeout},
		targets: &kvstream.Reader{Client: target, Timeout: cfg.RequestTimeout}}, nil
}

// complete fills in the defaults and checks every field; it returns all that is wrong.
func (c Config) complete() (Config, *keyspace.Space, error) {
	var errs []error
	bad := func(detail, hint string) { errs = append(errs, &Error{Kind: ErrConfig, Detail: detail, Hint: hint}) }
	if c.Name != "" {
		if err := validateName(c.Name); err != nil {
			errs = append(errs, err)
		}
	}
	keys, problems := keyspace.Settings{Prefix: c.Prefix, AllKeys: c.AllKeys, TargetPrefix: c.TargetPrefix, StripPrefix: c.StripPrefix, Keep: c.Keep, KeepID: c.KeepID, Skip: c.Skip}.Space()
	for _, p := range problems {
		bad(p.Detail, p.Hint)
	}
	switch c.Mode {
	case "":
		c.Mode = Content
	case Content, KeysOnly:
	default:
		bad(fmt.Sprintf("Mode %q is unknown", c.Mode), "use Content or KeysOnly")
	}
	for _, d := range []struct {
		field string
		value *time.Duration
		def   time.Duration
	}{{"Settle", &c.Settle, DefaultSettle}, {"RequestTimeout", &c.RequestTimeout, DefaultRequestTimeout}} {
		if *d.value < 0 {
			bad(fmt.Sprintf("%s %v is negative", d.field, *d.value), "use 0 for the default or a positive duration")
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.MaxRechecks < 0 {
		bad(fmt.Sprintf("MaxRechecks %d is negative", c.MaxRechecks), "use 0 for the default or a positive number")
	}
	if c.MaxRechecks == 0 {
		c.MaxRechecks = DefaultMaxRechecks
	}
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Resource == nil {
		c.Resource = defaultResource(keys.Source)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, &keys, errors.Join(errs...)
}

// Check compares the two sides. An error means that they could not be compared; that they differ is no error.
//
// With Config.Name the outcome is also recorded at the target for ReadVerdict; that it could not be recorded is logged, and no error either.
func (c *Checker) Check(ctx context.Context) (*Result, error) {
	began := time.Now().UTC()
	r, err := c.firstPass(ctx)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	r.result.Began = began
	if err := r.settle(ctx); err != nil {
		return nil, c.explain(ctx, err)
	}
	if err := r.finish(ctx); err != nil {
		return nil, c.explain(ctx, err)
	}
	if c.cfg.Name != "" {
		if err := writeCheck(ctx, c.target, c.cfg.RequestTimeout, c.cfg.Name, r.result); err != nil {
			c.log.Warn("the outcome of the check could not be recorded at the target", "error", err)
		}
	}
	return r.result, nil
}

// tries is how often something is read from its beginning because a side, which had answered before, did not for a moment, such as while it elects a leader.
const tries = 3

// firstPass finds out what differs at first sight.
func (c *Checker) firstPass(ctx context.Context) (*round, error) {
	return patiently(ctx, c, func() (*round, error) {
		r := &round{Checker: c, counts: map[string]*ResourceCount{}, beyond: map[Class][]Difference{},
			result: &Result{Mode: c.cfg.Mode, Differences: []Difference{}, Resources: []ResourceCount{}}}
		if err := r.preflight(ctx); err != nil {
			return nil, &final{err}
		}
		return r, r.compare(ctx)
	})
}

// final is an error that trying again does not help, or that is not worth the time.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// patiently reads again after errors that may pass.
func patiently[T any](ctx context.Context, c *Checker, read func() (T, error)) (T, error) {
	for attempt, try := (etcdrpc.Backoff{}), 1; ; try++ {
		v, err := read()
		var f *final
		switch {
		case errors.As(err, &f):
			return v, f.error
		case err == nil || ctx.Err() != nil || try == tries || etcdrpc.Classify(err) != etcdrpc.Retry:
			return v, err
		}
		c.log.Warn("reading was interrupted, and begins again", "error", err)
		if err := attempt.Wait(ctx); err != nil {
			return v, err
		}
	}
}

// round is one check under way.
type round struct {
	*Checker
	result *Result
	view   *mirrorView  // what the target told of the mirror when the check began; nil without a name
	bytes  atomic.Int64 // read of values

	mu       sync.Mutex // for the first pass, in which several goroutines find suspects
	suspects []suspect
	counts   map[string]*ResourceCount
	beyond   map[Class][]Difference // some of those that are not looked at again
}

// preflight finds out whether the two sides can be compared, and the revisions to compare at.
func (r *round) preflight(ctx context.Context) error {
	// The target comes first, so that the source's revision is not older than what the target says to hold.
	targetID, targetRev, err := r.head(ctx, r.target, "target", r.keys.Target)
	if err != nil {
		return err
	}
	if r.cfg.Name != "" {
		if r.view, err = readMirror(ctx, r.target, r.cfg.RequestTimeout, r.cfg.Name); err != nil {
			return err
		}
	}
	sourceID, sourceRev, err := r.head(ctx, r.source, "source", r.keys.Source)
	if err != nil {
		return err
	}
	if sourceID == targetID {
		return &Error{Kind: ErrSameCluster, Detail: "both have cluster ID " + clusterID(sourceID),
			Hint: "check the endpoints of both sides; clusters made from one snapshot or one initial-cluster-token share an ID and need different ones"}
	}
	res := r.result
	res.SourceClusterID, res.TargetClusterID = clusterID(sourceID), clusterID(targetID)
	res.SourceRevision, res.TargetRevision = sourceRev, targetRev
	if r.view == nil {
		return nil
	}
	if err := r.view.matches(res.SourceClusterID, res.TargetClusterID, r.keys.Source, r.keys.Target, r.cfg.KeepID, r.transformID()); err != nil {
		return err
	}
	if known := max(r.view.AppliedRevision, r.view.SourceHead); known > sourceRev {
		return &Error{Kind: ErrOtherMirror, Side: "source", Detail: fmt.Sprintf("its revision is %d, the mirror has seen %d: it was restored from a backup", sourceRev, known),
			Hint: "decide which side is right before anything is repaired"}
	}
	return nil
}

func (c *Checker) transformID() string {
	if c.cfg.Transform == nil {
		return ""
	}
	return c.cfg.Transform.ID()
}

// head reads a side's cluster ID and revision.
func (c *Checker) head(ctx context.Context, client *clientv3.Client, side, prefix string) (id uint64, rev int64, err error) {
	begin, _ := keyspace.Bounds(prefix)
	if id, rev, err = etcdrpc.Head(ctx, client, c.cfg.RequestTimeout, begin); err != nil {
		return 0, 0, unavailable(side, fmt.Sprintf("reading keys with prefix %q", prefix), err)
	}
	return id, rev, nil
}

// clusterID writes a cluster's ID as etcdctl does.
func clusterID(id uint64) string { return strconv.FormatUint(id, 16) }

// explain gives an error of a check under way its kind.
func (c *Checker) explain(ctx context.Context, err error) error {
	var known *Error
	if ctx.Err() != nil || errors.As(err, &known) {
		return err
	}
	return unavailable("", "comparing", err)
}
