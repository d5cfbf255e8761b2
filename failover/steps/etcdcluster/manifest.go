package etcdcluster

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/understudy-dr/understudy/internal/yamldoc"
)

// pod is what is read of a static pod's manifest.
type pod struct {
	Spec struct {
		Containers []struct {
			Name    string   `json:"name"`
			Command []string `json:"command"`
			Args    []string `json:"args"`
		} `json:"containers"`
	} `json:"spec"`
}

// etcdFlags finds the arguments of the container that runs etcd. Parsers' errors may quote the text: they are not passed on.
func etcdFlags(manifest string) ([]string, error) {
	if p := yamldoc.Check([]byte(manifest)); p != nil {
		return nil, fmt.Errorf("%s: %s", p.Detail, p.Hint)
	}
	var p pod
	if err := yaml.Unmarshal([]byte(manifest), &p); err != nil {
		return nil, errors.New("it is no manifest of a pod in YAML")
	}
	var found [][]string
	for _, c := range p.Spec.Containers {
		args := slices.Concat(c.Command, c.Args)
		if len(args) > 0 && path.Base(args[0]) == "etcd" || len(c.Command) == 0 && c.Name == "etcd" {
			found = append(found, args)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("it has %d containers whose command is etcd itself, not 1; where a script starts etcd, use its environment file", len(found))
	}
	return found[0], nil
}

// flagValue finds a flag among arguments, as --flag=value or -flag=value.
func flagValue(args []string, s Setting) (value string, n int, err error) {
	for _, arg := range args {
		name, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if !strings.HasPrefix(arg, "-") || name != string(s) {
			continue
		}
		switch {
		case ok:
			value = v
		case s == SettingForceNewCluster:
			value = "true"
		default:
			return "", 0, fmt.Errorf("--%s and its value are two arguments: write --%s=value", s, s)
		}
		n++
	}
	if n > 1 {
		return "", n, fmt.Errorf("--%s is given %d times: keep one", s, n)
	}
	return value, n, nil
}

func manifestSettings(manifest string) (Settings, error) {
	args, err := etcdFlags(manifest)
	if err != nil {
		return Settings{}, err
	}
	return argSettings(args)
}

func argSettings(args []string) (Settings, error) {
	var errs []error
	s, err := settingsFrom(func(s Setting) string {
		v, _, err := flagValue(args, s)
		errs = append(errs, err)
		return v
	})
	return s, errors.Join(append(errs, err)...)
}

// flagLine is an argument on a line of its own: indentation, dash and gap, quote, flag, quote.
var flagLine = regexp.MustCompile(`^(\s*-\s+)(["']?)--?([a-z0-9-]+)(?:=[^"'#]*?)?(["']?)\s*$`)

// editManifest returns the manifest with the settings, exactly these, and everything else as it is, byte for byte.
func editManifest(manifest string, s Settings) (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	args, err := etcdFlags(manifest)
	if err != nil {
		return "", err
	}
	if _, err := argSettings(args); err != nil {
		return "", err
	}
	lines := strings.SplitAfter(manifest, "\n")
	for _, setting := range allSettings {
		old, n, _ := flagValue(args, setting)
		if value := s.values()[setting]; value != old || n > 0 && value == "" {
			if lines, err = setFlag(lines, setting, value); err != nil {
				return "", err
			}
		}
	}
	edited := strings.Join(lines, "")
	after, err := etcdFlags(edited)
	if err != nil {
		return "", unsafeManifest()
	}
	got, err := argSettings(after)
	if err != nil || got != s || !slices.Equal(without(args), without(after)) {
		return "", unsafeManifest()
	}
	return edited, nil
}

func unsafeManifest() error {
	return errors.New("its flags cannot be changed safely: give each a line of its own, like \"- --name=m1\", in one container")
}

// without is the arguments but for the settings.
func without(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return slices.ContainsFunc(allSettings, func(s Setting) bool {
			_, n, _ := flagValue([]string{arg}, s)
			return n > 0
		})
	})
}

// setFlag replaces, removes or inserts the line of a flag.
func setFlag(lines []string, setting Setting, value string) ([]string, error) {
	last, prefix := -1, ""
	var found []int
	for i, line := range lines {
		m := flagLine.FindStringSubmatch(strings.TrimRight(line, newlines))
		if m == nil {
			continue
		}
		if Setting(m[3]) == setting {
			found = append(found, i)
		}
		// New flags go after one that every member has.
		if m[3] == "name" || m[3] == "data-dir" || m[3] == "listen-client-urls" {
			last, prefix = i, m[1]
		}
	}
	if len(found) > 1 || len(found) == 0 && (value == "" || last < 0) {
		return nil, unsafeManifest()
	}
	if len(found) == 0 {
		return slices.Insert(slices.Clone(lines), last+1, prefix+"--"+string(setting)+"="+value+"\n"), nil
	}
	i := found[0]
	if value == "" {
		return slices.Delete(slices.Clone(lines), i, i+1), nil
	}
	m := flagLine.FindStringSubmatch(strings.TrimRight(lines[i], newlines))
	edited := slices.Clone(lines)
	edited[i] = m[1] + m[2] + "--" + string(setting) + "=" + value + m[4] + lines[i][len(strings.TrimRight(lines[i], newlines)):]
	return edited, nil
}
