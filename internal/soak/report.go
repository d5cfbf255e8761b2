package soak

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// FaultCount counts one kind of fault.
type FaultCount struct {
	Applied int
	// Hits is how many connections a proxy's fault hit; 0 for other faults, and where nobody can know.
	Hits int
}

// Report is what schedules did and found.
type Report struct {
	Took      time.Duration
	Schedules int
	// Failed are the seeds of the schedules with violations.
	Failed []uint64
	// Faults by kind. Writes of others at the target are among them.
	Faults map[string]FaultCount
	// Writes were acknowledged by sources.
	Writes int
	// Revisions of targets that were checked, and Checkpoints among them.
	Revisions, Checkpoints int
	// Terms is how many instances wrote a checkpoint, Copies how many base copies and resyncs began.
	Terms, Copies int
	// Keys were compared at the ends of schedules; those that others made are among them.
	Keys       int
	Violations int
}

func newReport() *Report { return &Report{Faults: map[string]FaultCount{}} }

// fault counts a fault.
func (r *Report) fault(kind string, applied, hits int) {
	c := r.Faults[kind]
	r.Faults[kind] = FaultCount{c.Applied + applied, c.Hits + hits}
}

// add adds what a schedule did.
func (r *Report) add(s *schedule) {
	r.Schedules++
	for kind, n := range s.report.Faults {
		r.fault(kind, n.Applied, n.Hits)
	}
	r.Writes += s.report.Writes
	r.Revisions += s.report.Revisions
	r.Checkpoints += s.report.Checkpoints
	r.Terms += s.report.Terms
	r.Copies += s.report.Copies
	r.Keys += s.report.Keys
	r.Violations += len(s.violations)
	if s.failed() {
		r.Failed = append(r.Failed, s.seed)
	}
}

// Print writes the report as a table.
func (r Report) Print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "fault\tapplied\tconnections hit\n")
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		n := r.Faults[kind]
		fmt.Fprintf(t, "%s\t%d", kind, n.Applied)
		if n.Hits > 0 {
			fmt.Fprintf(t, "\t%d", n.Hits)
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintf(t, "\nschedules\t%d\nwrites acknowledged\t%d\ntarget revisions checked\t%d\ncheckpoints\t%d\nterms of leadership\t%d\ncopies\t%d\nkeys compared\t%d\nviolations\t%d\ntime\t%v\n",
		r.Schedules, r.Writes, r.Revisions, r.Checkpoints, r.Terms, r.Copies, r.Keys, r.Violations, r.Took.Round(time.Second))
	if len(r.Failed) > 0 {
		fmt.Fprintf(t, "failed seeds\t%d\n", r.Failed)
	}
	return t.Flush()
}
