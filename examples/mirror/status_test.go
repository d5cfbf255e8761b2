package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/etcdmirror"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares text with testdata/name.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run the test with -update:\n%s", path, diff)
	}
}

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func promotionAt(targetRevision int64) *etcdmirror.Promotion {
	return &etcdmirror.Promotion{Epoch: 2, SourceRevision: 100, Complete: true, SourceHead: 100, SourceHeadAt: noon.Add(-3 * time.Second), TargetRevision: targetRevision}
}

// samples are metadata in each phase.
func samples() []*etcdmirror.Metadata {
	identity := etcdmirror.Identity{SourceClusterID: "8e9e05c52164694d", TargetClusterID: "cdf818194e3a8c32", SourcePrefix: "/registry/", TargetPrefix: "/registry/", KeepID: strings.Repeat("ab", 32)}
	moved := identity
	moved.TargetPrefix, moved.KeepID, moved.TransformID = "/standby/", "", "secrets-v2"
	at := etcdmirror.Checkpoint{Epoch: 1, SourceRevision: 1234, SourceHead: 1240, SourceHeadAt: noon.Add(-2 * time.Second), At: noon.Add(-1500 * time.Millisecond), LastBulk: 40}
	in := func(phase etcdmirror.Phase, change func(*etcdmirror.Checkpoint)) etcdmirror.Checkpoint {
		c := at
		c.Phase = phase
		if change != nil {
			change(&c)
		}
		return c
	}
	return []*etcdmirror.Metadata{
		{Name: "armed", Checkpoint: etcdmirror.Checkpoint{Epoch: 3, Phase: etcdmirror.PhaseArmed, At: noon}, Identity: identity, CheckpointRevision: 9},
		{Name: "base", Checkpoint: in(etcdmirror.PhaseBase, func(c *etcdmirror.Checkpoint) { c.SourceRevision, c.Bulk = 0, true }), Identity: identity, CheckpointRevision: 77},
		{Name: "marks-only", Foreign: []string{"/registry/a"}},
		{Name: "promoted", Checkpoint: in(etcdmirror.PhasePromoted, func(c *etcdmirror.Checkpoint) { c.Epoch, c.Complete = 2, true }), Identity: moved, CheckpointRevision: 90},
		{Name: "promoted-early", Checkpoint: in(etcdmirror.PhasePromoted, func(c *etcdmirror.Checkpoint) { c.Epoch, c.SourceHead = 2, 1235 }), Identity: moved, CheckpointRevision: 91},
		{Name: "resync", Checkpoint: in(etcdmirror.PhaseResync, nil), Identity: identity, CheckpointRevision: 80},
		{Name: "split", Checkpoint: in(etcdmirror.PhasePartial, nil), Identity: identity, CheckpointRevision: 82},
		{Name: "stopped", Checkpoint: in(etcdmirror.PhaseTail, func(c *etcdmirror.Checkpoint) { c.Keys, c.Unlisted = 5000, true }), Identity: identity, CheckpointRevision: 83,
			Drift: drift(7, etcdmirror.DriftDeleted, etcdmirror.DriftChanged, etcdmirror.DriftDeleted, etcdmirror.DriftFought, etcdmirror.DriftReplaced, etcdmirror.DriftDeleted, etcdmirror.DriftDeleted),
			Trip:  &etcdmirror.Trip{ID: "x", SourceRevision: 1234, Keys: 5012, Left: 12, Key: "/registry/secrets/a/b", At: noon.Add(-time.Minute)}},
		{Name: "tail", Checkpoint: in(etcdmirror.PhaseTail, func(c *etcdmirror.Checkpoint) { c.SourceHead, c.Keys = 1234, 12345 }), Identity: identity, CheckpointRevision: 85,
			Drift: drift(80, etcdmirror.DriftChanged), Leases: []int64{1, 2},
			Foreign: []string{"/registry/configmaps/own/a", "/registry/configmaps/own/\x00b"},
			Guarded: []etcdmirror.GuardedInfo{{Key: "/registry/secrets/a/b", Reason: "unknown\nprovider"}}},
	}
}

// drift lists keys that were touched in several ways.
func drift(rev int64, kinds ...etcdmirror.DriftKind) (all []etcdmirror.DriftInfo) {
	for i, kind := range kinds {
		all = append(all, etcdmirror.DriftInfo{Key: fmt.Sprintf("/registry/configmaps/a/%d", i), Kind: kind, TargetRevision: rev + int64(i)})
	}
	return all
}

// withReplicas lets some of the samples run.
func withReplicas(md *etcdmirror.Metadata) *etcdmirror.Metadata {
	md.Replicas = replicas[md.Name]
	return md
}

var replicas = map[string][]string{"tail": {"host-1", "host-2", "host-3"}, "stopped": {"host\n1"}}

func TestStatusTable(t *testing.T) {
	var out strings.Builder
	for _, md := range samples() {
		v := newView(withReplicas(md), noon, md.Name == "tail" || md.Name == "marks-only")
		v.print(&out)
		out.WriteByte('\n')
	}
	golden(t, "status.txt", out.String())
}

func TestStatusJSON(t *testing.T) {
	var all []view
	for _, md := range samples() {
		all = append(all, newView(withReplicas(md), noon, md.Name == "tail"))
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", string(text)+"\n")
}

// Every field of the JSON is documented in the help.
func TestStatusFieldsAreDocumented(t *testing.T) {
	for _, md := range samples() {
		text, err := json.Marshal(newView(withReplicas(md), noon, true))
		if err != nil {
			t.Fatal(err)
		}
		var fields any
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		checkDocumented(t, "status", fields)
	}
}

// checkDocumented looks for the names of all fields in the help of a command.
func checkDocumented(t *testing.T, command string, value any) {
	t.Helper()
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(details[command]) {
				t.Errorf("the help of %s lacks %q", command, name)
			}
			checkDocumented(t, command, field)
		}
	case []any:
		for _, element := range v {
			checkDocumented(t, command, element)
		}
	}
}

func TestApprovalReport(t *testing.T) {
	var out strings.Builder
	printApproval(&out, "default", samples()[7].Trip, noon)
	golden(t, "approve.txt", out.String())
}

func TestPromotionReport(t *testing.T) {
	var out strings.Builder
	complete := promotionAt(90)
	complete.SourceHead, complete.LastBulkRevision = 103, 40
	never := &etcdmirror.Promotion{Epoch: 2, TargetRevision: 5}
	interrupted := promotionAt(91)
	interrupted.Complete = false
	for _, p := range []*etcdmirror.Promotion{complete, promotionAt(90), interrupted, never} {
		printPromotion(&out, "default", p, noon)
		out.WriteString("\n----\n")
	}
	golden(t, "promote.txt", out.String())
}
