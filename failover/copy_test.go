package failover_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// lease is a lock's time to live that no test outlasts unless it means to.
const lease = 60 * time.Second

func etcd(t *testing.T) (*embedetcd.Cluster, *clientv3.Client) {
	t.Helper()
	c := testutil.NewCluster(t, embedetcd.Options{})
	return c, testutil.Client(t, c)
}

// copyTo is a copy whose requests outlast any slow machine.
func copyTo(e failover.Etcd) failover.CopyConfig {
	return failover.CopyConfig{Etcd: e, RequestTimeout: time.Minute, LockTTL: lease}
}

// wantSame checks that the copy holds the file's lines.
func (l *lab) wantSame(cli *clientv3.Client, plan string) {
	l.t.Helper()
	id := l.log().ID()
	resp, err := cli.Get(l.t.Context(), failover.CopyPrefix+"journal/"+plan+"/"+id+"/", clientv3.WithPrefix())
	if err != nil {
		l.t.Fatal(err)
	}
	var copied strings.Builder
	for _, kv := range resp.Kvs {
		copied.Write(kv.Value)
	}
	data, err := os.ReadFile(l.journal)
	if err != nil {
		l.t.Fatal(err)
	}
	if copied.String() != string(data) {
		l.t.Errorf("the copy differs; copy:\n%s\nfile:\n%s", copied.String(), data)
	}
}

