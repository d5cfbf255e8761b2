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
	unchecked            bool
	drift, leases        choice
	repairDelay          time.Duration
	repairLimit          int
	deletions            etcdmirror.DeletionGuard
	replica              string
	sessionTTL           time.Duration
	maxTxnOps, inFlight  int
	logFormat, logLevel  choice
	logInterval          time.Duration
	exitAfterCopy        bool
}

func newRunFlags() *runFlags {
	f := &runFlags{settings: connect.NewSettings(envPrefix),
		surplus:    choice{words: []string{"keep", "delete"}},
		leftFilter: choice{words: []string{"keep", "delete"}},
		drift:      choice{words: []string{"report", "repair"}},
		leases:     choice{words: []string{"drop", "mirror"}},
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
	fs.BoolVar(&f.unchecked, "unchecked", false, "write values that no apiserver can read, too; without it they are kept from the target and listed")
	fs.Var(&f.drift, "drift", "mirrored keys that others change or delete at the target, `report|repair`")
	fs.DurationVar(&f.repairDelay, "repair-delay", etcdmirror.DefaultRepairDelay, "how long after such a change the key is put back, with --drift repair")
	fs.IntVar(&f.repairLimit, "repair-limit", etcdmirror.DefaultRepairLimit, "`number` of times within an hour that a key is put back before it is left alone")
	fs.Float64Var(&f.deletions.Share, "deletion-share", etcdmirror.DefaultDeletionShare, "`share` of the keys, 0.3 for 30 %: when as many vanish within the window, the mirror stops until mirror approve")
	fs.IntVar(&f.deletions.Count, "deletion-count", etcdmirror.DefaultDeletionCount, "`number` of keys; the mirror does not stop for fewer")
	fs.DurationVar(&f.deletions.Window, "deletion-window", etcdmirror.DefaultDeletionWindow, "the time within which vanished keys are counted together")
	fs.BoolVar(&f.deletions.Off, "no-deletion-guard", false, "follow a mass deletion without being asked")
	fs.Var(&f.leases, "leases", "leases of keys, `drop|mirror`")
	fs.StringVar(&f.replica, "replica", "", "`name` of this instance among those that run this mirror; empty: host name and process ID")
	fs.DurationVar(&f.sessionTTL, "session-ttl", etcdmirror.DefaultSessionTTL, "how long the leading instance may be silent before another takes over, in whole seconds")
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
		Unchecked: f.unchecked, MaxTxnOps: f.maxTxnOps, InFlight: f.inFlight,
		RepairDelay: f.repairDelay, RepairLimit: f.repairLimit, Deletions: f.deletions, Replica: f.replica, SessionTTL: f.sessionTTL}
	if f.surplus.String() == "delete" {
		cfg.Surplus = etcdmirror.SurplusDelete
	}
	if f.leftFilter.String() == "delete" {
		cfg.LeftFilter = etcdmirror.LeftFilterDelete
	}
	if f.drift.String() == "repair" {
		cfg.Drift = etcdmirror.DriftRepair
	}
	if f.leases.String() == "mirror" {
		cfg.Leases = etcdmirror.LeaseMirror
	}
	errs := []error{f.source.Check(), f.target.Check(), f.checkZeros(), f.checkDeletions()}
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

// checkZeros refuses a zero where it would be taken for the default, which is not what somebody who writes it means.
func (f *runFlags) checkZeros() error {
	var errs []error
	for _, s := range []struct {
		name string
		zero bool
		hint string
	}{
		{"repair-delay", f.repairDelay == 0, "give a duration such as 1s"},
		{"repair-limit", f.repairLimit == 0, "give a number from 1 up, or --drift report to put nothing back"},
		{"deletion-share", f.deletions.Share == 0, "give a share such as 0.01 to be asked early, or --no-deletion-guard to be never asked"},
		{"deletion-count", f.deletions.Count == 0, "give a number from 1 up"},
		{"deletion-window", f.deletions.Window == 0, "give a duration such as 10m"},
		{"session-ttl", f.sessionTTL == 0, "give a duration such as 10s"},
	} {
		if s.zero {
			errs = append(errs, badUsage(f.settings.Where(s.name), "is zero", s.hint))
		}
	}
	return errors.Join(errs...)
}

// checkDeletions refuses limits of a guard that is off.
func (f *runFlags) checkDeletions() error {
	for _, name := range []string{"deletion-share", "deletion-count", "deletion-window"} {
		if f.deletions.Off && f.settings.Given(name) {
			return badUsage(f.settings.Where("no-deletion-guard"), "excludes "+f.settings.Where(name), "give one of them")
		}
	}
	return nil
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
