package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// bench runs the contenders.
type bench struct {
	cfg      config
	progress io.Writer
	dir      string // of this benchmark alone
	keep     func(key []byte) bool
}

func newBench(cfg config, progress io.Writer) (*bench, error) {
	keep, err := keepFunc(cfg.filter)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.dir, "understudy-bench-")
	if err != nil {
		return nil, fmt.Errorf("-dir: %w", err)
	}
	return &bench{cfg: cfg, progress: progress, dir: dir, keep: keep}, nil
}

// close removes the data. All processes have ended when measureAll has returned.
func (b *bench) close() error { return os.RemoveAll(b.dir) }

func (b *bench) note(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }

// measurement is one thing that the benchmark can measure.
type measurement struct {
	file string // that -out writes, without its extension
	// turns adds the samples of all runs.
	turns   func(b *bench, ctx context.Context, s *size) error
	columns []string
	// row is one line of the table; s holds the samples of one case only.
	row func(s size, contender string) []string
	// notes say what the table means.
	notes func(r *result) []string
	// anySize: the figures depend on the number of keys, so that all sizes are of interest.
	anySize bool
}

// measurements are what -measure chooses from.
var measurements = map[string]measurement{
	"copy": copyMeasurement, "check": checkMeasurement, "tail": tailMeasurement,
	"backlog": backlogMeasurement, "resync": resyncMeasurement, "idle": idleMeasurement, "wan": wanMeasurement,
}

// measurementOrder is that of "all".
var measurementOrder = []string{"copy", "tail", "backlog", "resync", "idle", "wan", "check"}

// contender is one way to fill a target, to follow a source, to read or to compare both sides.
type contender struct {
	name string
	role string
	// all: it copies every key, whatever the filter says.
	all   bool
	shape writerShape // of a writer
}

// mirrors are the contenders that can follow a source.
func (b *bench) mirrors() []contender {
	list := []contender{{name: roleUnderstudy, role: roleUnderstudy}}
	if !b.cfg.skipMakeMirror {
		list = append(list, contender{name: roleMakeMirror, role: roleMakeMirror, all: true})
	}
	return list
}

// rotated is the order of a run: nobody is always the first.
func rotated(list []contender, run int) (order []contender) {
	for i := range list {
		order = append(order, list[(i+run-1)%len(list)])
	}
	return order
}

// sample is one turn of a contender.
type sample struct {
	Contender string `json:"contender"`
	// Case tells the samples of one contender and run apart, such as by the rate of the writes; "" where there is one only.
	Case string `json:"case,omitempty"`
	Run  int    `json:"run"`
	// Failed says why the turn does not count, such as sides that differ after it. Its figures are not in the table.
	Failed string `json:"failed,omitempty"`
	// Keys and Bytes (of keys and values) are what was copied, or what each side holds that was compared.
	Keys  int   `json:"keys"`
	Bytes int64 `json:"bytes"`
	// Revisions are those of a backlog.
	Revisions int `json:"revisions,omitempty"`
	// Changes are what a resync has to find.
	Changes int `json:"changes,omitempty"`
	// Zombies are deleted keys that a mirror leaves at the target for ever.
	Zombies int `json:"zombies,omitempty"`
	cost
	// DoneSeconds is the time until Understudy itself said that the base copy was done.
	DoneSeconds float64   `json:"doneSeconds,omitempty"`
	Counters    *counters `json:"counters,omitempty"`
	// Seen is what a contender of the check has read.
	Seen *seen `json:"seen,omitempty"`
	// Lag is of a mirror in the tail, Wire of one behind the proxy.
	Lag  *lagFigures  `json:"lag,omitempty"`
	Wire *wireFigures `json:"wire,omitempty"`
}

// measureAll measures every size.
func (b *bench) measureAll(ctx context.Context, name string) (*result, error) {
	r, err := newResult(b.cfg, name, b.dir)
	if err != nil {
		return nil, err
	}
	for i, keys := range b.cfg.keys {
		if i > 0 && b.cfg.all && !r.measure.anySize {
			break
		}
		b.note("%s, %d keys", name, keys)
		s := size{Keys: keys}
		if err := r.measure.turns(b, ctx, &s); err != nil {
			return nil, fmt.Errorf("%s, %d keys: %w", name, keys, err)
		}
		r.Sizes = append(r.Sizes, s)
	}
	return r, nil
}

