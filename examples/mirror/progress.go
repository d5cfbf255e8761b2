package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// progressInterval is how often the progress line is drawn.
const progressInterval = 200 * time.Millisecond

// screen is standard error: log lines, and on a terminal below them one line that is drawn again and again.
type screen struct {
	w        io.Writer
	terminal bool
	width    func() int // of the terminal in columns; 0: not known

	mu   sync.Mutex
	line string
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w, width: func() int { return 0 }}
	if f, ok := terminal(w); ok {
		s.terminal = true
		s.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0
			}
			return columns
		}
	}
	return s
}

// terminal reports whether w is one.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

const clearLine = "\r\x1b[K"

// Write writes log lines above the progress line.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return s.w.Write(p)
	}
	if _, err := io.WriteString(s.w, clearLine); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err == nil {
		_, err = io.WriteString(s.w, s.line)
	}
	return n, err
}

// show replaces the progress line; "" removes it. Without a terminal it does nothing.
func (s *screen) show(line string) {
	if !s.terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if columns := s.width(); columns > 0 && len(line) >= columns {
		line = line[:columns-1]
	}
	if line != s.line {
		s.line = line
		_, _ = io.WriteString(s.w, clearLine+line) // the log shows whether standard error works
	}
}

// tickers are the two clocks of a run.
type tickers struct{ log, progress *time.Ticker }

func (r *reporter) ticks(logInterval time.Duration) tickers {
	t := tickers{time.NewTicker(logInterval), time.NewTicker(progressInterval)}
	if !r.screen.terminal {
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
