package main

import (
	"cmp"
	"slices"
	"time"
)

// record is one write of the workload as the benchmark saw it. Times are since the traffic began.
type record struct {
	write
	size            int // bytes of key and value
	kept            bool
	issued, acked   time.Duration
	revision        int64
	arrived         time.Duration // at the target, if it has
	deletes, landed bool
}

// arrival is one event of the target's watch: the number of the write that the value carries, or the key that was deleted.
type arrival struct {
	number  int
	deleted string
	at      time.Duration
}

// land notes the arrivals in the records, which have the numbers 1, 2, ... in order. A mirror may leave out what a later write of the same key has replaced:
// that has arrived with the later one.
func land(records []*record, arrivals []arrival) {
	deletes := map[string]*record{}
	for _, r := range records {
		if r.deletes {
			deletes[r.key] = r // a created key is deleted once
		}
	}
	for _, a := range arrivals {
		r := deletes[a.deleted]
		if a.deleted == "" && a.number >= 1 && a.number <= len(records) {
			r = records[a.number-1]
		}
		if r != nil && !r.landed {
			r.arrived, r.landed = a.at, true
		}
	}
	byKey := map[string][]*record{}
	for _, r := range records {
		byKey[r.key] = append(byKey[r.key], r)
	}
	vanished := map[*record]bool{}
	for _, of := range byKey {
		slices.SortFunc(of, func(a, b *record) int { return cmp.Compare(a.revision, b.revision) })
		for i := len(of) - 2; i >= 0; i-- {
			if later := of[i+1]; later.landed && (!of[i].landed || later.arrived < of[i].arrived) {
				of[i].arrived, of[i].landed = later.arrived, true
			}
		}
		if last := of[len(of)-1]; last.deletes && !last.landed && !of[0].landed {
			vanished[of[0]], vanished[last] = true, true
		}
	}
	// What was created and deleted in one step of the mirror leaves no trace. It counts as arrived with the first later write of any key.
	order := slices.SortedFunc(slices.Values(records), func(a, b *record) int { return cmp.Compare(b.revision, a.revision) })
	var first *record
	for _, r := range order {
		switch {
		case vanished[r] && first != nil:
			r.arrived, r.landed = first.arrived, true
		case r.landed && (first == nil || r.arrived < first.arrived):
			first = r
		}
	}
}

// percentiles are of durations, in milliseconds.
type percentiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// percentilesOf takes the nearest rank; zero for no values.
func percentilesOf(values []time.Duration) (p percentiles) {
	if len(values) == 0 {
		return p
	}
	slices.Sort(values)
	at := func(percent int) float64 {
		return float64(values[(len(values)*percent+99)/100-1]) / float64(time.Millisecond)
	}
	return percentiles{at(50), at(99)}
}

// lagFigures tell how a mirror followed. Writes are those that the mirror keeps, but for Writes and Rate.
type lagFigures struct {
	Writes int     `json:"writes"` // all that the source acknowledged
	Rate   float64 `json:"rate"`   // of them, per second
	Kept   int     `json:"kept"`
	// KeptBytes are of keys and values.
	KeptBytes int64 `json:"keptBytes"`
	// Lag is from the acknowledgement at the source to the arrival in a watch at the target, IssuedLag from when the write was sent.
	// A write that has not arrived counts with the time that the benchmark has waited for it, so that the figures are a lower bound.
	Lag       percentiles `json:"lag"`
	IssuedLag percentiles `json:"issuedLag"`
	// QuietPut is what a put at the target took before the writes, Put one of 20 a second during them.
	QuietPut percentiles `json:"quietPut"`
	Put      percentiles `json:"put"`
	// BacklogHalf and BacklogEnd are the writes acknowledged but not arrived, on average over the second and the last quarter of the time of writing.
	BacklogHalf int `json:"backlogHalf"`
	BacklogEnd  int `json:"backlogEnd"`
	// DrainSeconds is the time from the last acknowledgement until the target had all, or how long it was waited for.
	DrainSeconds float64 `json:"drainSeconds"`
	Drained      bool    `json:"drained"`
	// FallsBehind: between these, the backlog grew by more than 5 % of what was written meanwhile.
	FallsBehind bool `json:"fallsBehind"`
	// Missing have not arrived although a later write has: a mirror that works has none.
	Missing int `json:"missing"`
}

// follow computes the figures. The writes ended at end, and the benchmark stopped to wait at over.
func (f *lagFigures) follow(records []*record, end, over time.Duration) {
	var lags, issued, acked, landed []time.Duration
	for _, r := range records {
		f.Writes++
		if !r.kept {
			continue
		}
		f.Kept++
		f.KeptBytes += int64(r.size)
		arrived := r.arrived
		if !r.landed {
			f.Missing++
			arrived = over
		}
		arrived = max(arrived, r.acked) // the news may be faster than the acknowledgement
		lags = append(lags, arrived-r.acked)
		issued = append(issued, arrived-r.issued)
		acked, landed = append(acked, r.acked), append(landed, arrived)
	}
	slices.Sort(acked)
	slices.Sort(landed)
	backlog := func(from, to time.Duration) (mean int) { // of several moments, since mirrors work in bursts
		const moments = 50
		for i := range moments {
			at := from + (to-from)*time.Duration(i+1)/moments
			mean += until(acked, at) - until(landed, at)
		}
		return mean / moments
	}
	f.Rate = float64(f.Writes) / end.Seconds()
	f.Lag, f.IssuedLag = percentilesOf(lags), percentilesOf(issued)
	f.BacklogHalf, f.BacklogEnd = backlog(end/4, end/2), backlog(end*3/4, end)
	half := until(acked, end*7/8) - until(acked, end*3/8)
	f.FallsBehind = f.BacklogEnd-f.BacklogHalf > max(10, half/20)
	if !f.Drained {
		f.Missing = 0 // they may be on their way
	}
}

// until counts the moments up to at.
func until(sorted []time.Duration, at time.Duration) int {
	n, _ := slices.BinarySearch(sorted, at+1)
	return n
}
