// Package screen shares a terminal between log lines and lines that are drawn again and again below them.
package screen

import (
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Screen is a writer of log lines, with live lines below them on a terminal. It is safe for concurrent use.
type Screen struct {
	// Terminal is set when live lines are shown.
	Terminal bool

	w    io.Writer
	size func() (columns, rows int) // 0: not known

	mu   sync.Mutex
	live []string
}

// New returns a screen on w, which is usually standard error.
func New(w io.Writer) *Screen {
	s := &Screen{w: w, size: func() (int, int) { return 0, 0 }}
	if f, ok := TerminalOf(w); ok {
		s.Terminal = true
		s.size = func() (int, int) {
			columns, rows, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0, 0
			}
			return columns, rows
		}
	}
	return s
}

// TerminalOf reports whether w is a terminal.
func TerminalOf(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// Painter colours text, where it is true.
type Painter bool

// PainterFor is one for a writer: true for a terminal whose user wants colours.
func PainterFor(w io.Writer) Painter {
	_, terminal := TerminalOf(w)
	return Painter(terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

// The codes of terminals.
const (
	Bold   = "1"
	Dim    = "2"
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Cyan   = "36"
)

// Paint returns the text in a colour; "" is none.
func (p Painter) Paint(code, text string) string {
	if !p || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Write writes log lines above the live ones.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live) == 0 {
		return s.w.Write(p)
	}
	if _, err := io.WriteString(s.w, s.clear()); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err == nil {
		_, err = io.WriteString(s.w, strings.Join(s.live, "\n"))
	}
	return n, err
}

// Show replaces the live lines; none, or a single empty one, removes them. What does not fit is cut off. Without a terminal it does nothing.
func (s *Screen) Show(lines ...string) {
	if !s.Terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(lines) == 1 && lines[0] == "" {
		lines = nil
	}
	columns, rows := s.size()
	if rows > 1 && len(lines) >= rows { // one row is left for the log
		lines = lines[:rows-1]
	}
	var live []string
	for _, line := range lines {
		if columns > 0 {
			line = cut(line, columns-1)
		}
		live = append(live, line)
	}
	text := strings.Join(live, "\n")
	if text == strings.Join(s.live, "\n") && len(live) == len(s.live) {
		return
	}
	text = s.clear() + text
	s.live = live
	_, _ = io.WriteString(s.w, text) // the log shows whether the writer works
}

// Rows is how many live lines fit; 0 if that is not known.
func (s *Screen) Rows() int {
	_, rows := s.size()
	return max(rows-1, 0)
}

// clear takes the live lines away and leaves the cursor where they began.
func (s *Screen) clear() string {
	up := ""
	if n := len(s.live); n > 1 {
		up = strings.Repeat("\x1b[A", n-1)
	}
	return "\r" + up + "\x1b[J"
}

// cut shortens a line to a number of characters; sequences that set colours take no room, and are kept, so that a colour is also ended.
func cut(line string, room int) string {
	var b strings.Builder
	for line != "" {
		if strings.HasPrefix(line, "\x1b[") {
			if end := strings.IndexByte(line, 'm'); end > 0 {
				b.WriteString(line[:end+1])
				line = line[end+1:]
				continue
			}
		}
		r, size := utf8.DecodeRuneInString(line)
		if room > 0 {
			b.WriteRune(r)
			room--
		}
		line = line[size:]
	}
	return b.String()
}
