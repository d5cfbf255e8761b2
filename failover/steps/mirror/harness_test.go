package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"switch": childSwitch})
	testutil.Main(m)
}

// notKept is what the filter of these tests drops: it stands for leases and events, which go on whatever is closed.
const notKept = "/registry/leases/"

func keep(key []byte) bool { return !bytes.HasPrefix(key, []byte(notKept)) }

// mirrorConfig is the mirror's, in either direction.
func mirrorConfig(name string) etcdmirror.Config {
	return etcdmirror.Config{Name: name, Keep: keep, KeepID: "no leases", Unchecked: true, SessionTTL: time.Second, CheckpointInterval: 200 * time.Millisecond,
		ProgressInterval: 100 * time.Millisecond, Deletions: etcdmirror.DeletionGuard{Off: true}}
}

func checkConfig(name string) drcheck.Config {
	return drcheck.Config{Name: name, Keep: keep, KeepID: "no leases"}
}

// stage is two clusters with a mirror from a to b, "ab", that runs, and one back, "ba", that does not.
type stage struct {
	t        *testing.T
	ctx      context.Context
	aCluster *embedetcd.Cluster
	bCluster *embedetcd.Cluster
	a, b     *clientv3.Client
	ab, ba   *engine.InProcess
	gate     *fileGate
	dir      string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, ctx: testutil.Context(t), dir: t.TempDir()}
	var wg sync.WaitGroup // two members start side by side
	wg.Go(func() { s.aCluster = testutil.NewCluster(t, embedetcd.Options{}) })
	wg.Go(func() { s.bCluster = testutil.NewCluster(t, embedetcd.Options{}) })
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	s.a, s.b = testutil.Client(t, s.aCluster), testutil.Client(t, s.bCluster)
	s.gate = &fileGate{filepath.Join(s.dir, "gate.closed")}
	s.ab, s.ba = s.inProcess(s.a, s.b, mirrorConfig("ab")), s.inProcess(s.b, s.a, mirrorConfig("ba"))
	return s
}

func (s *stage) inProcess(source, target *clientv3.Client, cfg etcdmirror.Config) *engine.InProcess {
	m, err := engine.NewInProcess(source, target, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = m.Stop(context.Background()) })
	return m
}

// mirrored starts the mirror and waits until it has applied what the primary has.
func (s *stage) mirrored() {
	s.t.Helper()
	if err := s.ab.Start(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	s.caughtUp(s.ab, s.a)
}

func (s *stage) caughtUp(m *engine.InProcess, source *clientv3.Client) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	if err := m.WaitForRevision(ctx, s.head(source)); err != nil {
		s.t.Fatalf("%v; status %+v", err, m.Status())
	}
}

