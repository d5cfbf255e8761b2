package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// verdictFlags are the settings of drcheck verdict.
type verdictFlags struct {
	mirrorflags.Target
	at     string
	output mirrorflags.Choice
}

func newVerdictFlags() *verdictFlags {
	f := &verdictFlags{Target: mirrorflags.NewTarget(), output: mirrorflags.Choice{Words: []string{"text", "json"}}}
	maps.Copy(f.Settings.AlsoInFile, newCheckFlags().settings.InFile())
	mirrorflags.NameVar(f.Settings, &f.Name)
	f.Settings.Flags.StringVar(&f.at, "at", "", "`time` of the disaster (RFC 3339, such as 2026-03-04T12:00:00Z), after which the source took no write; empty: now")
	f.Settings.Flags.Var(&f.output, "output", "form of the answer, `text|json`")
	f.Settings.FlagOnly("at", "output")
	return f
}

// disaster is the time that --at gives, zero for none.
func (f *verdictFlags) disaster(now time.Time) (time.Time, error) {
	if f.at == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, f.at)
	switch {
	case err != nil:
		return time.Time{}, connect.Usage("--at", fmt.Sprintf("%q is no time by RFC 3339", f.at), "write it as 2026-03-04T12:00:00Z, or with +01:00 in place of Z")
	case at.After(now):
		return time.Time{}, connect.Usage("--at", fmt.Sprintf("%s lies %v in the future", f.at, at.Sub(now).Round(time.Second)), "give the time of the disaster, with its time zone")
	}
	return at, nil
}

// runVerdict is drcheck verdict.
func runVerdict(ctx context.Context, c program.Console, args []string) error {
	f := newVerdictFlags()
	if err := f.Settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	at, err := f.disaster(time.Now())
	if err != nil {
		return err
	}
	if err := mirrorflags.CheckName(f.Settings, f.Name); err != nil {
		return err
	}
	conn, err := f.Dial(ctx, c, "drcheck")
	if err != nil {
		return err
	}
	defer conn.Close()
	verdict, err := drcheck.ReadVerdict(ctx, conn.Client, f.Name)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return f.In(err)
	case f.output.String() == "json":
		return printJSON(c.Out, newVerdictView(verdict, at))
	}
	if err := verdict.WriteText(c.Out); err != nil || at.IsZero() {
		return err
	}
	return printLoss(c.Out, at, verdict.Loss(at))
}

// verdictView is a verdict with the loss at a time, in JSON. The names of its fields are documented in the help and stay.
type verdictView struct {
	*drcheck.Verdict
	At   time.Time `json:"at"`
	Loss lossView  `json:"loss"`
}

type lossView struct {
	Revisions     int64     `json:"revisions"`
	Since         time.Time `json:"since,omitzero"`
	WindowSeconds float64   `json:"windowSeconds"`
}

func newVerdictView(v *drcheck.Verdict, at time.Time) verdictView {
	if at.IsZero() {
		at = v.Now
	}
	l := v.Loss(at)
	return verdictView{v, at.UTC(), lossView{l.Revisions, l.Since, l.Window.Seconds()}}
}

// printLoss says what is lost at most by a disaster in the past.
func printLoss(w io.Writer, at time.Time, l drcheck.Loss) error {
	what := fmt.Sprintf("what the primary wrote within %v before it", upwards(l.Window))
	switch {
	case l.Since.IsZero():
		what = "what the primary wrote at any time before it: no moment is known at which the standby held all that was written"
	case l.Window == 0:
		what = "nothing that was written by then"
	}
	_, err := fmt.Fprintf(w, "\nIf the primary took no write after %s\n  lost at most: %s\n", at.UTC().Format("2006-01-02 15:04:05 UTC"), what)
	return err
}

// upwards rounds to whole seconds, never down: what may be lost is not to look less.
func upwards(d time.Duration) time.Duration {
	return (d + time.Second - time.Nanosecond).Truncate(time.Second)
}
