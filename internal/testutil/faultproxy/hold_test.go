package faultproxy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

// held connects clients while connections are held back, lets them through and returns the order in which they reach the member.
func held(t *testing.T, seed uint64, batch int) []int {
	n := newLine(t, seed)
	before, beforeMember := n.pair()
	n.apply(faultproxy.Fault{Kind: faultproxy.Hold, Batch: batch})
	const clients = 6
	for i := range clients {
		if len(n.members) > 0 {
			t.Fatal("a connection was not held back")
		}
		n.dial().send(fmt.Sprint(i))
		n.until(faultproxy.Hold, faultproxy.Counter{Applied: 1, Connections: i + 1})
	}
	before.send("not new")
	beforeMember.get("not new")
	if batch == 0 {
		n.proxy.Clear()
	}
	var order []int
	for range clients {
		id := make([]byte, 1)
		if _, err := n.member().Read(id); err != nil {
			t.Fatal(err)
		}
		order = append(order, int(id[0]-'0'))
	}
	return order
}

func TestHold(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(4) {
		first := held(t, seed, 0)
		if slices.IsSorted(first) {
			t.Errorf("seed %d: order %v is that of the arrival", seed, first)
		}
		if second := held(t, seed, 6); !slices.Equal(first, second) {
			t.Errorf("seed %d: order %v, then %v", seed, first, second)
		}
		seen[fmt.Sprint(first)] = true
	}
	if len(seen) == 1 {
		t.Error("every seed gives the same order")
	}
}
