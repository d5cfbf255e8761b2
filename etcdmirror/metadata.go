package etcdmirror

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// MetadataPrefix is where mirrors keep their metadata at the target, outside of every Kubernetes prefix. It is never mirrored.
//
//	/understudy/<name>/checkpoint     what the target holds, in which epoch, written by whom; the fence of every write
//	/understudy/<name>/identity       what the checkpoint belongs to: source, prefixes, filter, transformation
//	/understudy/<name>/foreign/<key>  a key of the target's kept space that the target's own cluster made
//	/understudy/<name>/guarded/<key>  a key whose value was not written, with the reason
//	/understudy/<name>/drift/<key>    a mirrored key that others changed or deleted at the target
//	/understudy/<name>/own/<n>        a transaction of the mirror, mostly of a copy under way: its mod_revision is the mirror's own
//	/understudy/<name>/repaired/<n>   a transaction of drcheck's repair: its mod_revision counts as the mirror's own
//	/understudy/<name>/trip           the guard against mass deletion has stopped the mirror; approved by /understudy/<name>/approval
//	/understudy/<name>/lease/<id>     a lease granted for the source's
//	/understudy/<name>/election/<id>  a running instance; the oldest leads
//	/understudy/<name>/check          what comparisons of the two sides found last (see drcheck.CheckRecord); the mirror leaves it alone
//
// The folder .failover, which no mirror can be named after, holds copies of failover's journals; mirrors do not read it.
const MetadataPrefix = keyspace.MetadataPrefix

// Phase says how the target's kept state relates to the source.
type Phase string

const (
	// PhaseBase: the base copy has begun and not ended; the target equals no revision of the source.
	PhaseBase Phase = "base"
	// PhaseResync: a resync has begun and not ended; the target equals no revision of the source.
	PhaseResync Phase = "resync"
	// PhaseTail: the target's kept state equals the source's at Checkpoint.SourceRevision.
	PhaseTail Phase = "tail"
	// PhasePartial: as PhaseTail, but the next source revision exceeds the target's limits and is being applied in parts.
	PhasePartial Phase = "partial"
	// PhasePromoted: the target was promoted; Checkpoint.SourceRevision is the last one it got.
	PhasePromoted Phase = "promoted"
	// PhaseArmed: the target was promoted and then demoted; the next mirror begins anew.
	PhaseArmed Phase = "armed"
)

const recordVersion = 1

// Checkpoint is the record that commits together with the data.
type Checkpoint struct {
	Version int   `json:"v"`
	Epoch   int64 `json:"epoch"`
	Phase   Phase `json:"phase"`
	// SourceRevision is the source revision that the target's kept state equals in PhaseTail;
	// in PhaseBase and PhaseResync the one up to which it was known to be right before (0: none).
	SourceRevision int64 `json:"revision"`
	// Complete tells, once promoted, whether SourceRevision is exact, that is whether PhaseTail was left.
	Complete bool `json:"complete,omitempty"`
	// SourceHead is the highest source revision seen, at SourceHeadAt.
	SourceHead   int64     `json:"head"`
	SourceHeadAt time.Time `json:"headAt"`
	// At is when the record was written, by the clock of the mirror's host.
	At time.Time `json:"at"`
	// Writer and Seq tell one attempt to write from another.
	Writer string `json:"writer"`
	Seq    int64  `json:"seq"`
	// Bulk is set when the record's own transaction may hold several keys of one resource; LastBulk is the target revision of the last such transaction before it.
	Bulk     bool  `json:"bulk,omitempty"`
	LastBulk int64 `json:"lastBulk,omitempty"`
	// Watched is the target revision up to which all keys that the target's own cluster made, changed or deleted in the kept space are marked.
	// Own are the mirror's own target revisions after it, as differences from it; more may be told by the keys under own/. What else was made after it is the target's own.
	Watched int64   `json:"watched,omitempty"`
	Own     []int64 `json:"own,omitempty"`
	// Unlisted is set when more keys were changed or deleted at the target than are listed under drift/.
	Unlisted bool `json:"unlisted,omitempty"`
	// Unscanned is set when others may have deleted keys at the target while a copy ran, and the keys have not been compared since.
	Unscanned bool `json:"unscanned,omitempty"`
	// Keys is how many keys the mirror holds at the target.
	Keys int64 `json:"keys,omitempty"`
}

