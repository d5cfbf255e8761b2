package etcdmirror

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// leaseModel is a lease at both sides in a time of its own, and a mirror that looks at it as leases do. It knows the exact ends that etcd tells in whole seconds.
type leaseModel struct {
	rng    *rand.Rand
	now    time.Duration
	full   time.Duration   // at the source
	source time.Duration   // its end there
	target time.Duration   // its end at the target
	renews []time.Duration // when its client renews it
	delay  time.Duration   // most that an answer takes each way
	drift  float64         // of the target's clock

	e          leaseEntry
	kept       int // keepalives
	replaced   int
	overshoot  time.Duration // the furthest that the target's went beyond the source's end while its client renewed it
	early      time.Duration // how much earlier than the source's the target's ended; 0: not at all
	lastRemedy time.Duration // when the target's was last given its time
}

// to lets time pass, and the client renew.
func (m *leaseModel) to(t time.Duration) {
	for len(m.renews) > 0 && m.renews[0] <= t {
		if at := m.renews[0]; at < m.source {
			m.source = at + m.full
		}
		m.renews = m.renews[1:]
	}
	m.now = t
}

func (m *leaseModel) latency() time.Duration { return time.Duration(m.rng.Int64N(int64(m.delay))) }

// ask is an answer about a lease that ends when end says, once the request has arrived.
func (m *leaseModel) ask(end func() time.Duration, full time.Duration) leaseSample {
	s := leaseSample{sent: m.now, full: int64(full / time.Second)}
	m.to(m.now + m.latency())
	left := end() - m.now
	s.ttl, s.gone = int64(left/time.Second), left <= 0 // Go's division truncates, as etcd's conversion does
	m.to(m.now + m.latency())
	s.got = m.now
	return s
}

// give is a grant or keepalive at the target.
func (m *leaseModel) give(ttl int64) leaseSample {
	s := leaseSample{sent: m.now, ttl: ttl, full: ttl, fresh: true}
	m.to(m.now + m.latency())
	m.lastRemedy = m.now
	m.target = m.now + time.Duration(float64(leaseSeconds(ttl))*(1+m.drift))
	if len(m.renews) > 0 {
		m.overshoot = max(m.overshoot, m.target-m.source)
	}
	m.to(m.now + m.latency())
	s.got = m.now
	return s
}

func (m *leaseModel) askSource() leaseSample {
	return m.ask(func() time.Duration { return m.source }, m.full)
}

// introduce is what leases.introduce does.
func (m *leaseModel) introduce() bool {
	source := m.askSource()
	if source.gone {
		return false
	}
	m.e.meet(m.give(max(1, min(source.ttl+1, source.full))))
	m.e.observe(source)
	m.e.due = m.e.next(m.now)
	return true
}

// live follows the lease until it has ended at the source, and at the target.
func (m *leaseModel) live() {
	for {
		// The end at the target, if that comes before the next look.
		look := m.e.due + m.latency()
		if m.target <= look {
			m.to(m.target)
			m.early = max(0, m.source-m.target)
			return
		}
		m.to(look)
		s := m.askSource()
		if m.target <= m.now {
			m.early = max(0, m.source-m.target)
			return
		}
		if s.gone { // forgotten: the target's runs out
			return
		}
		m.e.observe(s)
		if m.e.wantsKeepAlive(s) {
			m.kept++
			m.e.hasAtTarget(m.give(int64(m.e.granted)))
		}
		if m.e.wantsReplace(s) {
			m.replaced++
			m.e.tried = true
			m.e.meet(m.give(s.full))
			m.e.observe(s)
		}
		m.e.due = m.e.next(m.now)
	}
}

// givenSeed is UNDERSTUDY_SEED, which repeats a schedule.
func givenSeed(t *testing.T) (seed uint64, given bool) {
	s := os.Getenv("UNDERSTUDY_SEED")
	if s == "" {
		return 0, false
	}
	seed, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		t.Fatalf("UNDERSTUDY_SEED is %q: set it to a number", s)
	}
	return seed, true
}

