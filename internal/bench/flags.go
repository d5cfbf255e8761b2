package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// config is what the flags say.
type config struct {
	measures       []string
	all            bool // every measurement
	keys           []int
	runs           int
	skipMakeMirror bool
	filter         bool
	dir, out       string
	timeout        time.Duration
	engine         engineConfig
	cpuProfile     string
	rates          []int // writes/s; 0 is as fast as the source takes
	window, drain  time.Duration
	backlog        int // revisions
	idleWindow     time.Duration
	delay          time.Duration // each way
}

// engineConfig are the settings of the engine that can be varied; zero is the engine's default.
type engineConfig struct {
	batchOps, batchBytes, inFlight int
}

// concerns names the measurements of flags that mean nothing to the others.
var concerns = map[string][]string{
	"rates": {"tail"}, "window": {"tail", "wan"}, "drain": {"tail", "wan"}, "backlog": {"backlog"}, "idle-window": {"idle"}, "delay": {"wan"},
	"skip-make-mirror": mirrorMeasurements, "batch-ops": mirrorMeasurements, "batch-bytes": mirrorMeasurements, "in-flight": mirrorMeasurements,
}

// mirrorMeasurements are those in which mirrors work.
var mirrorMeasurements = []string{"copy", "tail", "backlog", "resync", "idle", "wan"}

// quickValues are those of -quick, for flags that are not given.
var quickValues = map[string]string{"keys": "2000", "runs": "1", "window": "3s", "drain": "5s", "backlog": "5000", "idle-window": "5s"}

func parseFlags(args []string, usage io.Writer) (cfg config, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(usage)
	measure := fs.String("measure", "copy", "what to measure: "+strings.Join(measurementOrder, ", ")+", or all; with all, the figures that depend little on the number of keys are taken for the first size only")
	quick := fs.Bool("quick", false, "small sizes and one run, to see that everything works; the figures mean little")
	keys := fs.String("keys", "20000", "keys at the source; several sizes with commas between")
	fs.IntVar(&cfg.runs, "runs", 3, "runs of each contender and size")
	fs.BoolVar(&cfg.skipMakeMirror, "skip-make-mirror", false, "leave make-mirror out")
	fs.BoolVar(&cfg.filter, "filter", false, "mirror and compare what the default key filter keeps; otherwise all keys (wan always filters)")
	fs.StringVar(&cfg.dir, "dir", os.TempDir(), "where the etcds keep their data while they run: a directory on a real disk")
	fs.StringVar(&cfg.out, "out", "", "directory to write a report of each measurement to, as Markdown and as JSON; empty: neither")
	fs.DurationVar(&cfg.timeout, "timeout", 20*time.Minute, "limit of one turn of a contender")
	fs.IntVar(&cfg.engine.batchOps, "batch-ops", 0, "Understudy's BatchOps; 0: its default")
	fs.IntVar(&cfg.engine.batchBytes, "batch-bytes", 0, "Understudy's BatchBytes; 0: its default")
	fs.IntVar(&cfg.engine.inFlight, "in-flight", 0, "Understudy's InFlight; 0: its default")
	fs.StringVar(&cfg.cpuProfile, "cpuprofile", "", "file for a CPU profile of the Understudy or check-content process in the last of its runs")
	rates := fs.String("rates", "200,1000,3000,max", "tail: writes/s; max is as fast as the source takes")
	fs.DurationVar(&cfg.window, "window", 15*time.Second, "tail, wan: how long is written")
	fs.DurationVar(&cfg.drain, "drain", 30*time.Second, "tail, wan: how long a mirror may take for what is left when the writes have ended")
	fs.IntVar(&cfg.backlog, "backlog", 50_000, "backlog: revisions that are written while the mirror is away")
	fs.DurationVar(&cfg.idleWindow, "idle-window", 20*time.Second, "idle: how long nobody writes")
	fs.DurationVar(&cfg.delay, "delay", 25*time.Millisecond, "wan: delay between source and mirror, each way")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("argument %q is not expected: all settings are flags", fs.Arg(0))
	}
	if err := cfg.choose(*measure); err != nil {
		return cfg, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if list := concerns[name]; list != nil && !cfg.all && !slices.Contains(list, *measure) {
			return cfg, fmt.Errorf("-%s does not concern -measure %s: leave it out", name, *measure)
		}
	}
	if *quick {
		for name, value := range quickValues {
			if !given[name] {
				if err := fs.Set(name, value); err != nil {
					return cfg, err
				}
			}
		}
	}
	if cfg.keys, err = numbers("keys", "no number of keys: use one such as 20000, or several with commas between", *keys); err != nil {
		return cfg, err
	}
	const noRate = "no rate: use writes per second such as 200, or max, or several with commas between"
	if cfg.rates, err = numbers("rates", noRate, strings.ReplaceAll(*rates, "max", strconv.Itoa(maxRate))); err != nil {
		return cfg, err
	}
	return cfg, cfg.check()
}

// choose takes the value of -measure.
func (c *config) choose(measure string) error {
	switch _, ok := measurements[measure]; {
	case measure == "all":
		c.all, c.measures = true, measurementOrder
	case ok:
		c.measures = []string{measure}
	default:
		return fmt.Errorf("-measure: %q is unknown: use %s or all", measure, strings.Join(measurementOrder, ", "))
	}
	return nil
}

// maxRate stands for as fast as the source takes: no etcd takes as much.
const maxRate = 1_000_000

func numbers(name, wrong, list string) (values []int, err error) {
	for field := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-%s: %q is %s", name, field, wrong)
		}
		values = append(values, n)
	}
	return values, nil
}

// check finds values that cannot be.
func (c *config) check() error {
	var errs []error
	for name, value := range map[string]int{"batch-ops": c.engine.batchOps, "batch-bytes": c.engine.batchBytes, "in-flight": c.engine.inFlight} {
		if value < 0 {
			errs = append(errs, fmt.Errorf("-%s: %d is negative: use 0 for the engine's default", name, value))
		}
	}
	for name, value := range map[string]int{"runs": c.runs, "backlog": c.backlog} {
		if value < 1 {
			errs = append(errs, fmt.Errorf("-%s: %d is below 1", name, value))
		}
	}
	for name, value := range map[string]time.Duration{"timeout": c.timeout, "window": c.window, "drain": c.drain, "idle-window": c.idleWindow, "delay": c.delay} {
		if value <= 0 {
			errs = append(errs, fmt.Errorf("-%s: %v is not above zero", name, value))
		}
	}
	return errors.Join(errs...)
}
