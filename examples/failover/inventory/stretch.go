package inventory

import (
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/runbook"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
	"github.com/understudy-dr/understudy/failover/steps/glusterfs"
)

// Stretch is the inventory as the runbooks of a stretched cluster take it.
func (s *Site) Stretch() (runbook.StretchConfig, error) {
	in := s.inv.Stretch
	cfg := runbook.StretchConfig{Cluster: in.Name, Snapshot: s.path(in.Snapshot), FenceHow: in.FenceHow, RoundTrip: in.RoundTrip, RoundTripLimit: in.RoundTripLimit}
	if s.inv.Approval != nil {
		cfg.Approval = failover.Approval{Role: s.inv.Approval.Role, ValidFor: s.inv.Approval.ValidFor}
	}
	cfg.Outage.Survivor = in.Survivor
	for i, m := range in.Members {
		node := etcdcluster.Node{Name: m.Name, PeerURLs: m.PeerURLs, Client: s.etcds[member(m.Name)]}
		var err error
		if m.Manifest != "" {
			node.Member, err = etcdcluster.StaticPod(etcdcluster.StaticPodConfig{Host: s.hosts[m.Host], Manifest: m.Manifest, EnvFile: m.EnvFile, DataDir: m.DataDir})
		} else {
			node.Member, err = etcdcluster.Systemd(etcdcluster.SystemdConfig{Host: s.hosts[m.Host], Unit: m.Unit, EnvFile: m.EnvFile, DataDir: m.DataDir})
		}
		s.failed(fmt.Sprintf("stretch.members[%d]", i), err)
		if slices.Contains(in.Lost, m.Name) {
			cfg.Outage.Dead = append(cfg.Outage.Dead, node)
		} else {
			cfg.Outage.Survivors = append(cfg.Outage.Survivors, node)
		}
	}
	if g := in.GlusterFS; g != nil {
		cfg.Gluster = &runbook.Gluster{Cluster: glusterfs.Cluster{Host: s.hosts[g.Host], Exec: g.Exec}, Saved: s.path(g.Saved), Labels: g.Labels, Usual: g.Usual}
	}
	return cfg, errors.Join(s.errs...)
}
