package main

import "fmt"

var tailColumns = []string{"keys", "writes", "contender", "lag p50 ms", "lag p99 ms", "make-mirror's p50 is times it", "target's put p50 ms", "lag p50 of that put", "quiet put p50 ms",
	"backlog in the 2nd quarter", "in the last", "drained after s", "keeps up", "writes/s", "writes per transaction", "its CPU %", "target's CPU %"}

func tailRow(s size, name string) []string {
	row := []string{fmt.Sprint(s.Keys), s.Samples[0].Case, name}
	return append(append(row, s.lagCells(name)...), s.of(name, writesPerSecond).median("%.0f"), s.merged(name), s.of(name, ownShare).median("%.0f"), s.of(name, targetShare).median("%.0f"))
}

// lagCells are those from the lag to whether the mirror keeps up.
func (s size) lagCells(name string) []string {
	p50 := s.of(name, lagP50)
	bound := s.bound(name)
	cells := []string{bound + p50.format("%.1f"), bound + s.of(name, lagP99).format("%.0f"), "-",
		s.of(name, putP50).median("%.1f"), bound + ratio(p50, s.of(name, putP50), "%.1f"), s.of(name, quietPutP50).median("%.1f"),
		s.of(name, func(x sample) float64 { return float64(x.Lag.BacklogHalf) }).median("%.0f"),
		s.of(name, func(x sample) float64 { return float64(x.Lag.BacklogEnd) }).median("%.0f"),
		bound + s.of(name, func(x sample) float64 { return x.Lag.DrainSeconds }).median("%.1f"), s.keepsUp(name)}
	if name == roleUnderstudy {
		cells[2] = s.bound(roleMakeMirror) + ratio(s.of(roleMakeMirror, lagP50), p50, "%.1f")
	}
	return cells
}

// bound marks figures of which some are lower bounds, since not all writes have arrived.
func (s size) bound(name string) string {
	for _, x := range s.Samples {
		if x.Contender == name && x.Failed == "" && x.Lag != nil && !x.Lag.Drained {
			return "≥ "
		}
	}
	return ""
}

// merged is how many of the writes share a transaction at the target. make-mirror makes one of each revision.
func (s size) merged(name string) string {
	if name != roleUnderstudy {
		return "-"
	}
	return s.of(name, func(x sample) float64 { return float64(x.Lag.Kept) / float64(max(1, x.Counters.Transactions)) }).median("%.1f")
}

func (s size) keepsUp(name string) string {
	runs, behind := 0, 0
	for _, x := range s.Samples {
		if x.Contender == name && x.Failed == "" {
			runs++
			if x.Lag.FallsBehind {
				behind++
			}
		}
	}
	switch {
	case runs == 0:
		return "-"
	case behind == 0:
		return "yes"
	case behind == runs:
		return "falls behind"
	}
	return fmt.Sprintf("falls behind in %d of %d", behind, runs)
}

func lagP50(x sample) float64          { return x.Lag.Lag.P50 }
func lagP99(x sample) float64          { return x.Lag.Lag.P99 }
func putP50(x sample) float64          { return x.Lag.Put.P50 }
func quietPutP50(x sample) float64     { return x.Lag.QuietPut.P50 }
func writesPerSecond(x sample) float64 { return x.Lag.Rate }

// Shares of a core, in percent.
func ownShare(x sample) float64    { return 100 * x.CPUSeconds / x.Seconds }
func sourceShare(x sample) float64 { return 100 * x.SourceCPUSeconds / x.Seconds }
func targetShare(x sample) float64 { return 100 * x.TargetCPUSeconds / x.Seconds }

func tailNotes(r *result) []string {
	return append([]string{
		fmt.Sprintf("Every turn has a fresh source and target, which are equal when %.0f s of writes begin, each a put or delete of its own: nine in ten update objects of all resources, the others create ConfigMaps and delete them. max is %d writes in flight, one after another each.", r.Window, fastWriters),
	}, lagNotes(r)...)
}

func lagNotes(r *result) []string {
	return []string{
		"Lag is measured by the benchmark, from the source's acknowledgement of a write to its arrival in the benchmark's own watch at the target. Writes that a later one of the same key has replaced on the way arrive with that.",
		"The target's put is one of a value of the same kind, beside the mirrored keys: 20 a second while the mirror works (p50), and before that at a quiet target.",
		fmt.Sprintf("The backlog is what the source has acknowledged and the target does not have. Its averages are over a quarter of the time of writing; a mirror falls behind when it grows by more than 5 %% of what is written between these. What is not drained after %.0f s is not waited for and not compared; figures with ≥ are lower bounds then.", r.Drain),
		"CPU is in percent of one core, from the first write to the end of the backlog.",
	}
}