// withLoaded starts a source and fills it with the data set; kept of its keys take part.
func (b *bench) withLoaded(ctx context.Context, s *size, use func(source *server, kept int) error) error {
	return b.withEtcd(ctx, func(source *server) error {
		began := time.Now()
		if err := b.load(ctx, source, roleFlags{keys: s.Keys}); err != nil {
			return err
		}
		kept, err := census(ctx, source.client, b.keep)
		if err != nil {
			return err
		}
		b.note("%d keys: source loaded in %.1f s, %d keys take part", s.Keys, time.Since(began).Seconds(), kept)
		return use(source, kept)
	})
}

// makeMirrorAttempts: make-mirror ends at the first request that fails, such as on a machine that is busy with other things. Then the turn is begun anew.
const makeMirrorAttempts = 5

// turn lets one contender do its work and adds the sample. A turn that fails counts as failed, unless the whole benchmark is to end.
func (b *bench) turn(ctx context.Context, s *size, name string, c contender, run int, work func(context.Context) (sample, error)) error {
	attempt := func() (sample, error) {
		ctx, cancel := b.within(ctx)
		defer cancel()
		return work(ctx)
	}
	x, err := attempt()
	for n := 1; c.role == roleMakeMirror && errors.Is(err, errEnded) && n < makeMirrorAttempts; n++ {
		b.note("%d keys, run %d: once more: %v", s.Keys, run, err)
		s.GivenUp++
		x, err = attempt()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		x.Failed = err.Error()
	}
	x.Contender, x.Case, x.Run = c.name, name, run
	s.add(b, x)
	return nil
}

// add notes a sample.
func (s *size) add(b *bench, x sample) {
	s.Samples = append(s.Samples, x)
	name := x.Contender
	if x.Case != "" {
		name = x.Case + ", " + name
	}
	if x.Failed != "" {
		b.note("%d keys, run %d: %s FAILED: %s", s.Keys, x.Run, name, x.Failed)
		return
	}
	b.note("%d keys, run %d: %-13s %8.2f s, CPU: own %.2f s, source %.2f s, target %.2f s, lost %.2f s, peak RSS %.0f MB",
		s.Keys, x.Run, name, x.Seconds, x.CPUSeconds, x.SourceCPUSeconds, x.TargetCPUSeconds, x.LostCPUSeconds, float64(x.PeakRSS)/1e6)
	switch n := x.Counters; {
	case x.Lag != nil:
		b.note("  %.0f writes/s, lag p50 %.1f ms, p99 %.1f ms, put %.1f ms (quiet %.1f), backlog %d then %d, drained %t after %.1f s",
			x.Lag.Rate, x.Lag.Lag.P50, x.Lag.Lag.P99, x.Lag.Put.P50, x.Lag.QuietPut.P50, x.Lag.BacklogHalf, x.Lag.BacklogEnd, x.Lag.Drained, x.Lag.DrainSeconds)
	case n != nil && n.CopySeconds > 0:
		b.note("  %d transactions, %.1f in flight on average, done after %.2f s, the copy itself %.2f s", n.Transactions, n.MeanInFlight, x.DoneSeconds, n.CopySeconds)
	}
}

// within bounds one turn by -timeout.
func (b *bench) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, b.cfg.timeout, fmt.Errorf("not done after %v (see -timeout)", b.cfg.timeout))
}

func (b *bench) load(ctx context.Context, source *server, flags roleFlags) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	flags.source = source.endpoint
	p, err := startProcess(roleLoad, flags)
	if err != nil {
		return err
	}
	defer p.stop()
	return p.ready(ctx)
}

// idleClient measures a client that only connects: its memory, and the time from its start until it has read from both sides.
func (b *bench) idleClient(ctx context.Context, source, target *server, s *size) error {
	for range 2 { // the first brings the binary into memory
		p, err := startProcess(roleIdle, roleFlags{source: source.endpoint, target: target.endpoint})
		if err != nil {
			return err
		}
		err = p.ready(ctx)
		s.IdleSeconds = time.Since(p.started).Seconds()
		if err == nil {
			s.IdleRSS, err = p.peakRSS()
		}
		p.stop()
		if err != nil {
			return err
		}
	}
	return nil
}
