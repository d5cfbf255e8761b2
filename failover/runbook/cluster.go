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

// clientsOff ends the way of users and clients to the cluster, and the connections that are there.
func (k *Cluster) clientsOff(l *list, primary bool) {
	for _, b := range k.Balancers {
		if len(b.Clients) > 0 {
			l.add(network.FrontendsOff(network.FrontendsConfig{Name: "clients-off/" + b.Name, Reference: refTwo, HAProxy: b.HAProxy,
				Frontends: b.Clients, EndSessions: true, OfPrimary: primary}))
		}
	}
}

// clientsOn opens it.
func (k *Cluster) clientsOn(l *list) {
	for _, b := range k.Balancers {
		if len(b.Clients) > 0 {
			l.add(network.FrontendsOn(network.FrontendsConfig{Name: "clients-on/" + b.Name, Reference: refDR + "5", HAProxy: b.HAProxy, Frontends: b.Clients}))
		}
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
	for _, b := range k.Balancers {
		if len(b.Etcd) > 0 {
			l.add(network.FrontendsOn(network.FrontendsConfig{Name: "etcd-on/" + b.Name, Reference: refSetup + "3.1", HAProxy: b.HAProxy, Frontends: b.Etcd}))
		}
	}
}

// primaryIsOff waits until the primary serves nobody: its machines are dead, cut off, or a person has made them so.
func (cfg *Config) primaryIsOff(l *list) {
	k := &cfg.Primary
	ports := slices.DeleteFunc(slices.Clone(k.Ports), func(p int) bool { return p == EtcdPort })
	l.add(personal(network.PortsClosed(network.PortsConfig{Name: "primary-off", Reference: refTwo, Addresses: k.VIPs, Ports: ports}))(
		failover.Prompt{Text: fmt.Sprintf("See that %s cannot come back and serve by itself: power its machines off, or cut their network. What it is given from now on is lost", k.Name), Harmless: true}))
}
