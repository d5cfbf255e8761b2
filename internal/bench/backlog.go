package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var backlogMeasurement = measurement{file: "backlog", turns: (*bench).measureBacklogs, columns: backlogColumns, row: backlogRow, notes: backlogNotes}

func (b *bench) backlogContenders() []contender {
	list := b.mirrors()
	for _, shape := range writerShapes {
		list = append(list, contender{name: shape.String(), role: roleLogWriter, shape: shape})
	}
	return list
}

// measureBacklogs gives each contender a target that is equal to the source, writes while nobody mirrors, and then lets one after another catch up.
func (b *bench) measureBacklogs(ctx context.Context, s *size) error {
	contenders := b.backlogContenders()
	for run := 1; run <= b.cfg.runs; run++ {
		if err := b.withLoaded(ctx, s, func(source *server, _ int) error {
			return b.withEtcds(ctx, len(contenders), func(targets []*server) error {
				since, err := b.makeBacklog(ctx, source, targets)
				if err != nil {
					return err
				}
				for _, c := range rotated(contenders, run) {
					g := &stage{source: source, target: targets[slices.Index(contenders, c)], via: source.endpoint, filter: b.cfg.filter}
					if err := b.turn(ctx, s, "", c, run, func(ctx context.Context) (sample, error) {
						return b.measureBacklog(ctx, g, c, run, since)
					}); err != nil {
						return err
					}
				}
				return nil
			})
		}); err != nil {
			return err
		}
	}
	return nil
}

// makeBacklog returns the first revision that the targets do not have.
func (b *bench) makeBacklog(ctx context.Context, source *server, targets []*server) (since int64, err error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	for i, c := range b.backlogContenders() {
		if err := b.begun(ctx, &stage{source: source, target: targets[i], via: source.endpoint, filter: b.cfg.filter}, c); err != nil {
			return 0, fmt.Errorf("%s: begin: %w", c.name, err)
		}
	}
	resp, err := get(ctx, source.client, prefix)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	plan := trafficPlan{rate: maxRate, count: b.cfg.backlog - 1} // and the last
	t, err := startProcess(roleTraffic, roleFlags{source: source.endpoint, target: targets[0].endpoint, filter: b.cfg.filter, traffic: plan})
	if err != nil {
		return 0, err
	}
	defer t.stop()
	if err := t.ready(ctx); err != nil {
		return 0, err
	}
	if err := t.order(goLine); err != nil {
		return 0, t.failure()
	}
	if _, err := t.line(ctx); err != nil {
		return 0, err
	}
	b.note("%d revisions written in %.1f s", b.cfg.backlog, time.Since(began).Seconds())
	return resp.Header.Revision + 1, nil
}

// begun makes a target equal to the source and leaves it: Understudy has its checkpoint there.
func (b *bench) begun(ctx context.Context, g *stage, c contender) error {
	if c.role != roleUnderstudy {
		return b.prefill(ctx, g, g.filter && !c.all)
	}
	p, _, err := b.follow(ctx, g, c, 0)
	if err != nil {
		return err
	}
	defer p.stop()
	_, _, err = p.finish(ctx, time.Now())
	return err
}

// measureBacklog lets one contender catch up.
func (b *bench) measureBacklog(ctx context.Context, g *stage, c contender, run int, since int64) (x sample, err error) {
	flags := roleFlags{source: g.via, target: g.target.endpoint, filter: g.filter, engine: b.cfg.engine, serve: true, rev: since, writer: c.shape}
	b.profile(&flags, c, run)
	last, err := g.target.watch(ctx, lastKey)
	if err != nil {
		return x, err
	}
	p, err := begin(ctx, c.role, flags, g.source, g.target, c.role == roleLogWriter)
	if err != nil {
		return x, err
	}
	defer p.stop()
	done, err := p.caughtUp(ctx, last)
	if err != nil {
		return x, err
	}
	if c.role == roleUnderstudy { // it says when it is in the tail
		if _, err := p.counters(ctx); err != nil {
			return x, err
		}
	}
	if x.cost, x.Counters, err = p.finish(ctx, done); err != nil {
		return x, err
	}
	x.Revisions = b.cfg.backlog
	keep, err := g.keep(c)
	if err != nil {
		return x, err
	}
	equal, err := compare(ctx, g.source.client, g.target.client, keep)
	x.Keys, x.Bytes = equal.keys, equal.bytes
	return x, err
}

// caughtUp waits until the target has the last write. The writer has no order and says itself when it is done.
func (s *span) caughtUp(ctx context.Context, last clientv3.WatchChan) (time.Time, error) {
	ctx, cancel := s.whileAlive(ctx)
	defer cancel()
	if s.role == roleLogWriter {
		line, err := s.line(ctx)
		if err == nil && line != doneLine {
			err = fmt.Errorf("%s: printed %q instead of %q", s.role, line, doneLine)
		}
		return time.Now(), err
	}
	err := awaitEvents(ctx, last, anyEvent)
	return time.Now(), err
}

// watch begins to watch what happens at a server from now on.
func (s *server) watch(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.WatchChan, error) {
	resp, err := get(ctx, s.client, key)
	if err != nil {
		return nil, err
	}
	return s.client.Watch(ctx, key, append(opts, clientv3.WithRev(resp.Header.Revision+1))...), nil
}

// awaitEvents returns after the event for which enough is true.
func awaitEvents(ctx context.Context, events clientv3.WatchChan, enough func(*clientv3.Event) bool) error {
	for {
		select {
		case resp, ok := <-events:
			if err := resp.Err(); err != nil || !ok {
				return errors.Join(errors.New("the watch of the target ended"), err)
			}
			for _, ev := range resp.Events {
				if enough(ev) {
					return nil
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("the target does not have all: %w", context.Cause(ctx))
		}
	}
}

func anyEvent(*clientv3.Event) bool { return true }
