package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

type statusFlags struct {
	mirrorflags.Target
	output mirrorflags.Choice
	keys   bool
}

func newStatusFlags() *statusFlags {
	f := &statusFlags{Target: mirrorflags.NewTarget(), output: mirrorflags.Choice{Words: []string{"table", "json"}}}
	fs := f.Settings.Flags
	fs.StringVar(&f.Name, "name", "", "`name` of one mirror; empty: all that the target knows")
	fs.Var(&f.output, "output", "form of the answer, `table|json`")
	fs.BoolVar(&f.keys, "keys", false, "list the foreign, guarded and drifted keys")
	f.Settings.FlagOnly("output", "keys")
	return f
}

// runStatus is mirror status.
func runStatus(ctx context.Context, c program.Console, args []string) error {
	f := newStatusFlags()
	if err := f.Settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if f.Name != "" {
		if err := mirrorflags.CheckName(f.Settings, f.Name); err != nil {
			return err
		}
	}
	conn, err := f.Dial(ctx, c, "mirror")
	if err != nil {
		return err
	}
	defer conn.Close()
	var all []*etcdmirror.Metadata
	if f.Name != "" {
		var md *etcdmirror.Metadata
		md, err = etcdmirror.ReadMetadata(ctx, conn.Client, f.Name)
		all = []*etcdmirror.Metadata{md}
	} else {
		all, err = etcdmirror.ListMetadata(ctx, conn.Client)
	}
	if err != nil {
		return f.In(err)
	}
	views := []view{} // never null in JSON
	for _, md := range all {
		views = append(views, newView(md, time.Now(), f.keys))
	}
	if f.output.String() == "json" {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(map[string]any{"mirrors": views})
	}
	if len(views) == 0 {
		return &etcdmirror.Error{Kind: etcdmirror.ErrNoMirror, Side: "target", Detail: "it knows no mirror at all", Hint: "check that the endpoints are the target's"}
	}
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(c.Out)
		}
		v.print(c.Out)
	}
	return nil
}
