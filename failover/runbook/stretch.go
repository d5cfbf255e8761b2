package runbook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
	"github.com/understudy-dr/understudy/failover/steps/glusterfs"
	"github.com/understudy-dr/understudy/failover/steps/network"
)

// StretchConfig is a cluster that is stretched over data centres, of which one is lost: the majority of etcd's members with it.
type StretchConfig struct {
	// Plan is the name of the plan; "" is that of the runbook.
	Plan string
	// Cluster is what plans call it. Required: 1 to 40 letters, digits and '-'.
	Cluster string
	// Outage is etcd's members that are left, and those that are lost. Required, with what controls the processes of those that a runbook starts: the survivors' for StretchQuorumRestore, the others' for StretchFailback.
	Outage etcdcluster.Outage
	// Snapshot is the file for a snapshot of the survivor, before anything is forced. StretchQuorumRestore needs it.
	Snapshot string
	// FenceHow says how the lost members are kept from coming back as a second cluster, for the person who does it; FenceRole is that person's. Fenced looks whether it was done; nil: the person confirms it.
	FenceHow, FenceRole string
	Fenced              func(ctx context.Context) (fenced bool, detail string, err error)
	// Gluster are the volumes; nil leaves them out.
	Gluster *Gluster
	// RoundTrip are host:port, one at least of each data centre, whose round-trip time has to be within RoundTripLimit before members come back; 0 is network.DefaultRoundTripLimit, 5 ms. Empty: not looked at.
	RoundTrip      []string
	RoundTripLimit time.Duration
	// Wait is how long a member may take to start and catch up; 0 is etcdcluster.DefaultWait.
	Wait time.Duration
	// Approval is asked for before the plan acts.
	Approval failover.Approval
	// AfterEtcd are steps when etcd takes writes again.
	AfterEtcd []failover.Step
}

// Gluster are the volumes of a GlusterFS.
type Gluster struct {
	glusterfs.Cluster
	// Saved is the file on this machine in which StretchQuorumRestore keeps the options that the volumes had, and from which StretchFailback restores them. Required.
	Saved string
	// Labels are what has to be put back on nodes that were lost, such as "glusterfs=storage-host"; a person is asked.
	Labels []string
	// Usual restores volumes of which nothing was saved to type auto and count 3; without it they stay as they are.
	Usual bool
}

const refStretch = "stretch cluster, data centre 1 "

func (cfg *StretchConfig) check() error {
	var c checks
	if !clusterName(cfg.Cluster) {
		c.bad(fmt.Sprintf("Cluster %q is no name", cfg.Cluster), "use 1 to 40 letters, digits and '-'")
	}
	if cfg.Gluster != nil && cfg.Gluster.Saved == "" {
		c.bad("Gluster.Saved is empty", "give the path of a file for the options that the volumes had")
	}
	return errors.Join(c.errs...)
}

// StretchQuorumRestore makes etcd and GlusterFS writable again when the data centre with the majority is lost: a new etcd cluster is forced from what is left, and the volumes' quorum is lowered.
// It begins with the proof that there is no quorum: forcing a cluster beside one that has it makes two.
func StretchQuorumRestore(cfg StretchConfig) (failover.PlanConfig, error) {
	if err := cfg.check(); err != nil {
		return failover.PlanConfig{}, err
	}
	var l list
	const etcd = refStretch + "failure, recovering etcd"
	survivor := cfg.survivor()
	l.add(etcdcluster.QuorumLost(etcdcluster.QuorumConfig{Reference: etcd, Outage: cfg.Outage}))
	l.add(etcdcluster.Fence(etcdcluster.FenceConfig{Reference: etcd, Dead: cfg.Outage.Dead, Role: cfg.FenceRole, How: cfg.FenceHow, Fenced: cfg.Fenced}))
	l.add(etcdcluster.Backup(etcdcluster.BackupConfig{Reference: etcd, Node: survivor, File: cfg.Snapshot}))
	l.all(etcdcluster.Force(etcdcluster.ForceConfig{Reference: etcd, Outage: cfg.Outage, Wait: cfg.Wait}))
	l.all(etcdcluster.Remove(etcdcluster.RemoveConfig{Reference: etcd, Members: []etcdcluster.Node{survivor}, Remove: cfg.others()}))
	l.add(etcdcluster.Health(etcdcluster.HealthConfig{Reference: etcd, Nodes: []etcdcluster.Node{survivor}}))
	l.steps = append(l.steps, cfg.AfterEtcd...)
	if g := cfg.Gluster; g != nil {
		l.add(glusterfs.SetQuorum(glusterfs.SetConfig{Reference: refStretch + "failure, recovering GlusterFS", Cluster: g.Cluster, Export: g.Saved}))
	}
	l.ask("workloads", "See that the workloads of the lost data centre run in the one that is left, and can write to their volumes", refStretch+"failure, recovering GlusterFS", failover.Prompt{Harmless: true})
	return l.plan(failover.PlanConfig{Name: cmp.Or(cfg.Plan, "stretch-restore"), Title: fmt.Sprintf("%s: quorum restored from %s", cfg.Cluster, survivor.Name),
		Purpose:  "The data centre with the majority of etcd's members and of GlusterFS's bricks is lost. Both are made writable with what is left.",
		Approval: cfg.Approval, OnFailure: failover.FailureStop, Inputs: map[string]any{"cluster": cfg.Cluster}})
}

