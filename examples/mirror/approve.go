package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// runApprove is mirror approve.
func runApprove(ctx context.Context, c program.Console, args []string) error {
	f := newConfirmFlags()
	if err := f.parse(args, "after an approval the target loses the keys that the source has lost"); err != nil {
		return err
	}
	conn, err := f.Dial(ctx, c, "mirror")
	if err != nil {
		return err
	}
	defer conn.Close()
	t, err := etcdmirror.Approve(ctx, conn.Client, f.Name)
	if err != nil {
		return f.In(err)
	}
	printApproval(c.Out, f.Name, t, time.Now())
	return nil
}

func printApproval(w io.Writer, name string, t *etcdmirror.Trip, now time.Time) {
	fmt.Fprintf(w, "mass deletion of mirror %q is approved\n", name)
	for _, row := range [][2]string{
		{"stopped", fmt.Sprintf("%s, at source revision %d", ago(now, t.At), t.SourceRevision)},
		{"keys", fmt.Sprintf("%s at the target, %s would be left", thousands(t.Keys), thousands(t.Left))},
		{"next to go", fmt.Sprintf("%q", t.Key)},
	} {
		fmt.Fprintf(w, "  %-10s  %s\n", row[0], row[1])
	}
	fmt.Fprint(w, "The mirror goes on within a second, or when it is started again, and applies all that the source has deleted by then,\n"+
		"also what it deleted after the stop. It stops again if a mass deletion follows.\n")
}
