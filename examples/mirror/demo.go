package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/examples/internal/screen"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
	"github.com/understudy-dr/understudy/keyfilter"
)

const (
	demoLimit   = time.Minute      // of the whole demo
	demoWait    = 20 * time.Second // for one thing to happen
	demoRequest = 5 * time.Second  // for one request
)

// demo is the state that its steps hand on.
type demo struct {
	*stage
	seed             uint64
	primary, standby *embedetcd.Cluster
	source, target   *clientv3.Client
	filter           *keyfilter.Filter

	mirror    *etcdmirror.Mirror
	states    chan etcdmirror.StateInfo // of the mirror, the oldest given up when nobody reads
	drifts    chan etcdmirror.DriftInfo // likewise
	ended     chan error                // of the mirror's Run
	last      int64                     // the last primary revision that holds a change
	held      contents                  // of the standby when it was compared
	promotion *etcdmirror.Promotion
}

// runDemo is mirror demo.
func runDemo(ctx context.Context, c program.Console, args []string) error {
	if err := program.NoArguments("mirror", "demo", args); err != nil {
		return err
	}
	return performDemo(ctx, newStage(c.Out), rand.Uint64())
}

func performDemo(ctx context.Context, s *stage, seed uint64) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, demoLimit, fmt.Errorf("the demo took longer than %v", demoLimit))
	d := &demo{stage: s, seed: seed, states: make(chan etcdmirror.StateInfo, 64), drifts: make(chan etcdmirror.DriftInfo, 64), ended: make(chan error, 1)}
	defer func() { err = errors.Join(err, d.close(cancel)) }()
	began := time.Now()
	fmt.Fprintf(s.w, "%s\nOne etcd is mirrored into another, and takes over when the first one dies. Every number is measured.\n\n", s.painter.Paint(screen.Bold, "understudy mirror demo"))
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Two etcds start inside this process", d.start},
		{"The content of a real Kubernetes cluster goes into the primary", d.load},
		{"A mirror copies it to the standby", d.copy},
		{"The primary changes, and the mirror follows", d.change},
		{"A controller of the standby interferes, and the mirror puts things right", d.interfere},
		{"Every kept key is compared, value by value", d.compare},
		{"The primary is killed", d.kill},
		{"What happened, from the standby alone", d.status},
		{"What is lost, from the standby alone", d.verdict},
		{"The standby is promoted", d.promote},
		{"The old primary returns, and its mirror tries to write", d.late},
		{"A new mirror into the promoted standby is refused", d.again},
	} {
		if err := s.do(step.title, func() error { return step.run(ctx) }); err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w: %w", cause, err)
			}
			return err
		}
	}
	fmt.Fprintf(s.w, "%s in %s\n", s.painter.Paint(screen.Green, fmt.Sprintf("All %d steps passed their checks", s.step)), duration(time.Since(began)))
	return nil
}

// close ends all that the demo began, in order, and leaves no files.
func (d *demo) close(cancel context.CancelFunc) error {
	cancel()
	if d.mirror != nil {
		<-d.ended
	}
	var errs []error
	for _, client := range []*clientv3.Client{d.source, d.target} {
		if client != nil {
			errs = append(errs, client.Close())
		}
	}
	for _, cluster := range []*embedetcd.Cluster{d.primary, d.standby} {
		if cluster != nil {
			errs = append(errs, cluster.Close())
		}
	}
	return errors.Join(errs...)
}

// start runs both etcds.
func (d *demo) start(ctx context.Context) (err error) {
	if d.filter, err = keyfilter.New(keyfilter.Config{}); err != nil {
		return err
	}
	for _, side := range []struct {
		name    string
		cluster **embedetcd.Cluster
		client  **clientv3.Client
	}{{"primary", &d.primary, &d.source}, {"standby", &d.standby, &d.target}} {
		if *side.cluster, err = embedetcd.Start(ctx, embedetcd.Options{}); err != nil {
			return err
		}
		if *side.client, err = (*side.cluster).NewClient(); err != nil {
			return err
		}
		d.say("%s  cluster %x at %s", side.name, (*side.cluster).ID(), (*side.cluster).Endpoints()[0])
	}
	return nil
}

