package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// mirrorName is the name of every mirror.
const mirrorName = "test"

// side is one etcd of a pair.
type side struct {
	*clientv3.Client
	role   string  // "source" or "target"
	server *server // nil: embedded
}

// pair is a source and a target.
type pair struct {
	t              *testing.T
	ctx            context.Context
	source, target *side
	keep           func(key []byte) bool // of the mirror's filter; nil keeps all
	own            *traffic.Stranger     // has keys of its own at the target; nil: nobody has
	marks          int
}

// newPair starts both sides. sourceOps and targetOps are their --max-txn-ops; 0 is the servers' default.
func newPair(t *testing.T, c combination, sourceOps, targetOps int) *pair {
	t.Helper()
	p := &pair{t: t, ctx: testutil.Context(t)}
	p.source = p.newSide("source", c.source, sourceOps)
	p.target = p.newSide("target", c.target, targetOps)
	return p
}

func (p *pair) newSide(role string, installed bool, maxTxnOps int) *side {
	p.t.Helper()
	s := &side{role: role}
	var cfg clientv3.Config
	if installed {
		s.server = startServer(p.ctx, p.t, maxTxnOps)
		cfg = s.server.clientConfig()
		p.t.Logf("the %s is etcd %s", role, s.server.version)
	} else {
		cfg = quick(testutil.NewCluster(p.t, embedetcd.Options{MaxTxnOps: uint(maxTxnOps)}).ClientConfig())
	}
	var err error
	if s.Client, err = clientv3.New(cfg); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = s.Close() })
	return s
}

// installed are the sides that are the installed server.
func (p *pair) installed() (sides []*side) {
	for _, s := range []*side{p.source, p.target} {
		if s.server != nil {
			sides = append(sides, s)
		}
	}
	return sides
}

// running is a mirror at work.
type running struct {
	*etcdmirror.Mirror
	p      *pair
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run; read after done
	log    logBuffer
}

