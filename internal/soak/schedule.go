package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

const (
	// scheduleTimeout bounds a schedule that hangs, settleTimeout what has to happen once all faults have ended.
	scheduleTimeout = 5 * time.Minute
	settleTimeout   = 90 * time.Second
)

// schedule is one run of a plan.
type schedule struct {
	seed   uint64
	plan   plan
	opts   Options
	rng    *rand.Rand // of the present step
	report *Report
	began  time.Time

	source, target *side
	writer         *writer
	others         *others
	replicas       []*replica
	steps          []step
	approved       string // the last mass deletion that was approved
	trace          []string
	violations     []string
}

func newSchedule(seed uint64, opts Options) *schedule {
	s := &schedule{seed: seed, plan: newPlan(seed, opts), opts: opts, report: newReport(), began: time.Now()}
	s.draw(0)
	return s
}

// draw begins a step: whatever the one before drew, this one draws the same in each run of a seed.
func (s *schedule) draw(step int) { s.rng = rand.New(rand.NewPCG(s.seed, 1000+uint64(step))) }

// run runs the schedule from beginning to end. What it finds is in violations, a hitch of the machinery included.
func (s *schedule) run(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, scheduleTimeout, fmt.Errorf("the schedule did not end within %v", scheduleTimeout))
	defer cancel()
	defer s.close()
	for _, part := range []func(context.Context) error{s.open, s.play, s.settle, s.judge} {
		if err := part(ctx); err != nil {
			s.violate("%v", err)
			return
		}
	}
}

func (s *schedule) violate(format string, args ...any) {
	s.violations = append(s.violations, fmt.Sprintf(format, args...))
}

func (s *schedule) failed() bool { return len(s.violations) > 0 }

// note adds a line to the trace.
func (s *schedule) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%7.3fs %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...)))
}

// open starts both sides, with some traffic before any mirror.
func (s *schedule) open(ctx context.Context) (err error) {
	p := s.plan
	if s.source, err = newSide(ctx, "source", s.seed, embedetcd.Options{Members: p.SourceMembers, MaxTxnOps: p.SourceTxnOps}); err != nil {
		return err
	}
	if s.target, err = newSide(ctx, "target", s.seed+1, embedetcd.Options{Members: p.TargetMembers, MaxTxnOps: p.TargetTxnOps}); err != nil {
		return err
	}
	s.others = newOthers(s.target, p.Mirror)
	s.writer = newWriter(ctx, s.source.client, traffic.Config{Seed: s.seed, Keys: p.Keys, MaxValue: p.MaxValue, MaxTxnOps: int(p.SourceTxnOps)})
	s.writer.add(p.Before)
	if p.Own {
		for range s.rng.IntN(5) {
			what, err := s.other(ctx, "foreign write", s.others.write)
			s.note("%s", what)
			if err != nil {
				return err
			}
		}
	}
	for i, child := range p.Children {
		r := &replica{in: instance{Replica: fmt.Sprintf("replica-%d", i), Source: s.source.proxies.Endpoints(), Target: s.target.proxies.Endpoints(), Mirror: p.Mirror}}
		if child {
			r.child = s.opts.Child
		}
		s.replicas = append(s.replicas, r)
	}
	s.replicas[0].start(ctx)
	s.steps = allSteps(s)
	return nil
}

