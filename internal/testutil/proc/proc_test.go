package proc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{
		"exit": func() int {
			fmt.Println("args", os.Args[1:], "env", os.Getenv("COLOUR"))
			return 3
		},
		"wait": func() int {
			term := make(chan os.Signal, 1)
			signal.Notify(term, syscall.SIGTERM)
			fmt.Println("ready")
			<-term
			fmt.Fprintln(os.Stderr, "bye")
			return 0
		},
	})
	testutil.Main(m)
}

func TestExitCodeOutputAndEnvironment(t *testing.T) {
	ctx := testutil.Context(t)
	p := proc.Start(t, "exit", []string{"COLOUR=blue"}, "a", "b")
	var exit *exec.ExitError
	if err := p.Wait(ctx); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("want exit code 3, got %v", err)
	}
	if got := p.Output(); got != "args [a b] env blue\n" {
		t.Errorf("output %q", got)
	}
	if err := p.WaitOutput(ctx, "something else"); !errors.Is(err, proc.ErrEnded) {
		t.Errorf("want ErrEnded, got %v", err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("want ErrProcessDone, got %v", err)
	}
}

func TestSignalAndKill(t *testing.T) {
	ctx := testutil.Context(t)
	p, q := proc.Start(t, "wait", nil), proc.Start(t, "wait", nil)
	for _, c := range []*proc.Proc{p, q} {
		if err := c.WaitOutput(ctx, "ready"); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.Wait(short); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait on a running child: %v", err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); err != nil || !strings.Contains(p.Output(), "bye") {
		t.Errorf("after SIGTERM: %v, output %q", err, p.Output())
	}
	q.Kill9()
	if err := q.Wait(ctx); err == nil || strings.Contains(q.Output(), "bye") {
		t.Errorf("after SIGKILL: %v, output %q", err, q.Output())
	}
}

func TestUnknownRole(t *testing.T) {
	p := proc.Start(t, "no such role", nil)
	var exit *exec.ExitError
	if err := p.Wait(testutil.Context(t)); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("want exit code 2, got %v", err)
	}
}

// TestParent is the process in the middle of TestChildDiesWithItsParent; on its own it does nothing.
func TestParent(t *testing.T) {
	if os.Getenv("PARENT") == "" {
		t.Skip("runs as a child of TestChildDiesWithItsParent")
	}
	c := proc.Start(t, "wait", nil)
	if err := c.WaitOutput(t.Context(), "ready"); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("child=%d.\n", c.Pid())
	_ = c.Wait(t.Context())
}

func TestChildDiesWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills the children of a dead process")
	}
	ctx := testutil.Context(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := proc.StartBinary(t, self, []string{"PARENT=yes"}, "-test.run=^TestParent$")
	if err := parent.WaitOutput(ctx, ".\n"); err != nil {
		t.Fatal(err)
	}
	_, number, _ := strings.Cut(parent.Output(), "child=")
	number, _, _ = strings.Cut(number, ".")
	pid, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	parent.Kill9()
	for ; running(pid); time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("child %d outlived its parent", pid)
		}
	}
}

// running is false for a dead process that nobody has reaped, too.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
