package mirrorflags

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

const (
	defaultLogInterval = 10 * time.Second
	defaultReadyLag    = time.Minute
	// leastCheckInterval keeps scheduled checks from being all that the etcds do.
	leastCheckInterval = 10 * time.Second
)

// Run are the settings of mirror run.
type Run struct {
	Settings *connect.Settings
	Sides
	Keys       *Keys
	Encryption *Encryption
	Name       string

	surplus, leftFilter Choice
	unchecked           bool
	drift, leases       Choice
	repairDelay         time.Duration
	repairLimit         int
	deletions           etcdmirror.DeletionGuard
	replica             string
	sessionTTL          time.Duration
	maxTxnOps, inFlight int
	watch               Choice
	catchUpWatches      int
	logFormat, logLevel Choice

	// LogInterval is how often the state is logged.
	LogInterval time.Duration
	// ExitAfterCopy ends the run when the tail begins.
	ExitAfterCopy bool

	httpListen string
	// ReadyLag is how far behind a ready mirror may be.
	ReadyLag time.Duration
	// CheckInterval is the time between checks; 0 is never.
	CheckInterval time.Duration
	checkMode     Choice
	checkAccept   bool
	// Pprof serves profiles of the program at the address of --http-listen.
	Pprof bool
}

// NewRun defines the settings.
func NewRun() *Run {
	f := &Run{Settings: connect.NewSettings(EnvPrefix),
		surplus:    Choice{Words: []string{"keep", "delete"}},
		leftFilter: Choice{Words: []string{"keep", "delete"}},
		drift:      Choice{Words: []string{"report", "repair"}},
		leases:     Choice{Words: []string{"drop", "mirror"}},
		watch:      Choice{Words: []string{"auto", "all", "kept"}},
		logFormat:  Choice{Words: []string{"text", "json"}},
		logLevel:   Choice{Words: []string{"info", "debug", "warn", "error"}},
		checkMode:  Choice{Words: []string{string(drcheck.Content), string(drcheck.KeysOnly)}},
	}
	f.Sides, f.Keys, f.Encryption = NewSides(f.Settings), NewKeys(f.Settings), NewEncryption(f.Settings)
	fs := f.Settings.Flags
	fs.String("config", "", "YAML `file` with these settings")
	NameVar(f.Settings, &f.Name)
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
	fs.Var(&f.watch, "watch", "how much of the source is followed: all, only kept ranges of keys, or kept ones of a source more than 5 ms away, `auto|all|kept`")
	fs.IntVar(&f.catchUpWatches, "catch-up-watches", etcdmirror.DefaultCatchUpWatches, "`number` of watches of the source that read a backlog side by side")
	fs.Var(&f.logFormat, "log-format", "form of the log lines, `text|json`")
	fs.Var(&f.logLevel, "log-level", "lines from this level up are logged, `debug|info|warn|error`")
	fs.DurationVar(&f.LogInterval, "log-interval", defaultLogInterval, "how often the state is logged")
	fs.BoolVar(&f.ExitAfterCopy, "exit-after-copy", false, "end with exit code 0 when the base copy is done and the tail has begun")
	f.defineMonitoring()
	return f
}

func (f *Run) defineMonitoring() {
	fs := f.Settings.Flags
	fs.StringVar(&f.httpListen, "http-listen", "", "`address` to serve /healthz, /readyz, /status, /check and /metrics at: host:port, [IPv6 address]:port, or :port for all addresses of this host; empty: none")
	fs.BoolVar(&f.Pprof, "pprof", false, "serve profiles of this program below /debug/pprof/, at the address of --http-listen")
	fs.DurationVar(&f.ReadyLag, "ready-lag", defaultReadyLag, "how far the target may be behind while /readyz says that the mirror is ready")
	fs.DurationVar(&f.CheckInterval, "check-interval", 0, "how often the leading instance compares source and target, from 10s up; 0s: never")
	fs.Var(&f.checkMode, "check-mode", "what the comparison and /check look at, `content|keys`")
	fs.BoolVar(&f.checkAccept, "check-accept-made-at-target", false, "keys that the target's own cluster made are no difference to the comparison and /check")
}

