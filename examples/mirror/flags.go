package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/keyfilter"
)

const (
	envPrefix          = "UNDERSTUDY"
	defaultName        = "default"
	defaultLogInterval = 10 * time.Second
)

// choice is a flag that takes one of a few words; the first is the default.
type choice struct {
	words []string
	value string
}

func (c *choice) String() string {
	if c == nil || len(c.words) == 0 {
		return ""
	}
	return or(c.value, c.words[0])
}

func (c *choice) Set(value string) error {
	for _, word := range c.words {
		if value == word {
			c.value = value
			return nil
		}
	}
	return errors.New("use " + strings.Join(c.words, " or "))
}

// runFlags are the settings of mirror run.
type runFlags struct {
	settings       *connect.Settings
	source, target *connect.Side

	name                 string
	prefix, targetPrefix string
	stripPrefix, allKeys bool
	rules                string
	noRules              bool
	surplus, leftFilter  choice
	maxTxnOps, inFlight  int
	logFormat, logLevel  choice
	logInterval          time.Duration
	exitAfterCopy        bool
}

func newRunFlags() *runFlags {
	f := &runFlags{settings: connect.NewSettings(envPrefix),
		surplus:    choice{words: []string{"keep", "delete"}},
		leftFilter: choice{words: []string{"keep", "delete"}},
		logFormat:  choice{words: []string{"text", "json"}},
		logLevel:   choice{words: []string{"info", "debug", "warn", "error"}},
	}
	f.source, f.target = connect.NewSide(f.settings, "source"), connect.NewSide(f.settings, "target")
	fs := f.settings.Flags
	fs.String("config", "", "YAML `file` with these settings")
	nameFlag(f.settings, &f.name)
	fs.StringVar(&f.prefix, "prefix", etcdmirror.DefaultPrefix, "source `keys` that are mirrored: those that begin with this")
	fs.StringVar(&f.targetPrefix, "target-prefix", "", "`prefix` that replaces --prefix in the target's keys")
	fs.BoolVar(&f.stripPrefix, "strip-prefix", false, "drop --prefix from the target's keys")
	fs.BoolVar(&f.allKeys, "all-keys", false, "mirror the whole key space instead of a prefix; together with --no-rules or --rules")
	fs.StringVar(&f.rules, "rules", "", "YAML `file` of package keyfilter that says what is kept; empty: its defaults for Kubernetes")
	fs.BoolVar(&f.noRules, "no-rules", false, "keep every key")
	fs.Var(&f.surplus, "surplus", "keys that the target's own cluster made, `keep|delete`")
	fs.Var(&f.leftFilter, "left-filter", "mirrored keys that changed rules no longer keep, `keep|delete`")
	fs.IntVar(&f.maxTxnOps, "max-txn-ops", etcdmirror.DefaultMaxTxnOps, "the target's --max-txn-ops, a `number`")
	fs.IntVar(&f.inFlight, "in-flight", etcdmirror.DefaultInFlight, "`number` of transactions that a copy has under way at once")
	fs.Var(&f.logFormat, "log-format", "form of the log lines, `text|json`")
	fs.Var(&f.logLevel, "log-level", "lines from this level up are logged, `debug|info|warn|error`")
	fs.DurationVar(&f.logInterval, "log-interval", defaultLogInterval, "how often the state is logged")
	fs.BoolVar(&f.exitAfterCopy, "exit-after-copy", false, "end with exit code 0 when the base copy is done and the tail has begun")
	return f
}

func nameFlag(s *connect.Settings, name *string) {
	s.Flags.StringVar(name, "name", defaultName, "`name` of the mirror, under which the target keeps its metadata")
}

