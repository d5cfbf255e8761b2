package runbook

import (
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Installation is what was given to the installer of a cluster, as far as the clusters of a pair must agree about it or a switch of roles depends on it.
type Installation struct {
	// PlatformAddress is the platform access address: a domain, the same for both clusters.
	PlatformAddress string
	// OtherPlatformAddresses are the other platform access addresses: they include the cluster's own virtual IP.
	OtherPlatformAddresses []string
	// ClusterEndpoint is the address of the cluster's API: the virtual IP.
	ClusterEndpoint string
	// HTTPPort and HTTPSPort of the platform access address: 80 and 443.
	HTTPPort, HTTPSPort int
	// SelfBuiltVIP is set when the installer was to build the virtual IP itself. It must not: a load balancer is there before.
	SelfBuiltVIP bool
	Certificate  Certificate
	Registry     Registry
	// AdminUser and AdminPassword are the same for both clusters.
	AdminUser     string
	AdminPassword Secret
	// Architectures are those of the cluster's nodes, such as amd64, and PackageArchitectures those that its installation package has. Empty: not looked at.
	Architectures, PackageArchitectures []string
	// Components are those that have to be in both clusters before they are mirrored, such as knative-operator.
	Components []string
}

// Certificate is that of the platform access address.
type Certificate struct {
	// SelfSigned is set when the installer was to make one. It must not: both clusters serve the same.
	SelfSigned bool
	// Chain is the PEM text of the certificate and those that sign it, Key that of its private key.
	Chain []byte
	Key   Secret
}

// Registry is where a cluster gets its images.
type Registry struct {
	// Platform is set when the platform deploys it; then Address is the platform access address, and user and password are needed.
	Platform bool
	Address  string
	Username string
	Password Secret
}

// Secret is a text that is not shown: not by fmt, and not as JSON.
type Secret string

// String tells whether there is one.
func (s Secret) String() string {
	if s == "" {
		return "not given"
	}
	return "given"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Secret) equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s), []byte(other)) == 1
}

// Finding is a rule that does not hold.
type Finding struct {
	// Field is the field at fault, such as "Registry.Address".
	Field string
	// Problem says what is wrong, Hint what to do. Neither holds a secret.
	Problem, Hint string
}

func (f Finding) String() string { return f.Field + ": " + f.Problem + "; " + f.Hint }

// expirySoon is how long a certificate has to be good.
const expirySoon = 30 * 24 * time.Hour

// CheckInstallation holds an installation against the rules for a cluster of a pair, given its virtual IPs and a time.
func CheckInstallation(in Installation, vips []string, now time.Time) (findings []Finding) {
	note := func(field, problem, hint string) { findings = append(findings, Finding{field, problem, hint}) }
	switch {
	case in.PlatformAddress == "":
		note("PlatformAddress", "is missing", "give the domain by which users reach the platform")
	case isAddress(in.PlatformAddress):
		note("PlatformAddress", in.PlatformAddress+" is an address", "use a domain: a switch of roles points it to the other cluster")
	case !isDomain(in.PlatformAddress):
		note("PlatformAddress", in.PlatformAddress+" is no domain", "give a domain without scheme, port and path, such as platform.example.com")
	}
	if len(vips) == 0 {
		note("VIP", "is missing", "give each cluster a virtual IP of its own")
	}
	if !isOneOf(in.ClusterEndpoint, vips) {
		note("ClusterEndpoint", fmt.Sprintf("%q is not the virtual IP %s", in.ClusterEndpoint, strings.Join(vips, " or ")), "use the cluster's virtual IP")
	}
	if !slices.ContainsFunc(in.OtherPlatformAddresses, func(a string) bool { return isOneOf(a, vips) }) {
		note("OtherPlatformAddresses", "does not include the cluster's virtual IP", "add "+strings.Join(vips, " or ")+": while the domain points to the other cluster, this one is reached by it")
	}
	if in.HTTPPort != 80 {
		note("HTTPPort", fmt.Sprintf("is %d", in.HTTPPort), "use 80")
	}
	if in.HTTPSPort != 443 {
		note("HTTPSPort", fmt.Sprintf("is %d", in.HTTPSPort), "use 443")
	}
	if in.SelfBuiltVIP {
		note("SelfBuiltVIP", "the installer is to build the virtual IP", "prepare a load balancer, and give its address")
	}
	findings = append(findings, in.Certificate.check(in.PlatformAddress, now)...)
	if r := in.Registry; r.Platform {
		if r.Username == "" {
			note("Registry.Username", "is empty", "set a user: the standby needs it to pull images through the shared address")
		}
		if r.Password == "" {
			note("Registry.Password", "is empty", "set a password")
		}
		if r.Address != in.PlatformAddress {
			note("Registry.Address", fmt.Sprintf("%q is not the platform access address", r.Address), "use the platform access address")
		}
	} else if r.Address == "" {
		note("Registry.Address", "is missing", "give the address of the registry")
	}
	if in.AdminUser == "" {
		note("AdminUser", "is missing", "give the name of the platform's administrator")
	}
	if missing := without(in.Architectures, in.PackageArchitectures); len(in.PackageArchitectures) > 0 && len(missing) > 0 {
		note("PackageArchitectures", "lacks "+strings.Join(missing, ", "), "use an installation package for all architectures")
	}
	return findings
}

