package kvstream_test

import (
	"testing"

	"github.com/understudy-dr/understudy/internal/kvstream"
)

// isDense says it plainly: every item stands behind its neighbour, and the whole spans fewer places than Sparse times the items.
func isDense(l list) bool {
	for i := range l[1:] {
		if l[i+1].pos <= l[i].pos {
			return false
		}
	}
	return l[len(l)-1].pos-l[0].pos < int64(kvstream.Sparse*len(l))
}

func FuzzDense(f *testing.F) {
	f.Add(int64(0), []byte{1, 1, 1}, uint(0), uint(4))
	f.Add(int64(1<<40), []byte{3, 3, 3, 2}, uint(0), uint(5))
	f.Add(int64(7), []byte{1, 0, 1}, uint(1), uint(2))
	f.Add(int64(-1), []byte{12}, uint(0), uint(1))
	f.Add(int64(0), []byte{5}, uint(0), uint(1)) // the widest that is dense
	f.Add(int64(0), []byte{6}, uint(0), uint(1)) // the narrowest that is not
	f.Add(int64(5), []byte{1, 1, 255, 1, 1}, uint(3), uint(3))
	f.Fuzz(func(t *testing.T, start int64, steps []byte, first, n uint) {
		l := list{{pos: start % (1 << 50)}} // a place in a listing
		for _, step := range steps {
			l = append(l, item{pos: l[len(l)-1].pos + int64(int8(step))})
		}
		at := int(first % uint(len(l)))
		count := 1 + int(n%uint(len(l)-at))
		if got, want := kvstream.Dense(l, at, count), isDense(l[at:at+count]); got != want {
			t.Errorf("%v from %d for %d: %v, want %v", l, at, count, got, want)
		}
	})
}
