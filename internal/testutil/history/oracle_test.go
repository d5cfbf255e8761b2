package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// stage is a source, a target, and a mirror played by hand. Source keys lie below /s/, their copies below /t/.
type stage struct {
	t        testing.TB
	ctx      context.Context
	src, dst *clientv3.Client
	srcRec   *Recorder
	dstRec   *Recorder
	outsider map[int64]bool // target revisions that are foreign
}

const checkpointKey = "/understudy/m/checkpoint"

// identify reads values like "uid=a owners=b,c rest".
func identify(value []byte) (uid string, owners []string) {
	for f := range strings.FieldsSeq(string(value)) {
		if v, ok := strings.CutPrefix(f, "uid="); ok {
			uid = v
		}
		if v, ok := strings.CutPrefix(f, "owners="); ok {
			owners = strings.Split(v, ",")
		}
	}
	return uid, owners
}

func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{t: t, ctx: testutil.Context(t), outsider: map[int64]bool{}}
	s.src = testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	s.dst = testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	s.srcRec = record(s.ctx, t, s.src, Config{Identify: identify})
	s.dstRec = record(s.ctx, t, s.dst, Config{Identify: identify})
	return s
}

func (s *stage) options() Options {
	return Options{
		Keep: func(key []byte) bool {
			return strings.HasPrefix(string(key), "/s/") && !strings.HasPrefix(string(key), "/s/skip")
		},
		MapKey:        func(key string) (string, bool) { return "/t/" + strings.TrimPrefix(key, "/s/"), true },
		InTargetSpace: func(key string) bool { return strings.HasPrefix(key, "/t/") },
		Ignore:        func(key string) bool { return strings.HasPrefix(key, "/t/own/") },
		Foreign:       func(rev int64) bool { return s.outsider[rev] },
		CheckpointKey: checkpointKey,
		Decode: func(value []byte) (rev int64, consistent, ok bool) {
			var epoch int64
			n, _ := fmt.Sscan(string(value), &rev, &consistent, &epoch)
			return rev, consistent, n == 3
		},
		Epoch: func(value []byte) (epoch int64) {
			var rev, consistent string
			_, _ = fmt.Sscan(string(value), &rev, &consistent, &epoch)
			return epoch
		},
	}
}

// op is "key=value" for a put, "key" for a delete, "@rev consistent epoch" for a checkpoint.
func op(dir, text string) clientv3.Op {
	if value, ok := strings.CutPrefix(text, "@"); ok {
		return clientv3.OpPut(checkpointKey, value)
	}
	if key, value, ok := strings.Cut(text, "="); ok {
		return clientv3.OpPut(dir+key, value)
	}
	return clientv3.OpDelete(dir + text)
}

func (s *stage) commit(cli *clientv3.Client, dir string, ops []string) int64 {
	s.t.Helper()
	var list []clientv3.Op
	for _, o := range ops {
		list = append(list, op(dir, o))
	}
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	r, err := cli.Txn(ctx).Then(list...).Commit()
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Header.Revision
}

// source and target each commit one transaction. The first revision of an etcd is 2.
func (s *stage) source(ops ...string) int64 { return s.commit(s.src, "/s/", ops) }
func (s *stage) target(ops ...string) int64 { return s.commit(s.dst, "/t/", ops) }

func (s *stage) foreign(ops ...string) { s.outsider[s.target(ops...)] = true }

func (s *stage) wait() {
	s.t.Helper()
	for _, r := range []*Recorder{s.srcRec, s.dstRec} {
		if _, err := r.Head(s.ctx); err != nil {
			s.t.Fatal(err)
		}
	}
}

// kinds are the violations of a check, as "kind key" without the "/t/", sorted.
func kinds(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var v *ViolationsError
	if !errors.As(err, &v) || v.Total != len(v.Violations) || v.Total == 0 {
		t.Fatalf("unexpected error: %v", err)
	}
	var out []string
	for _, x := range v.Violations {
		if x.TargetRev == 0 && x.Kind != KindNoCheckpoint {
			t.Errorf("no revision: %v", x)
		}
		out = append(out, string(x.Kind)+" "+strings.TrimPrefix(x.Key, "/t/"))
	}
	slices.Sort(out)
	return out
}

func expect(kind Kind, key string) string { return string(kind) + " " + key }