// Before a step acts, its intent is in the copy; in the end the copy equals the file, and the lock is free.
func TestTheCopyFollows(t *testing.T) {
	l := newLab(t)
	_, cli := etcd(t)
	f := l.effect("a")
	do := f.Do
	f.Do = func(ctx context.Context) error {
		log, err := failover.ReadCopy(ctx, cli, "test", "")
		if err != nil {
			return err
		}
		if last := log.Records[len(log.Records)-1]; last.Kind != failover.RecordIntent || last.Step != "a" {
			t.Errorf("the copy's last record is %+v", last)
		}
		return do(ctx)
	}
	r := l.runner(l.plan(failover.PlanConfig{Steps: steps(f)}), failover.Config{Copy: copyTo(cli)})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantSame(cli, "test")
	if resp, err := cli.Get(t.Context(), failover.CopyPrefix+"lock/", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 0 {
		t.Errorf("the lock: %v, %v", resp, err)
	}
	if s := r.Status(); s.CopyBehind != 0 || s.Copy != "" {
		t.Errorf("status: %d behind, %q", s.CopyBehind, s.Copy)
	}
	all, err := failover.ListCopies(t.Context(), cli)
	if err != nil || len(all) != 1 || all[0].Plan != "test" || all[0].Journal != l.log().ID() || all[0].Records != len(l.log().Records) {
		t.Errorf("copies %+v, %v", all, err)
	}
}

// A lost file is noticed, and made anew from the copy; the run goes on where it was.
func TestALostFileIsRestored(t *testing.T) {
	l := newLab(t)
	_, cli := etcd(t)
	fail := true
	f := l.effect("b")
	do := f.Do
	f.Do = func(ctx context.Context) error {
		if fail {
			return errors.New("not yet")
		}
		return do(ctx)
	}
	plan := l.plan(failover.PlanConfig{Steps: steps(l.effect("a"), f)})
	copied := copyTo(cli)
	wantError(t, l.runner(plan, failover.Config{Copy: copied}).Run(t.Context()), failover.ErrStepFailed, "b")
	id := l.log().ID()
	_, err := failover.RestoreJournal(t.Context(), cli, "test", "", l.journal)
	wantError(t, err, failover.ErrJournalExists, "")
	if err := os.Remove(l.journal); err != nil {
		t.Fatal(err)
	}
	wantError(t, l.runner(plan, failover.Config{Copy: copied}).Run(t.Context()), failover.ErrJournalLost, "", id, "RestoreJournal")
	if _, err := os.Stat(l.journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty file was left: %v", err)
	}
	_, err = failover.RestoreJournal(t.Context(), cli, "other", "", l.journal)
	wantError(t, err, failover.ErrNoJournal, "")
	log, err := failover.RestoreJournal(t.Context(), cli, "test", "", l.journal)
	if err != nil || log.ID() != id {
		t.Fatalf("restored %v, %v", log, err)
	}
	fail = false
	if err := l.runner(plan, failover.Config{Copy: copied}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a", "do:b")
	l.wantSame(cli, "test")

	// What has ended does not keep another run from beginning; and BeginOnly begins whatever the copy says.
	if err := os.Remove(l.journal); err != nil {
		t.Fatal(err)
	}
	if err := l.runner(plan, failover.Config{Copy: copied}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantStates(nil, "a=already b=already")
}

func TestBeginOnlyLeavesAnUnfinishedRunAlone(t *testing.T) {
	l := newLab(t)
	_, cli := etcd(t)
	f := l.effect("a")
	f.Do = func(context.Context) error { return errors.New("no") }
	plan := l.plan(failover.PlanConfig{Steps: steps(f)})
	copied := copyTo(cli)
	wantError(t, l.runner(plan, failover.Config{Copy: copied}).Run(t.Context()), failover.ErrStepFailed, "")
	l.write("do:a")
	second := filepath.Join(l.dir, "second")
	if err := l.runner(plan, failover.Config{Journal: second, Copy: copied, Begin: failover.BeginOnly}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, err := failover.ListCopies(t.Context(), cli); err != nil || len(all) != 2 {
		t.Errorf("copies %+v, %v", all, err)
	}
}

// The file is what counts; but where the copy knows more, or something else, nobody guesses.
func TestAFileThatDoesNotFitItsCopy(t *testing.T) {
	l := newLab(t)
	_, cli := etcd(t)
	f := l.effect("b")
	f.Do = func(context.Context) error { return errors.New("no") }
	plan := l.plan(failover.PlanConfig{Steps: steps(l.effect("a"), f)})
	copied := copyTo(cli)
	run := func() error { return l.runner(plan, failover.Config{Copy: copied}).Run(t.Context()) }
	wantError(t, run(), failover.ErrStepFailed, "b")
	whole, err := os.ReadFile(l.journal)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	write := func(text string) {
		if err := os.WriteFile(l.journal, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Join(lines[:5], ""))
	wantError(t, run(), failover.ErrJournalLost, "", "the file is an older state")

	// The older state goes on without the copy, and becomes another history.
	wantError(t, l.runner(plan, failover.Config{}).Run(t.Context()), failover.ErrStepFailed, "b")
	wantError(t, run(), failover.ErrJournal, "", "differs from the file's")

	// A copy that lacks records catches up.
	write(string(whole))
	resp, err := cli.Get(t.Context(), failover.CopyPrefix+"journal/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs[3:] {
		if _, err := cli.Delete(t.Context(), string(kv.Key)); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, run(), failover.ErrStepFailed, "b")
	l.wantSame(cli, "test")

	// A gap is nobody's doing here.
	if _, err := cli.Delete(t.Context(), string(resp.Kvs[1].Key)); err != nil {
		t.Fatal(err)
	}
	wantError(t, run(), failover.ErrJournal, "", "was expected")
	_, err = failover.ReadCopy(t.Context(), cli, "test", "")
	wantError(t, err, failover.ErrJournal, "")
}

// cutEtcd is a client whose etcd can be cut off, at once and for certain.
type cutEtcd struct {
	*clientv3.Client
	cut atomic.Bool
}

// ctx is one that a call with it fails, while the etcd is cut off.
func (c *cutEtcd) ctx(ctx context.Context) context.Context {
	if !c.cut.Load() {
		return ctx
	}
	ctx, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
	cancel()
	return ctx
}

func (c *cutEtcd) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return c.Client.Get(c.ctx(ctx), key, opts...)
}
func (c *cutEtcd) Txn(ctx context.Context) clientv3.Txn { return c.Client.Txn(c.ctx(ctx)) }
func (c *cutEtcd) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return c.Client.Grant(c.ctx(ctx), ttl)
}

func TestAnEtcdOutOfReach(t *testing.T) {
	ctx := testutil.Context(t)
	_, cli := etcd(t)
	for _, policy := range []failover.CopyPolicy{failover.CopyBestEffort, failover.CopyRequired} {
		l := newLab(t)
		cutting := &cutEtcd{Client: cli}
		turn := func(name string, cut bool) failover.Funcs {
			f := l.effect(name)
			do := f.Do
			f.Do = func(ctx context.Context) error { cutting.cut.Store(cut); return do(ctx) }
			return f
		}
		plan := l.plan(failover.PlanConfig{Name: "reach" + string(policy), Steps: steps(l.effect("a"), turn("b", true), l.effect("c"), turn("d", false), l.effect("e"))})
		var seen []failover.CopyInfo
		runner := func() *failover.Runner {
			return l.runner(plan, failover.Config{Hooks: failover.Hooks{Copy: func(i failover.CopyInfo) { seen = append(seen, i) }},
				Copy: failover.CopyConfig{Etcd: cutting, Policy: policy, RequestTimeout: time.Minute, RetryAfter: time.Nanosecond, LockTTL: lease}})
		}
		all := []string{"do:a", "do:b", "do:c", "do:d", "do:e"}
		if policy == failover.CopyBestEffort { // goes on, says so, and catches up
			r := runner()
			if err := r.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if len(seen) != 2 || seen[0].Reached || !strings.Contains(seen[0].Detail, "unreachable") || !seen[1].Reached {
				t.Errorf("hooks: %+v", seen)
			}
			if n := len(l.records(failover.RecordCopy)); n != 2 {
				t.Errorf("%d notes", n)
			}
		} else { // stops before the next act, cannot begin, and goes on when the etcd is back
			wantError(t, runner().Run(ctx), failover.ErrCopy, "")
			l.wantLines(all[:2]...)
			wantError(t, runner().Run(ctx), failover.ErrCopy, "")
			l.wantLines(all[:2]...)
			cutting.cut.Store(false)
			if err := runner().Run(ctx); err != nil {
				t.Fatal(err)
			}
		}
		l.wantLines(all...)
		l.wantSame(cli, plan.Name())
	}
}

// An etcd that is cut off from the beginning to the end: the run completes, and the copy is there with the next one.
func TestAnEtcdThatIsNeverThere(t *testing.T) {
	l := newLab(t)
	_, cli := etcd(t)
	cutting := &cutEtcd{Client: cli}
	cutting.cut.Store(true)
	plan := l.plan(failover.PlanConfig{Steps: steps(l.effect("a"))})
	r := l.runner(plan, failover.Config{Copy: copyTo(cutting)})
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.wantLines("do:a")
	if s := r.Status(); s.Copy == "" || s.CopyBehind != int64(len(l.log().Records)) {
		t.Errorf("status: %q, %d behind", s.Copy, s.CopyBehind)
	}
	cutting.cut.Store(false)
	if err := r.Undo(t.Context(), failover.UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	l.wantSame(cli, "test")
}

// A real member that stops and comes back. Whenever the client notices, no act is done twice or without its copy, and in the end all is there.
func TestAMemberThatStops(t *testing.T) {
	ctx := testutil.Context(t)
	l := newLab(t)
	c, cli := etcd(t)
	b := l.effect("b")
	do := b.Do
	b.Do = func(ctx context.Context) error {
		if err := c.StopMember(0); err != nil {
			return err
		}
		return do(ctx)
	}
	plan := l.plan(failover.PlanConfig{Steps: steps(l.effect("a"), b, l.effect("c"))})
	copied := failover.CopyConfig{Etcd: cli, Policy: failover.CopyRequired, RequestTimeout: time.Second, LockTTL: lease}
	for {
		err := l.runner(plan, failover.Config{Copy: copied}).Run(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, failover.ErrCopy) || ctx.Err() != nil {
			t.Fatal(err)
		}
		if l.there("c") {
			t.Fatal("it acted without a copy")
		}
		if c.Member(0) == nil {
			if err := c.StartMember(ctx, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.wantLines("do:a", "do:b", "do:c")
	l.wantSame(cli, "test")
}

// Two files, one plan: the lock in the etcd keeps the second runner away. One that was killed is followed at once by who has its file, and by others when its lease has run out.
func TestTwoRunnersOnTwoHosts(t *testing.T) {
	ctx := testutil.Context(t)
	l := newLab(t)
	c, cli := etcd(t)
	for _, end := range []string{"killed", "same file"} {
		l.t = t
		dir := t.TempDir()
		p := proc.Start(t, "runner", []string{"DIR=" + dir, "ETCD=" + strings.Join(c.Endpoints(), ","), "HANG=a"})
		if err := p.WaitOutput(ctx, "hanging"); err != nil {
			t.Fatal(err)
		}
		plan := l.plan(failover.PlanConfig{Name: "killed", Steps: etcdSteps(&bomb{}, cli)})
		copied := requiredCopy(cli)
		other := l.runner(plan, failover.Config{Begin: failover.BeginOnly, Copy: copied})
		wantError(t, other.Run(ctx), failover.ErrBusy, "", fmt.Sprint(p.Pid()))
		p.Kill9()
		if end == "same file" {
			r := l.runner(plan, failover.Config{Journal: filepath.Join(dir, "run.journal"), Copy: copied})
			if err := r.Run(ctx); err != nil {
				t.Fatalf("on the same file: %v", err)
			}
			continue
		}
		wantError(t, other.Run(ctx), failover.ErrBusy, "")
		leases, err := cli.Leases(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, held := range leases.Leases { // as when they run out
			if _, err := cli.Revoke(ctx, held.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Delete(ctx, "/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(l.journal); err != nil {
			t.Fatal(err)
		}
	}
}

// A runner whose lock was lost to another does not act any more.
func TestALostLockStopsTheRun(t *testing.T) {
	l := newLab(t)
	_, cli := etcd(t)
	a := l.effect("a")
	do := a.Do
	a.Do = func(ctx context.Context) error {
		if _, err := cli.Put(ctx, failover.CopyPrefix+"lock/test", `{"place":"elsewhere","host":"other","pid":7}`); err != nil {
			return err
		}
		return do(ctx)
	}
	for _, policy := range []failover.CopyPolicy{failover.CopyBestEffort, failover.CopyRequired} {
		r := l.runner(l.plan(failover.PlanConfig{Steps: steps(a, l.effect("b"))}), failover.Config{Journal: filepath.Join(l.dir, "j"+string(policy)), Begin: failover.BeginOnly, Copy: failover.CopyConfig{Etcd: cli, Policy: policy, RequestTimeout: time.Minute, LockTTL: lease}})
		wantError(t, r.Run(t.Context()), failover.ErrBusy, "", "process 7 on other")
		l.wantLines("do:a")
		if _, err := cli.Delete(t.Context(), failover.CopyPrefix+"lock/test"); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(string(l.witness)); err != nil {
			t.Fatal(err)
		}
	}
}

// Mirrors, their status and checks take a copy for what it is: not theirs.
func TestMirrorsAndChecksLeaveCopiesAlone(t *testing.T) {
	ctx := testutil.Context(t)
	l := newLab(t)
	_, source := etcd(t)
	_, target := etcd(t)
	for _, name := range []string{"checkpoint", "primary-to-standby"} { // names that could be misread
		l.t = t
		r := l.runner(l.plan(failover.PlanConfig{Name: name, Steps: steps(l.effect(name))}), failover.Config{Journal: filepath.Join(l.dir, name), Copy: copyTo(target)})
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
	copies := func() (text string) {
		resp, err := target.Get(ctx, failover.CopyPrefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			text += fmt.Sprintf("%s %d\n", kv.Key, kv.ModRevision)
		}
		return text
	}
	before := copies()
	if before == "" {
		t.Fatal("there is no copy")
	}
	if all, err := etcdmirror.ListMetadata(ctx, target); err != nil || len(all) != 0 {
		t.Errorf("mirrors: %v, %v", all, err)
	}
	if _, err := etcdmirror.ReadMetadata(ctx, target, "primary-to-standby"); !errors.Is(err, etcdmirror.ErrNoMirror) {
		t.Errorf("metadata: %v", err)
	}
	if _, err := drcheck.ReadVerdict(ctx, target, "primary-to-standby"); !errors.Is(err, drcheck.ErrNoMirror) {
		t.Errorf("verdict: %v", err)
	}

	// A check of everything, and a repair without a mirror, which writes only where no mirror does.
	if _, err := source.Put(ctx, "/registry/x", "1"); err != nil {
		t.Fatal(err)
	}
	checker, err := drcheck.New(source, target, drcheck.Config{AllKeys: true, Settle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	result, err := checker.Check(ctx)
	if err != nil || result.Count.Missed != 1 || result.Count.Surplus != 0 {
		t.Fatalf("check: %+v, %v", result, err)
	}
	plan, err := checker.PlanRepair(ctx, result, drcheck.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checker.Repair(ctx, plan); err != nil {
		t.Errorf("repair: %v", err)
	}

	// A mirror of everything, with its base copy, which deletes what the source lacks.
	mirror, err := etcdmirror.New(source, target, etcdmirror.Config{Name: "primary-to-standby", AllKeys: true, Surplus: etcdmirror.SurplusDelete, Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mirror.Run(runCtx) }()
	resp, err := source.Put(ctx, "/registry/y", "1")
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.WaitForRevision(ctx, resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	md, err := etcdmirror.ReadMetadata(ctx, target, "primary-to-standby")
	if err != nil || len(md.Foreign) != 0 || len(md.Drift) != 0 {
		t.Errorf("metadata: %+v, %v", md, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if after := copies(); after != before {
		t.Errorf("the copies changed:\n%s\nbefore:\n%s", after, before)
	}
}
