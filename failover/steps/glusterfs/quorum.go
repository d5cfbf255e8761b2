package glusterfs

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// Cluster says how gluster is run.
type Cluster struct {
	// Host runs it: any machine of the trusted pool that is up. Required.
	Host nodes.Host
	// Exec is put in front, such as kubectl exec -n NAMESPACE POD -- where GlusterFS runs in pods.
	Exec []string
	// Options are of gluster itself, such as --glusterd-sock=PATH.
	Options []string
	// User runs it as the user who logs in, instead of as root.
	User bool
	// Volumes are those that are changed; nil is all that are there when the step acts.
	Volumes []string
}

// SetConfig is a step that sets the quorum options of volumes.
type SetConfig struct {
	// Name is the step's; "" is "glusterfs/set-quorum".
	Name      string
	Reference string
	Cluster   Cluster
	// Quorum is what volumes get; the zero value is type fixed and count 1: one replica is enough.
	Quorum Quorum
	// Export is a file of this machine into which what the volumes had is written before anything is changed, for RestoreQuorum in a later plan. "" writes none.
	Export string
	// Timeout bounds the step; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// RestoreConfig is a step that puts back what SetQuorum found.
type RestoreConfig struct {
	// Name is the step's; "" is "glusterfs/restore-quorum".
	Name      string
	Reference string
	Cluster   Cluster
	// Former is what the volumes get: read it from SetConfig.Export by ReadExport.
	Former map[string]Quorum
	// Otherwise is for volumes that are not in Former; nil leaves these as they are. Where nothing was exported, ask for &Usual here.
	Otherwise *Quorum
	// Timeout bounds the step; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// Usual are the options for three replicas on three sites, where nobody knows what was set before.
var Usual = Quorum{Type: "auto", Count: "3"}

// SetQuorum makes the step. It is done when all volumes have the options. What each of them had is saved in the journal before one is changed; Undo sets that, and resets options that were not set.
// Errors match failover.ErrConfig.
func SetQuorum(cfg SetConfig) (failover.Step, error) {
	if cfg.Quorum == (Quorum{}) {
		cfg.Quorum = Quorum{"fixed", "1"}
	}
	errs := cfg.Cluster.check("SetConfig")
	if err := cfg.Quorum.check(); err != nil {
		errs = append(errs, badConfig("SetConfig.Quorum: "+err.Error(), "leave it empty for fixed and 1"))
	}
	if cfg.Quorum.Type == "" || cfg.Quorum.Count == "" {
		errs = append(errs, badConfig("SetConfig.Quorum lacks its type or its count", "give both, or none for fixed and 1"))
	}
	if cfg.Export != "" && !filepath.IsAbs(cfg.Export) {
		errs = append(errs, badConfig(fmt.Sprintf("SetConfig.Export is %q", cfg.Export), "give the absolute path of a file"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "glusterfs/set-quorum"
	}
	c := cfg.Cluster.clone()
	w := work{cluster: c, export: cfg.Export, want: func(string) (Quorum, bool) { return cfg.Quorum, true }}
	inputs := c.inputs()
	inputs["quorum"], inputs["export"] = cfg.Quorum, cfg.Export
	return w.step(cfg.Name, cfg.Timeout, failover.Description{
		Action: fmt.Sprintf("Set the quorum of %s to %s", c.which(), cfg.Quorum), Reference: cfg.Reference, Inputs: inputs,
		Commands: []string{"for each volume, on " + c.Host.Name() + ": " + c.set("VOLUME", cfg.Quorum).String()},
	}), nil
}

// RestoreQuorum makes the step: volumes get what they had, and options that were not set are reset. Volumes that are gone are left out. Undo goes back to what was there before the step.
// Errors match failover.ErrConfig.
func RestoreQuorum(cfg RestoreConfig) (failover.Step, error) {
	errs := cfg.Cluster.check("RestoreConfig")
	if len(cfg.Former) == 0 && cfg.Otherwise == nil {
		errs = append(errs, badConfig("RestoreConfig.Former is empty", "read what SetQuorum has exported (ReadExport), or ask for &Usual by RestoreConfig.Otherwise"))
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Former)) {
		err := cfg.Former[name].check()
		if err == nil && !volumeName.MatchString(name) {
			err = errors.New("it is no volume's name")
		}
		if err != nil {
			errs = append(errs, badConfig(fmt.Sprintf("RestoreConfig.Former[%q]: %v", name, err), "put it right in the file"))
		}
	}
	if cfg.Otherwise != nil {
		if err := cfg.Otherwise.check(); err != nil {
			errs = append(errs, badConfig("RestoreConfig.Otherwise: "+err.Error(), "use &Usual"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "glusterfs/restore-quorum"
	}
	c, former := cfg.Cluster.clone(), maps.Clone(cfg.Former)
	inputs := c.inputs()
	inputs["former"] = former
	action := "Put back the quorum options that volumes had before"
	var otherwise *Quorum
	if cfg.Otherwise != nil {
		o := *cfg.Otherwise
		otherwise = &o
		inputs["otherwise"] = o
		action += "; volumes of which that is not known get " + o.String()
	}
	var commands []string
	for _, name := range slices.Sorted(maps.Keys(former)) {
		for _, cmd := range c.change(name, Quorum{"?", "?"}, former[name]) {
			commands = append(commands, cmd.String())
		}
	}
	w := work{cluster: c, want: func(volume string) (Quorum, bool) {
		if q, ok := former[volume]; ok {
			return q, true
		}
		if otherwise != nil {
			return *otherwise, true
		}
		return Quorum{}, false
	}}
	return w.step(cfg.Name, cfg.Timeout, failover.Description{Action: action, Commands: commands, Reference: cfg.Reference, Inputs: inputs}), nil
}

func badConfig(detail, hint string) error {
	return &failover.Error{Kind: failover.ErrConfig, Detail: detail, Hint: hint}
}

func (c Cluster) check(config string) (errs []error) {
	if c.Host == nil {
		errs = append(errs, badConfig(config+".Cluster.Host is missing", "give a machine of the trusted pool"))
	}
	if c.Volumes != nil && len(c.Volumes) == 0 {
		errs = append(errs, badConfig(config+".Cluster.Volumes is empty", "leave it nil for all volumes"))
	}
	seen := map[string]bool{}
	for i, v := range c.Volumes {
		if !volumeName.MatchString(v) || seen[v] {
			errs = append(errs, badConfig(fmt.Sprintf("%s.Cluster.Volumes[%d] is %q, which is no name or given twice", config, i, v), "name each volume once"))
		}
		seen[v] = true
	}
	return errs
}

func (c Cluster) clone() Cluster {
	c.Exec, c.Options, c.Volumes = slices.Clone(c.Exec), slices.Clone(c.Options), slices.Clone(c.Volumes)
	return c
}

func (c Cluster) inputs() map[string]any {
	return map[string]any{"host": c.Host.Name(), "exec": c.Exec, "options": c.Options, "user": c.User, "volumes": c.Volumes}
}

func (c Cluster) which() string {
	if c.Volumes == nil {
		return "all volumes"
	}
	return strings.Join(c.Volumes, ", ")
}
