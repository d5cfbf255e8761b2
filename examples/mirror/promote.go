package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// promoteFlags are the settings of mirror promote; demote and approve have them but for one.
type promoteFlags struct {
	mirrorflags.Target
	confirm          string
	acceptIncomplete bool
}

func newConfirmFlags() *promoteFlags {
	f := &promoteFlags{Target: mirrorflags.NewTarget()}
	mirrorflags.NameVar(f.Settings, &f.Name)
	f.Settings.Flags.StringVar(&f.confirm, "confirm", "", "the mirror's `name` once more")
	f.Settings.FlagOnly("confirm", "accept-incomplete")
	return f
}

func newPromoteFlags() *promoteFlags {
	f := newConfirmFlags()
	f.Settings.Flags.BoolVar(&f.acceptIncomplete, "accept-incomplete", false, "promote even if a copy is under way, so that the target equals no source revision")
	return f
}

// parse reads the settings and insists on the confirmation.
func (f *promoteFlags) parse(args []string, consequence string) error {
	if err := f.Settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if err := mirrorflags.CheckName(f.Settings, f.Name); err != nil {
		return err
	}
	switch {
	case f.confirm == "":
		return connect.Usage("--confirm", "is missing: "+consequence, "add --confirm "+f.Name+" to do it")
	case f.confirm != f.Name:
		return connect.Usage("--confirm", fmt.Sprintf("%q is not the mirror's name, %q", f.confirm, f.Name), "give the name of the mirror that is meant, in --name and --confirm")
	}
	return nil
}

// runPromote is mirror promote.
func runPromote(ctx context.Context, c program.Console, args []string) error {
	f := newPromoteFlags()
	if err := f.parse(args, "a promotion ends the mirror for good"); err != nil {
		return err
	}
	conn, err := f.Dial(ctx, c, "mirror")
	if err != nil {
		return err
	}
	defer conn.Close()
	p, err := etcdmirror.Promote(ctx, conn.Client, f.Name, etcdmirror.PromoteOptions{AllowIncomplete: f.acceptIncomplete})
	switch {
	case errors.Is(err, etcdmirror.ErrPromoted) && p != nil:
		fmt.Fprintf(c.Out, "mirror %q was promoted before, in epoch %d; nothing was changed\n", f.Name, p.Epoch)
		return nil
	case errors.Is(err, etcdmirror.ErrIncomplete):
		return fmt.Errorf("%w; the flag is --accept-incomplete", f.In(err))
	case err != nil:
		return f.In(err)
	}
	printPromotion(c.Out, f.Name, p, time.Now())
	return nil
}

func printPromotion(w io.Writer, name string, p *etcdmirror.Promotion, now time.Time) {
	fmt.Fprintf(w, "mirror %q is promoted: epoch %d, target revision %d\n\n", name, p.Epoch, p.TargetRevision)
	fmt.Fprint(w, "What the target holds\n")
	switch {
	case p.Complete:
		fmt.Fprintf(w, "  the kept keys of source revision %d, exactly\n", p.SourceRevision)
	case p.SourceRevision > 0:
		fmt.Fprintf(w, "  a copy that was interrupted: it equals no source revision; before the copy it equalled %d\n", p.SourceRevision)
	default:
		fmt.Fprint(w, "  a first copy that was interrupted: it equals no source revision, keys are missing\n")
	}
	fmt.Fprint(w, "\nWhat is lost at most\n")
	if p.Complete {
		fmt.Fprintf(w, "  known    %s\n", revisions(p.SourceRevision, p.SourceHead))
	} else {
		fmt.Fprint(w, "  known    whatever the copy had not yet brought or deleted\n")
	}
	if p.SourceHeadAt.IsZero() {
		fmt.Fprint(w, "  unknown  all that the source did: the mirror never heard from it\n")
	} else {
		fmt.Fprintf(w, "  unknown  what the source did after revision %d, seen %s\n", p.SourceHead, ago(now, p.SourceHeadAt))
	}
	fmt.Fprint(w, "           A revision may hold kept keys or none; only the source could tell.\n")

	fmt.Fprint(w, "\nWhat to do next\n"+
		"  1. Stop the mirror's process if it still runs. Its writes are refused, it ends with exit code 5.\n"+
		"  2. Keep clients away from the old primary, so that nothing is written there any more.\n")
	step := 3
	if p.LastBulkRevision > 0 {
		fmt.Fprintf(w, "  %d. Restart clients of this cluster that watch since before target revision %d: they may have missed events.\n", step, p.LastBulkRevision)
		step++
	}
	fmt.Fprintf(w, "  %d. Send the clients here.\n", step)
	fmt.Fprintf(w, "  %d. When the old primary is back, mirror from here to there. To make this target a standby again: mirror demote.\n", step+1)
}

// runDemote is mirror demote.
func runDemote(ctx context.Context, c program.Console, args []string) error {
	f := newConfirmFlags()
	if err := f.parse(args, "after a demotion a mirror may overwrite what this target got as a primary"); err != nil {
		return err
	}
	conn, err := f.Dial(ctx, c, "mirror")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := etcdmirror.Demote(ctx, conn.Client, f.Name); err != nil {
		return f.In(err)
	}
	md, err := etcdmirror.ReadMetadata(ctx, conn.Client, f.Name)
	if err != nil {
		return f.In(err)
	}
	fmt.Fprintf(c.Out, "mirror %q is demoted: epoch %d, target revision %d\n", f.Name, md.Checkpoint.Epoch, md.CheckpointRevision)
	fmt.Fprint(c.Out, "The next mirror run under this name compares everything with its source. Keys that this target made as a primary are\n"+
		"kept and listed by mirror status --keys, unless it runs with --surplus delete.\n")
	return nil
}
