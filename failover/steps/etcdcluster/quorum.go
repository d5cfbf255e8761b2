package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// Outage is a cluster that has lost its quorum: every member of it is a survivor or dead.
type Outage struct {
	// Survivors run and answer. Required.
	Survivors []Node
	// Dead are the others. Their clients are used to see that they do not answer. Required.
	Dead []Node
	// Survivor names the one that is to become the cluster: the one that knows most, see Choose. "" where there is one survivor only.
	Survivor string
	// RequestTimeout bounds each request, and is how long a linearizable read is given to pass, so it has to be longer than an election takes; 0 is DefaultRequestTimeout. At most 10 s.
	RequestTimeout time.Duration
	// Dial is used to see that the peer and client ports of the dead are closed; nil is a net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (o *Outage) complete(controlled bool) error {
	errs := []error{checkNodes(nodeList{field: "Survivors", nodes: o.Survivors, controlled: controlled}, nodeList{field: "Dead", nodes: o.Dead})}
	duration(&errs, "RequestTimeout", &o.RequestTimeout, DefaultRequestTimeout)
	if o.RequestTimeout > 10*time.Second {
		errs = append(errs, bad(fmt.Sprintf("RequestTimeout is %v", o.RequestTimeout), "use at most 10s: an observation makes two such requests, one after another, in 30 s"))
	}
	if len(o.Survivors) >= (len(o.Survivors)+len(o.Dead))/2+1 {
		errs = append(errs, bad(fmt.Sprintf("Survivors are %d of %d members, which is a quorum", len(o.Survivors), len(o.Survivors)+len(o.Dead)), "remove and add single members instead: Remove, Add"))
	}
	o.Survivors, o.Dead = slices.Clone(o.Survivors), slices.Clone(o.Dead)
	if o.Survivor == "" && len(o.Survivors) == 1 {
		o.Survivor = o.Survivors[0].Name
	}
	if !slices.ContainsFunc(o.Survivors, func(n Node) bool { return n.Name == o.Survivor }) {
		errs = append(errs, bad(fmt.Sprintf("Survivor %q is none of the Survivors", o.Survivor), "name the one that Choose returns"))
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return errors.Join(errs...)
}

func (o *Outage) chosen() Node {
	return o.Survivors[slices.IndexFunc(o.Survivors, func(n Node) bool { return n.Name == o.Survivor })]
}

func (o *Outage) inputs() map[string]any {
	return map[string]any{"survivors": inputsOf(o.Survivors), "dead": inputsOf(o.Dead), "survivor": o.Survivor, "requestTimeout": o.RequestTimeout.String()}
}

// QuorumConfig is the gate before anything is forced.
type QuorumConfig struct {
	// Name is the step's; "" is "etcd/quorum-lost".
	Name      string
	Reference string
	Outage
}

// QuorumLost makes the gate that proves that there is no quorum. It passes if every survivor answers serializable reads and no linearizable one, knows no members but those that are named,
// and is no majority with the other survivors; if nobody answers at the ports of the dead; and if the chosen survivor knows as much as the others. Anything else blocks it: forcing a new cluster
// beside one that has a quorum makes two.
//
// etcd serves no client between a start and its first quorum. A single survivor that was restarted meanwhile passes by its Member, which sees that it runs; what it holds cannot be seen, and no snapshot be taken.
func QuorumLost(cfg QuorumConfig) (failover.Step, error) {
	if err := cfg.Outage.complete(false); err != nil {
		return nil, err
	}
	o := cfg.Outage
	return failover.Check(stepName(cfg.Name, "etcd/quorum-lost"), func(ctx context.Context) (failover.Observation, error) {
		found, err := o.survey(ctx, o.Survivors)
		if err != nil {
			return failover.Observation{}, err
		}
		if found.blocked != "" {
			return failover.Observation{State: failover.Blocked, Detail: found.blocked}, nil
		}
		return failover.Observation{State: failover.Done, Detail: found.detail}, nil
	}, failover.Description{
		Action:    fmt.Sprintf("Has the cluster lost its quorum, and is %s the survivor that knows most?", o.Survivor),
		Commands:  o.commands(),
		Reference: cfg.Reference,
		Inputs:    o.inputs(),
	}), nil
}

func (o *Outage) commands() (lines []string) {
	for _, n := range o.Survivors {
		lines = append(lines,
			fmt.Sprintf("etcdctl --endpoints=%s get --consistency=s --count-only --write-out=fields %s", n.endpoint(), probeKey),
			fmt.Sprintf("etcdctl --endpoints=%s get --consistency=l --count-only %s   # must fail", n.endpoint(), probeKey),
			fmt.Sprintf("etcdctl --endpoints=%s endpoint status --write-out=table   # raft index", n.endpoint()))
	}
	for _, n := range o.Dead {
		lines = append(lines, fmt.Sprintf("etcdctl --endpoints=%s endpoint status   # must fail", n.endpoint()))
	}
	return lines
}

// surveyed is what the members say. blocked is why nothing may be forced; "" if there is no quorum.
type surveyed struct{ blocked, detail string }

// witness is what one survivor says.
type witness struct {
	node     Node
	status   *clientv3.StatusResponse
	members  *clientv3.MemberListResponse
	revision int64
	quorum   bool // a linearizable read passed
	mute     bool // it runs and serves nobody
}

// survey asks some of the survivors, and looks at all of the dead, side by side.
func (o *Outage) survey(ctx context.Context, survivors []Node) (surveyed, error) {
	var wg sync.WaitGroup
	witnesses, errs := make([]witness, len(survivors)), make([]error, len(survivors)+1)
	for i, n := range survivors {
		wg.Go(func() { witnesses[i], errs[i] = n.testify(ctx, o.RequestTimeout) })
	}
	var alive string
	wg.Go(func() { alive, errs[len(survivors)] = o.alive(ctx) })
	wg.Wait()
	for _, w := range witnesses {
		if w.quorum {
			return surveyed{blocked: fmt.Sprintf("the quorum is alive: %s answers a linearizable read; a new cluster beside it would be a second one", w.node.Name)}, nil
		}
	}
	if err := errors.Join(errs...); err != nil {
		return surveyed{}, err
	}
	if alive != "" {
		return surveyed{blocked: alive}, nil
	}
	var said []string
	for _, w := range witnesses {
		if w.mute && len(witnesses) > 1 {
			return surveyed{blocked: fmt.Sprintf("%s runs and serves nobody, as etcd does that was restarted without a quorum: which survivor knows most cannot be told; remove it from Survivors and stop it", w.node.Name)}, nil
		}
		if w.mute {
			said = append(said, w.node.Name+" runs and serves nobody, as etcd does that was restarted without a quorum; what it holds cannot be seen")
			return surveyed{detail: o.lost(said)}, nil
		}
		if reason := o.fits(w); reason != "" {
			return surveyed{blocked: reason}, nil
		}
	}
	best := furthest(witnesses)
	for _, w := range witnesses {
		if w.node.Name == o.Survivor && w.status.RaftIndex < best.status.RaftIndex {
			return surveyed{blocked: fmt.Sprintf("%s is at raft index %d, %s at %d: choose the latter, or what it knows is lost", w.node.Name, w.status.RaftIndex, best.node.Name, best.status.RaftIndex)}, nil
		}
	}
	for _, w := range witnesses {
		said = append(said, fmt.Sprintf("%s has no quorum, and is at revision %d, raft index %d", w.node.Name, w.revision, w.status.RaftIndex))
	}
	return surveyed{detail: o.lost(said)}, nil
}

func (o *Outage) lost(said []string) string {
	return fmt.Sprintf("%s; no answer from %s. Writes that only the dead have seen are lost", strings.Join(said, "; "), namesOf(o.Dead))
}

// furthest knows most: entries beyond the index that a member knows to be committed are discarded when it is forced.
func furthest(witnesses []witness) witness {
	return slices.MaxFunc(witnesses, func(a, b witness) int {
		return int(int64(a.status.RaftIndex) - int64(b.status.RaftIndex))
	})
}

// testify asks a survivor. A read that does not pass in the whole time has no quorum: an election would have ended.
func (n Node) testify(ctx context.Context, timeout time.Duration) (w witness, err error) {
	w.node = n
	_, err = n.read(ctx, timeout, true)
	switch {
	case err == nil || errors.Is(err, rpctypes.ErrPermissionDenied): // access is checked once a quorum has confirmed the read index
		w.quorum = true
		return w, nil
	case etcdrpc.Classify(err) != etcdrpc.Retry:
		return w, fmt.Errorf("whether %s has a quorum cannot be told: %w", n.Name, err)
	}
	if w.status, err = n.status(ctx, timeout); err != nil {
		// etcd serves no client before it has once had a quorum since its start: a survivor that was restarted meanwhile cannot say more than that it runs.
		if n.Member != nil && ctx.Err() == nil {
			w.mute, _ = n.Member.Running(ctx)
		}
		if w.mute {
			return w, nil
		}
		return w, fmt.Errorf("survivor %s does not answer: %w", n.Name, err)
	}
	got, err := n.read(ctx, timeout, false)
	if err != nil {
		return w, fmt.Errorf("survivor %s does not answer a serializable read: %w", n.Name, err)
	}
	w.revision = got.Header.Revision
	if w.members, err = n.members(ctx, timeout, false); err != nil {
		return w, fmt.Errorf("survivor %s does not list its members: %w", n.Name, err)
	}
	return w, nil
}

// fits says why what a survivor knows does not fit what is configured.
func (o *Outage) fits(w witness) string {
	if err := w.node.confirm(w.status.Header.MemberId, w.members.Members); err != nil {
		return err.Error()
	}
	all := slices.Concat(o.Survivors, o.Dead)
	voters, surviving := 0, 0
	for _, m := range w.members.Members {
		known := slices.IndexFunc(all, func(n Node) bool {
			found, wrong := n.listed(w.members.Members)
			return found == m && wrong == ""
		})
		if known < 0 {
			return fmt.Sprintf("%s knows a member that is neither a survivor nor dead as configured: the cluster has %s", w.node.Name, describeMembers(w.members.Members))
		}
		if !m.IsLearner {
			voters++
			if known < len(o.Survivors) {
				surviving++
			}
		}
	}
	if surviving > voters/2 {
		return fmt.Sprintf("the survivors are %d of %d voters, which is a quorum: wait until they have elected a leader", surviving, voters)
	}
	return ""
}

// alive says which of the dead answers; "" if none does.
func (o *Outage) alive(ctx context.Context) (string, error) {
	var wg sync.WaitGroup
	reasons, errs := make([]string, len(o.Dead)), make([]error, len(o.Dead))
	for i, n := range o.Dead {
		wg.Go(func() { reasons[i], errs[i] = o.answers(ctx, n) })
	}
	wg.Wait()
	for _, reason := range reasons {
		if reason != "" {
			return reason, nil
		}
	}
	return "", errors.Join(errs...)
}

// answers looks at a dead member: its ports first, which say more than a client that cannot log in.
func (o *Outage) answers(ctx context.Context, n Node) (string, error) {
	for _, raw := range append(slices.Clone(n.PeerURLs), n.endpoint()) {
		address := raw
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			address = u.Host
		}
		conn, err := ask(ctx, o.RequestTimeout/2, func(ctx context.Context) (net.Conn, error) { return o.Dial(ctx, "tcp", address) })
		var dns *net.DNSError
		switch {
		case err == nil:
			_ = conn.Close()
			return fmt.Sprintf("%s is not dead: %s is open", n.Name, address), nil
		case errors.As(err, &dns):
			return "", fmt.Errorf("whether %s is dead cannot be told: %w", n.Name, err)
		case ctx.Err() != nil:
			return "", ctx.Err()
		}
	}
	// Reached by other ways than the ports, such as a proxy that the client was given.
	_, err := n.status(ctx, o.RequestTimeout/2)
	if code := status.Code(err); err == nil || code != codes.Unavailable && code != codes.DeadlineExceeded && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("%s is not dead: it answers its client", n.Name), nil
	}
	return "", ctx.Err()
}

