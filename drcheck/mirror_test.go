package drcheck_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// connect makes a client of a configuration that the test changed.
func connect(t testing.TB, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// intercepted is a client of the target whose requests go through f.
func (s *sides) intercepted(f grpc.UnaryClientInterceptor) *clientv3.Client {
	s.t.Helper()
	cfg := s.targetCluster.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(f))
	return connect(s.t, cfg)
}

var errPoison = errors.New("poison")

// noPoison is a guard.
func noPoison(_ string, value []byte) error {
	if strings.HasPrefix(string(value), "poison") {
		return errPoison
	}
	return nil
}

func configMap(i int) string { return fmt.Sprintf("/registry/configmaps/ns%d/cm%05d", i%7, i) }

// viewOf reads the mirror's metadata as a check does.
func (s *sides) view() *drcheck.MirrorView {
	s.t.Helper()
	v, err := drcheck.ReadMirror(s.ctx, s.target, time.Minute, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// seesWhatTheEngineSees compares what this package reads with what the mirror's own package does.
func (s *sides) seesWhatTheEngineSees() *etcdmirror.Metadata {
	s.t.Helper()
	v := s.view()
	md, err := etcdmirror.ReadMetadata(s.ctx, s.target, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	c, id := md.Checkpoint, md.Identity
	want := drcheck.MirrorView{
		MirrorState: drcheck.MirrorState{Name: "test", Epoch: c.Epoch, Phase: string(c.Phase), AppliedRevision: c.SourceRevision, AppliedAt: c.At, SourceHead: c.SourceHead, SourceHeadAt: c.SourceHeadAt},
		Complete:    c.Complete, Unlisted: c.Unlisted, Unscanned: c.Unscanned, Tripped: md.Trip != nil, Keys: c.Keys, CheckpointRevision: md.CheckpointRevision,
		SourceID: id.SourceClusterID, TargetID: id.TargetClusterID, SourcePrefix: id.SourcePrefix, TargetPrefix: id.TargetPrefix, KeepID: id.KeepID, TransformID: id.TransformID,
		Foreign: map[string]bool{}, Guarded: map[string]string{}, Drifted: map[string]string{}}
	for _, key := range md.Foreign {
		want.Foreign[key] = true
	}
	for _, g := range md.Guarded {
		want.Guarded[g.Key] = g.Reason
	}
	for _, d := range md.Drift {
		want.Drifted[d.Key] = string(d.Kind)
	}
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".view" }, cmp.Ignore())
	if diff := cmp.Diff(want, *v, ignore); diff != "" {
		s.t.Errorf("the mirror's own package and this one differ about the metadata: %s", diff)
	}
	resp, err := s.target.Get(s.ctx, metadata+"test/checkpoint")
	if err != nil {
		s.t.Fatal(err)
	}
	state, err := drcheck.DecodeCheckpoint(resp.Kvs[0])
	if diff := cmp.Diff(want.MirrorState, state); err != nil || diff != "" {
		s.t.Errorf("%v; the checkpoint alone: %s", err, diff)
	}
	return md
}

// TestReadMirror reads the metadata of real mirrors in every phase that can be held still, with marks on more than one page.
func TestReadMirror(t *testing.T) {
	s := newSides(t)
	foreign := map[string]string{}
	for i := range 1100 {
		foreign[fmt.Sprintf("/copy/events/ns/e%04d", i)] = "the standby's own"
	}
	s.fill(s.target, foreign)
	for i := range 20 {
		s.put(s.source, configMap(i), "v")
	}
	s.put(s.source, configMap(3), "poison")
	cfg := etcdmirror.Config{TargetPrefix: "/copy/", Guards: []etcdmirror.Guard{noPoison}, KeepID: "all", Keep: func([]byte) bool { return true }, RepairDelay: time.Hour,
		Deletions: etcdmirror.DeletionGuard{Count: 2, Share: 0.01}}
	r := s.mirror(cfg)
	s.sync(r)
	s.put(s.source, configMap(4), "poison")
	copied := func(i int) string { return "/copy/" + strings.TrimPrefix(configMap(i), "/registry/") }
	s.put(s.target, copied(5), "changed")
	s.delete(s.target, copied(6))
	s.sync(r)
	s.eventually("drift", func() bool {
		drifted := s.view().Drifted
		return drifted[copied(5)] == "changed" && drifted[copied(6)] == "deleted"
	})
	r.stop()
	md := s.seesWhatTheEngineSees()
	if len(md.Foreign) != len(foreign) || len(md.Guarded) != 2 || md.Checkpoint.Phase != etcdmirror.PhaseTail {
		t.Errorf("%d foreign keys, %d guarded, %d drifted, phase %s", len(md.Foreign), len(md.Guarded), len(md.Drift), md.Checkpoint.Phase)
	}

	t.Run("compacted between pages", func(t *testing.T) {
		pages, tries := 0, 0
		c := s.intercepted(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if get, ok := req.(*etcdserverpb.RangeRequest); ok {
				if pages++; get.Revision == 0 {
					tries++
				} else if tries < 3 {
					s.put(s.target, "elsewhere", "v")
					s.compact(s.target)
				}
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		})
		v, err := drcheck.ReadMirror(s.ctx, c, time.Minute, "test")
		if err != nil || len(v.Foreign) != len(foreign) || tries != 3 || pages < 6 {
			t.Errorf("%v after %d pages in %d tries", err, pages, tries)
		}
	})
	t.Run("matches", func(t *testing.T) {
		v := s.view()
		good := []string{v.SourceID, v.TargetID, "/registry/", "/copy/", "all", ""}
		match := func(a []string) error { return v.Matches(a[0], a[1], a[2], a[3], a[4], a[5]) }
		if err := match(good); err != nil {
			t.Error(err)
		}
		for i, field := range []string{"source cluster ID", "", "Prefix", "TargetPrefix", "KeepID", "transformation's ID"} {
			bad := slices.Clone(good)
			bad[i] = "another"
			err := match(bad)
			var detailed *drcheck.Error
			switch {
			case field == "" && err != nil:
				t.Errorf("a target that was restored is refused: %v", err)
			case field == "":
			case !errors.Is(err, drcheck.ErrOtherMirror) || !errors.As(err, &detailed) || detailed.Hint == "" || !strings.Contains(err.Error(), "the "+field) || !strings.Contains(err.Error(), `"another"`):
				t.Errorf("%s: %v", field, err)
			}
		}
	})

	// The guard against mass deletion stops the mirror.
	for i := range 10 {
		s.delete(s.source, configMap(10+i))
	}
	r = s.mirror(cfg)
	s.eventually("trip", func() bool { return r.Status().Trip != nil })
	r.stop()
	if md := s.seesWhatTheEngineSees(); md.Trip == nil {
		t.Error("no trip was read")
	}
	if _, err := etcdmirror.Promote(s.ctx, s.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.seesWhatTheEngineSees()
	if err := etcdmirror.Demote(s.ctx, s.target, "test"); err != nil {
		t.Fatal(err)
	}
	s.seesWhatTheEngineSees()
	if err := s.view().Matches("", "", "", "", "", ""); err != nil {
		t.Errorf("a mirror that has yet to begin anew is told from another: %v", err)
	}
}

// TestUnreadableMirror asks for each way in which metadata cannot be had.
func TestUnreadableMirror(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	s := newSides(t)
	read := func(name string) error {
		_, err := drcheck.ReadMirror(s.ctx, s.target, time.Minute, name)
		if _, other := drcheck.ReadVerdict(s.ctx, s.target, name); !errors.Is(other, errors.Unwrap(err)) && fmt.Sprint(other) != fmt.Sprint(err) {
			t.Errorf("%s: a check says %v, the verdict %v", name, err, other)
		}
		return err
	}
	checkpoint, identity := `{"v":1,"epoch":1,"phase":"tail","revision":5}`, `{"v":1,"sourceClusterID":"a"}`
	for name, c := range map[string]struct {
		checkpoint, identity string
		kind                 error
		says                 string
	}{
		"none":        {"", "", drcheck.ErrNoMirror, "/understudy/none/"},
		"only-id":     {"", identity, drcheck.ErrNoMirror, "/understudy/only-id/"},
		"no-identity": {checkpoint, "", drcheck.ErrMetadata, "/understudy/no-identity/identity is missing"},
		"newer":       {`{"v":2,"epoch":1}`, identity, drcheck.ErrMetadata, "/understudy/newer/checkpoint has version 2, this program knows 1"},
		"newer-id":    {checkpoint, `{"v":7}`, drcheck.ErrMetadata, "/understudy/newer-id/identity has version 7"},
		"unversioned": {`{}`, identity, drcheck.ErrMetadata, "has version 0"},
		"damaged":     {secret, identity, drcheck.ErrMetadata, "/understudy/damaged/checkpoint is damaged"},
		"mistyped":    {`{"v":1,"epoch":"` + secret + `"}`, identity, drcheck.ErrMetadata, "/understudy/mistyped/checkpoint is damaged"},
	} {
		for item, value := range map[string]string{"checkpoint": c.checkpoint, "identity": c.identity} {
			if value != "" {
				s.put(s.target, metadata+name+"/"+item, value)
			}
		}
		err := read(name)
		var detailed *drcheck.Error
		if !errors.Is(err, c.kind) || !errors.As(err, &detailed) || detailed.Hint == "" || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.kind, c.says)
		}
	}
	if _, err := drcheck.ReadVerdict(s.ctx, nil, "test"); !errors.Is(err, drcheck.ErrConfig) {
		t.Errorf("no client: %v", err)
	}
	if _, err := drcheck.ReadVerdict(s.ctx, s.target, "no name"); !errors.Is(err, drcheck.ErrConfig) || !strings.Contains(err.Error(), `"no name"`) {
		t.Errorf("no name: %v", err)
	}

	root := []error{}
	try := func(_ any, err error) { root = append(root, err) }
	try(s.target.UserAdd(s.ctx, "root", "root"))
	try(s.target.UserGrantRole(s.ctx, "root", "root"))
	try(s.target.UserAdd(s.ctx, "guest", "guest"))
	try(s.target.AuthEnable(s.ctx))
	if err := errors.Join(root...); err != nil {
		t.Fatal(err)
	}
	cfg := s.targetCluster.ClientConfig()
	cfg.Username, cfg.Password = "guest", "guest"
	s.target = connect(t, cfg)
	if err := read("damaged"); !errors.Is(err, drcheck.ErrPermission) || !strings.Contains(err.Error(), "check user") {
		t.Errorf("a guest: %v", err)
	}
	if err := drcheck.WriteCheck(s.ctx, s.target, time.Minute, "damaged", &drcheck.Result{}); !errors.Is(err, drcheck.ErrPermission) {
		t.Errorf("a guest writes: %v", err)
	}
	if err := s.targetCluster.Close(); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() error{
		"read": func() error { _, err := drcheck.ReadMirror(s.ctx, s.target, 100*time.Millisecond, "test"); return err },
		"write": func() error {
			return drcheck.WriteCheck(s.ctx, s.target, 100*time.Millisecond, "test", &drcheck.Result{})
		},
	} {
		if err := call(); !errors.Is(err, drcheck.ErrUnreachable) || !strings.Contains(err.Error(), "check endpoints") {
			t.Errorf("%s at a dead target: %v", what, err)
		}
	}
}

