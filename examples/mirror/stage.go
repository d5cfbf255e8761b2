package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/examples/internal/screen"
)

// stage shows the numbered steps of the demo: a title while the step runs, then how long it took, then what it found.
type stage struct {
	w       io.Writer
	painter screen.Painter
	step    int
	details []string
}

const (
	stageWidth  = 100 // of lines
	stageIndent = "      "
)

func newStage(w io.Writer) *stage {
	return &stage{w: w, painter: screen.PainterFor(w)}
}

// say adds a line to what the step found.
func (s *stage) say(format string, args ...any) {
	s.details = append(s.details, wrap(fmt.Sprintf(format, args...), stageWidth-len(stageIndent))...)
}

// do runs a step and shows it.
func (s *stage) do(title string, run func() error) error {
	s.step++
	s.details = nil
	head := fmt.Sprintf("%3d", s.step)
	fmt.Fprintf(s.w, "%s  %s", s.painter.Paint(screen.Dim, head), s.painter.Paint(screen.Bold, title))
	began := time.Now()
	err := run()
	took := duration(time.Since(began))
	gap := max(stageWidth-len(head)-2-len(title)-len(took), 2)
	fmt.Fprintf(s.w, "%s%s\n", strings.Repeat(" ", gap), s.painter.Paint(screen.Dim, took))
	for _, line := range s.details {
		fmt.Fprintln(s.w, stageIndent+line)
	}
	if err != nil {
		fmt.Fprintln(s.w, stageIndent+s.painter.Paint(screen.Red, "failed"))
		return fmt.Errorf("step %d (%s): %w", s.step, title, err)
	}
	fmt.Fprintln(s.w)
	return nil
}

// duration is a measured time in a form that is read at a glance.
func duration(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// wrap breaks text at spaces into lines of at most width bytes, where that is possible. Later lines are indented by two.
func wrap(text string, width int) []string {
	var lines []string
	for len(text) > width {
		cut := strings.LastIndexByte(text[:width+1], ' ')
		if cut <= 2 {
			break
		}
		lines = append(lines, strings.TrimRight(text[:cut], " "))
		text = "  " + text[cut+1:]
	}
	return append(lines, text)
}

// lines makes a writer of a function that takes lines.
type lines func(format string, args ...any)

func (say lines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		say("%s", strings.TrimSuffix(line, "\n"))
	}
	return len(p), nil
}
