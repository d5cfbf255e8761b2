// Command bench measures the base copy of Understudy beside `etcdctl make-mirror`, and both beside what the target can take.
//
// One run of it loads a source etcd with data as a Kubernetes cluster holds it, and lets each contender copy it to a fresh target, in turns, so that
// all of them meet the same machine. Every etcd and every contender is a process of its own (this binary in a role, see roles.go), with data on disk and fsync on.
// After each copy the content of both sides is compared, values included; a difference fails the run.
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
	"strconv"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
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
	keys := fs.String("keys", "20000", "keys at the source; several sizes with commas between")
	fs.IntVar(&cfg.runs, "runs", 3, "runs of each contender and size")
	fs.BoolVar(&cfg.skipMakeMirror, "skip-make-mirror", false, "leave make-mirror out")
	fs.BoolVar(&cfg.filter, "filter", false, "Understudy and the bare writer copy what the default key filter keeps; otherwise all keys")
	fs.StringVar(&cfg.dir, "dir", os.TempDir(), "where the etcds keep their data while they run: a directory on a real disk")
	fs.StringVar(&cfg.out, "out", "", "directory to write base-copy.md and base-copy.json to; empty: neither")
	fs.DurationVar(&cfg.timeout, "timeout", 20*time.Minute, "limit of one copy")
	fs.IntVar(&cfg.engine.batchOps, "batch-ops", 0, "Understudy's BatchOps; 0: its default")
	fs.IntVar(&cfg.engine.batchBytes, "batch-bytes", 0, "Understudy's BatchBytes; 0: its default")
	fs.IntVar(&cfg.engine.inFlight, "in-flight", 0, "Understudy's InFlight; 0: its default")
	fs.StringVar(&cfg.cpuProfile, "cpuprofile", "", "file for a CPU profile of the Understudy process in the last of its runs")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("argument %q is not expected: all settings are flags", fs.Arg(0))
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
