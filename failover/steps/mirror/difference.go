package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// NameDifferenceReport is the name of DifferenceReport's step.
const NameDifferenceReport = "difference-report"

// DifferenceReportConfig says what is reported, and where to.
type DifferenceReportConfig struct {
	Name      string // "" is NameDifferenceReport
	Reference string
	// Pair is the one of the switch before: its Primary is the old primary, which has returned, its Standby the promoted one. Both are required.
	Pair Pair
	// Path of the report's file. Required; its folder exists. It is made with mode 0600, whole or not at all.
	Path string
	// Values is the path of a second file with the values of the keys that the report lists, as the old primary has them; "" writes none. They are Secrets: the file has mode 0600 and is for
	// whoever has to put writes in again by hand. It is written before the report.
	Values string
	// Timeout bounds the step; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// DifferenceReport writes down, before the old primary is overwritten, what it wrote after the last revision that the standby got: each key that took part, whether it was created, changed or deleted,
// at which revision, and whether the new primary has changed the key as well. See Difference for the file's lines, ReadDifferences to read it.
//
// The step is done when the file is whole, belongs to these two clusters and this promotion, and no key that takes part has changed at the old primary since. Where the old primary's log does not reach
// back far enough, Differences.Exact is false: puts are found by their revision, and what was deleted shows only as missing. Keys are in the report, values are not.
//
// Undo sets the files aside under another name. Without the primary, and in a drill, the step is left out.
func DifferenceReport(cfg DifferenceReportConfig) (failover.Step, error) {
	c := checks{config: "DifferenceReportConfig"}
	d := newDifferences(cfg, &c)
	if err := c.err(); err != nil {
		return nil, err
	}
	return failover.Funcs{
		Name: orDefault(cfg.Name, NameDifferenceReport),
		Description: failover.Description{
			Action:    "Write down in " + d.cfg.Path + " what the old primary wrote after the last revision that was mirrored",
			Undo:      "Set the file aside under another name",
			Reference: cfg.Reference,
			Inputs: struct {
				Pair   pairInputs `json:"pair"`
				Path   string     `json:"path"`
				Values string     `json:"values,omitempty"`
			}{d.inputs, d.cfg.Path, d.cfg.Values},
		},
		Observe: d.look, Do: d.write, Undo: d.setAside, Timeout: d.cfg.Timeout, Retry: failover.Retry{Attempts: 3},
		Ungraceful: func() failover.Step { return nil },
		Drill:      func() failover.Step { return nil },
	}.Step(), nil
}

// differences is a checked DifferenceReportConfig.
type differences struct {
	cfg DifferenceReportConfig
	*pair
}

func newDifferences(cfg DifferenceReportConfig, c *checks) *differences {
	own := &checks{config: "DifferenceReportConfig"}
	d := &differences{pair: cfg.Pair.check(own, true)}
	for _, f := range []struct {
		field string
		path  *string
	}{{"Path", &cfg.Path}, {"Values", &cfg.Values}} {
		if *f.path == "" {
			if f.field == "Path" {
				own.bad("Path is empty", "give the path of a file")
			}
			continue
		}
		abs, err := filepath.Abs(*f.path)
		if err != nil {
			own.bad(fmt.Sprintf("%s %q: %v", f.field, *f.path, err), "give an absolute path")
			continue
		}
		*f.path = abs
		if info, err := os.Stat(filepath.Dir(abs)); err != nil || !info.IsDir() {
			own.bad(fmt.Sprintf("%s %q lies in no folder", f.field, abs), "make the folder first")
		}
	}
	if cfg.Path != "" && cfg.Path == cfg.Values {
		own.bad("Values is the same file as Path", "give another one: values are Secrets")
	}
	own.duration("Timeout", &cfg.Timeout, failover.DefaultTimeout)
	d.cfg = cfg
	c.errs = append(c.errs, own.errs...)
	return d
}

// stage is what a report is about, as it is now.
type stage struct {
	st         State
	newPrimary string
}

// setUp looks at both sides. A text says why there is nothing to report on.
func (d *differences) setUp(ctx context.Context) (s stage, why string, err error) {
	if s.st, err = d.state(ctx); err != nil {
		return s, "", err
	}
	if s.newPrimary, _, err = d.standbyHead(ctx); err != nil {
		return s, "", err
	}
	switch {
	case s.st.Phase == PhaseNone:
		return s, fmt.Sprintf("the new primary knows no mirror %s, so it is not known what it got of the old one", d.Mirror), nil
	case s.st.Phase != PhasePromoted:
		return s, fmt.Sprintf("mirror %s is in phase %s: the new primary was not promoted", d.Mirror, s.st.Phase), nil
	}
	return s, "", nil
}

// look is Observe.
func (d *differences) look(ctx context.Context) (failover.Observation, error) {
	s, why, err := d.setUp(ctx)
	if err != nil || why != "" {
		return blocked("%s", why), err
	}
	head, err := d.primaryHead(ctx, s.st)
	if err != nil {
		return failover.Observation{}, err
	}
	report, err := ReadDifferences(d.cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return pending("no report yet; the old primary is at revision %d, up to %d it was mirrored", head, s.st.AppliedRevision), nil
	case err != nil:
		return blocked("%v: set the file aside", err), nil
	}
	if other := report.other(s); other != "" {
		return blocked("%s is another report: %s; set it aside", d.cfg.Path, other), nil
	}
	if d.cfg.Values != "" {
		if _, err := os.Stat(d.cfg.Values); err != nil {
			return pending("the report is there, the file of values is not: %v", err), nil
		}
	}
	found, err := changes(ctx, d.Primary, d.RequestTimeout, report.To, head, d.keys.Kept)
	switch {
	case errors.Is(err, errForgotten):
		return pending("the old primary has forgotten what came after revision %d, at which the report ends", report.To), nil
	case err != nil:
		return failover.Observation{}, err
	case len(found) > 0:
		return pending("%s changed at the old primary after revision %d, at which the report ends", plural(len(found), "key"), report.To), nil
	}
	return done("%s", report.Summary()), nil
}

// other says what keeps a report from being about this stage.
func (r *Differences) other(s stage) string {
	switch {
	case r.OldPrimary != s.st.SourceClusterID || r.NewPrimary != s.newPrimary:
		return fmt.Sprintf("it is about clusters %s and %s", r.OldPrimary, r.NewPrimary)
	case r.PromotedAt != s.st.Revision:
		return fmt.Sprintf("it is about the promotion at revision %d of the new primary, the present one was at %d", r.PromotedAt, s.st.Revision)
	}
	return ""
}

// write is Do.
func (d *differences) write(ctx context.Context) error {
	s, why, err := d.setUp(ctx)
	if err == nil && why != "" {
		err = failover.Permanent(errors.New(why))
	}
	if err != nil {
		return err
	}
	// A report of the same promotion may be replaced: it ends earlier. Any other file stays.
	if old, err := ReadDifferences(d.cfg.Path); err == nil {
		if other := old.other(s); other != "" {
			return failover.Permanent(fmt.Errorf("%s is another report: %s; set it aside", d.cfg.Path, other))
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return failover.Permanent(fmt.Errorf("%w: set the file aside", err))
	}
	report, list, err := d.collect(ctx, s)
	if err != nil {
		return err
	}
	if d.cfg.Values != "" {
		if err := writeWhole(d.cfg.Values, func(w lines) error { return d.writeValues(ctx, w, report, list) }); err != nil {
			return fmt.Errorf("writing %s: %w", d.cfg.Values, err)
		}
	}
	if err := writeWhole(d.cfg.Path, func(w lines) error { return writeDifferences(w, report, list) }); err != nil {
		return fmt.Errorf("writing %s: %w", d.cfg.Path, err)
	}
	failover.Note(ctx, report.Summary()+"; see "+d.cfg.Path)
	return nil
}

// setAside is Undo.
func (d *differences) setAside(ctx context.Context) error {
	for _, path := range []string{d.cfg.Path, d.cfg.Values} {
		if path == "" {
			continue
		}
		aside := fmt.Sprintf("%s.undone-%s", path, time.Now().UTC().Format("20060102T150405.000000000Z"))
		switch err := os.Rename(path, aside); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			failover.Note(ctx, path+" is now "+aside)
		}
	}
	return nil
}
