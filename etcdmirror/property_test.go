package etcdmirror_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/history"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// The property tests below run a mirror, or kill it, under random traffic and faults, and then hold the whole history of the
// target against the whole history of the source: P1, P2, P3, P4 and P10.
//
// UNDERSTUDY_SEED repeats one schedule, UNDERSTUDY_SCHEDULES runs that many.

const defaultSchedules = 4

// schedules runs f for as many seeds as asked for.
func schedules(t *testing.T, f func(t *testing.T, seed uint64, rng *rand.Rand)) {
	n, first := defaultSchedules, rand.Uint64()
	if s := os.Getenv("UNDERSTUDY_SCHEDULES"); s != "" {
		n = number(t, s)
	}
	if s := os.Getenv("UNDERSTUDY_SEED"); s != "" {
		n, first = 1, uint64(number(t, s))
	}
	for i := range n {
		seed := (first + uint64(i)) % (1 << 62)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, seed, rand.New(rand.NewPCG(seed, 7))) })
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// recordedPair is a pair whose histories are recorded from the first revision on.
type recordedPair struct {
	*pair
	from, to *history.Recorder
	oracle   history.Options
}

func newRecordedPair(t *testing.T, source, target embedetcd.Options) *recordedPair {
	t.Helper()
	p := &recordedPair{pair: newPair(t, source, target)}
	cfg := history.Config{Identify: func(value []byte) (uid string, owners []string) {
		var id kubemeta.Identity
		if !kubemeta.Read(value, &id) {
			return "", nil
		}
		for _, o := range id.Owners {
			owners = append(owners, string(o))
		}
		return string(id.UID), owners
	}}
	for _, r := range []**history.Recorder{&p.from, &p.to} {
		client := p.source
		if r == &p.to {
			client = p.target
		}
		rec, err := history.Start(p.ctx, client, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(rec.Close)
		*r = rec
	}
	inPrefix := func(key string) bool { return strings.HasPrefix(key, etcdmirror.DefaultPrefix) }
	p.oracle = history.Options{
		MapKey:        func(key string) (string, bool) { return key, inPrefix(key) },
		InTargetSpace: inPrefix,
		CheckpointKey: etcdmirror.MetadataPrefix + "test/checkpoint",
		Decode: func(value []byte) (int64, bool, bool) {
			c, err := decode(value)
			return c.SourceRevision, c.Phase == etcdmirror.PhaseTail, err == nil
		},
		Epoch: func(value []byte) int64 { c, _ := decode(value); return c.Epoch },
	}
	return p
}

func decode(value []byte) (c etcdmirror.Checkpoint, err error) {
	err = json.Unmarshal(value, &c)
	return c, err
}

// check holds the histories against each other after the source has become quiet.
func (p *recordedPair) check() {
	p.t.Helper()
	if err := p.converged(); err != nil {
		p.t.Error(err)
	}
	if err := history.CheckAll(p.from, p.to, p.oracle); err != nil {
		p.t.Error(err)
	}
}

// converged compares both sides as they are now.
func (p *recordedPair) converged() error {
	p.t.Helper()
	for _, r := range []*history.Recorder{p.from, p.to} {
		head, err := r.Head(p.ctx)
		if err != nil {
			p.t.Fatal(err)
		}
		if err := r.WaitFor(p.ctx, head); err != nil {
			p.t.Fatal(err)
		}
	}
	return history.CheckConverged(p.from, p.to, p.oracle)
}

// compactRecorded discards a cluster's history that is recorded.
func (p *recordedPair) compactRecorded(c *clientv3.Client, rec *history.Recorder) {
	p.t.Helper()
	if _, err := rec.Head(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	if _, err := c.Compact(p.ctx, rec.Seen()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		p.t.Fatal(err)
	}
}

// sourcePrefix and targetPrefix are what a random configuration maps.
func (p *recordedPair) sourcePrefix(cfg etcdmirror.Config) string {
	if cfg.AllKeys {
		return ""
	}
	return etcdmirror.DefaultPrefix
}

func (p *recordedPair) targetPrefix(cfg etcdmirror.Config) string {
	if cfg.AllKeys || cfg.StripPrefix || cfg.TargetPrefix != "" {
		return cfg.TargetPrefix
	}
	return etcdmirror.DefaultPrefix
}

// randomConfig chooses prefixes, filter and sizes, and tells the oracle of them.
func (p *recordedPair) randomConfig(rng *rand.Rand) etcdmirror.Config {
	cfg := etcdmirror.Config{
		Name:        "test",
		InFlight:    1 + rng.IntN(6),
		BatchOps:    []int{1, 7, 100, 0}[rng.IntN(4)],
		BatchBytes:  []int{4 << 10, 100 << 10, 0}[rng.IntN(3)],
		BufferBytes: []int{64 << 10, 0}[rng.IntN(2)],
		MergeBehind: []int{1, 5, 0, 1 << 30}[rng.IntN(4)],
		MergeAfter:  []time.Duration{time.Nanosecond, 0, time.Hour}[rng.IntN(3)],
		// Often, so that progress without changes is part of the game.
		ProgressInterval: 20 * time.Millisecond, CheckpointInterval: 30 * time.Millisecond,
	}
	source, target := etcdmirror.DefaultPrefix, etcdmirror.DefaultPrefix
	switch rng.IntN(4) {
	case 0:
		target = "/copy/of/"
		cfg.TargetPrefix = target
	case 1:
		target, cfg.StripPrefix = "", true
	case 2:
		source, target, cfg.AllKeys = "", "", true
	}
	keep := func([]byte) bool { return true }
	if rng.IntN(2) == 0 {
		cfg.KeepID = "some"
		cfg.Keep = func(key []byte) bool {
			h := fnv.New32a()
			h.Write(key)
			return h.Sum32()%5 > 0
		}
		keep = cfg.Keep
	}
	if rng.IntN(2) == 0 { // some resources are not even watched
		for _, segment := range []string{"replicasets/", "services/specs/", "stable.example.com/", "configmaps/"} {
			if rng.IntN(2) == 0 {
				cfg.Skip = append(cfg.Skip, etcdmirror.DefaultPrefix+segment)
			}
		}
		cfg.Watch = []etcdmirror.WatchPolicy{etcdmirror.WatchAll, etcdmirror.WatchKept, etcdmirror.WatchKept}[rng.IntN(3)]
		kept := keep
		keep = func(key []byte) bool {
			return kept(key) && !slices.ContainsFunc(cfg.Skip, func(prefix string) bool { return strings.HasPrefix(string(key), prefix) })
		}
	}
	p.oracle.Keep = keep
	p.oracle.MapKey = func(key string) (string, bool) {
		if !strings.HasPrefix(key, source) {
			return "", false
		}
		mapped := target + key[len(source):]
		return mapped, mapped != "" && !strings.HasPrefix(mapped, etcdmirror.MetadataPrefix)
	}
	p.oracle.InTargetSpace = func(key string) bool {
		return strings.HasPrefix(key, target) && !strings.HasPrefix(key, etcdmirror.MetadataPrefix)
	}
	return cfg
}

// TestConsistencyUnderRandomTraffic stops and starts the mirror, cuts it off the source, and compacts the source in every phase.
func TestConsistencyUnderRandomTraffic(t *testing.T) {
	schedules(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000}, embedetcd.Options{MaxTxnOps: []uint{0, 16, 1000}[rng.IntN(3)]})
		cfg := p.randomConfig(rng)
		proxied, gate := gated(t, p.sourceCluster)
		direct := p.source
		var r *running
		start := func() {
			p.source = proxied
			r = p.start(cfg)
			p.source = direct
		}
		gen := traffic.New(traffic.Config{Seed: seed, MaxTxnOps: 1000, MaxValue: 200 << 10})
		if err := gen.Run(p.ctx, direct, rng.IntN(300)); err != nil { // the base copy has something to do
			t.Fatal(err)
		}
		compactor := &traffic.Compactor{Client: direct, Seed: seed, Every: 1 + rng.IntN(40), Before: p.from.WaitFor}
		own := newStranger(p.pair, p.targetPrefix(cfg)+"secrets/own/", seed)
		p.oracle.Ignore = own.Owns
		faults := map[string]int{}
		start()
		for range 60 {
			for range rng.IntN(3) {
				own.act()
			}
			if err := gen.Run(p.ctx, direct, 1+rng.IntN(10)); err != nil {
				t.Fatal(err)
			}
			if err := compactor.Step(p.ctx, 0, gen.Stats().Revision); err != nil {
				t.Fatal(err)
			}
			switch rng.IntN(20) {
			case 0:
				faults["restart"]++
				r.stop()
				start()
			case 1:
				faults["outage with compaction"]++
				r.stop()
				if err := gen.Run(p.ctx, direct, 20); err != nil {
					t.Fatal(err)
				}
				if err := p.from.WaitFor(p.ctx, gen.Stats().Revision); err != nil {
					t.Fatal(err)
				}
				p.compact(direct)
				start()
			case 2:
				faults["source cut off"]++
				gate.close()
				if err := gen.Run(p.ctx, direct, 10); err != nil {
					t.Fatal(err)
				}
				gate.open()
			case 3:
				p.sync(r)
			case 4:
				faults["target compacted"]++
				p.compactRecorded(p.target, p.to)
			}
		}
		p.sync(r)
		s := r.Status()
		r.stop()
		p.check()
		own.check()
		t.Logf("%+v; compactions %d, faults %v; %d copies in the last run, %d splits", gen.Stats(), compactor.Compactions(), faults, s.Resyncs, s.Splits)
	})
}

