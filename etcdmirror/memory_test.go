package etcdmirror_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// peakMemory is the largest resident memory of a process so far, in bytes.
func peakMemory(t testing.TB, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("this system does not tell a process's peak memory: %v", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			var kb int
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// TestP14BoundedMemory copies and then follows data that defeats readers whose pages are bounded by keys alone: very many tiny values, then large ones.
func TestP14BoundedMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies the memory of the process that is measured; run this test without -race")
	}
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	const tiny, large, largeSize = 10_000, 400, 512 << 10
	for i := 0; i < tiny; i += 100 {
		ops := make([]clientv3.Op, 100)
		for j := range ops {
			ops[j] = clientv3.OpPut(fmt.Sprintf("/registry/configmaps/a/%06d", i+j), "x")
		}
		if _, err := p.source.Txn(p.ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	value := strings.Repeat("x", largeSize)
	for i := range large {
		p.put(p.source, fmt.Sprintf("/registry/configmaps/b/%06d", i), value)
	}
	idle := p.child()
	if err := idle.WaitOutput(p.ctx, "connected"); err != nil {
		t.Fatal(err)
	}
	baseline := peakMemory(t, idle.Pid())
	idle.Kill9()

	mirror := p.child("SESSION_TTL=10m")
	if err := mirror.WaitOutput(p.ctx, "state tail"); err != nil {
		t.Fatal(err)
	}
	copied := peakMemory(t, mirror.Pid())
	// A target that does not take what the source brings: the source is slowed down, and nothing piles up.
	if err := p.targetCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	for i := range large {
		p.put(p.source, fmt.Sprintf("/registry/configmaps/b/%06d", i), value+"y")
	}
	for peak, same := 0, 0; same < 20; same++ { // as long as the mirror still takes something in
		if now := peakMemory(t, mirror.Pid()); now != peak {
			peak, same = now, 0
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := p.targetCluster.StartMember(p.ctx, 0, nil); err != nil {
		t.Fatal(err)
	}
	last := p.put(p.source, "/registry/configmaps/c", "last")
	for p.metadata().Checkpoint.SourceRevision < last {
		if p.ctx.Err() != nil {
			t.Fatal(p.ctx.Err())
		}
	}
	if n := strings.Count(mirror.Output(), "leading"); n != 1 {
		t.Errorf("%d terms of leadership: the buffers of the first were dropped meanwhile", n)
	}
	followed := peakMemory(t, mirror.Pid())
	const all, bound = large * largeSize, 120 << 20
	t.Logf("client alone %d MiB, after the base copy %d MiB, after the tail %d MiB; the large values have %d MiB", baseline>>20, copied>>20, followed>>20, all>>20)
	if copied-baseline > bound || followed-baseline > bound {
		t.Errorf("the mirror took more than %d MiB above the client", bound>>20)
	}
	p.mustEqual("/registry/", nil)
}
