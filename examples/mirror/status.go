package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// targetFlags are the settings of commands that need the target only. Such a command may be given the file of mirror run.
type targetFlags struct {
	settings *connect.Settings
	target   *connect.Side
	name     string
}

func newTargetFlags() targetFlags {
	f := targetFlags{settings: connect.NewSettings(envPrefix)}
	f.settings.AlsoInFile = newRunFlags().settings.InFile()
	f.target = connect.NewSide(f.settings, "target")
	f.settings.Flags.String("config", "", "YAML `file` with these settings, or those of mirror run")
	return f
}

// dial connects to the target and prints warnings.
func (f *targetFlags) dial(ctx context.Context, c console) (*connect.Conn, error) {
	conn, err := f.target.Dial(ctx)
	if err != nil {
		return nil, err
	}
	for _, warning := range append(f.target.Warnings(), conn.Warnings...) {
		fmt.Fprintf(c.err, "mirror: warning: %s\n", warning)
	}
	return conn, nil
}

// in names the setting behind an error.
func (f *targetFlags) in(err error) error {
	if err == nil {
		return nil
	}
	return inSettings(err, f.settings, f.target)
}

// checkName checks the mirror's name before anything is contacted.
func checkName(settings *connect.Settings, name string) error {
	if err := etcdmirror.ValidateName(name); err != nil {
		return inSettings(err, settings)
	}
	return nil
}

type statusFlags struct {
	targetFlags
	output choice
	keys   bool
}

func newStatusFlags() *statusFlags {
	f := &statusFlags{targetFlags: newTargetFlags(), output: choice{words: []string{"table", "json"}}}
	fs := f.settings.Flags
	fs.StringVar(&f.name, "name", "", "`name` of one mirror; empty: all that the target knows")
	fs.Var(&f.output, "output", "form of the answer, `table|json`")
	fs.BoolVar(&f.keys, "keys", false, "list the foreign and guarded keys")
	f.settings.FlagOnly("output", "keys")
	return f
}

// runStatus is mirror status.
func runStatus(ctx context.Context, c console, args []string) error {
	f := newStatusFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if f.name != "" {
		if err := checkName(f.settings, f.name); err != nil {
			return err
		}
	}
	conn, err := f.dial(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	var all []*etcdmirror.Metadata
	if f.name != "" {
		var md *etcdmirror.Metadata
		md, err = etcdmirror.ReadMetadata(ctx, conn.Client, f.name)
		all = []*etcdmirror.Metadata{md}
	} else {
		all, err = etcdmirror.ListMetadata(ctx, conn.Client)
	}
	if err != nil {
		return f.in(err)
	}
	views := []view{} // never null in JSON
	for _, md := range all {
		views = append(views, newView(md, time.Now(), f.keys))
	}
	if f.output.String() == "json" {
		enc := json.NewEncoder(c.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(map[string]any{"mirrors": views})
	}
	if len(views) == 0 {
		return &etcdmirror.Error{Kind: etcdmirror.ErrNoMirror, Side: "target", Detail: "it knows no mirror at all", Hint: "check that the endpoints are the target's"}
	}
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		v.print(c.out)
	}
	return nil
}

// view is what status tells about a mirror. The names of its fields in JSON are documented in the help and stay.
type view struct {
	Name                     string     `json:"name"`
	Phase                    string     `json:"phase"`
	Complete                 bool       `json:"complete"`
	Epoch                    int64      `json:"epoch"`
	SourceClusterID          string     `json:"sourceClusterID"`
	TargetClusterID          string     `json:"targetClusterID"`
	SourcePrefix             string     `json:"sourcePrefix"`
	TargetPrefix             string     `json:"targetPrefix"`
	FilterID                 string     `json:"filterID"`
	TransformID              string     `json:"transformID"`
	AppliedRevision          int64      `json:"appliedRevision"`
	SourceHead               int64      `json:"sourceHead"`
	SourceHeadAt             *time.Time `json:"sourceHeadAt,omitempty"`
	MissingRevisions         int64      `json:"missingRevisions"`
	CheckpointAt             *time.Time `json:"checkpointAt,omitempty"`
	CheckpointAgeSeconds     float64    `json:"checkpointAgeSeconds"`
	CheckpointTargetRevision int64      `json:"checkpointTargetRevision"`
	LastBulkRevision         int64      `json:"lastBulkRevision"`
	ForeignCount             int        `json:"foreignCount"`
	GuardedCount             int        `json:"guardedCount"`
	Foreign                  []string   `json:"foreign,omitempty"`
	Guarded                  []guarded  `json:"guarded,omitempty"`

	now time.Time
}

type guarded struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

func newView(md *etcdmirror.Metadata, now time.Time, keys bool) view {
	c, id := md.Checkpoint, md.Identity
	v := view{Name: md.Name, Phase: string(c.Phase), Epoch: c.Epoch,
		Complete:        c.Phase == etcdmirror.PhaseTail || c.Phase == etcdmirror.PhasePromoted && c.Complete,
		SourceClusterID: id.SourceClusterID, TargetClusterID: id.TargetClusterID, SourcePrefix: id.SourcePrefix, TargetPrefix: id.TargetPrefix,
		FilterID: id.KeepID, TransformID: id.TransformID,
		AppliedRevision: c.SourceRevision, SourceHead: c.SourceHead, MissingRevisions: max(c.SourceHead-c.SourceRevision, 0),
		CheckpointTargetRevision: md.CheckpointRevision, LastBulkRevision: md.LastBulkRevision(),
		ForeignCount: len(md.Foreign), GuardedCount: len(md.Guarded), now: now}
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
	return v
}

// meaning explains a phase in a line.
func (v *view) meaning() string {
	switch etcdmirror.Phase(v.Phase) {
	case etcdmirror.PhaseTail:
		return fmt.Sprintf("tail: the target equals source revision %d", v.AppliedRevision)
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
	row("foreign keys", "%d", v.ForeignCount)
	for _, key := range v.Foreign {
		fmt.Fprintf(w, "    %q\n", key)
	}
	row("guarded keys", "%d", v.GuardedCount)
	for _, g := range v.Guarded {
		fmt.Fprintf(w, "    %q: %s\n", g.Key, strings.ReplaceAll(g.Reason, "\n", " "))
	}
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