// TestP3KilledAtAnyInstant kills the mirror's process again and again, at random amounts of progress.
func TestP3KilledAtAnyInstant(t *testing.T) {
	schedules(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		t.Parallel() // most of the time is spent waiting for the session of a killed instance to expire
		p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
		gen := traffic.New(traffic.Config{Seed: seed, MaxValue: 100 << 10})
		if err := gen.Run(p.ctx, p.source, 200); err != nil {
			t.Fatal(err)
		}
		own := newStranger(p.pair, "/registry/secrets/own/", seed)
		p.oracle.Ignore = own.Owns
		const kills = 6
		for range kills {
			child := p.child()
			if err := p.killAfter(child, int64(rng.IntN(60)), func() error {
				own.act()
				return gen.Run(p.ctx, p.source, 3)
			}); err != nil {
				t.Fatal(err)
			}
			own.act()
			if rng.IntN(4) == 0 {
				p.compactRecorded(p.target, p.to)
			}
			if rng.IntN(4) == 0 { // what is missed is not in the log any more
				if err := gen.Run(p.ctx, p.source, 10); err != nil {
					t.Fatal(err)
				}
				if err := p.from.WaitFor(p.ctx, gen.Stats().Revision); err != nil {
					t.Fatal(err)
				}
				p.compact(p.source)
			}
		}
		r := p.start(etcdmirror.Config{})
		p.sync(r)
		r.stop()
		p.check()
		own.check()
		p.mustContinue(kills)
	})
}

