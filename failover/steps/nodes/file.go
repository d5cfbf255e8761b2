package nodes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// FileConfig are steps that install a file, one for each host.
type FileConfig struct {
	// Name is in front of the host's in the steps' names; "" is "file".
	Name      string
	Reference string
	// Hosts get the file, in order. Required.
	Hosts []Host
	// Path is where, absolute; the folder has to be there. Required.
	Path string
	// Content is what the file holds; up to MaxContent bytes.
	Content []byte
	// Secret keeps the content out of the plan: it shows its SHA-256 alone.
	Secret bool
	// Owner and Group are names or numbers; "" is root.
	Owner, Group string
	// Mode has the permissions; 0 is 0600.
	Mode fs.FileMode
	// User installs with the rights of the user who logs in, instead of root's.
	User bool
}

// MaxContent bounds files that are installed and copied.
const MaxContent = MaxOutput

// File makes the steps. Each writes a temporary file in the same folder, syncs it and renames it. What was there is kept beside it as .NAME.before-HASH, with its owner and mode,
// until Undo puts it back; Undo refuses when somebody has changed the file meanwhile. Errors match failover.ErrConfig.
func File(cfg FileConfig) ([]failover.Step, error) {
	p, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "file"
	}
	content := append([]byte(nil), cfg.Content...)
	var all []failover.Step
	for _, h := range cfg.Hosts {
		s := fileStep{place: p, host: h, content: func(context.Context) ([]byte, error) { return content, nil },
			hash: func(context.Context) (string, string, error) { return sum(content), "", nil }}
		inputs := p.inputs(h)
		inputs["sha256"] = sum(content)
		d := failover.Description{Action: fmt.Sprintf("Install %s on %s", cfg.Path, h.Name()), Reference: cfg.Reference, Inputs: inputs}
		if !cfg.Secret {
			inputs["content"] = string(content)
		}
		d.Commands = []string{fmt.Sprintf("%sinstall -o %s -g %s -m %s NEW %s   # NEW with SHA-256 %s", p.sudo(), p.owner, p.group, p.mode, plainWord(p.path), sum(content))}
		all = append(all, s.step(cfg.Name+"/"+stepPart(h), d))
	}
	return all, nil
}

func (cfg *FileConfig) check() (filePlace, error) {
	p, errs := place("FileConfig", cfg.Path, cfg.Owner, cfg.Group, cfg.Mode, cfg.User)
	if len(cfg.Content) > MaxContent {
		errs = append(errs, badConfig(fmt.Sprintf("FileConfig.Content has %d bytes", len(cfg.Content)), fmt.Sprintf("install at most %d", MaxContent)))
	}
	return p, errors.Join(append(errs, checkHosts("FileConfig.Hosts", cfg.Hosts))...)
}

// CopyFileConfig are steps that copy a file from one host to others, one for each of these.
type CopyFileConfig struct {
	// Name is in front of the host's in the steps' names; "" is "copy".
	Name      string
	Reference string
	// From has the file at FromPath. Required.
	From     Host
	FromPath string
	// To get it, in order, at Path; "" is FromPath. Required.
	To   []Host
	Path string
	// Check refuses a content, such as a configuration that cannot be parsed; nil takes any. Its errors must not hold the content.
	Check func(content []byte) error
	// Owner and Group are names or numbers; "" is root.
	Owner, Group string
	// Mode has the permissions; 0 is 0600.
	Mode fs.FileMode
	// User reads and installs with the rights of the users who log in, instead of root's.
	User bool
}

