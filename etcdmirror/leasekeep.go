package etcdmirror

import (
	"cmp"
	"container/heap"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// Leases are looked at in rounds: those that are due are asked for at the source, and what it says to live longer than at the target is kept alive there.
// A lease of which the source has not just said that it lives is never kept alive.
const (
	// roundEvery and roundMost bound the requests: to roundMost looks, and as many keepalives, in roundEvery.
	roundEvery = 100 * time.Millisecond
	roundMost  = 100
	// roundAtOnce is how many of them are under way at a time.
	roundAtOnce = 16
	// A lease is looked at when a third of its time at the target is over, within these limits.
	quickestLook = 500 * time.Millisecond
	slowestLook  = time.Minute
	// shortLease is the time to live up to which etcd's whole seconds are too coarse to tell whether a lease was renewed.
	shortLease = 4 // seconds
)

// leaseSample is one side's answer about a lease. sent and got enclose the moment at which it was true.
type leaseSample struct {
	sent, got time.Duration
	ttl       int64 // remaining, in seconds, rounded down
	full      int64 // time to live when granted or renewed
	fresh     bool  // it was granted or renewed just then: ttl is exact
	gone      bool
	keys      []string
}

// leaseSeconds is a time to live as a duration that can be added to others.
func leaseSeconds(n int64) time.Duration {
	const most = 1 << 30 // 34 years
	return time.Duration(min(n, most)) * time.Second
}

// hasAtTarget notes the target's answer.
func (e *leaseEntry) hasAtTarget(s leaseSample) {
	e.state, e.granted = leaseGranted, int32(min(s.full, math.MaxInt32))
	e.target = s.got + leaseSeconds(s.ttl+1)
	if s.fresh {
		e.target = s.sent + leaseSeconds(s.ttl)
	}
}

// meet notes the first answer of the target.
func (e *leaseEntry) meet(s leaseSample) {
	e.hasAtTarget(s)
	e.source = e.target // until the source says otherwise
}

// observe notes the source's answer.
func (e *leaseEntry) observe(s leaseSample) {
	// The clocks that count the two times may run differently by a thousandth.
	tolerance := leaseSeconds(s.full) / 1000
	if s.sent+leaseSeconds(s.ttl) > e.source+tolerance {
		e.source, e.renewed = s.got+leaseSeconds(s.ttl+1), true
		return
	}
	e.source = min(e.source, s.got+leaseSeconds(s.ttl+1))
}

// wantsKeepAlive reports whether the source's lease, which s tells of, may outlive the target's.
//
// For one that has never been renewed, as those of Kubernetes' events, that has to be certain: a keepalive would give the target's its full time anew.
// For others, doubt is enough: a key that is gone too early is worse than one that, if the source is lost in that second, stays for one time to live too long.
func (e *leaseEntry) wantsKeepAlive(s leaseSample) bool {
	end := e.source
	if e.renewed || e.granted <= shortLease {
		end = s.got + leaseSeconds(s.ttl+1)
	}
	return end > e.target
}

// wantsReplace reports whether the time that the lease was granted at the target is too short for the source's, which has just been renewed.
func (e *leaseEntry) wantsReplace(s leaseSample) bool {
	left := s.ttl + 1
	return !e.tried && s.full > int64(e.granted) && 3*left > 4*int64(e.granted) && 3*left >= 2*s.full
}

// next is when to look at the lease again.
func (e *leaseEntry) next(now time.Duration) time.Duration {
	return now + min(max((e.target-now)/3, quickestLook), slowestLook)
}

// run keeps alive at the target what lives at the source, and sees to replacements, until ctx ends. alive is asked just before leases are kept alive or replaced:
// whether this instance is, by a linearizable read, still the one that writes. If not, or if that cannot be told, it is left.
func (l *leases) run(ctx context.Context, alive func(context.Context) bool) {
	var mending sync.WaitGroup
	defer mending.Wait()
	mending.Go(func() { l.mendAll(ctx, alive) })
	for attempt := (etcdrpc.Backoff{}); ctx.Err() == nil; {
		batch := l.takeDue(ctx)
		pace := time.NewTimer(roundEvery)
		if l.round(ctx, batch, alive) {
			attempt.Reset()
		} else {
			_ = attempt.Wait(ctx)
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
		pace.Stop()
	}
}

// leaseLook is one look at a lease.
type leaseLook struct {
	leaseEntry             // as it was when it was taken from the queue
	there      leaseSample // at the target, where that was not known
	here       leaseSample // at the source
	err        error
	done       bool
	keep       bool
	kept       leaseSample
}

// round looks at leases and keeps alive those that need it. It reports whether the etcds answered.
func (l *leases) round(ctx context.Context, batch []*leaseLook, alive func(context.Context) bool) bool {
	var failed atomic.Bool
	each(batch, func(k *leaseLook) {
		if failed.Load() || ctx.Err() != nil {
			return // later: the others would wait for it as long
		}
		if k.here, k.err = l.look(ctx, l.source, k.id); k.err == nil && k.state == leaseGranted && k.granted == 0 && !k.here.gone {
			k.there, k.err = l.look(ctx, l.target, k.id)
		}
		k.done = k.err == nil
		if k.err != nil {
			failed.Store(true)
		}
	})
	var keep []*leaseLook
	for _, k := range batch {
		if k.done {
			l.settle(k)
		}
		if k.keep {
			keep = append(keep, k)
		}
	}
	if len(keep) > 0 && alive(ctx) {
		each(keep, func(k *leaseLook) {
			if k.kept, k.err = l.keepAlive(ctx, k.id); k.err != nil && !isLeaseNotFound(k.err) {
				failed.Store(true)
			}
		})
		for _, k := range keep {
			switch {
			case isLeaseNotFound(k.err) && l.current(k):
				l.lose(k.id)
			case k.err == nil:
				l.change(k, func(e *leaseEntry) { e.hasAtTarget(k.kept) })
			}
		}
	}
	now := l.now()
	for _, k := range batch {
		l.change(k, func(e *leaseEntry) {
			switch {
			case !k.done || k.keep && k.kept.full == 0:
				e.due = now + quickestLook
			case e.state == leaseTaken:
				e.due = now + slowestLook
			default:
				e.due = e.next(now)
			}
		})
	}
	return !failed.Load()
}

// settle draws the conclusions from a look.
func (l *leases) settle(k *leaseLook) {
	switch {
	case !l.current(k):
	case k.here.gone:
		l.forget(k.id) // the target's runs out; the tail brings the deletion of the keys
	case k.state == leaseGone:
		// It is there after all: granted again under its ID, or asked of a member that was behind. Keys may have been written without it.
		l.change(k, func(e *leaseEntry) { e.state, e.mend = leaseAbsent, mendRestore })
	case k.state == leaseGranted && k.there.gone:
		l.lose(k.id)
	case k.state == leaseGranted:
		l.change(k, func(e *leaseEntry) {
			if e.granted == 0 {
				e.meet(k.there)
			}
			e.observe(k.here)
			k.keep = e.wantsKeepAlive(k.here)
			if e.wantsReplace(k.here) {
				e.mend |= mendReplace
			}
		})
	}
}

// current reports whether nobody has changed a lease's state since the look began.
func (l *leases) current(k *leaseLook) bool {
	e, ok := l.get(k.id)
	return ok && e.gen == k.gen
}

// change updates a lease unless somebody else has done so since the look began.
func (l *leases) change(k *leaseLook, change func(*leaseEntry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byID[k.id]; e != nil && e.gen == k.gen {
		state := e.state
		change(e)
		if e.state != state {
			e.gen++
			k.gen = e.gen
		}
		l.enqueue(e)
	}
}

func (l *leases) keepAlive(ctx context.Context, id int64) (leaseSample, error) {
	s := leaseSample{sent: l.now()}
	resp, err := etcdrpc.Do(ctx, l.timeout, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
		return l.target.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	})
	if err != nil {
		return s, err
	}
	s.got, s.ttl, s.full, s.fresh = l.now(), resp.TTL, resp.TTL, true
	return s, nil
}

// each runs do for all, several at a time.
func each[T any](all []T, do func(T)) {
	var g errgroup.Group
	g.SetLimit(roundAtOnce)
	for _, one := range all {
		g.Go(func() error {
			do(one)
			return nil
		})
	}
	_ = g.Wait() // do returns nothing
}

// takeDue waits until leases are due and takes them from the queue, those that have waited longest. It returns none when ctx ends.
func (l *leases) takeDue(ctx context.Context) (batch []*leaseLook) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now, pause := l.now(), time.Hour
		for len(l.queue) > 0 && len(batch) < roundMost {
			if e := l.queue[0]; e.due > now {
				pause = e.due - now
				break
			}
			e := heap.Pop(&l.queue).(*leaseEntry)
			batch = append(batch, &leaseLook{leaseEntry: *e})
		}
		l.mu.Unlock()
		if len(batch) > 0 || ctx.Err() != nil {
			return batch
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-l.wake:
		case <-ctx.Done():
		}
	}
}

// enqueue puts a lease where its state asks for. It is called with mu held.
func (l *leases) enqueue(e *leaseEntry) {
	switch watched := e.state != leaseAbsent; {
	case watched && e.index < 0:
		heap.Push(&l.queue, e)
		signal(l.wake)
	case watched:
		heap.Fix(&l.queue, int(e.index))
		signal(l.wake)
	case e.index >= 0:
		heap.Remove(&l.queue, int(e.index))
	}
	if e.mend != 0 && !e.queued {
		e.queued = true
		l.mends = append(l.mends, e.id)
		signal(l.work)
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// leaseQueue is a heap of leases by due time.
type leaseQueue []*leaseEntry

func (q leaseQueue) Len() int           { return len(q) }
func (q leaseQueue) Less(i, j int) bool { return cmp.Less(q[i].due, q[j].due) }
func (q leaseQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = int32(i), int32(j)
}
func (q *leaseQueue) Push(x any) {
	e := x.(*leaseEntry)
	e.index = int32(len(*q))
	*q = append(*q, e)
}
func (q *leaseQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}
