package main

import (
	"fmt"
	"slices"
)

var checkColumns = []string{"keys", "contender", "seconds", "keys/s", "of the faster read", "of the slower read", "of read-keys",
	"its CPU s", "source's CPU s", "target's CPU s", "peak RSS MB", "above an idle client MB"}

// contentReaders get what a check of the content needs at least.
var contentReaders = []string{roleReadStream, roleReadPages}

func checkRow(s size, name string) []string {
	row := append(s.speed(name), "-", "-", "-")
	switch rates := s.of(name, rate); name {
	case roleCheckContent:
		row[4] = ratio(rates, s.across(contentReaders, slices.Max), "%.2f")
		row[5] = ratio(rates, s.across(contentReaders, slices.Min), "%.2f")
	case roleCheckKeys:
		row[6] = ratio(rates, s.of(roleReadKeys, rate), "%.2f")
	}
	return append(append(row, s.median(name, "%.2f", ownCPU), s.median(name, "%.2f", sourceCPU), s.median(name, "%.2f", targetCPU)), s.memory(name)...)
}

func checkNotes(r *result) []string {
	notes := []string{
		"Both sides hold the same content, which was compared, values included, and nobody writes. Seconds count from when the process is connected to both until it says what it has read. Keys are those of one side.",
		fmt.Sprintf("The readers read both sides at once and drop what they get: as one stream of each side, or in pages of %d keys. Ratios are of keys/s and taken run by run: 1.00 is as fast as a reader, 0.50 takes twice as long. The faster and the slower read are those of values in the same run.", readerPageKeys),
	}
	if r.Filter {
		notes = append(notes, "The target holds, and the checks compare, what the default key filter keeps; the readers read all of both sides. Keys are those that are kept.")
	}
	return notes
}