// Config checks everything that can be checked without contacting an etcd. check is for comparisons of what the mirror carries. log is told when a KMS plugin does not answer.
func (f *Run) Config(log *slog.Logger) (cfg etcdmirror.Config, check drcheck.Config, err error) {
	cfg = etcdmirror.Config{Name: f.Name, Prefix: f.Keys.SourcePrefix(), AllKeys: f.Keys.AllKeys, TargetPrefix: f.Keys.TargetPrefix, StripPrefix: f.Keys.StripPrefix,
		Unchecked: f.unchecked, MaxTxnOps: f.maxTxnOps, InFlight: f.inFlight, CatchUpWatches: f.catchUpWatches,
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
	switch f.watch.String() {
	case "all":
		cfg.Watch = etcdmirror.WatchAll
	case "kept":
		cfg.Watch = etcdmirror.WatchKept
	}
	errs := []error{f.Sides.Check(), f.checkZeros(), f.checkDeletions(), f.Keys.Check(), f.checkMonitoring()}
	if f.LogInterval <= 0 {
		errs = append(errs, connect.Usage(f.Settings.Where("log-interval"), fmt.Sprintf("%v is not positive", f.LogInterval), "give a duration such as 10s"))
	}
	filter, err := f.Keys.Filter()
	if err != nil {
		errs = append(errs, err)
	}
	if filter != nil {
		cfg.Keep, cfg.KeepID, cfg.Skip = filter.Match, filter.Hash(), f.Keys.Skip(filter)
	}
	if err := f.Encryption.Load(f.Keys, filter, log); err != nil {
		errs = append(errs, err)
	}
	f.Encryption.Apply(f.Keys, &cfg, &check)
	// New contacts nothing, so clients without a connection do for a check.
	unconnected := clientv3.NewCtxClient(context.Background())
	if _, err := etcdmirror.New(unconnected, unconnected, cfg); err != nil {
		errs = append(errs, InSettings(err, f.Settings))
	}
	check = drcheck.Config{Name: cfg.Name, Prefix: cfg.Prefix, AllKeys: cfg.AllKeys, TargetPrefix: cfg.TargetPrefix, StripPrefix: cfg.StripPrefix,
		Keep: cfg.Keep, KeepID: cfg.KeepID, Skip: cfg.Skip, Transform: check.Transform, OpenSource: check.OpenSource, OpenTarget: check.OpenTarget, Resource: Resource(filter),
		Mode: drcheck.Mode(f.checkMode.String()), AcceptMadeAtTarget: f.checkAccept}
	return cfg, check, errors.Join(errs...)
}

// HTTPListen is the address to serve at, "" for none.
func (f *Run) HTTPListen() (string, error) {
	if f.httpListen == "" {
		return "", nil
	}
	address, err := connect.ParseListen(f.httpListen)
	if err != nil {
		return "", connect.Usage(f.Settings.Where("http-listen"), err.Error(), "write host:port, [IPv6 address]:port or :port")
	}
	return address, nil
}

// checkMonitoring checks what is about watching the mirror.
func (f *Run) checkMonitoring() error {
	_, err := f.HTTPListen()
	errs := []error{err}
	if f.Pprof && f.httpListen == "" {
		errs = append(errs, connect.Usage(f.Settings.Where("pprof"), "is set without --http-listen, so that there is no address to serve profiles at", "give --http-listen, too, such as localhost:8080"))
	}
	if f.ReadyLag <= 0 {
		errs = append(errs, connect.Usage(f.Settings.Where("ready-lag"), fmt.Sprintf("%v is not positive", f.ReadyLag), "give a duration such as 60s"))
	}
	if f.CheckInterval != 0 && f.CheckInterval < leastCheckInterval {
		errs = append(errs, connect.Usage(f.Settings.Where("check-interval"), fmt.Sprintf("%v is below %v", f.CheckInterval, leastCheckInterval),
			"give a longer time such as 10m, for each comparison reads both etcds; or 0s for none"))
	}
	return errors.Join(errs...)
}

// checkZeros refuses a zero where it would be taken for the default, which is not what somebody who writes it means.
func (f *Run) checkZeros() error {
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
			errs = append(errs, connect.Usage(f.Settings.Where(s.name), "is zero", s.hint))
		}
	}
	return errors.Join(errs...)
}

// checkDeletions refuses limits of a guard that is off.
func (f *Run) checkDeletions() error {
	for _, name := range []string{"deletion-share", "deletion-count", "deletion-window"} {
		if f.deletions.Off && f.Settings.Given(name) {
			return connect.Usage(f.Settings.Where("no-deletion-guard"), "excludes "+f.Settings.Where(name), "give one of them")
		}
	}
	return nil
}

// Logger logs in the format and from the level that the settings say.
func (f *Run) Logger(w io.Writer) *slog.Logger {
	level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[f.logLevel.String()]
	opts := &slog.HandlerOptions{Level: level}
	if f.logFormat.String() == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
