package kvstream_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/kvstream"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

const benchKeys = 20_000

func benchServer(b *testing.B) (*server, int64, list) {
	b.Helper()
	s := newServer(b, embedetcd.Options{})
	o := newOracle(b, s)
	puts := map[string]string{}
	for i := range benchKeys {
		puts[fmt.Sprintf("/registry/pods/team-%02d/pod-%06d", i%50, i)] = strings.Repeat("v", 1000)
	}
	rev := o.commit(puts, nil)
	return s, rev, listing(o.now)
}

func perItem(b *testing.B, items int, unit string) {
	b.ReportMetric(float64(b.N)*float64(items)/b.Elapsed().Seconds(), unit)
}

func BenchmarkKeys(b *testing.B) {
	s, rev, _ := benchServer(b)
	for _, name := range []string{"stream", "pages"} {
		b.Run(name, func(b *testing.B) {
			r := s.reader()
			if name == "pages" {
				kvstream.ForcePages(r)
			}
			ctx := testutil.Context(b)
			b.ReportAllocs()
			for b.Loop() {
				if n := len(readAll(ctx, b, r.Keys("/", "0", kvstream.NewPin("/", rev)))); n != benchKeys {
					b.Fatalf("%d keys", n)
				}
			}
			perItem(b, benchKeys, "keys/s")
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	s, rev, all := benchServer(b)
	rng := rand.New(rand.NewPCG(1, 1))
	var sparse list
	for _, it := range all {
		if rng.IntN(10) == 0 {
			sparse = append(sparse, it)
		}
	}
	for _, bench := range []struct {
		name string
		list list
	}{{"dense", all}, {"sparse", sparse}} {
		b.Run(bench.name, func(b *testing.B) {
			ctx, r := testutil.Context(b), s.reader()
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				if err := r.Fetch(ctx, bench.list, kvstream.NewPin("/", rev), func(_ int, page []*mvccpb.KeyValue) error {
					n += len(page)
					return nil
				}); err != nil || n != len(bench.list) {
					b.Fatalf("%d values, %v", n, err)
				}
			}
			perItem(b, len(bench.list), "values/s")
		})
	}
}