// CopyFile makes the steps. Each copies what is in the file when it acts, and is done when both are equal: nothing of the content goes into the plan or the journal but its SHA-256.
// It comes through this process's memory. Installed is as by File, and taken back as there. Errors match failover.ErrConfig.
func CopyFile(cfg CopyFileConfig) ([]failover.Step, error) {
	if cfg.Path == "" {
		cfg.Path = cfg.FromPath
	}
	p, errs := place("CopyFileConfig", cfg.Path, cfg.Owner, cfg.Group, cfg.Mode, cfg.User)
	if cfg.From == nil {
		errs = append(errs, badConfig("CopyFileConfig.From is missing", "give the host that has the file"))
	}
	if !cleanPath(cfg.FromPath) {
		errs = append(errs, badConfig(fmt.Sprintf("CopyFileConfig.FromPath is %q", cfg.FromPath), "give the absolute path of a file"))
	}
	errs = append(errs, checkHosts("CopyFileConfig.To", cfg.To))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "copy"
	}
	source := probe{place: p, host: cfg.From}
	source.place.path = cfg.FromPath
	var all []failover.Step
	for _, h := range cfg.To {
		s := fileStep{place: p, host: h,
			hash: func(ctx context.Context) (string, string, error) {
				now, err := source.look(ctx)
				if err != nil || now.Exists {
					return now.Sum, "", err
				}
				return "", fmt.Sprintf("%s has no %s", cfg.From.Name(), cfg.FromPath), nil
			},
			content: func(ctx context.Context) ([]byte, error) {
				data, err := source.read(ctx)
				if err == nil && cfg.Check != nil {
					if err = cfg.Check(data); err != nil {
						err = failover.Permanent(fmt.Errorf("%s of %s is not copied: %w", cfg.FromPath, cfg.From.Name(), err))
					}
				}
				return data, err
			}}
		inputs := p.inputs(h)
		inputs["from"], inputs["fromPath"] = cfg.From.Name(), cfg.FromPath
		all = append(all, s.step(cfg.Name+"/"+stepPart(h), failover.Description{
			Action:   fmt.Sprintf("Copy %s of %s to %s", cfg.FromPath, cfg.From.Name(), h.Name()),
			Commands: []string{fmt.Sprintf("%s%s of %s: %sinstall -o %s -g %s -m %s COPY %s", "with a copy of ", plainWord(cfg.FromPath), cfg.From.Name(), p.sudo(), p.owner, p.group, p.mode, plainWord(p.path))},
			Verify:   "", Reference: cfg.Reference, Inputs: inputs}))
	}
	return all, nil
}

// filePlace is where a file goes, and how.
type filePlace struct {
	path, owner, group, mode string
	root                     bool
}

var account = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}$`)

func cleanPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && !strings.ContainsAny(p, "\x00\n")
}

func place(config, file, owner, group string, mode fs.FileMode, user bool) (filePlace, []error) {
	var errs []error
	if !cleanPath(file) {
		errs = append(errs, badConfig(fmt.Sprintf("%s.Path is %q", config, file), "give the absolute path of a file, without . and .."))
	}
	p := filePlace{path: file, owner: owner, group: group, root: !user}
	for _, a := range []struct {
		field string
		value *string
	}{{"Owner", &p.owner}, {"Group", &p.group}} {
		if *a.value == "" {
			*a.value = "root"
		} else if !account.MatchString(*a.value) {
			errs = append(errs, badConfig(fmt.Sprintf("%s.%s is %q", config, a.field, *a.value), "give a name or a number"))
		}
	}
	if mode == 0 {
		mode = 0o600
	}
	if mode&^fs.ModePerm != 0 {
		errs = append(errs, badConfig(fmt.Sprintf("%s.Mode is %v", config, mode), "give permissions alone"))
	}
	p.mode = fmt.Sprintf("%o", mode)
	return p, errs
}

func checkHosts(field string, hosts []Host) error {
	if len(hosts) == 0 {
		return badConfig(field+" is empty", "name at least one host")
	}
	seen := map[string]int{}
	for i, h := range hosts {
		if h == nil {
			return badConfig(fmt.Sprintf("%s[%d] is nil", field, i), "leave it out")
		}
		if before, twice := seen[stepPart(h)]; twice {
			return badConfig(fmt.Sprintf("%s[%d] has the name of %s[%d], %s", field, i, field, before, h.Name()), "name each host once")
		}
		seen[stepPart(h)] = i
	}
	return nil
}

func (p filePlace) inputs(h Host) map[string]any {
	return map[string]any{"host": h.Name(), "path": p.path, "owner": p.owner, "group": p.group, "mode": p.mode, "root": p.root}
}

func (p filePlace) sudo() string {
	if p.root {
		return "sudo "
	}
	return ""
}
