package runbook

import (
	"context"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/network"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

const refPreflight = "Understudy: preflight"

// preflight are gates: what a switch needs is reached, and answers, before anything is changed.
func (cfg *Config) preflight(l *list, mode failover.Mode) {
	clusters := []*Cluster{&cfg.Standby}
	if mode != failover.ModeUngraceful {
		clusters = append(clusters, &cfg.Primary)
	}
	l.steps = append(l.steps, cfg.etcds(clusters))
	var hosts []nodes.Host
	for _, k := range clusters {
		hosts = append(hosts, k.Hosts...)
	}
	if len(hosts) > 0 {
		l.add(nodes.Preflight(nodes.PreflightConfig{Name: "hosts", Reference: refPreflight, Hosts: hosts, User: cfg.WithoutRoot}))
	}
	if cfg.DNS != nil {
		cfg.DNS.preflight(l, cfg.Domain, &cfg.Primary, &cfg.Standby, mode)
	}
	if mode != failover.ModeDrill {
		for _, b := range cfg.Standby.balancers(cfg.Standby.clients()) {
			on, err := network.FrontendsOn(network.FrontendsConfig{HAProxy: b.HAProxy, Frontends: b.Clients})
			l.add(look("haproxy/"+b.Name, on, err))
		}
	}
	if mode == failover.ModeGraceful {
		for _, b := range cfg.Primary.balancers(cfg.Primary.clients()) {
			off, err := network.FrontendsOff(network.FrontendsConfig{HAProxy: b.HAProxy, Frontends: b.Clients})
			l.add(look("haproxy/"+b.Name, off, err))
		}
	}
	cfg.Standby.ready(l)
}

// etcds is a gate at the clusters' etcds: each answers, and they are two.
func (cfg *Config) etcds(clusters []*Cluster) failover.Step {
	inputs := map[string]any{}
	for _, k := range clusters {
		inputs[k.Name] = k.Etcd.Endpoints()
	}
	prefix := cfg.Mirror.Prefix
	if prefix == "" {
		prefix = etcdmirror.DefaultPrefix
	}
	return failover.Check("etcds", func(ctx context.Context) (failover.Observation, error) {
		var texts, silent []string
		owner := map[uint64]string{}
		for _, k := range clusters {
			id, revision, err := etcdrpc.Head(ctx, k.Etcd, mirror.DefaultRequestTimeout, prefix)
			switch {
			case err != nil:
				silent = append(silent, fmt.Sprintf("the etcd of %s does not answer: %v", k.Name, err))
			case owner[id] != "":
				return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("%s and %s have one etcd, cluster %x: check the endpoints", owner[id], k.Name, id)}, nil
			default:
				owner[id] = k.Name
				texts = append(texts, fmt.Sprintf("%s is cluster %x at revision %d", k.Name, id, revision))
			}
		}
		if len(silent) > 0 {
			return failover.Observation{State: failover.Blocked, Detail: strings.Join(silent, "; ")}, nil
		}
		return failover.Observation{State: failover.Done, Detail: strings.Join(texts, ", ")}, nil
	}, failover.Description{Action: "Do the etcds answer, and are they different ones?", Reference: refPreflight, Inputs: inputs})
}
