package kvstream_test

import (
	"context"
	"crypto/sha256"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/internal/kvstream"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

const (
	// ample is a deadline that no call comes near, brief one that a call to a dead server may use up.
	ample = 30 * time.Second
	brief = 100 * time.Millisecond
	// loadOps is how many operations the harness puts into one transaction where the server's limit allows it.
	loadOps = 2000
)

// random returns a source of chance whose seed is logged; UNDERSTUDY_SEED repeats a run.
func random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("UNDERSTUDY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("UNDERSTUDY_SEED: %v", err)
		}
	}
	t.Logf("UNDERSTUDY_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// server is an etcd that counts calls, and the client that writes to it.
type server struct {
	*embedetcd.Cluster
	client *clientv3.Client
	ops    int // of one transaction
	bytes  int // of one request

	streams  atomic.Int64 // RangeStream calls begun
	open     atomic.Int64 // RangeStream calls that have not ended
	ranges   atomic.Int64 // Range calls begun
	requests atomic.Int64 // Range and Txn calls begun

	// noStream makes the server answer like one before etcd 3.7.
	noStream atomic.Bool
	asked    atomic.Value // func(begin string, limit int64), see tellRange
	// stall stops all streams before they send message number stall; 0 lets them go on.
	stall atomic.Int64
}

func newServer(t testing.TB, opts embedetcd.Options) *server {
	t.Helper()
	s := &server{ops: int(opts.MaxTxnOps)}
	if s.ops == 0 {
		s.ops, opts.MaxTxnOps = loadOps, loadOps
	}
	if opts.MaxRequestBytes == 0 {
		opts.MaxRequestBytes = 1 << 20
	}
	s.bytes = int(opts.MaxRequestBytes)
	opts.Change = func(_ int, cfg *embed.Config) {
		cfg.GRPCAdditionalServerOptions = append(cfg.GRPCAdditionalServerOptions,
			grpc.ChainStreamInterceptor(s.onStream), grpc.ChainUnaryInterceptor(s.onCall))
	}
	s.Cluster = testutil.NewCluster(t, opts)
	s.client = testutil.Client(t, s.Cluster)
	return s
}

func (s *server) onCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	switch info.FullMethod {
	case "/etcdserverpb.KV/Range":
		s.ranges.Add(1)
		s.tell(req)
		s.requests.Add(1)
	case "/etcdserverpb.KV/Txn":
		s.requests.Add(1)
	}
	return next(ctx, req)
}

func (s *server) onStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.FullMethod != "/etcdserverpb.KV/RangeStream" {
		return next(srv, stream)
	}
	if s.noStream.Load() {
		return status.Error(codes.Unimplemented, "unknown method RangeStream for service etcdserverpb.KV")
	}
	s.streams.Add(1)
	s.open.Add(1)
	defer s.open.Add(-1)
	return next(srv, &slowStream{ServerStream: stream, stall: &s.stall, got: s.tell})
}

// tellRange calls fn with each bounded range that the server is asked for; nil: no more.
func (s *server) tellRange(fn func(begin string, limit int64)) { s.asked.Store(fn) }

func (s *server) tell(req any) {
	fn, _ := s.asked.Load().(func(begin string, limit int64))
	if r, ok := req.(*pb.RangeRequest); ok && fn != nil && r.Limit > 0 {
		fn(string(r.Key), r.Limit)
	}
}

// slowStream is a stream that can be made to hang.
type slowStream struct {
	grpc.ServerStream
	sent  int64
	stall *atomic.Int64
	got   func(req any)
}

func (s *slowStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.got(m)
	}
	return err
}

func (s *slowStream) SendMsg(m any) error {
	if s.sent++; s.sent == s.stall.Load() {
		<-s.Context().Done()
		return s.Context().Err()
	}
	return s.ServerStream.SendMsg(m)
}

