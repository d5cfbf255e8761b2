package connect

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a set of settings of each kind.
type sample struct {
	*Settings
	text    string
	number  int
	yes     bool
	pause   time.Duration
	confirm string
}

func newSample() *sample {
	s := &sample{Settings: NewSettings("TESTENV")}
	s.Flags.String("config", "", "")
	s.Flags.StringVar(&s.text, "some-text", "default", "")
	s.Flags.IntVar(&s.number, "number", 1, "")
	s.Flags.BoolVar(&s.yes, "enable", false, "")
	s.Flags.DurationVar(&s.pause, "pause", time.Second, "")
	s.Flags.StringVar(&s.confirm, "confirm", "", "")
	s.FlagOnly("confirm")
	s.AlsoInFile = map[string]bool{"of-another-command": true}
	return s
}

// environment is a lookup function over pairs.
func environment(pairs map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := pairs[name]
		return value, ok
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagWinsOverEnvironmentWinsOverFile(t *testing.T) {
	path := writeFile(t, "# a comment\n---\nsome-text: file\nnumber: 3\nenable: true\npause: 7s\nof-another-command: [x, y]\n")
	env := map[string]string{"TESTENV_SOME_TEXT": "environment", "TESTENV_NUMBER": "2", "TESTENV_ENABLE": ""}
	s := newSample()
	if err := s.Parse([]string{"--config", path, "--some-text=flag"}, environment(env)); err != nil {
		t.Fatal(err)
	}
	if s.text != "flag" || s.number != 2 || !s.yes || s.pause != 7*time.Second {
		t.Errorf("got %q %d %v %v", s.text, s.number, s.yes, s.pause)
	}
	for name, want := range map[string]string{"some-text": "--some-text", "number": "TESTENV_NUMBER", "enable": path + ": enable", "confirm": "--confirm"} {
		if got := s.Where(name); got != want {
			t.Errorf("Where(%q) is %q, want %q", name, got, want)
		}
	}
	if s.Given("confirm") || !s.Given("enable") || !s.OnCommandLine("some-text") || s.OnCommandLine("number") {
		t.Error("Given or OnCommandLine is wrong")
	}
}

func TestFileFromEnvironment(t *testing.T) {
	s := newSample()
	path := writeFile(t, "number: 12345678\n")
	if err := s.Parse(nil, environment(map[string]string{"TESTENV_CONFIG": path})); err != nil {
		t.Fatal(err)
	}
	if s.number != 12345678 || s.text != "default" {
		t.Errorf("got %d %q", s.number, s.text)
	}
}

// secret stands for a password that got into a wrong place.
const secret = "hunter2secret"

func TestBadSettings(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		file string
		want []string
	}{
		"unknown flag":               {args: []string{"--numbr=" + secret}, want: []string{"--numbr", "no such flag"}},
		"flag without value":         {args: []string{"--some-text"}, want: []string{"--some-text", "has no value"}},
		"flag with a wrong value":    {args: []string{"--number", "many"}, want: []string{"--number", `"many"`}},
		"boolean with wrong value":   {args: []string{"--enable=perhaps"}, want: []string{"--enable", `"perhaps"`}},
		"stray argument":             {args: []string{"--number", "2", secret}, want: []string{"argument 3 "}},
		"wrong value in the env":     {env: map[string]string{"TESTENV_PAUSE": "long"}, want: []string{"TESTENV_PAUSE", `"long"`}},
		"unknown field":              {file: "number: 3\nnumbr: " + secret + "\n", want: []string{"settings.yaml: numbr", "no such setting"}},
		"field in other case":        {file: "Number: 3\n", want: []string{"settings.yaml: Number", "no such setting"}},
		"field twice":                {file: "number: 3\nnumber: 4\n", want: []string{"--config", "line 2", `"number"`}},
		"second document":            {file: "number: 3\n---\nenable: true\n", want: []string{"--config", "line 2", "second document"}},
		"no value":                   {file: "number:\n", want: []string{"settings.yaml: number", "has no value"}},
		"list of numbers":            {file: "some-text: [1, 2]\n", want: []string{"settings.yaml: some-text", "list"}},
		"fields below a field":       {file: "some-text: {a: " + secret + "}\n", want: []string{"settings.yaml: some-text", "fields"}},
		"wrong value in the file":    {file: "number: many\n", want: []string{"settings.yaml: number", `"many"`}},
		"confirmation in the file":   {file: "confirm: x\n", want: []string{"settings.yaml: confirm", "cannot be set in a file"}},
		"file names a file":          {file: "config: other.yaml\n", want: []string{"settings.yaml: config", "cannot be set in a file"}},
		"no fields at all":           {file: secret + "\n", want: []string{"--config", "does not consist of fields"}},
		"a reference to nothing":     {file: "some-text: *" + secret + "\n", want: []string{"--config"}},
		"broken syntax":              {file: "some-text: [" + secret + "\n", want: []string{"--config", "not valid YAML near line"}},
		"broken quotes":              {file: "some-text: \"" + secret + "\n", want: []string{"--config"}},
		"a file that is not there":   {args: []string{"--config", "/does/not/exist.yaml"}, want: []string{"--config", "/does/not/exist.yaml", "no such file"}},
		"a folder instead of a file": {args: []string{"--config", os.TempDir()}, want: []string{"--config", "is a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSample()
			args := tc.args
			if tc.file != "" {
				args = append([]string{"--config", writeFile(t, tc.file)}, args...)
			}
			err := s.Parse(args, environment(tc.env))
			if !errors.Is(err, ErrUsage) {
				t.Fatalf("got %v, want an error of usage", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q shows what may be a password, or has several lines", err)
			}
		})
	}
}

func TestConfirmationIsNoEnvironmentVariable(t *testing.T) {
	s := newSample()
	if err := s.Parse(nil, environment(map[string]string{"TESTENV_CONFIRM": "yes"})); err != nil {
		t.Fatal(err)
	}
	if s.confirm != "" || s.InFile()["confirm"] || s.InFile()["config"] || !s.InFile()["number"] || !s.InFile()["of-another-command"] {
		t.Errorf("confirm is %q, names in a file are %v", s.confirm, s.InFile())
	}
}

func TestHelp(t *testing.T) {
	if err := newSample().Parse([]string{"-h"}, environment(nil)); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}
