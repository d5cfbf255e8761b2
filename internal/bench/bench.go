package main

import (
	"context"
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
	// turns adds the samples of all runs. The source is loaded, and kept of its keys take part.
	turns   func(b *bench, ctx context.Context, source *server, kept int, s *size) error
	columns []string
	row     func(s size, contender string) []string
	// notes say what the table means.
	notes func(r *result) []string
}

// measurements are what -measure chooses from.
var measurements = map[string]measurement{"copy": copyMeasurement, "check": checkMeasurement}

// contender is one way to fill a target, to read or to compare both sides.
type contender struct {
	name string
	role string
	// all: it copies every key, whatever the filter says.
	all   bool
	shape writerShape // of a writer
}

// sample is one turn of a contender.
type sample struct {
	Contender string `json:"contender"`
	Run       int    `json:"run"`
	// Keys and Bytes (of keys and values) are what was copied, or what each side holds that was compared.
	Keys  int   `json:"keys"`
	Bytes int64 `json:"bytes"`
	cost
	// DoneSeconds is the time until Understudy itself said that the base copy was done.
	DoneSeconds float64   `json:"doneSeconds,omitempty"`
	Counters    *counters `json:"counters,omitempty"`
	// Seen is what a contender of the check has read.
	Seen *seen `json:"seen,omitempty"`
}

// measureAll measures every size.
func (b *bench) measureAll(ctx context.Context) (*result, error) {
	r, err := newResult(b.cfg, b.dir)
	if err != nil {
		return nil, err
	}
	for _, keys := range b.cfg.keys {
		s := size{Keys: keys}
		if err := b.withEtcd(ctx, func(source *server) error { return b.measureSize(ctx, source, &s) }); err != nil {
			return nil, fmt.Errorf("%d keys: %w", keys, err)
		}
		r.Sizes = append(r.Sizes, s)
	}
	return r, nil
}

func (b *bench) measureSize(ctx context.Context, source *server, s *size) error {
	began := time.Now()
	if err := b.load(ctx, source, s.Keys); err != nil {
		return err
	}
	kept, err := census(ctx, source.client, b.keep)
	if err != nil {
		return err
	}
	b.note("%d keys: source loaded in %.1f s, %d keys take part", s.Keys, time.Since(began).Seconds(), kept)
	if err := b.withEtcd(ctx, func(target *server) error { return b.idle(ctx, source, target, s) }); err != nil {
		return err
	}
	return b.cfg.measure.turns(b, ctx, source, kept, s)
}

// add notes a sample.
func (s *size) add(b *bench, x sample) {
	b.note("%d keys, run %d: %-13s %8.2f s, %6.0f keys/s, CPU: own %.2f s, source %.2f s, target %.2f s, lost %.2f s, peak RSS %.0f MB",
		s.Keys, x.Run, x.Contender, x.Seconds, rate(x), x.CPUSeconds, x.SourceCPUSeconds, x.TargetCPUSeconds, x.LostCPUSeconds, float64(x.PeakRSS)/1e6)
	if n := x.Counters; n != nil {
		b.note("  %d transactions, %.1f in flight on average, done after %.2f s, the copy itself %.2f s", n.Transactions, n.MeanInFlight, x.DoneSeconds, n.CopySeconds)
	}
	s.Samples = append(s.Samples, x)
}

// within bounds one turn by -timeout.
func (b *bench) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, b.cfg.timeout, fmt.Errorf("not done after %v (see -timeout)", b.cfg.timeout))
}

func (b *bench) load(ctx context.Context, source *server, keys int) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	p, err := startProcess(roleLoad, roleFlags{source: source.endpoint, keys: keys})
	if err != nil {
		return err
	}
	defer p.stop()
	return p.ready(ctx)
}

// idle measures a client that only connects: its memory, and the time from its start until it has read from both sides.
func (b *bench) idle(ctx context.Context, source, target *server, s *size) error {
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
