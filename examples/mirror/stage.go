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
	colour  bool
	step    int
	details []string
}

const (
	stageWidth  = 100 // of lines
	stageIndent = "      "
)

func newStage(w io.Writer) *stage {
	return &stage{w: w, colour: screen.Colours(w)}
}

func (s *stage) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

const (
	bold  = "1"
	dim   = "2"
	green = "32"
	red   = "31"
)

// say adds a line to what the step found.
func (s *stage) say(format string, args ...any) {
	s.details = append(s.details, wrap(fmt.Sprintf(format, args...), stageWidth-len(stageIndent))...)
}

// do runs a step and shows it.
func (s *stage) do(title string, run func() error) error {
	s.step++
	s.details = nil
	head := fmt.Sprintf("%3d", s.step)
	fmt.Fprintf(s.w, "%s  %s", s.paint(dim, head), s.paint(bold, title))
	began := time.Now()
	err := run()
	took := duration(time.Since(began))
	gap := max(stageWidth-len(head)-2-len(title)-len(took), 2)
	fmt.Fprintf(s.w, "%s%s\n", strings.Repeat(" ", gap), s.paint(dim, took))
	for _, line := range s.details {
		fmt.Fprintln(s.w, stageIndent+line)
	}
	if err != nil {
		fmt.Fprintln(s.w, stageIndent+s.paint(red, "failed"))
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
