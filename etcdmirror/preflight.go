package etcdmirror

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// preflight checks both sides without writing anything and returns the mirror's metadata at the target, nil if this is a first start.
func (m *Mirror) preflight(ctx context.Context) (*Metadata, error) {
	// The target comes first: a checkpoint read later could be ahead of the source's revision read before it, as after a rewind.
	mirrors, targetResp, err := readMetadata(ctx, m.target, m.cfg.RequestTimeout, "target", MetadataPrefix)
	if err != nil {
		return nil, err
	}
	upstream, sourceResp, err := readMetadata(ctx, m.source, m.cfg.RequestTimeout, "source", MetadataPrefix)
	if err != nil {
		return nil, err
	}
	m.sourceID, m.targetID = sourceResp.Header.ClusterId, targetResp.Header.ClusterId
	if m.sourceID == m.targetID {
		return nil, &Error{Kind: ErrSameCluster, Detail: "both have cluster ID " + clusterID(m.sourceID),
			Hint: "check the endpoints of both sides; clusters made from one snapshot or one initial-cluster-token share an ID and need different ones"}
	}
	for _, md := range upstream {
		if md.Identity.SourceClusterID == clusterID(m.targetID) && (md.Checkpoint.Phase != PhasePromoted && md.Checkpoint.Phase != PhaseArmed) {
			return nil, &Error{Kind: ErrSwapped, Detail: fmt.Sprintf("the source is the target of mirror %q, whose source is this target", md.Name),
				Hint: "swap the endpoints, or promote the source first if the roles are to change"}
		}
	}
	for side, c := range map[string]struct {
		client *clientv3.Client
		prefix string
	}{"source": {m.source, m.keys.Source}, "target": {m.target, m.keys.Target}} {
		begin, end := keyspace.Bounds(c.prefix)
		_, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return c.client.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		})
		if err != nil {
			return nil, unavailable(side, fmt.Sprintf("reading keys with prefix %q", c.prefix), err)
		}
	}
	if err := m.checkWritable(ctx); err != nil {
		return nil, err
	}
	m.track.head(sourceResp.Header.Revision)
	var mine *Metadata
	for _, md := range mirrors {
		if md.Checkpoint.Phase == PhasePromoted {
			return nil, &Error{Kind: ErrPromoted, Side: "target", Detail: fmt.Sprintf("it was promoted in epoch %d of mirror %q", md.Checkpoint.Epoch, md.Name),
				Hint: "it may be serving as the primary: mirror in the other direction, or call Demote first to make it a standby again"}
		}
		if md.Name == m.cfg.Name && md.CheckpointRevision != 0 {
			mine = md
		}
	}
	if mine == nil || mine.Checkpoint.Phase == PhaseArmed {
		return mine, nil
	}
	return mine, m.checkIdentity(mine, sourceResp.Header.Revision)
}

// checkIdentity holds the checkpoint against what it is to be used with.
func (m *Mirror) checkIdentity(md *Metadata, sourceRevision int64) error {
	id := md.Identity
	if id.SourceClusterID != clusterID(m.sourceID) {
		return m.sourceChangedFrom(id.SourceClusterID, m.sourceID)
	}
	if id.SourcePrefix != m.keys.Source || id.TargetPrefix != m.keys.Target {
		return &Error{Kind: ErrPrefixChanged, Detail: fmt.Sprintf("mirror %q maps %q to %q, configured is %q to %q", m.cfg.Name, id.SourcePrefix, id.TargetPrefix, m.keys.Source, m.keys.Target),
			Hint: "set the prefixes back, or use another name for another mirror"}
	}
	if known := max(md.Checkpoint.SourceRevision, md.Checkpoint.SourceHead); known > sourceRevision {
		return sourceRewound(known, sourceRevision)
	}
	return nil
}

func (m *Mirror) filterChanged(id Identity) bool {
	return id.KeepID != m.cfg.KeepID || id.TransformID != m.transformID()
}

// comparesAll reports whether what is right about a key may have changed without the key.
func (m *Mirror) comparesAll(md *Metadata) bool {
	return m.filterChanged(md.Identity) || md.Identity.Leases != (m.cfg.Leases == LeaseMirror) || md.Checkpoint.Unlisted && m.cfg.Drift == DriftRepair
}

func (m *Mirror) transformID() string {
	if m.cfg.Transform == nil {
		return ""
	}
	return m.cfg.Transform.ID()
}