// The ends that leases give to leases at the target, against those at the source, for random times to live, ways to renew, delays and clocks.
func TestLeaseEndsModel(t *testing.T) {
	first, n := rand.Uint64()>>2, 20000
	if seed, given := givenSeed(t); given {
		first, n = seed, 1
	}
	kept, replaced := 0, 0
	for seed := first; seed < first+uint64(n); seed++ {
		rng := rand.New(rand.NewPCG(seed, 13))
		ttl := []int64{1, 2, 3, 5, 10, 15, 60, 3600}[rng.IntN(8)]
		m := &leaseModel{rng: rng, full: leaseSeconds(ttl), source: leaseSeconds(ttl), delay: time.Duration(1 + rng.Int64N(int64(50*time.Millisecond))), drift: (rng.Float64() - 0.5) / 5000}
		m.e.index = -1
		// The client renews at up to a third of the time, for some times, or never.
		var last time.Duration
		renewed, tardy := rng.IntN(3) > 0, false
		if renewed {
			if slack := m.full - max(m.full/10, time.Second); slack > 0 && rng.IntN(3) == 0 {
				tardy, last = true, slack // its first renewal comes late, so that the mirror may have seen it with little time left
				m.renews = append(m.renews, last)
			}
			for i := 3 + rng.IntN(20); i > 0; i-- {
				last += time.Duration(float64(m.full) * (0.05 + 0.28*rng.Float64()))
				m.renews = append(m.renews, last)
			}
		}
		// The mirror sees it for the first time at some moment of its life.
		m.to(time.Duration(rng.Int64N(int64(last + m.full))))
		what := func() string {
			return fmt.Sprintf("UNDERSTUDY_SEED=%d: time to live %d s, renewed until %v, first seen with %d s at the target: kept alive %d times, replaced %d times, target's end %v, source's %v, last given its time at %v",
				seed, ttl, last, m.e.granted, m.kept, m.replaced, m.target, m.source, m.lastRemedy)
		}
		firstSeen := m.now
		if !m.introduce() {
			continue
		}
		short := m.e.granted <= shortLease
		clocks := m.full / 1000 // as far as the two clocks may part
		tolerance := clocks + 4*m.delay
		m.live()
		late := m.target - m.source
		switch {
		case m.early > clocks && (short || m.e.renewed || !renewed || firstSeen > last):
			t.Errorf("%s: gone %v too early", what(), m.early)
		case m.early > time.Second+tolerance:
			t.Errorf("%s: gone %v too early, though a renewal that moves the end by a second is seen", what(), m.early)
		case (!renewed || firstSeen > last) && !short && (m.kept > 0 || late > time.Second+tolerance):
			t.Errorf("%s: stays %v longer than one that is never renewed may", what(), late)
		case late > m.full+tolerance:
			t.Errorf("%s: stays %v longer", what(), late)
		case m.replaced > 1:
			t.Error(what())
		case !tardy && m.overshoot > m.full/3+time.Second+tolerance: // so far beyond a source that was lost then
			t.Errorf("%s: was to stay %v longer than a lease that is renewed in time", what(), m.overshoot)
		}
		kept += min(m.kept, 1)
		replaced += m.replaced
		if t.Failed() {
			t.FailNow()
		}
	}
	if n > 1 && (kept < n/100 || replaced < n/100) {
		t.Errorf("of %d leases %d were kept alive and %d replaced: too few to tell", n, kept, replaced)
	}
}

// 2,000 leases that are due at once are looked at in turn: two requests for each, at a bounded rate.
func TestLeasesAreLookedAtInTurn(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	const n = 2000
	ids := make([]int64, n)
	records := make([]clientv3.Op, n)
	for i := range ids {
		ids[i] = int64(i + 1)
		records[i] = clientv3.OpPut(w.keys.lease()+leaseName(ids[i]), "", clientv3.WithLease(clientv3.LeaseID(ids[i])))
	}
	each(ids, func(id int64) {
		w.grant(w.source, id, 3600)
		w.grant(w.target, id, 3600)
	})
	for part := range slices.Chunk(records, 100) {
		if _, err := w.target.Txn(w.ctx).Then(part...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	r := w.term()
	if err := r.load(w.ctx); err != nil {
		t.Fatal(err)
	}
	if r.count() != n {
		t.Fatalf("%d leases were loaded", r.count())
	}
	began := time.Now()
	r.start()
	w.wait("all to be looked at", func() bool {
		r.leases.mu.Lock()
		defer r.leases.mu.Unlock()
		for _, e := range r.byID {
			if e.granted == 0 {
				return false
			}
		}
		return true
	})
	if took, least := time.Since(began), roundEvery*(n/roundMost-1); took < least {
		t.Errorf("%d leases were looked at in %v, which should take %v", n, took, least)
	}
	calls := r.calls.counts()
	if calls["Lease/LeaseTimeToLive"] != n || calls["Lease/LeaseKeepAlive"]+calls["Lease/LeaseGrant"]+calls["KV/Txn"] != 0 || calls["KV/Range"] > n/1000+1 {
		t.Errorf("calls of the target for %d leases: %v", n, calls)
	}
	r.stop()
	r.leases.mu.Lock()
	defer r.leases.mu.Unlock()
	if len(r.queue) != n {
		t.Errorf("%d of %d leases will be looked at again", len(r.queue), n)
	}
	for _, e := range r.queue {
		if ahead := e.due - r.now(); ahead > slowestLook || ahead < slowestLook-time.Since(began) {
			t.Fatalf("a lease of an hour is looked at again in %v", ahead)
		}
	}
}

// Leases that become due one after the other are looked at together.
func TestRoundsOfLeasesArePaced(t *testing.T) {
	t.Parallel()
	w := newLeaseWorld(t)
	r := w.term()
	const n = 60
	for id := int64(1); id <= n; id++ {
		w.grant(w.source, id, 3600)
		w.grant(w.target, id, 1000)
		w.put(w.target, r.record(id), "", id)
	}
	if err := r.load(w.ctx); err != nil {
		t.Fatal(err)
	}
	began := r.now()
	for id := int64(1); id <= n; id++ {
		r.update(id, func(e *leaseEntry) { e.due, e.tried = began+time.Duration(id)*5*time.Millisecond, true })
	}
	var rounds atomic.Int64
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx, func(context.Context) bool { rounds.Add(1); return true }) // asked in each round, for each lease needs it
	}()
	w.wait("all to be kept alive", func() bool { return r.calls.counts()["Lease/LeaseKeepAlive"] >= n })
	cancel()
	<-done
	if most := int64((r.now()-began)/roundEvery) + 1; rounds.Load() > most {
		t.Errorf("%d rounds, in the time for %d", rounds.Load(), most)
	}
}

func TestLeaseTakesLittleMemory(t *testing.T) {
	const n = 50000
	l := newLeases(nil, &clientv3.Client{}, 0, "", nil, leaseEngine{})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range int64(n) {
		l.update(i+1, func(e *leaseEntry) { e.state = leaseGranted })
	}
	after := heap()
	if each := (int64(after) - int64(before)) / n; each > 160 {
		t.Errorf("%d bytes for each lease", each)
	} else {
		t.Logf("%d bytes for each lease", each)
	}
	runtime.KeepAlive(l)
}
