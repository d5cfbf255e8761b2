package nodes

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/failover"
)

// PreflightConfig is a gate on the machines of a plan.
type PreflightConfig struct {
	// Name is the step's; "" is "preflight/hosts".
	Name      string
	Reference string
	// Hosts are those that the plan acts on. Required.
	Hosts []Host
	// User does not ask whether commands run as root.
	User bool
	// Programs have to be there on each host, such as crictl.
	Programs []string
}

// Preflight makes a gate that passes when each host can be reached, shows a known key, lets the user in, lets them become root without a password, and has the programs.
// It names every host that does not, and why. Put it in front of the plan. Errors match failover.ErrConfig.
func Preflight(cfg PreflightConfig) (failover.Step, error) {
	if err := checkHosts("PreflightConfig.Hosts", cfg.Hosts); err != nil {
		return nil, err
	}
	for i, p := range cfg.Programs {
		if !harmless.MatchString(p) {
			return nil, badConfig(fmt.Sprintf("PreflightConfig.Programs[%d] is %q", i, p), "give the name of a program")
		}
	}
	if cfg.Name == "" {
		cfg.Name = "preflight/hosts"
	}
	hosts, programs := append([]Host(nil), cfg.Hosts...), append([]string(nil), cfg.Programs...)
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name())
	}
	check := Command{Args: append([]string{"/bin/sh", "-c", `for p in "$@"; do command -v "$p" >/dev/null || { echo "there is no program $p" >&2; exit 1; }; done`, "sh"}, programs...), Root: !cfg.User}
	action := "Are all hosts reachable, with known keys"
	if !cfg.User {
		action += ", and can the user become root"
	}
	return failover.Check(cfg.Name, func(ctx context.Context) (failover.Observation, error) {
		failures := make([]string, len(hosts))
		var all errgroup.Group
		all.SetLimit(16)
		for i, h := range hosts {
			all.Go(func() error {
				res, err := h.Run(ctx, check)
				if err = ended(h, res, err, nil); err != nil {
					failures[i] = NewMasker().Mask(err.Error())
				}
				return nil
			})
		}
		_ = all.Wait() // none returns an error
		if ctx.Err() != nil {
			return failover.Observation{}, context.Cause(ctx)
		}
		if found := errors.Join(texts(failures)...); found != nil {
			return failover.Observation{State: failover.Blocked, Detail: strings.ReplaceAll(found.Error(), "\n", "; ")}, nil
		}
		return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%d hosts: %s", len(hosts), strings.Join(names, ", "))}, nil
	}, failover.Description{Action: action + "?", Reference: cfg.Reference, Inputs: map[string]any{"hosts": names, "root": !cfg.User, "programs": programs}}), nil
}

func texts(all []string) (errs []error) {
	for _, s := range all {
		if s != "" {
			errs = append(errs, errors.New(s))
		}
	}
	return errs
}