// play does the random steps.
func (s *schedule) play(ctx context.Context) error {
	for i := range s.plan.Steps {
		s.draw(1 + i)
		s.writer.add(s.rng.IntN(12))
		if err := s.step(ctx); err != nil {
			return err
		}
		if s.rng.IntN(4) == 0 && s.source.quorum() {
			if err := s.writer.idle(ctx); err != nil {
				return err
			}
		}
		// A fault that ends at once hits little.
		if s.rng.IntN(3) == 0 {
			select {
			case <-time.After(time.Duration(s.rng.IntN(350)) * time.Millisecond):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// heal ends all faults, and sees to it that a replica runs.
func (s *schedule) heal(ctx context.Context) error {
	for _, side := range []*side{s.source, s.target} {
		if err := side.restart(ctx); err != nil {
			return err
		}
		side.calm()
	}
	running := false
	for _, r := range s.replicas {
		r.resume()
		running = running || r.running()
	}
	if !running {
		s.replicas[s.rng.IntN(len(s.replicas))].start(ctx)
	}
	return nil
}

// saved waits until the checkpoint says that the target has everything that the source has now. Mass deletions are approved.
func (s *schedule) saved(ctx context.Context) error {
	if err := s.writer.idle(ctx); err != nil {
		return err
	}
	head, err := s.source.recorder.Head(ctx)
	if err != nil {
		return err
	}
	return s.eventually(ctx, fmt.Sprintf("the checkpoint has source revision %d", head), func(ctx context.Context, md *etcdmirror.Metadata) (string, error) {
		if md.Trip != nil {
			_, err := etcdmirror.Approve(ctx, s.target.client, mirrorName)
			if errors.Is(err, etcdmirror.ErrNotTripped) {
				err = nil
			}
			if s.approved != md.Trip.ID { // it takes a moment until the mirror goes on
				s.approved = md.Trip.ID
				s.report.fault("mass deletion approved", 1, 0)
			}
			return md.Trip.String(), err
		}
		c := md.Checkpoint
		return fmt.Sprintf("it has %d, %s", c.SourceRevision, c.Phase), doneIf(c.Phase == etcdmirror.PhaseTail && c.SourceRevision >= head)
	})
}

// errDone ends eventually.
var errDone = errors.New("done")

func doneIf(done bool) error {
	if done {
		return errDone
	}
	return nil
}

// eventually looks at the mirror's metadata until look returns errDone. It gives up, with what look said last, when a replica has failed or the time is over.
func (s *schedule) eventually(ctx context.Context, what string, look func(context.Context, *etcdmirror.Metadata) (string, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settleTimeout, fmt.Errorf("not within %v", settleTimeout))
	defer cancel()
	last := "nothing is known yet"
	for {
		found := ""
		md, err := etcdmirror.ReadMetadata(ctx, s.target.client, mirrorName)
		if err == nil {
			found, err = look(ctx, md)
		}
		switch {
		case errors.Is(err, errDone):
			return nil
		case ctx.Err() != nil: // that is all that err says
		case err != nil:
			last = err.Error() // the target elects a leader, or the mirror has written nothing yet
		default:
			last = found
		}
		for _, r := range s.replicas {
			if f := r.failed(); f != nil {
				return fmt.Errorf("%s failed while waiting until %s (%s): %w", r.in.Replica, what, last, f)
			}
		}
		select {
		case <-time.After(10 * time.Millisecond): // a poll
		case <-ctx.Done():
			for _, r := range s.replicas { // while they run
				s.note("%s: %s", r.in.Replica, r.describe())
			}
			return fmt.Errorf("waiting until %s (%s): %w", what, last, context.Cause(ctx))
		}
	}
}

// close ends everything and counts what the proxies did.
func (s *schedule) close() {
	for _, r := range s.replicas {
		r.resume()
		r.stop(false)
	}
	if s.writer != nil {
		s.report.Writes = s.writer.close()
	}
	for _, side := range []*side{s.source, s.target} {
		if side == nil {
			continue
		}
		for kind, n := range side.proxies.Counters() {
			if n.Applied > 0 {
				s.report.fault("proxy "+string(kind), n.Applied, n.Connections)
			}
		}
		if err := side.close(); err != nil {
			s.violate("%v", err)
		}
	}
	s.report.Violations = len(s.violations)
}

// describe writes what somebody needs who looks for the cause of violations.
func (s *schedule) describe(out io.Writer) {
	config, err := json.Marshal(s.plan)
	if err != nil {
		config = []byte(err.Error())
	}
	fmt.Fprintf(out, "FAILED: seed %d after %v\n\tUNDERSTUDY_SEED=%d go test -race -run TestSchedules ./internal/soak\n\tconfiguration %s\n",
		s.seed, time.Since(s.began).Round(time.Millisecond), s.seed, config)
	for _, line := range s.trace {
		fmt.Fprintf(out, "\t%s\n", line)
	}
	for _, r := range s.replicas {
		fmt.Fprintf(out, "\t%s: %s\n", r.in.Replica, r.describe())
	}
	for _, v := range s.violations {
		fmt.Fprintf(out, "\tVIOLATION %s\n", v)
	}
}
