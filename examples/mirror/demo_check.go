package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
)

// compare lets drcheck compare the kept keys of both sides, and keeps what the standby holds.
func (d *demo) compare(ctx context.Context) error {
	checker, err := drcheck.New(d.source, d.target, drcheck.Config{Name: mirrorflags.DefaultName, Keep: d.filter.Match, KeepID: d.filter.Hash(), AcceptMadeAtTarget: true})
	if err != nil {
		return err
	}
	r, err := checker.Check(ctx)
	if err != nil {
		return err
	}
	d.say("kept %d   missed %d   surplus %d   different %d   own %d   (filtered %d)", r.SourceKeys, r.Count.Missed, r.Count.Surplus, r.Count.Different, r.Count.Accepted, r.Filtered)
	for _, difference := range r.Differences {
		d.say("%s %s: %s", difference.Class, difference.Key, difference.Reason)
	}
	switch {
	case !r.Equal:
		return fmt.Errorf("%d keys differ", r.Count.Total())
	case r.SourceKeys == 0 || r.Filtered == 0 || r.Count.Accepted == 0:
		return errors.New("there was nothing to compare")
	}
	d.held, err = read(ctx, d.target, "")
	return err
}

// verdict is what the standby tells with its primary dead.
func (d *demo) verdict(ctx context.Context) error {
	v, err := drcheck.ReadVerdict(ctx, d.target, mirrorflags.DefaultName)
	if err != nil {
		return err
	}
	loss := v.Loss(v.Now)
	d.say("lost at most: %d known revisions, and what the primary did in the last %v", loss.Revisions, loss.Window.Round(100*time.Millisecond))
	if v.LastEqual == nil || !v.Complete || loss.Revisions != 0 || loss.Since.IsZero() {
		return fmt.Errorf("%d known revisions are lost, complete %v, proven equal %v", loss.Revisions, v.Complete, v.LastEqual != nil)
	}
	d.say("last proven equal, value by value: at primary revision %d, %v ago", v.LastEqual.SourceRevision, v.Now.Sub(v.LastEqual.Began).Round(100*time.Millisecond))
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
