package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// statusOf is what status tells about the mirror.
func (p *pair) statusOf(t *testing.T) view {
	t.Helper()
	var got struct{ Mirrors []view }
	r := invoke(t, p.args("status", "--name", "default", "--output", "json", "--keys")...).want(t, 0)
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Mirrors) != 1 {
		t.Fatalf("%v:\n%s", err, r.out)
	}
	return got.Mirrors[0]
}

// Of several processes one leads and the others wait. One that is killed is replaced when its session is over, one that is stopped at once: its session would last an hour.
func TestReplicas(t *testing.T) {
	p := newPair(t)
	ctx := testutil.Context(t)
	fill(t, p.sourceC, 20)
	start := func(name, ttl string) *proc.Proc {
		return proc.Start(t, "mirror", nil, p.args("run", "--log-interval", "20ms", "--replica", name, "--session-ttl", ttl)...)
	}
	output := func(child *proc.Proc, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if err := child.WaitOutput(ctx, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	arrives := func(key string) {
		t.Helper()
		put(t, p.sourceC, "/registry/configmaps/team-a/"+key, key)
		eventually(t, key+" arrives", func() bool {
			target, _ := values(t, p.targetC)
			return target["/registry/configmaps/team-a/"+key] == key
		})
	}
	first := start("first", "1s")
	output(first, "msg=leading", "msg=state state=tail")
	second := start("second", "1h")
	output(second, `msg=state state=replica reason="replica \"first\" leads"`)
	arrives("while-the-second-waits")
	invoke(t, p.args("status")...).want(t, 0, `leader                "first"; waiting: "second"`)
	if strings.Contains(second.Output(), "msg=leading") {
		t.Fatal("two instances lead")
	}

	first.Kill9()
	output(second, "msg=leading", "msg=state state=tail")
	third := start("third", "1s")
	output(third, "msg=state state=replica")
	arrives("after-the-kill")
	if v := p.statusOf(t); v.Leader != "second" || !cmp.Equal(v.Replicas, []string{"third"}) || v.KeysHeld != 22 {
		t.Errorf("leader %q, waiting %q, %d keys", v.Leader, v.Replicas, v.KeysHeld)
	}

	if err := second.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	output(third, "msg=leading", "msg=state state=tail", "leader=third")
	arrives("after-the-end")
	for _, child := range []*proc.Proc{second, third} {
		if strings.Contains(child.Output(), "base copy") || strings.Contains(child.Output(), "state=resync") {
			t.Error("an instance that took over copied again")
		}
	}
	// A promotion ends whoever waits, too.
	fourth := start("fourth", "1s")
	output(fourth, "msg=state state=replica")
	invoke(t, p.args("promote", "--confirm", "default")...).want(t, 0, "is promoted")
	output(fourth, "mirror: fenced: ")
	put(t, p.sourceC, "/registry/configmaps/team-a/late", "late")
	output(third, "mirror: fenced: ")
	eventually(t, "nobody leads", func() bool { return p.statusOf(t).Leader == "" })
	invoke(t, p.args("status")...).want(t, 0, "none: no instance of the mirror runs")
}

// Keys that the target's own controllers touch are listed, with a few shown and all on request, and put back if asked for; what they make stays.
func TestDrift(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 9)
	key := func(i int) string { return fmt.Sprintf("/registry/configmaps/team-a/cm-%03d", i) }
	const own = "/registry/configmaps/own/o"
	b := inBackground(t, p.args("run", "--repair-delay", "1ms")...)
	b.err.await(t, "msg=state state=tail")
	for i := range 6 {
		if _, err := p.targetC.Delete(testutil.Context(t), key(i)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, p.targetC, key(6), "changed")
	put(t, p.targetC, own, "own")
	eventually(t, "drift is listed", func() bool { v := p.statusOf(t); return len(v.Drift) == 7 && v.ForeignCount == 1 })
	b.err.await(t, fmt.Sprintf("msg=\"a mirrored key was touched by others at the target\" key=%s kind=changed", key(6)))
	b.cancel()
	<-b.code
	r := invoke(t, p.args("status")...).want(t, 0, "leader                none", "drifted keys          7: 1 changed, 6 deleted\n",
		fmt.Sprintf("    %q: deleted, noted at target revision", key(4)), "    and 2 more; --keys lists them\n")
	if strings.Contains(r.out, key(6)) {
		t.Errorf("more keys than promised:\n%s", r.out)
	}
	invoke(t, p.args("status", "--keys")...).want(t, 0, fmt.Sprintf("    %q: changed, noted at target revision", key(6)), fmt.Sprintf("    %q\n", own))
	if target, _ := values(t, p.targetC); len(target) != 4 || target[key(6)] != "changed" {
		t.Errorf("something was put back without being asked for: %d keys", len(target))
	}

	b = inBackground(t, p.args("run", "--drift", "repair", "--repair-delay", "1ms")...)
	eventually(t, "everything is put back", func() bool { return p.statusOf(t).DriftCount == 0 })
	b.err.await(t, fmt.Sprintf("msg=\"a mirrored key was put right\" key=%s", key(6)))
	source, _ := values(t, p.sourceC)
	delete(source, "/registry/leases/kube-node-lease/n1")
	source[own] = "own"
	target, _ := values(t, p.targetC)
	if diff := cmp.Diff(source, target); diff != "" {
		t.Errorf("source and target differ:\n%s", diff)
	}
}

// A source that is emptied stops the mirror, which says so and goes on when somebody approves it.
func TestApprove(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 30)
	b := inBackground(t, p.args("run", "--deletion-count", "10", "--deletion-share", "0.5", "--replica", "r")...)
	b.err.await(t, "msg=state state=tail")
	invoke(t, p.args("approve", "--confirm", "default")...).want(t, exitNothing, "waits for no approval")
	if _, err := p.sourceC.Txn(testutil.Context(t)).Then(deleteRange("/registry/configmaps/team-a/cm-01"), deleteRange("/registry/configmaps/team-a/cm-02")).Commit(); err != nil {
		t.Fatal(err)
	}
	b.err.await(t, "if the deletes are meant: mirror approve --name default --confirm default")
	if target, _ := values(t, p.targetC); len(target) != 30 {
		t.Errorf("%d keys are left at the target", len(target))
	}
	invoke(t, p.args("status")...).want(t, 0, "by a mass deletion at the source: of 30 keys 10 would be left",
		"if that is meant: mirror approve --name default --confirm default", `leader                "r"`)
	if trip := p.statusOf(t).Trip; trip == nil || trip.Keys != 30 || trip.Left != 10 || !strings.HasPrefix(trip.NextKey, "/registry/configmaps/team-a/cm-0") || time.Since(trip.StoppedAt) > time.Hour {
		t.Errorf("trip %+v", trip)
	}
	invoke(t, p.args("approve", "--confirm", "defualt")...).want(t, exitUsage, "--confirm")
	invoke(t, p.args("approve", "--confirm", "default")...).want(t, 0, `mass deletion of mirror "default" is approved`, "30 at the target, 10 would be left", "/registry/configmaps/team-a/cm-0")
	eventually(t, "the deletes are applied", func() bool {
		target, _ := values(t, p.targetC)
		return len(target) == 10
	})
	if trip := p.statusOf(t).Trip; trip != nil {
		t.Errorf("still there: %+v", trip)
	}
	invoke(t, p.args("approve", "--confirm", "default")...).want(t, exitNothing)
}

// Without the guard nobody is asked.
func TestNoDeletionGuard(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 600)
	b := inBackground(t, p.args("run", "--no-deletion-guard")...)
	b.err.await(t, "msg=state state=tail")
	if _, err := p.sourceC.Txn(testutil.Context(t)).Then(deleteRange("/registry/configmaps/")).Commit(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletes are applied", func() bool {
		target, _ := values(t, p.targetC)
		return len(target) == 0
	})
}

