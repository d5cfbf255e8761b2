package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// Defaults of StaticPodConfig.
const (
	DefaultManifest = "/etc/kubernetes/manifests/etcd.yaml"
	DefaultParked   = "/etc/kubernetes/etcd.yaml.stopped"
)

// DefaultListRunning prints something while the pod's container runs.
var DefaultListRunning = []string{"crictl", "ps", "--quiet", "--state", "Running", "--name", "^etcd$"}

// StaticPodConfig is a member that the kubelet runs from a manifest: it is stopped by moving the manifest out of the kubelet's folder, and started by moving it back.
type StaticPodConfig struct {
	// Host is the machine. Required.
	Host nodes.Host
	// Manifest is the file in the folder that the kubelet watches; "" is DefaultManifest. Parked is where it lies meanwhile, outside of that folder and on the same file system; "" is DefaultParked.
	Manifest, Parked string
	// EnvFile is set where etcd's container reads its settings from an environment file instead of flags in the manifest.
	EnvFile string
	// DataDir is etcd's --data-dir on the machine; "" is DefaultDataDir.
	DataDir string
	// ListRunning is a command that prints something while the container runs, and nothing otherwise; nil is DefaultListRunning.
	ListRunning []string
}

type staticPod struct {
	machine
	manifest, parked, envFile string
	list                      []string
}

