package etcdmirror

import (
	"math/rand/v2"
	"testing"
)

// TestTheLedgerForgetsNothing writes, looks and restarts at random, and expects that a revision that wrote data is known as long as the looks have not come to it.
func TestTheLedgerForgetsNothing(t *testing.T) {
	seed, given := givenSeed(t)
	if !given {
		seed = rand.Uint64() >> 2
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	l := newLedger()
	md := &Metadata{}                             // what a restart reads
	keyed := &ownKeys{revs: map[int64]struct{}{}} // and the keys under own/
	data := map[int64]bool{}                      // the oracle: revisions that wrote data
	others := map[int64]bool{}
	head := int64(0)
	for step := range 20_000 {
		switch n := rng.IntN(100); {
		case n < 70: // a transaction, most of them with data
			full, withData := l.full(), rng.IntN(4) > 0
			clearing := !(full && withData) && l.clearable()
			l.stamp(&md.Checkpoint)
			head++
			md.CheckpointRevision = head
			if withData {
				data[head] = true
			}
			l.add(head, full && withData)
			switch {
			case full && withData:
				keyed.revs[head] = struct{}{}
				l.noteKeyed(head)
			case clearing:
				clear(keyed.revs)
				l.noteKeyed(0)
			}
		case n < 75: // another's
			head++
			others[head] = true
		case n < 97: // a look at what came, often lagging far behind
			if back := rng.Int64N(300); rng.IntN(10) == 0 && head > back {
				l.move(head - back)
			}
		default: // a restart
			l = newLedger()
			l.load(md, keyed)
		}
		for rev := range data {
			switch {
			case rev <= md.Checkpoint.Watched: // no restart goes back behind it
				delete(data, rev)
			case rev > l.position() && !l.has(rev):
				t.Fatalf("UNDERSTUDY_SEED=%d, step %d: revision %d is unknown; everything up to %d is noted, head %d", seed, step, rev, l.position(), head)
			}
		}
		for rev := range l.own {
			if others[rev] {
				t.Fatalf("UNDERSTUDY_SEED=%d, step %d: revision %d is another's", seed, step, rev)
			}
		}
	}
}
