package drcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// metadataVersion is the version of the mirror's records that this package knows, and of CheckRecord.
const metadataVersion = 1

// Phases of a checkpoint; see MirrorState.Phase and etcdmirror.Phase.
const (
	phaseBase     = "base"
	phaseResync   = "resync"
	phaseTail     = "tail"
	phasePartial  = "partial"
	phasePromoted = "promoted"
	phaseArmed    = "armed"
)

// mirrorView is what a target tells of one mirror, as far as checks need it. The keys are described at etcdmirror.MetadataPrefix.
type mirrorView struct {
	MirrorState
	mirrorDetail
	mirrorIdentity

	checkpointRevision int64 // the target revision that wrote the checkpoint
	checkpointCreated  int64 // the one that made its key: another life of the mirror has another
	identityRevision   int64 // the one that wrote the identity: a first copy does when it begins, every copy when it ends

	// Keys of the target, by what the mirror noted of them.
	foreign map[string]bool
	guarded map[string]string // with the guard's reason
	drifted map[string]string // with what others did: changed, deleted, replaced or fought
	tripped bool              // the guard against mass deletion has stopped the mirror

	lastCheck    *CheckRecord // nil: none
	checkUnknown error        // why the record of checks cannot be read
}

// mirrorDetail is what a checkpoint has beside MirrorState.
type mirrorDetail struct {
	complete  bool // once promoted: AppliedRevision was exact
	unlisted  bool // more keys have drifted than are listed
	unscanned bool // what others deleted while a copy ran has not been looked for
	keys      int64
}

// mirrorIdentity is what a mirror belongs to.
type mirrorIdentity struct {
	sourceID, targetID         string // hexadecimal
	sourcePrefix, targetPrefix string
	keepID, transformID        string
	leases                     bool // leases are mirrored
}

// exact reports whether the target's kept state equals the source's at AppliedRevision, but for marked keys and, in phase partial, a part of the revision after it.
func (v *mirrorView) exact() bool {
	return v.Phase == phaseTail || v.Phase == phasePartial || v.Phase == phasePromoted && v.complete
}

// metadataDir is where a mirror keeps its metadata.
func metadataDir(name string) string { return keyspace.MetadataPrefix + name + "/" }

// validateName checks a mirror's name, by the rule of etcdmirror.ValidateName.
func validateName(name string) error {
	if keyspace.ValidName(name) {
		return nil
	}
	return &Error{Kind: ErrConfig, Detail: fmt.Sprintf("Name %q is no mirror name", name),
		Hint: "use the mirror's name: 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"}
}

const (
	// metadataPage is how many keys of the metadata one request reads.
	metadataPage = 1000
	// metadataTries is how often the metadata is read from its beginning because the target compacted the revision it was read at.
	metadataTries = 3
)

// readMirror reads what the target tells of a mirror, at one revision.
func readMirror(ctx context.Context, client *clientv3.Client, timeout time.Duration, name string) (*mirrorView, error) {
	for try := 1; ; try++ {
		v, err := readPages(ctx, client, timeout, name)
		if err == nil || etcdrpc.Classify(err) != etcdrpc.Compacted || try == metadataTries {
			return v, err
		}
	}
}

func readPages(ctx context.Context, client *clientv3.Client, timeout time.Duration, name string) (*mirrorView, error) {
	v, dir := newView(name), metadataDir(name)
	begin, end, rev := dir, clientv3.GetPrefixRangeEnd(dir), int64(0)
	for {
		resp, err := etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return client.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(metadataPage), clientv3.WithRev(rev))
		})
		if err != nil {
			return nil, unavailable("target", "reading "+dir, err)
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if err := v.add(kv); err != nil {
				return nil, err
			}
		}
		if !resp.More {
			return v, v.whole()
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// readCheckpoint reads a mirror's checkpoint alone, as it was at a revision of the target; 0: as it is. The view has no identity and no marks.
func readCheckpoint(ctx context.Context, client *clientv3.Client, timeout time.Duration, name string, rev int64) (*mirrorView, error) {
	v, key := newView(name), metadataDir(name)+"checkpoint"
	resp, err := etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return client.Get(ctx, key, clientv3.WithRev(rev))
	})
	switch {
	case err != nil:
		return nil, unavailable("target", "reading "+key, err)
	case len(resp.Kvs) == 0:
		return nil, noMirror(name)
	}
	return v, v.add(resp.Kvs[0])
}

