package etcdmirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// ledger knows which target revisions are the mirror's own, after the one up to which everything that others did is marked.
// A key of the target's kept space that the source lacks is the target's own if it was made after that revision, and not in one of these.
//
// The oldest ones are part of each checkpoint, so that the next term knows them; transactions that come when there are more, and those of a copy,
// of which several are under way without a checkpoint, each write a key of their own instead, which tells their revisions whatever becomes of the mirror.
type ledger struct {
	mu      sync.Mutex
	watched int64
	own     map[int64]bool // true: a key under own/ tells it
	loose   int            // those that none tells
	keyed   int64          // the last revision that wrote a key of its own outside of a copy; 0: none since those were removed
	// repairs has the revisions that drcheck's repairs wrote down, and their keys under repaired/. They need no place in the checkpoint.
	repairs map[int64]string
}

// maxOwnListed bounds the revisions in a checkpoint.
const maxOwnListed = 64

func newLedger() *ledger { return &ledger{own: map[int64]bool{}, repairs: map[int64]string{}} }

// load takes over what earlier terms wrote.
func (l *ledger) load(md *Metadata, keyed *ownKeys) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched = md.Checkpoint.Watched
	for _, d := range md.Checkpoint.Own {
		l.put(l.watched+d, false)
	}
	l.put(md.CheckpointRevision, false)
	for rev := range keyed.revs {
		l.keyed = max(l.keyed, rev)
		if rev > l.watched { // older ones tell nothing any more
			l.put(rev, true)
		}
	}
}

// add notes an own revision; keyed says that a key under own/ tells it.
func (l *ledger) add(rev int64, keyed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rev > l.watched {
		l.put(rev, keyed)
	}
}

func (l *ledger) put(rev int64, keyed bool) {
	if before, ok := l.own[rev]; ok && !before {
		l.loose--
	}
	if l.own[rev] = keyed; !keyed {
		l.loose++
	}
}

func (l *ledger) has(rev int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, own := l.own[rev]
	return own || l.repairs[rev] != ""
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.own)
}

// position is the revision up to which everything is marked.
func (l *ledger) position() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watched
}

// move notes that everything up to rev is marked.
func (l *ledger) move(rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rev <= l.watched {
		return
	}
	l.watched = rev
	maps.DeleteFunc(l.own, func(own int64, keyed bool) bool {
		if own <= rev && !keyed {
			l.loose--
		}
		return own <= rev
	})
}

// full reports whether further revisions do not fit into a checkpoint.
func (l *ledger) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loose >= maxOwnListed
}

// clearable reports whether the keys written because it was full tell nothing any more.
func (l *ledger) clearable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keyed > 0 && l.watched >= l.keyed
}

// noteKeyed notes a revision that wrote a key of its own; 0: all are removed.
func (l *ledger) noteKeyed(rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rev == 0 || rev > l.keyed {
		l.keyed = rev
	}
}

// noteRepair notes what a repair wrote down. Its revision is as good as the mirror's own.
func (l *ledger) noteRepair(key string, rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repairs[rev] = key
}

// repaired reports whether a revision is a repair's.
func (l *ledger) repaired(rev int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.repairs[rev] != ""
}

// oldRepairs returns keys under repaired/ that tell nothing any more, by revision: at most so many.
func (l *ledger) oldRepairs(most int) map[int64]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := map[int64]string{}
	for rev, key := range l.repairs {
		if rev <= l.watched && len(old) < most {
			old[rev] = key
		}
	}
	return old
}

// dropRepairs notes that keys under repaired/ are removed.
func (l *ledger) dropRepairs(old map[int64]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rev := range old {
		delete(l.repairs, rev)
	}
}

// stamp writes what the ledger knows into a record.
func (l *ledger) stamp(c *Checkpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.Watched, c.Own = l.watched, nil
	var revs []int64
	for rev, keyed := range l.own {
		if !keyed {
			revs = append(revs, rev)
		}
	}
	slices.Sort(revs)
	for _, rev := range revs[:min(len(revs), maxOwnListed)] {
		c.Own = append(c.Own, rev-l.watched)
	}
}

// ownKeys are the mirror's own revisions and keys, as the transactions of a copy wrote them down.
type ownKeys struct {
	revs map[int64]struct{}
	keys map[string]struct{} // of changes too large for a transaction that says so
	at   int64               // the target revision at which repairs were read
}

// readOwn reads what transactions of the mirror wrote down, those of copies since the last one began, and what repairs did.
func (t *target) readOwn(ctx context.Context) (*ownKeys, error) {
	own := &ownKeys{revs: map[int64]struct{}{}, keys: map[string]struct{}{}}
	_, err := t.eachKey(ctx, t.keys.own(), func(kv *mvccpb.KeyValue) {
		own.revs[kv.ModRevision] = struct{}{}
		if len(kv.Value) > 0 {
			own.keys[string(kv.Value)] = struct{}{}
		}
	})
	if err != nil {
		return nil, err
	}
	own.at, err = t.eachKey(ctx, t.keys.repaired(), func(kv *mvccpb.KeyValue) { t.own.noteRepair(string(kv.Key), kv.ModRevision) })
	return own, err
}

// eachKey reads a folder of the metadata, and returns the target's revision when that began.
func (t *target) eachKey(ctx context.Context, dir string, use func(kv *mvccpb.KeyValue)) (at int64, err error) {
	end := clientv3.GetPrefixRangeEnd(dir)
	for begin := dir; ; {
		resp, err := etcdrpc.Do(ctx, t.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return t.client.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(2000))
		})
		if err != nil {
			return 0, fmt.Errorf("target: reading %s: %w", dir, err)
		}
		if at == 0 {
			at = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			use(kv)
		}
		if !resp.More {
			return at, nil
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// learnOwn adds to the ledger what transactions between two checkpoints wrote down, also of attempts whose answer was lost, and what repairs did.
// It returns the target revision up to which that is complete.
func (t *target) learnOwn(ctx context.Context) (at int64, err error) {
	for attempt := (etcdrpc.Backoff{}); ; {
		own, err := t.readOwn(ctx)
		if err == nil {
			for rev := range own.revs {
				t.own.add(rev, true)
				t.own.noteKeyed(rev)
			}
			return own.at, nil
		}
		t.track.waiting(explain(err))
		if err := t.pause(ctx, &attempt); err != nil {
			return 0, err
		}
	}
}

// made reports whether the mirror made or changed a key at a revision of the target.
func (t *target) made(own *ownKeys, key string, rev int64) bool {
	if _, ok := own.revs[rev]; ok {
		return true
	}
	if _, ok := own.keys[key]; ok {
		return true
	}
	return t.own.has(rev)
}

// ownKey is the change by which a transaction between two checkpoints writes down its revision. value names a key that is about to be sent without it.
func (t *target) ownKey(value string) change {
	return change{key: fmt.Sprintf("%s%s-%d", t.keys.own(), t.id, t.sent.Add(1)), value: []byte(value)}
}

// clearOwn removes what copies wrote down.
func (t *target) clearOwn() change {
	dir := t.keys.own()
	return change{key: dir, end: clientv3.GetPrefixRangeEnd(dir), del: true}
}

// inKeptSpace reports whether changes are more than metadata.
func inKeptSpace(changes []change) bool {
	return slices.ContainsFunc(changes, func(c change) bool { return !strings.HasPrefix(c.key, MetadataPrefix) })
}
