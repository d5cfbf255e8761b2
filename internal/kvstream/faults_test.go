package kvstream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/kvstream"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// longKeys are more than fits the window of a narrow client, so that a stream that nobody reads stays open at the server.
func longKeys(o *oracle, n int) int64 {
	filler := strings.Repeat("k", 1000)
	puts := map[string]string{}
	for i := range n {
		puts[fmt.Sprintf("%05d%s", i, filler)] = ""
	}
	return o.commit(puts, nil)
}

// drained waits until the server has no stream open.
func (s *server) drained(ctx context.Context, t *testing.T) {
	t.Helper()
	for s.open.Load() > 0 {
		if ctx.Err() != nil {
			t.Fatalf("%d streams are still open at the server", s.open.Load())
		}
		time.Sleep(time.Millisecond) // between looks; ctx alone decides
	}
}

func TestAbandonedCursorsLeaveNothingBehind(t *testing.T) {
	ctx := testutil.Context(t)
	s := newServer(t, embedetcd.Options{MaxRequestBytes: 256 << 10})
	rev := longKeys(newOracle(t, s), 1500)
	r := &kvstream.Reader{Client: s.narrow(t), Timeout: ample}
	for name, abandon := range map[string]func(t *testing.T, k *kvstream.Keys, cancel context.CancelFunc){
		"closed": func(_ *testing.T, k *kvstream.Keys, _ context.CancelFunc) {
			k.Close()
			k.Close()
		},
		"canceled": func(_ *testing.T, _ *kvstream.Keys, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			inner, cancel := context.WithCancel(ctx)
			defer cancel()
			cursors := make([]*kvstream.Keys, 3)
			for i := range cursors {
				cursors[i] = r.Keys("\x00", "\x00", kvstream.NewPin("\x00", rev))
				if kv, err := cursors[i].Next(inner); kv == nil || err != nil {
					t.Fatalf("%v, %v", kv, err)
				}
			}
			if got := s.open.Load(); got != 3 {
				t.Fatalf("%d streams are open, want 3: the test cannot tell", got)
			}
			for _, k := range cursors {
				abandon(t, k, cancel)
			}
			s.drained(ctx, t)
		})
	}
}

func TestCursorsEndWithTheirContext(t *testing.T) {
	both(t, embedetcd.Options{MaxRequestBytes: 256 << 10}, func(t *testing.T, s *server) {
		o := newOracle(t, s)
		rev := longKeys(o, 1500)
		if s.noStream.Load() { // more than a page
			puts := map[string]string{}
			for i := range 10_000 {
				puts[fmt.Sprintf("%05d", i)] = ""
			}
			rev = o.commit(puts, nil)
		}
		ctx, cancel := context.WithCancel(testutil.Context(t))
		r := &kvstream.Reader{Client: s.narrow(t), Timeout: ample}
		k := r.Keys("\x00", "\x00", kvstream.NewPin("\x00", rev))
		defer k.Close()
		if kv, err := k.Next(ctx); kv == nil || err != nil {
			t.Fatalf("%v, %v", kv, err)
		}
		cancel()
		for { // what had arrived may still be delivered
			kv, err := k.Next(ctx)
			if err != nil {
				if !errors.Is(err, context.Canceled) || errors.Is(err, etcdrpc.ErrTimeout) {
					t.Errorf("got %v", err)
				}
				break
			}
			if kv == nil {
				t.Fatal("a canceled reading came to a clean end before the last key")
			}
		}
		fresh := r.Keys("\x00", "\x00", kvstream.NewPin("\x00", rev))
		if _, err := fresh.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a cursor that begins too late: %v", err)
		}
		// The cursor itself is unhurt.
		if kv, err := k.Next(testutil.Context(t)); kv == nil || err != nil {
			t.Errorf("with another context: %v, %v", kv, err)
		}
	})
}

func TestNextGoesOnAfterAStreamThatHung(t *testing.T) {
	ctx := testutil.Context(t)
	s := newServer(t, embedetcd.Options{})
	rev := longKeys(newOracle(t, s), 200)
	s.stall.Store(4)
	r := &kvstream.Reader{Client: s.client, Timeout: brief}
	k := r.Keys("\x00", "\x00", kvstream.NewPin("\x00", rev))
	defer k.Close()
	var got []string
	timeouts := 0
	for {
		kv, err := k.Next(ctx)
		if err != nil {
			if !errors.Is(err, etcdrpc.ErrTimeout) {
				t.Fatalf("after %d keys: %v", len(got), err)
			}
			timeouts++
			s.stall.Store(0)
			r.Timeout = ample
			continue
		}
		if kv == nil {
			break
		}
		got = append(got, string(kv.Key))
	}
	if timeouts != 1 || len(got) != 200 {
		t.Fatalf("%d keys of 200 and %d timeouts", len(got), timeouts)
	}
	for i := 1; i < len(got); i++ {
		if got[i-1] >= got[i] {
			t.Fatalf("key %d is out of order or came twice", i)
		}
	}
	s.drained(ctx, t)
}

// silentClient is connected to a server that accepts connections and never says a word.
func silentClient(t *testing.T) *clientv3.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{l.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// Every kind of read ends with ErrTimeout, and soon, when nobody answers; the test's own deadline tells a hang.
func TestReadsOfADeadServerTimeOut(t *testing.T) {
	ctx := testutil.Context(t)
	stopped := newServer(t, embedetcd.Options{})
	live := newOracle(t, stopped)
	live.commit(map[string]string{"a": "1", "b": "2"}, nil)
	old := stopped.reader()
	readAll(ctx, t, old.Keys("a", "z", kvstream.NewPin("a", 0)))
	if err := stopped.StopMember(0); err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]*clientv3.Client{"stopped": stopped.client, "silent": silentClient(t)} {
		pages := &kvstream.Reader{Client: client, Timeout: brief}
		kvstream.ForcePages(pages)
		stream := &kvstream.Reader{Client: client, Timeout: brief}
		next := func(r *kvstream.Reader) error {
			k := r.Keys("a", "z", kvstream.NewPin("a", 1))
			defer k.Close()
			_, err := k.Next(ctx)
			return err
		}
		fetch := func(l kvstream.List) error {
			return stream.Fetch(ctx, l, kvstream.NewPin("a", 1), func(int, []*mvccpb.KeyValue) error {
				t.Errorf("%s: a page came", name)
				return nil
			})
		}
		many := make(list, 1000)
		for i := range many {
			many[i] = item{fmt.Sprintf("%04d", i), int64(i)}
		}
		for what, err := range map[string]error{
			"stream": next(stream), "pages": next(pages),
			"one value": fetch(many[:1]), "a range": fetch(many), "scattered values": fetch(list{many[900], many[3], many[500]}),
		} {
			if !errors.Is(err, etcdrpc.ErrTimeout) || etcdrpc.Classify(err) != etcdrpc.Retry {
				t.Errorf("%s server, %s: %v", name, what, err)
			}
		}
	}
}
