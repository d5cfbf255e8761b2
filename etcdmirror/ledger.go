package etcdmirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

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
	own     map[int64]struct{}
	keyed   int64 // the last revision that wrote a key of its own outside of a copy; 0: none since those were removed
}

// maxOwnListed bounds the revisions in a checkpoint.
const maxOwnListed = 64

func newLedger() *ledger { return &ledger{own: map[int64]struct{}{}} }

// load takes over what earlier terms wrote.
func (l *ledger) load(md *Metadata, keyed *ownKeys) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched = md.Checkpoint.Watched
	for rev := range keyed.revs {
		l.keyed = max(l.keyed, rev)
		if rev > l.watched { // older ones tell nothing any more, and would take the place of others in the next checkpoint
			l.own[rev] = struct{}{}
		}
	}
	for _, d := range md.Checkpoint.Own {
		l.own[l.watched+d] = struct{}{}
	}
	l.own[md.CheckpointRevision] = struct{}{}
}

func (l *ledger) add(rev int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rev > l.watched {
		l.own[rev] = struct{}{}
	}
}

func (l *ledger) has(rev int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.own[rev]
	return ok
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
	maps.DeleteFunc(l.own, func(own int64, _ struct{}) bool { return own <= rev })
}

// full reports whether further revisions do not fit into a checkpoint.
func (l *ledger) full() bool { return l.len() >= maxOwnListed }

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

// stamp writes what the ledger knows into a record.
func (l *ledger) stamp(c *Checkpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.Watched, c.Own = l.watched, nil
	if len(l.own) == 0 {
		return
	}
	revs := slices.Sorted(maps.Keys(l.own))
	for _, rev := range revs[:min(len(revs), maxOwnListed)] {
		c.Own = append(c.Own, rev-l.watched)
	}
}

// ownKeys are the mirror's own revisions and keys, as the transactions of a copy wrote them down.
type ownKeys struct {
	revs map[int64]struct{}
	keys map[string]struct{} // of changes too large for a transaction that says so
}

// readOwn reads what the transactions of copies wrote down since the last copy began.
func (t *target) readOwn(ctx context.Context) (*ownKeys, error) {
	own := &ownKeys{revs: map[int64]struct{}{}, keys: map[string]struct{}{}}
	dir := t.keys.own()
	end := clientv3.GetPrefixRangeEnd(dir)
	for begin := dir; ; {
		resp, err := etcdrpc.Do(ctx, t.timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return t.client.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(2000))
		})
		if err != nil {
			return nil, fmt.Errorf("target: reading %s: %w", dir, err)
		}
		for _, kv := range resp.Kvs {
			own.revs[kv.ModRevision] = struct{}{}
			if len(kv.Value) > 0 {
				own.keys[string(kv.Value)] = struct{}{}
			}
		}
		if !resp.More {
			return own, nil
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// learnOwn adds to the ledger what transactions between two checkpoints wrote down, also of attempts whose answer was lost.
func (t *target) learnOwn(ctx context.Context) error {
	for attempt := (etcdrpc.Backoff{}); ; {
		own, err := t.readOwn(ctx)
		if err == nil {
			for rev := range own.revs {
				t.own.add(rev)
				t.own.noteKeyed(rev)
			}
			return nil
		}
		t.track.waiting(explain(err))
		if err := t.pause(ctx, &attempt); err != nil {
			return err
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