// Choose asks survivors of a lost quorum and returns the name of the one that knows most, for Outage.Survivor. timeout bounds each request; 0 is DefaultRequestTimeout.
func Choose(ctx context.Context, survivors []Node, timeout time.Duration) (string, error) {
	errs := []error{checkNodes(nodeList{field: "survivors", nodes: survivors})}
	duration(&errs, "timeout", &timeout, DefaultRequestTimeout)
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	witnesses := make([]witness, len(survivors))
	for i, n := range survivors {
		s, err := n.status(ctx, timeout)
		if err != nil {
			return "", fmt.Errorf("survivor %s does not answer: %w", n.Name, err)
		}
		witnesses[i] = witness{node: n, status: s}
	}
	return furthest(witnesses).node.Name, nil
}

// FenceConfig asks a person to keep the dead from coming back.
type FenceConfig struct {
	// Name is the step's; "" is "etcd/fence".
	Name      string
	Reference string
	// Dead are the members that must not start again on their data. Required.
	Dead []Node
	// Role of the person; "" anybody.
	Role string
	// How says what is to be done, such as the machines to power off or the rules of a firewall; "" leaves the choice.
	How string
	// Fenced looks whether it was done, with a detail; nil: a person confirms it.
	Fenced func(ctx context.Context) (fenced bool, detail string, err error)
}

