package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
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

// contender is one way to fill a target.
type contender struct {
	name string
	role string
	// all: it copies every key, whatever the filter says.
	all   bool
	shape writerShape // of a writer
}

func (b *bench) contenders() []contender {
	list := []contender{{name: roleUnderstudy, role: roleUnderstudy}}
	if !b.cfg.skipMakeMirror {
		list = append(list, contender{name: roleMakeMirror, role: roleMakeMirror, all: true})
	}
	for _, shape := range writerShapes {
		list = append(list, contender{name: shape.String(), role: roleWriter, shape: shape})
	}
	return list
}

// sample is one copy that was measured. Times are in seconds, memory is in bytes.
type sample struct {
	Contender string `json:"contender"`
	Run       int    `json:"run"`
	Keys      int    `json:"keys"`
	Bytes     int64  `json:"bytes"` // of keys and values
	// Seconds is the time from the start of the process until the target holds all keys. The bare writer's begins when it has all in memory.
	Seconds float64 `json:"seconds"`
	// DoneSeconds is the time until Understudy itself said that the base copy was done.
	DoneSeconds float64 `json:"doneSeconds,omitempty"`
	// CPUSeconds (over Seconds) and PeakRSS are those of the contender's process.
	CPUSeconds float64 `json:"cpuSeconds"`
	PeakRSS    int64   `json:"peakRSS"`
	// What the etcds used meanwhile, and what was lost: to other processes, and to other machines on the same hardware.
	SourceCPUSeconds float64   `json:"sourceCPUSeconds"`
	TargetCPUSeconds float64   `json:"targetCPUSeconds"`
	LostCPUSeconds   float64   `json:"lostCPUSeconds"`
	Counters         *counters `json:"counters,omitempty"`
}

// makeMirrorAttempts: make-mirror ends at the first request that fails, such as on a machine that is busy with other things. Then it is started anew, with a fresh target.
const makeMirrorAttempts = 5

// measureAll measures every size.
func (b *bench) measureAll(ctx context.Context) (*result, error) {
	r, err := newResult(b.cfg, b.dir)
	if err != nil {
		return nil, err
	}
	for _, keys := range b.cfg.keys {
		s, err := b.measureSize(ctx, keys)
		if err != nil {
			return nil, fmt.Errorf("%d keys: %w", keys, err)
		}
		r.Sizes = append(r.Sizes, s)
	}
	return r, nil
}

func (b *bench) measureSize(ctx context.Context, keys int) (s size, err error) {
	s.Keys = keys
	source, err := b.startEtcd(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	began := time.Now()
	if err := b.load(ctx, source, keys); err != nil {
		return s, err
	}
	kept, err := census(ctx, source.client, b.keep)
	if err != nil {
		return s, err
	}
	b.note("%d keys: source loaded in %.1f s, %d keys take part", keys, time.Since(began).Seconds(), kept)
	if s.IdleRSS, s.IdleSeconds, err = b.idle(ctx, source); err != nil {
		return s, err
	}
	contenders := b.contenders()
	for run := 1; run <= b.cfg.runs; run++ {
		for i := range contenders {
			c := contenders[(i+run-1)%len(contenders)] // nobody is always the first
			want, keep := kept, b.keep
			if c.all {
				want, keep = keys, func([]byte) bool { return true }
			}
			sample, err := b.measure(ctx, source, c, run, want, keep)
			for attempt := 1; c.role == roleMakeMirror && errors.Is(err, errEnded) && attempt < makeMirrorAttempts; attempt++ {
				b.note("%d keys, run %d: once more: %v", keys, run, err)
				s.GivenUp++
				sample, err = b.measure(ctx, source, c, run, want, keep)
			}
			if err != nil {
				return s, fmt.Errorf("%s, run %d: %w", c.name, run, err)
			}
			b.note("%d keys, run %d: %-12s %8.2f s, %6.0f keys/s, CPU: own %.2f s, source %.2f s, target %.2f s, lost %.2f s, peak RSS %.0f MB",
				keys, run, c.name, sample.Seconds, float64(sample.Keys)/sample.Seconds, sample.CPUSeconds, sample.SourceCPUSeconds, sample.TargetCPUSeconds,
				sample.LostCPUSeconds, float64(sample.PeakRSS)/1e6)
			if n := sample.Counters; n != nil {
				b.note("  %d transactions, %.1f in flight on average, done after %.2f s, the copy itself %.2f s", n.Transactions, n.MeanInFlight, sample.DoneSeconds, n.CopySeconds)
			}
			s.Samples = append(s.Samples, sample)
		}
	}
	return s, nil
}

func (b *bench) load(ctx context.Context, source *server, keys int) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.timeout)
	defer cancel()
	p, err := startProcess(roleLoad, roleFlags{source: source.endpoint, keys: keys})
	if err != nil {
		return err
	}
	defer p.stop()
	return p.ready(ctx)
}

