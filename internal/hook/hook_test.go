package hook_test

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/internal/hook"
)

type hooks struct{ said func(int) }

func TestJoinAndCall(t *testing.T) {
	pick := func(h hooks) func(int) { return h.said }
	if hook.Join([]hooks{{}, {}}, pick) != nil {
		t.Error("no func was set, and one came back")
	}
	var got []int
	joined := hook.Join([]hooks{{func(i int) { got = append(got, i) }}, {}, {func(i int) { got = append(got, -i) }}}, pick)
	hook.Call(joined, 1)
	hook.Call(joined, 2)
	hook.Call(nil, 3)
	if want := []int{1, -1, 2, -2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
