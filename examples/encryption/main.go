// Command encryption deals with the keys by which two clusters' etcds are encrypted at rest: it checks and merges EncryptionConfigurations, plans how the merged one comes to all apiservers
// without a lost Secret, counts what is stored with which key, and changes labels and keys in place.
//
//	encryption validate  check a file, by kube-apiserver's rules and beyond
//	encryption merge     make one file of those of two clusters
//	encryption plan      the order in which files come to the apiservers of two clusters, and the files
//	encryption verify    does an apiserver run with a file, by its metrics?
//	encryption audit     count the values of an etcd by key, and how many of them a file reads
//	encryption relabel   give values another key name in place; without --apply only say how many
//	encryption rewrite   encrypt values anew in place; without --apply only say how many
//	encryption version   what this binary was built from
//	encryption help      these, or the flags of one: encryption help merge
//
// Each setting is a flag or an environment variable (UNDERSTUDY_ETCD_ENDPOINTS for --etcd-endpoints). A flag wins over the environment.
// No secret is ever printed. Files that hold secrets are written with mode 0600, and replace others only with --replace.
//
// Exit codes:
//
//	0    done; validate: the file is valid; audit: every value can be read; verify: the file is loaded
//	1    audit: some values cannot be read; verify: the file is not loaded; relabel, rewrite: an apiserver is not ready for it
//	2    bad usage, an unusable file, files that cannot be merged, an etcd that is unreachable or refuses the user
//	130  interrupted
package main

import (
	"context"
	"io"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// Exit codes; the package comment documents them.
const (
	exitNo     = 1
	exitFailed = 2
)

func main() { encryptionProgram().Main() }

// run is the program without the process: it ends when the command is done or ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return encryptionProgram().Run(ctx, args, stdout, stderr)
}

// encryptionProgram describes the program.
func encryptionProgram() *program.Program {
	return &program.Program{Name: "encryption", About: "encryption deals with the keys by which two clusters' etcds are encrypted at rest.",
		Commands: []program.Command{
			{Name: "validate", Summary: "check a file, by kube-apiserver's rules and beyond", Settings: func() *connect.Settings { return newValidateFlags().settings }, Run: runValidate},
			{Name: "merge", Summary: "make one file of those of two clusters", Settings: func() *connect.Settings { return newMergeFlags().settings }, Run: runMerge},
			{Name: "plan", Summary: "the order in which files come to the apiservers, and the files", Settings: func() *connect.Settings { return newPlanFlags().settings }, Run: runPlan},
			{Name: "verify", Summary: "does an apiserver run with a file, by its metrics?", Settings: func() *connect.Settings { return newVerifyFlags().settings }, Run: runVerify},
			{Name: "audit", Summary: "count the values of an etcd by key, and what a file reads", Settings: func() *connect.Settings { return newAuditFlags().settings }, Run: runAudit},
			{Name: "relabel", Summary: "give values another key name; without --apply only say how many", Settings: func() *connect.Settings { return newInPlaceFlags(true).settings }, Run: runRelabel},
			{Name: "rewrite", Summary: "encrypt values anew; without --apply only say how many", Settings: func() *connect.Settings { return newInPlaceFlags(false).settings }, Run: runRewrite},
		},
		Details: details, SettingsHelp: settingsHelp, ExitHelp: exitHelp,
		Exits: []program.Exit{{Kind: context.Canceled, Code: program.Interrupted}, {Kind: encryption.ErrWriters, Code: exitNo}, {Kind: encryption.ErrNotLoaded, Code: exitNo}}, Failure: exitFailed}
}