type fence struct {
	failover.Step
	prompt failover.Prompt
	about  failover.Description
}

func (f fence) Prompt() failover.Prompt        { return f.prompt }
func (f fence) Describe() failover.Description { return f.about }

// Fence makes the prompt. Nothing that a program sees from the survivors' side replaces it: dead members and those behind a cut line look the same, and the latter are a cluster with a quorum.
func Fence(cfg FenceConfig) (failover.Step, error) {
	if err := checkNodes(nodeList{field: "Dead", nodes: cfg.Dead}); err != nil {
		return nil, err
	}
	name, names := stepName(cfg.Name, "etcd/fence"), namesOf(cfg.Dead)
	how := cfg.How
	if how == "" {
		how = "Power the machines off, or stop and mask etcd on them, or close their client and peer ports for everybody at a firewall."
	}
	f := fence{
		prompt: failover.Prompt{
			Text: fmt.Sprintf("Make sure that %s do not run and cannot start again on their data, also when power and lines come back: they hold a majority of the old cluster and would go on as a second one that takes writes. %s", names, how),
			Role: cfg.Role, Checked: cfg.Fenced != nil, Undo: fmt.Sprintf("Let %s run again, if no new cluster was forced.", names),
		},
		about: failover.Description{Action: "Keep " + names + " from coming back as a second cluster", Reference: cfg.Reference, Inputs: map[string]any{"dead": inputsOf(cfg.Dead)}},
	}
	f.Step = failover.Funcs{Name: name, Do: func(context.Context) error { return nil }, Observe: func(ctx context.Context) (failover.Observation, error) {
		if cfg.Fenced == nil {
			return failover.Observation{State: failover.Pending, Detail: "a person's task"}, nil
		}
		ok, detail, err := cfg.Fenced(ctx)
		if err != nil || !ok {
			return failover.Observation{State: failover.Pending, Detail: detail}, err
		}
		return failover.Observation{State: failover.Done, Detail: detail}, nil
	}}.Step()
	return f, nil
}
