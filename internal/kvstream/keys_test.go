package kvstream_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-dr/understudy/internal/kvstream"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// both runs a test with a server that streams keys and with one that does not.
func both(t *testing.T, opts embedetcd.Options, test func(t *testing.T, s *server)) {
	for _, noStream := range []bool{false, true} {
		name := "stream"
		if noStream {
			name = "pages"
		}
		t.Run(name, func(t *testing.T) {
			s := newServer(t, opts)
			s.noStream.Store(noStream)
			test(t, s)
			if streams := s.streams.Load(); (streams == 0) != noStream {
				t.Errorf("the server served %d streams", streams)
			}
		})
	}
}

func readAll(ctx context.Context, t testing.TB, k *kvstream.Keys) (kvs []*mvccpb.KeyValue) {
	t.Helper()
	defer k.Close()
	for {
		kv, err := k.Next(ctx)
		if err != nil {
			t.Fatalf("after %d keys: %v", len(kvs), err)
		}
		if kv == nil {
			break
		}
		kvs = append(kvs, kv)
	}
	if kv, err := k.Next(ctx); kv != nil || err != nil {
		t.Fatalf("after the end: %v, %v", kv, err)
	}
	return kvs
}

func TestKeysEqualAPlainGet(t *testing.T) {
	both(t, embedetcd.Options{}, func(t *testing.T, s *server) {
		ctx, rng, o := testutil.Context(t), random(t), newOracle(t, s)
		states := map[int64]map[string]version{}
		for range 4 {
			puts := map[string]string{}
			for range 150 {
				puts[anyKey(rng)] = strings.Repeat("v", rng.IntN(100))
			}
			rev := o.commit(puts, o.some(rng, puts, 8))
			states[rev] = o.state()
		}
		revs := slices.Sorted(maps.Keys(states))
		existing := within(o.now, "\x00", "\x00")
		bound := func() string {
			if rng.IntN(2) == 0 {
				return existing[rng.IntN(len(existing))]
			}
			return anyKey(rng)
		}
		ranges := [][2]string{{"\x00", "\x00"}, {"", "\x00"}, {"b", "a"}, {"a", "a"}, {existing[7], ""}, {"no such key", ""}, {"\xff\xff\xff\xff", "\x00"}}
		for range 25 {
			begin := bound()
			ranges = append(ranges, [2]string{begin, bound()}, [2]string{begin, "\x00"}, [2]string{begin, clientv3.GetPrefixRangeEnd(begin)})
		}
		r := s.reader()
		for _, bounds := range ranges {
			begin, end := bounds[0], bounds[1]
			rev := revs[rng.IntN(len(revs))]
			pin := kvstream.NewPin("\x00", rev)
			got := readAll(ctx, t, r.Keys(begin, end, pin))

			plain := max(begin, "\x00") // a plain Get refuses the empty key
			want, err := s.client.Get(ctx, plain, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithKeysOnly())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, want.Kvs, func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) }) {
				t.Fatalf("range %q to %q at revision %d: %d keys, a Get has %d", begin, end, rev, len(got), len(want.Kvs))
			}
			keys := within(states[rev], plain, end)
			if len(got) != len(keys) {
				t.Fatalf("range %q to %q at revision %d: %d keys, the oracle has %d", begin, end, rev, len(got), len(keys))
			}
			for i, kv := range got {
				if string(kv.Key) != keys[i] || versionOf(kv) != states[rev][keys[i]].bare() {
					t.Fatalf("range %q to %q at revision %d: key %d is %q %+v, want %q %+v",
						begin, end, rev, i, kv.Key, versionOf(kv), keys[i], states[rev][keys[i]].bare())
				}
			}
			if pin.Moved() || pin.Revision() != rev {
				t.Fatalf("the pin moved from %d to %d", rev, pin.Revision())
			}
		}
		// Without a revision it is the current one.
		if got, want := len(readAll(ctx, t, r.Keys("a", "b", kvstream.NewPin("a", 0)))), len(within(o.now, "a", "b")); got != want {
			t.Errorf("%d current keys, want %d", got, want)
		}
	})
}

