package main

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestDemo(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	r := invoke(t, "demo").want(t, 0, "All 12 steps passed their checks", "missed 0   surplus 0   different 0   own 1 ", "lost at most: 0 known revisions", "last proven equal, value by value",
		"later the deleted key is back", "foreign keys          1", "the old mirror ended: fenced: target was promoted in epoch 2", "the standby is untouched")
	if r.err != "" || strings.Contains(r.out, "\x1b") {
		t.Errorf("colours without a terminal, or errors:\n%s%s", r.out, r.err)
	}
	for line := range strings.Lines(r.out) {
		if len(line) > stageWidth+1 {
			t.Errorf("a line of %d bytes: %q", len(line), line)
		}
	}
	if kept := regexp.MustCompile(`kept (\d+)`).FindStringSubmatch(r.out); kept == nil || len(kept[1]) < 2 {
		t.Errorf("kept are %v", kept)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A demo whose reader has gone away, as in "mirror demo | head", cleans up all the same.
func TestDemoWithoutAReader(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(testutil.Context(t), self, "demo")
	cmd.Env = append(os.Environ(), asMain+"=1", "TMPDIR="+dir)
	cmd.Stdout = writer
	if err := errors.Join(cmd.Start(), writer.Close(), reader.Close()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The checks of the demo find what they are there to find.
func TestDemoChecks(t *testing.T) {
	p := newPair(t)
	d := &demo{stage: newStage(&buffer{}), target: p.targetC}
	put(t, p.targetC, "/registry/a/b", "v")
	held, err := read(testutil.Context(t), p.targetC, "")
	if err != nil {
		t.Fatal(err)
	}
	d.held = held
	if err := d.arrivedTogether(testutil.Context(t), []string{"/registry/a/b", "/registry/a/c"}); err == nil || !strings.Contains(err.Error(), "torn") {
		t.Errorf("a torn transaction: %v", err)
	}
	d.promotion = promotionAt(held.revision)
	if err := d.untouched(testutil.Context(t)); err != nil {
		t.Error(err)
	}
	put(t, p.targetC, etcdmirror.MetadataPrefix+"default/election/1", "v")
	if err := d.untouched(testutil.Context(t)); err != nil {
		t.Errorf("metadata is taken for data: %v", err)
	}
	put(t, p.targetC, "/registry/a/c", "late")
	if err := d.untouched(testutil.Context(t)); err == nil || !strings.Contains(err.Error(), "keys changed") {
		t.Errorf("a late write: %v", err)
	}
	if _, err := p.targetC.Delete(testutil.Context(t), "/registry/a/c"); err != nil {
		t.Fatal(err)
	}
	if err := d.untouched(testutil.Context(t)); err == nil || !strings.Contains(err.Error(), `2 changes were made at the standby after its promotion, the first to "/registry/a/c"`) {
		t.Errorf("a late write that is gone again: %v", err)
	}
}

func TestStage(t *testing.T) {
	var out buffer
	s := newStage(&out)
	if err := s.do("A step", func() error { s.say("%s", strings.TrimSpace(strings.Repeat("word ", 30))); return nil }); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := s.do("Another", func() error { return broken }); !errors.Is(err, broken) || !strings.Contains(err.Error(), "step 2 (Another)") {
		t.Errorf("got %v", err)
	}
	text := regexp.MustCompile(` +[0-9.]+ ms`).ReplaceAllString(out.String(), " TIME")
	want := "  1  A step TIME\n      " + strings.TrimSpace(strings.Repeat("word ", 19)) + "\n        " + strings.TrimSpace(strings.Repeat("word ", 11)) + "\n\n  2  Another TIME\n      failed\n"
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}
