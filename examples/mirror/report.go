package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/screen"
)

// reporter tells the log and the terminal what a mirror does.
type reporter struct {
	log       *slog.Logger
	screen    *screen.Screen
	name      string        // of the mirror
	following chan struct{} // closed when the tail begins

	mu        sync.Mutex
	state     etcdmirror.State
	began     time.Time // the first copy
	followed  time.Time // the begin of the tail
	meter     meter
	copyBegan time.Time // the round that meter measures
	drifts    int       // keys that others touched, since the last status line
}

// driftLines bounds how many of these keys are logged between two status lines: a controller may delete a namespace's worth at once.
const driftLines = 20

func newReporter(log *slog.Logger, screen *screen.Screen, name string) *reporter {
	return &reporter{log: log, screen: screen, name: name, following: make(chan struct{}), state: etcdmirror.StateIdle}
}

func (r *reporter) hooks() etcdmirror.Hooks {
	// What else happens, such as the begin of leadership or a value that a guard refuses, the engine logs itself.
	return etcdmirror.Hooks{State: r.changed, Resync: r.copyBegins, Drift: r.drifted, Tripped: r.tripped}
}

func (r *reporter) drifted(info etcdmirror.DriftInfo) {
	level, text := slog.LevelWarn, "a mirrored key was touched by others at the target"
	switch info.Kind {
	case etcdmirror.DriftFought:
		return // logged by the engine
	case etcdmirror.DriftRepaired:
		level, text = slog.LevelInfo, "a mirrored key was put right"
	}
	r.mu.Lock()
	r.drifts++
	logged := r.drifts <= driftLines
	r.mu.Unlock()
	if logged {
		r.log.Log(context.Background(), level, text, etcdmirror.LogKeyKey, info.Key, "kind", string(info.Kind), etcdmirror.LogKeyTargetRevision, info.TargetRevision)
	}
}

func (r *reporter) tripped(etcdmirror.Trip) {
	r.log.Error("if the deletes are meant: mirror approve --name " + r.name + " --confirm " + r.name)
}

func (r *reporter) copyBegins(etcdmirror.ResyncInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.began.IsZero() {
		r.began = time.Now()
	}
}

// changed logs a change of state. Under load the tail is now ahead and now behind many times a second: that is for debugging.
func (r *reporter) changed(info etcdmirror.StateInfo) {
	r.mu.Lock()
	last := r.state
	r.state = info.State
	if info.State == etcdmirror.StateTail && r.followed.IsZero() {
		r.followed = time.Now()
		close(r.following)
	}
	r.mu.Unlock()
	if info.State == etcdmirror.StateTail {
		r.screen.Show() // the copy is over
	}
	follows := func(s etcdmirror.State) bool {
		return s == etcdmirror.StateTail || s == etcdmirror.StateCatchingUp
	}
	level := slog.LevelInfo
	switch {
	case info.State == etcdmirror.StateStopped:
		return // Run returns the reason
	case info.State == etcdmirror.StateWaiting:
		level = slog.LevelWarn
	case info.State == etcdmirror.StateStarting, follows(info.State) && follows(last):
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("state", string(info.State))}
	if info.Reason != "" {
		attrs = append(attrs, slog.String(etcdmirror.LogKeyReason, info.Reason))
	}
	r.log.LogAttrs(context.Background(), level, "state", attrs...)
}

// copying reports whether a copy is under way. A replica may have lost the leadership in the middle of one.
func copying(s etcdmirror.Status) bool {
	return !s.Copy.Began.IsZero() && s.Copy.Ended.IsZero() && s.State != etcdmirror.StateReplica
}

// logStatus logs one line with what an operator watches.
func (r *reporter) logStatus(s etcdmirror.Status) {
	attrs := []slog.Attr{
		slog.String("state", string(s.State)), slog.Int64("epoch", s.Epoch),
		slog.Int64("appliedRevision", s.AppliedRevision), slog.Int64("savedRevision", s.SavedRevision), slog.Int64("sourceRevision", s.SourceRevision),
		slog.Int64("lagRevisions", s.LagRevisions), slog.Duration("lag", s.LagDuration.Round(time.Millisecond)),
		slog.Int64("puts", s.Puts), slog.Int64("deletes", s.Deletes), slog.Int64("filtered", s.Filtered), slog.Int64("bytes", s.Bytes),
		slog.Int64("transactions", s.Transactions), slog.Int64("resyncs", s.Resyncs), slog.Int64("reconnects", s.Reconnects),
		slog.Int64("keys", s.Keys), slog.Int("foreign", s.Foreign), slog.Int("guarded", s.Guarded),
		slog.Int("drifted", s.Drifted), slog.Int64("repairs", s.Repairs), slog.Int64("fights", s.Fights), slog.Int("leases", s.Leases),
	}
	r.mu.Lock()
	unlogged := r.drifts - driftLines
	r.drifts = 0
	r.mu.Unlock()
	if s.Unlisted {
		attrs = append(attrs, slog.Bool("driftUnlisted", true))
	}
	if unlogged > 0 {
		attrs = append(attrs, slog.Int("driftsNotLogged", unlogged))
	}
	if s.Leader != "" {
		attrs = append(attrs, slog.String("leader", s.Leader))
	}
	if s.Trip != nil {
		attrs = append(attrs, slog.Int64("tripKeys", s.Trip.Keys), slog.Int64("tripLeft", s.Trip.Left))
	}
	if s.Reason != "" {
		attrs = append(attrs, slog.String(etcdmirror.LogKeyReason, s.Reason))
	}
	if copying(s) {
		attrs = append(attrs, slog.Int("round", s.Copy.Round), slog.Int("keysLooked", s.Copy.Looked), slog.Int("keysToWrite", s.Copy.ToWrite),
			slog.Int("deletedKeys", s.Copy.Deleted), slog.Int("keysToDelete", s.Copy.ToDelete))
		if elapsed := time.Since(s.Copy.Began).Seconds(); elapsed > 0 {
			attrs = append(attrs, slog.Int64("keysPerSecond", int64(float64(s.Copy.Looked)/elapsed)))
		}
	}
	r.log.LogAttrs(context.Background(), slog.LevelInfo, "status", attrs...)
}

// summary says what the copy did, for --exit-after-copy.
func (r *reporter) summary(w io.Writer, name string, s etcdmirror.Status) {
	r.mu.Lock()
	began, followed := r.began, r.followed
	r.mu.Unlock()
	if s.Resyncs == 0 {
		fmt.Fprintf(w, "mirror %q had a complete copy already: the target equals source revision %d or a later one; nothing was copied\n", name, s.AppliedRevision)
		return
	}
	seconds := followed.Sub(began).Seconds()
	fmt.Fprintf(w, "copy of mirror %q done: the target equals source revision %d\n", name, s.AppliedRevision)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range [][2]string{
		{"keys kept", thousands(int64(s.Copy.Listed))},
		{"keys written", thousands(s.Puts)},
		{"keys deleted", thousands(s.Deletes)},
		{"keys filtered", thousands(s.Filtered)},
		{"bytes written", thousands(s.Bytes)},
		{"seconds", fmt.Sprintf("%.3f", seconds)},
		{"keys/s", thousands(int64(float64(s.Copy.Listed) / max(seconds, 1e-6)))},
		{"rounds", thousands(int64(s.Copy.Round))},
	} {
		fmt.Fprintf(tw, "%s\t%s\t\n", row[0], row[1])
	}
	_ = tw.Flush() // to a writer whose failure nobody could be told of
}
