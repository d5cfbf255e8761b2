package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// PromoteOptions says what a promotion may accept.
type PromoteOptions struct {
	// AllowIncomplete promotes a target whose base copy or resync has not finished: it then equals no single revision of the source,
	// and keys may be missing or deleted at the source long ago.
	AllowIncomplete bool
}

// Promotion is what a promotion found and did.
type Promotion struct {
	Epoch int64 // that fences every mirror which wrote before
	// SourceRevision is the source revision that the target's kept state equals; if not Complete, the last one that it equalled before an unfinished copy (0: none).
	SourceRevision int64
	Complete       bool
	// SourceHead is the highest source revision that the mirror saw, at SourceHeadAt. Revisions up to it that are missing were lost for certain (though not all need to hold kept keys);
	// what the source did after SourceHeadAt the target cannot know.
	SourceHead   int64
	SourceHeadAt time.Time
	// CheckpointAt is when the mirror last saved its progress.
	CheckpointAt time.Time
	// TargetRevision is that of the promotion. LastBulkRevision: see Metadata.
	TargetRevision   int64
	LastBulkRevision int64
}

// MissingRevisions is how many revisions the mirror had seen but not applied.
func (p *Promotion) MissingRevisions() int64 { return max(p.SourceHead-p.SourceRevision, 0) }

// Promote raises the named mirror's fence at the target: from its return on, every transaction of a mirror that wrote before is refused, one already under way included,
// and no mirror starts against this target until Demote. It needs no source. It changes the mirror's metadata only.
//
// It returns ErrNoMirror, ErrIncomplete (see PromoteOptions) or ErrPromoted if the target was promoted before; then the Promotion tells of that one.
func Promote(ctx context.Context, target *clientv3.Client, name string, opts PromoteOptions) (*Promotion, error) {
	for attempt := (etcdrpc.Backoff{}); ; {
		md, err := ReadMetadata(ctx, target, name)
		if err != nil {
			return nil, err
		}
		if err := promotable(md, opts); err != nil {
			return promotionOf(md), err
		}
		// Writing the record again unchanged refuses whatever a running mirror still sends, so that what is read next is final.
		// A mirror whose last transaction arrived in that very moment may go on once; then the comparison below fails.
		if _, err := etcdrpc.Do(ctx, DefaultRequestTimeout, func(ctx context.Context) (*clientv3.PutResponse, error) {
			return target.Put(ctx, metaKeys(name).checkpoint(), "", clientv3.WithIgnoreValue())
		}); err != nil {
			return nil, unavailable("target", "raising the fence", err)
		}
		if md, err = ReadMetadata(ctx, target, name); err != nil {
			return nil, err
		}
		if err := promotable(md, opts); err != nil {
			return promotionOf(md), err
		}
		next := md.Checkpoint
		next.Epoch++
		next.Complete = md.Checkpoint.Phase == PhaseTail
		next.Phase = PhasePromoted
		next.Bulk, next.LastBulk = false, md.LastBulkRevision()
		rev, err := replaceCheckpoint(ctx, target, md, next)
		if err != nil {
			return nil, err
		}
		if rev != 0 {
			md.Checkpoint, md.CheckpointRevision = next, rev
			return promotionOf(md), nil
		}
		if err := attempt.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

func promotable(md *Metadata, opts PromoteOptions) error {
	switch md.Checkpoint.Phase {
	case PhasePromoted:
		return &Error{Kind: ErrPromoted, Side: "target", Detail: fmt.Sprintf("mirror %q was promoted in epoch %d", md.Name, md.Checkpoint.Epoch), Hint: "nothing is left to do"}
	case PhaseArmed:
		return &Error{Kind: ErrNoMirror, Side: "target", Detail: fmt.Sprintf("mirror %q was demoted and has not run since", md.Name), Hint: "nothing writes to the target"}
	case PhaseTail:
		return nil
	}
	if opts.AllowIncomplete {
		return nil
	}
	if md.Checkpoint.Phase == PhasePartial {
		return &Error{Kind: ErrIncomplete, Side: "target", Detail: fmt.Sprintf("mirror %q was interrupted between the parts of the transaction after source revision %d", md.Name, md.Checkpoint.SourceRevision),
			Hint: "let the mirror finish while the source lives; with a dead source, allow an incomplete copy: only that transaction's keys are in question"}
	}
	return &Error{Kind: ErrIncomplete, Side: "target", Detail: fmt.Sprintf("mirror %q was interrupted in phase %q, begun from source revision %d", md.Name, md.Checkpoint.Phase, md.Checkpoint.SourceRevision),
		Hint: "let the mirror finish while the source lives; with a dead source, allow an incomplete copy if that is better than nothing"}
}

func promotionOf(md *Metadata) *Promotion {
	c := md.Checkpoint
	return &Promotion{Epoch: c.Epoch, SourceRevision: c.SourceRevision, Complete: c.Complete, SourceHead: c.SourceHead, SourceHeadAt: c.SourceHeadAt,
		CheckpointAt: c.At, TargetRevision: md.CheckpointRevision, LastBulkRevision: md.LastBulkRevision()}
}

// Demote makes a promoted target a standby again: the next mirror of this name compares everything with its source, as a first start does,
// and keys that the target made as a primary are kept and reported as foreign unless Config.Surplus says otherwise. Whatever wrote before stays fenced.
func Demote(ctx context.Context, target *clientv3.Client, name string) error {
	md, err := ReadMetadata(ctx, target, name)
	if err != nil {
		return err
	}
	if md.Checkpoint.Phase != PhasePromoted {
		return &Error{Kind: ErrNotPromoted, Side: "target", Detail: fmt.Sprintf("mirror %q is in phase %q", name, md.Checkpoint.Phase), Hint: "nothing is to be demoted"}
	}
	keys := metaKeys(name)
	for _, marks := range []string{keys.foreign(), keys.guarded(), keys.drift(), keys.own(), keys.trip(), keys.approval()} {
		if _, err := etcdrpc.Do(ctx, DefaultRequestTimeout, func(ctx context.Context) (*clientv3.DeleteResponse, error) {
			return target.Delete(ctx, marks, clientv3.WithPrefix())
		}); err != nil {
			return unavailable("target", "removing marks", err)
		}
	}
	next := Checkpoint{Version: recordVersion, Epoch: md.Checkpoint.Epoch + 1, Phase: PhaseArmed, LastBulk: md.LastBulkRevision(), At: time.Now().UTC().Truncate(time.Millisecond)}
	rev, err := replaceCheckpoint(ctx, target, md, next)
	if err == nil && rev == 0 {
		err = &Error{Kind: ErrFenced, Side: "target", Detail: "the metadata changed meanwhile", Hint: "look at the mirror's status and try again"}
	}
	return err
}

// replaceCheckpoint writes next if the checkpoint is still the one in md; 0 means that it is not.
func replaceCheckpoint(ctx context.Context, target *clientv3.Client, md *Metadata, next Checkpoint) (revision int64, err error) {
	key := metaKeys(md.Name).checkpoint()
	resp, err := etcdrpc.Do(ctx, DefaultRequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return target.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", md.CheckpointRevision)).
			Then(clientv3.OpPut(key, string(encode(next)))).Commit()
	})
	switch {
	case err == nil && resp.Succeeded:
		return resp.Header.Revision, nil
	case err == nil:
		return 0, nil
	case errors.Is(err, etcdrpc.ErrTimeout):
		err = fmt.Errorf("%w; it is not known whether it was done: look at the mirror's status", err)
	}
	return 0, unavailable("target", "writing "+key, err)
}
