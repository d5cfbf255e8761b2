package etcdmirror_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
)

// These run against etcds in the same process and without fsync: they show what a change of the engine does to it.
// What it does beside other mirrors and on a disk is measured by internal/bench.

const (
	benchKeys      = 5000
	benchRevisions = 5000
)

func perSecond(b *testing.B, each int, unit string) {
	b.ReportMetric(float64(b.N)*float64(each)/b.Elapsed().Seconds(), unit)
}

// BenchmarkBaseCopy copies a data set with owners below another prefix each time.
func BenchmarkBaseCopy(b *testing.B) {
	p := newPair(b, embedetcd.Options{}, embedetcd.Options{})
	if err := kubeobj.LoadDataset(p.ctx, p.source, benchKeys, 4); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := p.start(etcdmirror.Config{Name: fmt.Sprintf("copy-%d", i), TargetPrefix: fmt.Sprintf("/copy-%d/", i), Guards: []etcdmirror.Guard{}})
		p.sync(r)
		b.StopTimer()
		if n := r.Status().Puts; n != benchKeys {
			b.Fatalf("%d keys were put", n)
		}
		r.stop()
		b.StartTimer()
	}
	perSecond(b, benchKeys, "keys/s")
}

// BenchmarkCatchUp follows a source after revisions that were written while the mirror was away: it merges them into few transactions.
func BenchmarkCatchUp(b *testing.B) {
	p := newPair(b, embedetcd.Options{}, embedetcd.Options{})
	value := string(kubeobj.Object{APIVersion: "v1", Kind: "ConfigMap", Namespace: "team-00", Name: "settings", UID: "11111111-2222-4333-8444-555555555555", Padding: 1500}.Protobuf())
	rng := rand.New(rand.NewPCG(1, 1))
	p.put(p.source, "/registry/configmaps/team-00/settings", value)
	r := p.start(etcdmirror.Config{Guards: []etcdmirror.Guard{}})
	p.sync(r)
	r.stop()
	b.ReportAllocs()
	transactions := int64(0)
	for b.Loop() {
		b.StopTimer()
		writes, ctx := errgroup.WithContext(p.ctx)
		writes.SetLimit(32)
		for range benchRevisions {
			key := fmt.Sprintf("/registry/configmaps/team-00/settings-%04d", rng.IntN(2000))
			writes.Go(func() error {
				_, err := p.source.Put(ctx, key, value)
				return err
			})
		}
		if err := writes.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		r := p.start(etcdmirror.Config{Guards: []etcdmirror.Guard{}})
		p.sync(r)
		b.StopTimer()
		if s := r.Status(); s.Resyncs != 0 || s.Puts == 0 {
			b.Fatalf("it has not caught up from its checkpoint: %+v", s)
		}
		transactions += r.Status().Transactions
		r.stop()
		b.StartTimer()
	}
	perSecond(b, benchRevisions, "revisions/s")
	b.ReportMetric(float64(b.N)*benchRevisions/float64(transactions), "revisions/txn")
}