func newView(name string) *mirrorView {
	return &mirrorView{MirrorState: MirrorState{Name: name}, foreign: map[string]bool{}, guarded: map[string]string{}, drifted: map[string]string{}}
}

// add takes in one key of the mirror's metadata.
func (v *mirrorView) add(kv *mvccpb.KeyValue) error {
	kind, key, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), metadataDir(v.Name)), "/")
	switch kind {
	case "checkpoint":
		v.checkpointRevision, v.checkpointCreated = kv.ModRevision, kv.CreateRevision
		return decodeInto(kv, &v.MirrorState, &v.mirrorDetail)
	case "identity":
		v.identityRevision = kv.ModRevision
		return v.mirrorIdentity.decode(kv)
	case "check":
		var record CheckRecord
		if err := decodeRecord(kv, &record, func() int { return record.Version }); err != nil {
			v.checkUnknown = err // what the mirror says can be read all the same
			return nil
		}
		v.lastCheck = &record
	case "foreign":
		v.foreign[key] = true
	case "guarded":
		v.guarded[key] = string(kv.Value)
	case "drift":
		v.drifted[key] = string(kv.Value)
	case "trip":
		v.tripped = true
	}
	return nil
}

// whole reports what is missing.
func (v *mirrorView) whole() error {
	switch {
	case v.checkpointRevision == 0:
		return noMirror(v.Name)
	case v.identityRevision == 0:
		return &Error{Kind: ErrMetadata, Side: "target", Detail: fmt.Sprintf("%sidentity is missing beside the checkpoint", metadataDir(v.Name)),
			Hint: "delete everything under its folder to begin anew with a base copy"}
	}
	return nil
}

// decodeCheckpoint reads the record under a checkpoint's key.
func decodeCheckpoint(kv *mvccpb.KeyValue) (MirrorState, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), keyspace.MetadataPrefix), "/")
	state := MirrorState{Name: name}
	err := decodeInto(kv, &state, &mirrorDetail{})
	return state, err
}

func decodeInto(kv *mvccpb.KeyValue, state *MirrorState, detail *mirrorDetail) error {
	var record struct {
		Version   int       `json:"v"`
		Epoch     int64     `json:"epoch"`
		Phase     string    `json:"phase"`
		Revision  int64     `json:"revision"`
		Complete  bool      `json:"complete"`
		Head      int64     `json:"head"`
		HeadAt    time.Time `json:"headAt"`
		At        time.Time `json:"at"`
		Unlisted  bool      `json:"unlisted"`
		Unscanned bool      `json:"unscanned"`
		Keys      int64     `json:"keys"`
	}
	if err := decodeRecord(kv, &record, func() int { return record.Version }); err != nil {
		return err
	}
	*state = MirrorState{Name: state.Name, Epoch: record.Epoch, Phase: record.Phase,
		AppliedRevision: record.Revision, AppliedAt: record.At, SourceHead: record.Head, SourceHeadAt: record.HeadAt}
	*detail = mirrorDetail{complete: record.Complete, unlisted: record.Unlisted, unscanned: record.Unscanned, keys: record.Keys}
	return nil
}

func (id *mirrorIdentity) decode(kv *mvccpb.KeyValue) error {
	var record struct {
		Version         int    `json:"v"`
		SourceClusterID string `json:"sourceClusterID"`
		TargetClusterID string `json:"targetClusterID"`
		SourcePrefix    string `json:"sourcePrefix"`
		TargetPrefix    string `json:"targetPrefix"`
		KeepID          string `json:"keepID"`
		TransformID     string `json:"transformID"`
		Leases          bool   `json:"leases"`
	}
	if err := decodeRecord(kv, &record, func() int { return record.Version }); err != nil {
		return err
	}
	*id = mirrorIdentity{sourceID: record.SourceClusterID, targetID: record.TargetClusterID, sourcePrefix: record.SourcePrefix,
		targetPrefix: record.TargetPrefix, keepID: record.KeepID, transformID: record.TransformID, leases: record.Leases}
	return nil
}

