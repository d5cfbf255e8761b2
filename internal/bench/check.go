package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

var checkMeasurement = measurement{file: "check", turns: (*bench).measureChecks, columns: checkColumns, row: checkRow, notes: checkNotes, anySize: true}

// checkContenders read both sides at once. The readers drop what they get: they are the limits of the checks.
var checkContenders = []contender{
	{name: roleReadStream, role: roleReadStream}, {name: roleReadPages, role: roleReadPages}, {name: roleReadKeys, role: roleReadKeys},
	{name: roleCheckContent, role: roleCheckContent}, {name: roleCheckKeys, role: roleCheckKeys},
}

// checkOrder is the order of a run: nobody is always the first, nor always comes after the same one, whose garbage the etcds may still have to collect.
func checkOrder(run int) []contender {
	n := len(checkContenders)
	first := (run - 1) % n
	order := slices.Concat(checkContenders[first:], checkContenders[:first])
	if run%2 == 0 {
		slices.Reverse(order[1:])
	}
	return order
}

// measureChecks gives a target the source's content, and then lets all contenders read both.
func (b *bench) measureChecks(ctx context.Context, s *size) error {
	return b.withLoaded(ctx, s, func(source *server, _ int) error {
		return b.withEtcd(ctx, func(target *server) error {
			if err := b.idleClient(ctx, source, target, s); err != nil {
				return err
			}
			all, equal, err := b.makeEqual(ctx, source, target)
			if err != nil {
				return err
			}
			for run := 1; run <= b.cfg.runs; run++ {
				for _, c := range checkOrder(run) {
					if err := b.turn(ctx, s, "", c, run, func(ctx context.Context) (sample, error) {
						x, err := b.measureCheck(ctx, source, target, c, run)
						if err == nil {
							err = x.Seen.verify(expected(c.role, all, equal))
						}
						x.Keys, x.Bytes = equal.keys, equal.bytes
						return x, err
					}); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
}

// makeEqual gives the target what is kept of the source, and returns what all of the source is, and the kept part of it.
func (b *bench) makeEqual(ctx context.Context, source, target *server) (all, equal content, err error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	began := time.Now()
	// The bare writer shares no code with what is measured.
	if err := b.prefill(ctx, &stage{source: source, target: target}, b.cfg.filter); err != nil {
		return all, equal, fmt.Errorf("fill the target: %w", err)
	}
	if equal, err = compare(ctx, source.client, target.client, b.keep); err != nil {
		return all, equal, err
	}
	all, err = weigh(ctx, source.client, everything)
	b.note("%d keys: target filled and compared in %.1f s", equal.keys, time.Since(began).Seconds())
	return all, equal, err
}

// measureCheck lets one contender read both sides.
func (b *bench) measureCheck(ctx context.Context, source, target *server, c contender, run int) (x sample, err error) {
	flags := roleFlags{source: source.endpoint, target: target.endpoint, filter: b.cfg.filter}
	if c.role == roleCheckContent && run == b.cfg.runs {
		flags.cpuProfile = b.cfg.cpuProfile
	}
	p, err := begin(ctx, c.role, flags, source, target, true)
	if err != nil {
		return x, err
	}
	defer p.stop()
	line, err := p.line(ctx)
	if err != nil {
		return x, err
	}
	done := time.Now()
	x.Seen = new(seen)
	if err := json.Unmarshal([]byte(line), x.Seen); err != nil {
		return x, fmt.Errorf("what it has read: %w", err)
	}
	x.cost, err = p.end(done)
	return x, err
}

// expected is what a role must have read where all is at the source, and the part of it that equals the target is kept.
func expected(role string, all, equal content) seen {
	want := seen{SourceKeys: all.keys, TargetKeys: equal.keys, ValueBytes: all.values + equal.values}
	switch role {
	case roleReadKeys:
		want.ValueBytes = 0
	case roleCheckContent, roleCheckKeys:
		want = seen{SourceKeys: equal.keys, TargetKeys: equal.keys, Filtered: all.keys - equal.keys}
		if role == roleCheckContent {
			want.ValueBytes = 2 * equal.values
		}
	}
	return want
}

func (s seen) verify(want seen) error {
	if s != want {
		return fmt.Errorf("it has read %+v, the sides hold %+v", s, want)
	}
	return nil
}
