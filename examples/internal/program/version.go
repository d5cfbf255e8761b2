package program

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

// version is the command of that name.
func (p *Program) version(_ context.Context, c Console, args []string) error {
	if err := NoArguments(p.Name, "version", args); err != nil {
		return err
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this binary holds no build information; build it with the go command and module support")
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	version := info.Main.Version
	if version == "" {
		version = "(unknown version)"
	}
	fmt.Fprintf(c.Out, "understudy %s %s\n", p.Name, version)
	if revision := settings["vcs.revision"]; revision != "" {
		modified := ""
		if settings["vcs.modified"] == "true" {
			modified = ", modified"
		}
		fmt.Fprintf(c.Out, "commit  %s of %s%s\n", revision, settings["vcs.time"], modified)
	}
	fmt.Fprintf(c.Out, "built   %s %s/%s\n", info.GoVersion, settings["GOOS"], settings["GOARCH"])
	for _, dep := range info.Deps {
		if dep.Path == "go.etcd.io/etcd/client/v3" {
			fmt.Fprintf(c.Out, "etcd    client %s\n", dep.Version)
		}
	}
	return nil
}
