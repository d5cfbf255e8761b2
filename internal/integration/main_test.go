// Package integration_test runs the mirror against an installed etcd server of another version, as source, as target and as both.
//
//	UNDERSTUDY_ETCD=/usr/bin/etcd go test ./internal/integration/
//
// UNDERSTUDY_SEED repeats one random schedule, UNDERSTUDY_SCHEDULES runs that many per combination of servers.
package integration_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"mirror": childMirror})
	testutil.Main(m)
}

// binary is the etcd server to test against. Without one the test is skipped.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("UNDERSTUDY_ETCD")
	if path == "" {
		t.Skip("set UNDERSTUDY_ETCD to an etcd server binary of another version, such as /usr/bin/etcd of Debian's package etcd-server")
	}
	return path
}

// combination says which sides are the installed server; the others are embedded.
type combination struct{ source, target bool }

func (c combination) String() string {
	switch c {
	case combination{source: true}:
		return "source"
	case combination{target: true}:
		return "target"
	}
	return "both"
}

// combinations runs f for each place that the installed server can have.
func combinations(t *testing.T, f func(t *testing.T, c combination)) {
	binary(t)
	for _, c := range []combination{{source: true}, {target: true}, {source: true, target: true}} {
		t.Run(c.String(), func(t *testing.T) { f(t, c) })
	}
}

// schedules runs f for n seeds, or for those that the environment asks for. The seed is in the test's name.
func schedules(t *testing.T, n int, f func(t *testing.T, seed uint64, rng *rand.Rand)) {
	first := rand.Uint64() >> 2
	if s := os.Getenv("UNDERSTUDY_SCHEDULES"); s != "" {
		n = int(number(t, "UNDERSTUDY_SCHEDULES", s))
	}
	if s := os.Getenv("UNDERSTUDY_SEED"); s != "" {
		n, first = 1, number(t, "UNDERSTUDY_SEED", s)
	}
	for i := range n {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, seed, rand.New(rand.NewPCG(seed, 11))) })
	}
}

func number(t *testing.T, variable, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		t.Fatalf("%s is %q: set it to a number", variable, s)
	}
	return n
}
