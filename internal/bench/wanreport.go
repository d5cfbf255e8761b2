package main

import (
	"fmt"
	"strings"
)

var wanColumns = []string{"keys", "case", "contender", "seconds", "keys/s", "times make-mirror", "of its speed without delay", "lag p50 ms", "lag p99 ms", "keeps up", "received MB", "kept MB", "received / kept", "its CPU s"}

func wanRow(s size, name string) []string {
	row := []string{fmt.Sprint(s.Keys), s.Samples[0].Case, name}
	if strings.HasPrefix(s.Samples[0].Case, caseFar) {
		rates := s.of(name, rate)
		near := "-"
		if s.Samples[0].Case == caseFar {
			near = ratio(rates, s.whole.in(caseNear).of(name, rate), "%.2f")
		}
		row = append(row, s.of(name, seconds).format("%.2f"), rates.median("%.0f"), ratio(rates, s.of(roleMakeMirror, rate), "%.1f"), near, "-", "-", "-")
	} else {
		lag := s.lagCells(name)
		row = append(row, "-", "-", lag[2], "-", lag[0], lag[1], lag[9])
	}
	return append(row, s.of(name, receivedMB).median("%.1f"), s.of(name, keptMB).median("%.1f"), ratio(s.of(name, receivedMB), s.of(name, keptMB), "%.2f"), s.median(name, "%.2f", ownCPU))
}

func receivedMB(x sample) float64 { return float64(x.Wire.Received) / 1e6 }
func keptMB(x sample) float64     { return float64(x.Wire.Kept) / 1e6 }

func wanNotes(r *result) []string {
	return append([]string{
		fmt.Sprintf("The mirror reaches the source through a proxy that delays by %.0f ms each way and does not limit the bandwidth. Its target is near. Every turn has fresh etcds.", 1000*r.Delay),
		fmt.Sprintf("Beside the keys, the source has a lease of a node for every %d of them and an event for every %d. In the tail, %d writes/s for %.0f s, half are of such leases and three in ten of events, the others of objects of all resources. Understudy has its default filter, which drops leases and events; make-mirror has none.", keysPerLease, keysPerEvent, wanRate, r.Window),
		"Received are the bytes from the source, of TCP payload; kept are those of the keys and values that pass the default filter, for both mirrors.",
		"Lag, and times make-mirror in the tail: of the writes that the default filter keeps.",
	}, lagNotes(r)...)
}