// killAfter kills a child once the target has gone a number of revisions further, while more traffic is written.
func (p *recordedPair) killAfter(child *proc.Proc, revisions int64, write func() error) error {
	if err := child.WaitOutput(p.ctx, "leading"); err != nil {
		return err
	}
	until := p.revisionOf(p.target) + revisions
	for p.revisionOf(p.target) < until {
		if err := write(); err != nil {
			return err
		}
		if strings.Contains(child.Output(), string(etcdmirror.StateStopped)) {
			return fmt.Errorf("the child ended: %s", child.Output())
		}
	}
	child.Kill9()
	return nil
}

// mustContinue fails unless the target's history shows several instances of the mirror, of which at least some went on without a new copy.
func (p *recordedPair) mustContinue(kills int) {
	p.t.Helper()
	writers, copies := map[string]bool{}, map[string]bool{}
	for _, rev := range p.to.Revisions() {
		for _, e := range rev.Events {
			if e.Key != p.oracle.CheckpointKey {
				continue
			}
			raw, ok := e.Value.Bytes()
			if !ok {
				p.t.Fatal("the recorder did not keep a checkpoint's value")
			}
			c, err := decode(raw)
			if err != nil {
				p.t.Fatal(err)
			}
			writers[c.Writer] = true
			if c.Phase == etcdmirror.PhaseBase || c.Phase == etcdmirror.PhaseResync {
				copies[c.Writer] = true
			}
		}
	}
	p.t.Logf("%d kills, %d instances wrote, %d of them had to copy", kills, len(writers), len(copies))
	if len(writers) < 2 {
		p.t.Error("the kills came before any instance wrote: nothing was tested")
	}
}

// TestP4CompactionsWithinTheCopy lets the source change and compacts its whole history before every read of a base copy or resync, so that no revision outlives a page.
func TestP4CompactionsWithinTheCopy(t *testing.T) {
	schedules(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
		cfg := p.randomConfig(rng)
		gen := traffic.New(traffic.Config{Seed: seed, MaxValue: 20 << 10, Keys: 1500, NoLeases: true})
		if err := gen.Run(p.ctx, p.source, 400); err != nil {
			t.Fatal(err)
		}
		direct := p.source
		var mu sync.Mutex
		compactions, most := 0, 150+rng.IntN(100) // then the source calms down and the copy can end
		spareWatch := rng.IntN(3) > 0             // so that the watch can tell what the reads missed
		disturb := func() {
			mu.Lock()
			defer mu.Unlock()
			if compactions >= most {
				return
			}
			compactions++
			err := gen.Run(p.ctx, direct, 1+rng.IntN(4))
			if err == nil {
				err = p.from.WaitFor(p.ctx, gen.Stats().Revision)
			}
			if err == nil {
				_, err = direct.Compact(p.ctx, gen.Stats().Revision)
			}
			if err != nil && !errors.Is(err, rpctypes.ErrCompacted) && p.ctx.Err() == nil {
				t.Error(err)
			}
		}
		disturbed := p.sourceCluster.ClientConfig()
		disturbed.DialOptions = append(disturbed.DialOptions,
			grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				disturb()
				return invoker(ctx, method, req, reply, cc, opts...)
			}),
			grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				if !spareWatch || !strings.HasSuffix(method, "/Watch") {
					disturb()
				}
				return streamer(ctx, desc, cc, method, opts...)
			}))
		p.source = connect(t, disturbed)
		rec := &recorder{}
		cfg.Hooks = rec.hooks()
		r := p.start(cfg)
		p.source = direct
		p.eventually(r, "calm", func(s etcdmirror.Status) bool {
			mu.Lock()
			defer mu.Unlock()
			return compactions >= most || s.State == etcdmirror.StateTail
		})
		mu.Lock()
		most = compactions
		mu.Unlock()
		p.sync(r)
		r.stop()
		p.check()
		t.Logf("%d compactions within %d rounds; watch spared: %v", compactions, len(rec.resyncs), spareWatch)
		if compactions < 10 {
			t.Error("too few compactions: nothing was tested")
		}
	})
}
