package main

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/keyfilter"
)

// This file is the benchmark's own oracle: it shares no code with the engine.

// pageKeys: the server counts the rest of the range for each page, so few large pages are cheaper. The data set's mean value has 2.3 KiB.
const pageKeys = 4000

func everything([]byte) bool { return true }

// keepFunc is what takes part: what the default filter keeps, or everything.
func keepFunc(filter bool) (func(key []byte) bool, error) {
	if !filter {
		return everything, nil
	}
	f, err := keyfilter.New(keyfilter.Config{})
	if err != nil {
		return nil, err
	}
	return f.Match, nil
}

// cursor walks over the kept pairs below the prefix, in key order, at one revision.
type cursor struct {
	client *clientv3.Client
	keep   func([]byte) bool
	opts   []clientv3.OpOption

	rev  int64
	from string
	page []*mvccpb.KeyValue
	done bool
}

func newCursor(client *clientv3.Client, keep func([]byte) bool, opts ...clientv3.OpOption) *cursor {
	opts = append([]clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(pageKeys)}, opts...)
	return &cursor{client: client, keep: keep, opts: opts, from: prefix}
}

// next returns nil at the end.
func (c *cursor) next(ctx context.Context) (*mvccpb.KeyValue, error) {
	for {
		for len(c.page) > 0 {
			kv := c.page[0]
			c.page = c.page[1:]
			if c.keep(kv.Key) {
				return kv, nil
			}
		}
		if c.done {
			return nil, nil
		}
		if err := c.turn(ctx); err != nil {
			return nil, err
		}
	}
}

func (c *cursor) turn(ctx context.Context) error {
	resp, err := get(ctx, c.client, c.from, append(c.opts, clientv3.WithRev(c.rev))...)
	if err != nil {
		return err
	}
	if c.rev == 0 {
		c.rev = resp.Header.Revision
	}
	c.page, c.done = resp.Kvs, !resp.More
	if n := len(c.page); n > 0 {
		c.from = string(c.page[n-1].Key) + "\x00"
	}
	return nil
}

// census counts the kept keys of a source.
func census(ctx context.Context, client *clientv3.Client, keep func([]byte) bool) (keys int, err error) {
	all, err := weigh(ctx, client, keep, clientv3.WithKeysOnly())
	return all.keys, err
}

// content is what was read, or found equal.
type content struct {
	keys   int
	bytes  int64 // of keys and values
	values int64 // bytes of values
}

func (c *content) add(kvs ...*mvccpb.KeyValue) {
	c.keys += len(kvs)
	for _, kv := range kvs {
		c.values += int64(len(kv.Value))
		c.bytes += int64(len(kv.Key) + len(kv.Value))
	}
}

// weigh reads the kept pairs of one side.
func weigh(ctx context.Context, client *clientv3.Client, keep func([]byte) bool, opts ...clientv3.OpOption) (all content, err error) {
	c := newCursor(client, keep, opts...)
	for {
		kv, err := c.next(ctx)
		if err != nil || kv == nil {
			return all, err
		}
		all.add(kv)
	}
}

// difference is what a comparison found.
type difference struct {
	missed, surplus, different, equal int
	first                             string
}

func (d *difference) Error() string {
	return fmt.Sprintf("the target differs from the source: %d missed, %d surplus, %d different, %d equal; first: %s", d.missed, d.surplus, d.different, d.equal, d.first)
}

// compare holds all pairs of the target below the prefix against the kept ones of the source. It returns a *difference that counts the differences and names the first.
func compare(ctx context.Context, source, target *clientv3.Client, keep func([]byte) bool) (equal content, err error) {
	a, b := newCursor(source, keep), newCursor(target, everything)
	var s, t *mvccpb.KeyValue
	var d difference
	note := func(class *int, what string, kv *mvccpb.KeyValue) {
		*class++
		if d.first == "" {
			d.first = fmt.Sprintf("%s %q", what, kv.Key)
		}
	}
	for nextS, nextT := true, true; ; {
		if err := both(ctx, a, b, nextS, nextT, &s, &t); err != nil {
			return equal, err
		}
		if s == nil && t == nil {
			break
		}
		side := 0
		switch {
		case t == nil:
			side = -1
		case s == nil:
			side = 1
		default:
			side = bytes.Compare(s.Key, t.Key)
		}
		switch {
		case side < 0:
			note(&d.missed, "missed", s)
		case side > 0:
			note(&d.surplus, "surplus", t)
		case !bytes.Equal(s.Value, t.Value):
			note(&d.different, "different", s)
		default:
			equal.add(s)
		}
		nextS, nextT = side <= 0, side >= 0
	}
	if d.first != "" {
		d.equal = equal.keys
		return equal, &d
	}
	return equal, nil
}

// both advances the cursors; where both need a page, they get it at the same time.
func both(ctx context.Context, a, b *cursor, nextA, nextB bool, kvA, kvB **mvccpb.KeyValue) error {
	advance := func(ctx context.Context, c *cursor, wanted bool, side string, kv **mvccpb.KeyValue) (err error) {
		if !wanted {
			return nil
		}
		if *kv, err = c.next(ctx); err != nil {
			return fmt.Errorf("%s: %w", side, err)
		}
		return nil
	}
	if nextA && nextB && len(a.page) == 0 && len(b.page) == 0 {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return advance(ctx, a, true, "source", kvA) })
		group.Go(func() error { return advance(ctx, b, true, "target", kvB) })
		return group.Wait()
	}
	if err := advance(ctx, a, nextA, "source", kvA); err != nil {
		return err
	}
	return advance(ctx, b, nextB, "target", kvB)
}
