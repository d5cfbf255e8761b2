package main

import (
	"context"
	"fmt"
	"time"
)

var idleMeasurement = measurement{file: "idle", turns: (*bench).measureIdles, columns: idleColumns, row: idleRow, notes: idleNotes}

// settleShare: the etcds and the mirror may come to rest for this part of the time that is measured.
const settleShare = 4

func (b *bench) measureIdles(ctx context.Context, s *size) error {
	contenders := append(b.mirrors(), contender{name: nobody, role: roleIdle})
	for run := 1; run <= b.cfg.runs; run++ {
		for _, c := range rotated(contenders, run) {
			if err := b.turn(ctx, s, "", c, run, func(ctx context.Context) (x sample, err error) {
				err = b.withStage(ctx, s.Keys, stage{filter: b.cfg.filter}, func(g *stage) error {
					x, err = b.measureIdle(ctx, g, c, run)
					return err
				})
				return x, err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// nobody mirrors: what the etcds use by themselves.
const nobody = "nobody"

// measureIdle lets one contender mirror a source to which nobody writes.
func (b *bench) measureIdle(ctx context.Context, g *stage, c contender, run int) (x sample, err error) {
	var p *span
	if c.role == roleIdle {
		if err := b.prefill(ctx, g, g.filter); err != nil {
			return x, err
		}
		p, err = begin(ctx, c.role, roleFlags{source: g.via, target: g.target.endpoint}, g.source, g.target, false)
	} else {
		p, _, err = b.follow(ctx, g, c, run)
	}
	if err != nil {
		return x, err
	}
	defer p.stop()
	ctx, cancel := p.whileAlive(ctx)
	defer cancel()
	if err := p.crosses(ctx, g); err != nil {
		return x, err
	}
	if err := sleep(ctx, b.cfg.idleWindow/settleShare); err != nil {
		return x, err
	}
	if err := p.restart(); err != nil {
		return x, err
	}
	if err := sleep(ctx, b.cfg.idleWindow); err != nil {
		return x, err
	}
	done := time.Now()
	own, err := p.cpuTime()
	if err != nil {
		return x, err
	}
	after, err := usage(g.source, g.target)
	if err != nil {
		return x, err
	}
	x.cost = p.between(after, own, done)
	if x.PeakRSS, err = p.peakRSS(); err != nil {
		return x, err
	}
	if c.role == roleIdle {
		return x, nil
	}
	if err := p.crosses(ctx, g); err != nil { // it was idle, not dead
		return x, err
	}
	keep, err := g.keep(c)
	if err != nil {
		return x, err
	}
	equal, err := compare(ctx, g.source.client, g.target.client, keep)
	x.Keys, x.Bytes = equal.keys, equal.bytes
	return x, err
}

// crosses makes a write at the source and waits for it at the target, if somebody mirrors.
func (s *span) crosses(ctx context.Context, g *stage) error {
	if s.role == roleIdle {
		return s.ready(ctx)
	}
	events, err := g.target.watch(ctx, canaryKey)
	if err != nil {
		return err
	}
	canary := benchObject("ConfigMap", "team-00", "bench-canary", 1000, uint64(time.Now().UnixNano()))
	if err := put(ctx, g.source.client, canaryKey, canary.Protobuf()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, canaryLimit, fmt.Errorf("a write at the source has not arrived after %v", canaryLimit))
	defer cancel()
	return awaitEvents(ctx, events, anyEvent)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
