package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// repairLimit is how many differences of each class a repair deals with, unless told otherwise.
const repairLimit = 10_000

// repairFlags are the settings of drcheck repair.
type repairFlags struct {
	*checkFlags
	apply      bool
	deleteFile string
	deleteAll  bool
	maxDeletes int
	classes    string
}

func newRepairFlags() *repairFlags {
	f := &repairFlags{checkFlags: newFlags(repairLimit)}
	fs := f.settings.Flags
	fs.Lookup("limit").Usage = "`number` of differing keys of each class that are put right; more need another repair"
	fs.BoolVar(&f.apply, "apply", false, "do it; without this nothing is written to what is mirrored")
	fs.StringVar(&f.deleteFile, "delete-surplus-file", "", "`file` with surplus keys to delete at the target, one in a line as the report writes them, quoted or not")
	fs.BoolVar(&f.deleteAll, "delete-all-surplus", false, "delete all surplus keys")
	fs.IntVar(&f.maxDeletes, "max-deletes", drcheck.DefaultMaxDeletes, "`number` of keys; nothing is done if more would be deleted")
	fs.StringVar(&f.classes, "classes", "missed,different", "`classes` of keys to put, separated by commas")
	f.settings.FlagOnly("apply", "delete-surplus-file", "delete-all-surplus", "max-deletes", "classes")
	return f
}

// options checks what is about the repair.
func (f *repairFlags) options() (drcheck.RepairOptions, error) {
	opts := drcheck.RepairOptions{DeleteAllSurplus: f.deleteAll, MaxDeletes: f.maxDeletes}
	var errs []error
	bad := func(name, problem, hint string) { errs = append(errs, connect.Usage("--"+name, problem, hint)) }
	for word := range strings.SplitSeq(f.classes, ",") {
		switch class := drcheck.Class(strings.TrimSpace(word)); class {
		case drcheck.Missed, drcheck.Different:
			opts.Classes = append(opts.Classes, class)
		case drcheck.Surplus:
			bad("classes", "surplus keys are not put", "name those to delete by --delete-surplus-file, or give --delete-all-surplus")
		default:
			bad("classes", fmt.Sprintf("%q is no class", word), "use missed, different or missed,different")
		}
	}
	switch {
	case f.maxDeletes < 1:
		bad("max-deletes", fmt.Sprintf("%d is below 1", f.maxDeletes), "give a number from 1 up; without --delete-surplus-file and --delete-all-surplus nothing is deleted")
	case f.limit == 0:
		bad("limit", "is zero, so that nothing would be put right", "give a number from 1 up")
	}
	switch {
	case f.deleteAll && f.deleteFile != "":
		bad("delete-all-surplus", "excludes --delete-surplus-file", "give one of them")
	case f.deleteFile != "":
		var err error
		if opts.DeleteSurplus, err = readKeys(f.deleteFile); err != nil {
			bad("delete-surplus-file", err.Error(), "give a file with one key in a line")
		}
	}
	return opts, errors.Join(errs...)
}

// readKeys reads a file with one key in a line. A line in double quotes is taken apart as Go does, for keys that are no plain text.
func readKeys(path string) (keys []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "":
			continue
		case strings.HasPrefix(line, `"`):
			if line, err = strconv.Unquote(line); err != nil {
				return nil, fmt.Errorf("%s: line %d begins with a quote and is no quoted text", path, n)
			}
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s names no key", path)
	}
	return keys, nil
}

// repaired is what drcheck repair tells. The names of its fields in JSON are documented in the help and stay.
type repaired struct {
	Check  *drcheck.Result       `json:"check"`
	Plan   *drcheck.RepairPlan   `json:"plan"`
	Report *drcheck.RepairReport `json:"report,omitempty"`
	After  *drcheck.Result       `json:"after,omitempty"`
}

// runRepair is drcheck repair.
func runRepair(ctx context.Context, c program.Console, args []string) error {
	f := newRepairFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	defer f.encryption.Close()
	cfg, err := f.config(c)
	opts, optsErr := f.options()
	if err := errors.Join(err, optsErr); err != nil {
		return err
	}
	ctx, cancel := f.bounded(ctx)
	defer cancel()
	s, err := f.open(ctx, c, cfg)
	if err != nil {
		return f.in(ctx, err)
	}
	defer s.close()
	r, err := f.repair(ctx, s, opts)
	if r.Plan == nil {
		return err
	}
	show := r.print
	if f.output.String() == "json" {
		show = func(w io.Writer) error { return printJSON(w, r) }
	}
	if unseen := show(c.Out); unseen != nil {
		return unseen
	}
	return err
}

// repair checks, plans and, if told to, repairs and checks again. What it came to is returned with an error, too.
func (f *repairFlags) repair(ctx context.Context, s *session, opts drcheck.RepairOptions) (r repaired, err error) {
	if r.Check, err = s.Check(ctx); err != nil {
		return r, f.in(ctx, err)
	}
	if r.Plan, err = s.PlanRepair(ctx, r.Check, opts); err != nil {
		return r, f.in(ctx, err)
	}
	if !f.apply || len(r.Plan.Steps) == 0 {
		return r, outcome(r.Check)
	}
	if r.Report, err = s.Repair(ctx, r.Plan); err != nil {
		return r, f.in(ctx, err)
	}
	if r.After, err = s.Check(ctx); err != nil {
		return r, f.in(ctx, err)
	}
	return r, outcome(r.After)
}

// print tells it to people.
func (r *repaired) print(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	switch n := r.Check.Count; {
	case r.Check.Equal:
		line("source and target are equal: there is nothing to repair")
	default:
		line("source and target differ in %d keys: %d missed, %d surplus, %d different", n.Total(), n.Missed, n.Surplus, n.Different)
	}
	did := "to do"
	if r.Report != nil {
		did = "planned"
	}
	line("%s: %d to put, %d to delete, %d to leave", did, r.Plan.Puts, r.Plan.Deletes, len(r.Plan.Skipped))
	for _, step := range r.Plan.Steps {
		line("  %-6s  %-9s  %q", step.Action, step.Class, step.Key)
	}
	skipped(line, r.Plan.Skipped)
	if n := r.Plan.Unlisted; n > 0 {
		line("  %d more differences are beyond --limit: repair again after this", n)
	}
	switch {
	case r.Report != nil:
		line("done: %d put, %d deleted, %d skipped, for they had changed meanwhile", r.Report.Put, r.Report.Deleted, len(r.Report.Skipped))
		skipped(line, r.Report.Skipped)
		if r.Report.Left > 0 {
			line("  %d steps were not come to: repair again", r.Report.Left)
		}
	case len(r.Plan.Steps) > 0:
		line("nothing was written; to do it, add --apply")
	}
	if r.After != nil {
		line("")
		if err := r.After.WriteText(&b); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func skipped(line func(string, ...any), steps []drcheck.RepairStep) {
	for _, step := range steps {
		line("  %-6s  %-9s  %q: %s", step.Action, step.Class, step.Key, step.Why)
	}
}