// StaticPod makes the control of a member that runs from a manifest. It contacts nothing.
func StaticPod(cfg StaticPodConfig) (Member, error) {
	m := &staticPod{
		machine:  machine{host: cfg.Host, dataDir: or(cfg.DataDir, DefaultDataDir)},
		manifest: or(cfg.Manifest, DefaultManifest), parked: or(cfg.Parked, DefaultParked), envFile: cfg.EnvFile,
		list: append([]string(nil), cfg.ListRunning...),
	}
	if len(m.list) == 0 {
		m.list = DefaultListRunning
	}
	var errs []error
	if cfg.Host == nil {
		errs = append(errs, bad("StaticPodConfig.Host is nil", "give the machine"))
	}
	errs = append(errs, checkPath("StaticPodConfig.Manifest", m.manifest), checkPath("StaticPodConfig.Parked", m.parked), checkPath("StaticPodConfig.DataDir", m.dataDir))
	if m.envFile != "" {
		errs = append(errs, checkPath("StaticPodConfig.EnvFile", m.envFile))
	}
	if path.Dir(m.manifest) == path.Dir(m.parked) {
		errs = append(errs, bad("StaticPodConfig.Parked is in the manifest's folder", "the kubelet reads every file there: give another folder"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *staticPod) Describe() Control {
	c := Control{
		Inputs: map[string]any{"kind": "static pod", "host": m.host.Name(), "manifest": m.manifest, "parked": m.parked, "envFile": m.envFile, "dataDir": m.dataDir, "listRunning": m.list},
		Stop:   []string{fmt.Sprintf("mv %s %s", m.manifest, m.parked), "# until this prints nothing: " + strings.Join(m.list, " ")},
		Start:  []string{fmt.Sprintf("mv %s %s", m.parked, m.manifest)}, MoveData: m.moved("LABEL"),
	}
	c.Set = func(set map[Setting]string) []string {
		if m.envFile != "" {
			return envCommands(m.envFile, set)
		}
		var lines []string
		for _, s := range allSettings {
			switch value, ok := set[s]; {
			case ok && value == "":
				lines = append(lines, fmt.Sprintf("sed -i '/- --%s=/d' %s", s, m.parked))
			case ok:
				lines = append(lines, fmt.Sprintf("# in %s: - --%s=%s", m.parked, s, value))
			}
		}
		return lines
	}
	return c
}

func (m *staticPod) exists(ctx context.Context, file string) (bool, error) {
	out, err := m.run(ctx, nil, "sh", "-c", `if [ -e "$1" ]; then echo yes; fi`, "sh", file)
	return strings.TrimSpace(out) == "yes", err
}

// place is where the manifest lies.
func (m *staticPod) place(ctx context.Context) (file string, started bool, err error) {
	started, err = m.exists(ctx, m.manifest)
	if err != nil {
		return "", false, err
	}
	parked, err := m.exists(ctx, m.parked)
	switch {
	case err != nil:
		return "", false, err
	case started && parked:
		return "", false, fmt.Errorf("on %s: %s and %s are both there: remove the one that is not wanted", m.host.Name(), m.manifest, m.parked)
	case started:
		return m.manifest, true, nil
	case parked:
		return m.parked, false, nil
	}
	return "", false, fmt.Errorf("on %s: neither %s nor %s is there", m.host.Name(), m.manifest, m.parked)
}

func (m *staticPod) container(ctx context.Context) (bool, error) {
	out, err := m.run(ctx, nil, m.list...)
	return strings.TrimSpace(out) != "", err
}

func (m *staticPod) Running(ctx context.Context) (bool, error) {
	if _, started, err := m.place(ctx); err != nil || started {
		return started, err
	}
	return m.container(ctx)
}

func (m *staticPod) Stop(ctx context.Context) error {
	_, started, err := m.place(ctx)
	if err != nil {
		return err
	}
	if started {
		if _, err := m.run(ctx, nil, "mv", "-T", "--", m.manifest, m.parked); err != nil {
			return err
		}
	}
	// The kubelet sees it within its sync period of some seconds.
	for {
		there, err := m.container(ctx)
		if err != nil || !there {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("on %s: the container still runs: %w", m.host.Name(), ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// Start waits for a container of before to be gone: the kubelet would take the manifest for a changed one, or not see that it was away.
func (m *staticPod) Start(ctx context.Context) error {
	_, started, err := m.place(ctx)
	if err != nil || started {
		return err
	}
	if err := m.Stop(ctx); err != nil {
		return err
	}
	_, err = m.run(ctx, nil, "mv", "-T", "--", m.parked, m.manifest)
	return err
}

func (m *staticPod) Settings(ctx context.Context) (Settings, error) {
	if m.envFile != "" {
		return m.settings(ctx, m.envFile, envSettings)
	}
	file, _, err := m.place(ctx)
	if err != nil {
		return Settings{}, err
	}
	return m.settings(ctx, file, manifestSettings)
}

func (m *staticPod) Configure(ctx context.Context, s Settings) error {
	if m.envFile != "" {
		return m.editFile(ctx, m.envFile, s, editEnv)
	}
	file, started, err := m.place(ctx)
	if err != nil {
		return err
	}
	if started {
		return fmt.Errorf("on %s: the manifest is in the kubelet's folder, where a change restarts the pod: stop it first", m.host.Name())
	}
	return m.editFile(ctx, file, s, editManifest)
}

func (m *staticPod) MoveData(ctx context.Context, label string) error {
	return m.moveData(ctx, label, false)
}
func (m *staticPod) RestoreData(ctx context.Context, label string) error {
	return m.moveData(ctx, label, true)
}

func (m *staticPod) moveData(ctx context.Context, label string, back bool) error {
	if m.envFile == "" {
		file, _, err := m.place(ctx)
		if err != nil {
			return err
		}
		text, err := m.readFile(ctx, file)
		if err != nil {
			return err
		}
		args, err := etcdFlags(text)
		if err != nil {
			return fmt.Errorf("%s on %s: %w", file, m.host.Name(), err)
		}
		// The data directory in the container may be mounted from another path.
		for _, arg := range args {
			if flag, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "="); flag == "wal-dir" {
				if err := dataElsewhere(flag, value, m.dataDir); err != nil {
					return fmt.Errorf("%s on %s: %w", file, m.host.Name(), err)
				}
			}
		}
	}
	return m.move(ctx, label, back)
}
