package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// runMirror is mirror run.
func runMirror(ctx context.Context, c console, args []string) error {
	f := newRunFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	screen := newScreen(c.err)
	log := f.logger(screen)
	source, target, err := dialBoth(ctx, f.source, f.target)
	if ctx.Err() != nil {
		return nil // asked to end before there was anything to end
	}
	if err != nil {
		return err
	}
	defer source.Close()
	defer target.Close()
	for _, warnings := range [][]string{f.source.Warnings(), f.target.Warnings(), source.Warnings, target.Warnings} {
		for _, warning := range warnings {
			log.Warn(warning)
		}
	}

	r := newReporter(log, screen)
	cfg.Logger, cfg.Hooks = log, r.hooks()
	m, err := etcdmirror.New(source.Client, target.Client, cfg)
	if err != nil {
		return inSettings(err, f.settings, f.source, f.target)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var copied *etcdmirror.Status // at the begin of the tail, with --exit-after-copy
	following := r.following
	if !f.exitAfterCopy {
		following = nil
	}
	ticks := r.ticks(f.logInterval)
	defer ticks.stop()
	for {
		select {
		case <-following:
			status := m.Status()
			copied, following = &status, nil
			cancel()
		case <-ticks.log.C:
			if !screen.terminal || !copying(m.Status()) {
				r.logStatus(m.Status())
			}
		case now := <-ticks.progress.C:
			screen.show(r.progress(now, m.Status()))
		case err := <-ended:
			screen.show("")
			if err != nil {
				return inSettings(err, f.settings, f.source, f.target)
			}
			r.logStatus(m.Status())
			if copied != nil {
				r.summary(c.out, cfg.Name, *copied)
			}
			return nil
		}
	}
}

// dialBoth connects to both sides at once, so that both have failed when the longer dial timeout is over.
func dialBoth(ctx context.Context, source, target *connect.Side) (s, t *connect.Conn, err error) {
	var sourceErr, targetErr error
	var wg sync.WaitGroup
	wg.Go(func() { s, sourceErr = source.Dial(ctx) })
	wg.Go(func() { t, targetErr = target.Dial(ctx) })
	wg.Wait()
	if err := errors.Join(sourceErr, targetErr); err != nil {
		for _, conn := range []*connect.Conn{s, t} {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, err
	}
	return s, t, nil
}

// reporter tells the log and the terminal what a mirror does.
type reporter struct {
	log       *slog.Logger
	screen    *screen
	following chan struct{} // closed when the tail begins

	mu        sync.Mutex
	state     etcdmirror.State
	began     time.Time // the first copy
	followed  time.Time // the begin of the tail
	meter     meter
	copyBegan time.Time // the round that meter measures
}

func newReporter(log *slog.Logger, screen *screen) *reporter {
	return &reporter{log: log, screen: screen, following: make(chan struct{}), state: etcdmirror.StateIdle}
}

func (r *reporter) hooks() etcdmirror.Hooks {
	return etcdmirror.Hooks{State: r.changed, Resync: r.copyBegins, Guarded: func(info etcdmirror.GuardedInfo) {
		r.log.Warn("value kept from the target", etcdmirror.LogKeyKey, info.Key, etcdmirror.LogKeyReason, info.Reason)
	}}
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
		r.screen.show("") // the copy is over
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

func copying(s etcdmirror.Status) bool { return !s.Copy.Began.IsZero() && s.Copy.Ended.IsZero() }

// logStatus logs one line with what an operator watches.
func (r *reporter) logStatus(s etcdmirror.Status) {
	attrs := []slog.Attr{
		slog.String("state", string(s.State)), slog.Int64("epoch", s.Epoch),
		slog.Int64("appliedRevision", s.AppliedRevision), slog.Int64("savedRevision", s.SavedRevision), slog.Int64("sourceRevision", s.SourceRevision),
		slog.Int64("lagRevisions", s.LagRevisions), slog.Duration("lag", s.LagDuration.Round(time.Millisecond)),
		slog.Int64("puts", s.Puts), slog.Int64("deletes", s.Deletes), slog.Int64("filtered", s.Filtered), slog.Int64("bytes", s.Bytes),
		slog.Int64("transactions", s.Transactions), slog.Int64("resyncs", s.Resyncs), slog.Int64("reconnects", s.Reconnects),
		slog.Int("foreign", s.Foreign), slog.Int("guarded", s.Guarded),
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
