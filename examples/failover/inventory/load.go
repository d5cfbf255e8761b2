package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/internal/yamldoc"
)

// maxFileSize bounds what Load reads.
const maxFileSize = 1 << 20

// Load reads an inventory, strictly: an unknown or repeated field, a second document, a missing name are errors with the field's path. It contacts nothing, and reads no other file. Errors match connect.ErrUsage.
//
// primary and standby take the place of the file's where they are not empty.
func Load(path, primary, standby string) (*Inventory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, connect.Usage(path, reason(err), "give a file that this process can read")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	switch {
	case err != nil:
		return nil, connect.Usage(path, reason(err), "give a file that this process can read")
	case len(text) > maxFileSize:
		return nil, connect.Usage(path, fmt.Sprintf("is larger than %d bytes", maxFileSize), "give an inventory")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, connect.Usage(path, err.Error(), "give the path of a file")
	}
	inv := &Inventory{dir: filepath.Dir(absolute), file: path}
	var errs []error
	for _, p := range yamldoc.Unmarshal(text, inv) {
		where := path
		if p.Line > 0 {
			where = fmt.Sprintf("%s: line %d", path, p.Line)
		}
		if p.Field != "" {
			where += ": " + p.Field
		}
		errs = append(errs, connect.Usage(where, p.Detail, p.Hint))
	}
	inv.Primary, inv.Standby = cmp.Or(primary, inv.Primary), cmp.Or(standby, inv.Standby)
	if len(errs) == 0 {
		inv.check(func(field, problem, hint string) { errs = append(errs, connect.Usage(path+": "+field, problem, hint)) })
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return inv, nil
}

// reason is an error without the path, which is told anyway.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// report collects what is wrong with fields.
type report func(field, problem, hint string)

// check finds what is wrong within the file: missing fields, names that nobody has.
func (inv *Inventory) check(bad report) {
	hosts := map[string]bool{}
	take := func(at string, list []Host) {
		for i, h := range list {
			field := fmt.Sprintf("%s.hosts[%d]", at, i)
			switch {
			case h.Name == "":
				bad(field+".name", "is missing", "name the host")
			case hosts[h.Name]:
				bad(field+".name", fmt.Sprintf("%q is the name of another host as well", h.Name), "give each host a name of its own")
			}
			if h.Address != "" && h.User == "" {
				bad(field+".user", "is missing", "say as whom to log in")
			}
			if h.Jump != "" && !hosts[h.Jump] {
				bad(field+".jump", fmt.Sprintf("%q is no host before this one", h.Jump), "name one that comes earlier in the file")
			}
			hosts[h.Name] = true
		}
	}
	names := slices.Sorted(maps.Keys(inv.Clusters))
	for _, name := range names {
		take("clusters."+name, inv.Clusters[name].Hosts)
	}
	if inv.Stretch != nil {
		take("stretch", inv.Stretch.Hosts)
	}
	onHost := func(field, host string) {
		if !hosts[host] {
			bad(field, fmt.Sprintf("%q is no host of the inventory", host), "name one under hosts")
		}
	}
	for _, name := range names {
		c := inv.Clusters[name]
		c.check("clusters."+name, bad, onHost)
	}
	for i, c := range inv.Before {
		c.check(fmt.Sprintf("before[%d]", i), bad, onHost)
	}
	if len(inv.Clusters) > 0 || inv.Stretch == nil {
		inv.checkPair(names, bad)
	}
	if inv.Stretch != nil {
		inv.Stretch.check(bad, onHost)
	}
}

func (c *Cluster) check(at string, bad report, onHost func(field, host string)) {
	if len(c.VIPs) == 0 {
		bad(at+".vips", "is missing", "give the addresses of the cluster's load balancer")
	}
	if len(c.Etcd.Endpoints) == 0 {
		bad(at+".etcd.endpoints", "is missing", "give the addresses of the etcd's members")
	}
	for i, h := range c.HAProxy {
		if network, address, _ := strings.Cut(h.Socket, ":"); address == "" || network != "unix" && network != "tcp" {
			bad(fmt.Sprintf("%s.haproxy[%d].socket", at, i), fmt.Sprintf("%q is no address", h.Socket), "write unix:/path or tcp:host:port")
		}
	}
	for i, s := range c.APIServers {
		onHost(fmt.Sprintf("%s.apiservers[%d].host", at, i), s.Host)
	}
	if len(c.APIServers) > 0 && c.Kubeconfig == "" {
		bad(at+".kubeconfig", "is missing", "give one with the right to read /readyz and /metrics")
	}
	if g := c.Gate; g != nil {
		onHost(at+".gate.host", g.Host)
		if len(g.Close) == 0 || len(g.Open) == 0 || len(g.Closed) == 0 {
			bad(at+".gate", "lacks close, open or closed", "give all three commands")
		}
	}
	if m := c.Mirror; m != nil {
		onHost(at+".mirror.host", m.Host)
		if len(m.Start) == 0 || len(m.Stop) == 0 || len(m.Running) == 0 {
			bad(at+".mirror", "lacks start, stop or running", "give all three commands")
		}
	}
	for i, p := range c.OnPromote {
		if p.Container == "" || len(p.Ready) == 0 {
			bad(fmt.Sprintf("%s.onPromote[%d]", at, i), "lacks container or ready", "name the container, and a command on the host that ends with 0 when it serves")
		}
	}
	if len(c.OnPromote) > 0 && len(c.Hosts) == 0 {
		bad(at+".hosts", "is missing", "name the hosts on which onPromote starts its Pods")
	}
}

func (c *Command) check(at string, bad report, onHost func(field, host string)) {
	onHost(at+".host", c.Host)
	if c.Name == "" || c.Action == "" || len(c.Check) == 0 || len(c.Do) == 0 {
		bad(at, "lacks name, action, check or do", "give all four")
	}
}

func (inv *Inventory) checkPair(clusters []string, bad report) {
	for _, role := range []struct{ field, name string }{{"primary", inv.Primary}, {"standby", inv.Standby}} {
		if role.name == "" {
			bad(role.field, "is missing", "name one of the clusters")
		} else if !slices.Contains(clusters, role.name) {
			bad(role.field, fmt.Sprintf("%q is no cluster of the inventory", role.name), "name one of "+strings.Join(clusters, ", "))
		}
	}
	if inv.Primary == inv.Standby && inv.Primary != "" {
		bad("standby", fmt.Sprintf("%q is the primary", inv.Standby), "name the other cluster")
	}
	if inv.Domain == "" {
		bad("domain", "is missing", "give the platform access address")
	}
	if a := inv.Approval; a != nil && a.Role == "" {
		bad("approval.role", "is missing", "say in which role a plan is approved")
	}
	names := map[string]string{}
	for _, c := range clusters {
		for i, h := range inv.Clusters[c].HAProxy {
			field := fmt.Sprintf("clusters.%s.haproxy[%d].name", c, i)
			if before := names[h.Name]; before != "" || h.Name == "" {
				bad(field, fmt.Sprintf("%q is missing, or the name of another process as well", h.Name), "give each process a name of its own")
			}
			names[h.Name] = field
		}
	}
	if _, err := inv.primaryEnded(); err != nil {
		bad("primaryEnded", "is no time by RFC 3339", "write it as 2026-03-04T12:00:00Z")
	}
	if inv.Mirror.Name == "" {
		bad("mirror.name", "is missing", "give the name under which the mirror runs")
	}
	if d := inv.DNS; d != nil {
		if d.Server == "" {
			bad("dns.server", "is missing", "give the server that takes updates, or leave dns out: then a person changes the record")
		}
		if d.KeyFile == "" {
			bad("dns.keyFile", "is missing", "give the TSIG key as tsig-keygen prints it")
		}
		if len(d.Resolvers) == 0 {
			bad("dns.resolvers", "is missing", "name the resolvers of users and workload clusters")
		}
	}
}

func (s *Stretch) check(bad report, onHost func(field, host string)) {
	names := map[string]bool{}
	for i, m := range s.Members {
		field := fmt.Sprintf("stretch.members[%d]", i)
		if m.Name == "" || names[m.Name] {
			bad(field+".name", fmt.Sprintf("%q is missing or there twice", m.Name), "give each member its --name")
		}
		names[m.Name] = true
		onHost(field+".host", m.Host)
		if len(m.Etcd.Endpoints) != 1 {
			bad(field+".etcd.endpoints", fmt.Sprintf("has %d addresses", len(m.Etcd.Endpoints)), "give this member's own, and no other")
		}
	}
	if len(s.Members) == 0 {
		bad("stretch.members", "is missing", "list all members of the etcd")
	}
	for i, name := range s.Lost {
		if !names[name] {
			bad(fmt.Sprintf("stretch.lost[%d]", i), fmt.Sprintf("%q is no member", name), "name members of the etcd")
		}
	}
	if s.GlusterFS != nil {
		onHost("stretch.glusterfs.host", s.GlusterFS.Host)
	}
}

// primaryEnded is when the primary took its last write; zero if that is not known.
func (inv *Inventory) primaryEnded() (time.Time, error) {
	if inv.PrimaryEnded == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, inv.PrimaryEnded)
}
