package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// Defaults of SystemdConfig.
const (
	DefaultUnit    = "etcd.service"
	DefaultEnvFile = "/etc/etcd/etcd.conf"
	DefaultDataDir = "/var/lib/etcd"
)

// SystemdConfig is a member that runs as a service of systemd, with its settings in an environment file (EnvironmentFile=), as packages of etcd install it.
// It must not take its settings from --config-file or from flags in the unit: etcd reads no variables then, or lets the flags count.
// The machine has sh, coreutils and systemctl.
type SystemdConfig struct {
	// Host is the machine. Required.
	Host nodes.Host
	// Unit is the service; "" is DefaultUnit.
	Unit string
	// EnvFile is the environment file; "" is DefaultEnvFile. It exists.
	EnvFile string
	// DataDir is etcd's --data-dir; "" is DefaultDataDir. Its folder member holds all data: a --wal-dir elsewhere is refused when data is moved.
	DataDir string
}

type systemd struct {
	machine
	unit, envFile string
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:_.@-]*\.service$`)

// Systemd makes the control of a member that runs as a service. It contacts nothing.
func Systemd(cfg SystemdConfig) (Member, error) {
	m := &systemd{machine: machine{host: cfg.Host, dataDir: or(cfg.DataDir, DefaultDataDir)}, unit: or(cfg.Unit, DefaultUnit), envFile: or(cfg.EnvFile, DefaultEnvFile)}
	var errs []error
	if cfg.Host == nil {
		errs = append(errs, bad("SystemdConfig.Host is nil", "give the machine"))
	}
	if !unitName.MatchString(m.unit) {
		errs = append(errs, bad(fmt.Sprintf("SystemdConfig.Unit is %q", m.unit), "give a unit like etcd.service"))
	}
	errs = append(errs, checkPath("SystemdConfig.EnvFile", m.envFile), checkPath("SystemdConfig.DataDir", m.dataDir))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return m, nil
}

func or(s, zero string) string {
	if s == "" {
		return zero
	}
	return s
}

func (m *systemd) Describe() Control {
	return Control{
		Inputs:   map[string]string{"kind": "systemd", "host": m.host.Name(), "unit": m.unit, "envFile": m.envFile, "dataDir": m.dataDir},
		Stop:     []string{"systemctl stop " + m.unit},
		Start:    []string{"systemctl start --no-block " + m.unit},
		MoveData: m.moved("LABEL"),
		Set:      func(set map[Setting]string) []string { return envCommands(m.envFile, set) },
	}
}

// envCommands is what a person would type to change an environment file.
func envCommands(file string, set map[Setting]string) (lines []string) {
	for _, s := range allSettings {
		value, ok := set[s]
		if !ok {
			continue
		}
		lines = append(lines, fmt.Sprintf("sed -i '/^%s=/d' %s", envKey(s), file))
		if value != "" {
			lines = append(lines, fmt.Sprintf("echo '%s=%s' >> %s", envKey(s), value, file))
		}
	}
	return lines
}

// Running counts every state but inactive and failed: a service that systemd is about to start again runs.
func (m *systemd) Running(ctx context.Context) (bool, error) {
	res, err := m.host.Run(ctx, nodes.Command{Args: []string{"systemctl", "is-active", m.unit}, Root: true})
	if err != nil {
		return false, fmt.Errorf("on %s: systemctl: %w", m.host.Name(), err)
	}
	switch state := strings.TrimSpace(res.Stdout); state {
	case "active", "activating", "reloading", "deactivating", "refreshing", "maintenance":
		return true, nil
	case "inactive", "failed":
		return false, nil
	default:
		return false, &exitError{host: m.host.Name(), program: "systemctl is-active " + m.unit, exit: res.Exit, said: lastLine(state + "\n" + res.Stderr)}
	}
}

func (m *systemd) Stop(ctx context.Context) error {
	_, err := m.run(ctx, nil, "systemctl", "stop", m.unit)
	return err
}

// Start does not wait: a service of Type=notify is not ready before its etcd has a quorum.
func (m *systemd) Start(ctx context.Context) error {
	// A unit that failed too often is not started again otherwise. It is no error to have nothing to reset.
	if _, err := m.host.Run(ctx, nodes.Command{Args: []string{"systemctl", "reset-failed", m.unit}, Root: true}); err != nil {
		return fmt.Errorf("on %s: systemctl: %w", m.host.Name(), err)
	}
	_, err := m.run(ctx, nil, "systemctl", "start", "--no-block", m.unit)
	return err
}

func (m *systemd) Settings(ctx context.Context) (Settings, error) {
	return m.settings(ctx, m.envFile, envSettings)
}

func (m *systemd) Configure(ctx context.Context, s Settings) error {
	return m.editFile(ctx, m.envFile, s, editEnv)
}

func (m *systemd) MoveData(ctx context.Context, label string) error {
	return m.moveData(ctx, label, false)
}
func (m *systemd) RestoreData(ctx context.Context, label string) error {
	return m.moveData(ctx, label, true)
}

func (m *systemd) moveData(ctx context.Context, label string, back bool) error {
	text, err := m.readFile(ctx, m.envFile)
	if err != nil {
		return err
	}
	if err := envKnowsData(text, m.dataDir); err != nil {
		return fmt.Errorf("%s on %s: %w", m.envFile, m.host.Name(), err)
	}
	return m.move(ctx, label, back)
}

// envKnowsData refuses files by which the data is elsewhere.
func envKnowsData(text, dataDir string) error {
	all, err := parseEnv(text)
	if err != nil {
		return err
	}
	for _, a := range all {
		if err := dataElsewhere(strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(a.key, "ETCD_"), "_", "-")), a.value, dataDir); err != nil {
			return err
		}
	}
	return nil
}

func dataElsewhere(flag, value, dataDir string) error {
	switch {
	case flag == "wal-dir" && value != "":
		return errors.New("it sets a WAL directory of its own: move both directories by hand")
	case flag == "data-dir" && strings.TrimRight(value, "/") != dataDir:
		return fmt.Errorf("its data directory is another than %s: correct DataDir", dataDir)
	}
	return nil
}
