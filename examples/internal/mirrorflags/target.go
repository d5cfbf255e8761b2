package mirrorflags

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
)

// Target are the settings of commands that need the target only. Such a command may be given the file of mirror run.
type Target struct {
	Settings *connect.Settings
	Target   *connect.Side
	Name     string // of the mirror; the command defines its flag
}

// NewTarget defines the settings.
func NewTarget() Target {
	t := Target{Settings: connect.NewSettings(EnvPrefix)}
	FileOfRun(t.Settings)
	t.Target = connect.NewSide(t.Settings, "target")
	return t
}

// FileOfRun defines --config of a command that may be given the file of mirror run.
func FileOfRun(settings *connect.Settings) {
	settings.AlsoInFile = NewRun().Settings.InFile()
	settings.Flags.String("config", "", "YAML `file` with these settings, or those of mirror run")
}

// Dial connects to the target and prints warnings.
func (t *Target) Dial(ctx context.Context, c program.Console, name string) (*connect.Conn, error) {
	conn, err := t.Target.Dial(ctx)
	if err != nil {
		return nil, err
	}
	for _, warning := range append(t.Target.Warnings(), conn.Warnings...) {
		fmt.Fprintf(c.Err, "%s: warning: %s\n", name, warning)
	}
	return conn, nil
}

// In names the setting behind an error.
func (t *Target) In(err error) error {
	if err == nil {
		return nil
	}
	return InSettings(err, t.Settings, t.Target)
}

// CheckName checks a mirror's name before anything is contacted.
func CheckName(settings *connect.Settings, name string) error {
	if err := etcdmirror.ValidateName(name); err != nil {
		return InSettings(err, settings)
	}
	return nil
}
