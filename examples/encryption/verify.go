package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// verifyFlags are the settings of encryption verify.
type verifyFlags struct {
	settings                         *connect.Settings
	file, metrics, installed, idHash string
}

func newVerifyFlags() *verifyFlags {
	f := &verifyFlags{settings: newSettings()}
	fs := f.settings.Flags
	fs.StringVar(&f.file, "file", "", "EncryptionConfiguration `file` that the apiserver should run with")
	fs.StringVar(&f.metrics, "metrics", "", "`file` with the metrics of the apiserver; - is the standard input")
	fs.StringVar(&f.installed, "installed", "", "`time` (RFC 3339) at which the file was put in place, by the clock of the apiserver's host; for apiservers before 1.34")
	fs.StringVar(&f.idHash, "apiserver-id-hash", "", "`hash` of the apiserver's identity, as its metrics have it; empty: any")
	return f
}

func runVerify(_ context.Context, c program.Console, args []string) error {
	f := newVerifyFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	want := encryption.LoadedFile{ApiserverIDHash: f.idHash}
	var errs []error
	for _, v := range []struct{ flag, value, hint string }{
		{"file", f.file, "give the file that the apiserver should run with"}, {"metrics", f.metrics, "give what its /metrics serves, such as from kubectl get --raw /metrics"},
	} {
		if v.value == "" {
			errs = append(errs, connect.Usage(f.settings.Where(v.flag), "is missing", v.hint))
		}
	}
	if f.installed != "" {
		var err error
		if want.Installed, err = time.Parse(time.RFC3339, f.installed); err != nil {
			errs = append(errs, connect.Usage(f.settings.Where("installed"), fmt.Sprintf("%q is no time", f.installed), "write one such as 2026-03-04T12:00:00Z"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	data, err := encryption.ReadFile(f.file)
	if err != nil {
		return mirrorflags.InEach(f.settings.Where("file"), err)
	}
	if _, err := encryption.Parse(data); err != nil {
		return mirrorflags.InEach(f.settings.Where("file"), err)
	}
	want.Hash = encryption.Hash(data)
	metrics := io.Reader(os.Stdin)
	if f.metrics != "-" {
		file, err := os.Open(f.metrics)
		if err != nil {
			return connect.Usage(f.settings.Where("metrics"), err.Error(), "give a file that this process can read")
		}
		defer file.Close()
		metrics = file
	}
	evidence, err := encryption.VerifyLoaded(metrics, want)
	if err != nil {
		return fmt.Errorf("%s: %w", f.settings.Where("metrics"), err)
	}
	_, err = fmt.Fprintf(c.Out, "the apiserver runs with %s (%s)\n", f.file, map[encryption.Evidence]string{
		encryption.EvidenceHash: "it tells the file's hash", encryption.EvidenceReload: "it has reloaded since the file was installed", encryption.EvidenceStart: "it was started since the file was installed",
	}[evidence])
	return err
}
