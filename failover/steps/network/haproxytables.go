package network

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// parseStat reads the answer to "show stat": CSV whose first line names the columns after "# ". It returns the column status of each line by pxname/svname, such as
// etcd/FRONTEND or etcd/n1. Columns are found by name: each version of HAProxy adds some.
func parseStat(answer string) (status map[string]string, err error) {
	answer, ok := strings.CutPrefix(answer, "# ")
	if !ok {
		return nil, errors.New(`the answer to "show stat" has no line of titles`)
	}
	r := csv.NewReader(strings.NewReader(answer))
	r.FieldsPerRecord = -1 // a description may end a line early
	titles, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf(`the titles of "show stat": %w`, err)
	}
	proxy, service, is := slices.Index(titles, "pxname"), slices.Index(titles, "svname"), slices.Index(titles, "status")
	if proxy < 0 || service < 0 || is < 0 {
		return nil, errors.New(`the answer to "show stat" lacks pxname, svname or status`)
	}
	status = map[string]string{}
	for {
		line, err := r.Read()
		switch {
		case errors.Is(err, io.EOF):
			return status, nil
		case err != nil:
			return nil, fmt.Errorf(`the answer to "show stat": %w`, err)
		case len(line) <= max(proxy, service, is):
			return nil, fmt.Errorf(`a line of "show stat" has %d fields only`, len(line))
		}
		full := line[proxy] + "/" + line[service]
		if _, twice := status[full]; twice {
			return nil, fmt.Errorf(`"show stat" has %q twice`, full)
		}
		status[full] = line[is]
	}
}

// Bits of srv_admin_state that the API sets, as HAProxy's management guide lists them for "show servers state". The others are inherited from what a server tracks, come from the configuration or from DNS.
const (
	forcedMaint = 0x01 // also by "disabled" in the configuration
	forcedDrain = 0x08
)

// States of servers.
const (
	ready = "ready"
	drain = "drain"
	maint = "maint"
)

// forced is the state that the API has set.
func forced(adminState uint64) string {
	switch {
	case adminState&forcedMaint != 0:
		return maint
	case adminState&forcedDrain != 0:
		return drain
	}
	return ready
}

// parseServers reads the answer to "show servers state": a version, a line of titles after "# ", and a line for each server. It returns the state that the API has set of each, as backend/server.
func parseServers(answer string) (map[string]string, error) {
	version, rest, _ := strings.Cut(answer, "\n")
	if v := strings.TrimSpace(version); v != "1" {
		return nil, fmt.Errorf(`"show servers state" has version %q, and only 1 is known`, v)
	}
	titleLine, rest, _ := strings.Cut(rest, "\n")
	titles := strings.Fields(strings.TrimPrefix(titleLine, "#"))
	backend, name, admin := slices.Index(titles, "be_name"), slices.Index(titles, "srv_name"), slices.Index(titles, "srv_admin_state")
	if !strings.HasPrefix(titleLine, "#") || backend < 0 || name < 0 || admin < 0 {
		return nil, errors.New(`the answer to "show servers state" lacks be_name, srv_name or srv_admin_state`)
	}
	servers := map[string]string{}
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) <= max(backend, name, admin) {
			return nil, fmt.Errorf(`a line of "show servers state" has %d fields only`, len(fields))
		}
		bits, err := strconv.ParseUint(fields[admin], 10, 16)
		if err != nil {
			return nil, fmt.Errorf(`"show servers state": %q is no state`, fields[admin])
		}
		full := fields[backend] + "/" + fields[name]
		if _, twice := servers[full]; twice {
			return nil, fmt.Errorf(`"show servers state" has server %q twice`, full)
		}
		servers[full] = forced(bits)
	}
	return servers, nil
}

// parseSessions reads the answer to "show sess" and returns the IDs of the sessions of some frontends.
func parseSessions(answer string, frontends []string) (ids []string) {
	for line := range strings.Lines(answer) {
		id, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		digits, hex := strings.CutPrefix(id, "0x")
		if !ok || !hex || digits == "" || strings.Trim(digits, "0123456789abcdef") != "" {
			continue
		}
		for _, field := range strings.Fields(rest) {
			if fe, ok := strings.CutPrefix(field, "fe="); ok && slices.Contains(frontends, fe) {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}
