package mirrorflags

import (
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// flagOf names the flag behind a field of etcdmirror.Config.
var flagOf = map[string]string{
	"Name": "name", "Prefix": "prefix", "TargetPrefix": "target-prefix", "StripPrefix": "strip-prefix", "AllKeys": "all-keys",
	"MaxTxnOps": "max-txn-ops", "InFlight": "in-flight", "CatchUpWatches": "catch-up-watches",
	"RepairDelay": "repair-delay", "RepairLimit": "repair-limit", "Replica": "replica", "SessionTTL": "session-ttl",
	"Deletions.Share": "deletion-share", "Deletions.Count": "deletion-count", "Deletions.Window": "deletion-window",
}

// flagOfCheck names the flag behind a field of drcheck.Config or drcheck.RepairOptions, where etcdmirror.Config has none of the name.
var flagOfCheck = map[string]string{"Settle": "settle", "Mode": "mode", "DeleteSurplus": "delete-surplus-file", "MaxDeletes": "max-deletes", "Classes": "classes"}

// InSettings puts the name of the setting to look at in front of an error of package etcdmirror or drcheck. sides are the source and the target, or the target alone.
func InSettings(err error, settings *connect.Settings, sides ...*connect.Side) error {
	var self error
	var side, detail, hint string
	if e, ok := errors.AsType[*etcdmirror.Error](err); ok {
		self, side, detail, hint = e, e.Side, e.Detail, e.Hint
	} else if e, ok := errors.AsType[*drcheck.Error](err); ok {
		self, side, detail, hint = e, e.Side, e.Detail, e.Hint
	} else {
		return err
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok && err != self {
		var errs []error
		for _, one := range list.Unwrap() {
			errs = append(errs, InSettings(one, settings, sides...))
		}
		return errors.Join(errs...)
	}
	if is(err, etcdmirror.ErrConfig, drcheck.ErrConfig) {
		field, problem, _ := strings.Cut(detail, " ")
		name := flagOf[field]
		if name == "" {
			name = flagOfCheck[field]
		}
		if name != "" && settings.Flags.Lookup(name) != nil {
			return connect.Usage(settings.Where(name), problem, hint)
		}
		return err
	}
	for _, s := range sides {
		switch {
		case side != s.Name():
		case is(err, etcdmirror.ErrUnreachable, drcheck.ErrUnreachable):
			return fmt.Errorf("%s: %w", s.Where("endpoints"), err)
		case is(err, etcdmirror.ErrPermission, drcheck.ErrPermission):
			return fmt.Errorf("%s: %w", s.Where("user"), err)
		}
	}
	switch {
	case is(err, drcheck.ErrNoMirror, drcheck.ErrPromoted):
		return fmt.Errorf("%s: %w", settings.Where("name"), err)
	case is(err, drcheck.ErrTooMany):
		return fmt.Errorf("%s: %w", settings.Where("max-deletes"), err)
	case len(sides) < 2: // there is no source to be the wrong one
	case is(err, etcdmirror.ErrSameCluster, etcdmirror.ErrSwapped, drcheck.ErrSameCluster):
		return fmt.Errorf("%s, %s: %w", sides[0].Where("endpoints"), sides[1].Where("endpoints"), err)
	case is(err, etcdmirror.ErrSourceChanged):
		return fmt.Errorf("%s: %w", sides[0].Where("endpoints"), err)
	case is(err, etcdmirror.ErrPrefixChanged):
		return fmt.Errorf("%s: %w", prefixSettings(settings), err)
	case is(err, drcheck.ErrOtherMirror):
		return fmt.Errorf("%s: %w", otherMirror(detail, settings, sides[0]), err)
	}
	return err
}

// otherMirror names the settings that make a check one of another mirror, by what differs.
func otherMirror(detail string, settings *connect.Settings, source *connect.Side) string {
	what := strings.TrimPrefix(detail, "the ")
	switch {
	case strings.HasPrefix(what, "Prefix"), strings.HasPrefix(what, "TargetPrefix"):
		return prefixSettings(settings)
	case strings.HasPrefix(what, "KeepID") && settings.Given("no-rules"):
		return settings.Where("no-rules")
	case strings.HasPrefix(what, "KeepID"):
		return settings.Where("rules")
	case strings.HasPrefix(what, "transformation"):
		return settings.Where(sourceEncryption) + ", " + settings.Where(targetEncryption)
	}
	return settings.Where("name") + ", " + source.Where("endpoints")
}

// is reports whether an error is of one of several kinds.
func is(err error, kinds ...error) bool {
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// prefixSettings names the settings that decide the prefixes, as far as they were given.
func prefixSettings(settings *connect.Settings) string {
	var given []string
	for _, name := range []string{"prefix", "all-keys", "target-prefix", "strip-prefix"} {
		if settings.Given(name) {
			given = append(given, settings.Where(name))
		}
	}
	if len(given) == 0 {
		return "--prefix"
	}
	return strings.Join(given, ", ")
}