// narrow connects with a small window, so that the server cannot send far ahead of the reader.
func (s *server) narrow(t testing.TB) *clientv3.Client {
	t.Helper()
	cfg := s.ClientConfig()
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
	cli, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func (s *server) reader() *kvstream.Reader {
	return &kvstream.Reader{Client: s.client, Timeout: ample}
}

// version is what an oracle knows of one key at one revision.
type version struct {
	create, mod, number int64
	sum                 [sha256.Size]byte // of the value
}

func versionOf(kv *mvccpb.KeyValue) version {
	return version{kv.CreateRevision, kv.ModRevision, kv.Version, sha256.Sum256(kv.Value)}
}

// bare is the version as reads without values show it.
func (v version) bare() version {
	v.sum = sha256.Sum256(nil)
	return v
}

// oracle writes to a server and knows the outcome: the state at each revision asked for, and every version that a key ever had.
type oracle struct {
	t    testing.TB
	s    *server
	rev  int64
	now  map[string]version
	past map[string][]version
}

func newOracle(t testing.TB, s *server) *oracle {
	t.Helper()
	resp, err := s.client.Get(testutil.Context(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	return &oracle{t: t, s: s, rev: resp.Header.Revision, now: map[string]version{}, past: map[string][]version{}}
}

// commit puts and deletes keys in as few transactions as the server allows and returns the revision then. deletes must exist.
func (o *oracle) commit(puts map[string]string, deletes []string) int64 {
	o.t.Helper()
	var ops []clientv3.Op
	bytes := 0
	flush := func() {
		o.t.Helper()
		if len(ops) == 0 {
			return
		}
		resp, err := o.s.client.Txn(testutil.Context(o.t)).Then(ops...).Commit()
		if err != nil {
			o.t.Fatal(err)
		}
		o.rev = resp.Header.Revision
		for _, op := range ops {
			o.record(op)
		}
		ops, bytes = nil, 0
	}
	for _, key := range slices.Sorted(maps.Keys(puts)) {
		if len(ops) == o.s.ops || bytes > o.s.bytes/2 {
			flush()
		}
		ops = append(ops, clientv3.OpPut(key, puts[key]))
		bytes += len(key) + len(puts[key])
	}
	for _, key := range deletes {
		if len(ops) == o.s.ops {
			flush()
		}
		ops = append(ops, clientv3.OpDelete(key))
	}
	flush()
	return o.rev
}

func (o *oracle) record(op clientv3.Op) {
	key := string(op.KeyBytes())
	if op.IsDelete() {
		delete(o.now, key)
		return
	}
	v, ok := o.now[key]
	if !ok {
		v.create = o.rev
	}
	v.mod, v.number, v.sum = o.rev, v.number+1, sha256.Sum256(op.ValueBytes())
	o.now[key] = v
	o.past[key] = append(o.past[key], v)
}

func (o *oracle) compact() {
	o.t.Helper()
	if _, err := o.s.client.Compact(testutil.Context(o.t), o.rev); err != nil {
		o.t.Fatal(err)
	}
}

// state is a copy of what the server holds now.
func (o *oracle) state() map[string]version { return maps.Clone(o.now) }

// some returns existing keys other than those of puts, each with a chance of one in n.
func (o *oracle) some(rng *rand.Rand, puts map[string]string, n int) (keys []string) {
	for _, key := range within(o.now, "\x00", "\x00") {
		if _, put := puts[key]; !put && rng.IntN(n) == 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// within returns the keys of [begin, end) in order, by etcd's rules for the ends.
func within(state map[string]version, begin, end string) []string {
	var keys []string
	for key := range state {
		if end == "" && key == begin || key >= begin && (end == "\x00" || key < end) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// anyKey is a key of up to 40 arbitrary bytes from a small alphabet of nasty ones, so that prefixes and neighbours abound.
func anyKey(rng *rand.Rand) string {
	const alphabet = "\x00\x01/ab\xfe\xff"
	var b strings.Builder
	for range 1 + rng.IntN(1+rng.IntN(40)) {
		b.WriteByte(alphabet[rng.IntN(len(alphabet))])
	}
	return b.String()
}
