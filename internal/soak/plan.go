package soak

import (
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// plan is what a schedule is made of, all drawn from its seed. It is printed when the schedule fails.
type plan struct {
	Seed                         uint64
	SourceMembers, TargetMembers int
	SourceTxnOps, TargetTxnOps   uint
	Children                     []bool // one per replica: whether it runs in a process of its own
	Steps                        int
	Keys, MaxValue, Before       int  // traffic: keys in play, bytes of the largest value, operations before a mirror starts
	Own, Drift                   bool // the target's own cluster makes keys; others change mirrored ones
	Promote                      bool // the target is promoted at the end
	Mirror                       mirrorPlan
}

// mirrorPlan is a mirror's configuration in a form that can be passed to a process.
type mirrorPlan struct {
	Space                                                string // "same", "moved", "stripped" or "all"
	Some                                                 bool   // a filter drops some keys
	Skip                                                 bool   // some resources are not even watched
	Drift, Guard, Leases                                 bool
	InFlight, BatchOps, BatchBytes, Buffer, MergeBehind  int
	RequestTimeout, Stall, Progress, Checkpoint, Session time.Duration
}

const mirrorName = "soak"

func newPlan(seed uint64, opts Options) plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	size := func() int { return []int{1, 1, 3}[rng.IntN(3)] }
	p := plan{
		Seed: seed, SourceMembers: size(), TargetMembers: size(),
		SourceTxnOps: []uint{0, 0, 1000}[rng.IntN(3)], TargetTxnOps: []uint{0, 0, 16, 1000}[rng.IntN(4)],
		Steps: opts.Steps, Keys: 20 + rng.IntN(180), MaxValue: []int{2 << 10, 20 << 10, 200 << 10}[rng.IntN(3)], Before: rng.IntN(150),
		Own: rng.IntN(3) > 0, Drift: rng.IntN(3) == 0, Promote: rng.IntN(3) == 0,
		Mirror: mirrorPlan{
			Space: []string{"same", "same", "moved", "stripped", "all"}[rng.IntN(5)], Some: rng.IntN(2) == 0, Guard: rng.IntN(4) == 0, Leases: rng.IntN(2) == 0,
			InFlight: 1 + rng.IntN(6), BatchOps: []int{1, 7, 100, 0}[rng.IntN(4)], BatchBytes: []int{4 << 10, 100 << 10, 0}[rng.IntN(3)],
			Buffer: []int{64 << 10, 0}[rng.IntN(2)], MergeBehind: []int{1, 5, 0, 1 << 30}[rng.IntN(4)],
			RequestTimeout: time.Duration(500+rng.IntN(500)) * time.Millisecond, Stall: time.Second,
			Progress: time.Duration(20+rng.IntN(30)) * time.Millisecond, Checkpoint: 30 * time.Millisecond, Session: time.Second,
		},
	}
	replicas := 1 + rng.IntN(3)
	for range min(replicas, opts.Replicas) {
		p.Children = append(p.Children, rng.IntN(2) == 0 && opts.Child != nil)
	}
	if opts.Quiet {
		p.Own, p.Drift = false, false
	}
	p.Mirror.Drift = p.Drift
	p.Mirror.Skip = rng.IntN(2) == 0
	return p
}

// prefixes are those of the source's and the target's keys that take part.
func (p mirrorPlan) prefixes() (source, target string) {
	switch p.Space {
	case "moved":
		return etcdmirror.DefaultPrefix, "/copy/of/"
	case "stripped":
		return etcdmirror.DefaultPrefix, ""
	case "all":
		return "", ""
	}
	return etcdmirror.DefaultPrefix, etcdmirror.DefaultPrefix
}

// config is the mirror's configuration.
func (p mirrorPlan) config() etcdmirror.Config {
	cfg := etcdmirror.Config{
		Name: mirrorName, InFlight: p.InFlight, BatchOps: p.BatchOps, BatchBytes: p.BatchBytes, BufferBytes: p.Buffer, MergeBehind: p.MergeBehind,
		RequestTimeout: p.RequestTimeout, StallTimeout: p.Stall, ProgressInterval: p.Progress, CheckpointInterval: p.Checkpoint, SessionTTL: p.Session,
		// Traffic empties whole resources; with few keys in play the guard is told to look at small numbers.
		Deletions: etcdmirror.DeletionGuard{Off: !p.Guard, Count: 10},
		Unchecked: true, // traffic writes values of no meaning
	}
	if p.Leases {
		cfg.Leases = etcdmirror.LeaseMirror
	}
	switch p.Space {
	case "moved":
		_, cfg.TargetPrefix = p.prefixes()
	case "stripped":
		cfg.StripPrefix = true
	case "all":
		cfg.AllKeys = true
	}
	if p.Some {
		cfg.Keep, cfg.KeepID = p.keep, "some"
	}
	if p.Skip {
		cfg.Skip, cfg.Watch = skipped, etcdmirror.WatchKept
	}
	if p.Drift {
		cfg.Drift, cfg.RepairDelay, cfg.RepairLimit = etcdmirror.DriftRepair, 20*time.Millisecond, 1000
	}
	return cfg
}

// skipped lie between resources that are mirrored.
var skipped = []string{etcdmirror.DefaultPrefix + "replicasets/", etcdmirror.DefaultPrefix + "services/specs/"}

func (p mirrorPlan) keep(key []byte) bool {
	if p.Skip && slices.ContainsFunc(skipped, func(prefix string) bool { return strings.HasPrefix(string(key), prefix) }) {
		return false
	}
	return !p.Some || hash(string(key))%5 > 0
}

// toTarget is the target key of a source key; false for one that the prefixes leave out.
func (p mirrorPlan) toTarget(key string) (string, bool) {
	source, target := p.prefixes()
	if !strings.HasPrefix(key, source) || strings.HasPrefix(key, etcdmirror.MetadataPrefix) {
		return "", false
	}
	mapped := target + key[len(source):]
	return mapped, mapped != "" && !strings.HasPrefix(mapped, etcdmirror.MetadataPrefix)
}

// toSource is the source key of a key in the target's space.
func (p mirrorPlan) toSource(key string) string {
	source, target := p.prefixes()
	return source + key[len(target):]
}

// inTargetSpace tells the target keys that hold the copy, and what others make among them.
func (p mirrorPlan) inTargetSpace(key string) bool {
	_, target := p.prefixes()
	return strings.HasPrefix(key, target) && !strings.HasPrefix(key, etcdmirror.MetadataPrefix)
}

func hash(key string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(key))
	return h.Sum32()
}
