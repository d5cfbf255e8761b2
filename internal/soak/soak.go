// Package soak runs mirrors under random schedules of traffic and faults and holds what they did against the promises.
//
// A schedule is a source and a target of one or three members, fault proxies between the mirror and each member of both, traffic at
// the source, one to three replicas of the mirror, in this process or in processes of their own, and other writers at the target.
// What it draws follows from its seed, step by step; what it finds to draw from, and how the replicas' work falls in between, do
// not. Its verdict never depends on time: faults end, and then everything has to come right, however long it takes within a generous limit.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// Options say how much is run. The zero value runs one schedule with a seed of its own, without child processes.
type Options struct {
	// Seed is that of the first schedule; the others count up from it. 0 draws one.
	Seed uint64
	// Schedules bounds the number of schedules. 0 means one, or as many as Duration allows.
	Schedules int
	// Duration is how long new schedules begin. 0 means until Schedules have begun.
	Duration time.Duration
	// Parallel is how many schedules run at once. 0 means 1.
	Parallel int
	// MaxFailures ends the run when so many schedules have failed. 0 means 3.
	MaxFailures int

	// Steps is the number of steps of a schedule. 0 means 30.
	// A seed gives the same schedule only with the same Steps, Replicas and Quiet, and with or without Child.
	Steps int
	// Replicas bounds the number of replicas, from 1 to 3. 0 means 3.
	Replicas int
	// Quiet leaves the target to the mirror: nobody else writes there.
	Quiet bool
	// Child starts a process that calls RunReplica, with NAME=value pairs added to its environment, so that replicas can be
	// killed and paused. nil runs all replicas in this process.
	Child func(env []string) (Child, error)
	// Progress writes a line per schedule.
	Progress bool
}

// complete fills in the defaults and checks every field.
func (o Options) complete() (Options, error) {
	var errs []error
	for _, n := range []struct {
		field      string
		value      *int
		def, limit int
	}{
		{"Schedules", &o.Schedules, 0, 1 << 30}, {"Parallel", &o.Parallel, 1, 64}, {"MaxFailures", &o.MaxFailures, 3, 1 << 30},
		{"Steps", &o.Steps, 30, 1 << 20}, {"Replicas", &o.Replicas, 3, 3},
	} {
		if *n.value < 0 || *n.value > n.limit {
			errs = append(errs, fmt.Errorf("soak: Options.%s is %d: use 0 for the default or a number up to %d", n.field, *n.value, n.limit))
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if o.Duration < 0 {
		errs = append(errs, fmt.Errorf("soak: Options.Duration is %v: use 0 or a positive duration", o.Duration))
	}
	if o.Schedules == 0 && o.Duration == 0 {
		o.Schedules = 1
	}
	for o.Seed == 0 {
		o.Seed = rand.Uint64() >> 2
	}
	return o, errors.Join(errs...)
}

// Run runs schedules until the options end it, and writes what failed to out: the seed, the configuration, the steps and the
// violations, never a value. Violations are in the report; an error means that the options are wrong or that ctx has ended.
func Run(ctx context.Context, opts Options, out io.Writer) (Report, error) {
	opts, err := opts.complete()
	if err != nil {
		return Report{}, err
	}
	var (
		total   = newReport()
		began   = time.Now()
		mu      sync.Mutex // guards total, next and out
		next    int
		workers sync.WaitGroup
	)
	begin := func() (seed uint64, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil || len(total.Failed) >= opts.MaxFailures || opts.Schedules > 0 && next >= opts.Schedules ||
			opts.Duration > 0 && time.Since(began) >= opts.Duration {
			return 0, false
		}
		next++
		return (opts.Seed + uint64(next-1)) % (1 << 62), true
	}
	for range opts.Parallel {
		workers.Go(func() {
			for {
				seed, ok := begin()
				if !ok {
					return
				}
				s := newSchedule(seed, opts)
				s.run(ctx)
				mu.Lock()
				total.add(s)
				if s.failed() {
					s.describe(out)
				} else if opts.Progress {
					fmt.Fprintf(out, "seed %d: %v, %d writes, %d keys\n", seed, time.Since(s.began).Round(time.Millisecond), s.report.Writes, s.report.Keys)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	total.Took = time.Since(began)
	if ctx.Err() != nil {
		err = fmt.Errorf("soak: cut short: %w", context.Cause(ctx))
	}
	return *total, err
}