func (c Certificate) check(domain string, now time.Time) (findings []Finding) {
	note := func(field, problem, hint string) {
		findings = append(findings, Finding{"Certificate." + field, problem, hint})
	}
	if c.SelfSigned {
		note("SelfSigned", "the installer is to make a certificate of its own", "use an existing certificate, the same for both clusters")
		return findings
	}
	leaf, err := c.leaf()
	if err != nil {
		note("Chain", err.Error(), "give the certificate in PEM, its own first")
		return findings
	}
	if err := leaf.VerifyHostname(domain); err != nil && domain != "" {
		note("Chain", "is not for "+domain, "request a certificate for the platform access address")
	}
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0:
		note("Chain", "expired on "+leaf.NotAfter.UTC().Format(time.DateOnly), "renew it, on both clusters")
	case left < expirySoon:
		note("Chain", "expires on "+leaf.NotAfter.UTC().Format(time.DateOnly), "renew it, on both clusters, before it is needed")
	case leaf.NotBefore.After(now):
		note("Chain", "is not valid before "+leaf.NotBefore.UTC().Format(time.DateOnly), "use one that is valid now, or set the clock")
	}
	if c.Key == "" {
		note("Key", "is missing", "give the certificate's private key")
	} else if _, err := tls.X509KeyPair(c.Chain, []byte(c.Key)); err != nil {
		note("Key", "does not belong to the certificate", "give the certificate's own private key in PEM")
	}
	return findings
}

func (c Certificate) leaf() (*x509.Certificate, error) {
	for rest := c.Chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("holds no certificate")
		}
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("its first certificate cannot be read")
			}
			return cert, nil
		}
	}
}

// chain is the DER of all certificates, however they are written.
func (c Certificate) chain() (der [][]byte) {
	for rest := c.Chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return der
		}
		if block.Type == "CERTIFICATE" {
			der = append(der, block.Bytes)
		}
	}
}

// CheckParity holds the installations of two clusters against one another: what must be the same. Each by itself is for CheckInstallation.
func CheckParity(primary, standby Installation) (findings []Finding) {
	differ := func(field string, equal bool, hint string) {
		if !equal {
			findings = append(findings, Finding{field, "differs between the clusters", hint})
		}
	}
	const same = "use the primary's in the standby"
	differ("PlatformAddress", strings.EqualFold(primary.PlatformAddress, standby.PlatformAddress), same)
	differ("Certificate.Chain", slices.EqualFunc(primary.Certificate.chain(), standby.Certificate.chain(), bytes.Equal), same)
	differ("Certificate.SelfSigned", primary.Certificate.SelfSigned == standby.Certificate.SelfSigned, same)
	differ("Certificate.Key", primary.Certificate.Key.equal(standby.Certificate.Key), same)
	differ("Registry.Platform", primary.Registry.Platform == standby.Registry.Platform, same)
	differ("Registry.Address", primary.Registry.Address == standby.Registry.Address, same)
	differ("Registry.Username", primary.Registry.Username == standby.Registry.Username, same)
	differ("Registry.Password", primary.Registry.Password.equal(standby.Registry.Password), same)
	differ("AdminUser", primary.AdminUser == standby.AdminUser, same)
	differ("AdminPassword", primary.AdminPassword.equal(standby.AdminPassword), same)
	differ("HTTPPort", primary.HTTPPort == standby.HTTPPort, same)
	differ("HTTPSPort", primary.HTTPSPort == standby.HTTPSPort, same)
	if missing := without(primary.Components, standby.Components); len(missing) > 0 {
		findings = append(findings, Finding{"Components", "the standby lacks " + strings.Join(missing, ", "), "deploy them in the standby before it is mirrored into"})
	}
	if primary.ClusterEndpoint != "" && primary.ClusterEndpoint == standby.ClusterEndpoint {
		findings = append(findings, Finding{"ClusterEndpoint", "is the same for both clusters", "give each cluster a virtual IP of its own"})
	}
	return findings
}

func without(all, some []string) (missing []string) {
	for _, a := range all {
		if !slices.Contains(some, a) {
			missing = append(missing, a)
		}
	}
	return missing
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return err == nil
}

// isOneOf compares addresses by what they mean, with or without a port and brackets.
func isOneOf(s string, addresses []string) bool {
	host := s
	if h, _, err := net.SplitHostPort(s); err == nil {
		host = h
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && slices.ContainsFunc(addresses, func(v string) bool {
		b, err := netip.ParseAddr(v)
		return err == nil && a.Unmap() == b.Unmap()
	})
}

// isDomain reports whether s is a domain name of at least two labels.
func isDomain(s string) bool {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	if len(labels) < 2 || len(s) > 253 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(strings.ToLower(l), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}
