package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

var errBad = errors.New("bad\nin two lines")

// sample is a program with a command per outcome.
func sample() *Program {
	settings := func() *connect.Settings {
		s := connect.NewSettings("SAMPLE")
		s.Flags.Int("size", 7, "`number` of things")
		s.Flags.Bool("quick", false, "do not wait")
		return s
	}
	fail := func(err error) func(context.Context, Console, []string) error {
		return func(_ context.Context, c Console, args []string) error {
			if err := NoArguments("sample", "one", args); err != nil {
				return err
			}
			fmt.Fprint(c.Out, "done\n")
			return err
		}
	}
	return &Program{Name: "sample", About: "sample does things.", SettingsHelp: "Settings: all.\n", ExitHelp: "Exit codes: few.\n",
		Commands: []Command{
			{"run", "do it", settings, func(_ context.Context, c Console, args []string) error { return settings().Parse(args, os.LookupEnv) }},
			{"fine", "succeed", nil, fail(nil)}, {"bad", "fail", nil, fail(fmt.Errorf("%w", errBad))}, {"other", "fail otherwise", nil, fail(errors.New("x"))},
			{"quiet", "fail without a word", nil, fail(fmt.Errorf("%w", Code(5)))},
		},
		Details: map[string]string{"run": "More about it.\n"},
		Exits:   []Exit{{connect.ErrUsage, 2}, {errBad, 3}}, Failure: 9,
	}
}

func TestRun(t *testing.T) {
	for line, want := range map[string]struct {
		code     int
		out, err string
	}{
		"fine":        {0, "done\n", ""},
		"bad":         {3, "done\n", "sample: bad\nsample: in two lines\n"},
		"other":       {9, "done\n", "sample: x\n"},
		"quiet":       {5, "done\n", ""},
		"fine x":      {2, "", "sample: one takes no arguments; run sample one\n"},
		"fly":         {2, "", "sample: \"fly\" is no command; see sample help\n"},
		"help fly":    {2, "", "sample: \"fly\" is no command; see sample help\n"},
		"--size run":  {2, "", "sample: the command comes first; write sample run --flag value\n"},
		"run --fly":   {2, "", "sample: --fly: no such flag; see the help of this command for its flags\n"},
		"help run":    {0, "sample run: do it\n\nMore about it.\n\nFlags:\n  --quick\n        do not wait\n  --size number\n        number of things (default 7)\n\nSettings: all.\n", ""},
		"run -h":      {0, "sample run: do it\n\nMore about it.\n\nFlags:\n  --quick\n        do not wait\n  --size number\n        number of things (default 7)\n\nSettings: all.\n", ""},
		"fine --help": {0, "sample fine: succeed\n", ""},
		"--help": {0, "sample does things.\n\nUsage: sample <command> [flags]\n\nCommands:\n  run      do it\n  fine     succeed\n  bad      fail\n  other    fail otherwise\n  quiet    fail without a word\n" +
			"  version  what this binary was built from\n  help     this, or the flags of a command: sample help run\n\nSettings: all.\n\nExit codes: few.\n", ""},
	} {
		var out, errs bytes.Buffer
		if code := sample().Run(t.Context(), strings.Fields(line), &out, &errs); code != want.code || out.String() != want.out || errs.String() != want.err {
			t.Errorf("%q: code %d, output %q, errors %q; want %+v", line, code, out.String(), errs.String(), want)
		}
	}
	var out, errs bytes.Buffer
	if code := sample().Run(t.Context(), []string{"version"}, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "understudy sample ") || !strings.Contains(out.String(), "built   go") {
		t.Errorf("version: code %d\n%s", code, out.String())
	}
	out.Reset()
	if code := sample().Run(t.Context(), nil, &out, &errs); code != 2 || out.Len() > 0 || !strings.Contains(errs.String(), "Usage: sample") || !strings.HasSuffix(errs.String(), "no command; give one of those above\n") {
		t.Errorf("no command: code %d\n%s", code, errs.String())
	}
}

func TestSignals(t *testing.T) {
	signals := make(chan os.Signal, 2)
	canceled, code := make(chan struct{}), make(chan int)
	go Obey(signals, func() { close(canceled) }, func(c int) { code <- c })
	signals <- syscall.SIGTERM
	<-canceled
	select {
	case c := <-code:
		t.Fatalf("ended with %d after one signal", c)
	default:
	}
	signals <- syscall.SIGINT
	if c := <-code; c != Interrupted {
		t.Errorf("ended with %d after two signals", c)
	}
}
