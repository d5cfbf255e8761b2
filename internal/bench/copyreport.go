package main

import (
	"slices"
	"strings"
)

var copyColumns = []string{"keys", "contender", "seconds", "keys/s", "times make-mirror", "of the target's limit", "its CPU s", "target's CPU s", "peak RSS MB", "above an idle client MB"}

// limits are the target's own best rates, one per run.
func (s size) limits() byRun {
	var writers []string
	for _, shape := range writerShapes {
		writers = append(writers, shape.String())
	}
	return s.across(writers, slices.Max)
}

func copyRow(s size, name string) []string {
	rates := s.of(name, rate)
	row := append(s.speed(name), ratio(rates, s.of(roleMakeMirror, rate), "%.1f"), ratio(rates, s.limits(), "%.2f"))
	if isWriter(name) { // which holds all data in memory before it begins
		return append(row, "-", s.median(name, "%.2f", targetCPU), "-", "-")
	}
	return append(append(row, s.median(name, "%.2f", ownCPU), s.median(name, "%.2f", targetCPU)), s.memory(name)...)
}

func isWriter(contender string) bool { return strings.HasPrefix(contender, roleWriter) }

func copyNotes(r *result) []string {
	notes := []string{
		"Every copy has a fresh target. Seconds count from the start of the process until the target holds all keys; the writers' from when they hold all in memory. Every copy was compared with the source, values included. Ratios are taken run by run.",
		"The writers put the same key-values without order, checks or checkpoint; the better one of a run is the target's limit.",
	}
	if r.Filter {
		notes = append(notes, "Understudy and the writers copy what the default key filter keeps, make-mirror all keys.")
	}
	return notes
}
