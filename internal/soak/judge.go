package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/history"
)

func decode(checkpoint []byte) (c etcdmirror.Checkpoint, err error) {
	err = json.Unmarshal(checkpoint, &c)
	return c, err
}

// settle ends all faults and waits until everything is as it should be.
func (s *schedule) settle(ctx context.Context) error {
	s.note("all faults end")
	if err := s.heal(ctx); err != nil {
		return err
	}
	if err := s.saved(ctx); err != nil {
		return err
	}
	head, err := s.source.recorder.Head(ctx)
	if err != nil {
		return err
	}
	for _, r := range s.replicas {
		if m := r.current(); m != nil && r.running() {
			wait, cancel := context.WithTimeoutCause(ctx, settleTimeout, fmt.Errorf("not within %v", settleTimeout))
			err := m.WaitForRevision(wait, head)
			cancel()
			if err != nil && r.running() {
				return fmt.Errorf("%s: WaitForRevision(%d): %w", r.in.Replica, head, err)
			}
		}
	}
	survivors, either := s.others.survivors(s.source.recorder)
	return s.eventually(ctx, "both sides are equal and the marks are right", func(ctx context.Context, md *etcdmirror.Metadata) (string, error) {
		wrong, later, err := s.compare(ctx, survivors, either)
		if err != nil {
			return "", err
		}
		if len(wrong) > 0 && !s.plan.Own && !s.plan.Drift {
			// Nobody else writes at the target, so the checkpoint has to be right at once.
			s.violations = append(s.violations, wrong...)
			return "", errDone
		}
		wrong = append(append(wrong, later...), s.wrongMarks(md, survivors, either)...)
		return strings.Join(wrong[:min(len(wrong), 10)], "; "), doneIf(len(wrong) == 0)
	})
}

// compare holds the target's keys against the source's and those that others made. It reads both etcds themselves. What is wrong about leases may become right later.
func (s *schedule) compare(ctx context.Context, survivors map[string]string, either map[string]bool) (wrong, later []string, err error) {
	sources, err := s.source.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	targets, err := s.target.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := s.plan.Mirror
	want := map[string]*mvccpb.KeyValue{}
	for key, kv := range sources {
		if mapped, ok := p.toTarget(key); ok && p.keep([]byte(key)) {
			want[mapped] = kv
			if !p.Leases {
				kv.Lease = 0
			}
		}
	}
	for key, value := range survivors {
		want[key] = &mvccpb.KeyValue{Value: []byte(value)}
	}
	s.report.Keys = len(want)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		_, others := survivors[key]
		switch kv := targets[key]; {
		case kv == nil && others:
			wrong = append(wrong, fmt.Sprintf("the target's own key %q is gone", key))
		case kv == nil:
			wrong = append(wrong, fmt.Sprintf("missed key %q", key))
		case string(kv.Value) != string(want[key].Value) && others:
			wrong = append(wrong, fmt.Sprintf("the target's own key %q was overwritten", key))
		case string(kv.Value) != string(want[key].Value):
			wrong = append(wrong, fmt.Sprintf("different key %q", key))
		case kv.Lease != want[key].Lease:
			later = append(later, fmt.Sprintf("key %q has lease %x instead of %x", key, kv.Lease, want[key].Lease))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(targets)) {
		if _, ok := want[key]; !ok && p.inTargetSpace(key) && !either[key] {
			wrong = append(wrong, fmt.Sprintf("surplus key %q", key))
		}
	}
	return wrong, later, nil
}

// wrongMarks holds the mirror's lists of foreign and drifted keys against what others did.
func (s *schedule) wrongMarks(md *etcdmirror.Metadata, survivors map[string]string, either map[string]bool) (wrong []string) {
	listed := map[string]bool{}
	for _, key := range md.Foreign {
		listed[key] = true
		if _, ok := survivors[key]; !ok && !either[key] {
			wrong = append(wrong, fmt.Sprintf("key %q is listed as the target's own", key))
		}
	}
	for key := range survivors {
		if !listed[key] && s.plan.Mirror.keep([]byte(s.plan.Mirror.toSource(key))) {
			wrong = append(wrong, fmt.Sprintf("the target's own key %q is not listed", key))
		}
	}
	for _, d := range md.Drift {
		wrong = append(wrong, fmt.Sprintf("key %q is listed as %s", d.Key, d.Kind))
	}
	slices.Sort(wrong)
	return wrong
}

