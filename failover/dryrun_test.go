package failover_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// snapshot is all that an etcd holds, with its revision: whatever is written shows in it.
func snapshot(t *testing.T, cli *clientv3.Client) string {
	t.Helper()
	resp, err := cli.Get(t.Context(), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	leases, err := cli.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("revision %d, %d leases\n", resp.Header.Revision, len(leases.Leases))
	for _, kv := range resp.Kvs {
		text += fmt.Sprintf("%q %q %d %d %d\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Lease)
	}
	return text
}

// folder is all that a folder holds, with modes and times.
func folder(t *testing.T, dir string) (text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text += fmt.Sprintf("%s %v %d %v\n", path, info.Mode(), info.Size(), info.ModTime())
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			text += string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// putStep writes to one etcd what it reads from the other.
func putStep(name string, from, to *clientv3.Client, l *lab) failover.Funcs {
	return failover.Funcs{Name: name, Description: failover.Description{Action: "Copy the role", Commands: []string{"etcdctl put /role standby"}},
		Observe: func(ctx context.Context) (failover.Observation, error) {
			l.seen++
			a, err := from.Get(ctx, "/role/"+name)
			if err != nil {
				return failover.Observation{}, err
			}
			b, err := to.Get(ctx, "/role/"+name)
			if err != nil {
				return failover.Observation{}, err
			}
			if len(b.Kvs) == 1 && len(a.Kvs) == 1 && bytes.Equal(a.Kvs[0].Value, b.Kvs[0].Value) {
				return failover.Observation{State: failover.Done, Detail: "equal"}, nil
			}
			return failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("revision %d", b.Header.Revision)}, nil
		},
		Do: func(ctx context.Context) error {
			if err := failover.Save(ctx, "before", "x"); err != nil {
				return err
			}
			a, err := from.Get(ctx, "/role/"+name)
			if err != nil {
				return err
			}
			_, err = to.Put(ctx, "/role/"+name, string(a.Kvs[0].Value))
			return err
		},
		Verify: func(context.Context) error { l.write("verify"); return nil },
		Undo:   func(ctx context.Context) error { _, err := to.Delete(ctx, "/role/"+name); return err },
	}
}

// A dry run observes each step for real and touches nothing: neither of two etcds, nor the journal's folder. The same plan then runs.
func TestDryRunTouchesNothing(t *testing.T) {
	ctx := testutil.Context(t)
	l := newLab(t)
	_, primary := etcd(t)
	_, standby := etcd(t)
	for _, name := range []string{"one", "two"} {
		if _, err := primary.Put(ctx, "/role/"+name, "primary"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := standby.Put(ctx, "/role/two", "primary"); err != nil {
		t.Fatal(err)
	}
	blind := l.effect("blind")
	blind.Observe = func(context.Context) (failover.Observation, error) {
		return failover.Observation{}, errors.New("no route to host")
	}
	approvedStep := l.effect("approved")
	approvedStep.Approval = failover.Approval{Role: "lead"}
	gone := l.effect("gone")
	gone.Ungraceful = func() failover.Step { return nil }
	build := func(mode failover.Mode, more ...failover.Funcs) *failover.Plan {
		return l.plan(failover.PlanConfig{Mode: mode, Steps: append([]failover.Step{
			failover.Check("verdict", func(context.Context) (failover.Observation, error) {
				if mode != failover.ModeUngraceful {
					return failover.Observation{State: failover.Done}, nil
				}
				return failover.Observation{State: failover.Blocked, Detail: "3 s old", Loss: "at most 12 revisions"}, nil
			}, failover.Description{}),
			putStep("one", primary, standby, l).Step(), putStep("two", primary, standby, l).Step(),
			failover.Ask("call", failover.Prompt{Text: "Call them", Harmless: true}, failover.Description{})}, steps(append(more, gone)...)...)})
	}
	plan := build(failover.ModeUngraceful, blind, approvedStep)
	before := []string{snapshot(t, primary), snapshot(t, standby), folder(t, l.dir)}
	report, err := plan.DryRun(ctx, failover.DryRunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, now := range []string{snapshot(t, primary), snapshot(t, standby), folder(t, l.dir)} {
		if now != before[i] {
			t.Errorf("something was touched:\n%s\nbefore:\n%s", now, before[i])
		}
	}
	if l.seen != 2 {
		t.Errorf("%d observations", l.seen)
	}
	var text strings.Builder
	report.At = time.Time{}
	if err := report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "dryrun.txt", []byte(strings.ReplaceAll(text.String(), failover.ShortHash(plan.Hash()), "HASH")))
	if !report.Ready {
		t.Error("not ready, though the loss can be accepted")
	}
	raw, err := json.Marshal(report)
	if err != nil || !bytes.Contains(raw, []byte(`"would":"do, once role \"lead\" approves"`)) {
		t.Errorf("%s, %v", raw, err)
	}

	// During a run, without its lock: what is finished is told, and what steps have saved they see.
	plan = build(failover.ModeGraceful)
	r := l.runner(plan, failover.Config{NoWait: true, Copy: copyTo(standby)})
	wantError(t, r.Run(ctx), failover.ErrWaiting, "call")
	before = []string{snapshot(t, primary), snapshot(t, standby), folder(t, l.dir)}
	if report, err = plan.DryRun(ctx, failover.DryRunOptions{Journal: l.journal}); err != nil {
		t.Fatal(err)
	}
	for i, now := range []string{snapshot(t, primary), snapshot(t, standby), folder(t, l.dir)} {
		if now != before[i] {
			t.Errorf("something was touched during the run:\n%s\nbefore:\n%s", now, before[i])
		}
	}
	if report.Steps[1].Finished != failover.OutcomeDone || report.Steps[1].State != failover.Done || report.Steps[2].Finished != failover.OutcomeAlready {
		t.Errorf("%+v", report.Steps)
	}
	_, err = build(failover.ModeDrill).DryRun(ctx, failover.DryRunOptions{Journal: l.journal})
	wantError(t, err, failover.ErrPlanChanged, "", "mode")
}

func TestDryRunOfWhatCannotBegin(t *testing.T) {
	l := newLab(t)
	gate := failover.Check("gate", func(context.Context) (failover.Observation, error) {
		return failover.Observation{State: failover.Blocked, Detail: "12 revisions behind", Loss: "12 revisions"}, nil
	}, failover.Description{})
	report, err := l.plan(failover.PlanConfig{Steps: []failover.Step{gate, l.effect("a").Step()}}).DryRun(t.Context(), failover.DryRunOptions{})
	if err != nil || report.Ready || report.Steps[0].Would != "stop: blocked" {
		t.Errorf("%+v, %v", report, err)
	}
	report, err = l.plan(failover.PlanConfig{Steps: []failover.Step{l.effect("a").Step(), gate}}).DryRun(t.Context(), failover.DryRunOptions{})
	if err != nil || !report.Ready {
		t.Errorf("what comes after an act may look otherwise then: %+v, %v", report, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.plan(failover.PlanConfig{Steps: []failover.Step{gate}}).DryRun(ctx, failover.DryRunOptions{})
	wantError(t, err, failover.ErrInterrupted, "gate")
	l.wantLines()
}
