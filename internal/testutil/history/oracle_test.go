package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

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
