package e2e_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/encryption"
)

// TestMirrorOfALiveCluster mirrors a cluster under traffic into one whose controllers run all the time. Then both API servers serve the same, what the standby has of its own is untouched, and its garbage
// collector has taken nothing.
func TestMirrorOfALiveCluster(t *testing.T) {
	ctx := bounded(t)
	p := newPair(ctx, t, options{})
	var wg sync.WaitGroup
	for _, s := range []*site{p.primary, p.standby} {
		wg.Go(func() { s.furnish(ctx, t); s.settled(ctx, t) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	p.primary.populate(ctx, t, 5)
	dependents := p.primary.makePairs(ctx, t, 0)
	own := p.standby.ownObjects(ctx, t)
	bundles := p.standby.watchBundles(ctx, t)
	t.Logf("primary at revision %d, standby at %d, %d objects in the standby's excluded namespaces", p.primary.revision(ctx, t), p.standby.revision(ctx, t), len(own))

	began := time.Now()
	cfg := p.mirror
	cfg.BatchOps, cfg.InFlight = 1, 1 // as over a slow line: the garbage collector has time to see a dependent whose owner has not come yet
	m := startMirror(ctx, t, p.primary, p.standby, cfg)
	seed := rand.Uint64()
	var acknowledged int
	wg.Go(func() { acknowledged = p.primary.traffic(ctx, t, seed, 4, 250) })
	t.Cleanup(wg.Wait) // also where the test fails before
	follows(ctx, t, m)
	t.Logf("base copy of %d keys under traffic: %v", m.Status().Keys, time.Since(began).Round(time.Millisecond))
	for round := 1; round <= 3; round++ {
		maps.Copy(dependents, p.primary.makePairs(ctx, t, round))
		caughtUp(ctx, t, m, p.primary)
		p.standby.collects(ctx, t, fmt.Sprintf("ghost-%d", round))
	}
	wg.Wait()
	t.Logf("traffic: %d requests acknowledged, seed %d", acknowledged, seed)
	caughtUp(ctx, t, m, p.primary)
	p.equal(ctx, t)

	if lost := p.primary.lost(ctx, t, dependents); len(lost) > 0 {
		t.Errorf("the primary itself lost %d dependents: %v", len(lost), lost[0])
	}
	if lost := p.standby.lost(ctx, t, dependents); len(lost) > 0 {
		t.Errorf("the standby's garbage collector took %d of %d dependents, such as %s", len(lost), len(dependents), lost[0])
	}
	t.Logf("%d owner/dependent pairs are there", len(dependents))
	after := p.standby.ownObjects(ctx, t)
	for i, was := range own {
		if after[i] != was {
			t.Errorf("%s of an excluded namespace was touched: %s, now %q", i, was, after[i])
		}
	}
	bundles.steady(t)
	bundles.stop()
	audit, err := encryption.Audit(ctx, p.standby.etcd, encryption.AuditConfig{Codec: p.standby.codec})
	if err != nil {
		t.Fatal(err)
	}
	if err := audit.Err(); err != nil {
		t.Error(err)
	}
	if n := audit.With(encryption.Label{Provider: encryption.AESCBC, Name: "primary"}); n > 0 {
		t.Errorf("%d values at the standby have the primary's key", n)
	}
	t.Logf("%d Secrets at the standby, all under its own key", audit.With(encryption.Label{Provider: encryption.AESCBC, Name: "standby"}))
	st := m.Status()
	t.Logf("mirror: %d puts, %d deletes, %d drifted, %d foreign, %d guarded", st.Puts, st.Deletes, st.Drifted, st.Foreign, st.Guarded)
	if st.Guarded > 0 {
		t.Errorf("%d values were kept away from the standby", st.Guarded)
	}
	restartsReady(ctx, t, p.standby)
}
