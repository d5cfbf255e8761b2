package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

// step is something that may happen. do returns what it did, or "" if it could do nothing; then another step is drawn.
type step struct {
	weight int
	do     func(ctx context.Context) (what string, err error)
}

// allSteps are the steps of a schedule.
func allSteps(s *schedule) []step {
	steps := []step{
		{3, func(context.Context) (string, error) { return "traffic", nil }},
		{4, s.sync},
		{16, s.replica},
	}
	for _, side := range []*side{s.source, s.target} {
		steps = append(steps,
			step{14, func(context.Context) (string, error) { return s.disturb(side) }},
			step{8, func(context.Context) (string, error) { return s.calm(side) }},
			step{6, func(context.Context) (string, error) { return s.cut(side) }},
			step{5, func(context.Context) (string, error) { return s.kill(side) }},
			step{6, func(ctx context.Context) (string, error) { return s.restart(ctx, side) }},
			step{6, func(ctx context.Context) (string, error) { return s.healthy(ctx, side, "compacted", side.compact) }},
			step{2, func(ctx context.Context) (string, error) {
				return s.healthy(ctx, side, "defragmented", side.defragment)
			}},
			step{3, func(ctx context.Context) (string, error) {
				return s.healthy(ctx, side, "leader moved", side.moveLeader)
			}},
		)
	}
	if s.plan.Own {
		steps = append(steps,
			step{8, func(ctx context.Context) (string, error) { return s.other(ctx, "foreign write", s.others.write) }},
			step{4, func(ctx context.Context) (string, error) {
				return s.other(ctx, "foreign key in the source's place", func(ctx context.Context, rng *rand.Rand) (string, error) {
					return s.others.squat(ctx, rng, s.source.recorder)
				})
			}})
	}
	if s.plan.Drift {
		steps = append(steps, step{10, func(ctx context.Context) (string, error) { return s.other(ctx, "drift", s.others.drift) }})
	}
	return steps
}

// step does one step.
func (s *schedule) step(ctx context.Context) error {
	sum := 0
	for _, st := range s.steps {
		sum += st.weight
	}
	for {
		at := s.rng.IntN(sum)
		for _, st := range s.steps {
			if at -= st.weight; at >= 0 {
				continue
			}
			what, err := st.do(ctx)
			if err != nil || what != "" {
				s.note("%s", what)
				return err
			}
			break
		}
	}
}

// sync ends all faults and waits until the mirror has caught up, so that what comes next hits a live tail.
func (s *schedule) sync(ctx context.Context) (string, error) {
	if err := s.heal(ctx); err != nil {
		return "sync", err
	}
	return "sync", s.saved(ctx)
}

// disturb switches on a fault of a proxy, or of all proxies of a side.
func (s *schedule) disturb(side *side) (string, error) {
	f := faultproxy.Fault{Direction: faultproxy.Direction(s.rng.IntN(3))}
	switch s.rng.IntN(6) {
	case 0:
		f.Kind, f.Latency, f.Jitter = faultproxy.Delay, time.Duration(1+s.rng.IntN(50))*time.Millisecond, time.Duration(s.rng.IntN(50))*time.Millisecond
	case 1:
		f.Kind, f.BytesPerSecond = faultproxy.Limit, 1<<(13+s.rng.IntN(6))
	case 2:
		f.Kind = faultproxy.Refuse
	case 3, 4:
		f.Kind = faultproxy.Blackhole
	case 5:
		f.Kind, f.Batch = faultproxy.Hold, s.rng.IntN(4)
	}
	side.faulty = true
	if s.rng.IntN(2) == 0 || side.members == 1 {
		return fmt.Sprintf("%s: %s %d at all proxies", side.name, f.Kind, f.Direction), side.proxies.Apply(f)
	}
	i := s.rng.IntN(side.members)
	return fmt.Sprintf("%s: %s %d at proxy %d", side.name, f.Kind, f.Direction, i), side.proxies.Proxy(i).Apply(f)
}

// calm ends the faults of a side's proxies.
func (s *schedule) calm(side *side) (string, error) {
	if !side.faulty {
		return "", nil
	}
	side.calm()
	return side.name + ": calm", nil
}

// cut ends the connections of a side's proxies. New ones are disturbed only by what disturbed them before.
func (s *schedule) cut(side *side) (string, error) {
	kind := []faultproxy.Kind{faultproxy.Reset, faultproxy.Drop}[s.rng.IntN(2)]
	err := side.proxies.Apply(faultproxy.Fault{Kind: kind})
	side.proxies.Clear(kind)
	return fmt.Sprintf("%s: %s", side.name, kind), err
}

// kill kills one member, or as many as the quorum takes.
func (s *schedule) kill(side *side) (string, error) {
	if len(side.down) > 0 {
		return "", nil
	}
	members := s.rng.Perm(side.members)
	members = members[:1+s.rng.IntN((side.members+1)/2)]
	// Connections to a process that is killed end. An embedded member would wait for those on which nothing has come yet.
	for _, i := range members {
		if err := side.proxies.Proxy(i).Apply(faultproxy.Fault{Kind: faultproxy.Reset}); err != nil {
			return "", err
		}
		defer side.proxies.Proxy(i).Clear(faultproxy.Reset)
	}
	if err := side.kill(members...); err != nil {
		return side.name + ": kill", err
	}
	s.report.fault("member killed", len(members), 0)
	if !side.quorum() {
		s.report.fault("quorum lost", 1, 0)
	}
	return fmt.Sprintf("%s: members %d of %d killed", side.name, members, side.members), nil
}

// restart brings the killed members back.
func (s *schedule) restart(ctx context.Context, side *side) (string, error) {
	if len(side.down) == 0 {
		return "", nil
	}
	return side.name + ": members restarted", side.restart(ctx)
}

// healthy does what needs a quorum.
func (s *schedule) healthy(ctx context.Context, side *side, what string, do func(context.Context, *rand.Rand) (string, error)) (string, error) {
	if !side.quorum() {
		return "", nil
	}
	detail, err := do(ctx, s.rng)
	if detail == "" {
		return "", err
	}
	s.report.fault(side.name+" "+what, 1, 0)
	return fmt.Sprintf("%s: %s %s", side.name, what, detail), err
}

// other lets somebody else write at the target.
func (s *schedule) other(ctx context.Context, what string, write func(context.Context, *rand.Rand) (string, error)) (string, error) {
	if !s.target.quorum() {
		return "", nil
	}
	detail, err := write(ctx, s.rng)
	if detail == "" {
		return "", err
	}
	s.report.fault(what, 1, 0)
	return what + ": " + detail, err
}

// replica starts, ends, kills, pauses or resumes a replica.
func (s *schedule) replica(ctx context.Context) (string, error) {
	r := s.replicas[s.rng.IntN(len(s.replicas))]
	name := r.in.Replica
	switch at := s.rng.IntN(10); {
	case r.resume():
		return name + " resumed", nil
	case !r.running():
		r.stop(false) // its goroutine may have ended by itself
		r.start(ctx)
		s.report.fault("replica started", 1, 0)
		return name + " started", nil
	case at < 3 && r.pause():
		s.report.fault("replica paused", 1, 0)
		return name + " paused", nil
	case at < 7:
		r.stop(false)
		if r.child == nil {
			s.report.fault("replica stopped", 1, 0)
			return name + " stopped", nil
		}
		s.report.fault("replica killed", 1, 0)
		return name + " killed", nil
	default:
		r.stop(true)
		s.report.fault("replica stopped", 1, 0)
		return name + " stopped", nil
	}
}
