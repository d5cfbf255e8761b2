package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
)

// AddConfig adds members to a cluster, one at a time.
type AddConfig struct {
	// Name is the beginning of the steps' names; "" is "etcd/add".
	Name      string
	Reference string
	// Members are all members that the cluster has before, in the order in which they are asked. Required.
	Members []Node
	// Add are the members to add, in this order, with their Member. Required.
	Add []Node
	// RequestTimeout bounds each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Wait is how long a member may take to start, and again to catch up; 0 is DefaultWait.
	Wait time.Duration
}

// Add makes a step for each member that is added, called "etcd/add/NAME". It stops the member's process, moves its data aside under the time, makes it join the existing cluster, adds it as a learner, starts it,
// promotes it when the leader holds it for caught up, and is done when the cluster is healthy with the same data on all members. Servers before 3.4 know no learners and add a voter at once.
//
// A step is blocked while another member is a learner or has not started, while a member is listed under the same name or peer URL with something else that differs, and while the member is listed by
// somebody else's doing and does not serve: then it is started on its data, or removed first (Remove). It never joins with data of before: whatever is there is moved aside.
//
// Undo removes the member from the cluster, moves its new data aside and the old data and settings back, and leaves it stopped: started on its old data it would be part of a cluster that is gone.
func Add(cfg AddConfig) ([]failover.Step, error) {
	errs := []error{checkNodes(nodeList{field: "Members", nodes: cfg.Members}, nodeList{field: "Add", nodes: cfg.Add, controlled: true})}
	duration(&errs, "RequestTimeout", &cfg.RequestTimeout, DefaultRequestTimeout)
	duration(&errs, "Wait", &cfg.Wait, DefaultWait)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var steps []failover.Step
	members := slices.Clone(cfg.Members)
	for _, n := range cfg.Add {
		a := &adding{members: slices.Clone(members), node: n, timeout: cfg.RequestTimeout, wait: cfg.Wait}
		steps = append(steps, failover.Funcs{
			Name:    stepFor(stepName(cfg.Name, "etcd/add"), n),
			Observe: a.observe, Do: a.do, Undo: a.undo, Verify: a.verify,
			Retry:       patience,
			Timeout:     2*cfg.Wait + 10*time.Minute,
			Description: a.describe(cfg),
		}.Step())
		members = append(members, n)
	}
	return steps, nil
}

// adding is the step of one member.
type adding struct {
	members       []Node // of the cluster before
	node          Node
	timeout, wait time.Duration
}

func (a *adding) describe(cfg AddConfig) failover.Description {
	control, n := a.node.Member.Describe(), a.node
	urls := strings.Join(n.PeerURLs, ",")
	commands := slices.Concat(control.Stop, control.MoveData, control.set(map[Setting]string{
		SettingName: n.Name, SettingInitialCluster: initialCluster(membersOf(a.members), n), SettingInitialClusterState: "existing", SettingForceNewCluster: "",
	}), []string{fmt.Sprintf("etcdctl --endpoints=%s member add %s --learner --peer-urls=%s", a.members[0].endpoint(), n.Name, urls)}, control.Start,
		[]string{fmt.Sprintf("etcdctl --endpoints=%s member promote ID   # until it has caught up", a.members[0].endpoint())})
	return failover.Description{
		Action: fmt.Sprintf("Add %s (%s) to the cluster of %s, without its former data, and wait until it holds the same", n.Name, urls, namesOf(a.members)), Commands: commands,
		Verify:    "All members answer, follow one leader and hold the same data.",
		Undo:      "Remove it from the cluster, stop it, and put its former data and settings back.",
		Reference: cfg.Reference,
		Inputs:    map[string]any{"members": inputsOf(a.members), "add": n.input(), "requestTimeout": a.timeout.String(), "wait": a.wait.String()},
	}
}

func membersOf(nodes []Node) []*pb.Member {
	all := make([]*pb.Member, len(nodes))
	for i, n := range nodes {
		all[i] = &pb.Member{Name: n.Name, PeerURLs: n.PeerURLs}
	}
	return all
}

