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

// result is what one benchmark found out. Its JSON form is base-copy.json.
type result struct {
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
	return &result{Began: time.Now().UTC().Truncate(time.Second), Runs: cfg.runs, Filter: cfg.filter,
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

// limits are the target's own best rates, one per run.
func (s size) limits() []float64 {
	var best []float64
	for _, shape := range writerShapes {
		for i, r := range s.of(shape.String(), rate) {
			if i == len(best) {
				best = append(best, 0)
			}
			best[i] = max(best[i], r)
		}
	}
	return best
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

var columns = []string{"keys", "contender", "seconds", "keys/s", "times make-mirror", "of the target's limit", "its CPU s", "target's CPU s", "peak RSS MB", "above an idle client MB"}

// rows are the table, one for each size and contender.
func (r *result) rows() (rows [][]string) {
	for _, s := range r.Sizes {
		limits, makeMirror := s.limits(), s.of(roleMakeMirror, rate)
		for _, name := range s.contenders() {
			rates := s.of(name, rate)
			row := []string{fmt.Sprint(s.Keys), name,
				spreadOf(s.of(name, func(x sample) float64 { return x.Seconds })).format("%.2f"),
				fmt.Sprintf("%.0f", spreadOf(rates).median), "-", "-", "-",
				fmt.Sprintf("%.2f", spreadOf(s.of(name, func(x sample) float64 { return x.TargetCPUSeconds })).median), "-", "-"}
			if x, ok := ratios(rates, makeMirror); ok {
				row[4] = x.format("%.1f")
			}
			if x, ok := ratios(rates, limits); ok {
				row[5] = x.format("%.2f")
			}
			if !isWriter(name) { // which holds all data in memory before it begins
				row[6] = fmt.Sprintf("%.2f", spreadOf(s.of(name, func(x sample) float64 { return x.CPUSeconds })).median)
				rss := spreadOf(s.of(name, func(x sample) float64 { return float64(x.PeakRSS) / 1e6 }))
				row[8] = rss.format("%.0f")
				row[9] = fmt.Sprintf("%.0f", rss.median-float64(s.IdleRSS)/1e6)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func isWriter(contender string) bool { return strings.HasPrefix(contender, roleWriter) }

// contenders in the order in which they took part first.
func (s size) contenders() (names []string) {
	for _, x := range s.Samples {
		if !slices.Contains(names, x.Contender) {
			names = append(names, x.Contender)
		}
	}
	return names
}

// notes say what the table means.
func (r *result) notes() []string {
	m := r.Machine
	notes := []string{
		fmt.Sprintf("%s, %d CPUs, %s, etcd %s with fsync, one member each, on loopback; %d runs in turns, each with a fresh target: median (least to most).", m.OS, m.CPUs, m.Go, m.Etcd, r.Runs),
		"Seconds count from the start of the process until the target holds all keys; the writers' from when they hold all in memory. Every copy was compared with the source, values included. Ratios are taken run by run.",
		"The writers put the same key-values without order, checks or checkpoint; the better one of a run is the target's limit.",
	}
	if r.Settings != (settings{}) {
		notes = append(notes, fmt.Sprintf("Understudy with BatchOps %d, BatchBytes %d, InFlight %d (0: default).", r.Settings.BatchOps, r.Settings.BatchBytes, r.Settings.InFlight))
	}
	if r.Filter {
		notes = append(notes, "Understudy and the writers copy what the default key filter keeps, make-mirror all keys.")
	}
	if m.Tmpfs {
		notes = append(notes, "The data was in memory (tmpfs), where fsync costs nothing: this flatters make-mirror.")
	}
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
	fmt.Fprintln(t, strings.Join(columns, "\t"))
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
	line(columns)
	b.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	for _, row := range r.rows() {
		line(row)
	}
	b.WriteString("\n")
	for _, note := range r.notes() {
		b.WriteString("- " + note + "\n")
	}
	return b.String()
}

// writeFiles writes base-copy.md and base-copy.json.
func (r *result) writeFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("-out: %w", err)
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"base-copy.md": []byte(r.markdown()), "base-copy.json": append(raw, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("-out: %w", err)
		}
	}
	return nil
}
