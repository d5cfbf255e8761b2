package runbook

import (
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/network"
)

// gate is how the cluster stops taking writes.
func (k *Cluster) gate() (mirror.Gate, error) {
	if k.Gate != nil {
		return k.Gate, nil
	}
	return mirror.AlarmGate(mirror.AlarmGateConfig{Client: k.Etcd})
}

// clientPorts are the ports of the virtual IP but etcd's.
func (k *Cluster) clientPorts() []int {
	return slices.DeleteFunc(slices.Clone(k.Ports), func(p int) bool { return p == EtcdPort })
}

// way is one by which others come to a cluster through its load balancer.
type way struct {
	name      string // of the steps: clients or etcd
	ports     []int
	frontends func(Balancer) []string
}

func (k *Cluster) clients() way {
	return way{"clients", k.clientPorts(), func(b Balancer) []string { return b.Clients }}
}

func (k *Cluster) mirrors() way {
	w := way{name: "etcd", frontends: func(b Balancer) []string { return b.Etcd }}
	if slices.Contains(k.Ports, EtcdPort) {
		w.ports = []int{EtcdPort}
	}
	return w
}

// balancers are those that have frontends for a way.
func (k *Cluster) balancers(w way) []Balancer {
	return slices.DeleteFunc(slices.Clone(k.Balancers), func(b Balancer) bool { return len(w.frontends(b)) == 0 })
}

// close ends a way, and the connections that are there. Where no load balancer is known a person does. primary says that the cluster may be dead.
func (k *Cluster) close(l *list, w way, primary bool, reference string) {
	balancers := k.balancers(w)
	for _, b := range balancers {
		l.add(network.FrontendsOff(network.FrontendsConfig{Name: w.name + "-off/" + b.Name, Reference: reference, HAProxy: b.HAProxy, Frontends: w.frontends(b), EndSessions: true, OfPrimary: primary}))
	}
	if len(balancers) == 0 && len(w.ports) > 0 {
		l.add(personal(network.PortsClosed(network.PortsConfig{Name: w.name + "-off/" + k.Name, Reference: reference, Addresses: k.VIPs, Ports: w.ports}))(
			failover.Prompt{Text: fmt.Sprintf("Close %s of %s at %s, and end the connections that are there", numbers(w.ports), k.Name, strings.Join(k.VIPs, ", ")), Undo: "Open them again"}))
	}
}

// open opens a way. Where no load balancer is known a person does.
func (k *Cluster) open(l *list, w way, reference string) {
	balancers := k.balancers(w)
	for _, b := range balancers {
		l.add(network.FrontendsOn(network.FrontendsConfig{Name: w.name + "-on/" + b.Name, Reference: reference, HAProxy: b.HAProxy, Frontends: w.frontends(b)}))
	}
	if len(balancers) == 0 && len(w.ports) > 0 {
		l.add(personal(network.PortsOpen(network.PortsConfig{Name: w.name + "-on/" + k.Name, Reference: reference, Addresses: k.VIPs, Ports: w.ports}))(
			failover.Prompt{Text: fmt.Sprintf("Open %s of %s at %s, in TCP mode", numbers(w.ports), k.Name, strings.Join(k.VIPs, ", ")), Undo: "Close them again"}))
	}
}

func numbers(ports []int) string {
	word := "port "
	if len(ports) > 1 {
		word = "ports "
	}
	return word + strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ", "), "[]")
}

// primaryIsOff asks a person to see that the primary serves nobody. What this machine sees of it is told and decides nothing: a primary behind a cut line looks like a dead one.
func (cfg *Config) primaryIsOff(l *list) {
	k := &cfg.Primary
	l.add(witnessed(network.PortsClosed(network.PortsConfig{Name: "primary-off", Reference: refTwo, Addresses: k.VIPs, Ports: k.clientPorts()}))(
		failover.Prompt{Text: fmt.Sprintf("See that %s cannot come back and serve by itself: power its machines off, or cut their network. What it is given from now on is lost", k.Name), Harmless: true}))
}
