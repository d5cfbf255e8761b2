package posture

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
)

// Defaults of Config.
const (
	DefaultPrefix         = "/registry"
	DefaultRequestTimeout = 10 * time.Second
	DefaultRevisionMargin = 100_000
	DefaultMaxFillers     = 1_000_000
)

// Config says what is compared. The zero value of each field but Standby is its documented default.
type Config struct {
	// Primary and Standby lead to an API server of each cluster. The user needs to read what the checks name, Secrets by list (their metadata is asked for) included. Standby is required;
	// without Primary what depends on it is not looked at.
	Primary, Standby *rest.Config
	// PrimaryEtcd and StandbyEtcd are clients of the etcds, which stay the caller's; nil: what only an etcd tells is not looked at.
	PrimaryEtcd, StandbyEtcd *clientv3.Client
	// Prefix is the --etcd-prefix of both; "" is DefaultPrefix. Keep gets keys below it.
	Prefix string

	// Keep reports whether a key is mirrored, such as (*keyfilter.Filter).Match; nil: all are.
	Keep func(key []byte) bool
	// ExcludedNamespaces are namespaces of which nothing is mirrored, besides what Keep drops.
	ExcludedNamespaces []string

	// PrimaryNodePorts and StandbyNodePorts are the --service-node-port-range of each, such as "30000-32767", where no etcd tells it.
	PrimaryNodePorts, StandbyNodePorts string
	// Unreadable counts the values of the primary that the standby's encryption configuration cannot read, and those of which nothing is known because a KMS plugin was away, such as by encryption.Audit
	// of the primary's etcd with the standby's Codec; nil: not looked at.
	Unreadable func(ctx context.Context) (unreadable, unknown int, err error)
	// RevisionMargin is how far the standby's etcd should be above the primary's, so that it is still when a switch comes; 0 is DefaultRevisionMargin.
	RevisionMargin int64
	// MaxFillers is how many filler writes a revision fence may cost before that is a warning; 0 is DefaultMaxFillers.
	MaxFillers int64

	// RequestTimeout is the deadline of each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
}

func bad(detail, hint string) error {
	return &failover.Error{Kind: failover.ErrConfig, Detail: detail, Hint: hint}
}

// complete fills in the defaults and checks every field.
func (c Config) complete() (Config, error) {
	if c.Standby == nil {
		return c, bad("Standby is nil", "give a rest.Config for an API server of the standby")
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Prefix = path.Join("/", c.Prefix); c.Prefix == "/" {
		return c, bad("Prefix is only slashes", "use the --etcd-prefix of the API servers, such as /registry")
	}
	for _, p := range []struct{ field, value string }{{"PrimaryNodePorts", c.PrimaryNodePorts}, {"StandbyNodePorts", c.StandbyNodePorts}} {
		if _, err := parsePorts(p.value); p.value != "" && err != nil {
			return c, bad(fmt.Sprintf("%s %q: %v", p.field, p.value, err), "write it as --service-node-port-range does, such as 30000-32767")
		}
	}
	for i, ns := range c.ExcludedNamespaces {
		if ns == "" || strings.ContainsAny(ns, "/*? ") {
			return c, bad(fmt.Sprintf("ExcludedNamespaces[%d] %q is no name of a namespace", i, ns), "globs are Keep's")
		}
	}
	c.ExcludedNamespaces = slices.Clone(c.ExcludedNamespaces)
	for _, n := range []struct {
		field    string
		value    *int64
		fallback int64
	}{{"RevisionMargin", &c.RevisionMargin, DefaultRevisionMargin}, {"MaxFillers", &c.MaxFillers, DefaultMaxFillers}} {
		if *n.value < 0 {
			return c, bad(fmt.Sprintf("%s %d is negative", n.field, *n.value), "use 0 for the default or a positive number")
		}
		if *n.value == 0 {
			*n.value = n.fallback
		}
	}
	if c.RequestTimeout < 0 {
		return c, bad(fmt.Sprintf("RequestTimeout %v is negative", c.RequestTimeout), "use 0 for the default or a positive duration")
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = DefaultRequestTimeout
	}
	return c, nil
}

// scope is what is mirrored.
type scope struct {
	prefix   string
	keep     func(key []byte) bool
	excluded []string
}

func (s scope) keeps(segments ...string) bool {
	return s.keep == nil || s.keep([]byte(s.prefix+"/"+strings.Join(segments, "/")))
}

// namespaced reports whether an object in a namespace is mirrored.
func (s scope) namespaced(namespace string, segments ...string) bool {
	return !slices.Contains(s.excluded, namespace) && s.keeps(segments...)
}

// ports is a range of node ports.
type ports struct{ first, last int }

func (p ports) String() string { return fmt.Sprintf("%d-%d", p.first, p.last) }

// parsePorts reads "30000-32767" or "30000+2767", as kube-apiserver's flag does.
func parsePorts(text string) (p ports, err error) {
	if _, err := fmt.Sscanf(text, "%d-%d", &p.first, &p.last); err != nil || text != p.String() {
		var more int
		if _, err := fmt.Sscanf(text, "%d+%d", &p.first, &more); err != nil || text != fmt.Sprintf("%d+%d", p.first, more) {
			return ports{}, fmt.Errorf("not a range of ports")
		}
		p.last = p.first + more
	}
	if p.first < 1 || p.last > 65535 || p.first > p.last {
		return ports{}, fmt.Errorf("not within 1 and 65535, or upside down")
	}
	return p, nil
}
