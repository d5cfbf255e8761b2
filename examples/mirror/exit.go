package main

import (
	"context"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
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
	exitInterrupted = program.Interrupted
)

// exits are the exit codes of kinds of errors; the first that fits counts.
var exits = []program.Exit{
	{Kind: etcdmirror.ErrFenced, Code: exitFenced},
	{Kind: etcdmirror.ErrPromoted, Code: exitFenced},
	{Kind: etcdmirror.ErrSameCluster, Code: exitIdentity},
	{Kind: etcdmirror.ErrSwapped, Code: exitIdentity},
	{Kind: etcdmirror.ErrSourceChanged, Code: exitIdentity},
	{Kind: etcdmirror.ErrSourceRewound, Code: exitIdentity},
	{Kind: etcdmirror.ErrPrefixChanged, Code: exitIdentity},
	{Kind: etcdmirror.ErrNotPromoted, Code: exitNothing},
	{Kind: etcdmirror.ErrNotTripped, Code: exitNothing},
	{Kind: connect.ErrUsage, Code: exitUsage},
	{Kind: etcdmirror.ErrConfig, Code: exitUsage},
	{Kind: keyfilter.ErrConfig, Code: exitUsage},
	{Kind: drcheck.ErrConfig, Code: exitUsage},
	{Kind: connect.ErrDenied, Code: exitPermission},
	{Kind: etcdmirror.ErrPermission, Code: exitPermission},
	{Kind: connect.ErrUnreachable, Code: exitUnreachable},
	{Kind: etcdmirror.ErrUnreachable, Code: exitUnreachable},
	{Kind: context.Canceled, Code: exitInterrupted},
}
