package history_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/history"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

const (
	prefix        = "/registry/"
	checkpointKey = "/understudy/m/checkpoint"
)

// player replays a recorded source into a target the way a faithful mirror writes: a base copy, a tail that merges when
// nothing is folded, and resyncs.
type player struct {
	t      *testing.T
	ctx    context.Context
	target *clientv3.Client
	source *history.Recorder
	rng    *rand.Rand
	cursor *history.Cursor
	copied map[string]history.Event // what the target holds
	faults
}

// faults spoil a faithful mirror.
type faults struct {
	keyOrder  bool // a resync ignores owners
	overwrite bool // a resync overwrites other incarnations
	// tamper changes a transaction.
	tamper func(rev int64, consistent bool, ops []clientv3.Op) []clientv3.Op
}

func options() history.Options {
	return history.Options{
		Keep:          func(key []byte) bool { return strings.HasPrefix(string(key), prefix) },
		InTargetSpace: func(key string) bool { return strings.HasPrefix(key, prefix) },
		CheckpointKey: checkpointKey,
		Decode: func(value []byte) (rev int64, consistent, ok bool) {
			n, _ := fmt.Sscan(string(value), &rev, &consistent)
			return rev, consistent, n == 2
		},
	}
}

func (p *player) commit(rev int64, consistent bool, ops ...clientv3.Op) {
	p.t.Helper()
	if p.tamper != nil {
		ops = p.tamper(rev, consistent, ops)
	}
	ops = append(ops, clientv3.OpPut(checkpointKey, fmt.Sprint(rev, consistent)))
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	if _, err := p.target.Txn(ctx).Then(ops...).Commit(); err != nil {
		p.t.Fatal(err)
	}
}

func put(e history.Event) clientv3.Op {
	value, whole := e.Value.Bytes()
	if !whole {
		panic("the source's recorder must not hash")
	}
	return clientv3.OpPut(e.Key, string(value))
}

// resync writes the difference to the source's state at a revision: other incarnations away, owners first, deletes last.
func (p *player) resync(rev int64) {
	last := p.cursor.Rev()
	p.cursor.Advance(rev)
	want := map[string]history.Event{}
	for key, e := range p.cursor.State() {
		if strings.HasPrefix(key, prefix) {
			want[key] = e
		}
	}
	p.commit(last, false)
	done := map[string]bool{} // keys that are right
	byUID := map[string]string{}
	for key, e := range want {
		if e.UID != "" {
			byUID[e.UID] = key
		}
	}
	var write func(key string)
	write = func(key string) {
		if done[key] {
			return
		}
		done[key] = true
		e := want[key]
		for _, uid := range e.Owners {
			if owner, ok := byUID[uid]; ok && !p.keyOrder {
				write(owner)
			}
		}
		old, exists := p.copied[key]
		if exists && old.Mod == e.Mod {
			return
		}
		if exists && old.Create != e.Create && !p.overwrite {
			p.commit(last, false, clientv3.OpDelete(key))
		}
		p.commit(last, false, put(e))
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		write(key)
	}
	var gone []clientv3.Op
	for _, key := range slices.Sorted(maps.Keys(p.copied)) {
		if _, ok := want[key]; !ok {
			gone = append(gone, clientv3.OpDelete(key))
		}
	}
	p.copied = want
	p.commit(rev, true, gone...)
}

// tail writes the source's revisions one by one, or several at once if no key comes twice.
func (p *player) tail(to int64) {
	var ops []clientv3.Op
	var rev int64
	keys := map[string]bool{}
	flush := func() {
		if rev > 0 {
			p.commit(rev, true, ops...)
		}
		ops, rev = nil, 0
		clear(keys)
	}
	for _, r := range p.cursor.Advance(to) {
		if p.rng.IntN(3) > 0 || slices.ContainsFunc(r.Events, func(e history.Event) bool { return keys[e.Key] }) {
			flush()
		}
		rev = r.Rev
		for _, e := range r.Events {
			if !strings.HasPrefix(e.Key, prefix) {
				continue
			}
			keys[e.Key] = true
			if e.Delete {
				ops = append(ops, clientv3.OpDelete(e.Key))
				delete(p.copied, e.Key)
			} else {
				ops = append(ops, put(e))
				p.copied[e.Key] = e
			}
		}
	}
	flush()
}