// overtaken reads a range while writes go on and compactions overtake the pin, and checks what was delivered.
func overtaken(t *testing.T, rng *rand.Rand, o *oracle, r *kvstream.Reader, pin *kvstream.Pin, key func(i int) string, pauses []int) {
	t.Helper()
	ctx := testutil.Context(t)
	began := o.state()
	stable := o.state() // keys that never changed during the read
	k := r.Keys(key(0), "\x00", pin)
	defer k.Close()
	var got []*mvccpb.KeyValue
	for {
		kv, err := k.Next(ctx)
		if err != nil {
			t.Fatalf("after %d keys: %v", len(got), err)
		}
		if kv == nil {
			break
		}
		got = append(got, kv)
		if len(pauses) == 0 || len(got) != pauses[0] {
			continue
		}
		pauses = pauses[1:]
		puts := map[string]string{}
		for range 50 {
			i := rng.IntN(len(began))
			puts[key(i)] = "changed"
			puts[key(i)+"+"] = "new"
		}
		deletes := o.some(rng, puts, 100)
		o.commit(puts, deletes)
		o.compact()
		for _, changed := range append(slices.Collect(maps.Keys(puts)), deletes...) {
			delete(stable, changed)
		}
	}
	if len(pauses) > 0 {
		t.Fatalf("only %d keys: the writes at %v never came", len(got), pauses)
	}
	for i, kv := range got {
		if i > 0 && string(got[i-1].Key) >= string(kv.Key) {
			t.Fatalf("%q came after %q", kv.Key, got[i-1].Key)
		}
		if !slices.ContainsFunc(o.past[string(kv.Key)], func(v version) bool { return v.bare() == versionOf(kv) }) {
			t.Fatalf("%q never had the version %+v", kv.Key, versionOf(kv))
		}
		delete(stable, string(kv.Key))
	}
	if len(stable) > 0 {
		t.Fatalf("%d keys that were there all the time were not delivered, %q among them", len(stable), slices.Min(slices.Collect(maps.Keys(stable))))
	}
}

func TestStreamGoesOnAfterCompactions(t *testing.T) {
	rng := random(t)
	// Far more than the server can be ahead of the reader: 3000 keys of 1 KiB, through a window of 64 KiB, in messages of up to 256 KiB.
	s := newServer(t, embedetcd.Options{MaxRequestBytes: 256 << 10})
	o := newOracle(t, s)
	filler := strings.Repeat("k", 1000)
	key := func(i int) string { return fmt.Sprintf("%05d%s", i, filler) }
	puts := map[string]string{}
	for i := range 3000 {
		puts[key(i)] = ""
	}
	rev := o.commit(puts, nil)
	r := &kvstream.Reader{Client: s.narrow(t), Timeout: ample}

	pin := kvstream.NewPin(key(0), rev)
	overtaken(t, rng, o, r, pin, key, []int{1 + rng.IntN(50), 1000 + rng.IntN(50), 2000 + rng.IntN(50)})
	if !pin.Moved() || pin.Revision() <= rev || pin.Revision() > o.rev {
		t.Errorf("the pin is at %d (moved: %v); it began at %d and the writes ended at %d", pin.Revision(), pin.Moved(), rev, o.rev)
	}
	if got := s.streams.Load(); got != 4 {
		t.Errorf("%d streams for three compactions", got)
	}

	// A pin at the current revision never moves, and needs no key to ask for it.
	pin = kvstream.NewPin("", 0)
	overtaken(t, rng, o, r, pin, key, []int{1 + rng.IntN(50), 1500 + rng.IntN(50)})
	if pin.Moved() || pin.Revision() != 0 {
		t.Errorf("a pin at the current revision moved to %d", pin.Revision())
	}
}

