package main

import (
	"context"
	"errors"
	"time"
)

// cost is what one contender took. Times are in seconds, memory is in bytes.
type cost struct {
	// Seconds is the time from the start of the process until it has done its work; from the order to begin for those that prepare and wait for one.
	Seconds float64 `json:"seconds"`
	// CPUSeconds (over Seconds) and PeakRSS are those of the contender's process.
	CPUSeconds float64 `json:"cpuSeconds"`
	PeakRSS    int64   `json:"peakRSS"`
	// What the etcds used meanwhile, and what was lost: to other processes, and to other machines on the same hardware.
	SourceCPUSeconds float64 `json:"sourceCPUSeconds"`
	TargetCPUSeconds float64 `json:"targetCPUSeconds"`
	// HelperCPUSeconds are those of the benchmark's own processes beside the contender, such as the one that writes to the source.
	HelperCPUSeconds float64 `json:"helperCPUSeconds,omitempty"`
	LostCPUSeconds   float64 `json:"lostCPUSeconds"`
}

// span measures a process beside the etcds that it uses.
type span struct {
	*process
	source, target *server
	helpers        []*process
	helped         *time.Duration // CPU time of the helpers, once they are not measured any more
	began          time.Time
	own            time.Duration // CPU time that the process used before
	before         consumption
}

// begin starts a process and its measurement. One that waits for the order to begin is measured from there. The caller stops the process.
func begin(ctx context.Context, role string, flags roleFlags, source, target *server, waits bool) (*span, error) {
	before, err := usage(source, target)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(role, flags)
	if err != nil {
		return nil, err
	}
	s := &span{process: p, source: source, target: target, began: p.started, before: before}
	if waits {
		if err := s.beginOnceReady(ctx); err != nil {
			p.stop()
			return nil, err
		}
	}
	return s, nil
}

func (s *span) beginOnceReady(ctx context.Context) (err error) {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.restart(); err != nil {
		return err
	}
	if err := s.order(goLine); err != nil {
		return s.failure()
	}
	return nil
}

// restart begins the measurement anew, with helpers at work.
func (s *span) restart(helpers ...*process) (err error) {
	s.helpers, s.helped = helpers, nil
	if s.own, err = s.cpuTime(); err != nil {
		return err
	}
	s.before, err = usage(s.source, s.target, helpers...)
	s.began = time.Now()
	return err
}

// stopHelpers ends the measurement of the helpers, which may go then.
func (s *span) stopHelpers() error {
	now, err := helpersUsage(s.helpers)
	used := now - s.before.helpers
	s.helped = &used
	return err
}

// end stops the process, which had done its work at done.
func (s *span) end(done time.Time) (c cost, err error) {
	if s.helped == nil {
		if err := s.stopHelpers(); err != nil {
			return c, err
		}
	}
	after, err := usage(s.source, s.target)
	if err != nil {
		return c, err
	}
	if c.PeakRSS, err = s.peakRSS(); err != nil {
		return c, err
	}
	rss := c.PeakRSS
	c = s.between(after, s.stop(), done)
	c.PeakRSS = rss
	return c, nil
}

// between is the cost but for the memory, where the process has used own, and the etcds after.
func (s *span) between(after consumption, own time.Duration, done time.Time) (c cost) {
	c.Seconds = done.Sub(s.began).Seconds()
	c.CPUSeconds = (own - s.own).Seconds()
	c.SourceCPUSeconds = (after.source - s.before.source).Seconds()
	c.TargetCPUSeconds = (after.target - s.before.target).Seconds()
	if s.helped != nil {
		c.HelperCPUSeconds = s.helped.Seconds()
	}
	// The clock that counts all is a coarse one, so a small remainder may come out below zero.
	others := max(0, (after.machine-s.before.machine).Seconds()-c.SourceCPUSeconds-c.TargetCPUSeconds-c.HelperCPUSeconds-c.CPUSeconds)
	c.LostCPUSeconds = others + (after.stolen - s.before.stolen).Seconds()
	return c
}

// consumption is CPU time used so far.
type consumption struct{ source, target, helpers, machine, stolen time.Duration }

func usage(source, target *server, helpers ...*process) (c consumption, err error) {
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	c.source, err = source.process.cpuTime()
	note(err)
	c.target, err = target.process.cpuTime()
	note(err)
	c.helpers, err = helpersUsage(helpers)
	note(err)
	c.machine, c.stolen, err = machineCPUTime()
	note(err)
	return c, errors.Join(errs...)
}

func helpersUsage(helpers []*process) (sum time.Duration, err error) {
	for _, p := range helpers {
		used, err := p.cpuTime()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
