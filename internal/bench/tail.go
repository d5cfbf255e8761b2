package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

var tailMeasurement = measurement{file: "tail", turns: (*bench).measureTails, columns: tailColumns, row: tailRow, notes: tailNotes}

// stage is a source with what a contender mirrors, and its target.
type stage struct {
	source, target *server
	via            string // the endpoint of the source for the contender
	filter         bool   // of Understudy
	cluster        bool   // the traffic is that of a whole cluster
	proxy          *wire  // on the way from the source; nil without
}

func (g *stage) keep(c contender) (func([]byte) bool, error) {
	return keepFunc(g.filter && !c.all)
}

// withStage gives a contender fresh etcds, so that each meets the same ones.
func (b *bench) withStage(ctx context.Context, keys int, g stage, use func(*stage) error) error {
	return b.withEtcd(ctx, func(source *server) error {
		if err := b.load(ctx, source, roleFlags{keys: keys, volatile: g.cluster}); err != nil {
			return err
		}
		g.source, g.via = source, source.endpoint
		return b.withEtcd(ctx, func(target *server) error {
			g.target = target
			return use(&g)
		})
	})
}

// follow starts a mirror. It follows the source, or is about to, when this returns: make-mirror does not say when. The caller stops the process.
func (b *bench) follow(ctx context.Context, g *stage, c contender, run int) (*span, *counters, error) {
	flags := roleFlags{source: g.via, target: g.target.endpoint, filter: g.filter, engine: b.cfg.engine, serve: true}
	if c.role == roleMakeMirror {
		resp, err := get(ctx, g.source.client, prefix)
		if err != nil {
			return nil, nil, err
		}
		// Its own copy takes long and has a measurement of its own.
		if err := b.prefill(ctx, g, false); err != nil {
			return nil, nil, err
		}
		flags.rev = resp.Header.Revision + 1
	}
	b.profile(&flags, c, run)
	p, err := begin(ctx, c.role, flags, g.source, g.target, false)
	if err != nil {
		return nil, nil, err
	}
	if c.role == roleMakeMirror {
		return p, nil, nil
	}
	n, err := p.counters(ctx)
	if err != nil {
		p.stop()
		return nil, nil, err
	}
	return p, n, nil
}

// profile asks for a profile of Understudy's last run.
func (b *bench) profile(flags *roleFlags, c contender, run int) {
	if c.role == roleUnderstudy && run == b.cfg.runs {
		flags.cpuProfile = b.cfg.cpuProfile
	}
}

// prefill makes a target equal with the bare writer.
func (b *bench) prefill(ctx context.Context, g *stage, filter bool) error {
	flags := roleFlags{source: g.source.endpoint, target: g.target.endpoint, filter: filter, writer: writerShapes[0]}
	p, err := begin(ctx, roleWriter, flags, g.source, g.target, true)
	if err != nil {
		return err
	}
	defer p.stop()
	line, err := p.line(ctx)
	if err == nil && line != doneLine {
		err = fmt.Errorf("%s: printed %q instead of %q", p.role, line, doneLine)
	}
	return err
}

// counters reads those that Understudy prints.
func (p *process) counters(ctx context.Context) (*counters, error) {
	line, err := p.line(ctx)
	if err != nil {
		return nil, err
	}
	n := new(counters)
	if err := json.Unmarshal([]byte(line), n); err != nil {
		return nil, fmt.Errorf("%s: counters: %w", p.role, err)
	}
	return n, nil
}

// finish ends a mirror properly, if it can be told to, and its measurement.
func (s *span) finish(ctx context.Context, done time.Time) (c cost, n *counters, err error) {
	if s.role == roleUnderstudy {
		if err := s.order(stopLine); err != nil {
			return c, nil, s.failure()
		}
		if n, err = s.counters(ctx); err != nil {
			return c, nil, err
		}
	}
	c, err = s.end(done)
	return c, n, err
}

func (b *bench) measureTails(ctx context.Context, s *size) error {
	for run := 1; run <= b.cfg.runs; run++ {
		for _, rate := range b.cfg.rates {
			for _, c := range rotated(b.mirrors(), run) {
				if err := b.turn(ctx, s, rateName(rate), c, run, func(ctx context.Context) (x sample, err error) {
					err = b.withStage(ctx, s.Keys, stage{filter: b.cfg.filter}, func(g *stage) error {
						x, err = b.measureTail(ctx, g, c, run, rate)
						return err
					})
					return x, err
				}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func rateName(rate int) string {
	if rate == maxRate {
		return "max"
	}
	return fmt.Sprintf("%d/s", rate)
}

// measureTail lets one contender follow a source that is written to.
func (b *bench) measureTail(ctx context.Context, g *stage, c contender, run, rate int) (x sample, err error) {
	p, before, err := b.follow(ctx, g, c, run)
	if err != nil {
		return x, err
	}
	defer p.stop()
	done, err := b.writeTo(ctx, g, p, rate, &x)
	if err != nil {
		return x, err
	}
	if x.cost, x.Counters, err = p.finish(ctx, done); err != nil {
		return x, err
	}
	if x.Counters != nil {
		x.Counters.since(before)
	}
	if !x.Lag.Drained { // it is known to differ
		return x, nil
	}
	if x.Lag.Missing > 0 {
		return x, fmt.Errorf("%d writes have not arrived although a later one has", x.Lag.Missing)
	}
	keep, err := g.keep(c)
	if err != nil {
		return x, err
	}
	equal, err := compare(ctx, g.source.client, g.target.client, keep)
	x.Keys, x.Bytes = equal.keys, equal.bytes
	return x, err
}

// writeTo writes to the source of a mirror, and returns when the target had all or was given up.
func (b *bench) writeTo(ctx context.Context, g *stage, p *span, rate int, x *sample) (done time.Time, err error) {
	ctx, cancel := p.whileAlive(ctx)
	defer cancel()
	plan := trafficPlan{rate: rate, window: b.cfg.window, cluster: g.cluster, follow: true, drain: b.cfg.drain}
	t, err := startProcess(roleTraffic, roleFlags{source: g.source.endpoint, target: g.target.endpoint, filter: g.filter, traffic: plan})
	if err != nil {
		return done, err
	}
	defer t.stop()
	if err := t.ready(ctx); err != nil {
		return done, err
	}
	before, err := g.proxy.bytes(ctx)
	if err != nil {
		return done, err
	}
	if err := p.restart(append(g.proxy.processes(), t)...); err != nil {
		return done, err
	}
	if err := t.order(goLine); err != nil {
		return done, t.failure()
	}
	line, err := t.line(ctx)
	if err != nil {
		return done, err
	}
	done = time.Now()
	// Now, while the helpers are there.
	if err := p.stopHelpers(); err != nil {
		return done, err
	}
	x.Lag = new(lagFigures)
	if err := json.Unmarshal([]byte(line), x.Lag); err != nil {
		return done, fmt.Errorf("%s: %w", t.role, err)
	}
	x.Wire, err = g.proxy.since(ctx, before, x.Lag.KeptBytes)
	return done, err
}

// whileAlive gives a context that ends when the process does, so that nobody waits for one that is gone.
func (p *process) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.ended:
			cancel(p.failure())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
