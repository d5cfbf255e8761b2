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

// clientsOff ends the way of users and clients to the cluster, and the connections that are there. Where no load balancer is known a person does.
func (k *Cluster) clientsOff(l *list, primary bool) {
	found := false
	for _, b := range k.Balancers {
		if len(b.Clients) > 0 {
			found = true
			l.add(network.FrontendsOff(network.FrontendsConfig{Name: "clients-off/" + b.Name, Reference: refTwo, HAProxy: b.HAProxy,
				Frontends: b.Clients, EndSessions: true, OfPrimary: primary}))
		}
	}
	if !found {
		l.add(personal(network.PortsClosed(network.PortsConfig{Name: "clients-off/" + k.Name, Reference: refTwo, Addresses: k.VIPs, Ports: k.clientPorts()}))(
			failover.Prompt{Text: fmt.Sprintf("Close ports %s of %s, and end the connections that are there: what is written to %s from now on is lost", numbers(k.clientPorts()), strings.Join(k.VIPs, ", "), k.Name), Undo: "Open the ports again"}))
	}
}

func numbers(all []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(all), " ", ", "), "[]")
}

// clientsOn opens it. Where no load balancer is known a person does.
func (k *Cluster) clientsOn(l *list) {
	found := false
	for _, b := range k.Balancers {
		if len(b.Clients) > 0 {
			found = true
			l.add(network.FrontendsOn(network.FrontendsConfig{Name: "clients-on/" + b.Name, Reference: refDR + "5", HAProxy: b.HAProxy, Frontends: b.Clients}))
		}
	}
	if !found {
		l.add(personal(network.PortsOpen(network.PortsConfig{Name: "clients-on/" + k.Name, Reference: refDR + "5", Addresses: k.VIPs, Ports: k.clientPorts()}))(
			failover.Prompt{Text: fmt.Sprintf("See that ports %s of %s are open", numbers(k.clientPorts()), strings.Join(k.VIPs, ", ")), Harmless: true}))
	}
}

// etcdOff removes the forwarding of port 2379.
func (k *Cluster) etcdOff(l *list, primary bool) {
	found := false
	for _, b := range k.Balancers {
		if len(b.Etcd) == 0 {
			continue
		}
		found = true
		l.add(network.FrontendsOff(network.FrontendsConfig{Name: "etcd-off/" + b.Name, Reference: refDR + "4", HAProxy: b.HAProxy, Frontends: b.Etcd, EndSessions: true,
			OfPrimary: primary}))
	}
	if !found && slices.Contains(k.Ports, EtcdPort) {
		l.add(personal(network.PortsClosed(network.PortsConfig{Name: "etcd-off/" + k.Name, Reference: refDR + "4", Addresses: k.VIPs, Ports: []int{EtcdPort}}))(
			failover.Prompt{Text: fmt.Sprintf("Remove the forwarding of port %d from %s", EtcdPort, strings.Join(k.VIPs, ", ")), Undo: fmt.Sprintf("Forward port %d again", EtcdPort)}))
	}
}

// etcdOn restores it.
func (k *Cluster) etcdOn(l *list) {
	found := false
	for _, b := range k.Balancers {
		if len(b.Etcd) > 0 {
			found = true
			l.add(network.FrontendsOn(network.FrontendsConfig{Name: "etcd-on/" + b.Name, Reference: refSetup + "3.1", HAProxy: b.HAProxy, Frontends: b.Etcd}))
		}
	}
	if !found && slices.Contains(k.Ports, EtcdPort) {
		l.add(personal(network.PortsOpen(network.PortsConfig{Name: "etcd-on/" + k.Name, Reference: refSetup + "3.1", Addresses: k.VIPs, Ports: []int{EtcdPort}}))(
			failover.Prompt{Text: fmt.Sprintf("Forward port %d of %s to its etcd, in TCP mode", EtcdPort, strings.Join(k.VIPs, ", ")), Undo: "Remove the forwarding"}))
	}
}

// primaryIsOff asks a person to see that the primary serves nobody. What this machine sees of it is told and decides nothing: a primary behind a cut line looks like a dead one.
func (cfg *Config) primaryIsOff(l *list) {
	k := &cfg.Primary
	l.add(witnessed(network.PortsClosed(network.PortsConfig{Name: "primary-off", Reference: refTwo, Addresses: k.VIPs, Ports: k.clientPorts()}))(
		failover.Prompt{Text: fmt.Sprintf("See that %s cannot come back and serve by itself: power its machines off, or cut their network. What it is given from now on is lost", k.Name), Harmless: true}))
}
