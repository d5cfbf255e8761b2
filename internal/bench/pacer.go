package main

import "time"

// pacer says how long to wait before the next count: half of what the rest should take at the rate of late, so that the questions are few, and the last ones
// lie a few milliseconds apart. No pause is more than twice as long as the one before, so that a slow start is not taken for the rate.
type pacer struct {
	want  int
	count int
	at    time.Time
	pause time.Duration
}

// next takes what was counted, and when.
func (p *pacer) next(count int, asked, answered time.Time) time.Duration {
	const shortest, longest = 2 * time.Millisecond, time.Second
	pause := 2 * p.pause
	if gained := count - p.count; gained > 0 && !p.at.IsZero() {
		rest := answered.Sub(p.at).Seconds() * float64(p.want-count) / float64(gained)
		pause = min(pause, time.Duration(rest/2*float64(time.Second)))
	}
	// A target that is asked for large counts must have time for other things, too.
	p.pause = min(max(pause, 2*answered.Sub(asked), shortest), longest)
	if count == 0 {
		p.pause = shortest
	}
	p.count, p.at = count, answered
	return p.pause
}
