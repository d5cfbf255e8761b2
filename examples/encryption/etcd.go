package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/keyfilter"
)

// etcdFlags are the settings of commands that look into an etcd.
type etcdFlags struct {
	settings       *connect.Settings
	etcd           *connect.Side
	config, prefix string
	output         mirrorflags.Choice
}

// define defines them, at their last place.
func (f *etcdFlags) define(config string) {
	f.settings = newSettings()
	f.etcd = connect.NewSide(f.settings, "etcd")
	f.settings.Flags.StringVar(&f.config, "encryption-config", "", config)
	f.settings.Flags.StringVar(&f.prefix, "prefix", "/registry/", "--etcd-prefix of the apiservers, a `prefix` of keys")
}

// codec reads the configuration's file.
func (f *etcdFlags) codec(c program.Console, log *slog.Logger) (*encryption.Codec, error) {
	resource, err := f.resource()
	if err != nil {
		return nil, err
	}
	cfg, err := readConfig(c, f.settings, "encryption-config", f.config)
	if err != nil {
		return nil, err
	}
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource, Logger: log})
	return codec, mirrorflags.InEach(f.settings.Where("encryption-config"), err)
}

func (f *etcdFlags) resource() (encryption.ResourceFunc, error) {
	if !strings.HasPrefix(f.prefix, "/") || !strings.HasSuffix(f.prefix, "/") || len(f.prefix) < 3 {
		return nil, connect.Usage(f.settings.Where("prefix"), fmt.Sprintf("%q does not begin and end with a slash", f.prefix), "write it as /registry/")
	}
	resource, err := keyfilter.Resource(f.prefix)
	if err != nil {
		return nil, connect.Usage(f.settings.Where("prefix"), err.Error(), "give the --etcd-prefix of the apiservers")
	}
	return resource, nil
}

// dial connects.
func (f *etcdFlags) dial(ctx context.Context, log *slog.Logger) (*connect.Conn, error) {
	f.etcd.Logger = log
	conn, err := f.etcd.Dial(ctx)
	if err != nil {
		return nil, err
	}
	for _, warning := range append(f.etcd.Warnings(), conn.Warnings...) {
		log.Warn(warning)
	}
	return conn, nil
}

// in names the setting behind an error.
func (f *etcdFlags) in(err error) error {
	switch {
	case errors.Is(err, encryption.ErrUnreachable):
		return fmt.Errorf("%s: %w", f.etcd.Where("endpoints"), err)
	case errors.Is(err, encryption.ErrPermission):
		return fmt.Errorf("%s: %w", f.etcd.Where("user"), err)
	}
	return err
}

func logTo(c program.Console) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// auditFlags are the settings of encryption audit.
type auditFlags struct {
	etcdFlags
	limit int
}

func newAuditFlags() *auditFlags {
	f := &auditFlags{}
	f.define("EncryptionConfiguration `file` of which it is asked what it reads; empty: labels are counted only")
	f.settings.Flags.IntVar(&f.limit, "limit", encryption.DefaultAuditLimit, "`number` of unreadable values that are listed; 0: none")
	outputVar(f.settings, &f.output)
	return f
}

func runAudit(ctx context.Context, c program.Console, args []string) error {
	f := newAuditFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	log := logTo(c)
	cfg := encryption.AuditConfig{Prefix: f.prefix, Limit: f.limit}
	if cfg.Limit == 0 {
		cfg.Limit = -1
	}
	var err error
	if f.config == "" {
		cfg.Resource, err = f.resource()
	} else if cfg.Codec, err = f.codec(c, log); err == nil {
		defer cfg.Codec.Close()
	}
	if f.limit < 0 {
		err = errors.Join(err, connect.Usage(f.settings.Where("limit"), fmt.Sprintf("%d is negative", f.limit), "give a number, 0 for none"))
	}
	if err := errors.Join(err, f.etcd.Check()); err != nil {
		return err
	}
	conn, err := f.dial(ctx, log)
	if err != nil {
		return err
	}
	defer conn.Close()
	report, err := encryption.Audit(ctx, conn.Client, cfg)
	if err != nil {
		return f.in(err)
	}
	if f.output.String() == "json" {
		err = printJSON(c.Out, report)
	} else {
		err = report.WriteText(c.Out)
	}
	if err != nil {
		return err
	}
	if report.Err() != nil {
		return program.Code(exitNo)
	}
	return nil
}

// inPlaceFlags are the settings of encryption relabel and encryption rewrite.
type inPlaceFlags struct {
	etcdFlags
	from, to, only, loaded, after string
	rate                          float64
	apply                         bool
}

