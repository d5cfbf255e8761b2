package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/monitor"
)

// view is what status tells about a mirror. The names of its fields in JSON are documented in the help and stay.
type view struct {
	Name                     string        `json:"name"`
	Phase                    string        `json:"phase"`
	Complete                 bool          `json:"complete"`
	Epoch                    int64         `json:"epoch"`
	Leader                   string        `json:"leader"`
	Replicas                 []string      `json:"replicas,omitempty"`
	SourceClusterID          string        `json:"sourceClusterID"`
	TargetClusterID          string        `json:"targetClusterID"`
	SourcePrefix             string        `json:"sourcePrefix"`
	TargetPrefix             string        `json:"targetPrefix"`
	FilterID                 string        `json:"filterID"`
	TransformID              string        `json:"transformID"`
	AppliedRevision          int64         `json:"appliedRevision"`
	SourceHead               int64         `json:"sourceHead"`
	SourceHeadAt             *time.Time    `json:"sourceHeadAt,omitempty"`
	MissingRevisions         int64         `json:"missingRevisions"`
	CheckpointAt             *time.Time    `json:"checkpointAt,omitempty"`
	CheckpointAgeSeconds     float64       `json:"checkpointAgeSeconds"`
	CheckpointTargetRevision int64         `json:"checkpointTargetRevision"`
	LastBulkRevision         int64         `json:"lastBulkRevision"`
	KeysHeld                 int64         `json:"keysHeld"`
	LeaseCount               int           `json:"leaseCount"`
	ForeignCount             int           `json:"foreignCount"`
	GuardedCount             int           `json:"guardedCount"`
	Foreign                  []string      `json:"foreign,omitempty"`
	Guarded                  []guarded     `json:"guarded,omitempty"`
	DriftCount               int           `json:"driftCount"`
	DriftUnlisted            bool          `json:"driftUnlisted,omitempty"`
	DriftByKind              kinds         `json:"driftByKind,omitempty"`
	Drift                    []drifted     `json:"drift,omitempty"`
	Trip                     *monitor.Trip `json:"trip,omitempty"`

	now time.Time
}

type guarded struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

type drifted struct {
	Key            string               `json:"key"`
	Kind           etcdmirror.DriftKind `json:"kind"`
	TargetRevision int64                `json:"targetRevision"`
}

// kinds counts drifted keys.
type kinds map[etcdmirror.DriftKind]int

func (k kinds) String() string {
	var counts []string
	for _, kind := range slices.Sorted(maps.Keys(k)) {
		counts = append(counts, fmt.Sprintf("%s %s", thousands(int64(k[kind])), kind))
	}
	return strings.Join(counts, ", ")
}

// fewDrifted is how many drifted keys are shown unless all are asked for.
const fewDrifted = 5

// newView makes a view of metadata. keys asks for all the keys that the metadata lists.
func newView(md *etcdmirror.Metadata, now time.Time, keys bool) view {
	c, id := md.Checkpoint, md.Identity
	v := view{Name: md.Name, Phase: string(c.Phase), Epoch: c.Epoch,
		Complete:        c.Phase == etcdmirror.PhaseTail || c.Phase == etcdmirror.PhasePromoted && c.Complete,
		SourceClusterID: id.SourceClusterID, TargetClusterID: id.TargetClusterID, SourcePrefix: id.SourcePrefix, TargetPrefix: id.TargetPrefix,
		FilterID: id.KeepID, TransformID: id.TransformID,
		AppliedRevision: c.SourceRevision, SourceHead: c.SourceHead, MissingRevisions: max(c.SourceHead-c.SourceRevision, 0),
		CheckpointTargetRevision: md.CheckpointRevision, LastBulkRevision: md.LastBulkRevision(),
		KeysHeld: c.Keys, LeaseCount: len(md.Leases), ForeignCount: len(md.Foreign), GuardedCount: len(md.Guarded), DriftCount: len(md.Drift), DriftUnlisted: c.Unlisted, now: now}
	if len(md.Replicas) > 0 {
		v.Leader, v.Replicas = md.Replicas[0], md.Replicas[1:]
	}
	if !c.SourceHeadAt.IsZero() {
		v.SourceHeadAt = &c.SourceHeadAt
	}
	if !c.At.IsZero() {
		v.CheckpointAt, v.CheckpointAgeSeconds = &c.At, now.Sub(c.At).Round(time.Millisecond).Seconds()
	}
	if keys {
		v.Foreign = md.Foreign
		for _, g := range md.Guarded {
			v.Guarded = append(v.Guarded, guarded{g.Key, g.Reason})
		}
	}
	for _, d := range md.Drift {
		if v.DriftByKind == nil {
			v.DriftByKind = kinds{}
		}
		v.DriftByKind[d.Kind]++
		if keys || len(v.Drift) < fewDrifted {
			v.Drift = append(v.Drift, drifted(d))
		}
	}
	if t := md.Trip; t != nil && c.Phase != etcdmirror.PhasePromoted { // what stopped a mirror that is over matters to nobody
		v.Trip = monitor.NewTrip(t)
	}
	return v
}