// logBuffer keeps what the mirror logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start runs a mirror until the test ends or stop is called. Its session is short unless the configuration says otherwise.
func (p *pair) start(cfg etcdmirror.Config) *running {
	p.t.Helper()
	r := &running{p: p, done: make(chan struct{})}
	cfg.Name, cfg.Logger = mirrorName, slog.New(slog.NewTextHandler(&r.log, nil))
	if cfg.SessionTTL == 0 {
		cfg.SessionTTL = time.Second
	}
	var err error
	if r.Mirror, err = etcdmirror.New(p.source.Client, p.target.Client, cfg); err != nil {
		p.t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(p.ctx)
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	p.t.Cleanup(func() {
		r.cancel()
		<-r.done
		if p.t.Failed() {
			p.t.Logf("log of the mirror:\n%s", r.log.String())
		}
	})
	return r
}

// stop ends a mirror and fails the test if it did not end cleanly.
func (r *running) stop() {
	r.p.t.Helper()
	r.cancel()
	<-r.done
	if r.err != nil {
		r.p.t.Fatalf("Run ended with %v", r.err)
	}
}

// eventually waits for a condition that the mirror brings about by itself.
func (r *running) eventually(what string, cond func(etcdmirror.Status) bool) {
	r.p.t.Helper()
	for !cond(r.Status()) {
		select {
		case <-time.After(pollInterval):
		case <-r.done:
			r.p.t.Fatalf("Run ended with %v while waiting for %s", r.err, what)
		case <-r.p.ctx.Done():
			r.p.t.Fatalf("no %s; status %+v", what, r.Status())
		}
	}
}

// started waits until the mirror has done its first checks: before that, a server that is away ends it.
func (r *running) started() {
	r.p.t.Helper()
	r.eventually("start", func(s etcdmirror.Status) bool {
		return s.State != etcdmirror.StateIdle && s.State != etcdmirror.StateStarting
	})
}

// sync writes a kept key to the source and waits until the mirror is as far. With servers whose progress notifications cannot be trusted,
// an event is all that tells the mirror how far it is.
func (p *pair) sync(r *running) {
	p.t.Helper()
	rev := p.mark()
	wait := make(chan error, 1)
	go func() { wait <- r.WaitForRevision(p.ctx, rev) }()
	select {
	case err := <-wait:
		if err != nil {
			p.t.Fatalf("%v; status %+v", err, r.Status())
		}
	case <-r.done:
		p.t.Fatalf("Run ended with %v; status %+v", r.err, r.Status())
	}
}

// mark writes a kept key to the source that nobody else writes.
func (p *pair) mark() (revision int64) {
	p.t.Helper()
	for {
		p.marks++
		key := fmt.Sprintf("%smarks/%d", etcdmirror.DefaultPrefix, p.marks)
		if p.keep == nil || p.keep([]byte(key)) {
			return p.source.put(p, key, fmt.Sprint("mark ", p.marks))
		}
	}
}

// do sends one request with a deadline and fails the test with its error.
func do[T any](p *pair, request func(context.Context) (T, error)) T {
	p.t.Helper()
	v, err := etcdrpc.Do(p.ctx, requestTimeout, request)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

func (s *side) put(p *pair, key, value string) (revision int64) {
	p.t.Helper()
	return do(p, func(ctx context.Context) (*clientv3.PutResponse, error) { return s.Put(ctx, key, value) }).Header.Revision
}

func (s *side) delete(p *pair, key string) {
	p.t.Helper()
	do(p, func(ctx context.Context) (*clientv3.DeleteResponse, error) { return s.Delete(ctx, key) })
}

func (s *side) txn(p *pair, ops ...clientv3.Op) *clientv3.TxnResponse {
	p.t.Helper()
	return do(p, func(ctx context.Context) (*clientv3.TxnResponse, error) { return s.Txn(ctx).Then(ops...).Commit() })
}

// compact discards the side's history up to a revision.
func (s *side) compact(p *pair, rev int64) {
	p.t.Helper()
	_, err := etcdrpc.Do(p.ctx, requestTimeout, func(ctx context.Context) (*clientv3.CompactResponse, error) { return s.Compact(ctx, rev) })
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		p.t.Fatal(err)
	}
}

// head is the side's current revision.
func (s *side) head(p *pair) int64 {
	p.t.Helper()
	_, rev, err := etcdrpc.Head(p.ctx, s.Client, requestTimeout, "/")
	if err != nil {
		p.t.Fatal(err)
	}
	return rev
}

// state reads all keys at a revision; 0 is now.
func (s *side) state(p *pair, rev int64) map[string]*mvccpb.KeyValue {
	p.t.Helper()
	all := map[string]*mvccpb.KeyValue{}
	for begin := "\x00"; ; {
		resp := do(p, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return s.Get(ctx, begin, clientv3.WithFromKey(), clientv3.WithLimit(200), clientv3.WithRev(rev))
		})
		for _, kv := range resp.Kvs {
			all[string(kv.Key)] = kv
		}
		if !resp.More {
			return all
		}
		rev = resp.Header.Revision
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// act lets the target's own cluster make, change or delete keys of its own.
func (p *pair) act(times int) {
	p.t.Helper()
	for range times {
		if err := p.own.Act(p.ctx); err != nil {
			p.t.Fatal(err)
		}
	}
}

// mustHaveOwn fails the test unless the target's own keys are as its cluster left them.
func (p *pair) mustHaveOwn() {
	p.t.Helper()
	if err := p.own.Check(p.ctx); err != nil {
		p.t.Error(err)
	}
}

// mustEqual compares, key by key, what the default prefix holds at the source at a revision (0: now) and at the target now. Besides, the target may hold metadata and its own keys only.
// It returns how many keys there are.
func (p *pair) mustEqual(sourceRev int64) (n int) {
	p.t.Helper()
	source, target := p.source.state(p, sourceRev), p.target.state(p, 0)
	for key, kv := range source {
		if !strings.HasPrefix(key, etcdmirror.DefaultPrefix) {
			continue
		}
		n++
		switch theirs := target[key]; {
		case theirs == nil:
			p.t.Errorf("missed key %q", key)
		case !bytes.Equal(theirs.Value, kv.Value):
			p.t.Errorf("different key %q", key)
		}
	}
	for key := range target {
		if strings.HasPrefix(key, etcdmirror.MetadataPrefix) || p.own != nil && p.own.Owns(key) {
			continue
		}
		if !strings.HasPrefix(key, etcdmirror.DefaultPrefix) || source[key] == nil {
			p.t.Errorf("surplus key %q", key)
		}
	}
	return n
}
