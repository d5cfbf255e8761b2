package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// background is a mirror run inside this process.
type background struct {
	out, err buffer
	code     chan int
	cancel   context.CancelFunc
}

func inBackground(t *testing.T, args ...string) *background {
	t.Helper()
	return goBackground(t, func(ctx context.Context, b *background) int { return run(ctx, args, &b.out, &b.err) })
}

// goBackground runs something that writes to the background's outputs and returns an exit code.
func goBackground(t *testing.T, run func(context.Context, *background) int) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(testutil.Context(t))
	b := &background{code: make(chan int, 1), cancel: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.code <- run(ctx, b)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("what it wrote:\n%s%s", b.out.String(), b.err.String())
		}
	})
	return b
}

// A run is stopped by SIGTERM with exit code 0 and goes on where it was when it is started again.
func TestRunUntilSIGTERM(t *testing.T) {
	p := newPair(t)
	ctx := testutil.Context(t)
	fill(t, p.sourceC, 20)
	for start, wantPuts := range []string{"puts=21", "puts=1"} {
		child := proc.Start(t, "mirror", nil, p.args("run", "--log-interval", "20ms")...)
		if start == 0 {
			put(t, p.sourceC, "/registry/configmaps/team-a/at-first", "v")
		} else {
			put(t, p.sourceC, "/registry/configmaps/team-a/at-second", "v")
		}
		for _, text := range []string{"msg=state state=tail", wantPuts + " "} {
			if err := child.WaitOutput(ctx, text); err != nil {
				t.Fatalf("start %d: %v", start, err)
			}
		}
		if err := child.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := child.Wait(ctx); err != nil {
			t.Fatalf("start %d ended with %v", start, err)
		}
		if resynced := strings.Contains(child.Output(), "base copy"); resynced != (start == 0) {
			t.Errorf("start %d: a base copy: %v", start, resynced)
		}
	}
	source, _ := values(t, p.sourceC)
	delete(source, "/registry/leases/kube-node-lease/n1")
	target, _ := values(t, p.targetC)
	if diff := cmp.Diff(source, target); diff != "" {
		t.Errorf("source and target differ:\n%s", diff)
	}
}

func TestExitAfterCopy(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 300)
	r := invoke(t, p.args("run", "--exit-after-copy", "--in-flight", "2")...).want(t, 0, `copy of mirror "default" done: the target equals source revision 302`)
	for _, row := range []string{`keys kept +300`, `keys written +300`, `keys deleted +0`, `keys filtered +1`, `bytes written +[0-9,]+`, `seconds +[0-9.]+`, `keys/s +[1-9][0-9,]*`, `rounds +1`} {
		if !regexp.MustCompile(row).MatchString(r.out) {
			t.Errorf("the summary lacks %q:\n%s", row, r.out)
		}
	}
	if target, _ := values(t, p.targetC); len(target) != 300 {
		t.Errorf("%d keys at the target", len(target))
	}
	invoke(t, p.args("run", "--exit-after-copy")...).want(t, 0, "had a complete copy already")
}

// A setting comes from the flag, else the environment, else the file; the file of run serves status as well.
func TestSettingsOfRun(t *testing.T) {
	p := newPair(t)
	put(t, p.sourceC, "/registry/configmaps/team-a/a", "v")
	put(t, p.sourceC, "/registry/leases/kube-node-lease/n1", "v")
	put(t, p.sourceC, "/elsewhere/x", "v")
	file := writeFile(t, "mirror.yaml", fmt.Sprintf("source-endpoints: [%q]\ntarget-endpoints: %s\nname: from-file\nno-rules: true\ntarget-prefix: /file/\nsurplus: delete\nlog-format: json\n",
		p.source.Endpoints()[0], p.target.Endpoints()[0]))
	t.Setenv("UNDERSTUDY_CONFIG", file)
	t.Setenv("UNDERSTUDY_NAME", "from-env")
	t.Setenv("UNDERSTUDY_TARGET_PREFIX", "/env/")
	invoke(t, "run", "--exit-after-copy", "--target-prefix", "/flag/").want(t, 0, `"from-env"`)
	want := map[string]string{"/flag/configmaps/team-a/a": "v", "/flag/leases/kube-node-lease/n1": "v"}
	target, _ := values(t, p.targetC)
	if diff := cmp.Diff(want, target); diff != "" {
		t.Errorf("the target differs:\n%s", diff)
	}
	var got struct{ Mirrors []view }
	r := invoke(t, "status", "--output", "json").want(t, 0)
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Mirrors) != 1 {
		t.Fatalf("%v:\n%s", err, r.out)
	}
	if m := got.Mirrors[0]; m.Name != "from-env" || m.Phase != "tail" || !m.Complete || m.SourcePrefix != "/registry/" || m.TargetPrefix != "/flag/" || m.AppliedRevision != 4 ||
		m.SourceClusterID != fmt.Sprintf("%x", p.source.ID()) || m.FilterID != "" {
		t.Errorf("got %+v", m)
	}
	// The other prefixes belong to another mirror.
	invoke(t, "run", "--exit-after-copy").want(t, exitIdentity, "UNDERSTUDY_TARGET_PREFIX", "prefixes changed")
	invoke(t, "run", "--exit-after-copy", "--name", "all", "--target-prefix", "", "--all-keys", "--surplus", "keep").want(t, 0)
	target, _ = values(t, p.targetC)
	all, _ := values(t, p.sourceC)
	maps.Copy(all, want)
	if diff := cmp.Diff(all, target); diff != "" {
		t.Errorf("the target differs:\n%s", diff)
	}
}

