package etcdmirror

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/hook"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// change is one key's new state at the target.
type change struct {
	key   string // at the target
	end   string // a delete of all keys from key up to end, if not ""
	value []byte
	lease int64
	del   bool
	made  int64 // deletes the key only if this is its create_revision: what others have made in its place stays; 0: in any case
}

// opOverhead is what the encoding of one operation adds to its key and value, at most.
const opOverhead = 32

func (c change) size() int {
	size := len(c.key) + len(c.end) + len(c.value) + opOverhead
	if c.made != 0 {
		size += len(c.key) + opOverhead
	}
	return size
}

func (c change) op() *pb.RequestOp {
	if c.made != 0 {
		unconditional := change{key: c.key, del: true}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte(c.key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: c.made}}},
			Success: []*pb.RequestOp{unconditional.op()}}}}
	}
	if c.del {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(c.key), RangeEnd: []byte(c.end)}}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(c.key), Value: c.value, Lease: c.lease}}}
}

// target writes to the target etcd.
//
// Every transaction compares the checkpoint's mod_revision: a promotion, another instance of the mirror, or a later
// transaction of this one rewrites the checkpoint, and whatever was sent before can no longer commit, however late it arrives.
// And it compares the key by which this instance leads: one that was paused for longer than its session cannot write.
//
// commit writes the checkpoint too, so it is serial and happens once. send does not, so several may be under way;
// it may be repeated after an unknown outcome, and therefore no key may be sent twice between two commits.
type target struct {
	client  *clientv3.Client
	kv      pb.KVClient
	keys    metaKeys
	timeout time.Duration
	track   *tracker
	hooks   Hooks
	lead    *leadership
	id      string // of this term
	own     *ledger
	leases  *leases      // nil if leases are dropped
	sent    atomic.Int64 // numbers transactions between two checkpoints

	mod       atomic.Int64 // mod_revision of the checkpoint; 0: none exists
	record    Checkpoint   // the last one written; used by the goroutine that commits
	held      int64        // keys that the mirror holds at the target; used by the goroutine that commits
	unlisted  bool         // see Checkpoint, also for unscanned
	unscanned bool

	maxOps   atomic.Int64 // per level of a transaction; see pack
	maxBytes int          // of one request
}

// newTarget returns a writer for one term of leadership.
func (m *Mirror) newTarget(l *leadership) *target {
	var id [6]byte
	rand.Read(id[:])
	writer := hex.EncodeToString(id[:])
	t := &target{lead: l, id: writer, own: newLedger(), record: Checkpoint{Epoch: 1, Writer: writer}, client: m.target, kv: pb.NewKVClient(m.target.ActiveConnection()), keys: metaKeys(m.cfg.Name),
		timeout: m.cfg.RequestTimeout, track: m.track, hooks: m.cfg.Hooks, maxBytes: m.cfg.MaxRequestBytes}
	t.maxOps.Store(int64(m.cfg.MaxTxnOps))
	return t
}

// errTooLarge: a transaction cannot be made to fit by nesting; split it or wait.
var errTooLarge = errors.New("transaction exceeds the target's limits")

