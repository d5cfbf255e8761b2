package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
)

// RemoveConfig removes members that are lost.
type RemoveConfig struct {
	// Name is the beginning of the steps' names; "" is "etcd/remove".
	Name      string
	Reference string
	// Members are those that stay, in the order in which they are asked. Required.
	Members []Node
	// Remove are those to remove. Required.
	Remove []Node
	// RequestTimeout bounds each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Running allows to remove a member that answers.
	Running bool
}

// Remove makes a step for each member that is removed, called "etcd/remove/NAME". A member that is not listed is removed already: a forced cluster has forgotten all others.
// It is blocked while the cluster has no quorum, while the member answers unless that is allowed, and where what stays would have no quorum. It cannot be undone: a removed member's data is of no use any more; Add adds it anew.
func Remove(cfg RemoveConfig) ([]failover.Step, error) {
	errs := []error{checkNodes(nodeList{field: "Members", nodes: cfg.Members}, nodeList{field: "Remove", nodes: cfg.Remove})}
	duration(&errs, "RequestTimeout", &cfg.RequestTimeout, DefaultRequestTimeout)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var steps []failover.Step
	for _, n := range cfg.Remove {
		r := &removing{members: slices.Clone(cfg.Members), node: n, timeout: cfg.RequestTimeout, running: cfg.Running}
		steps = append(steps, failover.Funcs{
			Name: stepFor(stepName(cfg.Name, "etcd/remove"), n), Observe: r.observe, Do: r.do, Retry: patience,
			Description: failover.Description{
				Action: fmt.Sprintf("Remove %s from the cluster of %s", n.Name, namesOf(cfg.Members)),
				Commands: []string{fmt.Sprintf("etcdctl --endpoints=%s member list   # the ID of %s", cfg.Members[0].endpoint(), n.Name),
					fmt.Sprintf("etcdctl --endpoints=%s member remove ID", cfg.Members[0].endpoint())},
				Reference: cfg.Reference,
				Inputs:    map[string]any{"members": inputsOf(cfg.Members), "remove": n.input(), "running": cfg.Running, "requestTimeout": r.timeout.String()},
			},
		}.Step())
	}
	return steps, nil
}

type removing struct {
	members []Node
	node    Node
	timeout time.Duration
	running bool
}

func (r *removing) observe(ctx context.Context) (failover.Observation, error) {
	blocked := func(format string, args ...any) (failover.Observation, error) {
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf(format, args...)}, nil
	}
	members, err := listAny(ctx, r.members, r.timeout)
	if err != nil {
		return failover.Observation{}, err
	}
	m, wrong := r.node.listed(members)
	switch {
	case wrong != "":
		return blocked("%s", wrong)
	case m == nil:
		return failover.Observation{State: failover.Done, Detail: "it is not listed: the cluster has " + describeMembers(members)}, nil
	}
	if !r.running {
		if _, err := r.node.status(ctx, r.timeout); err == nil {
			return blocked("%s answers: it is not lost", r.node.Name)
		}
	}
	voters, up := 0, 0
	for _, other := range members {
		if other == m || other.IsLearner {
			continue
		}
		voters++
		if slices.ContainsFunc(r.members, func(n Node) bool {
			found, _ := n.listed(members)
			_, err := n.status(ctx, r.timeout)
			return found == other && err == nil
		}) {
			up++
		}
	}
	if up <= voters/2 {
		return blocked("of the %d voters that stay %d answer, which is no quorum", voters, up)
	}
	return failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("%s is listed with the ID %x", r.node.Name, m.ID)}, nil
}

func (r *removing) do(ctx context.Context) error {
	return until(ctx, DefaultWait, DefaultPoll, func(ctx context.Context) error {
		members, err := listAny(ctx, r.members, r.timeout)
		if err != nil {
			return err
		}
		switch m, wrong := r.node.listed(members); {
		case wrong != "":
			return &failover.Error{Kind: failover.ErrBlocked, Detail: wrong, Hint: "correct the plan or the member"}
		case m != nil:
			return removeMember(ctx, r.members, r.timeout, m)
		}
		return nil
	})
}

