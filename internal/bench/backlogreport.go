package main

import "fmt"

var backlogColumns = []string{"keys", "contender", "revisions", "seconds", "revisions/s", "times make-mirror", "of the target's limit", "its CPU s", "source's CPU s", "target's CPU s", "peak RSS MB"}

func backlogRow(s size, name string) []string {
	rates := s.of(name, rate)
	row := []string{fmt.Sprint(s.Keys), name, s.of(name, func(x sample) float64 { return float64(x.Revisions) }).median("%.0f"),
		s.of(name, seconds).format("%.2f"), rates.median("%.0f"), ratio(rates, s.of(roleMakeMirror, rate), "%.1f"), ratio(rates, s.limits(), "%.2f")}
	if isWriter(name) { // which holds all in memory before it begins
		return append(row, "-", "-", s.median(name, "%.2f", targetCPU), "-")
	}
	return append(row, s.median(name, "%.2f", ownCPU), s.median(name, "%.2f", sourceCPU), s.median(name, "%.2f", targetCPU), s.of(name, peakMB).format("%.0f"))
}

func backlogNotes(*result) []string {
	return []string{
		"Each contender has a target that was equal to the source before the revisions were written, one put or delete each: nine in ten update objects of all resources. Nobody writes while they catch up. Seconds count from the start of the process until the target has the last write; the writers' from when they hold all in memory until they are done. Afterwards both sides were compared, values included. Ratios are taken run by run.",
		"Understudy was stopped properly and continues from its checkpoint. make-mirror begins with --rev at the right revision, which an operator would have to know.",
		"The writers put the same changes; each key's in their order, without any other order, checks or checkpoint. The better one of a run is the target's limit.",
	}
}
