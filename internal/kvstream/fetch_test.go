package kvstream_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/kvstream"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

type item struct {
	key string
	pos int64
}

type list []item

func (l list) Len() int         { return len(l) }
func (l list) Key(i int) string { return l[i].key }
func (l list) Pos(i int) int64  { return l[i].pos }

// listing gives every key of a state its position.
func listing(state map[string]version) (all list) {
	for i, key := range within(state, "\x00", "\x00") {
		all = append(all, item{key, int64(i)})
	}
	return all
}

// value is an unlike value of up to limit bytes, mostly far shorter.
func value(rng *rand.Rand, limit int) string {
	n := rng.IntN(limit + 1)
	if rng.IntN(20) > 0 {
		n %= 300
	}
	return strings.Repeat(fmt.Sprintf("%016x", rng.Uint64()), n/16+1)[:n]
}

// selection picks items of a listing in one of the ways that a caller may want them.
func selection(rng *rand.Rand, all list) (name string, some list) {
	keep := func(chance float64) {
		for _, it := range all {
			if rng.Float64() < chance {
				some = append(some, it)
			}
		}
	}
	switch rng.IntN(6) {
	case 0:
		return "all", all
	case 1:
		keep(0.6)
		return "dense", some
	case 2:
		keep(0.05)
		return "sparse", some
	case 3:
		keep(0.3)
		rng.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		return "shuffled", some
	case 4: // runs, here and there backwards or twice
		for range 10 {
			at := rng.IntN(len(all))
			run := slices.Clone(all[at:min(at+1+rng.IntN(60), len(all))])
			if rng.IntN(4) == 0 {
				slices.Reverse(run)
			}
			some = append(some, run...)
		}
		return "runs", some
	}
	at := rng.IntN(len(all))
	return "one", all[at : at+1]
}

// fetchAll checks that pages come in order and without gaps.
func fetchAll(ctx context.Context, r *kvstream.Reader, l list, pin *kvstream.Pin) (kvs []*mvccpb.KeyValue, pages []int, err error) {
	err = r.Fetch(ctx, l, pin, func(first int, page []*mvccpb.KeyValue) error {
		if first != len(kvs) || len(page) == 0 {
			return fmt.Errorf("a page of %d at %d came after %d items", len(page), first, len(kvs))
		}
		kvs, pages = append(kvs, page...), append(pages, len(page))
		return nil
	})
	if err == nil && len(kvs) != len(l) {
		err = fmt.Errorf("%d items of %d", len(kvs), len(l))
	}
	return kvs, pages, err
}

// checkItem checks one item against the state that it was read in.
func checkItem(it item, kv *mvccpb.KeyValue, state map[string]version) error {
	want, exists := state[it.key]
	switch {
	case exists != (kv != nil):
		return fmt.Errorf("%q: delivered %v, exists %v", it.key, kv != nil, exists)
	case exists && (string(kv.Key) != it.key || versionOf(kv) != want):
		return fmt.Errorf("%q: got %q %+v, want %+v", it.key, kv.Key, versionOf(kv), want)
	}
	return nil
}

func TestFetchEqualsTheOracle(t *testing.T) {
	for _, opts := range []embedetcd.Options{{}, {MaxTxnOps: 16}} {
		t.Run(fmt.Sprint("MaxTxnOps=", opts.MaxTxnOps), func(t *testing.T) {
			ctx, rng, s := testutil.Context(t), random(t), newServer(t, opts)
			o, r := newOracle(t, s), s.reader()
			puts := map[string]string{}
			for range 800 {
				puts[anyKey(rng)] = value(rng, 200<<10)
			}
			o.commit(puts, nil)
			all := listing(o.now)
			// Since the listing keys have gone, changed and come: many of them between two neighbours.
			puts = map[string]string{}
			at := rng.IntN(len(all))
			for i := range 1500 {
				puts[fmt.Sprintf("%s\x00%04d", all[at].key, i)] = ""
			}
			for _, key := range o.some(rng, nil, 10) {
				puts[key] = value(rng, 50<<10)
			}
			rev := o.commit(puts, o.some(rng, puts, 5))
			state := o.state()
			o.commit(map[string]string{all[0].key: "later", all[1].key: "later"}, nil)

			for range 20 {
				name, l := selection(rng, all)
				pin, want := kvstream.NewPin("\x00", rev), state
				if rng.IntN(4) == 0 {
					pin, want = kvstream.NewPin("", 0), o.now
				}
				kvs, pages, err := fetchAll(ctx, r, l, pin)
				if err != nil {
					t.Fatalf("%s (%d items): %v", name, len(l), err)
				}
				for i, kv := range kvs {
					if err := checkItem(l[i], kv, want); err != nil {
						t.Fatalf("%s (%d items), item %d: %v", name, len(l), i, err)
					}
				}
				if len(pages) > 0 && slices.Max(pages) > kvstream.MaxSpan {
					t.Fatalf("%s: a page of %d items", name, slices.Max(pages))
				}
				if pin.Moved() {
					t.Fatal("the pin moved")
				}
			}
			if limit := int(opts.MaxTxnOps); limit > 0 && r.Gets() > limit {
				t.Errorf("the reader still asks for %d keys in one transaction of %d", r.Gets(), limit)
			}
		})
	}
}