func TestOracle(t *testing.T) {
	const (
		cp    = checkpointKey
		owner = "o=uid=o"
		child = "c=uid=c owners=o"
	)
	for _, tc := range []struct {
		name                            string
		play                            func(s *stage)
		consistency, order, checkpoints []string
	}{
		{name: "good: base copy, tail, transactions, deletes, idle progress, resync", play: func(s *stage) {
			s.source("a=1", "b=1", "skip/x=1") // 2
			s.source("c=1")                    // 3
			s.target("@0 false 1")
			s.target("a=1")
			s.source("a=2")        // 4
			s.target("b=1", "a=2") // torn, but within the base copy
			s.target("@4 false 1") // a checkpoint of the base copy
			s.target("c=1", "@4 true 1")
			s.source("skip/x=2")  // 5
			s.target("@5 true 1") // idle
			s.source("a=3", "b")  // 6
			s.target("a=3", "b", "@6 true 1")
			s.source("c=2")                    // 7
			s.source("c=3", "d=")              // 8
			s.target("c=3", "d=", "@8 true 1") // merged
			s.foreign("own/x=1")
			s.target("@8 false 1")
			s.source("b=2") // 9
			s.target("b=2")
			s.source("b=3") // 10
			s.target("b=3", "@10 true 1")
		}},
		{name: "good: the source rewinds with a new epoch", play: func(s *stage) {
			s.source("a=1") // 2
			s.source("a=2") // 3
			s.target("a=2", "@3 true 1")
			s.target("a=1", "@2 true 2")
		}},
		{name: "missed key", play: func(s *stage) {
			s.source("a=1", "b=1")
			s.target("a=1", "@2 true 1")
			s.target("@2 true 1") // still missing: reported once
		}, consistency: []string{expect(KindMissed, "b")}},
		{name: "missed key, found, and lost again", play: func(s *stage) {
			s.source("a=1", "b=1")
			s.target("a=1", "@2 true 1")
			s.target("b=1", "@2 true 1")
			s.target("b", "@2 true 1")
		}, consistency: []string{expect(KindMissed, "b"), expect(KindMissed, "b")}},
		{name: "zombie", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			s.source("a")
			s.target("@3 true 1")
		}, consistency: []string{expect(KindSurplus, "a")}},
		{name: "key outside of the filter is copied", play: func(s *stage) {
			s.source("skip/x=1", "a=1")
			s.target("skip/x=1", "a=1", "@2 true 1")
		}, consistency: []string{expect(KindSurplus, "skip/x")}, order: []string{expect(KindUnknownValue, "skip/x")}},
		{name: "old value", play: func(s *stage) {
			s.source("a=1")
			s.source("a=2")
			s.target("a=1", "@3 true 1")
		}, consistency: []string{expect(KindDifferent, "a")}, order: []string{expect(KindUnknownValue, "a")}},
		{name: "value from the future", play: func(s *stage) {
			s.source("a=1")
			s.source("a=2")
			s.target("a=2", "@2 true 1")
			s.target("a=2", "@3 true 1") // and right again
		}, consistency: []string{expect(KindDifferent, "a")}, order: []string{expect(KindUnknownValue, "a")}},
		{name: "invented value during a base copy", play: func(s *stage) {
			s.source("a=1")
			s.target("a=9")
			s.target("a=1", "@2 true 1")
		}, order: []string{expect(KindUnknownValue, "a")}},
		{name: "torn transaction", play: func(s *stage) {
			s.source("a=1", "b=1")
			s.target("a=1", "b=1", "@2 true 1")
			s.source("a=2", "b=2")
			s.target("a=2", "@2 true 1")
			s.target("b=2", "@3 true 1")
		}, consistency: []string{expect(KindDifferent, "a")}, order: []string{expect(KindUnknownValue, "a")}},
		{name: "data without its checkpoint", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			s.source("a=2")
			s.target("a=2")
			s.target("@3 true 1")
		}, consistency: []string{expect(KindDifferent, "a")}, checkpoints: []string{expect(KindNotCheckpointed, "a")}},
		{name: "foreign data needs no checkpoint, but counts", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			s.foreign("x=1")
		}, consistency: []string{expect(KindSurplus, "x")}},
		{name: "checkpoint goes back", play: func(s *stage) {
			s.source("a=1")
			s.source("a=2")
			s.target("a=2", "@3 true 1")
			s.target("a=1", "@2 true 1")
		}, checkpoints: []string{expect(KindRevisionBack, cp)}},
		{name: "epoch goes back", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 2")
			s.target("@2 true 1")
		}, checkpoints: []string{expect(KindEpochBack, cp)}},
		{name: "checkpoint ahead of the source", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@7 true 1")
		}, consistency: []string{expect(KindAhead, cp)}},
		{name: "unreadable checkpoint", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			s.target("@nonsense")
		}, consistency: []string{expect(KindBadCheckpoint, cp)}, checkpoints: []string{expect(KindBadCheckpoint, cp)}},
		{name: "deleted checkpoint", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			if _, err := s.dst.Delete(s.ctx, checkpointKey); err != nil {
				s.t.Fatal(err)
			}
		}, consistency: []string{expect(KindGone, cp)}, checkpoints: []string{expect(KindGone, cp)}},
		{name: "no consistent checkpoint", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 false 1")
		}, consistency: []string{expect(KindNoCheckpoint, cp)}},
		{name: "no checkpoint", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1")
		}, consistency: []string{expect(KindNoCheckpoint, cp)}, checkpoints: []string{expect(KindNoCheckpoint, cp)}},

		{name: "good: owner first, or in the same revision", play: func(s *stage) {
			s.source(owner)
			s.source(child)
			s.source("o2=uid=o2", "c2=uid=c2 owners=o2,nobody")
			s.target(owner)
			s.target(child)
			s.target("c2=uid=c2 owners=o2,nobody", "o2=uid=o2", "@4 true 1")
		}},
		{name: "good: the owner is gone from the source when the copy ends", play: func(s *stage) {
			s.source(owner)
			s.source(child)
			s.source("o") // orphaned
			s.target(child)
			s.target("@4 true 1")
		}},
		{name: "good: orphaned in the tail", play: func(s *stage) {
			s.source(owner, child)
			s.target(owner, child, "@2 true 1")
			s.source("o")
			s.source("c=uid=c owners=o changed")
			s.target("o", "@3 true 1")
			s.target("c=uid=c owners=o changed", "@4 true 1")
		}},
		{name: "dependent before its owner in a base copy", play: func(s *stage) {
			s.source(owner)
			s.source(child)
			s.target(child)
			s.target(owner, "@3 true 1")
		}, order: []string{expect(KindOwnerAbsent, "c")}},
		{name: "owner removed too early and dependent put in the tail", play: func(s *stage) {
			s.source(owner)
			s.target(owner, "@2 true 1")
			s.source(child)
			s.target("o", child, "@3 true 1")
		}, consistency: []string{expect(KindMissed, "o")}, order: []string{expect(KindOwnerAbsent, "c")}},
		{name: "dependent put while the key of its owner holds another object", play: func(s *stage) {
			s.source("o=uid=old")
			s.target("o=uid=old")
			s.source("o")
			s.source(owner)
			s.source(child)
			s.target(child) // no key with UID o yet
			s.target("o")
			s.target(owner, "@5 true 1")
		}, order: []string{expect(KindOwnerAbsent, "c")}},
		{name: "good: another incarnation after a delete", play: func(s *stage) {
			s.source("a=uid=1")
			s.target("a=uid=1", "@2 true 1")
			s.source("a")
			s.source("a=uid=2")
			s.target("a", "@3 true 1")
			s.target("a=uid=2", "@4 true 1")
			s.source("a=uid=2 changed")
			s.target("a=uid=2 changed", "@5 true 1")
		}},
		{name: "another incarnation overwrites in the tail", play: func(s *stage) {
			s.source("a=uid=1")
			s.target("a=uid=1", "@2 true 1")
			s.source("a")
			s.source("a=uid=2")
			s.target("a=uid=2", "@4 true 1")
		}, order: []string{expect(KindOverwritten, "a")}},
		{name: "delete and put of equal values folded into a put", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			s.source("a")
			s.source("a=1")
			s.target("a=1", "@4 true 1")
		}, order: []string{expect(KindOverwritten, "a")}},
		{name: "another incarnation overwrites in a resync", play: func(s *stage) {
			s.source("a=uid=1")
			s.target("a=uid=1", "@2 true 1")
			s.target("@2 false 1")
			s.source("a")
			s.source("a=uid=2")
			s.target("a=uid=2")
			s.target("@4 true 1")
		}, order: []string{expect(KindOverwritten, "a")}},
		{name: "good: what a foreigner put may be overwritten", play: func(s *stage) {
			s.foreign("a=theirs")
			s.source("a=1")
			s.target("a=1", "@2 true 1")
		}},
		{name: "good: a rewound source is copied in steps", play: func(s *stage) {
			s.source("a=1") // 2
			s.source("a=2") // 3
			s.target("a=2", "@3 true 1")
			s.target("@0 false 2")
			s.target("a=1")
			s.target("@2 true 2")
		}},
		{name: "good: ignored keys need no checkpoint", play: func(s *stage) {
			s.source("a=1")
			s.target("a=1", "@2 true 1")
			s.target("own/x=1")
		}},
		{name: "a resync puts what was replaced before it began", play: func(s *stage) {
			s.source("a=1")
			s.source("a=2")
			s.target("a=2", "@3 true 1")
			s.target("@3 false 1")
			s.target("a=1")
			s.target("a=2")
			s.target("@3 true 1")
		}, order: []string{expect(KindUnknownValue, "a")}},
		{name: "an empty value is no delete", play: func(s *stage) {
			s.source("a=1")
			s.source("a")
			s.target("a=", "@3 true 1")
		}, consistency: []string{expect(KindSurplus, "a")}, order: []string{expect(KindUnknownValue, "a")}},
		{name: "good: the owner came after the dependent", play: func(s *stage) {
			s.source(child)
			s.source(owner)
			s.target(child)
			s.target(owner, "@3 true 1")
		}},
		{name: "dependent before its owner, which changes meanwhile", play: func(s *stage) {
			s.source(owner)
			s.source(child)
			s.source("o=uid=o changed")
			s.target(child)
			s.target("o=uid=o changed", "@4 true 1")
		}, order: []string{expect(KindOwnerAbsent, "c")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStage(t)
			tc.play(s)
			s.wait()
			o := s.options()
			for _, check := range []struct {
				name string
				err  error
				want []string
			}{
				{"consistency", CheckPrefixConsistency(s.srcRec, s.dstRec, o), tc.consistency},
				{"order", CheckOrder(s.srcRec, s.dstRec, o), tc.order},
				{"checkpoints", CheckCheckpoints(s.dstRec, o), tc.checkpoints},
			} {
				if got := kinds(t, check.err); !slices.Equal(got, check.want) {
					t.Errorf("%s: got %q, want %q\n%v", check.name, got, check.want, check.err)
				}
			}
			if clean := tc.consistency == nil && tc.order == nil && tc.checkpoints == nil; (CheckAll(s.srcRec, s.dstRec, o) == nil) != clean {
				t.Error("CheckAll says something else than its parts")
			}
		})
	}
}

