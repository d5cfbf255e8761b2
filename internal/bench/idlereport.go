package main

import "fmt"

var idleColumns = []string{"keys", "contender", "its CPU %", "source's CPU %", "target's CPU %", "source's, above nobody", "target's, above nobody", "peak RSS MB"}

func idleRow(s size, name string) []string {
	above := func(figure func(sample) float64) string {
		if name == nobody {
			return "-"
		}
		out, base := byRun{}, s.of(nobody, figure)
		for run, x := range s.of(name, figure) {
			if y, ok := base[run]; ok {
				out[run] = x - y
			}
		}
		return out.median("%.2f")
	}
	return []string{fmt.Sprint(s.Keys), name, s.of(name, ownShare).format("%.2f"), s.of(name, sourceShare).format("%.2f"), s.of(name, targetShare).format("%.2f"),
		above(sourceShare), above(targetShare), s.of(name, peakMB).format("%.0f")}
}

func idleNotes(r *result) []string {
	return []string{
		fmt.Sprintf("A mirror has followed up, and nobody writes for %.0f s. CPU is in percent of one core; the system counts it in steps of 10 ms. Before and after, a write at the source arrived at the target, and both sides were compared.", r.IdleWindow),
		"nobody: a client is connected to both sides and does nothing. What the etcds use then they use by themselves.",
	}
}
