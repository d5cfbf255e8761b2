package drcheck_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
)

// BenchmarkCheck compares two sides with the same content, in the same process and without fsync.
func BenchmarkCheck(b *testing.B) {
	const keys = 10_000
	s := newSides(b)
	all, size := map[string]string{}, 0
	for key, value := range kubeobj.Dataset(rand.New(rand.NewPCG(1, 1)), keys) {
		all[key] = string(value)
		size += len(key) + len(value)
	}
	s.fill(s.source, all)
	s.fill(s.target, all)
	for _, mode := range []struct {
		name string
		mode drcheck.Mode
	}{{"Content", drcheck.Content}, {"KeysOnly", drcheck.KeysOnly}} {
		b.Run(mode.name, func(b *testing.B) {
			c := s.checker(drcheck.Config{Mode: mode.mode, Settle: time.Millisecond})
			if mode.mode == drcheck.Content {
				b.SetBytes(int64(size))
			}
			b.ReportAllocs()
			for b.Loop() {
				r, err := c.Check(s.ctx)
				if err != nil || !r.Equal || r.SourceKeys != keys {
					b.Fatalf("%+v, %v", r, err)
				}
			}
			b.ReportMetric(float64(b.N)*keys/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
