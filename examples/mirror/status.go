package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// targetFlags are the settings of commands that need the target only. Such a command may be given the file of mirror run.
type targetFlags struct {
	settings *connect.Settings
	target   *connect.Side
	name     string
}

func newTargetFlags() targetFlags {
	f := targetFlags{settings: connect.NewSettings(envPrefix)}
	f.settings.AlsoInFile = newRunFlags().settings.InFile()
	f.target = connect.NewSide(f.settings, "target")
	f.settings.Flags.String("config", "", "YAML `file` with these settings, or those of mirror run")
	return f
}

// dial connects to the target and prints warnings.
func (f *targetFlags) dial(ctx context.Context, c console) (*connect.Conn, error) {
	conn, err := f.target.Dial(ctx)
	if err != nil {
		return nil, err
	}
	for _, warning := range append(f.target.Warnings(), conn.Warnings...) {
		fmt.Fprintf(c.err, "mirror: warning: %s\n", warning)
	}
	return conn, nil
}

// in names the setting behind an error.
func (f *targetFlags) in(err error) error {
	if err == nil {
		return nil
	}
	return inSettings(err, f.settings, f.target)
}

// checkName checks the mirror's name before anything is contacted.
func checkName(settings *connect.Settings, name string) error {
	if err := etcdmirror.ValidateName(name); err != nil {
		return inSettings(err, settings)
	}
	return nil
}

type statusFlags struct {
	targetFlags
	output choice
	keys   bool
}

func newStatusFlags() *statusFlags {
	f := &statusFlags{targetFlags: newTargetFlags(), output: choice{words: []string{"table", "json"}}}
	fs := f.settings.Flags
	fs.StringVar(&f.name, "name", "", "`name` of one mirror; empty: all that the target knows")
	fs.Var(&f.output, "output", "form of the answer, `table|json`")
	fs.BoolVar(&f.keys, "keys", false, "list the foreign, guarded and drifted keys")
	f.settings.FlagOnly("output", "keys")
	return f
}

// runStatus is mirror status.
func runStatus(ctx context.Context, c console, args []string) error {
	f := newStatusFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if f.name != "" {
		if err := checkName(f.settings, f.name); err != nil {
			return err
		}
	}
	conn, err := f.dial(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	var all []*etcdmirror.Metadata
	if f.name != "" {
		var md *etcdmirror.Metadata
		md, err = etcdmirror.ReadMetadata(ctx, conn.Client, f.name)
		all = []*etcdmirror.Metadata{md}
	} else {
		all, err = etcdmirror.ListMetadata(ctx, conn.Client)
	}
	if err != nil {
		return f.in(err)
	}
	views := []view{} // never null in JSON
	for _, md := range all {
		views = append(views, newView(md, time.Now(), f.keys))
	}
	if f.output.String() == "json" {
		enc := json.NewEncoder(c.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(map[string]any{"mirrors": views})
	}
	if len(views) == 0 {
		return &etcdmirror.Error{Kind: etcdmirror.ErrNoMirror, Side: "target", Detail: "it knows no mirror at all", Hint: "check that the endpoints are the target's"}
	}
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		v.print(c.out)
	}
	return nil
}