// The engine gets what the flags, the environment and the file say.
func TestEngineSettings(t *testing.T) {
	lookup := func(name string) (string, bool) { return "mirror", name == "UNDERSTUDY_LEASES" }
	file := writeFile(t, "mirror.yaml", "deletion-share: 0.4\ndeletion-window: 3m\nsession-ttl: 7s\nsource-endpoints: a:1\ntarget-endpoints: b:1\n")
	defaults := etcdmirror.Config{
		RepairDelay: etcdmirror.DefaultRepairDelay, RepairLimit: etcdmirror.DefaultRepairLimit, Leases: etcdmirror.LeaseMirror, CatchUpWatches: etcdmirror.DefaultCatchUpWatches, SessionTTL: etcdmirror.DefaultSessionTTL,
		Deletions: etcdmirror.DeletionGuard{Share: etcdmirror.DefaultDeletionShare, Count: etcdmirror.DefaultDeletionCount, Window: etcdmirror.DefaultDeletionWindow}}
	off, unchecked := defaults, defaults
	off.Deletions.Off, unchecked.Unchecked = true, true
	for name, tc := range map[string]struct {
		args []string
		want etcdmirror.Config
	}{
		"defaults":  {[]string{"--source-endpoints", "a:1", "--target-endpoints", "b:1"}, defaults},
		"guard off": {[]string{"--source-endpoints", "a:1", "--target-endpoints", "b:1", "--no-deletion-guard"}, off},
		"unchecked": {[]string{"--source-endpoints", "a:1", "--target-endpoints", "b:1", "--unchecked", "--no-deletion-guard=false"}, unchecked},
		"all set": {[]string{"--config", file, "--drift", "repair", "--repair-delay", "2s", "--repair-limit", "3", "--deletion-count", "4", "--leases", "drop", "--replica", "r", "--watch", "kept", "--catch-up-watches", "3"},
			etcdmirror.Config{Watch: etcdmirror.WatchKept, CatchUpWatches: 3, Drift: etcdmirror.DriftRepair, RepairDelay: 2 * time.Second, RepairLimit: 3, SessionTTL: 7 * time.Second, Replica: "r",
				Deletions: etcdmirror.DeletionGuard{Share: 0.4, Count: 4, Window: 3 * time.Minute}}},
	} {
		f := mirrorflags.NewRun()
		if err := f.Settings.Parse(tc.args, lookup); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := f.Config(nil)
		if err != nil {
			t.Fatal(err)
		}
		got := etcdmirror.Config{Unchecked: cfg.Unchecked, Drift: cfg.Drift, RepairDelay: cfg.RepairDelay, RepairLimit: cfg.RepairLimit,
			Deletions: cfg.Deletions, Leases: cfg.Leases, Replica: cfg.Replica, SessionTTL: cfg.SessionTTL, Watch: cfg.Watch, CatchUpWatches: cfg.CatchUpWatches}
		if len(cfg.Skip) == 0 || cfg.Skip[0] != "/registry/leases/" {
			t.Errorf("%s: the engine is told to skip %q", name, cfg.Skip)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
