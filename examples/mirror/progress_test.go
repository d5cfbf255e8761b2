package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/screen"
)

func TestProgressLine(t *testing.T) {
	status := func(c etcdmirror.CopyStatus) etcdmirror.Status {
		return etcdmirror.Status{State: etcdmirror.StateBaseCopy, Copy: c}
	}
	for want, tc := range map[string]struct {
		status etcdmirror.Status
		rate   float64
	}{
		"base copy: listing the keys of both sides":                              {status(etcdmirror.CopyStatus{Round: 1}), 0},
		"base copy: 0 of 50,000 keys (0.0%)":                                     {status(etcdmirror.CopyStatus{Round: 1, ToWrite: 50000}), 0},
		"base copy: 12,500 of 50,000 keys (25.0%), 2,500 keys/s, about 15s left": {status(etcdmirror.CopyStatus{Round: 1, ToWrite: 50000, Looked: 12500}), 2500},
		"base copy, round 2: 1 of 3 keys (33.3%)":                                {status(etcdmirror.CopyStatus{Round: 2, ToWrite: 3, Looked: 1}), 0},
		"base copy: deleted 2 of 1,000 keys":                                     {status(etcdmirror.CopyStatus{Round: 1, ToDelete: 1000, Deleted: 2}), 9},
		"base copy: the last of 7 keys are being committed":                      {status(etcdmirror.CopyStatus{Round: 1, ToWrite: 7, Looked: 7, ToDelete: 1, Deleted: 1}), 9},
		"waiting: the target sleeps":                                             {etcdmirror.Status{State: etcdmirror.StateWaiting, Reason: "the target sleeps"}, 0},
	} {
		if got := progressLine(tc.status, tc.rate); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The line appears while a copy is under way and only then; a new round measures anew.
func TestProgressOfACopy(t *testing.T) {
	r := newReporter(slog.New(slog.DiscardHandler), screen.New(&buffer{}), mirrorflags.DefaultName)
	s := etcdmirror.Status{State: etcdmirror.StateBaseCopy}
	if got := r.progress(noon, s); got != "" {
		t.Errorf("before the copy: %q", got)
	}
	s.Copy = etcdmirror.CopyStatus{Round: 1, ToWrite: 1000, Began: noon}
	for i := range 3 {
		s.Copy.Looked = 100 * i
		r.progress(noon.Add(time.Duration(i)*time.Second), s)
	}
	s.Copy.Looked = 300
	if got, want := r.progress(noon.Add(3*time.Second), s), "base copy: 300 of 1,000 keys (30.0%), 100 keys/s, about 7s left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Copy = etcdmirror.CopyStatus{Round: 2, ToWrite: 10, Looked: 5, Began: noon.Add(4 * time.Second)}
	if got, want := r.progress(noon.Add(5*time.Second), s), "base copy, round 2: 5 of 10 keys (50.0%)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.State = etcdmirror.StateReplica
	if got := r.progress(noon.Add(5*time.Second), s); got != "" {
		t.Errorf("after another instance has taken over: %q", got)
	}
	s.State = etcdmirror.StateBaseCopy
	s.Copy.Ended = noon.Add(6 * time.Second)
	if got := r.progress(noon.Add(7*time.Second), s); got != "" {
		t.Errorf("after the copy: %q", got)
	}
}

// The rate is that of the last seconds: a pause long ago does not count.
func TestMeter(t *testing.T) {
	var m meter
	if m.add(noon, 5); m.rate() != 0 {
		t.Errorf("a rate from one sample: %v", m.rate())
	}
	if m.add(noon, 9); m.rate() != 0 {
		t.Errorf("a rate without time: %v", m.rate())
	}
	for i := 1; i <= 60; i++ {
		m.add(noon.Add(time.Minute+time.Duration(i)*200*time.Millisecond), 9+i*20)
	}
	if got := m.rate(); got < 99 || got > 101 {
		t.Errorf("the rate is %v, want 100", got)
	}
	if n := len(m.samples); n > 30 {
		t.Errorf("%d samples are kept", n)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100000: "100,000", -100: "-100"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// Changes of state are logged once each, at a level that fits, and a flapping tail does not fill the log.
func TestStatesAreLogged(t *testing.T) {
	var out buffer
	r := newReporter(slog.New(slog.NewTextHandler(&out, nil)), screen.New(&out), mirrorflags.DefaultName)
	for _, info := range []etcdmirror.StateInfo{
		{State: etcdmirror.StateStarting}, {State: etcdmirror.StateBaseCopy}, {State: etcdmirror.StateTail}, {State: etcdmirror.StateCatchingUp}, {State: etcdmirror.StateTail},
		{State: etcdmirror.StateWaiting, Reason: "source: gone"}, {State: etcdmirror.StateTail}, {State: etcdmirror.StateStopped, Reason: "told by Run"},
	} {
		r.changed(info)
	}
	<-r.following // closed, once
	var got []string
	for line := range strings.Lines(out.String()) {
		_, after, _ := strings.Cut(strings.TrimSpace(line), "level=")
		got = append(got, after)
	}
	want := `INFO msg=state state="base copy"|INFO msg=state state=tail|WARN msg=state state=waiting reason="source: gone"|INFO msg=state state=tail`
	if strings.Join(got, "|") != want {
		t.Errorf("got %q", got)
	}
}

// What others do at the target is logged, but a controller that deletes everything does not fill the log.
func TestDriftIsLogged(t *testing.T) {
	var out buffer
	r := newReporter(slog.New(slog.NewTextHandler(&out, nil)), screen.New(&out), "m")
	hooks := r.hooks()
	hooks.Drift(etcdmirror.DriftInfo{Key: "/registry/a", Kind: etcdmirror.DriftChanged, TargetRevision: 7})
	hooks.Drift(etcdmirror.DriftInfo{Key: "/registry/a", Kind: etcdmirror.DriftRepaired, TargetRevision: 8})
	for range 2 * driftLines {
		hooks.Drift(etcdmirror.DriftInfo{Key: "/registry/b", Kind: etcdmirror.DriftDeleted, TargetRevision: 9})
	}
	hooks.Tripped(etcdmirror.Trip{Keys: 10, Left: 1})
	r.logStatus(etcdmirror.Status{State: etcdmirror.StateWaiting, Leader: "r1", Keys: 10, Drifted: 3, Repairs: 4, Fights: 1, Trip: &etcdmirror.Trip{Keys: 10, Left: 1}})
	r.logStatus(etcdmirror.Status{State: etcdmirror.StateTail})
	text := out.String()
	for _, want := range []string{
		`level=WARN msg="a mirrored key was touched by others at the target" key=/registry/a kind=changed targetRevision=7`,
		`level=INFO msg="a mirrored key was put right" key=/registry/a kind=repaired targetRevision=8`,
		`level=ERROR msg="if the deletes are meant: mirror approve --name m --confirm m"`,
		`keys=10 foreign=0 guarded=0 drifted=3 repairs=4 fights=1 leases=0 driftsNotLogged=22 leader=r1 tripKeys=10 tripLeft=1`,
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%d times in the log: %s", strings.Count(text, want), want)
		}
	}
	if n := strings.Count(text, "kind="); n != driftLines {
		t.Errorf("%d lines about drift, want %d", n, driftLines)
	}
	if n := strings.Count(text, "driftsNotLogged"); n != 1 {
		t.Errorf("what was not logged is told %d times:\n%s", n, text)
	}
}
