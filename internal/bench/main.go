// Command bench measures what Understudy's speed depends on, beside `etcdctl make-mirror` and beside what the etcds themselves can do.
//
// One run of it loads a source etcd with data as a Kubernetes cluster holds it, and lets all contenders work on it in turns, so that
// all of them meet the same machine. Every etcd and every contender is a process of its own (this binary in a role, see roles.go), with data on disk and fsync on.
// After each turn the content of both sides is compared, values included; a turn that leaves a difference counts as failed, and so does the run.
//
// With -measure copy, the contenders copy it to a fresh target each: the base copy of Understudy, make-mirror, and writers that show what the target can take.
//
// With -measure check, a target is given the same content, and the contenders read both sides: drcheck's comparison, and readers that drop what they get,
// which show how fast both sides can be read at all. Each must have read exactly what is there, and the check must find the sides equal.
//
// With -measure tail, a mirror follows a source that is written to at several rates, and the benchmark measures how long each write takes from the source to the target,
// beside what a put at the target takes.
//
// With -measure backlog, many revisions are written while nobody mirrors, and the contenders catch up. With -measure resync, the source is compacted besides.
// With -measure idle, nobody writes. With -measure wan, the source is behind a proxy that delays, and the bytes that cross are counted.
//
// With -measure all, all of these are made, and a summary puts their main figures into one table.
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
	"syscall"
)

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
	return errors.Join(b.report(ctx, out), b.close())
}

// report measures and writes each result as soon as it is there. Turns that failed are in the reports and are an error at the end.
func (b *bench) report(ctx context.Context, out io.Writer) error {
	var failed []error
	var results []*result
	for _, name := range b.cfg.measures {
		r, err := b.measureAll(ctx, name)
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		if b.cfg.all {
			fmt.Fprintf(out, "\n%s\n\n", r.measure.file)
		}
		if err := r.writeText(out); err != nil {
			return err
		}
		if b.cfg.out != "" {
			if err := r.writeFiles(b.cfg.out); err != nil {
				return err
			}
		}
		failed, results = append(failed, r.failures()), append(results, r)
	}
	if b.cfg.all {
		all := summarize(results)
		fmt.Fprintf(out, "\n%s", all.markdown())
		if b.cfg.out != "" {
			failed = append(failed, all.writeFiles(b.cfg.out))
		}
	}
	return errors.Join(failed...)
}