// decodeRecord refuses what this version cannot read. A decoder's own error might quote what it found, so it is left out.
func decodeRecord(kv *mvccpb.KeyValue, record any, version func() int) error {
	if err := json.Unmarshal(kv.Value, record); err != nil {
		return &Error{Kind: ErrMetadata, Side: "target", Detail: fmt.Sprintf("%s is damaged: it is no record in JSON", kv.Key),
			Hint: "delete the key if it is the record of checks; else delete everything under its folder, so that the mirror begins anew with a base copy"}
	}
	if v := version(); v != metadataVersion {
		return &Error{Kind: ErrMetadata, Side: "target", Detail: fmt.Sprintf("%s has version %d, this program knows %d", kv.Key, v, metadataVersion),
			Hint: "use the version of Understudy that wrote it, or a newer one"}
	}
	return nil
}

// matches reports whether a check with these settings is about what the mirror does. The target's cluster ID is not compared, as no mirror does:
// one that was restored from a backup may have another and be followed on.
func (v *mirrorView) matches(sourceID, _, sourcePrefix, targetPrefix, keepID, transformID string) error {
	if v.Phase == phaseArmed {
		return nil // what the next mirror will be is not known
	}
	for _, f := range []struct{ field, mirror, check, hint string }{
		{"source cluster ID", v.sourceID, sourceID, "check the source's endpoints and Name; a primary that was rebuilt has another mirror, with another name"},
		{"Prefix", v.sourcePrefix, sourcePrefix, "set Prefix or AllKeys as for the mirror"},
		{"TargetPrefix", v.targetPrefix, targetPrefix, "set TargetPrefix or StripPrefix as for the mirror"},
		{"KeepID (the filter's hash)", v.keepID, keepID, "use the mirror's filter; where that has been changed, the mirror records the new one when its resync is done"},
		{"transformation's ID", v.transformID, transformID, "use the mirror's Transform; where that has been changed, the mirror records the new one when its resync is done"},
	} {
		if f.mirror != f.check {
			return &Error{Kind: ErrOtherMirror, Side: "target", Detail: fmt.Sprintf("the %s of mirror %q is %q, the check's is %q", f.field, v.Name, f.mirror, f.check), Hint: f.hint}
		}
	}
	return nil
}

func noMirror(name string) error {
	return &Error{Kind: ErrNoMirror, Side: "target", Detail: fmt.Sprintf("nothing of a mirror under %s", metadataDir(name)),
		Hint: "check the name and that the endpoints are the target's"}
}

// unavailable turns a failed call into an Error with a hint.
func unavailable(side, doing string, err error) error {
	if etcdrpc.Classify(err) == etcdrpc.Denied {
		return &Error{Kind: ErrPermission, Side: side, Detail: doing, Cause: err,
			Hint: "check user, password and client certificate; the checker's user reads the prefix on both sides and " + keyspace.MetadataPrefix + " at the target, where it also writes check below the mirror's folder"}
	}
	return &Error{Kind: ErrUnreachable, Side: side, Detail: doing, Cause: err,
		Hint: "check endpoints, network and TLS files, and that the cluster has a leader"}
}

// emptyRecord is a record of checks of this mirror.
func (v *mirrorView) emptyRecord() CheckRecord {
	r := CheckRecord{Version: metadataVersion, SourceClusterID: v.sourceID, Epoch: v.Epoch, CheckpointCreated: v.checkpointCreated, KeepID: v.keepID, TransformID: v.transformID}
	if v.Phase == phasePromoted {
		r.Epoch-- // the promotion raised it; until then the checks were about what it left
	}
	return r
}

// checks returns the record of checks if it is about this mirror, else an empty one.
func (v *mirrorView) checks() CheckRecord {
	empty := v.emptyRecord()
	if v.lastCheck == nil {
		return empty
	}
	bare := *v.lastCheck
	bare.LastEqual, bare.LastEqualKeys, bare.LastDiffers = nil, nil, nil
	if bare != empty {
		return empty
	}
	return *v.lastCheck
}

