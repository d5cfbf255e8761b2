package main

import "fmt"

var resyncColumns = []string{"keys", "contender", "changes", "seconds", "times as fast as make-mirror", "dead keys left", "its CPU s", "source's CPU s", "target's CPU s", "peak RSS MB"}

func resyncRow(s size, name string) []string {
	took := s.of(name, seconds)
	return []string{fmt.Sprint(s.Keys), name, s.of(name, func(x sample) float64 { return float64(x.Changes) }).median("%.0f"), took.format("%.2f"),
		ratio(s.of(roleMakeMirror, seconds), took, "%.1f"), s.of(name, func(x sample) float64 { return float64(x.Zombies) }).median("%.0f"),
		s.median(name, "%.2f", ownCPU), s.median(name, "%.2f", sourceCPU), s.median(name, "%.2f", targetCPU), s.of(name, peakMB).format("%.0f")}
}

func resyncNotes(*result) []string {
	return []string{
		fmt.Sprintf("While nobody mirrored, one in %d keys was updated, one in %d deleted and as many created; then the source was compacted. Seconds count from the start of the process until the target has all. Both sides were compared afterwards, values included.", changedOneOf, deletedOneOf),
		"Understudy writes the difference. make-mirror has no way to go on after a compaction (with --rev it ends with an error, which was tried): it copies all keys anew, until the greatest key has been written again, and leaves the deleted keys at the target for ever.",
	}
}
