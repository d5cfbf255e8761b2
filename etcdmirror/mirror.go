package etcdmirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// Keys of the attributes of log records.
const (
	LogKeyMirror         = "mirror"
	LogKeyReason         = "reason"
	LogKeyRound          = "round"
	LogKeySince          = "since"
	LogKeyRevision       = "sourceRevision"
	LogKeyEpoch          = "epoch"
	LogKeyError          = "error"
	LogKeyCount          = "count"
	LogKeyKey            = "key"
	LogKeyReplica        = "replica"
	LogKeyDuration       = "duration"
	LogKeyTargetRevision = "targetRevision"
)

// Mirror copies the kept keys of a source etcd to a target etcd and follows the source. Make one with New and call Run once.
// Status, WaitForRevision and Run may be called concurrently.
type Mirror struct {
	source, target *clientv3.Client
	cfg            Config
	log            *slog.Logger
	track          *tracker
	ran            atomic.Bool
	hurry          chan struct{} // asks the watch for progress at once

	keys                   *keyspace.Space
	ranks, targetRanks     keyspace.Ranker
	sourceBegin, sourceEnd string
	sources, targets       *kvstream.Reader

	// Set when Run begins.
	sourceID, targetID uint64

	// Set when a term of leadership begins.
	writer *target
	pace   pace
	stalls int // watches in a row that were ended for showing no sign of life
	marks
	drift     *drift
	deletions *deletions
	trip      *Trip           // the guard against mass deletion waits, or waited when the last term ended
	leases    *leases         // nil if leases are dropped
	serial    chan serialWork // see inTail
}

// New checks the configuration and returns a Mirror that has not contacted anything. The caller owns the clients and closes them after Run has returned.
//
// Clients should be made with DialKeepAliveTime and DialKeepAliveTimeout, in sum below StallTimeout, so that a peer that vanished without a word is noticed,
// and with a bound for the pause between attempts to connect (gRPC's own grows to two minutes); examples/internal/connect has the values of the binaries.
func New(source, target *clientv3.Client, cfg Config) (*Mirror, error) {
	if source == nil || target == nil {
		return nil, &Error{Kind: ErrConfig, Detail: "source or target client is nil", Hint: "pass two clientv3 clients"}
	}
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	keys, _ := cfg.keys()
	m := &Mirror{source: source, target: target, cfg: cfg, log: cfg.Logger.With(LogKeyMirror, cfg.Name), track: newTracker(cfg.Hooks),
		hurry: make(chan struct{}, 1), keys: &keys,
		sources: &kvstream.Reader{Client: source, Timeout: cfg.RequestTimeout},
		targets: &kvstream.Reader{Client: target, Timeout: cfg.RequestTimeout},
	}
	m.ranks, m.targetRanks = keys.SourceRanks(), keys.TargetRanks()
	m.sourceBegin, m.sourceEnd = keyspace.Bounds(m.keys.Source)
	return m, nil
}

// Status returns what the mirror knows, at any time.
func (m *Mirror) Status() Status {
	s := m.track.status()
	s.Leases = m.track.leaseCount()
	return s
}

// WaitForRevision returns when the target's kept state equals the source's at revision rev or later and the checkpoint there says so: the drain of a planned switch.
// It returns ctx's error, or an error that matches ErrStopped once Run has returned. Take rev from the header of a read at the source after its last write.
func (m *Mirror) WaitForRevision(ctx context.Context, rev int64) error {
	return m.track.wait(ctx, func(s Status) bool { return s.SavedRevision >= rev }, m.askProgress)
}

// askProgress asks the source how far it is; the answer comes through the watch.
func (m *Mirror) askProgress() {
	select {
	case m.hurry <- struct{}{}:
	default:
	}
}

// Run mirrors until ctx ends, which returns nil, or until something makes it impossible, which returns an error (see the Err variables).
// What may pass, such as an unreachable etcd, is waited for once Run has done its first checks; Status tells the reason.
// While another instance of this mirror leads, Run waits to take over. Run may be called once.
func (m *Mirror) Run(ctx context.Context) error {
	if m.ran.Swap(true) {
		return &Error{Kind: ErrAlreadyRun, Hint: "make a new Mirror with New"}
	}
	err := m.run(ctx)
	if ctx.Err() != nil && !isFatal(err) {
		err = nil
	}
	reason := "context ended"
	if err != nil {
		reason = err.Error()
	}
	m.track.setState(StateStopped, reason)
	return err
}

func (m *Mirror) run(ctx context.Context) error {
	m.track.setState(StateStarting, "")
	// What is wrong for good is told at once, also by an instance that would have to wait for another.
	if _, err := m.preflight(ctx); err != nil {
		return err
	}
	for {
		l, err := m.campaign(ctx)
		if err != nil {
			return err
		}
		err = m.lead(ctx, l)
		l.resign()
		switch {
		case !errors.Is(err, errSuperseded):
			return err
		case ctx.Err() != nil: // then the session ends too
			return ctx.Err()
		}
		m.log.Warn("leadership lost", LogKeyReplica, m.cfg.Replica)
	}
}