// Identity is what a checkpoint belongs to.
type Identity struct {
	Version         int       `json:"v"`
	SourceClusterID string    `json:"sourceClusterID"` // hexadecimal, as etcdctl prints it
	TargetClusterID string    `json:"targetClusterID"`
	SourcePrefix    string    `json:"sourcePrefix"`
	TargetPrefix    string    `json:"targetPrefix"`
	KeepID          string    `json:"keepID,omitempty"`
	TransformID     string    `json:"transformID,omitempty"`
	Leases          bool      `json:"leases,omitempty"` // leases are mirrored
	CreatedAt       time.Time `json:"createdAt"`
}

// Metadata is all that a target tells about one mirror.
type Metadata struct {
	Name       string
	Checkpoint Checkpoint
	Identity   Identity
	// CheckpointRevision is the target revision that wrote Checkpoint.
	CheckpointRevision int64
	// Foreign, Guarded and Drift list keys of the target, sorted.
	Foreign []string
	Guarded []GuardedInfo
	Drift   []DriftInfo
	// Trip is the guard against mass deletion that has stopped the mirror, nil if none has.
	Trip *Trip
	// Leases are those that the mirror granted at the target, under the source's IDs.
	Leases []int64
	// Replicas are the instances that run, by Config.Replica: the one that leads, then those that wait, the next one first.
	Replicas []string

	elected []int64 // create_revisions of the Replicas' keys
}

// replicasByAge sorts them.
type replicasByAge struct{ *Metadata }

func (r replicasByAge) Len() int           { return len(r.Replicas) }
func (r replicasByAge) Less(i, j int) bool { return r.elected[i] < r.elected[j] }
func (r replicasByAge) Swap(i, j int) {
	r.Replicas[i], r.Replicas[j] = r.Replicas[j], r.Replicas[i]
	r.elected[i], r.elected[j] = r.elected[j], r.elected[i]
}

// LastBulkRevision is the last target revision that may hold several keys of one resource, 0 if none does. A client of the target whose
// resourceVersion is older may have missed events if it was cut off within one, and should list again.
func (m *Metadata) LastBulkRevision() int64 {
	if m.Checkpoint.Bulk {
		return m.CheckpointRevision
	}
	return m.Checkpoint.LastBulk
}

// ReadMetadata reads what the target tells about the named mirror. It needs no source. ErrNoMirror if there is none.
func ReadMetadata(ctx context.Context, target *clientv3.Client, name string) (*Metadata, error) {
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	all, _, err := readMetadata(ctx, target, DefaultRequestTimeout, "target", metaKeys(name).dir())
	if err != nil {
		return nil, err
	}
	for _, md := range all {
		if md.Name == name && md.CheckpointRevision != 0 {
			return md, nil
		}
	}
	return nil, &Error{Kind: ErrNoMirror, Side: "target", Detail: fmt.Sprintf("nothing under %s", metaKeys(name).dir()),
		Hint: "check the name and that the endpoints are the target's"}
}

// ListMetadata reads the metadata of all mirrors at the target, by name.
func ListMetadata(ctx context.Context, target *clientv3.Client) ([]*Metadata, error) {
	all, _, err := readMetadata(ctx, target, DefaultRequestTimeout, "target", MetadataPrefix)
	return slices.DeleteFunc(all, func(md *Metadata) bool { return md.CheckpointRevision == 0 }), err
}

// metaKeys names the metadata of a mirror.
type metaKeys string

func (n metaKeys) dir() string        { return MetadataPrefix + string(n) + "/" }
func (n metaKeys) checkpoint() string { return n.dir() + "checkpoint" }
func (n metaKeys) identity() string   { return n.dir() + "identity" }
func (n metaKeys) foreign() string    { return n.dir() + "foreign/" }
func (n metaKeys) guarded() string    { return n.dir() + "guarded/" }
func (n metaKeys) drift() string      { return n.dir() + "drift/" }
func (n metaKeys) own() string        { return n.dir() + "own/" }
func (n metaKeys) repaired() string   { return n.dir() + "repaired/" }
func (n metaKeys) lease() string      { return n.dir() + "lease/" }
func (n metaKeys) trip() string       { return n.dir() + "trip" }
func (n metaKeys) approval() string   { return n.dir() + "approval" }
func (n metaKeys) election() string   { return n.dir() + "election/" }

