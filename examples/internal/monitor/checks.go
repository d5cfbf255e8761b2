package monitor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
)

// outcome is how a comparison ended.
type outcome string

const (
	equal   outcome = "equal"
	differs outcome = "differs"
	failed  outcome = "failed" // there is no result
)

var outcomes = []outcome{equal, differs, failed}

// checkTimeout bounds a comparison. Each of its requests has a deadline of its own; this is for a target that never comes to an end.
const checkTimeout = time.Hour

// ChecksConfig is what Checks need.
type ChecksConfig struct {
	// Check is (*drcheck.Checker).Check; Mode is what it compares.
	Check func(context.Context) (*drcheck.Result, error)
	Mode  drcheck.Mode
	// Recall tells when the two sides were last found equal by anybody; zero: never.
	Recall func(context.Context) (time.Time, error)
	// Interval is the pause between scheduled comparisons; 0: there are none.
	Interval time.Duration
	Log      *slog.Logger
}

// Checks compares source and target, one comparison at a time, for whoever asks and by schedule, and remembers what came of it.
type Checks struct {
	cfg     ChecksConfig
	handler *drcheck.Handler
	busy    sync.Mutex // held by the comparison under way

	mu      sync.Mutex
	running bool
	totals  map[outcome]int64
	last    outcome         // "" before the first
	err     error           // of the last one, if it failed
	result  *drcheck.Result // of the last one that had any, without the keys; nil before
	equalAt time.Time
}

// NewChecks returns Checks that have not begun any.
func NewChecks(cfg ChecksConfig) *Checks {
	c := &Checks{cfg: cfg, totals: map[outcome]int64{}}
	c.handler = drcheck.NewHandler(c.check, drcheck.HandlerConfig{Timeout: checkTimeout})
	return c
}

// Run recalls what is known from before when following is closed, and compares by schedule until ctx ends: first one interval later, and whenever due says so.
func (c *Checks) Run(ctx context.Context, following <-chan struct{}, due func() bool) {
	select {
	case <-following:
	case <-ctx.Done():
		return
	}
	c.recall(ctx)
	if c.cfg.Interval <= 0 {
		return
	}
	timer := time.NewTimer(c.cfg.Interval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if due() {
			_, _ = c.handler.Check(ctx) // check has noted and logged what came of it
		}
		timer.Reset(c.cfg.Interval)
	}
}

// Wait returns when no comparison uses the clients any more. Whoever asked for one must have gone.
func (c *Checks) Wait() {
	c.busy.Lock()
	defer c.busy.Unlock()
}

// recall asks when the two sides were last found equal, which a program that was started since does not know.
func (c *Checks) recall(ctx context.Context) {
	at, err := c.cfg.Recall(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		c.cfg.Log.Warn("the target's record of comparisons could not be read", "error", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.After(c.equalAt) {
		c.equalAt = at
	}
}

// check compares, notes the outcome and logs it. The handler calls it once at a time.
func (c *Checks) check(ctx context.Context) (*drcheck.Result, error) {
	c.busy.Lock()
	defer c.busy.Unlock()
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	result, err := c.cfg.Check(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled): // nobody waits for it any more
		return nil, err
	case err != nil:
		c.last, c.err = failed, err
		c.cfg.Log.Warn("source and target could not be compared", "error", err)
	default:
		c.last, c.err = differs, nil
		level := slog.LevelWarn
		if result.Equal {
			c.last, level = equal, slog.LevelInfo
			c.equalAt = result.Ended
		}
		brief := *result
		brief.Differences, brief.Resources = nil, nil
		c.result = &brief
		n := result.Count
		c.cfg.Log.Log(ctx, level, "source and target were compared", "outcome", string(c.last), "missed", n.Missed, "surplus", n.Surplus, "different", n.Different, "accepted", n.Accepted,
			"sourceKeys", result.SourceKeys, "targetKeys", result.TargetKeys, "sourceRevision", result.SourceRevision, "duration", result.Ended.Sub(result.Began))
	}
	c.totals[c.last]++
	return result, err
}

// checkView is what /status tells of comparisons.
type checkView struct {
	Mode            drcheck.Mode `json:"mode"`
	IntervalSeconds float64      `json:"intervalSeconds"`
	Running         bool         `json:"running"`
	Checks          int64        `json:"checks"`
	LastOutcome     outcome      `json:"lastOutcome,omitempty"`
	LastError       string       `json:"lastError,omitempty"`
	LastEqualAt     *time.Time   `json:"lastEqualAt,omitempty"`
	Last            *resultView  `json:"last,omitempty"`
}

// resultView is a drcheck.Result without keys.
type resultView struct {
	Began          time.Time     `json:"began"`
	Ended          time.Time     `json:"ended"`
	Equal          bool          `json:"equal"`
	Count          drcheck.Count `json:"count"`
	SourceRevision int64         `json:"sourceRevision"`
	TargetRevision int64         `json:"targetRevision"`
	SourceKeys     int           `json:"sourceKeys"`
	TargetKeys     int           `json:"targetKeys"`
	Bytes          int64         `json:"bytes"`
	Rechecked      int           `json:"rechecked"`
}

func (c *Checks) view() checkView {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := checkView{Mode: c.cfg.Mode, IntervalSeconds: c.cfg.Interval.Seconds(), Running: c.running, LastOutcome: c.last, LastEqualAt: known(c.equalAt)}
	for _, n := range c.totals {
		v.Checks += n
	}
	if c.err != nil {
		v.LastError = c.err.Error()
	}
	if r := c.result; r != nil {
		v.Last = &resultView{r.Began, r.Ended, r.Equal, r.Count, r.SourceRevision, r.TargetRevision, r.SourceKeys, r.TargetKeys, r.Bytes, r.Rechecked}
	}
	return v
}