// load fills the primary.
func (d *demo) load(ctx context.Context) error {
	if err := realcluster.Load(ctx, d.source, realcluster.LoadOptions{}); err != nil {
		return err
	}
	all, err := read(ctx, d.source, "")
	if err != nil {
		return err
	}
	bytes := 0
	for key, e := range all.entries {
		bytes += len(key) + len(e.value)
	}
	if want := len(realcluster.Keys()); len(all.entries) != want {
		return fmt.Errorf("the primary has %d keys, the cluster had %d", len(all.entries), want)
	}
	d.say("%s keys with %s bytes, primary revision %d", thousands(int64(len(all.entries))), thousands(int64(bytes)), all.revision)
	return nil
}

func (d *demo) config() etcdmirror.Config {
	return etcdmirror.Config{Name: mirrorflags.DefaultName, Keep: d.filter.Match, KeepID: d.filter.Hash(), SessionTTL: time.Second,
		Drift: etcdmirror.DriftRepair, RepairDelay: demoRepairDelay,
		Hooks: etcdmirror.Hooks{State: newest(d.states), Drift: newest(d.drifts)}}
}

// newest sends to a channel; when that is full, the oldest goes.
func newest[T any](to chan T) func(T) {
	return func(info T) {
		for {
			select {
			case to <- info:
				return
			default:
			}
			select {
			case <-to:
			default:
			}
		}
	}
}

// copy starts the mirror and waits for its tail.
func (d *demo) copy(ctx context.Context) error {
	m, err := etcdmirror.New(d.source, d.target, d.config())
	if err != nil {
		return err
	}
	d.mirror = m
	began := time.Now()
	go func() {
		d.ended <- m.Run(ctx)
		close(d.ended) // for close, after a step has taken the result
	}()
	if err := d.until(ctx, etcdmirror.StateTail); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	s := m.Status()
	d.say("%s keys kept and written, %s filtered: they belong to one cluster (nodes, leases, events, its own namespaces)", thousands(s.Puts), thousands(s.Filtered))
	d.say("%s keys/s, %s of them in all; the standby equals primary revision %d", thousands(int64(float64(s.Copy.Listed)/seconds)), thousands(int64(s.Copy.Listed)), s.AppliedRevision)
	return nil
}

// until waits for a state of the mirror.
func (d *demo) until(ctx context.Context, state etcdmirror.State) error {
	timeout := time.NewTimer(demoWait)
	defer timeout.Stop()
	for {
		select {
		case info := <-d.states:
			if info.State == state {
				return nil
			}
			if info.State == etcdmirror.StateStopped {
				return fmt.Errorf("the mirror ended: %s", info.Reason)
			}
		case <-timeout.C:
			return fmt.Errorf("the mirror is not in state %q after %v", state, demoWait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// kill stops the primary as a crash would.
func (d *demo) kill(ctx context.Context) error {
	for len(d.states) > 0 { // what came before does not count
		<-d.states
	}
	if err := d.primary.StopMember(0); err != nil {
		return err
	}
	if err := d.until(ctx, etcdmirror.StateWaiting); err != nil {
		return err
	}
	request, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := d.source.Get(request, "/registry/"); err == nil {
		return errors.New("the primary still answers")
	}
	d.say("it no longer answers; the mirror noticed and waits for it")
	return nil
}

// status shows what the standby's metadata tells.
func (d *demo) status(ctx context.Context) error {
	md, err := etcdmirror.ReadMetadata(ctx, d.target, mirrorflags.DefaultName)
	if err != nil {
		return err
	}
	v := newView(md, time.Now(), false)
	v.print(lines(d.say))
	if !v.Complete || v.AppliedRevision < d.last {
		return fmt.Errorf("the metadata tells of revision %d in phase %q; the last change was %d", v.AppliedRevision, v.Phase, d.last)
	}
	return nil
}

// promote raises the fence.
func (d *demo) promote(ctx context.Context) (err error) {
	if d.promotion, err = etcdmirror.Promote(ctx, d.target, mirrorflags.DefaultName, etcdmirror.PromoteOptions{}); err != nil {
		return err
	}
	p := d.promotion
	d.say("epoch %d, standby revision %d: it holds the kept keys of primary revision %d, exactly", p.Epoch, p.TargetRevision, p.SourceRevision)
	d.say("lost at most: known: %s; unknown: what the primary did after it was last heard, %v before", revisions(p.SourceRevision, p.SourceHead),
		time.Since(p.SourceHeadAt).Round(100*time.Millisecond))
	switch {
	case p.Epoch != 2 || !p.Complete:
		return fmt.Errorf("epoch %d, complete %v", p.Epoch, p.Complete)
	case p.SourceRevision < d.last:
		return fmt.Errorf("the last change, revision %d, is not in it", d.last)
	}
	return nil
}