// meaning explains a phase in a line.
func (v *view) meaning() string {
	switch etcdmirror.Phase(v.Phase) {
	case etcdmirror.PhaseTail:
		return fmt.Sprintf("tail: the target equals source revision %d", v.AppliedRevision)
	case etcdmirror.PhasePartial:
		return fmt.Sprintf("partial: the target equals source revision %d, but for a part of the next one", v.AppliedRevision)
	case etcdmirror.PhaseBase:
		return "base: the first copy is not finished; the target equals no source revision"
	case etcdmirror.PhaseResync:
		return fmt.Sprintf("resync: not finished; the target equalled source revision %d before and equals none now", v.AppliedRevision)
	case etcdmirror.PhasePromoted:
		if v.Complete {
			return fmt.Sprintf("promoted: it equalled source revision %d", v.AppliedRevision)
		}
		return "promoted with an incomplete copy: it equalled no source revision"
	case etcdmirror.PhaseArmed:
		return "armed: demoted, and no mirror has begun since"
	case "":
		return "no checkpoint: the mirror has not begun, or its metadata was removed in part"
	}
	return v.Phase
}

func (v *view) print(w io.Writer) {
	const dash = "-"
	row := func(label, format string, args ...any) {
		fmt.Fprintf(w, "  %-20s  %s\n", label, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "mirror %s\n", v.Name)
	row("phase", "%s", v.meaning())
	row("epoch", "%d", v.Epoch)
	row("leader", "%s", v.leading())
	row("source cluster", "%s", or(v.SourceClusterID, dash))
	row("target cluster", "%s", or(v.TargetClusterID, dash))
	if v.SourceClusterID != "" {
		row("keys", "%s", v.mapping())
	}
	row("filter", "%s", or(v.FilterID, "none"))
	if v.TransformID != "" {
		row("transform", "%s", v.TransformID)
	}
	row("applied revision", "%d", v.AppliedRevision)
	if v.SourceHeadAt != nil {
		row("source head", "%d, seen %s", v.SourceHead, ago(v.now, *v.SourceHeadAt))
		missing := revisions(v.AppliedRevision, v.SourceHead)
		if !v.Complete && v.MissingRevisions > 0 {
			missing = "all or part of " + missing
		}
		row("known to be missing", "%s", missing)
	}
	if v.CheckpointAt != nil {
		row("checkpoint", "%s, at target revision %d", ago(v.now, *v.CheckpointAt), v.CheckpointTargetRevision)
	}
	row("last bulk revision", "%d", v.LastBulkRevision)
	row("keys held", "%s", thousands(v.KeysHeld))
	row("leases held", "%s", thousands(int64(v.LeaseCount)))
	row("foreign keys", "%d", v.ForeignCount)
	for _, key := range v.Foreign {
		fmt.Fprintf(w, "    %q\n", key)
	}
	row("guarded keys", "%d", v.GuardedCount)
	for _, g := range v.Guarded {
		fmt.Fprintf(w, "    %q: %s\n", g.Key, strings.ReplaceAll(g.Reason, "\n", " "))
	}
	v.printDrift(w, row)
	if v.Trip != nil {
		row("stopped", "%s, by a mass deletion at the source: of %s keys %s would be left", ago(v.now, v.Trip.StoppedAt), thousands(v.Trip.Keys), thousands(v.Trip.Left))
		row("", "the next to go is %q", v.Trip.NextKey)
		row("", "if that is meant: mirror approve --name %s --confirm %s", v.Name, v.Name)
		row("", "if not: stop the mirror and restore the source, or promote the target, which still has the keys")
	}
}

func (v *view) printDrift(w io.Writer, row func(label, format string, args ...any)) {
	counts := "0"
	if v.DriftCount > 0 {
		counts = fmt.Sprintf("%s: %s", thousands(int64(v.DriftCount)), v.DriftByKind)
	}
	if v.DriftUnlisted {
		counts += "; there are more, which are not listed"
	}
	row("drifted keys", "%s", counts)
	for _, d := range v.Drift {
		fmt.Fprintf(w, "    %q: %s, noted at target revision %d\n", d.Key, d.Kind, d.TargetRevision)
	}
	if more := v.DriftCount - len(v.Drift); more > 0 {
		fmt.Fprintf(w, "    and %s more; --keys lists them\n", thousands(int64(more)))
	}
}

// leading tells who leads, and who waits to.
func (v *view) leading() string {
	if v.Leader == "" {
		return "none: no instance of the mirror runs"
	}
	text := strconv.Quote(v.Leader)
	for i, name := range v.Replicas {
		if i == 0 {
			text += "; waiting: "
		} else {
			text += ", "
		}
		text += strconv.Quote(name)
	}
	return text
}

func (v *view) mapping() string {
	source := or(v.SourcePrefix, "all")
	if v.TargetPrefix == v.SourcePrefix {
		return source
	}
	return fmt.Sprintf("%s as %q", source, v.TargetPrefix)
}

// revisions tells which source revisions lie between what was applied and what was seen.
func revisions(applied, head int64) string {
	if head <= applied {
		return "none"
	}
	n := head - applied
	if n == 1 {
		return fmt.Sprintf("1 source revision, %d", head)
	}
	return fmt.Sprintf("%s source revisions, %d to %d", thousands(n), applied+1, head)
}

// ago is a time as a date and as a distance. A clock that is behind must not make a distance negative.
func ago(now, at time.Time) string {
	return fmt.Sprintf("%s (%v ago)", at.UTC().Format(time.RFC3339), max(now.Sub(at), 0).Round(100*time.Millisecond))
}
