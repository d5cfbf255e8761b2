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
