package network

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// Defaults of PriorityConfig.
const (
	DefaultKeepalivedFile = "/etc/keepalived/keepalived.conf"
	DefaultCommandTimeout = 20 * time.Second
)

// DefaultKeepalivedReload is the command that makes keepalived read its configuration.
func DefaultKeepalivedReload() []string { return []string{"systemctl", "reload", "keepalived"} }

// PriorityConfig says which priority keepalived has on a machine.
type PriorityConfig struct {
	// Name is the step's name; "" is keepalived-priority/HOST with Host.Name.
	Name      string
	Reference string
	// Host is the machine. Required. Commands run there as root.
	Host nodes.Host
	// File is keepalived's configuration; "" is DefaultKeepalivedFile. Files that it includes are not looked at: name the one that holds the instance.
	File string
	// Instance is the name after vrrp_instance. Required.
	Instance string
	// Priority is what it is set to, 1 to 254. Required. The machine with the highest one in its group takes the virtual IP, unless "nopreempt" is set.
	Priority int
	// Reload is the command after the change; nil is DefaultKeepalivedReload.
	Reload []string
	// Timeout bounds each command; 0 is DefaultCommandTimeout.
	Timeout time.Duration
	// VIP says where Verify looks for the virtual IP; without Address it does not look.
	VIP VIP
	// OfPrimary leaves the step out of ungraceful plans. InDrill keeps it in drills, which otherwise leave it out.
	OfPrimary, InDrill bool
}

// Priority makes a step that sets the priority of a VRRP instance in keepalived's configuration and makes keepalived read it. The file is replaced in one piece, with its mode and owner, if it still is what was read,
// and not a byte of it changes but the number. The file itself never goes into the plan or the journal: it may hold a password. Undo sets the number that was there before.
//
// Observe reads the file, and takes the number for what keepalived runs with, unless this step was interrupted before it had it read. Set Config.VIP to see that it does.
func Priority(cfg PriorityConfig) (failover.Step, error) {
	var errs configErrors
	if cfg.Host == nil {
		errs.add("Host is nil", "give the machine that keepalived runs on")
	}
	if cfg.Instance == "" || strings.ContainsAny(cfg.Instance, " \t\n{}#!\"'") {
		errs.add(fmt.Sprintf("Instance %q is no name", cfg.Instance), "use the name after vrrp_instance")
	}
	if cfg.Priority < 1 || cfg.Priority > 254 {
		errs.add(fmt.Sprintf("Priority is %d", cfg.Priority), "use 1 to 254; 255 is for the owner of the address")
	}
	if cfg.File = cmp.Or(cfg.File, DefaultKeepalivedFile); !path.IsAbs(cfg.File) {
		errs.add(fmt.Sprintf("File %q is no absolute path", cfg.File), "give one")
	}
	if cfg.Reload = slices.Clone(cfg.Reload); cfg.Reload == nil {
		cfg.Reload = DefaultKeepalivedReload()
	}
	if len(cfg.Reload) == 0 || cfg.Reload[0] == "" {
		errs.add("Reload is empty", "leave it nil for the default, or give a command")
	}
	errs.positive("Timeout", &cfg.Timeout, DefaultCommandTimeout)
	if cfg.VIP.Address != "" {
		cfg.VIP.complete(&errs)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &priority{cfg}
	f := failover.Funcs{
		Name: cmp.Or(cfg.Name, "keepalived-priority/"+cfg.Host.Name()),
		Description: failover.Description{
			Action:    fmt.Sprintf("Set the priority of VRRP instance %s on %s to %d", cfg.Instance, cfg.Host.Name(), cfg.Priority),
			Commands:  []string{fmt.Sprintf("sed -i 's/priority .*/priority %d/' %s  # within vrrp_instance %s alone", cfg.Priority, cfg.File, cfg.Instance), strings.Join(cfg.Reload, " ")},
			Undo:      "Set the priority that was there before",
			Reference: cfg.Reference,
			Inputs: map[string]any{"host": cfg.Host.Name(), "file": cfg.File, "instance": cfg.Instance, "priority": cfg.Priority, "reload": cfg.Reload, "timeout": cfg.Timeout.String(),
				"vip": cfg.VIP.inputs(), "ofPrimary": cfg.OfPrimary, "inDrill": cfg.InDrill},
		},
		Observe: s.observe, Do: s.do, Undo: s.undo,
		Retry: failover.Retry{Attempts: 3}, Timeout: 6*cfg.Timeout + cfg.VIP.Within,
	}
	if cfg.VIP.Address != "" {
		f.Verify, f.Description.Verify = cfg.VIP.wait, cfg.VIP.describe()
	}
	if cfg.OfPrimary {
		f.Ungraceful = leftOut
	}
	if !cfg.InDrill {
		f.Drill = leftOut
	}
	return f.Step(), nil
}

type priority struct{ cfg PriorityConfig }

// change is what the step saves of what it does.
type change struct {
	Before int   `json:"before"`
	Phase  phase `json:"phase"`
}

type phase string

const (
	changing phase = "changing" // the file may be changed, and keepalived may not have read it
	changed  phase = "changed"
	undoing  phase = "undoing"
	undone   phase = "undone"
)

const changeKey = "priority"

func (s *priority) observe(ctx context.Context) (obs failover.Observation, err error) {
	conf, err := s.read(ctx)
	if err != nil {
		return obs, err
	}
	now, err := readPriority(conf, s.cfg.Instance)
	if err != nil {
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("%s on %s: %v", s.cfg.File, s.cfg.Host.Name(), err)}, nil
	}
	var c change
	if _, err := failover.Load(ctx, changeKey, &c); err != nil {
		return obs, err
	}
	obs.State, obs.Detail = failover.Pending, fmt.Sprintf("the priority of %s on %s is %d", s.cfg.Instance, s.cfg.Host.Name(), now)
	switch {
	case c.Phase == undoing, c.Phase == changing && now == s.cfg.Priority:
		obs.State, obs.Detail = failover.Partial, obs.Detail+" in the file, and keepalived may not have read it"
	case c.Phase == undone && c.Before == s.cfg.Priority: // it was so before
	case now == s.cfg.Priority:
		obs.State = failover.Done
	}
	return obs, nil
}

