package screen

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := New(&out)
	write := func(text string) {
		t.Helper()
		if _, err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	s.Show("unseen")
	write("log 1\n")
	if got := out.String(); got != "log 1\n" || s.Terminal {
		t.Fatalf("without a terminal: %q", got)
	}
	s.Terminal, s.size = true, func() (int, int) { return 10, 4 }
	s.Show("12345")
	s.Show("12345")
	write("log 2\n")
	s.Show("1234567890", "b")
	write("log 3\n")
	s.Show("a", "\x1b[1mübcdefghijk\x1b[0m", "c", "d")
	s.Show("")
	write("log 4\n")
	const clear, two, three = "\r\x1b[J", "\r\x1b[A\x1b[J", "\r\x1b[A\x1b[A\x1b[J"
	want := "log 1\n" + clear + "12345" + clear + "log 2\n12345" + clear + "123456789\nb" + two + "log 3\n123456789\nb" +
		two + "a\n\x1b[1mübcdefghi\x1b[0m\nc" + three + "log 4\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if New(file).Terminal {
		t.Error("a file is taken for a terminal")
	}
}

func TestPaint(t *testing.T) {
	if got := Painter(true).Paint(Bold, "x"); got != "\x1b[1mx\x1b[0m" {
		t.Errorf("got %q", got)
	}
	if got := Painter(true).Paint("", "x") + Painter(false).Paint(Bold, "y"); got != "xy" {
		t.Errorf("got %q", got)
	}
	if PainterFor(&bytes.Buffer{}) {
		t.Error("a buffer is taken for a terminal")
	}
}