// idle measures a client that only connects: its memory, and the time from its start until it has read from both sides.
func (b *bench) idle(ctx context.Context, source *server) (rss int64, seconds float64, err error) {
	target, err := b.startEtcd(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	for range 2 { // the first brings the binary into memory
		p, err := startProcess(roleIdle, roleFlags{source: source.endpoint, target: target.endpoint})
		if err != nil {
			return 0, 0, err
		}
		err = p.ready(ctx)
		seconds = time.Since(p.started).Seconds()
		if err == nil {
			rss, err = p.peakRSS()
		}
		p.stop()
		if err != nil {
			return 0, 0, err
		}
	}
	return rss, seconds, nil
}

// measure lets one contender fill a fresh target and compares what it made.
func (b *bench) measure(ctx context.Context, source *server, c contender, run, want int, keep func([]byte) bool) (s sample, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.timeout, fmt.Errorf("not done after %v (see -timeout)", b.cfg.timeout))
	defer cancel()
	target, err := b.startEtcd(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, target.close()) }()

	flags := roleFlags{source: source.endpoint, target: target.endpoint, filter: b.cfg.filter, engine: b.cfg.engine, writer: c.shape}
	if c.role == roleUnderstudy && run == b.cfg.runs {
		flags.cpuProfile = b.cfg.cpuProfile
	}
	before, err := usage(source, target)
	if err != nil {
		return s, err
	}
	p, err := startProcess(c.role, flags)
	if err != nil {
		return s, err
	}
	defer p.stop()
	began, ownBefore := p.started, time.Duration(0)
	if c.role == roleWriter {
		if err := p.ready(ctx); err != nil {
			return s, err
		}
		if ownBefore, err = p.cpuTime(); err != nil {
			return s, err
		}
		if before, err = usage(source, target); err != nil {
			return s, err
		}
		began = time.Now()
		if err := p.order(goLine); err != nil {
			return s, p.failure()
		}
	}
	// Understudy's own word arrives while the target is being asked.
	type word struct {
		line string
		at   time.Time
		err  error
	}
	said := make(chan word, 1)
	if c.role == roleUnderstudy {
		go func() {
			line, err := p.line(ctx)
			said <- word{line, time.Now(), err}
		}()
	}
	held, err := p.untilHeld(ctx, target.client, want)
	if err != nil {
		return s, err
	}
	s = sample{Contender: c.name, Run: run, Seconds: held.Sub(began).Seconds()}
	if c.role == roleUnderstudy {
		w := <-said
		if w.err != nil {
			return s, w.err
		}
		s.DoneSeconds = w.at.Sub(began).Seconds()
		if err := json.Unmarshal([]byte(w.line), &s.Counters); err != nil {
			return s, fmt.Errorf("counters: %w", err)
		}
	}
	after, err := usage(source, target)
	if err != nil {
		return s, err
	}
	if s.PeakRSS, err = p.peakRSS(); err != nil {
		return s, err
	}
	s.CPUSeconds = (p.stop() - ownBefore).Seconds()
	s.SourceCPUSeconds = (after.source - before.source).Seconds()
	s.TargetCPUSeconds = (after.target - before.target).Seconds()
	// The clock that counts all is a coarse one, so a small remainder may come out below zero.
	others := max(0, (after.machine-before.machine).Seconds()-s.SourceCPUSeconds-s.TargetCPUSeconds-s.CPUSeconds)
	s.LostCPUSeconds = others + (after.stolen - before.stolen).Seconds()
	equal, err := compare(ctx, source.client, target.client, keep)
	s.Keys, s.Bytes = equal.keys, equal.bytes
	return s, err
}

