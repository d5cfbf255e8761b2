package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.etcd.io/etcd/api/v3/version"
)

// result is what one measurement found out. It has a JSON form.
type result struct {
	measure  measurement
	Measure  string    `json:"measure"`
	Began    time.Time `json:"began"`
	Machine  machine   `json:"machine"`
	Runs     int       `json:"runs"`
	Filter   bool      `json:"filter"`
	Settings settings  `json:"settings"`
	// Window and Drain are the flags of these names, in seconds.
	Window float64 `json:"window"`
	Drain  float64 `json:"drain"`
	// IdleWindow and Delay are the flags of these names, in seconds.
	IdleWindow float64 `json:"idleWindow"`
	Delay      float64 `json:"delay"`
	Sizes      []size  `json:"sizes"`
}

type machine struct {
	OS     string `json:"os"`
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Go     string `json:"go"`
	Etcd   string `json:"etcd"`
	Tmpfs  bool   `json:"tmpfs"` // the etcds' data was in memory, where fsync costs nothing
}

// settings of the engine; zero is its default.
type settings struct {
	BatchOps   int `json:"batchOps"`
	BatchBytes int `json:"batchBytes"`
	InFlight   int `json:"inFlight"`
}

// size holds the samples of one number of keys.
type size struct {
	Keys int `json:"keys"`
	// A client that only connects: its memory in bytes, and the time from its start until both sides have answered.
	IdleRSS     int64    `json:"idleRSS"`
	IdleSeconds float64  `json:"idleSeconds"`
	Samples     []sample `json:"samples"`
	// GivenUp counts the copies that make-mirror ended with an error. They were begun again and are not among the samples.
	GivenUp int `json:"givenUp"`

	whole *size // of which this is one case
}

func newResult(cfg config, measure, dir string) (*result, error) {
	tmpfs, err := onTmpfs(dir)
	if err != nil {
		return nil, fmt.Errorf("-dir: %w", err)
	}
	kernel, cpu := hardware()
	return &result{measure: measurements[measure], Measure: measure, Began: time.Now().UTC().Truncate(time.Second), Runs: cfg.runs, Filter: cfg.filter,
		Machine:  machine{OS: runtime.GOOS + "/" + runtime.GOARCH, Kernel: kernel, CPU: cpu, CPUs: runtime.NumCPU(), Go: runtime.Version(), Etcd: version.Version, Tmpfs: tmpfs},
		Settings: settings{cfg.engine.batchOps, cfg.engine.batchBytes, cfg.engine.inFlight}, Window: cfg.window.Seconds(), Drain: cfg.drain.Seconds(),
		IdleWindow: cfg.idleWindow.Seconds(), Delay: cfg.delay.Seconds(),
	}, nil
}

// spread is the distribution of one figure over the runs.
type spread struct{ median, min, max float64 }

// spreadOf takes at least one value.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	s := spread{v[mid], v[0], v[len(v)-1]}
	if len(v)%2 == 0 {
		s.median = (v[mid-1] + v[mid]) / 2
	}
	return s
}

func (s spread) format(verb string) string {
	return fmt.Sprintf(verb+" ("+verb+" to "+verb+")", s.median, s.min, s.max)
}

// byRun is one figure of a contender's runs. Runs that failed are not in it.
type byRun map[int]float64

func (f byRun) spread() (spread, bool) {
	if len(f) == 0 {
		return spread{}, false
	}
	return spreadOf(slices.Collect(maps.Values(f))), true
}

// format and median take "-" for a figure that no run has.
func (f byRun) format(verb string) string {
	if s, ok := f.spread(); ok {
		return s.format(verb)
	}
	return "-"
}

func (f byRun) median(verb string) string {
	if s, ok := f.spread(); ok {
		return fmt.Sprintf(verb, s.median)
	}
	return "-"
}

// of returns one figure of a contender's runs.
func (s size) of(contender string, figure func(sample) float64) byRun {
	values := byRun{}
	for _, x := range s.Samples {
		if x.Contender == contender && x.Failed == "" {
			values[x.Run] = figure(x)
		}
	}
	return values
}

// in is the size with the samples of one case only.
func (s size) in(name string) size {
	all := s
	s.whole = &all
	s.Samples = slices.DeleteFunc(slices.Clone(s.Samples), func(x sample) bool { return x.Case != name })
	return s
}

// cases in the order in which they came first.
func (s size) cases() (names []string) {
	for _, x := range s.Samples {
		if !slices.Contains(names, x.Case) {
			names = append(names, x.Case)
		}
	}
	return names
}

// rate is what is compared, so that contenders that copy different numbers of keys can be.
func rate(x sample) float64 {
	if x.Revisions > 0 {
		return float64(x.Revisions) / x.Seconds
	}
	return float64(x.Keys) / x.Seconds
}

// across picks one rate of the contenders for each run, such as the best.
func (s size) across(contenders []string, pick func([]float64) float64) byRun {
	runs := map[int][]float64{}
	for _, name := range contenders {
		for run, r := range s.of(name, rate) {
			runs[run] = append(runs[run], r)
		}
	}
	picked := byRun{}
	for run, rates := range runs {
		picked[run] = pick(rates)
	}
	return picked
}

// ratios divides run by run: absolute figures move from run to run, ratios within one run hold.
func ratios(a, b byRun) byRun {
	out := byRun{}
	for run, x := range a {
		if y, ok := b[run]; ok && y != 0 {
			out[run] = x / y
		}
	}
	return out
}

