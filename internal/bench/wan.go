package main

import (
	"context"
	"time"
)

var wanMeasurement = measurement{file: "wan", turns: (*bench).measureWans, columns: wanColumns, row: wanRow, notes: wanNotes}

// wanRate is that of the writes, in writes/s.
const wanRate = 1000

const (
	caseNear = "base copy, no delay"
	caseFar  = "base copy"
)

func caseWanTail() string { return "tail, " + rateName(wanRate) }

// measureWans puts a proxy between the source and the mirror. The source holds, and is written to, as a whole cluster does: with leases of nodes and events.
func (b *bench) measureWans(ctx context.Context, s *size) error {
	for run := 1; run <= b.cfg.runs; run++ {
		for _, name := range []string{caseNear, caseFar, caseWanTail()} {
			for _, c := range rotated(b.mirrors(), run) {
				if err := b.turn(ctx, s, name, c, run, func(ctx context.Context) (x sample, err error) {
					delay := b.cfg.delay
					if name == caseNear {
						delay = 0
					}
					err = b.withStage(ctx, s.Keys, stage{filter: true, cluster: true}, func(g *stage) error {
						return b.withWire(ctx, g, delay, func() error {
							if name == caseWanTail() {
								x, err = b.measureTail(ctx, g, c, run, wanRate)
							} else {
								x, err = b.measureWanCopy(ctx, g, c, run)
							}
							return err
						})
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

// measureWanCopy lets one contender copy through the proxy.
func (b *bench) measureWanCopy(ctx context.Context, g *stage, c contender, run int) (x sample, err error) {
	keep, err := g.keep(c)
	if err != nil {
		return x, err
	}
	want, err := census(ctx, g.source.client, keep)
	if err != nil {
		return x, err
	}
	filtered, err := keepFunc(g.filter)
	if err != nil {
		return x, err
	}
	kept, err := weigh(ctx, g.source.client, filtered)
	if err != nil {
		return x, err
	}
	if x, err = b.fill(ctx, g, c, run, want); err != nil {
		return x, err
	}
	if x.Wire, err = g.proxy.since(ctx, crossed{}, kept.bytes); err != nil {
		return x, err
	}
	equal, err := compare(ctx, g.source.client, g.target.client, keep)
	x.Keys, x.Bytes = equal.keys, equal.bytes
	return x, err
}

// withWire puts a proxy before the stage's source.
func (b *bench) withWire(ctx context.Context, g *stage, delay time.Duration, use func() error) error {
	p, err := startProcess(roleProxy, roleFlags{source: g.source.endpoint, delay: delay})
	if err != nil {
		return err
	}
	defer p.stop()
	if g.via, err = p.line(ctx); err != nil {
		return err
	}
	g.proxy = &wire{p}
	return use()
}