// untilHeld asks the target for its number of keys until it has all, and returns when that was. A count walks over all keys, so it must not be asked for all the time:
// a pacer spaces the questions.
func (p *process) untilHeld(ctx context.Context, target *clientv3.Client, want int) (time.Time, error) {
	pace := pacer{want: want}
	for {
		asked := time.Now()
		resp, err := get(ctx, target, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		if err != nil {
			return time.Time{}, fmt.Errorf("target: count: %w", err)
		}
		now := time.Now()
		count := int(resp.Count)
		switch {
		case count == want:
			return now, nil
		case count > want:
			return now, fmt.Errorf("the target has %d keys below %s, the source %d", count, prefix, want)
		}
		timer := time.NewTimer(pace.next(count, asked, now))
		select {
		case <-timer.C:
		case <-p.ended:
			timer.Stop()
			return now, p.failure()
		case <-ctx.Done():
			timer.Stop()
			return now, fmt.Errorf("the target has %d of %d keys: %w", count, want, context.Cause(ctx))
		}
	}
}

// pacer says how long to wait before the next count: half of what the rest should take at the rate of late, so that the questions are few, and the last ones
// lie a few milliseconds apart. No pause is more than twice as long as the one before, so that a slow start is not taken for the rate.
type pacer struct {
	want  int
	count int
	at    time.Time
	pause time.Duration
}

// next takes what was counted, and when.
func (p *pacer) next(count int, asked, answered time.Time) time.Duration {
	const shortest, longest = 2 * time.Millisecond, time.Second
	pause := 2 * p.pause
	if gained := count - p.count; gained > 0 && !p.at.IsZero() {
		rest := answered.Sub(p.at).Seconds() * float64(p.want-count) / float64(gained)
		pause = min(pause, time.Duration(rest/2*float64(time.Second)))
	}
	// A target that is asked for large counts must have time for other things, too.
	p.pause = min(max(pause, 2*answered.Sub(asked), shortest), longest)
	if count == 0 {
		p.pause = shortest
	}
	p.count, p.at = count, answered
	return p.pause
}

// consumption is CPU time used so far.
type consumption struct{ source, target, machine, stolen time.Duration }

func usage(source, target *server) (c consumption, err error) {
	var errs [3]error
	c.source, errs[0] = source.process.cpuTime()
	c.target, errs[1] = target.process.cpuTime()
	c.machine, c.stolen, errs[2] = machineCPUTime()
	return c, errors.Join(errs[:]...)
}

// server is an etcd of the benchmark.
type server struct {
	process  *process
	endpoint string
	client   *clientv3.Client
	dir      string
}

func (b *bench) startEtcd(ctx context.Context) (*server, error) {
	dir, err := os.MkdirTemp(b.dir, "etcd-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	if s.process, err = startProcess(roleEtcd, roleFlags{dir: dir}); err != nil {
		return nil, err
	}
	if s.endpoint, err = s.process.line(ctx); err == nil {
		s.client, err = connect(s.endpoint)
	}
	if err == nil {
		_, err = get(ctx, s.client, prefix)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close kills the server: its data is not needed any more.
func (s *server) close() error {
	var err error
	if s.client != nil {
		err = s.client.Close()
	}
	s.process.stop()
	return errors.Join(err, os.RemoveAll(s.dir))
}