// config checks everything that can be checked without contacting an etcd.
func (f *runFlags) config() (etcdmirror.Config, error) {
	cfg := etcdmirror.Config{Name: f.name, Prefix: f.prefix, AllKeys: f.allKeys, TargetPrefix: f.targetPrefix, StripPrefix: f.stripPrefix,
		MaxTxnOps: f.maxTxnOps, InFlight: f.inFlight}
	if f.surplus.String() == "delete" {
		cfg.Surplus = etcdmirror.SurplusDelete
	}
	if f.leftFilter.String() == "delete" {
		cfg.LeftFilter = etcdmirror.LeftFilterDelete
	}
	errs := []error{f.source.Check(), f.target.Check()}
	if address := connect.Shared(f.source, f.target); address != "" {
		errs = append(errs, fmt.Errorf("%s, %s: %w", f.source.Where("endpoints"), f.target.Where("endpoints"), &etcdmirror.Error{Kind: etcdmirror.ErrSameCluster,
			Detail: "both list " + address, Hint: "give the addresses of two clusters"}))
	}
	if f.allKeys {
		if f.settings.Given("prefix") {
			errs = append(errs, badUsage(f.settings.Where("all-keys"), "excludes "+f.settings.Where("prefix"), "give one of them"))
		}
		cfg.Prefix = ""
	} else if f.prefix == "" {
		errs = append(errs, badUsage(f.settings.Where("prefix"), "is empty", "give a prefix, or --all-keys for the whole key space"))
	}
	if f.logInterval <= 0 {
		errs = append(errs, badUsage(f.settings.Where("log-interval"), fmt.Sprintf("%v is not positive", f.logInterval), "give a duration such as 10s"))
	}
	filter, err := f.filter()
	if err != nil {
		errs = append(errs, err)
	}
	if filter != nil {
		cfg.Keep, cfg.KeepID = filter.Match, filter.Hash()
	}
	// New contacts nothing, so clients without a connection do for a check.
	unconnected := clientv3.NewCtxClient(context.Background())
	if _, err := etcdmirror.New(unconnected, unconnected, cfg); err != nil {
		errs = append(errs, inSettings(err, f.settings))
	}
	return cfg, errors.Join(errs...)
}

// filter makes the filter from the rules; nil keeps every key.
func (f *runFlags) filter() (*keyfilter.Filter, error) {
	set := f.settings
	where := set.Where("rules")
	switch {
	case f.noRules && f.rules != "":
		return nil, badUsage(set.Where("no-rules"), "excludes "+where, "give one of them")
	case f.noRules:
		return nil, nil
	case f.allKeys && f.rules == "":
		return nil, badUsage(set.Where("all-keys"), "does nothing with the default rules, which drop all keys outside of "+etcdmirror.DefaultPrefix,
			"add --no-rules to keep every key, or --rules with a file that lists the prefixes")
	}
	var cfg keyfilter.Config
	if f.rules != "" {
		var err error
		if cfg, err = keyfilter.LoadFile(f.rules); err != nil {
			var path *os.PathError
			if errors.As(err, &path) {
				return nil, badUsage(where, path.Path+": "+path.Err.Error(), "give a file that this process can read")
			}
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	}
	stated := len(cfg.Prefixes) > 0
	if !stated && !f.allKeys && !overlap(f.prefix, etcdmirror.DefaultPrefix) {
		cfg.Prefixes = []string{f.prefix} // an apiserver with another --etcd-prefix
	}
	filter, err := keyfilter.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if f.allKeys {
		return filter, nil
	}
	for _, prefix := range filter.Prefixes() {
		if overlap(prefix, f.prefix) {
			continue
		}
		if stated {
			return nil, badUsage(set.Where("prefix"), fmt.Sprintf("%q and the prefix %q in %s have no key in common", f.prefix, prefix, f.rules), "make them agree, or remove it there")
		}
		return nil, badUsage(set.Where("prefix"), fmt.Sprintf("%q is no --etcd-prefix of an apiserver, which begin with a slash", f.prefix), "correct it, or add --no-rules for other keys")
	}
	return filter, nil
}

// overlap reports whether some keys begin with both prefixes.
func overlap(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

// logger logs in the format and from the level that the settings say.
func (f *runFlags) logger(w *screen) *slog.Logger {
	level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[f.logLevel.String()]
	opts := &slog.HandlerOptions{Level: level}
	if f.logFormat.String() == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