func TestFetchAfterTheRevisionIsCompacted(t *testing.T) {
	for _, name := range []string{"range", "scattered"} {
		t.Run(name, func(t *testing.T) {
			ctx, rng, s := testutil.Context(t), random(t), newServer(t, embedetcd.Options{})
			o, r := newOracle(t, s), s.reader()
			puts := map[string]string{}
			for i := range 1000 {
				puts[fmt.Sprintf("%04d", i)] = value(rng, 4<<10)
			}
			rev := o.commit(puts, nil)
			l := listing(o.now)
			if name == "scattered" {
				rng.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
			}
			states := []map[string]version{o.state()}
			pin := kvstream.NewPin("0", rev)
			var got []*mvccpb.KeyValue
			err := r.Fetch(ctx, l, pin, func(first int, page []*mvccpb.KeyValue) error {
				got = append(got, page...)
				if len(states) < 3 { // at the first two pages
					puts := map[string]string{}
					for _, key := range o.some(rng, nil, 5) {
						puts[key] = value(rng, 4<<10)
					}
					o.commit(puts, o.some(rng, puts, 10))
					states = append(states, o.state())
					o.compact()
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(l) {
				t.Fatalf("%d items of %d", len(got), len(l))
			}
			for i, kv := range got {
				// Each item is as it was at one of the revisions that were current.
				var errs []error
				for _, state := range states {
					errs = append(errs, checkItem(l[i], kv, state))
				}
				if !slices.Contains(errs, nil) {
					t.Fatalf("item %d: %v", i, errors.Join(errs...))
				}
				// The last pages are asked for after the last compaction.
				if i >= len(l)/2 && errs[len(errs)-1] != nil {
					t.Fatalf("item %d is not of the last revision: %v", i, errs[len(errs)-1])
				}
			}
			if !pin.Moved() || pin.Revision() != o.rev {
				t.Errorf("the pin is at %d (moved: %v), the writes ended at %d", pin.Revision(), pin.Moved(), o.rev)
			}
		})
	}
}

func TestFetchKeepsFewAndSmallSpans(t *testing.T) {
	const each = 64 << 10
	both(t, embedetcd.Options{}, func(t *testing.T, s *server) {
		ctx := testutil.Context(t)
		o, r := newOracle(t, s), s.reader()
		puts := map[string]string{}
		for i := range 250 {
			puts[fmt.Sprintf("big/%04d", i)] = strings.Repeat("v", each)
		}
		for i := range 12_000 {
			puts[fmt.Sprintf("small/%05d", i)] = ""
		}
		rev := o.commit(puts, nil)
		all := listing(o.now)
		readAll(ctx, t, r.Keys("a", "b", kvstream.NewPin("a", rev))) // after which it knows what the server can do
		calls := func() int64 { return s.requests.Load() + s.streams.Load() }
		// spans fetches, and gives the number of items that each call to the server was for, in the list's order.
		spans := func(l list) (sizes []int) {
			var mu sync.Mutex
			asked := map[int]int{} // place in the list: number of items
			before, used, most := calls(), 0, int64(0)
			s.tellRange(func(begin string, limit int64) {
				mu.Lock()
				defer mu.Unlock()
				at, _ := slices.BinarySearchFunc(l, begin, func(it item, key string) int { return strings.Compare(it.key, key) })
				asked[at] = int(limit) / kvstream.Sparse
			})
			err := r.Fetch(ctx, l, kvstream.NewPin("a", rev), func(first int, page []*mvccpb.KeyValue) error {
				used += len(page)
				// Whatever is in use, no more than a few spans are asked for: the one in use and those read ahead.
				for range 5 { // time for a reader that goes too far
					if _, err := s.client.MemberList(ctx); err != nil {
						return err
					}
				}
				mu.Lock()
				defer mu.Unlock()
				open := calls() - before
				for at, n := range asked {
					if at+n <= first {
						open--
					}
				}
				most = max(most, open)
				return nil
			})
			s.tellRange(nil)
			if err != nil || used != len(l) {
				t.Fatalf("%d items of %d: %v", used, len(l), err)
			}
			if most > kvstream.SpansAhead || len(l) > 1000 && most < 2 {
				t.Errorf("up to %d spans are read at once, want %d at most, and more than one", most, kvstream.SpansAhead)
			}
			for _, at := range slices.Sorted(maps.Keys(asked)) {
				sizes = append(sizes, asked[at])
			}
			return sizes
		}
		sizes := spans(all[:250])
		for i, n := range sizes {
			limit := kvstream.FirstSpan
			if i > 0 {
				limit = kvstream.PageBytes / each
			}
			if n > limit {
				t.Errorf("span %d of big values has %d, want at most %d: %v", i, n, limit, sizes)
			}
		}
		// Small values after big ones let the spans grow again, step by step: the next value may be big.
		sizes = spans(all)
		for i, n := range sizes {
			if i > 0 && n > 2*sizes[i-1] {
				t.Errorf("span %d grew too fast: %v", i, sizes)
			}
		}
		largest := kvstream.MaxSpan
		if s.noStream.Load() {
			largest = kvstream.MaxPage
		}
		if slices.Max(sizes) != largest {
			t.Errorf("spans of small values do not grow to %d: %v", largest, sizes)
		}
	})
}

// A message that is too large for a stream is asked for again in pieces, and the stream goes on behind it.
func TestFetchOfValuesThatGrowWithinAStream(t *testing.T) {
	both(t, embedetcd.Options{}, func(t *testing.T, s *server) {
		ctx := testutil.Context(t)
		o, r := newOracle(t, s), s.reader()
		puts := map[string]string{}
		for i := range 6000 {
			size := 0
			if i >= 2500 && i < 2560 || i >= 4000 && i < 4003 {
				size = 300 << 10
			}
			puts[fmt.Sprintf("%05d", i)] = strings.Repeat("v", size)
		}
		rev := o.commit(puts, nil)
		all := listing(o.now)
		kvs, _, err := fetchAll(ctx, r, all, kvstream.NewPin("0", rev))
		if err != nil {
			t.Fatal(err)
		}
		for i, kv := range kvs {
			if err := checkItem(all[i], kv, o.now); err != nil {
				t.Fatal(err)
			}
		}
		if streamed := s.streams.Load() > 0; streamed == s.noStream.Load() {
			t.Errorf("streams: %v", streamed)
		}
	})
}

func TestFetchEndsWhenItsUserDoes(t *testing.T) {
	ctx, s := testutil.Context(t), newServer(t, embedetcd.Options{})
	o, r := newOracle(t, s), s.reader()
	puts := map[string]string{}
	for i := range 1000 {
		puts[fmt.Sprintf("%04d", i)] = ""
	}
	rev := o.commit(puts, nil)
	l := listing(o.now)
	boom := errors.New("boom")
	for at := range 4 {
		for _, byContext := range []bool{false, true} {
			inner, cancel := context.WithCancel(ctx)
			pages, want := 0, boom
			var using sync.Mutex // use is never called from two goroutines at once
			err := r.Fetch(inner, l, kvstream.NewPin("0", rev), func(int, []*mvccpb.KeyValue) error {
				if !using.TryLock() {
					t.Error("two pages are in use at once")
				}
				defer using.Unlock()
				pages++
				switch {
				case pages <= at:
				case byContext:
					cancel()
				default:
					return boom
				}
				return nil
			})
			if byContext {
				want = context.Canceled
			}
			if !errors.Is(err, want) {
				t.Errorf("page %d, context %v: got %v", at, byContext, err)
			}
			// After an error no page is used; after a cancellation no more than had arrived.
			if most := at + 1; pages < most || !byContext && pages > most || pages > most+kvstream.SpansAhead {
				t.Errorf("page %d, context %v: %d pages were used", at, byContext, pages)
			}
			cancel()
		}
	}
	// A list of nothing asks nothing.
	before := s.requests.Load()
	if err := r.Fetch(ctx, list{}, kvstream.NewPin("0", rev), func(int, []*mvccpb.KeyValue) error { return boom }); err != nil || s.requests.Load() != before {
		t.Errorf("an empty list: %v, %d requests", err, s.requests.Load()-before)
	}
}