// The way of a role switch, as its operator types it.
func TestPromoteAndDemote(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 5)
	old := inBackground(t, p.args("run")...)
	old.err.await(t, "msg=state state=tail")
	invoke(t, p.args("status")...).want(t, 0, "mirror default", "tail: the target equals source revision 7", "known to be missing   none")

	_, before := values(t, p.targetC)
	invoke(t, p.args("promote")...).want(t, exitUsage, "--confirm")
	if _, after := values(t, p.targetC); after != before {
		t.Errorf("an unconfirmed promotion wrote: revision %d became %d", before, after)
	}
	invoke(t, p.args("demote", "--confirm", "default")...).want(t, exitNothing, "not promoted")
	invoke(t, p.args("promote", "--confirm", "default")...).want(t, 0, `mirror "default" is promoted: epoch 2`, "the kept keys of source revision 7, exactly", "known    none", "What to do next")
	held, promoted := values(t, p.targetC)
	invoke(t, p.args("promote", "--confirm", "default")...).want(t, 0, "was promoted before, in epoch 2", "nothing was changed")
	invoke(t, p.args("status")...).want(t, 0, "promoted: it equalled source revision 7")

	// The old mirror still runs; its next write is refused, and so is its next start.
	put(t, p.sourceC, "/registry/configmaps/team-a/late", "late")
	select {
	case code := <-old.code:
		if code != exitFenced || !strings.Contains(old.err.String(), "mirror: fenced: ") {
			t.Errorf("the old mirror ended with %d\n%s", code, old.err.String())
		}
	case <-testutil.Context(t).Done():
		t.Fatal("the old mirror runs on")
	}
	invoke(t, p.args("run")...).want(t, exitFenced, "promoted")
	target, now := values(t, p.targetC)
	if diff := cmp.Diff(held, target); diff != "" {
		t.Errorf("the promoted target was touched:\n%s", diff)
	}
	if written, err := writtenBetween(testutil.Context(t), p.targetC, promoted, now); err != nil || len(written) > 0 {
		t.Errorf("written to the promoted target: %q, %v", written, err)
	}

	put(t, p.targetC, "/registry/configmaps/team-a/as-primary", "v")
	invoke(t, p.args("demote", "--confirm", "default")...).want(t, 0, `mirror "default" is demoted: epoch 3`)
	invoke(t, p.args("status")...).want(t, 0, "armed: demoted")
	invoke(t, p.args("promote", "--confirm", "default")...).want(t, exitFailure, "was demoted")
	invoke(t, p.args("run", "--exit-after-copy")...).want(t, 0)
	invoke(t, p.args("status", "--keys", "--name", "default")...).want(t, 0, "foreign keys          1", `"/registry/configmaps/team-a/as-primary"`)
	if target, _ = values(t, p.targetC); len(target) != 7 || target["/registry/configmaps/team-a/late"] != "late" {
		t.Errorf("after the demotion the target has %d keys", len(target))
	}
}

