package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var copyMeasurement = measurement{file: "base-copy", turns: (*bench).measureCopies, columns: copyColumns, row: copyRow, notes: copyNotes, anySize: true}

func (b *bench) copyContenders() []contender {
	list := b.mirrors()
	for _, shape := range writerShapes {
		list = append(list, contender{name: shape.String(), role: roleWriter, shape: shape})
	}
	return list
}

func (b *bench) measureCopies(ctx context.Context, s *size) error {
	return b.withLoaded(ctx, s, func(source *server, kept int) error {
		if err := b.withEtcd(ctx, func(target *server) error { return b.idleClient(ctx, source, target, s) }); err != nil {
			return err
		}
		for run := 1; run <= b.cfg.runs; run++ {
			for _, c := range rotated(b.copyContenders(), run) {
				want, keep := kept, b.keep
				if c.all {
					want, keep = s.Keys, everything
				}
				if err := b.turn(ctx, s, "", c, run, func(ctx context.Context) (sample, error) {
					return b.measureCopy(ctx, source, c, run, want, keep)
				}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// measureCopy lets one contender fill a fresh target and compares what it made.
func (b *bench) measureCopy(ctx context.Context, source *server, c contender, run, want int, keep func([]byte) bool) (x sample, err error) {
	err = b.withEtcd(ctx, func(target *server) error {
		g := &stage{source: source, target: target, via: source.endpoint, filter: b.cfg.filter}
		if x, err = b.fill(ctx, g, c, run, want); err != nil {
			return err
		}
		equal, err := compare(ctx, source.client, target.client, keep)
		x.Keys, x.Bytes = equal.keys, equal.bytes
		return err
	})
	return x, err
}

// fill lets one contender fill a target. It does not look at what the target then holds, but for the number of keys.
func (b *bench) fill(ctx context.Context, g *stage, c contender, run, want int) (x sample, err error) {
	flags := roleFlags{source: g.via, target: g.target.endpoint, filter: g.filter, engine: b.cfg.engine, writer: c.shape}
	b.profile(&flags, c, run)
	p, err := begin(ctx, c.role, flags, g.source, g.target, c.role == roleWriter)
	if err != nil {
		return x, err
	}
	defer p.stop()
	// Understudy's own word arrives while the target is being asked.
	type word struct {
		line string
		at   time.Time
		err  error
	}
	said := make(chan word, 1)
	if c.role == roleUnderstudy {
		go func() {
			line, err := p.line(ctx)
			said <- word{line, time.Now(), err}
		}()
	}
	held, err := p.untilHeld(ctx, g.target.client, want)
	if err != nil {
		return x, err
	}
	if c.role == roleUnderstudy {
		w := <-said
		if w.err != nil {
			return x, w.err
		}
		x.DoneSeconds = w.at.Sub(p.began).Seconds()
		if err := json.Unmarshal([]byte(w.line), &x.Counters); err != nil {
			return x, fmt.Errorf("counters: %w", err)
		}
	}
	x.cost, err = p.end(held)
	return x, err
}

// untilHeld asks the target for its number of keys until it has all, and returns when that was. A count walks over all keys, so it must not be asked for all the time:
// a pacer spaces the questions.
func (p *process) untilHeld(ctx context.Context, target *clientv3.Client, want int) (time.Time, error) {
	pace := pacer{want: want}
	for {
		asked := time.Now()
		resp, err := get(ctx, target, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		if err != nil {
			return time.Time{}, fmt.Errorf("target: count: %w", err)
		}
		now := time.Now()
		count := int(resp.Count)
		switch {
		case count == want:
			return now, nil
		case count > want:
			return now, fmt.Errorf("the target has %d keys below %s, the source %d", count, prefix, want)
		}
		timer := time.NewTimer(pace.next(count, asked, now))
		select {
		case <-timer.C:
		case <-p.ended:
			timer.Stop()
			return now, p.failure()
		case <-ctx.Done():
			timer.Stop()
			return now, fmt.Errorf("the target has %d of %d keys: %w", count, want, context.Cause(ctx))
		}
	}
}
