package nodes

import (
	"context"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// stepPart is a host's name as a part of a step's name.
func stepPart(h Host) string {
	return strings.Trim(strings.NewReplacer("[", "", "]", "").Replace(h.Name()), ".:-_@")
}

// run runs a command of a step's and notes it with what it printed, masked.
func run(ctx context.Context, h Host, cmd Command, m *Masker) (Result, error) {
	res, err := h.Run(ctx, cmd)
	text := h.Name() + "$ " + m.Mask(cmd.String())
	if err != nil {
		text += "\n" + m.Mask(err.Error())
	} else {
		if out := m.output(res); out != "" {
			text += "\n" + out
		}
		text += fmt.Sprintf("\n(status %d)", res.Exit)
	}
	failover.Note(ctx, text)
	return res, err
}

// must is run of a command that has to end with status 0.
func must(ctx context.Context, h Host, cmd Command, m *Masker) (Result, error) {
	res, err := run(ctx, h, cmd, m)
	return res, ended(h, res, err, m)
}

// ended makes an error of a status other than 0.
func ended(h Host, res Result, err error, m *Masker) error {
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("%s: the command ended with status %d: %s", h.Name(), res.Exit, m.line(res))
	}
	return err
}

// output is what a program printed, masked, in order to be noted. What was cut off may end within a secret: its last line goes.
func (m *Masker) output(res Result) string {
	var parts []string
	for _, s := range []string{res.Stdout, res.Stderr} {
		if res.Truncated {
			s = s[:strings.LastIndexByte(s, '\n')+1] + "(cut)"
		}
		if s = strings.TrimSpace(m.Mask(s)); s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, "\n")
}

// line is the last line that a program printed, which mostly says why it failed.
func (m *Masker) line(res Result) string {
	text := m.output(Result{Stdout: res.Stderr, Truncated: res.Truncated})
	if text == "" {
		text = m.output(res)
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}