func TestPromoteIncomplete(t *testing.T) {
	p := newPair(t)
	record, err := json.Marshal(etcdmirror.Checkpoint{Version: 1, Epoch: 1, Phase: etcdmirror.PhaseBase, SourceHead: 50, SourceHeadAt: time.Now(), At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	before := put(t, p.targetC, etcdmirror.MetadataPrefix+"default/checkpoint", string(record))
	invoke(t, p.args("promote", "--confirm", "default")...).want(t, exitFailure, "copy incomplete", "--accept-incomplete")
	if _, after := values(t, p.targetC); after != before {
		t.Errorf("a refused promotion wrote: revision %d became %d", before, after)
	}
	invoke(t, p.args("promote", "--confirm", "default", "--accept-incomplete")...).want(t, 0, "a first copy that was interrupted", "whatever the copy had not yet brought")
	invoke(t, p.args("status")...).want(t, 0, "promoted with an incomplete copy")
}

// A swapped direction, another source and a dead source are told apart.
func TestIdentities(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 2)
	invoke(t, p.args("run", "--exit-after-copy")...).want(t, 0)
	other := newPair(t)
	fill(t, other.sourceC, 9)
	source, target := p.source.Endpoints()[0], p.target.Endpoints()[0]
	_, before := values(t, p.targetC)
	invoke(t, "run", "--source-endpoints", target, "--target-endpoints", source, "--name", "back").want(t, exitIdentity, "--source-endpoints, --target-endpoints", "standby of the target")
	invoke(t, "run", "--source-endpoints", other.source.Endpoints()[0], "--target-endpoints", target).want(t, exitIdentity, "--source-endpoints", "another source cluster")
	if err := p.source.StopMember(0); err != nil {
		t.Fatal(err)
	}
	invoke(t, p.args("run", "--source-dial-timeout", "2s")...).want(t, exitUnreachable, "--source-endpoints")
	invoke(t, p.args("status")...).want(t, 0, "tail: the target equals source revision 4")
	if _, after := values(t, p.targetC); after != before {
		t.Errorf("the target went from revision %d to %d", before, after)
	}
}

// What the flags about keys say is what the engine gets.
func TestKeyPolicies(t *testing.T) {
	p := newPair(t)
	put(t, p.sourceC, "/k8s/configmaps/team-a/a", "v")
	put(t, p.sourceC, "/k8s/secrets/team-a/s", "v")
	put(t, p.sourceC, "/k8s/leases/kube-node-lease/n1", "v")
	put(t, p.targetC, "configmaps/own/o", "v")
	first := writeFile(t, "first.yaml", "prefixes: [/k8s]\n")
	second := writeFile(t, "second.yaml", "prefixes: [/k8s]\nrules:\n- name: no-secrets\n  action: exclude\n  reason: a test\n  groups: [core]\n  resources: [secrets]\n")
	check := func(want map[string]string, args ...string) {
		t.Helper()
		invoke(t, p.args("run", append(args, "--prefix", "/k8s/", "--strip-prefix", "--exit-after-copy")...)...).want(t, 0)
		target, _ := values(t, p.targetC)
		if diff := cmp.Diff(want, target); diff != "" {
			t.Errorf("%q: the target differs (-want +got):\n%s", args, diff)
		}
	}
	check(map[string]string{"configmaps/own/o": "v", "configmaps/team-a/a": "v", "secrets/team-a/s": "v"}, "--rules", first)
	check(map[string]string{"configmaps/own/o": "v", "configmaps/team-a/a": "v", "secrets/team-a/s": "v"}, "--rules", second)
	check(map[string]string{"configmaps/own/o": "v", "configmaps/team-a/a": "v", "secrets/team-a/s": "v"}, "--rules", first, "--left-filter", "delete")
	check(map[string]string{"configmaps/own/o": "v", "configmaps/team-a/a": "v"}, "--rules", second, "--left-filter", "delete")
	check(map[string]string{"configmaps/team-a/a": "v"}, "--rules", second, "--no-rules=false", "--surplus", "delete", "--name", "other")
}

// A key with a TTL has it at the target if that is asked for.
func TestLeases(t *testing.T) {
	p := newPair(t)
	ctx := testutil.Context(t)
	grant, err := p.sourceC.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	const key = "/registry/masterleases-of-a-tenant/a"
	if _, err := p.sourceC.Put(ctx, key, "v", clientv3.WithLease(grant.ID)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args  []string
		lease clientv3.LeaseID
		shown string
	}{{nil, 0, "leases held           0"}, {[]string{"--leases", "mirror"}, grant.ID, "leases held           1"}, {[]string{"--leases", "drop"}, 0, "leases held"}} { // the third one's lease runs out
		invoke(t, p.args("run", append(step.args, "--exit-after-copy", "--no-rules")...)...).want(t, 0)
		resp, err := p.targetC.Get(ctx, key)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%d keys, %v", len(resp.Kvs), err)
		}
		if got := clientv3.LeaseID(resp.Kvs[0].Lease); got != step.lease {
			t.Errorf("%q: the key has lease %x, want %x", step.args, got, step.lease)
		}
		invoke(t, p.args("status")...).want(t, 0, step.shown)
	}
}
