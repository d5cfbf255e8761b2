package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/understudy-dr/understudy/failover"
)

// Defaults of ClusterConfig.
const (
	DefaultRequestTimeout = 15 * time.Second
	DefaultPoll           = time.Second
)

// ClusterConfig says how a cluster is reached.
type ClusterConfig struct {
	// Name is what plans call the cluster, such as "standby". Required: it is part of what a plan's hash covers.
	Name string
	// REST says where the API is and who asks; see Kubeconfig. Required. The address is part of what a plan's hash covers, credentials are not.
	// RESTConfig.Timeout is not used, and an unset QPS is not limited: the steps ask seldom.
	REST *rest.Config
	// Client replaces the client that is made from REST, such as by one of the caller's; nil: none.
	Client kubernetes.Interface
	// RequestTimeout bounds each request but those that carry a command's streams; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Poll is how often what is waited for is looked at; 0 is DefaultPoll.
	Poll time.Duration
}

// Cluster is a Kubernetes cluster that steps act on. It is safe for concurrent use and keeps connections open until they idle out.
type Cluster struct {
	name    string
	rest    *rest.Config
	client  kubernetes.Interface
	http    *http.Client
	request time.Duration
	poll    time.Duration
}

// NewCluster checks the configuration. Nothing is contacted.
func NewCluster(cfg ClusterConfig) (*Cluster, error) {
	var p problems
	p.require(cfg.Name != "", "ClusterConfig.Name", "is empty", "name the cluster as plans should, such as standby")
	p.require(cfg.REST != nil && cfg.REST.Host != "", "ClusterConfig.REST", "names no API server", "make one with Kubeconfig or rest.InClusterConfig")
	p.require(cfg.RequestTimeout >= 0, "ClusterConfig.RequestTimeout", "is negative", "use a positive one, or 0 for the default")
	p.require(cfg.Poll >= 0, "ClusterConfig.Poll", "is negative", "use a positive one, or 0 for the default")
	if err := p.err(); err != nil {
		return nil, err
	}
	c := &Cluster{name: cfg.Name, rest: rest.CopyConfig(cfg.REST), client: cfg.Client, request: cfg.RequestTimeout, poll: cfg.Poll}
	if c.rest.QPS == 0 && c.rest.RateLimiter == nil {
		c.rest.QPS = -1
	}
	c.rest.Timeout = 0
	if c.request == 0 {
		c.request = DefaultRequestTimeout
	}
	if c.poll == 0 {
		c.poll = DefaultPoll
	}
	var err error
	if c.http, err = rest.HTTPClientFor(c.rest); err == nil && c.client == nil {
		c.client, err = kubernetes.NewForConfigAndClient(c.rest, c.http)
	}
	if err != nil {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: "ClusterConfig.REST cannot be used", Cause: err, Hint: "look at its address, certificates and credentials"}
	}
	return c, nil
}

// Kubeconfig reads a kubeconfig file. context "" is the file's current one. Nothing is contacted.
// Relative paths within the file count from its folder. Environment variables are not looked at, so that a plan does not depend on who runs it.
func Kubeconfig(path, context string) (*rest.Config, error) {
	var p problems
	p.require(path != "", "Kubeconfig: path", "is empty", "give the path of a kubeconfig file")
	if err := p.err(); err != nil {
		return nil, err
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: path}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, &failover.Error{Kind: failover.ErrConfig, Detail: fmt.Sprintf("kubeconfig %s, context %q", path, context), Cause: err, Hint: "give a kubeconfig that kubectl takes, and one of its contexts"}
	}
	return cfg, nil
}

// Name is the cluster's name in plans.
func (c *Cluster) Name() string { return c.name }

// limit bounds one request.
func (c *Cluster) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.request)
}

// inputs begin the inputs of a step.
func (c *Cluster) inputs(more map[string]any) map[string]any {
	more["cluster"] = c.name
	more["server"] = serverName(c.rest.Host)
	return more
}

// serverName is an API server's address as far as it may be shown: without user and password.
func serverName(host string) string {
	u, err := url.Parse(host)
	if err != nil || u.Host == "" {
		return host[strings.LastIndex(host, "@")+1:]
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// server is the cluster with another address of its API: that of one server.
func (c *Cluster) server(address string) (*Cluster, error) {
	cfg := rest.CopyConfig(c.rest)
	cfg.Host = "https://" + address
	return NewCluster(ClusterConfig{Name: c.name, REST: cfg, RequestTimeout: c.request, Poll: c.poll})
}

// await calls look until it reports true, with a pause between. What it says last is the error's text when ctx ends. Errors that time may heal are waited for.
func (c *Cluster) await(ctx context.Context, look func(ctx context.Context) (done bool, detail string, err error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		if err := ctx.Err(); err != nil { // also where both were ready: nothing begins after the end
			if last == "" {
				return err
			}
			return fmt.Errorf("%s: %w", last, err)
		}
		done, detail, err := look(ctx)
		switch {
		case err != nil && (!passing(err) || failed(err)):
			return err
		case err != nil && ctx.Err() == nil:
			last = err.Error()
		case err == nil && done:
			return nil
		case err == nil:
			last = detail
		}
		failover.Report(ctx, last)
		timer.Reset(c.poll)
	}
}
