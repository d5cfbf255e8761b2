package etcdmirror

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// Keys of the attributes of log records.
const (
	LogKeyMirror   = "mirror"
	LogKeyReason   = "reason"
	LogKeyRound    = "round"
	LogKeySince    = "since"
	LogKeyRevision = "sourceRevision"
	LogKeyEpoch    = "epoch"
	LogKeyError    = "error"
	LogKeyCount    = "count"
	LogKeyKey      = "key"
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

	keys                   mapping
	ranks, targetRanks     ranker
	sourceBegin, sourceEnd string
	sources, targets       *kvstream.Reader

	// Set when Run begins.
	sourceID, targetID uint64
	writer             *target
	stalls             int               // watches in a row that were ended for showing no sign of life
	foreign            map[string]bool   // target key
	guarded            map[string]string // target key -> reason
}

// New checks the configuration and returns a Mirror that has not contacted anything. The caller owns the clients and closes them after Run has returned.
func New(source, target *clientv3.Client, cfg Config) (*Mirror, error) {
	if source == nil || target == nil {
		return nil, &Error{Kind: ErrConfig, Detail: "source or target client is nil", Hint: "pass two clientv3 clients"}
	}
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	m := &Mirror{source: source, target: target, cfg: cfg, log: cfg.Logger.With(LogKeyMirror, cfg.Name), track: newTracker(cfg.Hooks),
		hurry: make(chan struct{}, 1), keys: mapping{source: cfg.Prefix, target: cfg.TargetPrefix},
		sources: &kvstream.Reader{Client: source, Timeout: cfg.RequestTimeout},
		targets: &kvstream.Reader{Client: target, Timeout: cfg.RequestTimeout},
	}
	m.ranks = m.ranker()
	m.targetRanks = m.ranks
	m.targetRanks.prefix = m.keys.target
	m.sourceBegin, m.sourceEnd = bounds(m.keys.source)
	return m, nil
}

// Status returns what the mirror knows, at any time.
func (m *Mirror) Status() Status { return m.track.status() }

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
// What may pass, such as an unreachable etcd, is waited for once Run has done its first checks; Status tells the reason. Run may be called once.
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
	md, err := m.preflight(ctx)
	if err != nil {
		return err
	}
	if md, err = m.takeOver(ctx, md); err != nil {
		return err
	}
	if err := m.restoreMarks(ctx); err != nil {
		return err
	}
	var w *watch
	reason := m.copyReason(md)
	if reason == "" {
		m.track.applied(md.Checkpoint.SourceRevision)
		m.track.saved(md.Checkpoint.SourceRevision)
		w = m.openWatch(ctx, md.Checkpoint.SourceRevision+1)
	}
	for {
		if w == nil {
			if w, err = m.copy(ctx, md, reason); err != nil {
				return err
			}
		}
		if err := m.follow(ctx, w); !isCompacted(err) {
			return err
		}
		// What comes next is gone at the source. The target still equals it at the checkpoint.
		if md, err = m.reread(ctx); err != nil {
			return err
		}
		w, reason = nil, fmt.Sprintf("the source compacted revision %d", m.writer.record.SourceRevision+1)
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
	}
	return ""
}

// takeOver makes this instance the only writer: it rewrites the checkpoint, which refuses whatever another instance still sends. It returns the metadata as it was just before.
func (m *Mirror) takeOver(ctx context.Context, md *Metadata) (*Metadata, error) {
	var id [6]byte
	rand.Read(id[:])
	m.writer = m.newTarget()
	m.writer.record = Checkpoint{Epoch: 1, Writer: hex.EncodeToString(id[:])}
	m.track.update(func(s *Status) { s.Epoch = 1 })
	if md == nil {
		return nil, nil // the first transaction creates the checkpoint, if nobody else has
	}
	m.writer.mod.Store(md.CheckpointRevision)
	if md.Checkpoint.Phase == PhaseArmed {
		m.writer.record.Epoch, m.writer.record.LastBulk = md.Checkpoint.Epoch, md.Checkpoint.LastBulk
		m.track.update(func(s *Status) { s.Epoch = md.Checkpoint.Epoch })
		return nil, nil // but for the epoch this is a first start, and its first transaction replaces the checkpoint
	}
	err := m.takeRecord(ctx, md)
	if fenced := (*FencedError)(nil); !errors.As(err, &fenced) || fenced.Promoted {
		return md, err
	}
	// Another instance is alive and was faster, perhaps a thousand times a second. Writing its record again unchanged stops it (see Promote).
	resp, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.PutResponse, error) {
		return m.target.Put(ctx, m.writer.keys.checkpoint(), "", clientv3.WithIgnoreValue(), clientv3.WithPrevKV())
	})
	if err != nil {
		return nil, unavailable("target", "taking over", err)
	}
	now := map[string]*Metadata{m.cfg.Name: {Name: m.cfg.Name, Identity: md.Identity, Foreign: md.Foreign, Guarded: md.Guarded}}
	if err := addMetadata(now, "target", resp.PrevKv); err != nil {
		return nil, err
	}
	md = now[m.cfg.Name]
	if md.Checkpoint.Phase == PhasePromoted {
		return nil, &FencedError{Name: m.cfg.Name, Epoch: m.writer.record.Epoch, Current: md.Checkpoint.Epoch, Promoted: true}
	}
	m.writer.mod.Store(resp.Header.Revision)
	return md, m.takeRecord(ctx, md)
}

// takeRecord replaces the record in md by the same in this instance's name.
func (m *Mirror) takeRecord(ctx context.Context, md *Metadata) error {
	next := md.Checkpoint
	m.writer.record.Epoch, m.writer.record.Bulk, m.writer.record.LastBulk = next.Epoch, false, md.LastBulkRevision()
	m.writer.record.SourceHead, m.writer.record.SourceHeadAt = next.SourceHead, next.SourceHeadAt
	next.Held, next.Bulk = md.heldRevision(), false
	m.track.update(func(s *Status) { s.Epoch, s.LastBulkRevision = next.Epoch, md.LastBulkRevision() })
	m.log.Info("continuing a mirror", LogKeyEpoch, next.Epoch, LogKeyRevision, next.SourceRevision)
	return m.writer.commit(ctx, nil, next, AppliedInfo{SourceRevision: next.SourceRevision})
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

// isFatal reports whether waiting cannot help.
func isFatal(err error) bool {
	for _, kind := range []error{ErrFenced, ErrSourceRewound, ErrSourceChanged, ErrSameCluster, ErrMetadata} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
