package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// newSettings begins the settings of a command.
func newSettings() *connect.Settings { return connect.NewSettings(mirrorflags.EnvPrefix) }

// outputVar defines --output.
func outputVar(s *connect.Settings, output *mirrorflags.Choice) {
	output.Words = []string{"text", "json"}
	s.Flags.Var(output, "output", "form of the answer, `text|json`")
	s.FlagOnly("output")
}

func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// readConfig reads the file of a flag, and checks it. Its notices are printed.
func readConfig(c program.Console, s *connect.Settings, flag, path string) (*encryption.Configuration, error) {
	where := s.Where(flag)
	if path == "" {
		return nil, connect.Usage(where, "is missing", "give the file of --encryption-provider-config")
	}
	cfg, err := encryption.ParseFile(path)
	if err != nil {
		return nil, mirrorflags.InEach(where, err)
	}
	notices, err := encryption.Validate(cfg)
	if err != nil {
		return nil, mirrorflags.InEach(where, err)
	}
	for _, n := range notices {
		fmt.Fprintf(c.Err, "encryption: %s: notice: %s\n", where, n)
	}
	return cfg, nil
}

// writeNew writes a file of the program's own making, in place of another only with --replace.
func writeNew(s *connect.Settings, flag, path string, data []byte, replace bool) error {
	_, err := encryption.WriteFile(path, data, encryption.InstallOptions{Replace: replace})
	if errors.Is(err, encryption.ErrExists) {
		return connect.Usage(s.Where(flag), err.Error(), "add --replace to replace it")
	}
	return mirrorflags.InEach(s.Where(flag), err)
}

// validateFlags are the settings of encryption validate.
type validateFlags struct {
	settings *connect.Settings
	file     string
	output   mirrorflags.Choice
}

func newValidateFlags() *validateFlags {
	f := &validateFlags{settings: newSettings()}
	f.settings.Flags.StringVar(&f.file, "file", "", "EncryptionConfiguration `file`")
	outputVar(f.settings, &f.output)
	return f
}

// validated is what encryption validate tells as JSON. The names of its fields are documented in the help and stay.
type validated struct {
	Hash    string              `json:"hash"`
	Notices []encryption.Notice `json:"notices"`
}

func runValidate(_ context.Context, c program.Console, args []string) error {
	f := newValidateFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	where := f.settings.Where("file")
	if f.file == "" {
		return connect.Usage(where, "is missing", "give the file of --encryption-provider-config")
	}
	data, err := encryption.ReadFile(f.file)
	if err != nil {
		return mirrorflags.InEach(where, err)
	}
	cfg, err := encryption.Parse(data)
	if err != nil {
		return mirrorflags.InEach(where, err)
	}
	notices, err := encryption.Validate(cfg)
	if err != nil {
		return mirrorflags.InEach(where, err)
	}
	hash := encryption.Hash(data)
	if f.output.String() == "json" {
		return printJSON(c.Out, validated{Hash: hash, Notices: append([]encryption.Notice{}, notices...)})
	}
	for _, n := range notices {
		fmt.Fprintln(c.Out, "notice:", n)
	}
	_, err = fmt.Fprintf(c.Out, "valid, %d notices\nhash %s\n", len(notices), hash)
	return err
}

// pairFlags are the settings of commands that take the files of both clusters.
type pairFlags struct {
	settings                 *connect.Settings
	primary, standby         string
	clash, plaintext, writes mirrorflags.Choice
	writer                   string
	replace                  bool
}

// define defines them, at their last place.
func (f *pairFlags) define() {
	f.settings = newSettings()
	f.clash.Words = []string{"refuse", "rename-standby", "keep-both"}
	f.plaintext.Words = []string{"encrypt", "keep", "refuse"}
	f.writes.Words = []string{"primary", "standby"}
	fs := f.settings.Flags
	fs.StringVar(&f.primary, "primary", "", "EncryptionConfiguration `file` of the primary's apiservers")
	fs.StringVar(&f.standby, "standby", "", "EncryptionConfiguration `file` of the standby's apiservers")
	fs.Var(&f.clash, "clash", "keys of one name with different secrets, `refuse|rename-standby|keep-both`; keep-both is not for aescbc")
	fs.Var(&f.plaintext, "plaintext", "what the writing cluster does not encrypt though there are keys, `encrypt|keep|refuse`")
	fs.Var(&f.writes, "writes", "the cluster whose first key writes, `primary|standby`")
	fs.StringVar(&f.writer, "writer", "", "`name` of the key that writes, instead; provider/name where two providers have it")
	fs.BoolVar(&f.replace, "replace", false, "replace files that are there already")
	f.settings.FlagOnly("replace")
}

func (f *pairFlags) options() encryption.MergeOptions {
	opts := encryption.MergeOptions{Writes: encryption.Role(f.writes.String()), Writer: parseLabel(f.writer)}
	opts.Clash = map[string]encryption.ClashPolicy{"refuse": encryption.ClashRefuse, "rename-standby": encryption.ClashRenameStandby, "keep-both": encryption.ClashKeepBoth}[f.clash.String()]
	opts.Plaintext = map[string]encryption.PlaintextPolicy{"encrypt": encryption.PlaintextEncrypt, "keep": encryption.PlaintextKeep, "refuse": encryption.PlaintextRefuse}[f.plaintext.String()]
	return opts
}

// read reads both files.
func (f *pairFlags) read(c program.Console) (primary, standby *encryption.Configuration, err error) {
	primary, primaryErr := readConfig(c, f.settings, "primary", f.primary)
	standby, standbyErr := readConfig(c, f.settings, "standby", f.standby)
	return primary, standby, errors.Join(primaryErr, standbyErr)
}

// in names the setting behind an error of a merge.
func (f *pairFlags) in(err error) error {
	for _, v := range []struct {
		kind error
		flag string
	}{{encryption.ErrConflict, "clash"}, {encryption.ErrPlaintext, "plaintext"}, {encryption.ErrConfig, "writer"}} {
		if errors.Is(err, v.kind) {
			return mirrorflags.InEach(f.settings.Where(v.flag), err)
		}
	}
	if err == nil {
		return nil
	}
	return mirrorflags.InEach(f.settings.Where("primary")+", "+f.settings.Where("standby"), err)
}

// mergeFlags are the settings of encryption merge.
type mergeFlags struct {
	pairFlags
	out string
}

func newMergeFlags() *mergeFlags {
	f := &mergeFlags{}
	f.define()
	f.settings.Flags.StringVar(&f.out, "out", "", "`file` for the merged configuration")
	return f
}

func runMerge(_ context.Context, c program.Console, args []string) error {
	f := newMergeFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	primary, standby, err := f.read(c)
	if f.out == "" {
		err = errors.Join(err, connect.Usage(f.settings.Where("out"), "is missing", "give a path for the merged file: it holds secrets, and is not printed"))
	}
	if err != nil {
		return err
	}
	merged, err := encryption.Merge(primary, standby, f.options())
	if err != nil {
		return f.in(err)
	}
	data, err := encryption.Encode(merged.Config)
	if err != nil {
		return err
	}
	if err := writeNew(f.settings, "out", f.out, data, f.replace); err != nil {
		return err
	}
	for _, n := range merged.Notices {
		fmt.Fprintln(c.Out, "notice:", n)
	}
	fmt.Fprintf(c.Out, "written %s\nhash %s\n", f.out, encryption.Hash(data))
	_, err = fmt.Fprintln(c.Out, "do not install it everywhere at once: see encryption plan")
	return err
}
