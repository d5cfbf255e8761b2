package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/keyfilter"
)

// Exit codes; the package comment documents them.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitPermission  = 4
	exitFenced      = 5
	exitIdentity    = 6
	exitNothing     = 7
	exitInterrupted = 130
)

// exits maps kinds of errors to exit codes; the first that fits counts.
var exits = []struct {
	kind error
	code int
}{
	{etcdmirror.ErrFenced, exitFenced},
	{etcdmirror.ErrPromoted, exitFenced},
	{etcdmirror.ErrSameCluster, exitIdentity},
	{etcdmirror.ErrSwapped, exitIdentity},
	{etcdmirror.ErrSourceChanged, exitIdentity},
	{etcdmirror.ErrSourceRewound, exitIdentity},
	{etcdmirror.ErrPrefixChanged, exitIdentity},
	{etcdmirror.ErrNotPromoted, exitNothing},
	{etcdmirror.ErrNotTripped, exitNothing},
	{connect.ErrUsage, exitUsage},
	{etcdmirror.ErrConfig, exitUsage},
	{keyfilter.ErrConfig, exitUsage},
	{connect.ErrDenied, exitPermission},
	{etcdmirror.ErrPermission, exitPermission},
	{connect.ErrUnreachable, exitUnreachable},
	{etcdmirror.ErrUnreachable, exitUnreachable},
	{context.Canceled, exitInterrupted},
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, e := range exits {
		if errors.Is(err, e.kind) {
			return e.code
		}
	}
	return exitFailure
}

func badUsage(setting, problem, hint string) error {
	return &connect.Error{Kind: connect.ErrUsage, Setting: setting, Problem: problem, Hint: hint}
}

// flagOf names the flag behind a field of etcdmirror.Config.
var flagOf = map[string]string{
	"Name": "name", "Prefix": "prefix", "TargetPrefix": "target-prefix", "StripPrefix": "strip-prefix", "AllKeys": "all-keys",
	"MaxTxnOps": "max-txn-ops", "InFlight": "in-flight",
	"RepairDelay": "repair-delay", "RepairLimit": "repair-limit", "Replica": "replica", "SessionTTL": "session-ttl",
	"Deletions.Share": "deletion-share", "Deletions.Count": "deletion-count", "Deletions.Window": "deletion-window",
}

// inSettings puts the name of the setting to look at in front of an error of package etcdmirror.
func inSettings(err error, settings *connect.Settings, sides ...*connect.Side) error {
	var e *etcdmirror.Error
	if !errors.As(err, &e) {
		return err
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok && err != error(e) {
		var errs []error
		for _, one := range list.Unwrap() {
			errs = append(errs, inSettings(one, settings, sides...))
		}
		return errors.Join(errs...)
	}
	if e.Kind == etcdmirror.ErrConfig {
		field, problem, _ := strings.Cut(e.Detail, " ")
		if name := flagOf[field]; name != "" {
			return badUsage(settings.Where(name), problem, e.Hint)
		}
		return err
	}
	for _, side := range sides {
		switch {
		case e.Side != side.Name():
		case e.Kind == etcdmirror.ErrUnreachable:
			return fmt.Errorf("%s: %w", side.Where("endpoints"), err)
		case e.Kind == etcdmirror.ErrPermission:
			return fmt.Errorf("%s: %w", side.Where("user"), err)
		}
	}
	switch {
	case len(sides) < 2: // there is no source to be the wrong one
	case errors.Is(err, etcdmirror.ErrSameCluster), errors.Is(err, etcdmirror.ErrSwapped):
		return fmt.Errorf("%s, %s: %w", sides[0].Where("endpoints"), sides[1].Where("endpoints"), err)
	case errors.Is(err, etcdmirror.ErrSourceChanged):
		return fmt.Errorf("%s: %w", sides[0].Where("endpoints"), err)
	case errors.Is(err, etcdmirror.ErrPrefixChanged):
		return fmt.Errorf("%s: %w", prefixSettings(settings), err)
	}
	return err
}

// prefixSettings names the settings that decide the prefixes, as far as they were given.
func prefixSettings(settings *connect.Settings) string {
	var given []string
	for _, name := range []string{"prefix", "all-keys", "target-prefix", "strip-prefix"} {
		if settings.Given(name) {
			given = append(given, settings.Where(name))
		}
	}
	return or(strings.Join(given, ", "), "--prefix")
}
