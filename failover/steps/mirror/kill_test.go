package mirror_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func leased(id clientv3.LeaseID) clientv3.OpOption { return clientv3.WithLease(id) }

// fileControl stops a mirror of another process: that one looks at a file and tells in another whether the mirror runs.
func fileControl(dir string) mirror.ControlFuncs {
	stop, running := &fileGate{filepath.Join(dir, "mirror.stop")}, &fileGate{filepath.Join(dir, "mirror.running")}
	until := func(want bool, act func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := act(ctx); err != nil {
				return err
			}
			for {
				if is, err := running.Closed(ctx); err != nil || is == want {
					return err
				}
				sleep(ctx, 5*time.Millisecond)
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
	}
	return mirror.ControlFuncs{Text: "a file", IsRunning: running.Closed, DoStart: until(true, stop.Open), DoStop: until(false, stop.Close)}
}

// obey runs the mirror as the files of fileControl say.
func (s *stage) obey(m *engine.InProcess) {
	stop, running := &fileGate{filepath.Join(s.dir, "mirror.stop")}, &fileGate{filepath.Join(s.dir, "mirror.running")}
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; sleep(ctx, 2*time.Millisecond) {
			asked, _ := stop.Closed(ctx)
			switch runs, _ := m.Running(ctx); {
			case asked && runs:
				_ = m.Stop(ctx)
			case !asked && !runs:
				_ = m.Start(ctx)
			}
			if runs, _ := m.Running(ctx); runs {
				_ = running.Close(ctx)
			} else {
				_ = running.Open(ctx)
			}
		}
	}()
	s.t.Cleanup(func() { cancel(); <-done })
}

// childSwitch carries out the switch of its stage in a process of its own, and kills itself at a boundary.
func childSwitch() int {
	connect := func(variable string) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(os.Getenv(variable), ","), Logger: zap.NewNop()})
		return must(c, err)
	}
	a, b, dir := connect("A"), connect("B"), os.Getenv("DIR")
	fuse, _ := strconv.Atoi(os.Getenv("FUSE"))
	tick := func() {
		if fuse--; fuse == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	set := settings{pair: engine.Pair(a, b, mirrorConfig("ab")), gate: &fileGate{filepath.Join(dir, "gate.closed")}, control: fileControl(dir),
		verdicts: must(engine.NewVerdicts(a, b, checkConfig("ab"))), margin: 50}
	p := must(failover.NewPlan(failover.PlanConfig{Name: "test", Steps: set.steps()}))
	r := must(failover.New(p, failover.Config{Journal: filepath.Join(dir, "switch.journal"), NoWait: true, Hooks: failover.Hooks{
		Recorded: func(failover.RecordedInfo) { tick() }, Observed: func(failover.ObservedInfo) { tick() }}}))
	run := r.Run
	if os.Getenv("UNDO") != "" {
		run = func(ctx context.Context) error { return r.Undo(ctx, failover.UndoOptions{}) }
	}
	if err := run(context.Background()); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// killThrough runs childSwitch again and again, each time killed a little later in what is left, until one gets through. It returns how many were killed.
func (s *stage) killThrough(env ...string) (killed int) {
	s.t.Helper()
	for { // a boundary is after each record, and after each look at the world, such as the one that follows Do
		fuse := 3 + killed%4 + killed/4 // longer and longer, so that each way ends
		child := proc.Start(s.t, "switch", append(env, "A="+strings.Join(s.aCluster.Endpoints(), ","), "B="+strings.Join(s.bCluster.Endpoints(), ","), "DIR="+s.dir, fmt.Sprintf("FUSE=%d", fuse)))
		err := child.Wait(s.ctx)
		if err == nil {
			return killed
		}
		if !strings.Contains(err.Error(), "killed") {
			s.t.Fatalf("child ended with %v: %s", err, child.Output())
		}
		killed++
		if killed > 100 {
			s.t.Fatal("it never ends")
		}
	}
}

// A switch whose runner is killed over and over, at boundaries of all kinds, ends as one that is not: nothing is lost. So does undoing it.
func TestKilledRunners(t *testing.T) {
	s := newStage(t)
	s.obey(s.ab)
	s.eventually("mirror", func() bool { runs, _ := s.ab.Running(s.ctx); return runs })
	s.caughtUp(s.ab, s.a)
	tr := s.startTraffic(s.a, 5)
	s.eventually("traffic", func() bool { return tr.acknowledged() > 100 })
	killed := s.killThrough()
	if killed < 5 {
		t.Errorf("only %d were killed", killed)
	}
	if lost := tr.lostNow(s); len(lost) > 0 {
		t.Errorf("lost after %d kills: %v", killed, lost)
	}
	undoing := s.killThrough("UNDO=1")
	if closed, _ := s.gate.Closed(s.ctx); closed || undoing < 5 {
		t.Errorf("after %d kills of undoing the gate is closed: %v", undoing, closed)
	}
	before := tr.acknowledged()
	s.eventually("traffic after undoing", func() bool { return tr.acknowledged() > before })
	tr.end()
	s.caughtUp(s.ab, s.a)
	if !maps.Equal(s.content(s.a), s.content(s.b)) {
		t.Error("the two differ after undoing")
	}
	t.Logf("%d runners were killed on the way, %d on the way back", killed, undoing)
}

// lostNow is lost of traffic that the gate holds back.
func (tr *traffic) lostNow(s *stage) []string {
	content := s.content(s.b)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.lost(content)
}