func newInPlaceFlags(relabel bool) *inPlaceFlags {
	what := "EncryptionConfiguration `file` whose first key is to write"
	if relabel {
		what = "EncryptionConfiguration `file` that has the key under both names"
	}
	f := &inPlaceFlags{}
	f.define(what)
	fs := f.settings.Flags
	if relabel {
		fs.StringVar(&f.from, "from", "", "`provider/name` of the values, such as aescbc/key1")
		fs.StringVar(&f.to, "to", "", "`provider/name` that they get, such as aescbc/key2")
	} else {
		fs.StringVar(&f.only, "only", "", "`labels` of the values to rewrite, such as aescbc/key1 or identity, separated by commas; empty: all that another key has written")
	}
	fs.StringVar(&f.loaded, "loaded", "", "`files` with which the apiservers of this etcd run, separated by commas: one for each different file")
	fs.Float64Var(&f.rate, "rate", encryption.DefaultRate, "`number` of values that are written per second at most")
	fs.StringVar(&f.after, "after", "", "`key` behind which to begin, to go on where an earlier run ended")
	fs.BoolVar(&f.apply, "apply", false, "do it; without this nothing is written")
	outputVar(f.settings, &f.output)
	f.settings.FlagOnly("apply", "after")
	return f
}

func runRelabel(ctx context.Context, c program.Console, args []string) error {
	return inPlace(ctx, c, args, newInPlaceFlags(true))
}

func runRewrite(ctx context.Context, c program.Console, args []string) error {
	return inPlace(ctx, c, args, newInPlaceFlags(false))
}

func inPlace(ctx context.Context, c program.Console, args []string, f *inPlaceFlags) error {
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	log := logTo(c)
	cfg := encryption.InPlaceConfig{Prefix: f.prefix, DryRun: !f.apply, After: f.after, Rate: f.rate, Logger: log}
	codec, err := f.codec(c, log)
	errs := []error{err, f.etcd.Check()}
	if codec != nil {
		defer codec.Close()
	}
	if f.rate <= 0 {
		errs = append(errs, connect.Usage(f.settings.Where("rate"), fmt.Sprintf("%v is not positive", f.rate), "give a number such as 200"))
	}
	if f.loaded == "" {
		errs = append(errs, connect.Usage(f.settings.Where("loaded"), "is missing", "give the file of each apiserver of this etcd: only they tell whether values may change"))
	}
	for path := range strings.SplitSeq(f.loaded, ",") {
		if path = strings.TrimSpace(path); path != "" {
			loaded, err := encryption.ParseFile(path)
			errs = append(errs, mirrorflags.InEach(f.settings.Where("loaded"), err))
			cfg.Loaded = append(cfg.Loaded, loaded)
		}
	}
	relabel := f.settings.Flags.Lookup("from") != nil
	if relabel && (f.from == "" || f.to == "") {
		errs = append(errs, connect.Usage("--from, --to", "are both needed", "give them as provider/name, such as aescbc/key1"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	conn, err := f.dial(ctx, log)
	if err != nil {
		return err
	}
	defer conn.Close()
	var report *encryption.InPlaceReport
	if relabel {
		report, err = encryption.Relabel(ctx, conn.Client, codec, parseLabel(f.from), parseLabel(f.to), cfg)
		if errors.Is(err, encryption.ErrConfig) {
			err = mirrorflags.InEach("--from, --to", err)
		}
	} else {
		report, err = encryption.Rewrite(ctx, conn.Client, codec, f.labels(), cfg)
	}
	if errors.Is(err, encryption.ErrWriters) {
		err = fmt.Errorf("%s: %w", f.settings.Where("loaded"), err)
	}
	if report != nil {
		if unseen := f.print(c, report); unseen != nil {
			return unseen
		}
	}
	return f.in(err)
}

func (f *inPlaceFlags) labels() (labels []encryption.Label) {
	for text := range strings.SplitSeq(f.only, ",") {
		if text = strings.TrimSpace(text); text != "" {
			labels = append(labels, parseLabel(text))
		}
	}
	return labels
}

// parseLabel reads provider/name. A name alone has no provider, but for identity.
func parseLabel(text string) encryption.Label {
	if text == encryption.Identity {
		return encryption.Label{Provider: text}
	}
	provider, name, ok := strings.Cut(text, "/")
	if !ok {
		return encryption.Label{Name: text}
	}
	return encryption.Label{Provider: provider, Name: name}
}

func (f *inPlaceFlags) print(c program.Console, r *encryption.InPlaceReport) error {
	if f.output.String() == "json" {
		return printJSON(c.Out, r)
	}
	fmt.Fprintf(c.Out, "%d passes, %d values looked at, %d to change, %d changed, %d conflicts, %d left alone\n", r.Passes, r.Scanned, r.Found, r.Written, r.Conflicts, r.Skipped)
	for _, u := range r.List {
		fmt.Fprintf(c.Out, "left alone: %q: %s\n", u.Key, u.Reason)
	}
	var err error
	if !f.apply {
		_, err = fmt.Fprintln(c.Out, "nothing was written; to do it, add --apply")
	}
	return err
}
