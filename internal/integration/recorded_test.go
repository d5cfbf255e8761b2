package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/history"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// recordedPair is a pair whose histories are recorded from the first revision on.
type recordedPair struct {
	*pair
	from, to *history.Recorder
	oracle   history.Options

	sourcePrefix, targetPrefix string // of the mirror
}

func newRecordedPair(t *testing.T, c combination, sourceOps, targetOps int) *recordedPair {
	t.Helper()
	p := &recordedPair{pair: newPair(t, c, sourceOps, targetOps)}
	record := func(s *side) *history.Recorder {
		ctx, cancel := context.WithTimeout(p.ctx, requestTimeout)
		defer cancel()
		rec, err := history.Start(ctx, s.Client, history.Config{Identify: identify})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(rec.Close)
		return rec
	}
	p.from, p.to = record(p.source), record(p.target)
	p.sourcePrefix, p.targetPrefix = etcdmirror.DefaultPrefix, etcdmirror.DefaultPrefix
	p.oracle = history.Options{
		CheckpointKey: etcdmirror.MetadataPrefix + mirrorName + "/checkpoint",
		Decode: func(value []byte) (int64, bool, bool) {
			c, err := checkpoint(value)
			return c.SourceRevision, c.Phase == etcdmirror.PhaseTail, err == nil
		},
		Epoch:  func(value []byte) int64 { c, _ := checkpoint(value); return c.Epoch }, // Decode has reported an error
		Ignore: func(key string) bool { return p.own != nil && p.own.Owns(key) },
		MapKey: func(key string) (string, bool) {
			rest, ok := strings.CutPrefix(key, p.sourcePrefix)
			mapped := p.targetPrefix + rest
			return mapped, ok && mapped != "" && !strings.HasPrefix(mapped, etcdmirror.MetadataPrefix)
		},
		InTargetSpace: func(key string) bool {
			return strings.HasPrefix(key, p.targetPrefix) && !strings.HasPrefix(key, etcdmirror.MetadataPrefix)
		},
	}
	return p
}

// addStranger gives the target a cluster of its own. Call it when the prefixes are known.
func (p *recordedPair) addStranger(seed uint64) {
	p.own = traffic.NewStranger(p.target.Client, p.targetPrefix+"secrets/own/", seed)
}

// mirrored tells the target keys that a mirror with the drawn configuration writes.
func (p *recordedPair) mirrored(key string) bool {
	if !p.oracle.InTargetSpace(key) || p.own.Owns(key) {
		return false
	}
	return p.keep == nil || p.keep([]byte(p.sourcePrefix+key[len(p.targetPrefix):]))
}

func checkpoint(value []byte) (c etcdmirror.Checkpoint, err error) {
	err = json.Unmarshal(value, &c)
	return c, err
}

func identify(value []byte) (uid string, owners []string) {
	var id kubemeta.Identity
	if !kubemeta.Read(value, &id) {
		return "", nil
	}
	for _, owner := range id.Owners {
		owners = append(owners, string(owner))
	}
	return string(id.UID), owners
}

// config draws prefixes, filter and sizes, and tells the oracle of them.
func (p *recordedPair) config(rng *rand.Rand) etcdmirror.Config {
	cfg := etcdmirror.Config{
		Unchecked:   true, // the traffic has empty values and the like
		InFlight:    1 + rng.IntN(6),
		BatchOps:    []int{1, 7, 100, 0}[rng.IntN(4)],
		BatchBytes:  []int{4 << 10, 100 << 10, 0}[rng.IntN(3)],
		BufferBytes: []int{64 << 10, 0}[rng.IntN(2)],
		MergeBehind: []int{1, 5, 0, 1 << 30}[rng.IntN(4)],
		// Often, so that notifications ahead of events, which they must not be taken for, are part of the game.
		ProgressInterval: 10 * time.Millisecond, CheckpointInterval: 30 * time.Millisecond,
	}
	switch rng.IntN(4) {
	case 0:
		p.targetPrefix = "/copy/of/"
		cfg.TargetPrefix = p.targetPrefix
	case 1:
		p.targetPrefix, cfg.StripPrefix = "", true
	case 2:
		p.sourcePrefix, p.targetPrefix, cfg.AllKeys = "", "", true
	}
	if rng.IntN(2) == 0 {
		cfg.KeepID = "four fifths"
		cfg.Keep = func(key []byte) bool {
			h := fnv.New32a()
			_, _ = h.Write(key)
			return h.Sum32()%5 > 0
		}
	}
	p.keep, p.oracle.Keep = cfg.Keep, cfg.Keep
	return cfg
}

// recorded waits until a recorder has seen a revision that exists. It must not ask for progress, as WaitFor of a recorder does: old servers may answer
// ahead of events, which then would be lost to the recorder. It need not either: a recorder watches all keys, so that each revision but the first, of an empty server, comes with events.
func recorded(ctx context.Context, rec *history.Recorder, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for rev > 1 && rec.Seen() < rev {
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			err := rec.WaitFor(ctx, rev) // tells whether the recorder itself has failed
			return fmt.Errorf("the recorder has seen revision %d, not %d: %w", rec.Seen(), rev, err)
		}
	}
	return nil
}

// recordedSource is recorded for the source. It fits traffic.Compactor.
func (p *recordedPair) recordedSource(ctx context.Context, rev int64) error {
	return recorded(ctx, p.from, rev)
}

// compact discards the history of a side up to its current revision, once it is recorded.
func (p *recordedPair) compact(s *side) {
	p.t.Helper()
	p.catchUp(s)
	s.compact(p.pair, s.head(p.pair))
}

// recorder is that of a side.
func (p *recordedPair) recorder(s *side) *history.Recorder {
	if s == p.source {
		return p.from
	}
	return p.to
}

// catchUp waits until all that a side has done is recorded.
func (p *recordedPair) catchUp(s *side) {
	p.t.Helper()
	if err := recorded(p.ctx, p.recorder(s), s.head(p.pair)); err != nil {
		p.t.Fatalf("%s: %v", s.role, err)
	}
}

// converged compares both sides as they are now.
func (p *recordedPair) converged() error {
	p.t.Helper()
	p.catchUp(p.source)
	p.catchUp(p.target)
	return history.CheckConverged(p.from, p.to, p.oracle)
}

// check holds the whole histories against each other after the source has become quiet and the mirror has ended.
func (p *recordedPair) check() {
	p.t.Helper()
	for _, r := range []struct {
		*side
		rec *history.Recorder
	}{{p.source, p.from}, {p.target, p.to}} {
		p.catchUp(r.side)
		// The recorder itself may have been deceived by a server: its end must be what the server has.
		state := r.rec.At(r.rec.Seen())
		for key, kv := range r.state(p.pair, 0) {
			if state[key].Mod != kv.ModRevision {
				p.t.Fatalf("%s: the recorder has key %q of revision %d, the server of %d", r.role, key, state[key].Mod, kv.ModRevision)
			}
			delete(state, key)
		}
		for key := range state {
			p.t.Fatalf("%s: the recorder has key %q, the server has not", r.role, key)
		}
	}
	if err := p.converged(); err != nil {
		p.t.Error(err)
	}
	if err := history.CheckAll(p.from, p.to, p.oracle); err != nil {
		p.t.Error(err)
	}
}