// TestNames holds the rule of names against the mirror's.
func TestNames(t *testing.T) {
	accepted := 0
	schedules(t, 1, func(t *testing.T, _ uint64, rng *rand.Rand) {
		for range 20_000 {
			name := make([]byte, rng.IntN(4)+rng.IntN(2)*rng.IntN(63))
			for i := range name {
				const common, rare = "abz019-.", "AZ_/ \x00\xff\n"
				name[i] = common[rng.IntN(len(common))]
				if rng.IntN(30) == 0 {
					name[i] = rare[rng.IntN(len(rare))]
				}
			}
			got, want := drcheck.ValidateName(string(name)), etcdmirror.ValidateName(string(name))
			if (got == nil) != (want == nil) || got != nil && !errors.Is(got, drcheck.ErrConfig) {
				t.Fatalf("%q: %v, the mirror says %v", name, got, want)
			}
			if got == nil {
				accepted++
			}
		}
	})
	if accepted == 0 {
		t.Error("no name was accepted: nothing was tested")
	}
}

// TestWriteCheckLeavesWhatItCannotRead: a record of a newer version, or a damaged one, is not written over, and the mirror is read all the same.
func TestWriteCheckLeavesWhatItCannotRead(t *testing.T) {
	s := newSides(t)
	s.put(s.source, configMap(0), "v")
	r := s.mirror(etcdmirror.Config{})
	s.sync(r)
	for _, value := range []string{`{"v":2,"lastEqual":[]}`, "damaged"} {
		s.put(s.target, metadata+"test/check", value)
		result := s.check(drcheck.Config{Name: "test"})
		if err := drcheck.WriteCheck(s.ctx, s.target, time.Minute, "test", result); !errors.Is(err, drcheck.ErrMetadata) {
			t.Errorf("%s: %v", value, err)
		}
		resp, err := s.target.Get(s.ctx, metadata+"test/check")
		if err != nil || string(resp.Kvs[0].Value) != value {
			t.Errorf("%v; the record was written over", err)
		}
		v, err := drcheck.ReadVerdict(s.ctx, s.target, "test")
		if err != nil || !v.ChecksUnreadable || v.LastEqual != nil || !v.Complete {
			t.Errorf("%v; verdict %+v", err, v)
		}
	}
}

