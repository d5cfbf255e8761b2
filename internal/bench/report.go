package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.etcd.io/etcd/api/v3/version"
)

// result is what one benchmark found out. Its JSON form is base-copy.json or check.json.
type result struct {
	measure  measurement
	Began    time.Time `json:"began"`
	Machine  machine   `json:"machine"`
	Runs     int       `json:"runs"`
	Filter   bool      `json:"filter"`
	Settings settings  `json:"settings"`
	Sizes    []size    `json:"sizes"`
}

type machine struct {
	OS    string `json:"os"`
	CPUs  int    `json:"cpus"`
	Go    string `json:"go"`
	Etcd  string `json:"etcd"`
	Tmpfs bool   `json:"tmpfs"` // the etcds' data was in memory, where fsync costs nothing
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
}

func newResult(cfg config, dir string) (*result, error) {
	tmpfs, err := onTmpfs(dir)
	if err != nil {
		return nil, fmt.Errorf("-dir: %w", err)
	}
	return &result{measure: cfg.measure, Began: time.Now().UTC().Truncate(time.Second), Runs: cfg.runs, Filter: cfg.filter,
		Machine:  machine{OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(), Etcd: version.Version, Tmpfs: tmpfs},
		Settings: settings{cfg.engine.batchOps, cfg.engine.batchBytes, cfg.engine.inFlight},
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

// of returns one figure of a contender's runs, in the order of the runs.
func (s size) of(contender string, figure func(sample) float64) (values []float64) {
	for _, x := range s.Samples {
		if x.Contender == contender {
			values = append(values, figure(x))
		}
	}
	return values
}

// rate is what is compared, so that contenders that copy different numbers of keys can be.
func rate(x sample) float64 { return float64(x.Keys) / x.Seconds }

// across picks one rate of the contenders for each run, such as the best.
func (s size) across(contenders []string, pick func([]float64) float64) (picked []float64) {
	var runs [][]float64
	for _, name := range contenders {
		for i, r := range s.of(name, rate) {
			if i == len(runs) {
				runs = append(runs, nil)
			}
			runs[i] = append(runs[i], r)
		}
	}
	for _, rates := range runs {
		picked = append(picked, pick(rates))
	}
	return picked
}

// ratios divides run by run: absolute figures move from run to run, ratios within one run hold.
func ratios(a, b []float64) (spread, bool) {
	if len(a) == 0 || len(a) != len(b) {
		return spread{}, false
	}
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return spreadOf(out), true
}

// rows are the table, one for each size and contender.
func (r *result) rows() (rows [][]string) {
	for _, s := range r.Sizes {
		for _, name := range s.contenders() {
			rows = append(rows, r.measure.row(s, name))
		}
	}
	return rows
}

// The cells of a contender that are the same in every table.

func (s size) speed(name string) []string {
	return []string{fmt.Sprint(s.Keys), name,
		spreadOf(s.of(name, func(x sample) float64 { return x.Seconds })).format("%.2f"),
		fmt.Sprintf("%.0f", spreadOf(s.of(name, rate)).median)}
}

// ratio takes "-" for what is not to be compared.
func ratio(a, b []float64, verb string) string {
	if x, ok := ratios(a, b); ok {
		return x.format(verb)
	}
	return "-"
}

func (s size) median(name, verb string, figure func(sample) float64) string {
	return fmt.Sprintf(verb, spreadOf(s.of(name, figure)).median)
}

// memory is the peak, and what of it is above an idle client.
func (s size) memory(name string) []string {
	rss := spreadOf(s.of(name, func(x sample) float64 { return float64(x.PeakRSS) / 1e6 }))
	return []string{rss.format("%.0f"), fmt.Sprintf("%.0f", rss.median-float64(s.IdleRSS)/1e6)}
}

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
	notes := append([]string{fmt.Sprintf("%s, %d CPUs, %s, etcd %s with fsync, one member each, on loopback; %d runs in turns: median (least to most).", m.OS, m.CPUs, m.Go, m.Etcd, r.Runs)},
		r.measure.notes(r)...)
	for _, s := range r.Sizes {
		bytes := int64(0)
		for _, x := range s.Samples {
			bytes = max(bytes, x.Bytes)
		}
		lost := spreadOf(s.lostShare(m.CPUs))
		notes = append(notes, fmt.Sprintf("%d keys: %.0f MB of keys and values; an idle client has %.0f MB and is ready after %.2f s; other processes and machines used %s %% of the CPUs meanwhile.",
			s.Keys, float64(bytes)/1e6, float64(s.IdleRSS)/1e6, s.IdleSeconds, lost.format("%.0f")))
		if s.GivenUp > 0 {
			notes = append(notes, fmt.Sprintf("%d keys: make-mirror ended with an error %d times and was started again with a fresh target; these attempts are not in the table.", s.Keys, s.GivenUp))
		}
	}
	return notes
}

// lostShare is how much of the machine the benchmark did not get, in percent, for each sample.
func (s size) lostShare(cpus int) (percent []float64) {
	for _, x := range s.Samples {
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
