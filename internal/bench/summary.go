package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// figure is one line of the summary: what several measurements have in common.
type figure struct {
	Keys       int    `json:"keys"`
	What       string `json:"what"`
	Unit       string `json:"unit"`
	Understudy string `json:"understudy"`
	MakeMirror string `json:"makeMirror"`
	// Ratio is how much better Understudy is than make-mirror.
	Ratio string `json:"ratio"`
	// Limit is the share of what the target can do, or the ratio to its own put.
	Limit string `json:"limit"`
	// Target is what the project asks for.
	Target string `json:"target"`
}

// summary is the one table of all measurements.
type summary struct {
	Machine machine  `json:"machine"`
	Runs    int      `json:"runs"`
	Figures []figure `json:"figures"`
}

// summarize picks the headline figures of the results: medians, and ratios taken run by run.
func summarize(results []*result) (all summary) {
	for _, r := range results {
		all.Machine, all.Runs = r.Machine, r.Runs
		for _, s := range r.Sizes {
			for _, name := range s.cases() {
				all.Figures = append(all.Figures, r.headlines(s.in(name), name)...)
			}
		}
	}
	return all
}

func (r *result) headlines(s size, name string) (list []figure) {
	add := func(what, unit, verb string, of func(sample) float64, better func(understudy, makeMirror byRun) byRun, limit, target string) {
		u, m := s.of(roleUnderstudy, of), s.of(roleMakeMirror, of)
		bound := ""
		if better == nil {
			better = func(byRun, byRun) byRun { return nil }
		}
		if unit == "ms" {
			bound = s.bound(roleMakeMirror)
		}
		list = append(list, figure{s.Keys, what, unit, u.median(verb), bound + m.median(verb), bound + better(u, m).median("%.1f"), limit, target})
	}
	more := func(u, m byRun) byRun { return ratios(u, m) }
	less := func(u, m byRun) byRun { return ratios(m, u) }
	ofLimit := ratios(s.of(roleUnderstudy, rate), s.limits()).median("%.2f") + " of the target's limit"
	switch r.Measure {
	case "copy":
		add("base copy", "keys/s", "%.0f", rate, more, ofLimit, "20 times; 0.80 of the limit")
		add("base copy, CPU", "s", "%.2f", ownCPU, less, "-", "-")
		add("base copy, peak memory", "MB", "%.0f", peakMB, less, "-", "below 200 at 300,000 keys")
	case "tail":
		put := ratios(s.of(roleUnderstudy, lagP50), s.of(roleUnderstudy, putP50)).median("%.1f") + " times a put"
		add("lag p50, "+name, "ms", "%.1f", lagP50, less, put, "2 times a put at 3,000/s")
		add("lag p99, "+name, "ms", "%.1f", lagP99, less, "-", "-")
		list = append(list, figure{s.Keys, "keeps up, " + name, "", s.keepsUp(roleUnderstudy), s.keepsUp(roleMakeMirror), "-", "-", "yes"})
	case "backlog":
		add("backlog", "revisions/s", "%.0f", rate, more, ofLimit, "12 times")
	case "resync":
		add("resync after a compaction", "s", "%.2f", seconds, less, "-", "-")
		add("resync, dead keys left", "keys", "%.0f", func(x sample) float64 { return float64(x.Zombies) }, nil, "-", "0")
	case "idle":
		add("idle, CPU", "% of a core", "%.2f", ownShare, nil, "-", "below 1")
	case "wan":
		received := func(x sample) float64 { return receivedMB(x) / keptMB(x) }
		if s.lagged() {
			add("wan, lag p50, "+name, "ms", "%.1f", lagP50, less, "-", "-")
		} else {
			add("wan, "+name, "keys/s", "%.0f", rate, more, "-", "-")
		}
		add("wan, "+name+", received / kept", "", "%.2f", received, nil, "-", "1.2")
	}
	return list
}

// lagged reports whether the samples are of a tail.
func (s size) lagged() bool {
	for _, x := range s.Samples {
		if x.Lag != nil {
			return true
		}
	}
	return false
}

var summaryColumns = []string{"keys", "figure", "unit", "Understudy", "make-mirror", "times better", "beside the target", "asked for"}

func (s summary) markdown() string {
	var b strings.Builder
	line := func(cells ...string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(summaryColumns...)
	b.WriteString(strings.Repeat("|---", len(summaryColumns)) + "|\n")
	for _, f := range s.Figures {
		line(fmt.Sprint(f.Keys), f.What, f.Unit, f.Understudy, f.MakeMirror, f.Ratio, f.Limit, f.Target)
	}
	b.WriteString("\nMedians, and medians of the ratios of each run. The reports of the measurements tell how each was made, and on what.\n")
	return b.String()
}

func (s summary) writeFiles(dir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"summary.md": []byte(s.markdown()), "summary.json": append(raw, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("-out: %w", err)
		}
	}
	return nil
}
