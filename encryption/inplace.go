package encryption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// Defaults of InPlaceConfig.
const (
	DefaultRate     = 200
	DefaultInFlight = 4
	DefaultPasses   = 3
)

const (
	// inPlaceWindow is how many keys are dealt with before the report's Last moves on.
	inPlaceWindow = 256
	// maxConflicts is how often one key is read again because others write it.
	maxConflicts = 20
)

// InPlaceConfig says how Relabel and Rewrite change values in an etcd. The zero value of each field but Loaded is its documented default.
type InPlaceConfig struct {
	// Loaded are the configurations that the apiservers of this etcd run with, as VerifyLoaded has shown, at least one. Required: nothing is changed while
	// one of them still writes what is to be changed, or could not read what it becomes. Rollout's phases say them.
	Loaded []*Configuration
	// Prefix begins the keys; "" is /registry/. AllKeys is the whole key space. Metadata of mirrors is never touched.
	Prefix  string
	AllKeys bool
	// DryRun counts what would be written, and writes nothing.
	DryRun bool
	// After begins behind this key: a report's Last, to go on where an earlier call ended. "" begins at the beginning, which costs reads only: what is done is not done again.
	After string
	// Rate is how many values are written per second; 0 is DefaultRate, below 0 is without limit.
	Rate float64
	// InFlight is how many writes are under way at once; 0 is DefaultInFlight.
	InFlight int
	// Passes is how often all values are looked at until a pass finds nothing to do; 0 is DefaultPasses. From the second on it shows whether somebody still writes what is to be changed.
	Passes int
	// RequestTimeout is the deadline of each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Progress is told after each 256 keys; nil is not.
	Progress func(InPlaceReport)
	// Logger is told of requests that are made again; nil discards.
	Logger *slog.Logger
}

// InPlaceReport is what was done. The names of its fields in JSON stay.
type InPlaceReport struct {
	// Passes over all values, Scanned values in all of them.
	Passes  int `json:"passes"`
	Scanned int `json:"scanned"`
	// Found values were to be changed, Written were; with DryRun none.
	Found   int `json:"found"`
	Written int `json:"written"`
	// Conflicts is how often a value had been changed by others between reading and writing, and was read again.
	Conflicts int `json:"conflicts"`
	// Skipped values have the label, and were left alone: they cannot be read with its key, so that they are another cluster's or damaged. List has the first 100 by key.
	// After several passes it is of the last.
	Skipped int               `json:"skipped"`
	List    []UnreadableValue `json:"list,omitempty"`
	// Last is the key up to which the pass that is under way is done. Revision is that of the last write.
	Last     string `json:"last,omitempty"`
	Revision int64  `json:"revision,omitempty"`
}

func (cfg *InPlaceConfig) check(client *clientv3.Client) []error {
	errs := checkRange(client, cfg.Prefix, cfg.AllKeys, cfg.RequestTimeout)
	if len(cfg.Loaded) == 0 {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "Loaded is empty", Hint: "give the configuration of each apiserver that uses this etcd: only they tell whether values may change"})
	}
	for _, n := range []struct {
		field string
		value int
	}{{"InFlight", cfg.InFlight}, {"Passes", cfg.Passes}} {
		if n.value < 0 {
			errs = append(errs, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("%s %d is negative", n.field, n.value), Hint: "use 0 for the default or a positive number"})
		}
	}
	return errs
}

// changer returns what a value becomes: nil if it stays, an error that matches ErrUnreadable if it has to stay.
type changer func(ctx context.Context, key string, value []byte) ([]byte, error)

// inPlace is one call of Relabel or Rewrite.
type inPlace struct {
	client  *clientv3.Client
	cfg     InPlaceConfig
	scanner *scanner
	limiter *rate.Limiter
	change  changer

	mu     sync.Mutex
	report InPlaceReport
	left   int // found in this pass and not written
}

func run(ctx context.Context, client *clientv3.Client, cfg InPlaceConfig, what string, change changer) (*InPlaceReport, error) {
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = DefaultInFlight
	}
	if cfg.Passes == 0 {
		cfg.Passes = DefaultPasses
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	limit := rate.Limit(cfg.Rate)
	if cfg.Rate < 0 {
		limit = rate.Inf
	}
	p := &inPlace{client: client, cfg: cfg, limiter: rate.NewLimiter(limit, max(1, int(cfg.Rate/10))), change: change,
		scanner: newScanner(client, cfg.Prefix, cfg.AllKeys, cfg.RequestTimeout, inPlaceWindow)}
	after := cfg.After
	for {
		found := p.report.Found
		if err := p.pass(ctx, after); err != nil {
			return &p.report, err
		}
		if p.report.Found == found || cfg.DryRun {
			if after == "" || cfg.DryRun {
				return &p.report, nil
			}
		} else if p.report.Passes >= cfg.Passes {
			if cfg.Passes == 1 && p.left == 0 {
				return &p.report, nil
			}
			return &p.report, &Error{Kind: ErrWriters, Detail: fmt.Sprintf("pass %d has still found %d values %s", p.report.Passes, p.report.Found-found, what),
				Hint: "an apiserver or a mirror writes them: find the one that does not have the configuration it is thought to have, then do it again"}
		}
		after = ""
	}
}

