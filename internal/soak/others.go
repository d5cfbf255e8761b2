package soak

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/history"
)

// others write at the target beside the mirror: its own cluster makes keys, and controllers change and delete mirrored ones.
//
// Each of their transactions also counts up a key of theirs, compared with its last number. So it happens exactly once, however
// often it is tried, and the target's history tells their revisions from the mirror's.
type others struct {
	target *side
	plan   mirrorPlan
	dir    string // of the keys that only they make
	count  int    // transactions

	own     map[string]string // what those keys hold
	squats  map[string]squat  // keys that the source had before, and that they made while the target did not have them
	touched map[string]bool   // keys of the mirror that they changed, deleted or made; never all of them, see theirs
}

// squat is a key that others made where the mirror may come back.
type squat struct {
	value string
	// since is the source revision that the checkpoint named when it was made; -1: not known.
	since int64
}

const checkpointKey = etcdmirror.MetadataPrefix + mirrorName + "/checkpoint"

func newOthers(target *side, plan mirrorPlan) *others {
	_, prefix := plan.prefixes()
	return &others{target: target, plan: plan, dir: prefix + "standby-own/",
		own: map[string]string{}, squats: map[string]squat{}, touched: map[string]bool{}}
}

func (o *others) marker() string { return o.dir + "count" }

// theirs tells the keys of the mirror that others may touch: so few that the rest can be held against the source at every revision.
func (o *others) theirs(key string) bool { return hash("theirs"+key)%8 == 0 }

// commit makes one transaction, if the comparisons hold. checkpoint is the mirror's as the transaction found it, nil if that is not known.
func (o *others) commit(ctx context.Context, cmps []clientv3.Cmp, ops ...clientv3.Op) (done bool, checkpoint []byte, err error) {
	now, next := strconv.Itoa(o.count), strconv.Itoa(o.count+1)
	first := clientv3.Compare(clientv3.Value(o.marker()), "=", now)
	if o.count == 0 {
		first = clientv3.Compare(clientv3.CreateRevision(o.marker()), "=", 0)
	}
	err = o.target.call(ctx, func(ctx context.Context) error {
		resp, err := o.target.client.Txn(ctx).If(append(cmps, first)...).
			Then(append([]clientv3.Op{clientv3.OpGet(checkpointKey), clientv3.OpPut(o.marker(), next)}, ops...)...).
			Else(clientv3.OpGet(o.marker())).Commit()
		if err != nil {
			return err
		}
		kvs := resp.Responses[0].GetResponseRange().Kvs
		switch {
		case resp.Succeeded:
			done = true
			if len(kvs) > 0 {
				checkpoint = kvs[0].Value
			}
		default: // an attempt whose answer was lost, or a comparison of the caller's
			done = len(kvs) > 0 && string(kvs[0].Value) == next
		}
		return nil
	})
	if done {
		o.count++
		o.own[o.marker()] = next
	}
	return done, checkpoint, err
}

// value draws a value that nobody else writes.
func (o *others) value(rng *rand.Rand) string {
	return fmt.Sprintf("theirs %d %d", o.count, rng.Uint64())
}

// write changes a key that only they make.
func (o *others) write(ctx context.Context, rng *rand.Rand) (string, error) {
	key := o.dir + fmt.Sprintf("key-%d", rng.IntN(10))
	if rng.IntN(4) == 0 && o.own[key] != "" {
		done, _, err := o.commit(ctx, nil, clientv3.OpDelete(key))
		if done {
			delete(o.own, key)
		}
		return fmt.Sprintf("delete %q", key), err
	}
	value := o.value(rng)
	done, _, err := o.commit(ctx, nil, clientv3.OpPut(key, value))
	if done {
		o.own[key] = value
	}
	return fmt.Sprintf("put %q", key), err
}

// drift changes or deletes a key of the mirror.
func (o *others) drift(ctx context.Context, rng *rand.Rand) (string, error) {
	key := o.pick(rng, maps.Keys(o.target.recorder.At(o.target.recorder.Seen())))
	if key == "" {
		return "", nil
	}
	o.touched[key] = true
	there := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), ">", 0)}
	op, what := clientv3.OpPut(key, o.value(rng)), "change"
	if rng.IntN(2) == 0 {
		op, what = clientv3.OpDelete(key), "delete"
	}
	done, _, err := o.commit(ctx, there, op)
	if !done || err != nil {
		return "", err
	}
	if _, ok := o.squats[key]; ok {
		o.squats[key] = squat{since: -1} // what becomes of it is not known any more
	}
	return fmt.Sprintf("%s %q", what, key), nil
}

// squat makes a key that the source had and the target does not have.
func (o *others) squat(ctx context.Context, rng *rand.Rand, source *history.Recorder) (string, error) {
	there := o.target.recorder.At(o.target.recorder.Seen())
	var absent []string
	for _, rev := range source.Revisions() {
		for i := range rev.Events {
			if key, ok := o.plan.toTarget(rev.Events[i].Key); ok {
				if _, held := there[key]; !held {
					absent = append(absent, key)
				}
			}
		}
	}
	key := o.pick(rng, slices.Values(absent))
	if key == "" {
		return "", nil
	}
	o.touched[key] = true
	made := squat{value: o.value(rng), since: -1}
	done, checkpoint, err := o.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}, clientv3.OpPut(key, made.value))
	if !done || err != nil {
		return "", err
	}
	if c, err := decode(checkpoint); err == nil {
		made.since = c.SourceRevision
	}
	o.squats[key] = made
	return fmt.Sprintf("make %q", key), nil
}

// pick draws one of those keys that others may touch, in an order that does not depend on Go's maps; "" if there is none.
func (o *others) pick(rng *rand.Rand, all iter.Seq[string]) string {
	var keys []string
	for key := range all {
		if o.plan.inTargetSpace(key) && !strings.HasPrefix(key, o.dir) && o.theirs(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return keys[rng.IntN(len(keys))]
}

// revisions are the target revisions that others made.
func (o *others) revisions() map[int64]bool {
	revs := map[int64]bool{}
	for _, rev := range o.target.recorder.Revisions() {
		for i := range rev.Events {
			if rev.Events[i].Key == o.marker() {
				revs[rev.Rev] = true
			}
		}
	}
	return revs
}

// survivors are the keys that others made and that the mirror has to leave alone, with what they hold. either are those of which
// the schedule cannot know: the source had the key too in the meantime, and no longer has.
func (o *others) survivors(source *history.Recorder) (survivors map[string]string, either map[string]bool) {
	survivors, either = map[string]string{}, map[string]bool{}
	for key, value := range o.own {
		survivors[key] = value
	}
	last := map[string]history.Event{}
	for _, rev := range source.Revisions() {
		for _, e := range rev.Events {
			last[e.Key] = e
		}
	}
	for key, s := range o.squats {
		e := last[o.plan.toSource(key)]
		switch {
		case s.since < 0 && !o.plan.keep([]byte(e.Key)): // nobody but others touches it, and they did so again
			either[key] = true
		case !o.plan.keep([]byte(e.Key)):
			survivors[key] = s.value
		case !e.Delete: // the source's object takes the place
		case s.since >= 0 && e.Mod <= s.since:
			survivors[key] = s.value
		default:
			either[key] = true
		}
	}
	return survivors, either
}
