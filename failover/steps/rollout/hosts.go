package rollout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// HostsConfig are effects on the machines of apiservers.
type HostsConfig struct {
	// Hosts are where the apiservers run, by Apiserver.Name. All of them are required.
	Hosts map[string]nodes.Host
	// Owner and Group of the files; "" is root. Their mode is 0600.
	Owner, Group string
	// User installs with the rights of the user who logs in, instead of root's.
	User bool
	// Restart has an apiserver load its file, and returns when it is ready; see RestartPods. Required.
	Restart func(ctx context.Context, h nodes.Host) error
	// Metrics opens what one apiserver serves at /metrics, itself, not through a load balancer. Required.
	Metrics func(ctx context.Context, a encryption.Apiserver) (io.ReadCloser, error)
	// Ready tells whether one apiserver serves, such as by its /readyz; nil takes its metrics for an answer.
	Ready func(ctx context.Context, a encryption.Apiserver) error
}

// Hosts are files and their verification on machines. They satisfy encryption.Installer and encryption.Verifier.
type Hosts struct{ cfg HostsConfig }

var (
	_ encryption.Installer = (*Hosts)(nil)
	_ encryption.Verifier  = (*Hosts)(nil)
)

// NewHosts checks that there is a host for each file of a plan. Errors match failover.ErrConfig.
func NewHosts(plan *encryption.Rollout, cfg HostsConfig) (*Hosts, error) {
	var errs []error
	bad := func(detail, hint string) {
		errs = append(errs, &failover.Error{Kind: failover.ErrConfig, Detail: "HostsConfig." + detail, Hint: hint})
	}
	cfg.Hosts = maps.Clone(cfg.Hosts)
	if plan == nil {
		bad("Hosts cannot be checked: the plan is nil", "give what encryption.PlanRollout returned")
		return nil, errors.Join(errs...)
	}
	missing := map[string]bool{}
	for _, p := range plan.Phases {
		for _, f := range p.Files {
			if cfg.Hosts[f.Apiserver.Name] == nil {
				missing[f.Apiserver.Name] = true
			}
			if f.Apiserver.Path == "" && !missing[f.Apiserver.Name] {
				bad(fmt.Sprintf("Hosts: apiserver %s has no path for its file", f.Apiserver.Name), "set Apiserver.Path when the roll-out is planned")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		bad(fmt.Sprintf("Hosts has none for apiserver %s", name), "give the machine on which it runs")
	}
	if cfg.Restart == nil {
		bad("Restart is missing", "use RestartPods, or a func that has the file loaded")
	}
	if cfg.Metrics == nil {
		bad("Metrics is missing", "open what the apiserver serves at /metrics")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Hosts{cfg}, nil
}

// RestartPods is HostsConfig.Restart for apiservers that are static pods.
func RestartPods(cfg nodes.StaticPodConfig) func(ctx context.Context, h nodes.Host) error {
	return func(ctx context.Context, h nodes.Host) error { return nodes.Restart(ctx, h, cfg) }
}

// Install implements encryption.Installer.
func (h *Hosts) Install(ctx context.Context, file encryption.File) error {
	cfg, err := encryption.Parse(file.Data)
	if err == nil {
		_, err = encryption.Validate(cfg)
	}
	if err != nil { // an apiserver would not start with it
		return failover.Permanent(err)
	}
	host := h.cfg.Hosts[file.Apiserver.Name]
	failover.Report(ctx, fmt.Sprintf("%s: install %s", file.Apiserver.Name, file.Apiserver.Path))
	if _, err := nodes.Install(ctx, host, nodes.FileConfig{Path: file.Apiserver.Path, Content: file.Data, Secret: true, Owner: h.cfg.Owner, Group: h.cfg.Group, Mode: 0o600, User: h.cfg.User}); err != nil {
		return err
	}
	failover.Report(ctx, file.Apiserver.Name+": have it loaded")
	return h.cfg.Restart(ctx, host)
}

// Verify implements encryption.Verifier. It takes the hash that the apiserver tells, as it does since Kubernetes 1.34; with an older one it says that the apiserver tells none, so that
// such clusters need a Verifier of their own, which knows when the file was installed.
func (h *Hosts) Verify(ctx context.Context, file encryption.File) error {
	notLoaded := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &encryption.Error{Kind: encryption.ErrNotLoaded, Detail: file.Apiserver.Name + " does not answer: " + nodes.NewMasker().Mask(err.Error()), Hint: "see its log; the plan goes on when it serves"}
	}
	if h.cfg.Ready != nil {
		if err := h.cfg.Ready(ctx, file.Apiserver); err != nil {
			return notLoaded(err)
		}
	}
	metrics, err := h.cfg.Metrics(ctx, file.Apiserver)
	if err != nil {
		return notLoaded(err)
	}
	defer metrics.Close()
	_, err = encryption.VerifyLoaded(metrics, encryption.LoadedFile{Hash: file.Hash})
	return err
}