// identityRecord is the identity as configured now.
func (m *Mirror) identityRecord() change {
	return change{key: metaKeys(m.cfg.Name).identity(), value: encode(Identity{Version: recordVersion,
		SourceClusterID: clusterID(m.sourceID), TargetClusterID: clusterID(m.targetID),
		SourcePrefix: m.keys.Source, TargetPrefix: m.keys.Target,
		KeepID: m.cfg.KeepID, TransformID: m.transformID(), Leases: m.cfg.Leases == LeaseMirror, CreatedAt: time.Now().UTC().Truncate(time.Second)})}
}

// checkWritable asks the target whether its user may write, by a transaction that cannot succeed: permissions of both branches are checked before any comparison.
func (m *Mirror) checkWritable(ctx context.Context) error {
	begin, _ := keyspace.Bounds(m.keys.Target)
	probes := []string{metaKeys(m.cfg.Name).checkpoint(), begin + "understudy-permission-probe"}
	for _, key := range probes {
		_, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return m.target.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", math.MaxInt64)).Then(clientv3.OpPut(key, "")).Commit()
		})
		if err != nil && etcdrpc.Classify(err) != etcdrpc.NoSpace { // for space it waits later, with a reason
			return unavailable("target", fmt.Sprintf("writing keys like %q", key), err)
		}
	}
	return nil
}

// trustProgress reports whether every member of a cluster that answers is known to send progress notifications in order with events. It asks until one answers.
// Servers before 3.4.25 and 3.5.8 may send one ahead of events that it covers (etcd#15220); there it serves as a sign of life only, and progress is known from events alone.
func (m *Mirror) trustProgress(ctx context.Context, client *clientv3.Client, side string) bool {
	for attempt := (etcdrpc.Backoff{}); ; {
		trusted := false
		for _, endpoint := range client.Endpoints() {
			status, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.StatusResponse, error) {
				return client.Status(ctx, endpoint)
			})
			if err != nil {
				continue
			}
			if !orderedProgress(status.Version) {
				m.log.Warn("a "+side+" member's progress notifications cannot be trusted; upgrade it", LogKeyReason, "version "+status.Version)
				return false
			}
			trusted = true
		}
		// A stream that is opened while nobody answers may come about later: what nobody has said yet must be asked again.
		if trusted || attempt.Wait(ctx) != nil {
			return trusted
		}
	}
}

func orderedProgress(version string) bool {
	var v [3]int
	for i, part := range strings.SplitN(strings.SplitN(version, "-", 2)[0], ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		v[i] = n
	}
	switch {
	case v[0] != 3:
		return v[0] > 3
	case v[1] == 4:
		return v[2] >= 25
	case v[1] == 5:
		return v[2] >= 8
	}
	return v[1] > 5
}

func (m *Mirror) sourceHead(ctx context.Context) (int64, error) {
	id, rev, err := etcdrpc.Head(ctx, m.source, m.cfg.RequestTimeout, m.sourceBegin)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	if id != m.sourceID {
		return 0, m.sourceChanged(id)
	}
	m.track.head(rev)
	return rev, nil
}

func (m *Mirror) targetHead(ctx context.Context) (int64, error) {
	begin, _ := keyspace.Bounds(m.keys.Target)
	_, rev, err := etcdrpc.Head(ctx, m.target, m.cfg.RequestTimeout, begin)
	if err != nil {
		return 0, fmt.Errorf("target: %w", err)
	}
	m.track.update(func(s *Status) { s.TargetContact = time.Now() })
	return rev, nil
}

// clusterID is a cluster's ID as etcdctl prints it.
func clusterID(id uint64) string { return strconv.FormatUint(id, 16) }

func (m *Mirror) sourceChanged(found uint64) error {
	return m.sourceChangedFrom(clusterID(m.sourceID), found)
}

func (m *Mirror) sourceChangedFrom(recorded string, found uint64) error {
	return &Error{Kind: ErrSourceChanged, Side: "source", Detail: fmt.Sprintf("mirror %q belongs to cluster %s, the source is cluster %s", m.cfg.Name, recorded, clusterID(found)),
		Hint: "check the source's endpoints; if the source was rebuilt on purpose, start a mirror with another name"}
}

func sourceRewound(known, head int64) error {
	return &Error{Kind: ErrSourceRewound, Side: "source", Detail: fmt.Sprintf("its revision is %d, but revision %d was seen before", head, known),
		Hint: "the source was restored from a backup, so the standby holds newer data: decide which side is right; to follow the restored source, start a mirror with another name"}
}