func (s *stage) head(c *clientv3.Client) int64 {
	s.t.Helper()
	resp, err := c.Get(s.ctx, "head")
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (s *stage) put(c *clientv3.Client, key, value string) int64 {
	s.t.Helper()
	resp, err := c.Put(s.ctx, key, value)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (s *stage) del(c *clientv3.Client, key string) int64 {
	s.t.Helper()
	resp, err := c.Delete(s.ctx, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (s *stage) compact(c *clientv3.Client) {
	s.t.Helper()
	if _, err := c.Compact(s.ctx, s.head(c)); err != nil {
		s.t.Fatal(err)
	}
}

// content is what a cluster holds below /registry/ of what is kept.
func (s *stage) content(c *clientv3.Client) map[string]string {
	s.t.Helper()
	resp, err := c.Get(s.ctx, "/registry/", clientv3.WithPrefix())
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		if keep(kv.Key) {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all
}

func (s *stage) metadata(c *clientv3.Client, name string) *etcdmirror.Metadata {
	s.t.Helper()
	md, err := etcdmirror.ReadMetadata(s.ctx, c, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return md
}

func (s *stage) pair() mirror.Pair    { return engine.Pair(s.a, s.b, mirrorConfig("ab")) }
func (s *stage) reverse() mirror.Pair { return engine.Pair(s.b, s.a, mirrorConfig("ba")) }

func (s *stage) verdicts() mirror.Verdicts {
	return must(engine.NewVerdicts(s.a, s.b, checkConfig("ab")))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const window = 100 * time.Millisecond

// settings are the configs of a switch from a to b.
type settings struct {
	pair     mirror.Pair
	gate     mirror.Gate
	control  mirror.Control
	waiter   mirror.Waiter
	verdicts mirror.Verdicts
	margin   int64
}

func (s *stage) settings() settings {
	return settings{pair: s.pair(), gate: s.gate, control: s.ab, waiter: s.ab, verdicts: s.verdicts(), margin: 50}
}

// steps are those of a switch up to the point where clients move.
func (c settings) steps() []failover.Step {
	return []failover.Step{
		must(mirror.VerdictGate(mirror.VerdictGateConfig{Pair: c.pair, Verdicts: c.verdicts})),
		must(mirror.Quiesce(mirror.QuiesceConfig{Pair: c.pair, Gate: c.gate, Window: window})),
		must(mirror.Drain(mirror.DrainConfig{Pair: c.pair, Waiter: c.waiter, Timeout: 30 * time.Second})),
		must(mirror.StopMirror(mirror.StopMirrorConfig{Pair: c.pair, Control: c.control, Timeout: 30 * time.Second})),
		must(mirror.EpochFence(mirror.EpochFenceConfig{Pair: c.pair})),
		must(mirror.RevisionFence(mirror.RevisionFenceConfig{Pair: c.pair, Margin: c.margin, MarginUngraceful: c.margin})),
	}
}

func plan(t testing.TB, mode failover.Mode, steps ...failover.Step) *failover.Plan {
	t.Helper()
	p, err := failover.NewPlan(failover.PlanConfig{Name: "test", Mode: mode, Steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run carries a plan out on a journal of the stage.
func (s *stage) run(p *failover.Plan, journal string, hooks failover.Hooks) (*failover.Runner, error) {
	s.t.Helper()
	r, err := failover.New(p, failover.Config{Journal: filepath.Join(s.dir, journal), NoWait: true, Poll: 10 * time.Millisecond, Hooks: hooks})
	if err != nil {
		s.t.Fatal(err)
	}
	return r, r.Run(s.ctx)
}

func (s *stage) mustRun(p *failover.Plan, journal string) *failover.Runner {
	s.t.Helper()
	r, err := s.run(p, journal, failover.Hooks{})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// observe asks the steps of a plan without a journal.
func (s *stage) observe(p *failover.Plan) map[string]failover.DryStep {
	s.t.Helper()
	report, err := p.DryRun(s.ctx, failover.DryRunOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]failover.DryStep{}
	for _, step := range report.Steps {
		all[step.Name] = step
	}
	return all
}

// fileGate keeps writers away by a file that they look at before each write.
type fileGate struct{ path string }

func (g *fileGate) About() string { return "the file " + filepath.Base(g.path) }
func (g *fileGate) Closed(context.Context) (bool, error) {
	_, err := os.Stat(g.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
func (g *fileGate) Close(context.Context) error { return os.WriteFile(g.path, nil, 0o600) }
func (g *fileGate) Open(context.Context) error {
	if err := os.Remove(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// acked is the last write of a key that an etcd acknowledged.
type acked struct {
	value   string
	deleted bool
	rev     int64
	at      time.Time // when it was acknowledged
}

// is reports whether a content has a key as this write left it.
func (a acked) is(content map[string]string, key string) bool {
	value, there := content[key]
	return there != a.deleted && (a.deleted || value == a.value)
}

// traffic writes to a cluster while its gate is open and remembers what was acknowledged.
type traffic struct {
	mu      sync.Mutex
	last    map[string]acked
	all     map[string][]acked
	unknown map[string]acked // sent last and not acknowledged: it may have been done or not
	n       int

	stop  context.CancelFunc
	wg    sync.WaitGroup
	ended atomic.Bool
}

// startTraffic runs until the test ends or end is called. Each writer has keys of its own. Another one writes what is not kept, whatever the gate says.
func (s *stage) startTraffic(c *clientv3.Client, seed uint64) *traffic {
	ctx, cancel := context.WithCancel(s.ctx)
	tr := &traffic{last: map[string]acked{}, all: map[string][]acked{}, unknown: map[string]acked{}, stop: cancel}
	for w := range 4 {
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		tr.wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if closed, _ := s.gate.Closed(ctx); closed {
					sleep(ctx, time.Millisecond)
					continue
				}
				tr.write(ctx, c, rng, fmt.Sprintf("/registry/configmaps/ns%d/w%d-%02d", w%2, w, rng.IntN(25)), fmt.Sprintf("%d/%d/%d", seed, w, n))
				sleep(ctx, time.Duration(rng.IntN(2000))*time.Microsecond)
			}
		})
	}
	tr.wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			_, _ = c.Put(ctx, notKept+"node", fmt.Sprint(n))
			sleep(ctx, 3*time.Millisecond)
		}
	})
	s.t.Cleanup(tr.end)
	return tr
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (tr *traffic) write(ctx context.Context, c *clientv3.Client, rng *rand.Rand, key, value string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	a := acked{value: value, deleted: rng.IntN(5) == 0}
	var err error
	if a.deleted {
		var resp *clientv3.DeleteResponse
		if resp, err = c.Delete(ctx, key); err == nil {
			a.rev = resp.Header.Revision
		}
	} else {
		var resp *clientv3.PutResponse
		if resp, err = c.Put(ctx, key, value); err == nil {
			a.rev = resp.Header.Revision
		}
	}
	a.at = time.Now()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err != nil {
		tr.unknown[key] = a
		return
	}
	tr.last[key], tr.all[key] = a, append(tr.all[key], a)
	tr.n++
}

func (tr *traffic) end() {
	tr.stop()
	tr.wg.Wait()
	tr.ended.Store(true)
}

func (tr *traffic) acknowledged() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.n
}

// lost lists acknowledged writes that a content lacks. Traffic must have ended.
func (tr *traffic) lost(content map[string]string) (lost []string) {
	for key, a := range tr.last {
		if !a.is(content, key) {
			lost = append(lost, fmt.Sprintf("%s at revision %d", key, a.rev))
		}
	}
	slices.Sort(lost)
	return lost
}

// eventually polls for what something else brings about.
func (s *stage) eventually(what string, cond func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); sleep(s.ctx, 5*time.Millisecond) {
		if time.Now().After(deadline) || s.ctx.Err() != nil {
			s.t.Fatalf("no %s", what)
		}
	}
}

func wantText(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s says %q, without %q", what, text, part)
		}
	}
}

// endedObserve and endedDo are a step that ends traffic.
func endedObserve(tr *traffic) func(context.Context) (failover.Observation, error) {
	return func(context.Context) (failover.Observation, error) {
		if tr.ended.Load() {
			return failover.Observation{State: failover.Done}, nil
		}
		return failover.Observation{State: failover.Pending}, nil
	}
}

func endedDo(tr *traffic) func(context.Context) error {
	return func(context.Context) error { tr.end(); return nil }
}
