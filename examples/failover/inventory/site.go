package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/network"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// Site is an inventory with its files read and its clients made. Nothing is contacted but an etcd that wants a login.
type Site struct {
	inv   *Inventory
	hosts map[string]nodes.Host
	etcds map[string]*clientv3.Client // by cluster, and by "member " and name

	closers []func()
	errs    []error
}

// Open reads the files that the inventory names and a runbook needs, and makes the clients. Close the Site after use. Errors name the field.
// A failover has no client of the dead primary's etcd, a stretched cluster's runbooks none of the pair's.
func (inv *Inventory) Open(ctx context.Context, runbook string) (*Site, error) {
	s := &Site{inv: inv, hosts: map[string]nodes.Host{}, etcds: map[string]*clientv3.Client{}}
	stretched := isStretched(runbook)
	for _, name := range slices.Sorted(maps.Keys(inv.Clusters)) {
		c := inv.Clusters[name]
		s.openHosts("clusters."+name, c.Hosts)
		if needed := name == inv.Standby || name == inv.Primary && runbook != "failover"; needed && !stretched {
			s.openEtcd(ctx, name, "clusters."+name+".etcd", c.Etcd)
		}
	}
	if inv.Stretch != nil {
		s.openHosts("stretch", inv.Stretch.Hosts)
		for i, m := range inv.Stretch.Members {
			if !stretched {
				continue
			}
			s.openEtcd(ctx, member(m.Name), fmt.Sprintf("stretch.members[%d].etcd", i), m.Etcd)
		}
	}
	if err := errors.Join(s.errs...); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func member(name string) string { return "member " + name }

// Close closes what Open opened.
func (s *Site) Close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// bad notes what is wrong with a field.
func (s *Site) bad(field, problem, hint string) {
	s.errs = append(s.errs, connect.Usage(s.inv.file+": "+field, problem, hint))
}

// failed notes an error of a package that knows its own fields, with the inventory's.
func (s *Site) failed(field string, err error) {
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("%s: %s: %w", s.inv.file, field, err))
	}
}

// path is one of the inventory, from its folder.
func (s *Site) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(s.inv.dir, p)
}

func (s *Site) paths(all []string) (full []string) {
	for _, p := range all {
		full = append(full, s.path(p))
	}
	return full
}

// read reads a file that a field names; "" without one.
func (s *Site) read(field, p string) []byte {
	if p == "" {
		return nil
	}
	data, err := os.ReadFile(s.path(p))
	if err != nil {
		s.bad(field, p+": "+reason(err), "give a file that this process can read")
	}
	return data
}

// line reads a file with a secret in its only line.
func (s *Site) line(field, p string) string {
	text := strings.TrimRight(string(s.read(field, p)), "\r\n")
	if strings.ContainsAny(text, "\r\n") {
		s.bad(field, p+" has more than one line", "write the secret as its only line")
	}
	return text
}

func (s *Site) openHosts(at string, list []Host) {
	for i, h := range list {
		field := fmt.Sprintf("%s.hosts[%d]", at, i)
		if h.Address == "" {
			local, err := nodes.NewLocal(nodes.LocalConfig{Name: h.Name})
			s.failed(field, err)
			s.hosts[h.Name] = local
			continue
		}
		cfg := nodes.SSHConfig{Name: h.Name, Address: h.Address, User: h.User, KeyFiles: s.paths(h.KeyFiles), KnownHosts: s.paths(h.KnownHosts)}
		if h.Jump != "" {
			through := s.hosts[h.Jump]
			if through == nil { // what is wrong with that one is told
				continue
			}
			jump, ok := through.(*nodes.SSH)
			if !ok {
				s.bad(field+".jump", fmt.Sprintf("%q is not reached by ssh", h.Jump), "name a host with an address")
				continue
			}
			cfg.Jump = jump
		}
		ssh, err := nodes.NewSSH(cfg)
		if err != nil {
			s.failed(field, err)
			continue
		}
		s.closers = append(s.closers, func() { _ = ssh.Close() })
		s.hosts[h.Name] = ssh
	}
}

