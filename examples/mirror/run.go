package main

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// runMirror is mirror run.
func runMirror(ctx context.Context, c console, args []string) error {
	f := newRunFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	screen := newScreen(c.err)
	log := f.logger(screen)
	f.source.Logger, f.target.Logger = log, log
	source, target, err := dialBoth(ctx, f.source, f.target)
	if ctx.Err() != nil {
		return nil // asked to end before there was anything to end
	}
	if err != nil {
		return err
	}
	defer source.Close()
	defer target.Close()
	for _, warnings := range [][]string{f.source.Warnings(), f.target.Warnings(), source.Warnings, target.Warnings} {
		for _, warning := range warnings {
			log.Warn(warning)
		}
	}

	r := newReporter(log, screen, cfg.Name)
	cfg.Logger, cfg.Hooks = log, r.hooks()
	m, err := etcdmirror.New(source.Client, target.Client, cfg)
	if err != nil {
		return inSettings(err, f.settings, f.source, f.target)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var copied *etcdmirror.Status // at the begin of the tail, with --exit-after-copy
	following := r.following
	if !f.exitAfterCopy {
		following = nil
	}
	ticks := r.ticks(f.logInterval)
	defer ticks.stop()
	for {
		select {
		case <-following:
			status := m.Status()
			copied, following = &status, nil
			cancel()
		case <-ticks.log.C:
			if !screen.terminal || !copying(m.Status()) {
				r.logStatus(m.Status())
			}
		case now := <-ticks.progress.C:
			screen.show(r.progress(now, m.Status()))
		case err := <-ended:
			screen.show("")
			if err != nil {
				return inSettings(err, f.settings, f.source, f.target)
			}
			r.logStatus(m.Status())
			if copied != nil {
				r.summary(c.out, cfg.Name, *copied)
			}
			return nil
		}
	}
}

// dialBoth connects to both sides at once, so that both have failed when the longer dial timeout is over.
func dialBoth(ctx context.Context, source, target *connect.Side) (s, t *connect.Conn, err error) {
	var sourceErr, targetErr error
	var wg sync.WaitGroup
	wg.Go(func() { s, sourceErr = source.Dial(ctx) })
	wg.Go(func() { t, targetErr = target.Dial(ctx) })
	wg.Wait()
	if err := errors.Join(sourceErr, targetErr); err != nil {
		for _, conn := range []*connect.Conn{s, t} {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, err
	}
	return s, t, nil
}