func TestConverged(t *testing.T) {
	s := newStage(t)
	s.source("a=1", "b=1", "skip/x=1")
	s.target("a=1", "c=1", "own/x=1")
	s.wait()
	want := []string{expect(KindMissed, "b"), expect(KindSurplus, "c")}
	if got := kinds(t, CheckConverged(s.srcRec, s.dstRec, s.options())); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s.target("b=1", "c")
	s.wait()
	if err := CheckConverged(s.srcRec, s.dstRec, s.options()); err != nil {
		t.Error(err)
	}
}

func TestReportsAreBoundedAndHoldNoValues(t *testing.T) {
	s := newStage(t)
	for i := range 30 {
		s.source(fmt.Sprintf("k%02d=secret", i))
		s.target(fmt.Sprintf("k%02d=geheim", i))
	}
	s.target("@31 true 1")
	s.wait()
	err := CheckPrefixConsistency(s.srcRec, s.dstRec, s.options())
	var v *ViolationsError
	if !errors.As(err, &v) || v.Total != 30 || len(v.Violations) != maxViolations {
		t.Fatal(err)
	}
	text := CheckAll(s.srcRec, s.dstRec, s.options()).Error()
	if !strings.Contains(text, "and 10 more") || !strings.Contains(text, `"/t/k00"`) || strings.Contains(text, "secret") || strings.Contains(text, "geheim") {
		t.Error(text)
	}
}
