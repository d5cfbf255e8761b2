package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// compare compares the kept keys of both sides.
func (d *demo) compare(ctx context.Context) error {
	primary, err := read(ctx, d.source, "/registry/")
	if err != nil {
		return err
	}
	if d.held, err = read(ctx, d.target, ""); err != nil {
		return err
	}
	r := compareContents(primary, d.held, d.filter.Match, demoOwn)
	d.say("kept %d   equal %d   missed %d   surplus %d   different %d   own %d   (filtered %d)", r.kept, r.equal, len(r.missed), len(r.surplus), len(r.different), r.own, r.filtered)
	if err := r.err(); err != nil {
		return err
	}
	if r.kept == 0 || r.filtered == 0 || r.own == 0 {
		return errors.New("there was nothing to compare")
	}
	return nil
}

// comparison tells how a standby differs from its primary.
type comparison struct {
	kept, equal, filtered      int // keys of the primary
	own                        int // keys that the standby made itself
	missed, surplus, different []string
}

// compareContents compares what a filter keeps. Of the standby, keys that begin with own are its own.
func compareContents(primary, standby contents, keep func([]byte) bool, own string) comparison {
	var r comparison
	for key, e := range primary.entries {
		if !keep([]byte(key)) {
			r.filtered++
			continue
		}
		r.kept++
		switch other, ok := standby.entries[key]; {
		case !ok:
			r.missed = append(r.missed, key)
		case !bytes.Equal(e.value, other.value):
			r.different = append(r.different, key)
		default:
			r.equal++
		}
	}
	for key := range standby.entries {
		_, ok := primary.entries[key]
		switch {
		case strings.HasPrefix(key, own):
			r.own++
		case !ok || !keep([]byte(key)):
			r.surplus = append(r.surplus, key)
		}
	}
	return r
}

func (r *comparison) err() error {
	for what, keys := range map[string][]string{"missed": r.missed, "surplus": r.surplus, "different": r.different} {
		if len(keys) > 0 {
			slices.Sort(keys)
			return fmt.Errorf("%d keys %s at the standby, the first is %q", len(keys), what, keys[0])
		}
	}
	return nil
}

// late writes to the old primary. Its mirror, which still runs, is refused.
func (d *demo) late(ctx context.Context) error {
	if err := d.primary.StartMember(ctx, 0, nil); err != nil {
		return err
	}
	const key = "/registry/configmaps/team-a/demo-late"
	for began := time.Now(); ; {
		err := d.commit(ctx, clientv3.OpPut(key, "late"))
		if err == nil {
			break
		}
		if ctx.Err() != nil || time.Since(began) > demoWait {
			return fmt.Errorf("writing to the old primary: %w", err)
		}
	}
	d.say("%s is written there, primary revision %d", key, d.last)
	var err error
	select {
	case err = <-d.ended:
	case <-time.After(demoWait):
		return fmt.Errorf("the old mirror still runs %v after the write", demoWait)
	case <-ctx.Done():
		return ctx.Err()
	}
	if !errors.Is(err, etcdmirror.ErrFenced) || !errors.Is(err, etcdmirror.ErrPromoted) {
		return fmt.Errorf("the old mirror ended with %v instead of being fenced", err)
	}
	d.say("the old mirror ended: %v", err)
	return d.untouched(ctx)
}

// again starts a new mirror from the old primary.
func (d *demo) again(ctx context.Context) error {
	m, err := etcdmirror.New(d.source, d.target, d.config())
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	if err = m.Run(limited); !errors.Is(err, etcdmirror.ErrPromoted) {
		return fmt.Errorf("it ended with %v instead of being refused", err)
	}
	d.say("%v", err)
	return d.untouched(ctx)
}

// untouched checks that nothing was written to the standby since its promotion. What a mirror leaves behind when it ends, such as
// its place in the election, lies outside of what is mirrored.
func (d *demo) untouched(ctx context.Context) error {
	now, err := read(ctx, d.target, "")
	if err != nil {
		return err
	}
	same := len(now.entries) == len(d.held.entries)
	for key, e := range now.entries {
		same = same && e.mod == d.held.entries[key].mod
	}
	if !same {
		return fmt.Errorf("the standby's keys changed between its revisions %d and %d", d.held.revision, now.revision)
	}
	written, err := writtenBetween(ctx, d.target, d.promotion.TargetRevision, now.revision)
	if err != nil {
		return err
	}
	if len(written) > 0 {
		return fmt.Errorf("%d changes were made at the standby after its promotion, the first to %q", len(written), written[0])
	}
	d.say("the standby is untouched: %d keys, none of them written since revision %d, its promotion", len(now.entries), d.promotion.TargetRevision)
	return nil
}

// writtenBetween are the keys of all changes after one revision and up to another, but for the metadata of mirrors. Also a key that is gone again is found.
func writtenBetween(ctx context.Context, client *clientv3.Client, after, until int64) (keys []string, err error) {
	if until <= after {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), demoRequest)
	defer cancel()
	for resp := range client.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if err := resp.Err(); err != nil {
			return nil, err
		}
		for _, event := range resp.Events {
			if key := string(event.Kv.Key); !strings.HasPrefix(key, etcdmirror.MetadataPrefix) {
				keys = append(keys, key)
			}
			if event.Kv.ModRevision >= until { // each revision has a change
				return keys, nil
			}
		}
	}
	return nil, fmt.Errorf("reading the standby's changes after revision %d: %w", after, context.Cause(ctx))
}