// list reads all keys at one revision.
func (s *side) list(ctx context.Context) (map[string]*mvccpb.KeyValue, error) {
	all := map[string]*mvccpb.KeyValue{}
	rev := int64(0)
	for begin := "\x00"; ; {
		var resp *clientv3.GetResponse
		err := s.call(ctx, func(ctx context.Context) (err error) {
			resp, err = s.client.Get(ctx, begin, clientv3.WithFromKey(), clientv3.WithLimit(500), clientv3.WithRev(rev))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: list: %w", s.name, err)
		}
		for _, kv := range resp.Kvs {
			all[string(kv.Key)] = kv
		}
		if !resp.More {
			return all, nil
		}
		rev, begin = resp.Header.Revision, string(resp.Kvs[len(resp.Kvs)-1].Key)+"\x00"
	}
}

// judge holds the histories of both sides against each other, and the end of every replica against what ended it.
func (s *schedule) judge(ctx context.Context) error {
	survivors, either := s.others.survivors(s.source.recorder)
	if err := s.heads(ctx); err != nil {
		return err
	}
	oracle := s.oracle()
	final := oracle
	final.Ignore = func(key string) bool { _, theirs := survivors[key]; return theirs || either[key] }
	s.found(history.CheckConverged(s.source.recorder, s.target.recorder, final))
	if s.plan.Promote {
		if err := s.promote(ctx); err != nil {
			return err
		}
	}
	for _, r := range s.replicas {
		r.resume()
		r.stop(true)
		if err := r.failed(); err != nil {
			s.violate("%s ended: %v", r.in.Replica, err)
		}
	}
	if err := s.heads(ctx); err != nil {
		return err
	}
	s.found(history.CheckAll(s.source.recorder, s.target.recorder, s.oracle()))
	s.countHistory()
	return nil
}

// heads waits until the recorders have seen everything.
func (s *schedule) heads(ctx context.Context) error {
	for _, side := range []*side{s.source, s.target} {
		if _, err := side.recorder.Head(ctx); err != nil {
			return fmt.Errorf("%s: %w", side.name, err)
		}
	}
	return nil
}

// oracle says what the mirror is to do. Keys that others touched are left out: at what moment they are right again is not promised.
func (s *schedule) oracle() history.Options {
	p := s.plan.Mirror
	foreign := s.others.revisions()
	return history.Options{
		Keep: p.keep, MapKey: p.toTarget, InTargetSpace: p.inTargetSpace,
		Ignore:        func(key string) bool { return strings.HasPrefix(key, s.others.dir) || s.others.touched[key] },
		Foreign:       func(rev int64) bool { return foreign[rev] },
		CheckpointKey: checkpointKey,
		Decode: func(value []byte) (int64, bool, bool) {
			c, err := decode(value)
			return c.SourceRevision, c.Phase == etcdmirror.PhaseTail, err == nil
		},
		Epoch: func(value []byte) int64 { c, _ := decode(value); return c.Epoch },
	}
}

// found takes the violations of a check.
func (s *schedule) found(err error) {
	if err == nil {
		return
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, err := range joined.Unwrap() {
			s.found(err)
		}
		return
	}
	s.violate("%v", err)
}

// promote makes the target a primary while the source is written and replicas run: nothing of the mirror may arrive any more, and every replica ends.
func (s *schedule) promote(ctx context.Context) error {
	for _, r := range s.replicas {
		if s.rng.IntN(2) == 0 && r.pause() {
			s.note("%s paused", r.in.Replica)
		}
	}
	s.writer.add(10)
	var promotion *etcdmirror.Promotion
	err := s.target.call(ctx, func(ctx context.Context) (err error) {
		promotion, err = etcdmirror.Promote(ctx, s.target.client, mirrorName, etcdmirror.PromoteOptions{AllowIncomplete: true})
		if errors.Is(err, etcdmirror.ErrPromoted) && promotion != nil {
			return nil // an attempt whose answer was lost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	s.note("target promoted at revision %d", promotion.TargetRevision)
	s.report.fault("promotion", 1, 0)
	s.writer.add(20)
	for _, r := range s.replicas {
		r.resume()
		if err := r.untilPromoted(ctx); err != nil {
			s.violate("%s after the promotion: %v", r.in.Replica, err)
		}
	}
	if err := s.writer.idle(ctx); err != nil {
		return err
	}
	if err := s.heads(ctx); err != nil {
		return err
	}
	foreign := s.others.revisions()
	for _, rev := range s.target.recorder.Revisions() {
		for i := range rev.Events {
			if key := rev.Events[i].Key; rev.Rev > promotion.TargetRevision && !foreign[rev.Rev] && s.plan.Mirror.inTargetSpace(key) {
				s.violate("key %q was written at target revision %d, after the promotion at %d", key, rev.Rev, promotion.TargetRevision)
			}
		}
	}
	return nil
}

// countHistory counts what was checked.
func (s *schedule) countHistory() {
	writers, copies := map[string]bool{}, map[string]bool{}
	revs := s.target.recorder.Revisions()
	s.report.Revisions = len(revs)
	for _, rev := range revs {
		for i := range rev.Events {
			if e := &rev.Events[i]; e.Key == checkpointKey {
				value, _ := e.Value.Bytes()
				c, err := decode(value)
				if err != nil {
					continue
				}
				s.report.Checkpoints++
				writers[c.Writer] = true
				if c.Phase == etcdmirror.PhaseBase || c.Phase == etcdmirror.PhaseResync {
					copies[fmt.Sprint(c.Writer, c.SourceRevision)] = true
				}
			}
		}
	}
	s.report.Terms, s.report.Copies = len(writers), len(copies)
}
