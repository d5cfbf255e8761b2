package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// Defaults of the configurations.
const (
	DefaultRequestTimeout = 5 * time.Second
	DefaultWait           = 5 * time.Minute
	DefaultPoll           = 500 * time.Millisecond
)

// patience is for a leader that is elected, or a machine that is not reached, just then: every attempt begins with a look.
var patience = failover.Retry{Attempts: 5}

// Node is a member of the cluster as it should be.
type Node struct {
	// Name is the member's --name. Letters, digits, '.', '_' and '-', beginning and ending with a letter or digit. Required.
	Name string
	// PeerURLs are the member's --initial-advertise-peer-urls. Required.
	PeerURLs []string
	// Client reaches this member alone: it has exactly one endpoint. Required. The caller closes it.
	Client *clientv3.Client
	// Member controls the member's process. Required by the steps that stop or start it.
	Member Member
}

// endpoint is the member's client URL.
func (n Node) endpoint() string { return n.Client.Endpoints()[0] }

// nodeInput is what a plan's hash covers of a Node.
type nodeInput struct {
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
	Endpoint string   `json:"endpoint"`
	Control  any      `json:"control,omitempty"`
}

func (n Node) input() nodeInput {
	in := nodeInput{Name: n.Name, PeerURLs: sortedURLs(n.PeerURLs), Endpoint: n.endpoint()}
	if n.Member != nil {
		in.Control = n.Member.Describe().Inputs
	}
	return in
}

func inputsOf(nodes []Node) []nodeInput {
	all := make([]nodeInput, len(nodes))
	for i, n := range nodes {
		all[i] = n.input()
	}
	return all
}

func namesOf(nodes []Node) string {
	all := make([]string, len(nodes))
	for i, n := range nodes {
		all[i] = n.Name
	}
	return strings.Join(all, ", ")
}

var memberName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

func bad(detail, hint string) error {
	return &failover.Error{Kind: failover.ErrConfig, Detail: detail, Hint: hint}
}

// check validates what a field holds.
func (n Node) check(field string, controlled bool) error {
	var errs []error
	if !memberName.MatchString(n.Name) {
		errs = append(errs, bad(fmt.Sprintf("%s.Name is %q", field, n.Name), "give the member's --name: up to 64 letters, digits, '.', '_' and '-', a letter or digit at both ends"))
	}
	if len(n.PeerURLs) == 0 {
		errs = append(errs, bad(field+".PeerURLs is empty", "give the member's --initial-advertise-peer-urls"))
	}
	for _, raw := range n.PeerURLs {
		if u, err := url.Parse(raw); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
			errs = append(errs, bad(fmt.Sprintf("%s.PeerURLs: member %q has one that is not like https://192.0.2.1:2380", field, n.Name), "give scheme, host and port, and nothing else"))
		}
	}
	switch {
	case n.Client == nil:
		errs = append(errs, bad(fmt.Sprintf("%s.Client of member %q is nil", field, n.Name), "give a client whose only endpoint is this member"))
	case len(n.Client.Endpoints()) != 1:
		errs = append(errs, bad(fmt.Sprintf("%s.Client of member %q has %d endpoints", field, n.Name, len(n.Client.Endpoints())), "give a client whose only endpoint is this member"))
	}
	if controlled && n.Member == nil {
		errs = append(errs, bad(fmt.Sprintf("%s.Member of member %q is nil", field, n.Name), "say how it is stopped and started: Systemd, StaticPod or MemberFuncs"))
	}
	return errors.Join(errs...)
}

// checkNodes validates lists of nodes, no two of which may be the same.
func checkNodes(lists ...nodeList) error {
	var errs []error
	seen := map[string]string{}
	twice := func(what, field string) {
		if other, ok := seen[what]; ok {
			errs = append(errs, bad(fmt.Sprintf("%s and %s have the same %s", other, field, what), "name each member once"))
		}
		seen[what] = field
	}
	for _, l := range lists {
		if len(l.nodes) == 0 && !l.optional {
			errs = append(errs, bad(l.field+" is empty", "name the members"))
		}
		for i, n := range l.nodes {
			field := fmt.Sprintf("%s[%d]", l.field, i)
			if err := n.check(field, l.controlled); err != nil {
				errs = append(errs, err)
				continue
			}
			twice("name "+n.Name, field)
			twice("endpoint "+n.endpoint(), field)
			for _, u := range n.PeerURLs {
				twice("peer URL "+u, field)
			}
		}
	}
	return errors.Join(errs...)
}

type nodeList struct {
	field      string
	nodes      []Node
	controlled bool
	optional   bool
}

// timing are the durations of a configuration.
func duration(errs *[]error, field string, value *time.Duration, zero time.Duration) {
	if *value < 0 {
		*errs = append(*errs, bad(fmt.Sprintf("%s is %v", field, *value), "use a positive duration, or 0 for the default"))
	}
	if *value == 0 {
		*value = zero
	}
}