// StretchFailback brings the lost members back, one at a time, and restores the volumes' options to what they were.
func StretchFailback(cfg StretchConfig) (failover.PlanConfig, error) {
	if err := cfg.check(); err != nil {
		return failover.PlanConfig{}, err
	}
	var l list
	const etcd = refStretch + "failback, etcd and GlusterFS"
	if len(cfg.RoundTrip) > 0 {
		l.add(network.RoundTrip(network.RoundTripConfig{Reference: "stretch cluster, 5 ms RTT", Targets: cfg.RoundTrip, Limit: cfg.RoundTripLimit}))
	}
	survivor := cfg.survivor()
	back := cfg.others()
	l.all(etcdcluster.Add(etcdcluster.AddConfig{Reference: etcd, Members: []etcdcluster.Node{survivor}, Add: back, Wait: cfg.Wait}))
	l.add(etcdcluster.Health(etcdcluster.HealthConfig{Reference: etcd, Nodes: append([]etcdcluster.Node{survivor}, back...)}))
	l.steps = append(l.steps, cfg.AfterEtcd...)
	if g := cfg.Gluster; g != nil {
		if err := cfg.gluster(&l, g); err != nil {
			return failover.PlanConfig{}, err
		}
	}
	return l.plan(failover.PlanConfig{Name: cmp.Or(cfg.Plan, "stretch-failback"), Title: fmt.Sprintf("%s: the lost members return", cfg.Cluster),
		Purpose:  "The lost data centre is back. Its members join etcd again, empty and one at a time, and the volumes get back the quorum that they had.",
		Approval: cfg.Approval, OnFailure: failover.FailureStop, Inputs: map[string]any{"cluster": cfg.Cluster}})
}

// gluster restores the volumes' options.
func (cfg *StretchConfig) gluster(l *list, g *Gluster) error {
	const failback = refStretch + "failback, etcd and GlusterFS"
	if len(g.Labels) > 0 {
		l.ask("labels", "Put the labels "+strings.Join(g.Labels, ", ")+" back on the nodes that were lost, and see that their GlusterFS pods run", failback, failover.Prompt{Harmless: true})
	}
	restore := glusterfs.RestoreConfig{Reference: failback, Cluster: g.Cluster}
	if g.Usual {
		restore.Otherwise = &glusterfs.Usual
	}
	var err error
	if restore.Former, err = glusterfs.ReadExport(g.Saved); err != nil && !(g.Usual && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	l.add(glusterfs.RestoreQuorum(restore))
	l.ask("heal", "See that all volumes heal: gluster volume heal VOLUME info shows no entries", failback, failover.Prompt{Harmless: true})
	return nil
}

// survivor is the member from which the new cluster is made.
func (cfg *StretchConfig) survivor() etcdcluster.Node {
	for _, n := range cfg.Outage.Survivors {
		if n.Name == cfg.Outage.Survivor || cfg.Outage.Survivor == "" {
			return n
		}
	}
	return etcdcluster.Node{}
}

// others are all members that the new cluster has forgotten: survivors that were not chosen, and the lost ones.
func (cfg *StretchConfig) others() (all []etcdcluster.Node) {
	name := cfg.survivor().Name
	for _, n := range append(append([]etcdcluster.Node(nil), cfg.Outage.Survivors...), cfg.Outage.Dead...) {
		if n.Name != name {
			all = append(all, n)
		}
	}
	return all
}