func (p *inPlace) pass(ctx context.Context, after string) error {
	p.report.Passes++
	p.report.Skipped, p.report.List, p.report.Last, p.left = 0, nil, after, 0
	_, _, err := p.scanner.scan(ctx, after, func(kvs []*mvccpb.KeyValue) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(p.cfg.InFlight)
		for _, kv := range kvs {
			if kv == nil {
				continue
			}
			p.report.Scanned++
			p.report.Last = string(kv.Key)
			g.Go(func() error { return p.one(ctx, kv) })
		}
		if err := g.Wait(); err != nil {
			p.report.Last = after // what comes before this page is done
			return err
		}
		after = p.report.Last
		if p.cfg.Progress != nil {
			p.cfg.Progress(p.report)
		}
		return nil
	})
	slices.SortFunc(p.report.List, func(a, b UnreadableValue) int { return compareKeys(a.Key, b.Key) })
	return err
}

func compareKeys(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// one changes one value, again as long as others change it.
func (p *inPlace) one(ctx context.Context, kv *mvccpb.KeyValue) error {
	found := false
	for range maxConflicts {
		next, err := p.change(ctx, string(kv.Key), kv.Value)
		switch {
		case errors.Is(err, ErrUnreadable):
			p.skip(kv, reason(err))
			return nil
		case err != nil:
			return err
		case next == nil:
			return nil
		}
		if !found {
			found = true
			p.count(func(r *InPlaceReport) { r.Found++; p.left++ })
		}
		if p.cfg.DryRun {
			return nil
		}
		if err := p.limiter.Wait(ctx); err != nil {
			return ctx.Err()
		}
		resp, err := p.write(ctx, kv, next)
		if err != nil {
			if etcdrpc.Classify(err) != etcdrpc.TooLarge {
				return err
			}
			p.skip(kv, "the etcd refuses it for its size; raise --max-request-bytes")
			return nil
		}
		if resp.Succeeded {
			p.count(func(r *InPlaceReport) { r.Written++; r.Revision = max(r.Revision, resp.Header.Revision); p.left-- })
			return nil
		}
		p.count(func(r *InPlaceReport) { r.Conflicts++ })
		now := resp.Responses[0].GetResponseRange().Kvs
		if len(now) == 0 {
			p.count(func(*InPlaceReport) { p.left-- })
			return nil // deleted meanwhile
		}
		kv = now[0]
	}
	return nil // the next pass finds it again
}

func (p *inPlace) count(change func(r *InPlaceReport)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.report)
}

func (p *inPlace) skip(kv *mvccpb.KeyValue, why string) {
	p.count(func(r *InPlaceReport) {
		r.Skipped++
		if len(r.List) < DefaultAuditLimit {
			r.List = append(r.List, UnreadableValue{Key: string(kv.Key), Reason: why})
		}
	})
}

// write puts a value if nobody has changed the key, and else reads it. It repeats what an etcd does not answer for a while: a write whose answer was lost is
// found to have been done, since the value has changed.
func (p *inPlace) write(ctx context.Context, kv *mvccpb.KeyValue, next []byte) (*clientv3.TxnResponse, error) {
	key := string(kv.Key)
	var pause etcdrpc.Backoff
	for {
		resp, err := etcdrpc.Do(ctx, p.scanner.timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return p.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
				Then(clientv3.OpPut(key, string(next), clientv3.WithIgnoreLease())).Else(clientv3.OpGet(key)).Commit()
		})
		switch {
		case err == nil:
			return resp, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case etcdrpc.Classify(err) == etcdrpc.TooLarge:
			return nil, err
		case etcdrpc.Classify(err) != etcdrpc.Retry || pause.Long():
			return nil, explainEtcd(ctx, err)
		}
		p.cfg.Logger.Warn("the etcd does not take a write; trying again", "error", err.Error())
		if err := pause.Wait(ctx); err != nil {
			return nil, err
		}
	}
}
