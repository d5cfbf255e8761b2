package kube

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/understudy-dr/understudy/failover"
)

// Defaults of ResolveInsideConfig.
const (
	DefaultDNSNamespace = "kube-system"
	DefaultDNSSelector  = "k8s-app=kube-dns"
	DefaultLookups      = 3
	DefaultSettle       = 30 * time.Second
)

// ResolveInsideConfig is the configuration of ResolveInside. Cluster, Namespace, Workload, Domain and Want are required; the zero value of each other field is its documented default.
type ResolveInsideConfig struct {
	// Name of the step; "" is resolve/, the cluster and the domain.
	Name string
	// Reference says where the step comes from.
	Reference string
	// Cluster to resolve in.
	Cluster *Cluster
	// Namespace and Workload in one of whose pods nslookup runs, such as "deployment/sentry"; Container "" is the pod's default one.
	Namespace, Workload, Container string
	// Domain that is to be resolved, and the addresses that it is to have: each answer is one of them.
	Domain string
	Want   []netip.Addr
	// Lookups is how many answers in a row have to be right, as several DNS servers answer in turn; 0 is DefaultLookups.
	Lookups int
	// DNSNamespace and DNSSelector say which pods serve DNS and are replaced when an answer is wrong; "" are DefaultDNSNamespace and DefaultDNSSelector.
	DNSNamespace, DNSSelector string
	// Settle is how long answers may stay wrong before the DNS pods are replaced once more; 0 is DefaultSettle.
	Settle time.Duration
	// Timeout is how long one attempt may take; 0 is failover.DefaultTimeout.
	Timeout time.Duration
}

// ResolveInside makes a step that asks within a pod what a domain resolves to, and replaces the cluster's DNS pods until the answer is right.
// Observe runs nslookup in a pod, which changes nothing there; the pod's image has to have it, of BIND or BusyBox.
func ResolveInside(cfg ResolveInsideConfig) (failover.Step, error) {
	const kind = "ResolveInsideConfig"
	var p problems
	p.common(kind, cfg.Cluster, cfg.Namespace, cfg.Timeout)
	w := p.workload(kind+".Workload", cfg.Workload, "deployment", "statefulset", "daemonset")
	p.object(kind+".Domain", strings.ToLower(strings.TrimSuffix(cfg.Domain, ".")), validation.IsDNS1123Subdomain) // also no option of nslookup
	p.require(len(cfg.Want) > 0, kind+".Want", "is empty", "give the addresses that the domain is to have")
	for i, a := range cfg.Want {
		p.require(a.IsValid(), fmt.Sprintf("%s.Want[%d]", kind, i), "is no address", "give an IPv4 or IPv6 address")
	}
	p.require(cfg.Lookups >= 0, kind+".Lookups", "is negative", "use a positive number, or 0 for the default")
	p.require(cfg.Settle >= 0, kind+".Settle", "is negative", "use a positive one, or 0 for the default")
	cfg.Lookups, cfg.Settle = cmp.Or(cfg.Lookups, DefaultLookups), cmp.Or(cfg.Settle, DefaultSettle)
	cfg.DNSNamespace, cfg.DNSSelector = cmp.Or(cfg.DNSNamespace, DefaultDNSNamespace), cmp.Or(cfg.DNSSelector, DefaultDNSSelector)
	p.object(kind+".DNSNamespace", cfg.DNSNamespace, validation.IsDNS1123Label)
	selector := p.selector(kind+".DNSSelector", cfg.DNSSelector)
	if err := p.err(); err != nil {
		return nil, err
	}
	cfg.Want = slices.Clone(cfg.Want)
	slices.SortFunc(cfg.Want, netip.Addr.Compare)
	s := resolution{cfg: cfg, workload: w, dns: selector}
	command := []string{"kubectl", "exec", "-n", cfg.Namespace, w.String()}
	if cfg.Container != "" {
		command = append(command, "-c", cfg.Container)
	}
	return failover.Funcs{
		Name: cmp.Or(cfg.Name, nameOf("resolve", cfg.Cluster.name, cfg.Domain)), Observe: s.observe, Do: s.do, Undo: s.undo, Timeout: cfg.Timeout,
		Description: failover.Description{
			Action: fmt.Sprintf("See that %s resolves to %s in a pod of %s of %s, and replace the DNS pods until it does", cfg.Domain, addresses(cfg.Want), w, cfg.Cluster.name),
			Commands: []string{shell(append(command, "--", "nslookup", cfg.Domain)...),
				shell("kubectl", "delete", "po", "-n", cfg.DNSNamespace, "-l", selector.String())},
			Undo: "nothing is to be taken back: the DNS pods were replaced by the same", Reference: cfg.Reference,
			Inputs: cfg.Cluster.inputs(map[string]any{"namespace": cfg.Namespace, "workload": w.String(), "container": cfg.Container, "domain": cfg.Domain, "want": cfg.Want,
				"lookups": cfg.Lookups, "dnsNamespace": cfg.DNSNamespace, "dnsSelector": selector.String(), "settle": cfg.Settle.String()}),
		},
	}.Step(), nil
}