// rows are the table, one for each size and contender.
func (r *result) rows() (rows [][]string) {
	for _, s := range r.Sizes {
		for _, c := range s.cases() {
			only := s.in(c)
			for _, name := range only.contenders() {
				rows = append(rows, r.measure.row(only, name))
			}
		}
	}
	return rows
}

// The cells of a contender that are the same in every table.

func (s size) speed(name string) []string {
	return []string{fmt.Sprint(s.Keys), name, s.of(name, seconds).format("%.2f"), s.of(name, rate).median("%.0f")}
}

// ratio takes "-" for what is not to be compared.
func ratio(a, b byRun, verb string) string { return ratios(a, b).format(verb) }

func (s size) median(name, verb string, figure func(sample) float64) string {
	return s.of(name, figure).median(verb)
}

// memory is the peak, and what of it is above an idle client.
func (s size) memory(name string) []string {
	rss := s.of(name, peakMB)
	above := byRun{}
	for run, mb := range rss {
		above[run] = mb - float64(s.IdleRSS)/1e6
	}
	return []string{rss.format("%.0f"), above.median("%.0f")}
}

func seconds(x sample) float64   { return x.Seconds }
func peakMB(x sample) float64    { return float64(x.PeakRSS) / 1e6 }
func ownCPU(x sample) float64    { return x.CPUSeconds }
func sourceCPU(x sample) float64 { return x.SourceCPUSeconds }
func targetCPU(x sample) float64 { return x.TargetCPUSeconds }

// contenders in the order in which they took part first.
func (s size) contenders() (names []string) {
	for _, x := range s.Samples {
		if !slices.Contains(names, x.Contender) {
			names = append(names, x.Contender)
		}
	}
	return names
}

// notes say where and how it was measured, what the table means, and what else happened.
func (r *result) notes() []string {
	m := r.Machine
	disk := "on a disk, with fsync"
	if m.Tmpfs {
		disk = "in memory (tmpfs), where fsync costs nothing, which flatters make-mirror"
	}
	notes := append([]string{fmt.Sprintf("%s, kernel %s, %d CPUs (%s), %s, etcd %s, one member each, on loopback, data %s; %d runs in turns: median (least to most).",
		m.OS, m.Kernel, m.CPUs, m.CPU, m.Go, m.Etcd, disk, r.Runs)}, r.measure.notes(r)...)
	if r.Settings != (settings{}) && slices.Contains(mirrorMeasurements, r.Measure) {
		notes = append(notes, fmt.Sprintf("Understudy with BatchOps %d, BatchBytes %d, InFlight %d (0: default).", r.Settings.BatchOps, r.Settings.BatchBytes, r.Settings.InFlight))
	}
	for _, s := range r.Sizes {
		bytes := int64(0)
		for _, x := range s.Samples {
			bytes = max(bytes, x.Bytes)
		}
		note := fmt.Sprintf("%d keys: %.0f MB of keys and values; ", s.Keys, float64(bytes)/1e6)
		if s.IdleRSS > 0 {
			note += fmt.Sprintf("an idle client has %.0f MB and is ready after %.2f s; ", float64(s.IdleRSS)/1e6, s.IdleSeconds)
		}
		if lost := s.lostShare(m.CPUs); len(lost) > 0 {
			note += fmt.Sprintf("other processes and machines used %s %% of the CPUs meanwhile.", spreadOf(lost).format("%.0f"))
		}
		notes = append(notes, note)
		if s.GivenUp > 0 {
			notes = append(notes, fmt.Sprintf("%d keys: make-mirror ended with an error %d times and was started again with a fresh target; these attempts are not in the table.", s.Keys, s.GivenUp))
		}
		for _, x := range s.Samples {
			if x.Failed != "" {
				notes = append(notes, fmt.Sprintf("FAILED, not in the table: %s.", s.describe(x)))
			}
		}
	}
	return notes
}

// describe names a failed sample and says what went wrong.
func (s size) describe(x sample) string {
	where := fmt.Sprintf("%d keys, ", s.Keys)
	if x.Case != "" {
		where += x.Case + ", "
	}
	return fmt.Sprintf("%s%s, run %d: %s", where, x.Contender, x.Run, strings.Join(strings.Fields(x.Failed), " "))
}

// failures are an error for each turn that failed.
func (r *result) failures() error {
	var errs []error
	for _, s := range r.Sizes {
		for _, x := range s.Samples {
			if x.Failed != "" {
				errs = append(errs, errors.New(r.Measure+": "+s.describe(x)))
			}
		}
	}
	return errors.Join(errs...)
}

// lostShare is how much of the machine the benchmark did not get, in percent, for each sample.
func (s size) lostShare(cpus int) (percent []float64) {
	for _, x := range s.Samples {
		if x.Failed != "" {
			continue
		}
		percent = append(percent, 100*x.LostCPUSeconds/(x.Seconds*float64(cpus)))
	}
	return percent
}

func (r *result) writeText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(r.measure.columns, "\t"))
	for _, row := range r.rows() {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(r.notes(), "\n"))
	return err
}

func (r *result) markdown() string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(r.measure.columns)
	b.WriteString(strings.Repeat("|---", len(r.measure.columns)) + "|\n")
	for _, row := range r.rows() {
		line(row)
	}
	b.WriteString("\n")
	for _, note := range r.notes() {
		b.WriteString("- " + note + "\n")
	}
	return b.String()
}

// writeFiles writes the report as Markdown and as JSON.
func (r *result) writeFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("-out: %w", err)
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	for extension, data := range map[string][]byte{".md": []byte(r.markdown()), ".json": append(raw, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, r.measure.file+extension), data, 0o644); err != nil {
			return fmt.Errorf("-out: %w", err)
		}
	}
	return nil
}
