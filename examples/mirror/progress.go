package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// progressInterval is how often the progress line is drawn.
const progressInterval = 200 * time.Millisecond

// tickers are the two clocks of a run.
type tickers struct{ log, progress *time.Ticker }

func (r *reporter) ticks(logInterval time.Duration) tickers {
	t := tickers{time.NewTicker(logInterval), time.NewTicker(progressInterval)}
	if !r.screen.Terminal {
		t.progress.Stop()
	}
	return t
}

func (t tickers) stop() { t.log.Stop(); t.progress.Stop() }

// progress is the progress line of a copy, "" while there is none.
func (r *reporter) progress(now time.Time, s etcdmirror.Status) string {
	if !copying(s) {
		return ""
	}
	r.mu.Lock()
	if !r.copyBegan.Equal(s.Copy.Began) {
		r.copyBegan, r.meter = s.Copy.Began, meter{}
	}
	r.meter.add(now, s.Copy.Looked)
	rate := r.meter.rate()
	r.mu.Unlock()
	return progressLine(s, rate)
}

func progressLine(s etcdmirror.Status, rate float64) string {
	c := s.Copy
	what := string(s.State)
	if s.State == etcdmirror.StateWaiting {
		return "waiting: " + s.Reason
	}
	if c.Round > 1 {
		what += ", round " + strconv.Itoa(c.Round)
	}
	switch {
	case c.ToWrite == 0 && c.ToDelete == 0:
		return what + ": listing the keys of both sides"
	case c.Looked >= c.ToWrite && c.Deleted >= c.ToDelete:
		return fmt.Sprintf("%s: the last of %s keys are being committed", what, thousands(int64(c.ToWrite)))
	case c.Looked >= c.ToWrite:
		return fmt.Sprintf("%s: deleted %s of %s keys", what, thousands(int64(c.Deleted)), thousands(int64(c.ToDelete)))
	}
	line := fmt.Sprintf("%s: %s of %s keys (%.1f%%)", what, thousands(int64(c.Looked)), thousands(int64(c.ToWrite)), 100*float64(c.Looked)/float64(c.ToWrite))
	if rate > 0 {
		left := time.Duration(float64(c.ToWrite-c.Looked) / rate * float64(time.Second))
		line += fmt.Sprintf(", %s keys/s, about %v left", thousands(int64(rate)), left.Round(time.Second))
	}
	return line
}

// meterSpan is the time that a rate is measured over.
const meterSpan = 5 * time.Second

// meter measures the present rate of a count. The zero value is ready.
type meter struct{ samples []sample }

type sample struct {
	at    time.Time
	count int
}

func (m *meter) add(at time.Time, count int) {
	m.samples = append(m.samples, sample{at, count})
	for len(m.samples) > 2 && at.Sub(m.samples[1].at) >= meterSpan {
		m.samples = m.samples[1:]
	}
}

// rate is per second; 0 while it is not known.
func (m *meter) rate() float64 {
	if len(m.samples) < 2 {
		return 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	elapsed := last.at.Sub(first.at).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return float64(last.count-first.count) / elapsed
}

// thousands writes a number with commas.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}