type resolution struct {
	cfg      ResolveInsideConfig
	workload workload
	dns      labels.Selector
}

// look asks as often as the configuration says. wrong is what is not right; "" if nothing is.
func (s resolution) look(ctx context.Context) (wrong string, err error) {
	for range s.cfg.Lookups {
		p, err := s.cfg.Cluster.runIn(ctx, s.cfg.Namespace, s.workload, s.cfg.Container, []string{"nslookup", s.cfg.Domain})
		if err != nil {
			return "", err
		}
		// BusyBox ends with an error when there are addresses of one family only.
		found := parseLookup(p.stdout)
		bad := slices.DeleteFunc(slices.Clone(found), func(a netip.Addr) bool { return slices.Contains(s.cfg.Want, a) })
		switch {
		case len(found) == 0 && (p.exit == 126 || p.exit == 127):
			return "", failure{failover.Permanent(fmt.Errorf("nslookup cannot be run in pod %s (exit code %d): name a workload whose image has it", p.pod, p.exit))}
		case len(found) == 0:
			return fmt.Sprintf("%s does not resolve in pod %s (exit code %d)", s.cfg.Domain, p.pod, p.exit), nil
		case len(bad) > 0:
			return fmt.Sprintf("%s resolves to %s in pod %s, want %s", s.cfg.Domain, addresses(found), p.pod, addresses(s.cfg.Want)), nil
		}
	}
	return "", nil
}

func (s resolution) observe(ctx context.Context) (failover.Observation, error) {
	var undone bool
	if _, err := failover.Load(ctx, keyUndone, &undone); err != nil {
		return failover.Observation{}, err
	}
	if undone {
		return failover.Observation{State: failover.Pending, Detail: "the step counts as not done"}, nil
	}
	wrong, err := s.look(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("there is no %s in namespace %s to ask in", s.workload, s.cfg.Namespace)}, nil
	case err != nil:
		return failover.Observation{}, err
	case wrong != "":
		return failover.Observation{State: failover.Pending, Detail: wrong}, nil
	}
	return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%s resolves to %s", s.cfg.Domain, addresses(s.cfg.Want))}, nil
}

// keyUndone is where a step whose effect is what the world shows notes that it counts as not done.
const keyUndone = "undone"

func (s resolution) do(ctx context.Context) error {
	if err := failover.Save(ctx, keyUndone, false); err != nil {
		return err
	}
	c := s.cfg.Cluster
	r := replacement{Cluster: c, namespace: s.cfg.DNSNamespace, selector: s.dns}
	var replaced time.Time
	return c.await(ctx, func(ctx context.Context) (bool, string, error) {
		wrong, err := s.look(ctx)
		if err != nil || wrong == "" {
			return err == nil, "", err
		}
		if time.Since(replaced) < s.cfg.Settle {
			return false, wrong, nil
		}
		b, blocked, err := r.snapshot(ctx)
		switch {
		case err != nil:
			return false, "", err
		case blocked != "":
			return false, "", failure{fmt.Errorf("%s; DNS: %s", wrong, blocked)}
		case b.pods() == 0:
			return false, "", failure{fmt.Errorf("%s; no pod in namespace %s matches %s, so no DNS pod can be replaced", wrong, s.cfg.DNSNamespace, s.dns)}
		}
		failover.Note(ctx, wrong+"; replacing DNS "+b.String())
		if err := r.replace(ctx, b); err != nil {
			return false, "", err
		}
		replaced = time.Now()
		return false, wrong, nil
	})
}

func (s resolution) undo(ctx context.Context) error { return failover.Save(ctx, keyUndone, true) }

func addresses(all []netip.Addr) string {
	text := make([]string, len(all))
	for i, a := range all {
		text[i] = a.String()
	}
	return strings.Join(text, ", ")
}

// answered is a line of nslookup with an address: BIND's "Address: 192.0.2.1", and BusyBox's "Address 1: 192.0.2.1 name".
var answered = regexp.MustCompile(`^Address(?: \d+)?:\s+(\S+)`)

// parseLookup gives the addresses that nslookup found: those after a name. The first ones are the server's.
func parseLookup(text string) (found []netip.Addr) {
	named := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Name:") {
			named = true
		}
		if strings.HasPrefix(line, "Server:") {
			named = false
		}
		m := answered.FindStringSubmatch(line)
		if m == nil || !named {
			continue
		}
		if a, err := netip.ParseAddr(m[1]); err == nil && !slices.Contains(found, a.Unmap()) {
			found = append(found, a.Unmap())
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return found
}