func TestPagesGoOnAfterCompactions(t *testing.T) {
	rng := random(t)
	s := newServer(t, embedetcd.Options{})
	s.noStream.Store(true)
	o := newOracle(t, s)
	key := func(i int) string { return fmt.Sprintf("%06d", i) }
	puts := map[string]string{}
	for i := range 24_000 { // three pages
		puts[key(i)] = ""
	}
	rev := o.commit(puts, nil)
	r, pin := s.reader(), kvstream.NewPin(key(0), rev)
	before := s.ranges.Load()
	overtaken(t, rng, o, r, pin, key, []int{1 + rng.IntN(9000), 10_001 + rng.IntN(9000)})
	if !pin.Moved() || pin.Revision() <= rev || pin.Revision() > o.rev {
		t.Errorf("the pin is at %d (moved: %v); it began at %d and the writes ended at %d", pin.Revision(), pin.Moved(), rev, o.rev)
	}
	// Three pages, and for each compaction one refusal and one question for the revision.
	if got := s.ranges.Load() - before; got != 7 {
		t.Errorf("%d requests, want 7", got)
	}
}

// Readers that the same compaction overtakes go on at one revision, also when the second notices it later.
func TestStreamsOfOnePinMoveItOnce(t *testing.T) {
	ctx, s := testutil.Context(t), newServer(t, embedetcd.Options{MaxRequestBytes: 256 << 10})
	o := newOracle(t, s)
	rev := longKeys(o, 1500)
	r, pin := &kvstream.Reader{Client: s.narrow(t), Timeout: ample}, kvstream.NewPin("0", rev)
	a, b := r.Keys("0", "1", pin), r.Keys("0", "1", pin)
	defer a.Close()
	defer b.Close()
	for _, k := range []*kvstream.Keys{a, b} {
		if kv, err := k.Next(ctx); kv == nil || err != nil {
			t.Fatalf("%v, %v", kv, err)
		}
	}
	moved := o.commit(map[string]string{"other": "1"}, nil)
	o.compact()
	if n := len(readAll(ctx, t, a)); n != 1499 || pin.Revision() != moved {
		t.Fatalf("%d more keys; the pin is at %d, want %d", n, pin.Revision(), moved)
	}
	o.commit(map[string]string{"other": "2"}, nil)
	if n := len(readAll(ctx, t, b)); n != 1499 || pin.Revision() != moved {
		t.Fatalf("%d more keys; the pin is at %d, want %d", n, pin.Revision(), moved)
	}
	if got := s.streams.Load(); got != 4 {
		t.Errorf("%d streams, want 4: the test has not told", got)
	}
}

// A revision that was compacted before the first read moves the pin, too; later readers find it moved.
func TestCompactedPinMovesAtTheFirstRead(t *testing.T) {
	both(t, embedetcd.Options{}, func(t *testing.T, s *server) {
		ctx, o := testutil.Context(t), newOracle(t, s)
		rev := o.commit(map[string]string{"a": "1", "b": "1"}, nil)
		o.commit(map[string]string{"b": "2"}, nil)
		o.compact()
		r, pin := s.reader(), kvstream.NewPin("a", rev)
		first := readAll(ctx, t, r.Keys("a", "c", pin))
		moved := pin.Revision()
		o.commit(map[string]string{"a": "3", "c": "3"}, nil)
		second := readAll(ctx, t, r.Keys("a", "\x00", pin))
		if !pin.Moved() || moved != rev+1 || pin.Revision() != moved {
			t.Errorf("the pin went from %d to %d to %d", rev, moved, pin.Revision())
		}
		for i, kvs := range [][]*mvccpb.KeyValue{first, second} {
			if len(kvs) != 2 || kvs[0].ModRevision != rev || kvs[1].ModRevision != rev+1 {
				t.Errorf("reader %d: %v", i, kvs)
			}
		}
	})
}