func removeMember(ctx context.Context, by []Node, timeout time.Duration, m *pb.Member) error {
	_, err := through(ctx, by, timeout, func(ctx context.Context, c *clientv3.Client) (any, error) { return c.MemberRemove(ctx, m.ID) })
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove the member with the ID %x: %w", m.ID, err)
	}
	return nil
}

// LeaderConfig makes a member the leader.
type LeaderConfig struct {
	// Name is the step's; "" is "etcd/leader".
	Name      string
	Reference string
	// Nodes are the members. Required.
	Nodes []Node
	// To names the one that is to lead. Required.
	To string
	// RequestTimeout bounds each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
}

// MoveLeader makes the step that makes a member the leader, such as after a failback to where most clients are. Undo gives the leadership back.
func MoveLeader(cfg LeaderConfig) (failover.Step, error) {
	errs := []error{checkNodes(nodeList{field: "Nodes", nodes: cfg.Nodes})}
	duration(&errs, "RequestTimeout", &cfg.RequestTimeout, DefaultRequestTimeout)
	to := slices.IndexFunc(cfg.Nodes, func(n Node) bool { return n.Name == cfg.To })
	if to < 0 {
		errs = append(errs, bad(fmt.Sprintf("To is %q, which is none of Nodes", cfg.To), "name one of them"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l := &leading{nodes: slices.Clone(cfg.Nodes), to: cfg.Nodes[to], timeout: cfg.RequestTimeout}
	return failover.Funcs{
		Name: stepName(cfg.Name, "etcd/leader"), Observe: l.observe, Do: l.do, Undo: l.undo,
		Retry: patience,
		Description: failover.Description{
			Action: "Make " + cfg.To + " the leader", Undo: "Make the former leader lead again.",
			Commands:  []string{"etcdctl --endpoints=LEADER move-leader ID   # the ID of " + cfg.To},
			Reference: cfg.Reference, Inputs: map[string]any{"nodes": inputsOf(cfg.Nodes), "to": cfg.To, "requestTimeout": l.timeout.String()},
		},
	}.Step(), nil
}

type leading struct {
	nodes   []Node
	to      Node
	timeout time.Duration
}

// leader finds the node that leads, as a linearizable read's answer and its status say, and the ID of the one that is to.
func (l *leading) leader(ctx context.Context) (leads Node, to uint64, err error) {
	members, err := listAny(ctx, l.nodes, l.timeout)
	if err != nil {
		return leads, 0, err
	}
	m, wrong := l.to.listed(members)
	if m == nil || wrong != "" || m.IsLearner {
		return leads, 0, fmt.Errorf("%s is no voter as configured: the cluster has %s", l.to.Name, describeMembers(members))
	}
	for _, n := range l.nodes {
		s, err := n.status(ctx, l.timeout)
		if err == nil && s.Leader == s.Header.MemberId && s.Leader != 0 {
			return n, m.ID, n.confirm(s.Leader, members)
		}
	}
	return leads, 0, errors.New("none of the members leads")
}

func (l *leading) observe(ctx context.Context) (failover.Observation, error) {
	leads, _, err := l.leader(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if leads.Name == l.to.Name {
		return failover.Observation{State: failover.Done, Detail: leads.Name + " leads"}, nil
	}
	return failover.Observation{State: failover.Pending, Detail: leads.Name + " leads"}, nil
}

func (l *leading) do(ctx context.Context) error {
	leads, to, err := l.leader(ctx)
	if err != nil {
		return err
	}
	if err := failover.Save(ctx, "leader", leads.Name); err != nil {
		return err
	}
	return l.move(ctx, leads, to)
}

func (l *leading) move(ctx context.Context, leads Node, to uint64) error {
	_, err := ask(ctx, l.timeout, func(ctx context.Context) (any, error) { return leads.awake().MoveLeader(ctx, to) })
	return err
}

func (l *leading) undo(ctx context.Context) error {
	var before string
	if ok, err := failover.Load(ctx, "leader", &before); err != nil || !ok {
		return err
	}
	back := *l
	i := slices.IndexFunc(l.nodes, func(n Node) bool { return n.Name == before })
	if i < 0 {
		return fmt.Errorf("%q led before, and is none of the members", before)
	}
	back.to = l.nodes[i]
	leads, to, err := back.leader(ctx)
	if err != nil || leads.Name == before {
		return err
	}
	return l.move(ctx, leads, to)
}