// lead mirrors for one term of leadership.
func (m *Mirror) lead(ctx context.Context, l *leadership) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.session.Ctx(), func() { cancel(errSuperseded) })()
	defer func() {
		if errors.Is(context.Cause(ctx), errSuperseded) && !isFatal(err) {
			err = errSuperseded
		}
	}()
	md, err := m.takeOver(ctx, l)
	if err != nil {
		return err
	}
	if err := m.restoreMarks(ctx); err != nil {
		return err
	}
	stop, err := m.startLeases(ctx)
	if err != nil {
		return err
	}
	defer stop()
	m.deletions = &deletions{guard: m.cfg.Deletions}
	if md != nil && md.Trip != nil {
		m.deletions.note(time.Now(), md.Trip.Keys) // the window goes on
	}
	defer func() { m.drift.close() }()
	m.drift = m.newDrift()
	var w *sourceWatch
	reason := m.copyReason(md)
	if reason == "" {
		m.track.applied(md.Checkpoint.SourceRevision)
		m.track.saved(md.Checkpoint.SourceRevision)
		m.drift.begin(ctx)
		w = m.openWatch(ctx, md.Checkpoint.SourceRevision+1)
	}
	for {
		if w == nil {
			m.drift.close()
			if w, err = m.copy(ctx, md, reason); err != nil {
				return err
			}
			m.drift = m.newDrift()
			m.drift.begin(ctx)
		}
		err := m.follow(ctx, w)
		switch {
		case isCompacted(err):
			// What comes next is gone at the source. The target still equals it at the checkpoint.
			reason = fmt.Sprintf("the source compacted revision %d", m.writer.record.SourceRevision+1)
		case errors.Is(err, errUnlisted):
			reason = err.Error()
		default:
			return err
		}
		if err := m.saveTail(ctx, nil, m.writer.within(), AppliedInfo{}); err != nil { // what is noted of the target must not be lost
			return err
		}
		if md, err = m.reread(ctx); err != nil {
			return err
		}
		w = nil
	}
}

// copyReason says why the target cannot be brought up to date by the source's log alone; "" if it can.
func (m *Mirror) copyReason(md *Metadata) string {
	switch {
	case md == nil:
		return "no checkpoint at the target"
	case md.Checkpoint.Phase != PhaseTail && md.Checkpoint.Phase != PhasePartial:
		return "the last copy was interrupted"
	case m.filterChanged(md.Identity):
		return "filter or transformation changed"
	case m.comparesAll(md):
		return "policy for leases or drift changed"
	}
	return ""
}

// takeOver begins a term: it repeats the checks of the start, waiting where the first start fails, and puts the record in this term's name.
// It returns the metadata as it was just before. The terms before have ended: their transactions are refused.
func (m *Mirror) takeOver(ctx context.Context, l *leadership) (*Metadata, error) {
	m.writer = m.newTarget(l)
	for attempt := (etcdrpc.Backoff{}); ; {
		md, err := m.preflight(ctx)
		if err == nil {
			md, err = m.takeRecord(ctx, md)
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrPermission) {
			return md, err
		}
		m.track.waiting(err.Error())
		if err := attempt.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// takeRecord puts the record that preflight found in this term's name.
func (m *Mirror) takeRecord(ctx context.Context, md *Metadata) (*Metadata, error) {
	m.track.update(func(s *Status) { s.Epoch = 1 })
	if md == nil {
		return nil, nil // the first transaction creates the checkpoint
	}
	m.writer.mod.Store(md.CheckpointRevision)
	m.writer.record.LastBulk = md.LastBulkRevision()
	m.writer.record.Epoch = md.Checkpoint.Epoch
	m.track.update(func(s *Status) { s.Epoch, s.LastBulkRevision = md.Checkpoint.Epoch, md.LastBulkRevision() })
	if md.Checkpoint.Phase == PhaseArmed {
		return nil, nil // but for the epoch this is a first start, and its first transaction replaces the checkpoint
	}
	own, err := m.writer.readOwn(ctx)
	if err != nil {
		return nil, unavailable("target", "reading "+metaKeys(m.cfg.Name).own(), err)
	}
	m.writer.own.load(md, own)
	m.writer.record.SourceHead, m.writer.record.SourceHeadAt = md.Checkpoint.SourceHead, md.Checkpoint.SourceHeadAt
	m.writer.held, m.writer.unlisted, m.writer.unscanned = md.Checkpoint.Keys, md.Checkpoint.Unlisted, md.Checkpoint.Unscanned
	m.track.update(func(s *Status) { s.Keys, s.Unlisted = m.writer.held, m.writer.unlisted })
	next := md.Checkpoint
	next.Bulk = false
	m.log.Info("continuing a mirror", LogKeyEpoch, next.Epoch, LogKeyRevision, next.SourceRevision)
	return md, m.writer.commit(ctx, nil, next, AppliedInfo{SourceRevision: next.SourceRevision, takeover: true})
}

// reread reads this mirror's metadata again, and its marks. It waits for a target that does not answer.
func (m *Mirror) reread(ctx context.Context) (*Metadata, error) {
	for attempt := (etcdrpc.Backoff{}); ; {
		all, _, err := readMetadata(ctx, m.target, m.cfg.RequestTimeout, "target", metaKeys(m.cfg.Name).dir())
		switch {
		case err == nil && len(all) == 1 && all[0].CheckpointRevision == m.writer.mod.Load():
			m.loadMarks(all[0])
			return all[0], nil
		case err == nil:
			return nil, m.writer.fenced(ctx)
		case isFatal(err):
			return nil, err
		}
		m.track.waiting(err.Error())
		if err := attempt.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// restoreMarks goes back to the marks at the target after a transaction that was to change them failed.
func (m *Mirror) restoreMarks(ctx context.Context) error {
	if m.writer.mod.Load() == 0 {
		m.loadMarks(nil)
		return nil
	}
	_, err := m.reread(ctx)
	return err
}

// isFatal reports whether waiting cannot help, at least not in this term.
func isFatal(err error) bool {
	for _, kind := range []error{ErrFenced, ErrSourceRewound, ErrSourceChanged, ErrSameCluster, ErrMetadata, errSuperseded} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
