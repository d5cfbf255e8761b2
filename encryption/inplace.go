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
	"github.com/understudy-dr/understudy/internal/kubemeta"
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
	// Passes is how often all values are looked at until a pass finds nothing to do; 0 is DefaultPasses. One more than one shows that nobody writes the old label any more.
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

// Relabel gives values another key name in place: what follows the label stays as it is. Both labels must be those of one key in the Codec's configuration: one secret, or
// one KMS plugin, under two names. Each value is opened with that key first, so that a value of another cluster's key of the same name is left alone, and listed.
//
// Every write is a transaction that compares the value's mod_revision and keeps its lease, so nothing that others write is lost, and an interruption at any instant does no harm.
// It refuses (ErrWriters) while a configuration of cfg.Loaded writes the old label, or reads it and not the new one; and at the end if values with the old label keep coming.
//
// Errors match ErrConfig, ErrWriters, ErrUnreachable, ErrPermission, or are ctx's. The report is never nil once writing has begun.
func Relabel(ctx context.Context, client *clientv3.Client, codec *Codec, from, to Label, cfg InPlaceConfig) (*InPlaceReport, error) {
	old, fresh, err := relabelPair(codec, from, to)
	if err := errors.Join(append(cfg.check(client), err)...); err != nil {
		return nil, err
	}
	for i, loaded := range cfg.Loaded {
		if err := canRelabel(i, loaded, old.atom, fresh.atom); err != nil {
			return nil, err
		}
	}
	return run(ctx, client, cfg, "with the old label", func(ctx context.Context, key string, value []byte) ([]byte, error) {
		if len(value) < len(old.head) || string(value[:len(old.head)]) != string(old.head) {
			return nil, nil
		}
		if err := codec.opensWith(ctx, old, key, value); err != nil {
			return nil, err
		}
		return slices.Concat(fresh.head, value[len(old.head):]), nil
	})
}

// relabelPair finds one key under two names.
func relabelPair(codec *Codec, from, to Label) (old, fresh *transformer, err error) {
	if codec == nil {
		return nil, nil, &Error{Kind: ErrConfig, Detail: "there is no Codec", Hint: "make one with NewCodec"}
	}
	for _, a := range codec.all {
		for _, b := range codec.all {
			if a.Label == from && b.Label == to && from != to && a.Provider == b.Provider && a.Provider != Identity && sameKey(a.atom, b.atom) {
				return a, b, nil
			}
		}
	}
	return nil, nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("the configuration does not have one key under the names %s and %s", from, to), Hint: "relabel between two names of one secret, or use Rewrite"}
}

// sameKey reports whether two atoms differ by name only.
func sameKey(a, b atom) bool {
	a.Name = b.Name
	if a.kms != nil && b.kms != nil {
		kms := *a.kms
		kms.Name = b.kms.Name
		a.kms = &kms
	}
	return a.same(b)
}

func canRelabel(i int, cfg *Configuration, old, fresh atom) error {
	t, err := loadedTable(i, cfg)
	if err != nil {
		return err
	}
	for _, s := range t.specs {
		l := t.lists[s]
		switch {
		case l[0].same(old):
			return &Error{Kind: ErrWriters, Detail: fmt.Sprintf("Loaded[%d]: %s are still written with %s", i, showSpec(s), old), Hint: fmt.Sprintf("let every apiserver write with %s first, and verify that they do", fresh)}
		case l.has(old) && !l.reads(fresh):
			return &Error{Kind: ErrWriters, Detail: fmt.Sprintf("Loaded[%d]: %s cannot be read with %s", i, showSpec(s), fresh), Hint: "give every apiserver the key under its new name first, and verify that they have it"}
		}
	}
	return nil
}

func loadedTable(i int, cfg *Configuration) (*table, error) {
	if _, err := Validate(cfg); err != nil {
		return nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("Loaded[%d]", i), Cause: err, Hint: "give what the apiserver runs with"}
	}
	return newTable(cfg)
}

// opensWith checks that a value can be read with one key.
func (c *Codec) opensWith(ctx context.Context, t *transformer, key string, value []byte) error {
	single := &Codec{cfg: c.cfg, identity: c.identity, all: []*transformer{t}, lists: map[spec][]*transformer{everything: {t}}}
	_, err := single.Open(ctx, key, value)
	return err
}

// Rewrite encrypts values anew in place, with what the Codec's configuration writes: what another key has written, and what is not encrypted though it should be.
// only restricts it to values with these labels; none is all. It works, and refuses, like Relabel: every configuration of cfg.Loaded must write with the Codec's key, and
// so read it. Values that cannot be read are left alone and listed.
func Rewrite(ctx context.Context, client *clientv3.Client, codec *Codec, only []Label, cfg InPlaceConfig) (*InPlaceReport, error) {
	errs := cfg.check(client)
	if codec == nil {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "there is no Codec", Hint: "make one with NewCodec"})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, loaded := range cfg.Loaded {
		if err := canRewrite(i, loaded, codec.table); err != nil {
			return nil, err
		}
	}
	return run(ctx, client, cfg, "with another key", func(ctx context.Context, key string, value []byte) ([]byte, error) {
		if _, resource, _ := codec.cfg.Resource(key); resource == "" {
			return nil, nil
		}
		if len(only) > 0 && !kubemeta.Encrypted(value) && !slices.Contains(only, Label{Provider: Identity}) {
			return nil, nil
		}
		plain, by, err := codec.openWaiting(ctx, key, value)
		switch {
		case err != nil && len(only) > 0 && !slices.Contains(only, codec.labelOf(value)):
			return nil, nil
		case err != nil:
			return nil, err
		case len(only) > 0 && !slices.Contains(only, by.Label):
			return nil, nil
		}
		w, err := codec.writer(key, plain)
		if err != nil || w.same(by.atom) {
			return nil, err
		}
		return codec.Seal(ctx, key, plain)
	})
}

func canRewrite(i int, cfg *Configuration, wanted *table) error {
	t, err := loadedTable(i, cfg)
	if err != nil {
		return err
	}
	for _, s := range slices.Concat(wanted.specs, t.specs) {
		if has, want := t.lookup(s)[0], wanted.lookup(s)[0]; !has.same(want) {
			return &Error{Kind: ErrWriters, Detail: fmt.Sprintf("Loaded[%d]: %s are written with %s instead of %s", i, showSpec(s), has, want), Hint: "let every apiserver write with the key first, and verify that they do"}
		}
	}
	return nil
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
