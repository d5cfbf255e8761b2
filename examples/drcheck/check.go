package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// checkFlags are the settings of drcheck check; repair has them and more.
type checkFlags struct {
	settings *connect.Settings
	mirrorflags.Sides
	keys       *mirrorflags.Keys
	encryption *mirrorflags.Encryption
	name       string

	mode, output mirrorflags.Choice
	limit        int
	settle       time.Duration
	accept       bool
	timeout      time.Duration
}

func newCheckFlags() *checkFlags { return newFlags(drcheck.DefaultLimit) }

// newFlags defines the settings. limit is the default of --limit.
func newFlags(limit int) *checkFlags {
	f := &checkFlags{settings: connect.NewSettings(mirrorflags.EnvPrefix),
		mode:   mirrorflags.Choice{Words: []string{string(drcheck.Content), string(drcheck.KeysOnly)}},
		output: mirrorflags.Choice{Words: []string{"text", "json"}}}
	mirrorflags.FileOfRun(f.settings)
	f.Sides, f.keys, f.encryption = mirrorflags.NewSides(f.settings), mirrorflags.NewKeys(f.settings), mirrorflags.NewEncryption(f.settings)
	fs := f.settings.Flags
	mirrorflags.NameVar(f.settings, &f.name)
	fs.Var(&f.mode, "mode", "what is compared, `content|keys`: keys and values, or keys alone")
	fs.IntVar(&f.limit, "limit", limit, "`number` of differing keys of each class that are listed; 0: none")
	fs.DurationVar(&f.settle, "settle", drcheck.DefaultSettle, "how long a key that differs is looked at again before it is reported")
	fs.BoolVar(&f.accept, "accept-made-at-target", false, "keys that the target's own cluster made are listed and are no difference")
	fs.DurationVar(&f.timeout, "timeout", 0, "how long all of it may take; 0s: as long as it takes")
	fs.Var(&f.output, "output", "form of the answer, `text|json`")
	f.settings.FlagOnly("output")
	return f
}

// config checks everything that can be checked without contacting an etcd.
func (f *checkFlags) config(c program.Console) (drcheck.Config, error) {
	cfg := drcheck.Config{Name: f.name, Prefix: f.keys.SourcePrefix(), AllKeys: f.keys.AllKeys, TargetPrefix: f.keys.TargetPrefix, StripPrefix: f.keys.StripPrefix,
		Mode: drcheck.Mode(f.mode.String()), AcceptMadeAtTarget: f.accept, Settle: f.settle, Limit: f.limit}
	errs := []error{f.Sides.Check(), f.keys.Check()}
	if f.settle == 0 {
		errs = append(errs, connect.Usage(f.settings.Where("settle"), "is zero", "give a duration such as 1s"))
	}
	switch {
	case f.limit < 0:
		errs = append(errs, connect.Usage(f.settings.Where("limit"), fmt.Sprintf("%d is negative", f.limit), "give a number, 0 for none"))
	case f.limit == 0:
		cfg.Limit = -1
	}
	if f.timeout < 0 {
		errs = append(errs, connect.Usage(f.settings.Where("timeout"), fmt.Sprintf("%v is negative", f.timeout), "give a duration such as 10m, or 0s for no limit"))
	}
	filter, err := f.keys.Filter()
	if err != nil {
		errs = append(errs, err)
	}
	if filter != nil {
		cfg.Keep, cfg.KeepID, cfg.Skip, cfg.Resource = filter.Match, filter.Hash(), f.keys.Skip(filter), mirrorflags.Resource(filter)
	}
	if err := f.encryption.Load(f.keys, filter, logTo(c)); err != nil {
		errs = append(errs, err)
	}
	f.encryption.Apply(f.keys, &etcdmirror.Config{}, &cfg)
	// New contacts nothing, so clients without a connection do for a check.
	unconnected := clientv3.NewCtxClient(context.Background())
	if _, err := drcheck.New(unconnected, unconnected, cfg); err != nil {
		errs = append(errs, mirrorflags.InSettings(err, f.settings))
	}
	return cfg, errors.Join(errs...)
}

// logTo logs what an operator should know.
func logTo(c program.Console) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// session is a checker with its connections.
type session struct {
	*drcheck.Checker
	source, target *connect.Conn
}

// open connects to both sides.
func (f *checkFlags) open(ctx context.Context, c program.Console, cfg drcheck.Config) (*session, error) {
	log := logTo(c)
	source, target, err := f.Dial(ctx, log)
	if err != nil {
		return nil, err
	}
	cfg.Logger = log
	checker, err := drcheck.New(source.Client, target.Client, cfg)
	if err != nil {
		source.Close()
		target.Close()
		return nil, err
	}
	return &session{checker, source, target}, nil
}

func (s *session) close() { s.source.Close(); s.target.Close() }

// bounded is ctx with the time limit.
func (f *checkFlags) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, f.timeout)
}

// in names the setting behind an error. ctx is the bounded one.
func (f *checkFlags) in(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return connect.Usage(f.settings.Where("timeout"), fmt.Sprintf("it was not done within %v", f.timeout), "give more time, or look at less with --mode keys")
	}
	return mirrorflags.InSettings(err, f.settings, f.Source, f.Target)
}

// runCheck is drcheck check.
func runCheck(ctx context.Context, c program.Console, args []string) error {
	f := newCheckFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	defer f.encryption.Close()
	cfg, err := f.config(c)
	if err != nil {
		return err
	}
	ctx, cancel := f.bounded(ctx)
	defer cancel()
	s, err := f.open(ctx, c, cfg)
	if err != nil {
		return f.in(ctx, err)
	}
	defer s.close()
	result, err := s.Check(ctx)
	if err != nil {
		return f.in(ctx, err)
	}
	if f.output.String() == "json" {
		err = printJSON(c.Out, result)
	} else {
		err = result.WriteText(c.Out)
	}
	if err != nil {
		return err
	}
	return outcome(result)
}

// outcome gives a result its exit code.
func outcome(result *drcheck.Result) error {
	if result.Equal {
		return nil
	}
	return program.Code(exitDiffers)
}

func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}