// play mirrors random traffic and returns both recorders.
func play(t *testing.T, seed uint64, f faults) (source, target *history.Recorder) {
	t.Helper()
	ctx := testutil.Context(t)
	limits := embedetcd.Options{MaxTxnOps: 2000, MaxRequestBytes: 32 << 20}
	var clients [2]*clientv3.Client
	var recs [2]*history.Recorder
	for i := range clients {
		clients[i] = testutil.Client(t, testutil.NewCluster(t, limits))
		cfg := history.Config{HashOver: -1, Identify: kubeobj.Identify}
		if i == 1 {
			cfg.HashOver = 1000
		}
		rec, err := history.Start(ctx, clients[i], cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(rec.Close)
		recs[i] = rec
	}
	stats, err := traffic.Run(ctx, clients[0], traffic.Config{Seed: seed, Ops: 400, Keys: 60, MaxValue: 200 << 10, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	if err := recs[0].WaitFor(ctx, stats.Revision); err != nil {
		t.Fatal(err)
	}
	p := &player{
		t: t, ctx: ctx, target: clients[1], source: recs[0], rng: rand.New(rand.NewPCG(seed, 9)),
		cursor: recs[0].Cursor(), copied: map[string]history.Event{}, faults: f,
	}
	for at := int64(0); at < stats.Revision; {
		at = min(stats.Revision, at+1+p.rng.Int64N(60))
		p.resync(at)
		at = min(stats.Revision, at+1+p.rng.Int64N(100))
		p.tail(at)
	}
	if _, err := recs[1].Head(ctx); err != nil {
		t.Fatal(err)
	}
	return recs[0], recs[1]
}

func TestFaithfulMirrorsAreClean(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			source, target := play(t, seed, faults{})
			if err := history.CheckAll(source, target, options()); err != nil {
				t.Error(err)
			}
			if err := history.CheckConverged(source, target, options()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSpoiledMirrorsAreCaught spoils one transaction of a tail in different ways.
func TestSpoiledMirrorsAreCaught(t *testing.T) {
	for name, spoil := range map[string]func(op clientv3.Op) []clientv3.Op{
		"an operation is lost": func(clientv3.Op) []clientv3.Op { return nil },
		"a value is changed": func(op clientv3.Op) []clientv3.Op {
			return []clientv3.Op{clientv3.OpPut(string(op.KeyBytes()), "spoiled")}
		},
		"a put becomes a delete": func(op clientv3.Op) []clientv3.Op { return []clientv3.Op{clientv3.OpDelete(string(op.KeyBytes()))} },
		"a key is put beside it": func(op clientv3.Op) []clientv3.Op {
			return []clientv3.Op{op, clientv3.OpPut(string(op.KeyBytes())+"~", "")}
		},
		"control: nothing is spoiled": nil,
	} {
		t.Run(name, func(t *testing.T) {
			spoiled := int64(0)
			n := 0
			source, target := play(t, 3, faults{tamper: func(rev int64, consistent bool, ops []clientv3.Op) []clientv3.Op {
				for i, op := range ops {
					if n++; spoiled != 0 || !consistent || !op.IsPut() || n < 200 {
						continue
					}
					spoiled = rev
					if spoil == nil {
						return ops
					}
					return slices.Concat(ops[:i], spoil(op), ops[i+1:])
				}
				return ops
			}})
			if spoiled == 0 {
				t.Fatal("nothing was spoiled")
			}
			err := history.CheckPrefixConsistency(source, target, options())
			if spoil == nil {
				if err != nil {
					t.Errorf("the control is not clean: %v", err)
				}
				return
			}
			var v *history.ViolationsError
			if !errors.As(err, &v) {
				t.Fatal("not caught")
			}
			if v.Violations[0].SourceRev != spoiled {
				t.Errorf("spoiled at source revision %d, first found at %v", spoiled, v.Violations[0])
			}
		})
	}
}

func TestCarelessResyncsAreCaught(t *testing.T) {
	for kind, f := range map[history.Kind]faults{
		history.KindOwnerAbsent: {keyOrder: true},
		history.KindOverwritten: {overwrite: true},
	} {
		t.Run(string(kind), func(t *testing.T) {
			source, target := play(t, 3, f)
			if err := history.CheckPrefixConsistency(source, target, options()); err != nil {
				t.Errorf("the state is right, only the order is not: %v", err)
			}
			var v *history.ViolationsError
			if err := history.CheckOrder(source, target, options()); !errors.As(err, &v) {
				t.Fatal("not caught")
			}
			for _, x := range v.Violations {
				if x.Kind != kind {
					t.Error(x)
				}
			}
		})
	}
}
