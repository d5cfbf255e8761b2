package etcdmirror

import (
	"testing"
	"time"
)

// A burst is followed one by one; revisions that wait without a pause are merged until that has been of no use for a while.
func TestP11PaceOfTheTail(t *testing.T) {
	const after = 100 * time.Millisecond
	now := time.Unix(1000, 0)
	var p pace
	step := func(by time.Duration, wait, crowded, want bool) {
		t.Helper()
		now = now.Add(by)
		p.note(now, wait, crowded, after)
		if got := p.bulk(now); got != want {
			t.Errorf("at %v: bulk %v, want %v", now.Sub(time.Unix(1000, 0)), got, want)
		}
	}
	for range 9 { // a burst
		step(10*time.Millisecond, true, false, false)
	}
	step(10*time.Millisecond, false, false, false)
	for range 10 { // with a pause in between, another
		step(10*time.Millisecond, true, false, false)
	}
	step(10*time.Millisecond, true, false, true) // no pause for so long
	for range 30 {                               // merging keeps up, and is of use
		step(100*time.Millisecond, false, true, true)
	}
	step(paceHold-time.Millisecond, false, false, true)
	step(time.Millisecond, false, false, false)
}
