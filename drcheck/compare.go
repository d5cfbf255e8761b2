package drcheck

import (
	"bytes"
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

const (
	// windowKeys is how many keys that both sides have are put together before their values are read. Pages begin small in each, so it should be many; but names take memory.
	windowKeys = 4096
	// windowsAtOnce is how many windows' values are read side by side, each in pages of both sides.
	windowsAtOnce = 2
)

// pair is a key that both sides have, with its places in the listings.
type pair struct {
	key       string // at the source
	pos, tpos int64
}

// suspect is a key that differed when it was last looked at.
type suspect struct {
	key   string // at the source
	class Class
	// source and target are the mod_revisions seen; 0: the side has no such key.
	source, target int64
	wrong          int // looks that have proven it wrong
	done           bool
	reason         Reason // found while it settled
}

// compare reads both sides once and notes what differs.
func (r *round) compare(ctx context.Context) error {
	begin, end := keyspace.Bounds(r.keys.Source)
	tbegin, tend := keyspace.Bounds(r.keys.Target)
	pin, tpin := kvstream.NewPin(begin, r.result.SourceRevision), kvstream.NewPin(tbegin, r.result.TargetRevision)
	g, ctx := errgroup.WithContext(ctx)
	windows := make(chan []pair)
	if r.cfg.Mode == Content {
		for range windowsAtOnce {
			g.Go(func() error {
				for w := range windows {
					if err := r.compareValues(ctx, w, pin, tpin); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	g.Go(func() error {
		defer close(windows)
		sources := r.sources.Keys(begin, end, pin)
		defer sources.Close()
		targets := r.targets.Keys(tbegin, tend, tpin)
		defer targets.Close()
		return r.compareKeys(ctx, sources, targets, windows)
	})
	return g.Wait()
}

// compareKeys lists both sides and hands the keys that both have on, in windows, where values are compared.
func (r *round) compareKeys(ctx context.Context, sources, targets *kvstream.Keys, windows chan<- []pair) error {
	res := r.result
	var window []pair
	flush := func() {
		select {
		case windows <- window:
			window = make([]pair, 0, windowKeys)
		case <-ctx.Done(): // the listing ends with it
			window = window[:0]
		}
	}
	var pos, tpos int64
	err := r.keys.Merge(ctx, sources, targets, func(source, target *mvccpb.KeyValue) {
		kept := false
		if source != nil {
			pos++
			if kept = r.keys.Kept(source.Key); kept {
				res.SourceKeys++
				r.countKey(string(source.Key))
			} else {
				res.Filtered++
			}
		}
		if target != nil {
			tpos++
			if source == nil {
				kept = r.keys.KeptAtTarget(target.Key)
			}
			if kept {
				res.TargetKeys++
			}
		}
		switch {
		case !kept:
		case target == nil:
			r.suspect(suspect{key: string(source.Key), class: Missed, source: source.ModRevision})
		case source == nil:
			r.suspect(suspect{key: r.keys.ToSource(string(target.Key)), class: Surplus, target: target.ModRevision})
		case r.cfg.Mode == Content:
			if window = append(window, pair{string(source.Key), pos, tpos}); len(window) >= windowKeys {
				flush()
			}
		}
	})
	if err == nil && len(window) > 0 {
		flush()
	}
	return err
}

// suspect notes a key that differs.
func (r *round) suspect(s suspect) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.suspects) < r.cfg.MaxRechecks {
		r.suspects = append(r.suspects, s)
		return
	}
	r.result.Unconfirmed++
	d := r.difference(s)
	r.countOf(s.key).add(d)
	r.result.Count.add(d)
	if list := r.beyond[d.Class]; len(list) < r.cfg.Limit {
		r.beyond[d.Class] = append(list, d)
	}
}

func (r *round) countKey(sourceKey string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.countOf(sourceKey).Keys++
}

// countOf is the summary line of a source key's resource.
func (r *round) countOf(sourceKey string) *ResourceCount {
	name := r.cfg.Resource(sourceKey)
	count := r.counts[name]
	if count == nil {
		count = &ResourceCount{Resource: name}
		r.counts[name] = count
	}
	return count
}

// page is some values of a window, in its order.
type page struct {
	first int
	kvs   []*mvccpb.KeyValue
}

// compareValues reads the values of a window from both sides, page by page, and notes which differ.
func (r *round) compareValues(ctx context.Context, window []pair, pin, tpin *kvstream.Pin) error {
	g, ctx := errgroup.WithContext(ctx)
	fetch := func(reader *kvstream.Reader, list kvstream.List, pin *kvstream.Pin) <-chan page {
		pages := make(chan page)
		g.Go(func() error {
			defer close(pages)
			return reader.Fetch(ctx, list, pin, func(first int, kvs []*mvccpb.KeyValue) error {
				select {
				case pages <- page{first, kvs}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		})
		return pages
	}
	sources, targets := fetch(r.sources, sourceList(window), pin), fetch(r.targets, targetList{window, r.keys}, tpin)
	g.Go(func() error {
		var s, t page
		for i := range window {
			for _, side := range []struct {
				page  *page
				pages <-chan page
			}{{&s, sources}, {&t, targets}} {
				if i < side.page.first+len(side.page.kvs) {
					continue
				}
				p, ok := <-side.pages
				if !ok {
					return nil // the reader's error tells why
				}
				*side.page = p
			}
			source, target := s.kvs[i-s.first], t.kvs[i-t.first]
			r.bytes.Add(int64(len(source.GetValue()) + len(target.GetValue())))
			if class := r.classify(ctx, window[i].key, source, target); class != "" {
				r.suspect(suspect{key: window[i].key, class: class, source: source.GetModRevision(), target: target.GetModRevision()})
			}
		}
		return nil
	})
	return g.Wait()
}

// classify compares what the two sides have under a key; either may be nil. "" means equal.
func (c *Checker) classify(ctx context.Context, sourceKey string, source, target *mvccpb.KeyValue) Class {
	switch {
	case source == nil && target == nil:
		return ""
	case target == nil:
		return Missed
	case source == nil:
		return Surplus
	case c.cfg.Mode == Content && !c.equal(ctx, sourceKey, source.Value, target.Value):
		return Different
	}
	return ""
}

// equal reports whether the target's value is what the mirror makes of the source's, and can be read there.
func (c *Checker) equal(ctx context.Context, sourceKey string, source, target []byte) bool {
	targetKey := c.keys.ToTarget(sourceKey)
	plain, opened := target, true
	if c.cfg.OpenTarget != nil && kubemeta.Encrypted(target) {
		var err error
		if plain, err = c.cfg.OpenTarget(ctx, targetKey, target); err != nil {
			return false
		}
	} else {
		opened = !kubemeta.Encrypted(target)
	}
	if c.cfg.Transform != nil {
		equal, err := c.cfg.Transform.Equal(ctx, sourceKey, targetKey, source, target)
		return err == nil && equal
	}
	if bytes.Equal(source, target) {
		return true
	}
	if !opened {
		return false
	}
	if kubemeta.Encrypted(source) {
		if c.cfg.OpenSource == nil {
			return false
		}
		var err error
		if source, err = c.cfg.OpenSource(ctx, sourceKey, source); err != nil {
			return false
		}
	}
	return bytes.Equal(source, plain)
}

// sourceList and targetList are a window as kvstream reads it.
type sourceList []pair

func (l sourceList) Len() int         { return len(l) }
func (l sourceList) Key(i int) string { return l[i].key }
func (l sourceList) Pos(i int) int64  { return l[i].pos }

type targetList struct {
	window []pair
	keys   *keyspace.Space
}

func (l targetList) Len() int         { return len(l.window) }
func (l targetList) Key(i int) string { return l.keys.ToTarget(l.window[i].key) }
func (l targetList) Pos(i int) int64  { return l.window[i].tpos }