// TestWriteCheckAcrossOrders: a checkpoint whose fields come in another order is compared by its revision.
func TestWriteCheckAcrossOrders(t *testing.T) {
	s := newSides(t)
	s.put(s.target, metadata+"test/identity", `{"v":1,"sourceClusterID":"a"}`)
	s.put(s.target, metadata+"test/checkpoint", `{"epoch":1,"v":1,"phase":"tail","revision":5}`)
	result := &drcheck.Result{Mode: drcheck.Content, Equal: true, SourceClusterID: "a", SourceRevision: 5, TargetRevision: s.revision(s.target), Mirror: &drcheck.MirrorState{Epoch: 1}}
	var writes atomic.Int64
	c := s.intercepted(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if isWrite(req) && writes.Add(1) == 1 {
			s.put(s.target, metadata+"test/checkpoint", `{"epoch":1,"v":1,"phase":"tail","revision":6}`)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	if err := drcheck.WriteCheck(s.ctx, c, time.Minute, "test", result); err != nil || writes.Load() != 2 {
		t.Errorf("%v after %d writes, want 2: the checkpoint had changed before the first", err, writes.Load())
	}
	resp, err := s.target.Get(s.ctx, metadata+"test/check")
	if err != nil || len(resp.Kvs) != 1 || !json.Valid(resp.Kvs[0].Value) {
		t.Errorf("%v; no record", err)
	}
	s.put(s.target, metadata+"test/checkpoint", `{"epoch":2,"v":1,"phase":"tail","revision":6}`)
	if err := drcheck.WriteCheck(s.ctx, c, time.Minute, "test", result); !errors.Is(err, drcheck.ErrOtherMirror) {
		t.Errorf("a result of another epoch: %v", err)
	}
}

// isWrite reports whether a request is a transaction that puts.
func isWrite(req any) bool {
	txn, ok := req.(*etcdserverpb.TxnRequest)
	return ok && slices.ContainsFunc(txn.Success, func(op *etcdserverpb.RequestOp) bool { return op.GetRequestPut() != nil })
}