func (s *Site) openEtcd(ctx context.Context, key, field string, e Etcd) {
	settings := connect.NewSettings("")
	side := connect.NewSide(settings, "etcd")
	for _, f := range []struct{ setting, field, value string }{
		{"endpoints", "endpoints", strings.Join(e.Endpoints, ",")}, {"cacert", "cacert", s.path(e.CACert)}, {"cert", "cert", s.path(e.Cert)}, {"key", "key", s.path(e.Key)},
		{"user", "user", e.User}, {"password-file", "passwordFile", s.path(e.PasswordFile)},
	} {
		if f.value == "" {
			continue
		}
		if err := settings.Set("etcd-"+f.setting, f.value, s.inv.file+": "+field+"."+f.field); err != nil {
			s.errs = append(s.errs, err)
		}
	}
	conn, err := side.Open(ctx)
	if err != nil {
		s.errs = append(s.errs, err)
		return
	}
	s.closers = append(s.closers, conn.Close)
	s.etcds[key] = conn.Client
}

// Copy is where a copy of the journal goes.
func (s *Site) Copy() failover.CopyConfig {
	if !s.inv.JournalCopy || s.etcds[s.inv.Standby] == nil {
		return failover.CopyConfig{}
	}
	return failover.CopyConfig{Etcd: s.etcds[s.inv.Standby]}
}

// kubernetes is the API of a kubeconfig; nil without one.
func (s *Site) kubernetes(field, name, kubeconfig, context string) *kube.Cluster {
	if kubeconfig == "" {
		return nil
	}
	rest, err := kube.Kubeconfig(s.path(kubeconfig), context)
	if err != nil {
		s.failed(field, err)
		return nil
	}
	c, err := kube.NewCluster(kube.ClusterConfig{Name: name, REST: rest})
	s.failed(field, err)
	return c
}

// haproxy is the runtime API of a load balancer.
func haproxy(h HAProxy) network.HAProxy {
	kind, address, _ := strings.Cut(h.Socket, ":")
	return network.HAProxy{Name: h.Name, Network: kind, Address: address}
}

// command is one on a host, without a standard input.
func command(root bool, args []string) nodes.Command { return nodes.Command{Args: args, Root: root} }

// run runs a command that has to end with 0.
func run(ctx context.Context, h nodes.Host, cmd nodes.Command) error {
	result, err := h.Run(ctx, cmd)
	if err == nil && result.Exit != 0 {
		err = fmt.Errorf("%s on %s ended with status %d: %s", cmd.Args[0], h.Name(), result.Exit, excerpt(result.Stderr))
	}
	return err
}

// excerpt is what a program said last, without secrets.
func excerpt(text string) string {
	var masker *nodes.Masker
	text = strings.Join(strings.Fields(masker.Mask(text)), " ")
	const most = 300
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

// toggle is something on a host that commands turn on and off.
type toggle struct {
	host          nodes.Host
	root          bool
	on, off, isOn []string
}

// about tells all commands: the plan's hash covers what it says.
func (t toggle) about() string {
	how := ""
	if t.root {
		how = ", as root"
	}
	return fmt.Sprintf("%s on %s (off: %s; state: %s%s)", masked(t.on), t.host.Name(), masked(t.off), masked(t.isOn), how)
}

// masked is a command as it may be shown.
func masked(args []string) string {
	var masker *nodes.Masker
	return masker.Mask(nodes.Command{Args: args}.String())
}

func (t toggle) state(ctx context.Context) (bool, error) {
	result, err := t.host.Run(ctx, command(t.root, t.isOn))
	switch {
	case err != nil:
		return false, err
	case result.Exit == 0:
		return true, nil
	case result.Exit == 1, result.Exit == 3: // systemctl is-active says 3
		return false, nil
	}
	return false, fmt.Errorf("%s on %s ended with status %d, which is none of 0, 1 and 3: %s", strings.Join(t.isOn, " "), t.host.Name(), result.Exit, excerpt(result.Stderr))
}

func (t toggle) turn(args []string) func(context.Context) error {
	return func(ctx context.Context) error { return run(ctx, t.host, command(t.root, args)) }
}

// control is a mirror that commands start and stop; nil without them.
func (s *Site) control(c *Control) mirror.Control {
	if c == nil {
		return nil
	}
	t := toggle{s.hosts[c.Host], c.Root, c.Start, c.Stop, c.Running}
	return mirror.ControlFuncs{Text: t.about(), IsRunning: t.state, DoStart: t.turn(c.Start), DoStop: t.turn(c.Stop)}
}

// gate is one that commands close and open; nil without them.
func (s *Site) gate(g *Gate) mirror.Gate {
	if g == nil {
		return nil
	}
	t := toggle{s.hosts[g.Host], g.Root, g.Close, g.Open, g.Closed}
	return mirror.GateFuncs{Text: t.about(), IsClosed: t.state, DoClose: t.turn(g.Close), DoOpen: t.turn(g.Open)}
}