func (s *priority) do(ctx context.Context) error {
	conf, err := s.read(ctx)
	if err != nil {
		return err
	}
	now, err := readPriority(conf, s.cfg.Instance)
	if err != nil {
		return err
	}
	var c change
	known, err := failover.Load(ctx, changeKey, &c)
	if err != nil {
		return err
	}
	// What is there is what was before, unless an earlier attempt has put it there.
	if !known || now != s.cfg.Priority || c.Phase == undone {
		c.Before = now
	}
	return s.apply(ctx, conf, c, s.cfg.Priority, changing, changed)
}

func (s *priority) undo(ctx context.Context) error {
	var c change
	known, err := failover.Load(ctx, changeKey, &c)
	if err != nil {
		return err
	}
	conf, err := s.read(ctx)
	if err != nil {
		return err
	}
	now, err := readPriority(conf, s.cfg.Instance)
	if err != nil {
		return err
	}
	if !known { // Do had not begun: somebody else has set it
		return failover.Save(ctx, changeKey, change{Before: now, Phase: undone})
	}
	return s.apply(ctx, conf, c, c.Before, undoing, undone)
}

// apply writes a priority and has it read. The phases around it are saved, so that Observe knows of a crash between the two.
func (s *priority) apply(ctx context.Context, conf []byte, c change, to int, before, after phase) error {
	c.Phase = before
	if err := failover.Save(ctx, changeKey, c); err != nil {
		return err
	}
	next, err := writePriority(conf, s.cfg.Instance, to)
	if err != nil {
		return err
	}
	if err := s.write(ctx, conf, next); err != nil {
		return err
	}
	if _, err := s.run(ctx, "reload keepalived", nodes.Command{Args: s.cfg.Reload, Root: true}); err != nil {
		return err
	}
	c.Phase = after
	return failover.Save(ctx, changeKey, c)
}

// run runs a command that has to end with 0. What it printed is not shown: it may hold the file.
func (s *priority) run(ctx context.Context, what string, cmd nodes.Command) (nodes.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	res, err := s.cfg.Host.Run(ctx, cmd)
	if err != nil {
		return res, fmt.Errorf("%s on %s: %w", what, s.cfg.Host.Name(), err)
	}
	switch {
	case res.Exit == exitChanged && cmd.Stdin != nil:
		return res, fmt.Errorf("%s on %s: the file has changed since it was read", what, s.cfg.Host.Name())
	case res.Exit != 0:
		return res, fmt.Errorf("%s on %s: %s ended with status %d", what, s.cfg.Host.Name(), cmd.Args[0], res.Exit)
	}
	return res, nil
}

func (s *priority) read(ctx context.Context) ([]byte, error) {
	res, err := s.run(ctx, "read "+s.cfg.File, nodes.Command{Args: []string{"cat", "--", s.cfg.File}, Root: true})
	if err == nil && res.Truncated {
		err = failover.Permanent(fmt.Errorf("%s on %s is larger than %d bytes", s.cfg.File, s.cfg.Host.Name(), nodes.MaxOutput))
	}
	return []byte(res.Stdout), err
}

// exitChanged is the script's status when the file is not what was read.
const exitChanged = 77

// install replaces a file ($1, or what it links to) with what comes in, if its SHA-256 is $2: mode, owner and labels stay, and a crash leaves the old or the new one.
const install = `set -eu
f=$(readlink -f -- "$1")
t=$(mktemp -- "$(dirname -- "$f")/.keepalived.XXXXXXXX")
trap 'rm -f -- "$t"' EXIT
cp --attributes-only --preserve=all -- "$f" "$t"
cat > "$t"
sync -- "$t"
[ "$(sha256sum < "$f")" = "$2  -" ] || exit 77
mv -f -- "$t" "$f"
sync -- "$(dirname -- "$f")"
`

func (s *priority) write(ctx context.Context, old, next []byte) error {
	sum := sha256.Sum256(old)
	if slices.Equal(old, next) {
		return nil
	}
	_, err := s.run(ctx, "write "+s.cfg.File, nodes.Command{Args: []string{"sh", "-c", install, "sh", s.cfg.File, hex.EncodeToString(sum[:])}, Stdin: next, Root: true})
	return err
}