// apply commits one source revision (or several merged) and the checkpoint next that says so, in one transaction. Where the target's limits are too small for that,
// it does so in parts, of which the last has the checkpoint; a checkpoint before the first says that parts are under way.
func (t *target) apply(ctx context.Context, changes []change, next Checkpoint, note AppliedInfo) error {
	parts := t.cut(changes)
	if len(parts) == 1 {
		err := t.commit(ctx, changes, next, note)
		if !errors.Is(err, errTooLarge) {
			return err
		}
	}
	t.track.update(func(s *Status) { s.Splits++ })
	partial := t.within()
	if partial.Phase == PhaseTail {
		partial.Phase = PhasePartial
	}
	partNote := note
	partNote.Part, partNote.Bulk = true, true
	// The checkpoint before the parts says already that what others did is marked.
	if marks := t.marksOf(changes); len(marks) > 0 {
		if err := t.deliver(ctx, marks, AppliedInfo{Bulk: true}); err != nil {
			return err
		}
	}
	if err := t.commit(ctx, nil, partial, AppliedInfo{Bulk: true}); err != nil {
		return err
	}
	next.Bulk = true
	for i, part := range parts {
		record, info := partial, partNote
		if i == len(parts)-1 {
			record, info = next, note
		}
		err := t.commit(ctx, part, record, info)
		if errors.Is(err, errTooLarge) {
			if err = t.deliver(ctx, part, partNote); err == nil {
				_, err = t.learnOwn(ctx)
			}
			if err == nil && i == len(parts)-1 {
				err = t.commit(ctx, nil, record, info)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// marksOf returns the changes that mark keys. They may be written before the rest, and once more with it.
func (t *target) marksOf(changes []change) (marks []change) {
	for _, c := range changes {
		if !c.del && (strings.HasPrefix(c.key, t.keys.foreign()) || strings.HasPrefix(c.key, t.keys.drift())) {
			marks = append(marks, c)
		}
	}
	return marks
}

// cut divides changes, in order, into transactions that should fit together with a checkpoint. A single change is not divided.
func (t *target) cut(changes []change) [][]change {
	room, most := t.maxBytes-baseOverhead-checkpointBytes, t.capacity()
	var parts [][]change
	begin, size := 0, 0
	for i, c := range changes {
		if i > begin && (size+c.size() > room || i-begin >= most) {
			parts = append(parts, changes[begin:i])
			begin, size = i, 0
		}
		size += c.size()
	}
	return append(parts, changes[begin:])
}

// deliver sends changes between two checkpoints, in order, in as many transactions as the target's limits ask for. A single change that exceeds them waits for the limit to be raised.
func (t *target) deliver(ctx context.Context, changes []change, note AppliedInfo) error {
	for attempt := (etcdrpc.Backoff{}); ; {
		err := t.send(ctx, changes, note)
		if errors.Is(err, errTooLarge) && len(changes) == 1 && inKeptSpace(changes) {
			// Perhaps it fits without the key that says who wrote it. Then that is said before.
			if err = t.attempt(ctx, []change{t.ownKey(changes[0].key)}, false, note); err == nil {
				err = t.attempt(ctx, changes, false, note)
			}
		}
		switch {
		case !errors.Is(err, errTooLarge):
			return err
		case len(changes) > 1:
			half := len(changes) / 2
			if err := t.deliver(ctx, changes[:half], note); err != nil {
				return err
			}
			return t.deliver(ctx, changes[half:], note)
		}
		t.track.waiting(fmt.Sprintf("target: key %q with %d bytes exceeds its --max-request-bytes: raise it", changes[0].key, changes[0].size()))
		if err := t.pause(ctx, &attempt); err != nil {
			return err
		}
	}
}

// send commits changes that lie between two checkpoints, in one transaction that writes down whose it is. It returns errTooLarge where fewer or smaller changes could fit.
func (t *target) send(ctx context.Context, changes []change, note AppliedInfo) error {
	return t.attempt(ctx, changes, inKeptSpace(changes), note)
}

// attempt commits changes without a checkpoint. keyed makes each attempt write down its own revision: one whose answer was lost may have been committed, too.
func (t *target) attempt(ctx context.Context, changes []change, keyed bool, note AppliedInfo) error {
	began := time.Now()
	for attempt := (etcdrpc.Backoff{}); ; {
		sent := changes
		if keyed {
			sent = append(changes[:len(changes):len(changes)], t.ownKey(""))
		}
		resp, err := t.txn(ctx, sent, nil)
		switch {
		case err == nil && resp.Succeeded:
			// Those of a copy are told by the keys that they write. And metadata alone need not make a revision: then this one may be another's.
			if inKeptSpace(changes) && (note.Part || !keyed) {
				t.own.add(resp.Header.Revision, keyed)
			}
			t.noteApplied(resp.Header.Revision, changes, note, began)
			return nil
		case err == nil:
			return t.fenced(ctx)
		}
		if err := t.recover(ctx, &attempt, changes, err); err != nil {
			return err
		}
	}
}

// commit commits changes together with the checkpoint next, whose Epoch, Writer, Seq and times it fills in, and any further metadata.
func (t *target) commit(ctx context.Context, changes []change, next Checkpoint, note AppliedInfo) error {
	began := time.Now()
	next.Version, next.Epoch, next.Writer, next.Seq = recordVersion, t.record.Epoch, t.id, t.record.Seq+1
	next.At = began.UTC().Truncate(time.Millisecond)
	next.Keys, next.Unlisted, next.Unscanned = t.held, t.unlisted, t.unscanned
	t.own.stamp(&next)
	next.LastBulk = t.record.LastBulk
	if t.record.Bulk {
		next.LastBulk = t.mod.Load()
	}
	next.SourceHead, next.SourceHeadAt = t.record.SourceHead, t.record.SourceHeadAt
	if s := t.track.status(); s.SourceRevision >= next.SourceHead {
		next.SourceHead, next.SourceHeadAt = s.SourceRevision, s.SourceContact.UTC().Truncate(time.Millisecond)
	}
	keyed, cleared := t.own.full() && inKeptSpace(changes), false
	switch {
	case keyed:
		changes = append(changes[:len(changes):len(changes)], t.ownKey(""))
	case len(changes) < 16 && t.own.clearable():
		cleared = true
		changes = append(changes[:len(changes):len(changes)], t.clearOwn())
	}
	var repairs map[int64]string
	if room := min(t.capacity(), 17) - len(changes); room > 0 { // never the reason why it does not fit
		repairs = t.own.oldRepairs(min(room, 16))
		for _, key := range repairs {
			changes = append(changes[:len(changes):len(changes)], change{key: key, del: true})
		}
	}
	for attempt := (etcdrpc.Backoff{}); ; {
		resp, err := t.txn(ctx, changes, &next)
		rev := int64(0)
		switch {
		case err == nil && resp.Succeeded:
			rev = resp.Header.Revision
		case err == nil:
			// Either fenced, or an earlier attempt of this very transaction arrived after all.
			if rev, err = t.arrived(ctx, next); err == nil && rev == 0 {
				return t.fenced(ctx)
			}
		}
		if err == nil {
			t.mod.Store(rev)
			t.record = next
			t.own.add(rev, keyed)
			if keyed {
				t.own.noteKeyed(rev)
			} else if cleared {
				t.own.noteKeyed(0)
			}
			t.own.dropRepairs(repairs)
			t.noteApplied(rev, changes, note, began)
			if next.Phase == PhaseTail && !note.takeover { // a start tells its own story, see lead
				t.track.saved(next.SourceRevision)
			}
			return nil
		}
		if err := t.recover(ctx, &attempt, changes, err); err != nil {
			return err
		}
	}
}

// within is the checkpoint as it stands, to be written again with changes that do not move it.
func (t *target) within() Checkpoint {
	next := t.record
	next.Bulk = next.Phase != PhaseTail
	return next
}

func (t *target) noteApplied(rev int64, changes []change, note AppliedInfo, began time.Time) {
	note.TargetRevision, note.Duration = rev, time.Since(began)
	for _, c := range changes {
		switch {
		case keyspace.IsMetadata(c.key):
			continue
		case c.del:
			note.Deletes++
		default:
			note.Puts++
		}
		note.Bytes += len(c.key) + len(c.value)
	}
	t.track.working()
	t.track.update(func(s *Status) {
		s.TargetContact = time.Now()
		s.TargetRevision = max(s.TargetRevision, rev)
		s.Transactions++
		s.Puts += int64(note.Puts)
		s.Deletes += int64(note.Deletes)
		s.Bytes += int64(note.Bytes)
		if note.Bulk {
			s.LastBulkRevision = max(s.LastBulkRevision, rev)
		}
	})
	hook.Call(t.hooks.Applied, note)
}

// recover decides after a failed transaction: nil to try again (after a pause, with the reason shown), or an error to give up with.
func (t *target) recover(ctx context.Context, attempt *etcdrpc.Backoff, changes []change, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if isLeaseNotFound(err) && t.leases != nil {
		if err = t.renewLeases(ctx, changes); err == nil {
			return t.pause(ctx, attempt)
		}
	}
	if errors.Is(err, errTooLarge) {
		return err
	}
	switch etcdrpc.Classify(err) {
	case etcdrpc.TooManyOps:
		if n := t.maxOps.Load(); n > minTxnOps {
			t.maxOps.CompareAndSwap(n, max(n/2, minTxnOps))
			return nil // it is packed anew for the lower limit
		}
		t.track.waiting("target: --max-txn-ops is below " + fmt.Sprint(minTxnOps) + ": raise it")
	case etcdrpc.TooLarge:
		return errTooLarge
	case etcdrpc.NoSpace:
		t.track.waiting("target: " + noSpace)
	default:
		t.track.waiting("target: " + explain(err))
	}
	return t.pause(ctx, attempt)
}

// pause waits before the next attempt and then looks whether there is still something to attempt: a target that refuses a request for its size or for lack of space does so before it compares anything.
func (t *target) pause(ctx context.Context, attempt *etcdrpc.Backoff) error {
	if err := attempt.Wait(ctx); err != nil {
		return err
	}
	md, err := t.read(ctx)
	switch {
	case err != nil || md == nil && t.mod.Load() == 0:
		return nil
	case md == nil || md.Checkpoint.Writer != t.id || md.Checkpoint.Phase == PhasePromoted:
		return t.fenced(ctx)
	}
	return nil
}

// txn sends one transaction that compares the checkpoint and writes the changes, and the checkpoint next unless it is nil.
func (t *target) txn(ctx context.Context, changes []change, next *Checkpoint) (*pb.TxnResponse, error) {
	ops := make([]*pb.RequestOp, len(changes))
	for i, c := range changes {
		ops[i] = c.op()
	}
	limit := int(t.maxOps.Load())
	if next != nil {
		limit--
	}
	if slices.ContainsFunc(changes, func(c change) bool { return c.made != 0 }) {
		limit-- // such a delete is a level of its own, of one operation
	}
	ops = pack(ops, limit)
	if ops == nil && len(changes) > 0 {
		return nil, errTooLarge
	}
	if next != nil {
		ops = append(ops, change{key: t.keys.checkpoint(), value: encode(next)}.op())
	}
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Key: []byte(t.keys.checkpoint()), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: t.mod.Load()}},
			{Key: []byte(t.lead.key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: t.lead.create}},
		},
		Success: ops,
	}
	return etcdrpc.Do(ctx, t.timeout, func(ctx context.Context) (*pb.TxnResponse, error) {
		return t.kv.Txn(ctx, req, grpc.MaxCallSendMsgSize(math.MaxInt32), grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.WaitForReady(true))
	})
}
