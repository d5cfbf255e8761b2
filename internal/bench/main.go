// Command bench measures what Understudy's speed depends on, beside its limit.
//
// One run of it loads a source etcd with data as a Kubernetes cluster holds it, and lets all contenders work on it in turns, so that
// all of them meet the same machine. Every etcd and every contender is a process of its own (this binary in a role, see roles.go), with data on disk and fsync on.
//
// With -measure copy, the contenders copy it to a fresh target each: the base copy of Understudy, `etcdctl make-mirror`, and writers that show what the target can take.
// After each copy the content of both sides is compared, values included; a difference fails the run.
//
// With -measure check, a target is given the same content, and the contenders read both sides: drcheck's comparison, and readers that drop what they get,
// which show how fast both sides can be read at all. Each must have read exactly what is there, and the check must find the sides equal.
//
// It needs Linux: memory and CPU time are read from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	measure        measurement
	keys           []int
	runs           int
	skipMakeMirror bool
	filter         bool
	dir, out       string
	timeout        time.Duration
	engine         engineConfig
	cpuProfile     string
}

// engineConfig are the settings of the engine that can be varied; zero is the engine's default.
type engineConfig struct {
	batchOps, batchBytes, inFlight int
}

// copyFlags mean nothing to a check.
var copyFlags = []string{"skip-make-mirror", "batch-ops", "batch-bytes", "in-flight"}

func main() {
	if runRole(os.Args) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the whole benchmark: results go to out, progress to progress.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	cfg, err := parseFlags(args, progress)
	if err != nil {
		return err
	}
	b, err := newBench(cfg, progress)
	if err != nil {
		return err
	}
	result, err := b.measureAll(ctx)
	if err = errors.Join(err, b.close()); err != nil {
		return err
	}
	if err := result.writeText(out); err != nil {
		return err
	}
	if cfg.out == "" {
		return nil
	}
	return result.writeFiles(cfg.out)
}

func parseFlags(args []string, usage io.Writer) (cfg config, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(usage)
	measure := fs.String("measure", "copy", "what to measure: copy (the base copy) or check (drcheck's comparison)")
	keys := fs.String("keys", "20000", "keys at the source; several sizes with commas between")
	fs.IntVar(&cfg.runs, "runs", 3, "runs of each contender and size")
	fs.BoolVar(&cfg.skipMakeMirror, "skip-make-mirror", false, "leave make-mirror out")
	fs.BoolVar(&cfg.filter, "filter", false, "copy and compare what the default key filter keeps; otherwise all keys")
	fs.StringVar(&cfg.dir, "dir", os.TempDir(), "where the etcds keep their data while they run: a directory on a real disk")
	fs.StringVar(&cfg.out, "out", "", "directory to write base-copy.md and base-copy.json to, or check.md and check.json; empty: neither")
	fs.DurationVar(&cfg.timeout, "timeout", 20*time.Minute, "limit of one copy or reading")
	fs.IntVar(&cfg.engine.batchOps, "batch-ops", 0, "Understudy's BatchOps; 0: its default")
	fs.IntVar(&cfg.engine.batchBytes, "batch-bytes", 0, "Understudy's BatchBytes; 0: its default")
	fs.IntVar(&cfg.engine.inFlight, "in-flight", 0, "Understudy's InFlight; 0: its default")
	fs.StringVar(&cfg.cpuProfile, "cpuprofile", "", "file for a CPU profile of the Understudy or check-content process in the last of its runs")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("argument %q is not expected: all settings are flags", fs.Arg(0))
	}
	var ok bool
	if cfg.measure, ok = measurements[*measure]; !ok {
		return cfg, fmt.Errorf("-measure: %q is unknown: use copy or check", *measure)
	}
	var stray error
	fs.Visit(func(f *flag.Flag) {
		if *measure != "copy" && slices.Contains(copyFlags, f.Name) {
			stray = fmt.Errorf("-%s says how to copy: leave it out with -measure %s", f.Name, *measure)
		}
	})
	if stray != nil {
		return cfg, stray
	}
	for field := range strings.SplitSeq(*keys, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 1 {
			return cfg, fmt.Errorf("-keys: %q is no number of keys: use one such as 20000, or several with commas between", field)
		}
		cfg.keys = append(cfg.keys, n)
	}
	for name, value := range map[string]int{"batch-ops": cfg.engine.batchOps, "batch-bytes": cfg.engine.batchBytes, "in-flight": cfg.engine.inFlight} {
		if value < 0 {
			return cfg, fmt.Errorf("-%s: %d is negative: use 0 for the engine's default", name, value)
		}
	}
	if cfg.runs < 1 {
		return cfg, fmt.Errorf("-runs: %d is below 1", cfg.runs)
	}
	if cfg.timeout <= 0 {
		return cfg, fmt.Errorf("-timeout: %v is not above zero", cfg.timeout)
	}
	return cfg, nil
}