// initialCluster has all members that are there, and the new one.
func initialCluster(members []*pb.Member, n Node) string {
	var parts []string
	for _, m := range members {
		if !sameURLs(m.PeerURLs, n.PeerURLs) {
			for _, u := range m.PeerURLs {
				parts = append(parts, m.Name+"="+u)
			}
		}
	}
	for _, u := range n.PeerURLs {
		parts = append(parts, n.Name+"="+u)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// joining is how far it is, as the journal keeps it. Each field is saved before what it tells of.
type joining struct {
	Label   string   `json:"label,omitempty"`     // of the data that was moved aside
	Before  Settings `json:"before,omitzero"`     // those of before
	ID      uint64   `json:"id,omitempty,string"` // the member's, once added
	Started bool     `json:"started,omitempty"`   // it may have been started, so what data it has is of the new member
}

func (a *adding) load(ctx context.Context) (j joining, err error) {
	_, err = failover.Load(ctx, "joining", &j)
	return j, err
}

// list asks the members for the list, one after another. It takes a quorum.
func (a *adding) list(ctx context.Context) ([]*pb.Member, error) {
	return listAny(ctx, a.members, a.timeout)
}

func listAny(ctx context.Context, nodes []Node, timeout time.Duration) ([]*pb.Member, error) {
	var errs []error
	for _, n := range nodes {
		// Servers before 3.5 list what they know: the read makes sure that there is a quorum.
		_, err := n.read(ctx, timeout, true)
		if err == nil {
			var list *clientv3.MemberListResponse
			if list, err = n.members(ctx, timeout, true); err == nil {
				if err = n.confirm(list.Header.MemberId, list.Members); err == nil {
					return list.Members, nil
				}
			}
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.Name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("no member of the cluster answers with a quorum: %w", errors.Join(errs...))
}

// through makes a change by the first member that takes it.
func through[T any](ctx context.Context, nodes []Node, timeout time.Duration, change func(context.Context, *clientv3.Client) (T, error)) (v T, err error) {
	for _, n := range nodes {
		v, err = ask(ctx, timeout, func(ctx context.Context) (T, error) { return change(ctx, n.awake()) })
		var answered rpctypes.EtcdError
		if err == nil || errors.As(err, &answered) || ctx.Err() != nil {
			return v, err
		}
	}
	return v, err
}

func (a *adding) observe(ctx context.Context) (failover.Observation, error) {
	j, err := a.load(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	blocked := func(format string, args ...any) (failover.Observation, error) {
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf(format, args...)}, nil
	}
	members, err := a.list(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	m, wrong := a.node.listed(members)
	if wrong != "" {
		return blocked("%s", wrong)
	}
	for _, other := range members {
		if other != m && (other.Name == "" || other.IsLearner) {
			return blocked("another member is not finished: the cluster has %s", describeMembers(members))
		}
	}
	for _, n := range a.members {
		if known, wrong := n.listed(members); known == nil || wrong != "" {
			return blocked("%s is not listed as configured: the cluster has %s", n.Name, describeMembers(members))
		}
	}
	if m != nil && m.Name != "" && !m.IsLearner {
		serves := a.serves(ctx, m.ID)
		if serves == nil {
			return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%s is a member with the ID %x and serves", m.Name, m.ID)}, nil
		}
		if j.ID != m.ID {
			return blocked("%s is a member with the ID %x already and does not serve (%v): start it, or remove it first", m.Name, m.ID, serves)
		}
	}
	switch {
	case m == nil && j == joining{}, m != nil && m.Name == "" && j == joining{}:
		return failover.Observation{State: failover.Pending, Detail: "the cluster has " + describeMembers(members)}, nil
	case m == nil && j.ID != 0:
		return blocked("%s was added with the ID %x and somebody removed it: undo this step", a.node.Name, j.ID)
	}
	return failover.Observation{State: failover.Partial, Detail: "the cluster has " + describeMembers(members)}, nil
}

// serves checks that the node's client reaches that member, and that it reads with the cluster.
func (a *adding) serves(ctx context.Context, id uint64) error {
	got, err := a.node.read(ctx, a.timeout, true)
	if err != nil {
		return fmt.Errorf("%s does not serve: %w", a.node.Name, err)
	}
	if got.Header.MemberId != id {
		return fmt.Errorf("the client of %s leads to the member with the ID %x, not %x", a.node.Name, got.Header.MemberId, id)
	}
	return nil
}

func (a *adding) do(ctx context.Context) error {
	j, err := a.load(ctx)
	if err != nil {
		return err
	}
	if !j.Started {
		if j, err = a.join(ctx, j); err != nil {
			return err
		}
	}
	running, err := a.node.Member.Running(ctx)
	if err != nil {
		return err
	}
	if !running {
		if err := a.node.Member.Start(ctx); err != nil {
			return err
		}
	}
	failover.Report(ctx, "waiting until "+a.node.Name+" answers")
	if err := until(ctx, a.wait, DefaultPoll, func(ctx context.Context) error { return a.started(ctx, j.ID) }); err != nil {
		return err
	}
	failover.Report(ctx, "waiting until "+a.node.Name+" has caught up")
	if err := until(ctx, a.wait, DefaultPoll, func(ctx context.Context) error { return a.promote(ctx, j.ID) }); err != nil {
		return err
	}
	return until(ctx, a.wait, DefaultPoll, func(ctx context.Context) error { return a.verify(ctx) })
}

// join does what comes before the start. Everything is prepared before the cluster hears of the member, so that it is not long without it.
func (a *adding) join(ctx context.Context, j joining) (joining, error) {
	members, err := a.list(ctx)
	if err != nil {
		return j, err
	}
	if j.Label == "" {
		if j.Before, err = a.node.Member.Settings(ctx); err != nil {
			return j, err
		}
		j.Label = time.Now().UTC().Format(labelLayout)
		if err := failover.Save(ctx, "joining", j); err != nil {
			return j, err
		}
	}
	if err := a.node.Member.Stop(ctx); err != nil {
		return j, err
	}
	if err := a.node.Member.MoveData(ctx, j.Label); err != nil {
		return j, err
	}
	failover.Note(ctx, fmt.Sprintf("the data of %s, if it had any, is kept under the label %s", a.node.Name, j.Label))
	if err := a.node.Member.Configure(ctx, Settings{Name: a.node.Name, InitialCluster: initialCluster(members, a.node), InitialClusterState: "existing"}); err != nil {
		return j, err
	}
	failover.Report(ctx, "waiting until the cluster takes "+a.node.Name)
	if err := until(ctx, a.wait, DefaultPoll, func(ctx context.Context) error { return a.add(ctx, &j) }); err != nil {
		return j, err
	}
	j.Started = true
	return j, failover.Save(ctx, "joining", j)
}

// add makes the node a member unless it is listed. The cluster refuses while its members are connected for less than some seconds.
func (a *adding) add(ctx context.Context, j *joining) error {
	members, err := a.list(ctx)
	if err != nil {
		return err
	}
	m, wrong := a.node.listed(members)
	switch {
	case wrong != "":
		return &failover.Error{Kind: failover.ErrBlocked, Detail: wrong, Hint: "correct the plan or the member"}
	case m != nil:
		j.ID = m.ID
		return nil
	}
	added, err := through(ctx, a.members, a.timeout, func(ctx context.Context, c *clientv3.Client) (*clientv3.MemberAddResponse, error) {
		return c.MemberAddAsLearner(ctx, a.node.PeerURLs)
	})
	if err != nil {
		return fmt.Errorf("add %s: %w", a.node.Name, err)
	}
	j.ID = added.Member.ID
	return nil
}

// started looks whether the new member answers and has told the cluster its name.
func (a *adding) started(ctx context.Context, id uint64) error {
	s, err := a.node.status(ctx, a.timeout)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", a.node.Name, err)
	}
	if s.Header.MemberId != id {
		return fmt.Errorf("the client of %s leads to the member with the ID %x, not %x", a.node.Name, s.Header.MemberId, id)
	}
	m, err := a.find(ctx, id)
	if err == nil && m.Name == "" {
		err = fmt.Errorf("%s has not told the cluster its name", a.node.Name)
	}
	return err
}

func (a *adding) find(ctx context.Context, id uint64) (*pb.Member, error) {
	members, err := a.list(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(members, func(m *pb.Member) bool { return m.ID == id }); i >= 0 {
		return members[i], nil
	}
	return nil, fmt.Errorf("the member with the ID %x is gone: the cluster has %s", id, describeMembers(members))
}

// promote makes a voter of a learner. The leader refuses while it is behind.
func (a *adding) promote(ctx context.Context, id uint64) error {
	m, err := a.find(ctx, id)
	if err != nil || !m.IsLearner {
		return err
	}
	_, err = through(ctx, a.members, a.timeout, func(ctx context.Context, c *clientv3.Client) (any, error) { return c.MemberPromote(ctx, id) })
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotLearner) {
		return fmt.Errorf("promote %s: %w", a.node.Name, err)
	}
	return nil
}

func (a *adding) verify(ctx context.Context) error {
	_, err := health(ctx, append(slices.Clone(a.members), a.node), a.timeout)
	return err
}

func (a *adding) undo(ctx context.Context) error {
	j, err := a.load(ctx)
	if err != nil || j == (joining{}) {
		return err
	}
	if err := until(ctx, a.wait, DefaultPoll, func(ctx context.Context) error { return a.remove(ctx, j.ID) }); err != nil {
		return err
	}
	if err := a.node.Member.Stop(ctx); err != nil {
		return err
	}
	if j.Started {
		// Moved once: what RestoreData has brought back before a crash is not moved again.
		if err := a.node.Member.MoveData(ctx, j.Label+"-undone"); err != nil {
			return err
		}
		j.Started = false
		if err := failover.Save(ctx, "joining", j); err != nil {
			return err
		}
	}
	if err := a.node.Member.RestoreData(ctx, j.Label); err != nil {
		return err
	}
	if err := a.node.Member.Configure(ctx, j.Before); err != nil {
		return err
	}
	return failover.Save(ctx, "joining", joining{})
}

// remove takes back add. The cluster refuses while its members are connected for less than some seconds.
func (a *adding) remove(ctx context.Context, id uint64) error {
	members, err := a.list(ctx)
	if err != nil {
		return err
	}
	m, wrong := a.node.listed(members)
	// One that was added and not saved has no name yet, and these peer URLs.
	if m == nil || wrong != "" || m.ID != id && (id != 0 || m.Name != "") {
		return nil
	}
	return removeMember(ctx, a.members, a.timeout, m)
}
