package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
)

// HealthConfig is a gate at a whole cluster.
type HealthConfig struct {
	// Name is the step's; "" is "etcd/health".
	Name      string
	Reference string
	// Nodes are all members that the cluster is to have. Required.
	Nodes []Node
	// RequestTimeout bounds each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
}

// Health makes the gate that passes if the cluster has exactly the named members, all of them started and voting, with the same leader, no alarm and no error, and the same data at one revision
// (the hash that etcd forms over keys, values and their history).
func Health(cfg HealthConfig) (failover.Step, error) {
	errs := []error{checkNodes(nodeList{field: "Nodes", nodes: cfg.Nodes})}
	duration(&errs, "RequestTimeout", &cfg.RequestTimeout, DefaultRequestTimeout)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	nodes, timeout := slices.Clone(cfg.Nodes), cfg.RequestTimeout
	var commands []string
	for _, n := range nodes {
		commands = append(commands, fmt.Sprintf("etcdctl --endpoints=%s endpoint hashkv", n.endpoint()))
	}
	return failover.Check(stepName(cfg.Name, "etcd/health"), func(ctx context.Context) (failover.Observation, error) {
		detail, err := health(ctx, nodes, timeout)
		if err != nil {
			return failover.Observation{State: failover.Blocked, Detail: err.Error()}, nil
		}
		return failover.Observation{State: failover.Done, Detail: detail}, nil
	}, failover.Description{
		Action:    fmt.Sprintf("Are %s one healthy cluster with the same data?", namesOf(nodes)),
		Commands:  append([]string{fmt.Sprintf("etcdctl --endpoints=%s member list --write-out=table", nodes[0].endpoint()), fmt.Sprintf("etcdctl --endpoints=%s endpoint status --cluster --write-out=table", nodes[0].endpoint()), fmt.Sprintf("etcdctl --endpoints=%s alarm list", nodes[0].endpoint())}, commands...),
		Reference: cfg.Reference,
		Inputs:    map[string]any{"nodes": inputsOf(nodes), "requestTimeout": timeout.String()},
	}), nil
}

// health says what keeps the nodes from being a healthy cluster.
func health(ctx context.Context, nodes []Node, timeout time.Duration) (detail string, err error) {
	list, err := nodes[0].members(ctx, timeout, true)
	if err != nil {
		return "", fmt.Errorf("%s does not list the members: %w", nodes[0].Name, err)
	}
	if len(list.Members) != len(nodes) {
		return "", fmt.Errorf("the cluster has %d members, not %d: %s", len(list.Members), len(nodes), describeMembers(list.Members))
	}
	statuses, err := each(nodes, func(n Node) (*clientv3.StatusResponse, error) {
		m, _ := n.listed(list.Members)
		switch {
		case m != nil && m.Name == "":
			return nil, fmt.Errorf("%s was added and has not started", n.Name)
		case m != nil && m.IsLearner:
			return nil, fmt.Errorf("%s is a learner", n.Name)
		}
		s, err := n.status(ctx, timeout)
		if err != nil {
			return nil, fmt.Errorf("%s does not answer: %w", n.Name, err)
		}
		if err := n.confirm(s.Header.MemberId, list.Members); err != nil {
			return nil, err
		}
		if len(s.Errors) > 0 {
			return nil, fmt.Errorf("%s reports: %s", n.Name, s.Errors[0])
		}
		return s, nil
	})
	if err != nil {
		return "", err
	}
	for i, s := range statuses {
		if s.Leader == 0 || s.Leader != statuses[0].Leader || s.Header.ClusterId != statuses[0].Header.ClusterId {
			return "", fmt.Errorf("%s follows the leader %x in cluster %x, %s %x in %x", nodes[i].Name, s.Leader, s.Header.ClusterId, nodes[0].Name, statuses[0].Leader, statuses[0].Header.ClusterId)
		}
	}
	alarms, err := ask(ctx, timeout, nodes[0].Client.AlarmList)
	if err != nil {
		return "", fmt.Errorf("alarms cannot be listed: %w", err)
	}
	for _, a := range alarms.Alarms {
		return "", fmt.Errorf("the alarm %s is raised by member %x", a.Alarm, a.MemberID)
	}
	revision, sum, err := sameData(ctx, nodes, timeout)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d members, leader %x, the same data at revision %d (hash %08x)", len(nodes), statuses[0].Leader, revision, sum), nil
}

func each[T any](nodes []Node, f func(Node) (T, error)) ([]T, error) {
	all, errs := make([]T, len(nodes)), make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { all[i], errs[i] = f(n) })
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// hashTries is how often hashes are asked for: members apply a revision, and compactions of their own, some time after one another.
const hashTries = 5

// sameData compares the members' hashes at one revision.
func sameData(ctx context.Context, nodes []Node, timeout time.Duration) (revision int64, sum uint32, err error) {
	for range hashTries {
		if revision, sum, err = hashes(ctx, nodes, timeout); err == nil || ctx.Err() != nil {
			return revision, sum, err
		}
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(DefaultPoll / 2):
		}
	}
	return 0, 0, err
}

func hashes(ctx context.Context, nodes []Node, timeout time.Duration) (int64, uint32, error) {
	head, err := nodes[0].read(ctx, timeout, true)
	if err != nil {
		return 0, 0, fmt.Errorf("a linearizable read of %s does not pass: %w", nodes[0].Name, err)
	}
	rev := head.Header.Revision
	all, err := each(nodes, func(n Node) (*clientv3.HashKVResponse, error) {
		h, err := ask(ctx, timeout, func(ctx context.Context) (*clientv3.HashKVResponse, error) {
			return n.Client.HashKV(ctx, n.endpoint(), rev)
		})
		if err != nil {
			return nil, fmt.Errorf("%s gives no hash of revision %d: %w", n.Name, rev, err)
		}
		return h, nil
	})
	if err != nil {
		return 0, 0, err
	}
	for i, h := range all {
		if h.CompactRevision != all[0].CompactRevision {
			return 0, 0, fmt.Errorf("%s is compacted at revision %d, %s at %d: their hashes cannot be compared yet", nodes[i].Name, h.CompactRevision, nodes[0].Name, all[0].CompactRevision)
		}
		if h.Hash != all[0].Hash {
			return 0, 0, fmt.Errorf("%s and %s hold different data at revision %d", nodes[i].Name, nodes[0].Name, rev)
		}
	}
	return rev, all[0].Hash, nil
}