func sortedURLs(urls []string) []string {
	urls = slices.Clone(urls)
	slices.Sort(urls)
	return urls
}

func sameURLs(a, b []string) bool { return slices.Equal(sortedURLs(a), sortedURLs(b)) }

func shareURL(a, b []string) bool {
	return slices.ContainsFunc(a, func(u string) bool { return slices.Contains(b, u) })
}

// listed finds a node in a member list, by its peer URLs and its name; one that has not started has no name yet. wrong says what of another member, or of its own entry, does not fit.
func (n Node) listed(members []*pb.Member) (m *pb.Member, wrong string) {
	for _, m := range members {
		if sameURLs(m.PeerURLs, n.PeerURLs) && (m.Name == n.Name || m.Name == "") {
			return m, ""
		}
	}
	for _, m := range members {
		if shareURL(m.PeerURLs, n.PeerURLs) && m.Name != n.Name && m.Name != "" {
			return m, fmt.Sprintf("peer URL %s belongs to member %q with the ID %x, not to %q", strings.Join(n.PeerURLs, ","), m.Name, m.ID, n.Name)
		}
	}
	for _, m := range members {
		if m.Name == n.Name || shareURL(m.PeerURLs, n.PeerURLs) {
			return m, fmt.Sprintf("member %q with the ID %x has the peer URL %s, not %s", n.Name, m.ID, strings.Join(m.PeerURLs, ","), strings.Join(n.PeerURLs, ","))
		}
	}
	return nil, ""
}

// ask makes one call with a deadline. Unlike etcdrpc.Do it does not require a leader, for these steps talk to members that have none.
func ask[T any](ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return call(ctx)
}

// probeKey is read to see whether a read passes, and written and deleted to see whether a write does. It need not exist.
const probeKey = keyspace.MetadataPrefix + "etcdcluster/probe"

// awake makes the client try to connect now: after a long outage it would wait for up to two minutes.
func (n Node) awake() *clientv3.Client {
	n.Client.ActiveConnection().ResetConnectBackoff()
	return n.Client
}

func (n Node) status(ctx context.Context, timeout time.Duration) (*clientv3.StatusResponse, error) {
	return ask(ctx, timeout, func(ctx context.Context) (*clientv3.StatusResponse, error) { return n.Client.Status(ctx, n.endpoint()) })
}

// read reads a key from this member; linearizable, it takes a quorum.
func (n Node) read(ctx context.Context, timeout time.Duration, linearizable bool) (*clientv3.GetResponse, error) {
	opts := []clientv3.OpOption{clientv3.WithCountOnly()}
	if !linearizable {
		opts = append(opts, clientv3.WithSerializable())
	}
	return ask(ctx, timeout, func(ctx context.Context) (*clientv3.GetResponse, error) { return n.awake().Get(ctx, probeKey, opts...) })
}

// members is the member list: as this member knows it, or, linearizable, as it is. Servers before 3.5 always answer with the former.
func (n Node) members(ctx context.Context, timeout time.Duration, linearizable bool) (*clientv3.MemberListResponse, error) {
	var opts []clientv3.OpOption
	if !linearizable {
		opts = append(opts, clientv3.WithSerializable())
	}
	return ask(ctx, timeout, func(ctx context.Context) (*clientv3.MemberListResponse, error) {
		return n.awake().MemberList(ctx, opts...)
	})
}

// confirm checks that the client of a node leads to that node.
func (n Node) confirm(id uint64, members []*pb.Member) error {
	m, wrong := n.listed(members)
	switch {
	case wrong != "":
		return errors.New(wrong)
	case m == nil:
		return fmt.Errorf("member %q is not listed: the cluster has %s", n.Name, describeMembers(members))
	case m.ID != id:
		return fmt.Errorf("the client of member %q leads to the member with the ID %x, not %x", n.Name, id, m.ID)
	}
	return nil
}

func describeMembers(members []*pb.Member) string {
	all := make([]string, len(members))
	for i, m := range members {
		name := m.Name
		if name == "" {
			name = "(not started)"
		}
		all[i] = fmt.Sprintf("%s=%s", name, strings.Join(m.PeerURLs, ","))
		if m.IsLearner {
			all[i] += " (learner)"
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// until repeats a look until it is content, with the last reason when the time is up.
func until(ctx context.Context, wait, poll time.Duration, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		err := look(ctx)
		if err == nil {
			return nil
		}
		var final *failover.Error
		if errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", wait, err)
		case <-time.After(poll):
		}
	}
}

func stepName(name, standard string) string {
	if name == "" {
		return standard
	}
	return name
}

// stepFor names the step of one member.
func stepFor(base string, n Node) string { return base + "/" + strings.ToLower(n.Name) }
