package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func start(t *testing.T) (ctx context.Context, source, target *clientv3.Client, m *engine.InProcess) {
	t.Helper()
	ctx = testutil.Context(t)
	source, target = testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{})), testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	m, err := engine.NewInProcess(source, target, etcdmirror.Config{Name: "ab", Unchecked: true, SessionTTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Stop(context.Background()) })
	return ctx, source, target, m
}

// Whatever the mirror and the check tell of a pair, the steps get.
func TestTheStandbysWords(t *testing.T) {
	ctx, source, target, m := start(t)
	records := engine.Records(target, "ab")
	verdicts, err := engine.NewVerdicts(source, target, drcheck.Config{Name: "ab"})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := records.State(ctx); err != nil || st.Phase != mirror.PhaseNone {
		t.Fatalf("without a mirror: %+v, %v", st, err)
	}
	if _, found, err := verdicts.Standing(ctx); err != nil || found {
		t.Fatalf("without a mirror: found %v, %v", found, err)
	}
	if _, err := source.Put(ctx, "/registry/configmaps/a/x", "1"); err != nil {
		t.Fatal(err)
	}
	put, err := source.Put(ctx, "/registry/configmaps/a/y", "1")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitForRevision(ctx, put.Header.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Put(ctx, "/registry/configmaps/a/own", "1"); err != nil {
		t.Fatal(err)
	}
	md, err := etcdmirror.ReadMetadata(ctx, target, "ab")
	for err == nil && len(md.Foreign) == 0 && ctx.Err() == nil {
		_, _ = source.Put(ctx, "/registry/configmaps/a/z", "1") // a note goes with the next change
		time.Sleep(10 * time.Millisecond)
		md, err = etcdmirror.ReadMetadata(ctx, target, "ab")
	}
	if err != nil || len(md.Foreign) != 1 {
		t.Fatalf("%+v, %v", md, err)
	}
	if err := m.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	md, err = etcdmirror.ReadMetadata(ctx, target, "ab")
	if err != nil {
		t.Fatal(err)
	}
	st, err := records.State(ctx)
	if err != nil || st.Phase != mirror.PhaseTail || !st.Complete || st.Epoch != 1 || st.AppliedRevision != md.Checkpoint.SourceRevision || st.SourceHead != md.Checkpoint.SourceHead ||
		st.Revision != md.CheckpointRevision || st.SourceClusterID != md.Identity.SourceClusterID || len(st.Foreign) != 1 {
		t.Errorf("%+v, %v; the metadata is %+v", st, err, md)
	}
	o, err := verdicts.Check(ctx)
	if err != nil || o.Equal || !o.Content || o.Surplus != 1 || o.Missed+o.Different != 0 || o.SourceClusterID != md.Identity.SourceClusterID {
		t.Errorf("%+v, %v", o, err)
	}
	s, found, err := verdicts.Standing(ctx)
	if err != nil || !found || s.LastDiffers == nil || s.LastDiffers.Surplus != 1 || s.LastEqual != nil || !s.Complete || s.Phase != mirror.PhaseTail || s.HoldsUntil.IsZero() {
		t.Errorf("%+v, %v, %v", s, found, err)
	}
	if err := records.Promote(ctx, false); err != nil {
		t.Fatal(err)
	}
	if err := records.Promote(ctx, false); err != nil {
		t.Errorf("promoted again: %v", err)
	}
	if st, err := records.State(ctx); err != nil || st.Phase != mirror.PhasePromoted || !st.Complete {
		t.Errorf("promoted: %+v, %v", st, err)
	}
	// A mirror that cannot start says why.
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for running := true; running; running, _ = m.Running(ctx) {
		time.Sleep(time.Millisecond)
	}
	if err := m.Failure(); !errors.Is(err, etcdmirror.ErrPromoted) {
		t.Errorf("failure %v", err)
	}
	if err := m.WaitForRevision(ctx, 1); err == nil {
		t.Error("it waits for a mirror that does not run")
	}
	if err := records.Demote(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitForRevision(ctx, put.Header.Revision); err != nil {
		t.Errorf("after demoting: %v", err)
	}
}

func TestBadSettings(t *testing.T) {
	_, source, target, _ := start(t)
	if _, err := engine.NewVerdicts(source, target, drcheck.Config{}); !errors.Is(err, failover.ErrConfig) {
		t.Errorf("without a name: %v", err)
	}
	if _, err := engine.NewVerdicts(source, target, drcheck.Config{Name: "ab", Settle: -1}); !errors.Is(err, failover.ErrConfig) || !errors.Is(err, drcheck.ErrConfig) {
		t.Errorf("with a negative Settle: %v", err)
	}
	if _, err := engine.NewInProcess(source, target, etcdmirror.Config{}); !errors.Is(err, etcdmirror.ErrConfig) {
		t.Errorf("a mirror without a name: %v", err)
	}
}
