package connect

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Endpoint is one address of an etcd.
type Endpoint struct {
	// Address is host:port, an IPv6 host in brackets, the host in lower case.
	Address string
	// Scheme is "http", "https", or "" where the presence of TLS settings decides.
	Scheme string
}

// String is the endpoint as etcd's client takes it.
func (e Endpoint) String() string {
	if e.Scheme == "" {
		return e.Address
	}
	return e.Scheme + "://" + e.Address
}

// ParseEndpoints reads a list of host:port, http://host:port or https://host:port, separated by commas.
func ParseEndpoints(list string) ([]Endpoint, error) {
	var endpoints []Endpoint
	seen := map[string]bool{}
	for i, text := range strings.Split(list, ",") {
		endpoint, err := parseEndpoint(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("endpoint %d: %w", i+1, err)
		}
		if seen[endpoint.Address] {
			return nil, fmt.Errorf("endpoint %d: %s is listed twice", i+1, endpoint.Address)
		}
		seen[endpoint.Address] = true
		endpoints = append(endpoints, endpoint)
	}
	return endpoints, nil
}

func parseEndpoint(text string) (Endpoint, error) {
	if strings.Contains(text, "@") {
		// Not shown, because what is in front of the @ may be a password.
		return Endpoint{}, fmt.Errorf("it holds a user (@): give the user by a setting of its own")
	}
	var e Endpoint
	rest := text
	if scheme, after, ok := strings.Cut(text, "://"); ok {
		if e.Scheme = strings.ToLower(scheme); e.Scheme != "http" && e.Scheme != "https" {
			return Endpoint{}, fmt.Errorf("%q: scheme %q is not http or https", text, scheme)
		}
		rest = strings.TrimSuffix(after, "/")
	}
	if rest == "" {
		return Endpoint{}, fmt.Errorf("it is empty")
	}
	if strings.ContainsAny(rest, "/?# \t") {
		return Endpoint{}, fmt.Errorf("%q is more than a host and a port", text)
	}
	host, port, err := splitAddress(text, rest, "etcd's is 2379")
	if err != nil {
		return Endpoint{}, err
	}
	if port == 0 {
		return Endpoint{}, fmt.Errorf("%q: port \"0\" is not a number from 1 to 65535", text)
	}
	if host == "" {
		return Endpoint{}, fmt.Errorf("%q has no host", text)
	}
	e.Address = join(host, port)
	return e, nil
}

// ParseListen reads an address to listen on: host:port, an IPv6 host in brackets, or :port for every address of this host.
// Port 0 lets the system choose one.
func ParseListen(text string) (string, error) {
	if strings.ContainsAny(text, "/?#@ \t") {
		return "", fmt.Errorf("%q is more than a host and a port", text)
	}
	host, port, err := splitAddress(text, text, "such as 8080")
	if err != nil {
		return "", err
	}
	return join(host, port), nil
}

// splitAddress takes host:port apart, which text, as the user gave it, contains.
func splitAddress(text, address, usual string) (host string, number uint64, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		why := "has no port (" + usual + ")"
		if strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "[") {
			why = "is an IPv6 address without brackets; write [address]:port"
		}
		return "", 0, fmt.Errorf("%q %s", text, why)
	}
	if number, err = strconv.ParseUint(port, 10, 16); err != nil {
		return "", 0, fmt.Errorf("%q: port %q is not a number from 1 to 65535", text, port)
	}
	if strings.Contains(host, ":") && net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil {
		return "", 0, fmt.Errorf("%q: %q is no IPv6 address", text, host)
	}
	return host, number, nil
}

func join(host string, port uint64) string {
	return net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(port, 10))
}