// readMetadata reads all mirrors below dir, in pages so that any number of markers can be read, at one revision.
func readMetadata(ctx context.Context, c *clientv3.Client, timeout time.Duration, side, dir string) ([]*Metadata, *clientv3.GetResponse, error) {
	byName := map[string]*Metadata{}
	begin, end := dir, clientv3.GetPrefixRangeEnd(dir)
	if dir == MetadataPrefix {
		begin, end = keyspace.MirrorsRange()
	}
	var first *clientv3.GetResponse
	for {
		var rev int64
		if first != nil {
			rev = first.Header.Revision
		}
		resp, err := etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return c.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(1000), clientv3.WithRev(rev))
		})
		if err != nil {
			return nil, nil, unavailable(side, "reading "+dir, err)
		}
		if first == nil {
			first = resp
		}
		for _, kv := range resp.Kvs {
			if err := addMetadata(byName, side, kv); err != nil {
				return nil, nil, err
			}
		}
		if !resp.More {
			break
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	all := make([]*Metadata, 0, len(byName))
	for _, md := range byName {
		sort.Sort(replicasByAge{md})
		all = append(all, md)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, first, nil
}

func addMetadata(byName map[string]*Metadata, side string, kv *mvccpb.KeyValue) error {
	name, item, ok := strings.Cut(strings.TrimPrefix(string(kv.Key), MetadataPrefix), "/")
	if !ok {
		return nil // not a mirror's
	}
	md := byName[name]
	if md == nil {
		md = &Metadata{Name: name}
		byName[name] = md
	}
	kind, key, _ := strings.Cut(item, "/")
	switch kind {
	case "checkpoint":
		md.CheckpointRevision = kv.ModRevision
		return decodeRecord(side, kv, &md.Checkpoint, func() int { return md.Checkpoint.Version })
	case "identity":
		return decodeRecord(side, kv, &md.Identity, func() int { return md.Identity.Version })
	case "foreign":
		md.Foreign = append(md.Foreign, key)
	case "guarded":
		md.Guarded = append(md.Guarded, GuardedInfo{Key: key, Reason: string(kv.Value)})
	case "drift":
		md.Drift = append(md.Drift, DriftInfo{Key: key, Kind: DriftKind(kv.Value), TargetRevision: kv.ModRevision})
	case "trip":
		md.Trip = &Trip{}
		return decodeRecord(side, kv, md.Trip, func() int { return recordVersion })
	case "election":
		md.Replicas, md.elected = append(md.Replicas, string(kv.Value)), append(md.elected, kv.CreateRevision)
	case "lease":
		if id, err := strconv.ParseInt(key, 16, 64); err == nil {
			md.Leases = append(md.Leases, id)
		}
	}
	return nil
}

func decodeRecord(side string, kv *mvccpb.KeyValue, record any, version func() int) error {
	if err := json.Unmarshal(kv.Value, record); err != nil {
		return &Error{Kind: ErrMetadata, Side: side, Detail: fmt.Sprintf("%s is damaged", kv.Key),
			Hint: "delete everything under its folder to begin anew with a base copy", Cause: err}
	}
	if v := version(); v != recordVersion {
		return &Error{Kind: ErrMetadata, Side: side, Detail: fmt.Sprintf("%s has version %d, this program knows %d", kv.Key, v, recordVersion),
			Hint: "use the version of Understudy that wrote it, or a newer one"}
	}
	return nil
}

func encode(record any) []byte {
	data, err := json.Marshal(record)
	if err != nil {
		panic(err) // plain structs of strings and numbers
	}
	return data
}

// unavailable turns a failed call during the checks before the first write into an Error with a hint.
func unavailable(side, doing string, err error) error {
	if etcdrpc.Classify(err) == etcdrpc.Denied {
		return &Error{Kind: ErrPermission, Side: side, Detail: doing, Cause: err,
			Hint: "check user, password and client certificate; the source's user reads the prefix and " + MetadataPrefix + ", the target's reads and writes both"}
	}
	return &Error{Kind: ErrUnreachable, Side: side, Detail: doing, Cause: err,
		Hint: "check endpoints, network and TLS files, and that the cluster has a leader"}
}
