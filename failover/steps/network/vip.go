package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// DefaultVIPWithin is how long Verify waits until a virtual IP is where it should be.
const DefaultVIPWithin = 30 * time.Second

// VIP says where a virtual IP should be.
type VIP struct {
	// Address is the virtual IP, IPv4 or IPv6, without a prefix length.
	Address string
	// Holder is the machine that should have it. Others are the rest of its group, none of which may have it as well.
	Holder nodes.Host
	Others []nodes.Host
	// AllowUnreachable counts others that cannot be asked as without the address, such as those of a dead primary. Nobody knows then whether they have it.
	AllowUnreachable bool
	// Within is how long a step waits for it; 0 is DefaultVIPWithin. Timeout bounds each command; 0 is DefaultCommandTimeout.
	Within, Timeout time.Duration
}

// VIPConfig says where a gate looks for a virtual IP.
type VIPConfig struct {
	// Name is the step's name; "" is vip/ADDRESS.
	Name      string
	Reference string
	VIP       VIP
}

// VIPHeld makes a gate that passes when one machine has a virtual IP, and none of the others has it. Each is asked by "ip -o addr".
func VIPHeld(cfg VIPConfig) (failover.Step, error) {
	var errs configErrors
	cfg.VIP.complete(&errs)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// An IPv6 address may end with a colon, which a name may not.
	name := cmp.Or(cfg.Name, "vip/"+strings.TrimRight(cfg.VIP.Address, ":"))
	return failover.Check(name, func(ctx context.Context) (failover.Observation, error) {
		ok, detail, err := cfg.VIP.look(ctx)
		obs := failover.Observation{State: failover.Blocked, Detail: detail}
		if ok {
			obs.State = failover.Done
		}
		return obs, err
	}, failover.Description{Action: cfg.VIP.describe() + "?", Commands: []string{"ip -o addr show"}, Reference: cfg.Reference, Inputs: cfg.VIP.inputs()}), nil
}

func (v *VIP) complete(errs *configErrors) {
	addr, err := netip.ParseAddr(v.Address)
	if err != nil || addr.Zone() != "" {
		errs.add(fmt.Sprintf("VIP.Address %q is no IP address", v.Address), "use 10.0.0.1 or 2001:db8::1, without a prefix length")
	} else {
		v.Address = addr.Unmap().String()
	}
	if v.Holder == nil {
		errs.add("VIP.Holder is nil", "give the machine that should have the address")
	}
	v.Others = slices.Clone(v.Others)
	for i, other := range v.Others {
		if other == nil || v.Holder != nil && other.Name() == v.Holder.Name() {
			errs.add(fmt.Sprintf("VIP.Others[%d] is nil or the holder", i), "leave it out")
		}
	}
	errs.positive("VIP.Within", &v.Within, DefaultVIPWithin)
	errs.positive("VIP.Timeout", &v.Timeout, DefaultCommandTimeout)
}

func (v *VIP) names() (all []string) {
	for _, h := range v.Others {
		all = append(all, h.Name())
	}
	return all
}

func (v *VIP) inputs() map[string]any {
	if v.Address == "" {
		return nil
	}
	return map[string]any{"address": v.Address, "holder": v.Holder.Name(), "others": v.names(), "allowUnreachable": v.AllowUnreachable, "within": v.Within.String(), "timeout": v.Timeout.String()}
}

func (v *VIP) describe() string {
	text := fmt.Sprintf("%s has %s", v.Holder.Name(), v.Address)
	if len(v.Others) > 0 {
		text += " and none of " + list(v.names()) + " has it"
	}
	return text
}

// look asks each machine.
func (v *VIP) look(ctx context.Context) (ok bool, detail string, err error) {
	var holders []string
	suffix := ""
	for i, h := range append([]nodes.Host{v.Holder}, v.Others...) {
		has, err := v.on(ctx, h)
		if err != nil {
			if i == 0 || !v.AllowUnreachable || ctx.Err() != nil {
				return false, "", err
			}
			suffix += fmt.Sprintf("; %s cannot be asked", h.Name())
		}
		if has {
			holders = append(holders, h.Name())
		}
	}
	switch {
	case len(holders) == 0:
		return false, v.Address + " is on none of the machines" + suffix, nil
	case len(holders) > 1:
		return false, fmt.Sprintf("%s is on several machines: %s%s", v.Address, list(holders), suffix), nil
	}
	return holders[0] == v.Holder.Name(), fmt.Sprintf("%s is on %s%s", v.Address, holders[0], suffix), nil
}

func (v *VIP) on(ctx context.Context, h nodes.Host) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	res, err := h.Run(ctx, nodes.Command{Args: []string{"ip", "-o", "addr", "show"}})
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("it ended with status %d", res.Exit)
	}
	if err == nil && res.Truncated {
		err = errors.New("its output is too long")
	}
	if err != nil {
		return false, fmt.Errorf("ip -o addr show on %s: %w", h.Name(), err)
	}
	return hasAddress(res.Stdout, netip.MustParseAddr(v.Address)), nil
}

// hasAddress looks for an address in the output of "ip -o addr show", which has lines such as "2: eth0    inet 10.0.0.1/24 brd …".
func hasAddress(output string, want netip.Addr) bool {
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		for i, f := range fields[:max(0, len(fields)-1)] {
			if f != "inet" && f != "inet6" {
				continue
			}
			text, _, _ := strings.Cut(fields[i+1], "/")
			if addr, err := netip.ParseAddr(text); err == nil && addr == want {
				return true
			}
			break
		}
	}
	return false
}

// wait looks until it is as it should be.
func (v *VIP) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.Within)
	defer cancel()
	seen := "nothing was seen"
	for {
		ok, detail, err := v.look(ctx)
		switch {
		case err != nil:
			seen = err.Error()
		case ok:
			return nil
		default:
			seen = detail
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("want that %s; after %v: %s", v.describe(), v.Within, seen)
		}
	}
}
