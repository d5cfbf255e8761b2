package main

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/monitor"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/examples/internal/screen"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// runMirror is mirror run.
func runMirror(ctx context.Context, c program.Console, args []string) error {
	f := mirrorflags.NewRun()
	if err := f.Settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, f.Encryption.Close)()
	defer f.Encryption.Close()
	cfg, check, err := f.Config(f.Logger(screen.New(c.Err)))
	if err != nil {
		return err
	}
	return runWith(ctx, c, f, cfg, check)
}

// runWith mirrors by settings that were checked.
func runWith(ctx context.Context, c program.Console, f *mirrorflags.Run, cfg etcdmirror.Config, check drcheck.Config) error {
	live := screen.New(c.Err)
	log := f.Logger(live)
	source, target, err := f.Dial(ctx, log)
	if ctx.Err() != nil {
		return nil // asked to end before there was anything to end
	}
	if err != nil {
		return err
	}
	defer source.Close()
	defer target.Close()
	f.Encryption.Warn(log)

	r := newReporter(log, live, cfg.Name)
	events := monitor.NewEvents()
	cfg.Logger, cfg.Hooks = log, etcdmirror.JoinHooks(r.hooks(), events.Hooks())
	m, err := etcdmirror.New(source.Client, target.Client, cfg)
	if err != nil {
		return inSettings(f, err)
	}
	check.Logger = log
	checker, err := drcheck.New(source.Client, target.Client, check)
	if err != nil {
		return inSettings(f, err)
	}
	checks := monitor.NewChecks(monitor.ChecksConfig{Check: checker.Check, Mode: check.Mode, Interval: f.CheckInterval, Log: log,
		Recall: func(ctx context.Context) (time.Time, error) { return lastEqual(ctx, target.Client, check) }})
	watch := monitor.New(monitor.Config{Name: cfg.Name, Status: m.Status, Events: events, Checks: checks, ReadyLag: f.ReadyLag, Profiles: f.Pprof, Log: log})

	server, err := listen(ctx, f)
	if err != nil {
		return err
	}
	defer checks.Wait()
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	if server != nil {
		defer server.Close()
		server.Serve(ctx, watch.Handler(), log)
	}
	defer cancel()
	if server != nil || f.CheckInterval > 0 {
		background.Go(func() {
			checks.Run(ctx, r.following, func() bool { return watch.Leading() && !copying(m.Status()) })
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	return r.attend(c, f, m, ended, cancel)
}

// inSettings names the setting behind an error.
func inSettings(f *mirrorflags.Run, err error) error {
	return mirrorflags.InSettings(err, f.Settings, f.Source, f.Target)
}

// listen listens at --http-listen; nil without it.
func listen(ctx context.Context, f *mirrorflags.Run) (*monitor.Server, error) {
	address, err := f.HTTPListen()
	if err != nil || address == "" {
		return nil, err
	}
	server, err := monitor.Listen(ctx, address)
	if err != nil {
		return nil, connect.Usage(f.Settings.Where("http-listen"), err.Error(), "give an address of this host with a port that is free")
	}
	return server, nil
}

// lastEqual is when the target was last proven equal in what the checks compare, by its own record.
func lastEqual(ctx context.Context, target *clientv3.Client, check drcheck.Config) (time.Time, error) {
	verdict, err := drcheck.ReadVerdict(ctx, target, check.Name)
	if err != nil {
		return time.Time{}, err
	}
	var last time.Time
	if o := verdict.LastEqual; o != nil {
		last = o.Ended
	}
	if o := verdict.LastEqualKeys; o != nil && check.Mode == drcheck.KeysOnly && o.Ended.After(last) {
		last = o.Ended
	}
	return last, nil
}

// attend reports what a mirror does until it has ended.
func (r *reporter) attend(c program.Console, f *mirrorflags.Run, m *etcdmirror.Mirror, ended <-chan error, cancel func()) error {
	var copied *etcdmirror.Status // at the begin of the tail, with --exit-after-copy
	following := r.following
	if !f.ExitAfterCopy {
		following = nil
	}
	ticks := r.ticks(f.LogInterval)
	defer ticks.stop()
	for {
		select {
		case <-following:
			status := m.Status()
			copied, following = &status, nil
			cancel()
		case <-ticks.log.C:
			if !r.screen.Terminal || !copying(m.Status()) {
				r.logStatus(m.Status())
			}
		case now := <-ticks.progress.C:
			r.screen.Show(r.progress(now, m.Status()))
		case err := <-ended:
			r.screen.Show()
			if err != nil {
				return inSettings(f, err)
			}
			r.logStatus(m.Status())
			if copied != nil {
				r.summary(c.Out, r.name, *copied)
			}
			return nil
		}
	}
}
