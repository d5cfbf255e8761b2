package kube

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// APIServersReadyConfig is the configuration of APIServersReady. Cluster and Servers are required.
type APIServersReadyConfig struct {
	// Name of the gates, to which a slash and the server's address are added; "" is apiserver-ready/ and the cluster.
	Name string
	// Reference says where the gates come from.
	Reference string
	// Cluster whose certificates and credentials are used. Its own address is not.
	Cluster *Cluster
	// Servers are the API servers themselves, host:port each, not what balances between them.
	Servers []string
	// Live asks whether they live (/livez) rather than whether they are ready (/readyz).
	Live bool
}

// APIServersReady makes a gate for each API server: it is passed when that server answers that it is ready. Otherwise the observation names the checks that failed.
func APIServersReady(cfg APIServersReadyConfig) ([]failover.Step, error) {
	const kind = "APIServersReadyConfig"
	var p problems
	servers := p.servers(kind, cfg.Cluster, cfg.Servers)
	if err := p.err(); err != nil {
		return nil, err
	}
	path, state := "/readyz", "ready"
	if cfg.Live {
		path, state = "/livez", "alive"
	}
	var steps []failover.Step
	for i, s := range servers {
		observe := func(ctx context.Context) (failover.Observation, error) {
			if why := s.healthy(ctx, path); why != "" {
				return failover.Observation{State: failover.Blocked, Detail: why}, nil
			}
			return failover.Observation{State: failover.Done, Detail: "it is " + state}, nil
		}
		steps = append(steps, failover.Check(nameOf(cmp.Or(cfg.Name, nameOf("apiserver-"+state, cfg.Cluster.name)), nameServer(cfg.Servers[i])), observe, failover.Description{
			Action:    fmt.Sprintf("Is the API server %s of %s %s?", cfg.Servers[i], cfg.Cluster.name, state),
			Commands:  []string{shell("kubectl", "--server", "https://"+cfg.Servers[i], "get", "--raw", path+"?verbose")},
			Reference: cfg.Reference,
			Inputs:    map[string]any{"cluster": cfg.Cluster.name, "server": cfg.Servers[i], "path": path},
		}))
	}
	return steps, nil
}

// servers makes a cluster of each address.
func (p *problems) servers(kind string, c *Cluster, addresses []string) (all []*Cluster) {
	p.require(c != nil, kind+".Cluster", "is nil", "make one with NewCluster")
	p.require(len(addresses) > 0, kind+".Servers", "is empty", "give the host:port of each API server")
	seen := map[string]bool{}
	for i, a := range addresses {
		field := fmt.Sprintf("%s.Servers[%d]", kind, i)
		host, port, err := net.SplitHostPort(a)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || host == "" || n == 0 || strings.ContainsAny(a, "/@?# ") {
			p.require(false, field, fmt.Sprintf("%q is no host:port", a), "use such as 192.0.2.1:6443 or [2001:db8::1]:6443")
			continue
		}
		p.require(!seen[a], field, fmt.Sprintf("%q is there twice", a), "name each server once")
		seen[a] = true
		if c == nil {
			continue
		}
		s, err := c.server(a)
		if err != nil {
			*p = append(*p, err)
			continue
		}
		all = append(all, s)
	}
	return all
}

// nameServer is an address as a step's name has it.
func nameServer(address string) string { return strings.NewReplacer("[", "", "]", "").Replace(address) }

// healthy asks a server for its health; "" if it is well, otherwise why not.
func (c *Cluster) healthy(ctx context.Context, path string) string {
	status, body, err := c.ask(ctx, path+"?verbose", 0, 1<<20, nil)
	switch {
	case err != nil:
		return err.Error()
	case status == http.StatusOK:
		return ""
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Sprintf("%s answers %d: the credentials may not ask for it", path, status)
	}
	return fmt.Sprintf("%s answers %d; %s", path, status, failedChecks(body))
}

// failedCheck is a line about a check that failed, such as "[-]etcd failed: reason withheld".
var failedCheck = regexp.MustCompile(`^\[-\]([A-Za-z0-9._/-]+) `)

// failedChecks names the checks that failed in a verbose answer.
func failedChecks(body []byte) string {
	var names []string
	for line := range strings.Lines(string(body)) {
		if m := failedCheck.FindStringSubmatch(line); m != nil {
			names = append(names, m[1])
		}
	}
	if len(names) == 0 {
		return "it names no failed check"
	}
	return "failed: " + listed(names)
}

// startMetric is when a process began, in seconds since 1970.
const startMetric = "process_start_time_seconds"

// maxMetrics bounds the metrics of a server.
const maxMetrics = 256 << 20

// started asks a server when its process began. The metric is rounded by the server; the same process gives the same time.
func (c *Cluster) started(ctx context.Context) (float64, error) {
	status, body, err := c.ask(ctx, "/metrics", 0, maxMetrics, http.Header{"Accept": {"text/plain"}})
	switch {
	case err != nil:
		return 0, err
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return 0, failover.Permanent(fmt.Errorf("/metrics answers %d: the credentials may not read the metrics of API servers", status))
	case status != http.StatusOK:
		return 0, fmt.Errorf("/metrics answers %d", status)
	}
	at, ok := parseStarted(body)
	if !ok {
		return 0, fmt.Errorf("/metrics has no %s", startMetric)
	}
	return at, nil
}

// parseStarted finds when a process began in metrics of the text format.
func parseStarted(text []byte) (at float64, ok bool) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != startMetric {
			continue
		}
		at, err := strconv.ParseFloat(fields[1], 64)
		if err != nil || math.IsNaN(at) || math.IsInf(at, 0) || at <= 0 {
			return 0, false
		}
		return at, true
	}
	return 0, false
}

// startedAt is the time for people.
func startedAt(at float64) string {
	return time.UnixMilli(int64(at * 1000)).UTC().Format(time.RFC3339)
}