// writeCheck records the outcome of a check at the target, unless a newer one of its kind is there.
//
// It writes only where the mirror is still the one that was checked, and not promoted. That is compared in the transaction that writes: by the mirror's epoch, which a promotion raises,
// not by the checkpoint's revision, which a busy mirror changes too often.
func writeCheck(ctx context.Context, client *clientv3.Client, timeout time.Duration, name string, result *Result) error {
	dir := metadataDir(name)
	for attempt := (etcdrpc.Backoff{}); ; {
		resp, err := etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return client.Txn(ctx).Then(clientv3.OpGet(dir+"checkpoint"), clientv3.OpGet(dir+"identity"), clientv3.OpGet(dir+"check")).Commit()
		})
		if err != nil {
			return unavailable("target", "reading "+dir, err)
		}
		v, kvs := newView(name), found(resp)
		for _, kv := range kvs {
			if kv == nil {
				continue
			}
			if err := v.add(kv); err != nil {
				return err
			}
		}
		if err := v.recordable(result); err != nil {
			return err
		}
		record := v.checks()
		if !record.note(&CheckOutcome{Equal: result.Equal, Mode: result.Mode, Began: result.Began, Ended: result.Ended, SourceRevision: result.SourceRevision,
			TargetRevision: result.TargetRevision, Keys: result.SourceKeys, Count: result.Count}) {
			return nil
		}
		data, err := json.Marshal(record)
		if err != nil {
			return err
		}
		same := append(sameEpoch(kvs[0], v.Epoch),
			clientv3.Compare(clientv3.ModRevision(dir+"identity"), "=", v.identityRevision),
			clientv3.Compare(clientv3.ModRevision(dir+"check"), "=", kvs[2].GetModRevision()))
		resp, err = etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return client.Txn(ctx).If(same...).Then(clientv3.OpPut(dir+"check", string(data))).Commit()
		})
		if err != nil {
			return unavailable("target", "writing "+dir+"check", err)
		}
		if resp.Succeeded {
			return nil
		}
		if err := attempt.Wait(ctx); err != nil {
			return err
		}
	}
}

// recordable says why a result is not to be recorded, if so.
func (v *mirrorView) recordable(result *Result) error {
	other := func(detail string) error {
		return &Error{Kind: ErrOtherMirror, Side: "target", Detail: detail, Hint: "check again"}
	}
	if err := v.whole(); err != nil {
		return err
	}
	switch {
	case v.checkUnknown != nil:
		return v.checkUnknown
	case v.Phase == phasePromoted:
		return &Error{Kind: ErrPromoted, Side: "target", Detail: fmt.Sprintf("mirror %q was promoted in epoch %d", v.Name, v.Epoch), Hint: "what it held until then is recorded already"}
	case v.Phase == phaseArmed:
		return &Error{Kind: ErrNoMirror, Side: "target", Detail: fmt.Sprintf("mirror %q was demoted and has not run since", v.Name), Hint: "start the mirror first"}
	case result.SourceClusterID != v.sourceID:
		return other(fmt.Sprintf("mirror %q belongs to source cluster %s, the result to %s", v.Name, v.sourceID, result.SourceClusterID))
	case result.Mirror == nil || result.Mirror.Epoch != v.Epoch:
		return other(fmt.Sprintf("mirror %q is in epoch %d, which is not the result's: the target was promoted meanwhile", v.Name, v.Epoch))
	case max(v.checkpointCreated, v.identityRevision) > result.TargetRevision:
		return other(fmt.Sprintf("a copy by mirror %q ended, or the mirror began, at target revision %d, when the check was under way", v.Name, max(v.checkpointCreated, v.identityRevision)))
	}
	return nil
}

// sameEpoch compares that the checkpoint is still of an epoch. Its record begins with version and epoch, so that all records of an epoch lie between two values.
func sameEpoch(checkpoint *mvccpb.KeyValue, epoch int64) []clientv3.Cmp {
	key, begin := string(checkpoint.Key), fmt.Sprintf(`{"v":%d,"epoch":%d,`, metadataVersion, epoch)
	if !bytes.HasPrefix(checkpoint.Value, []byte(begin)) { // written in another order
		return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", checkpoint.ModRevision)}
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.Value(key), ">", begin), clientv3.Compare(clientv3.Value(key), "<", clientv3.GetPrefixRangeEnd(begin))}
}
