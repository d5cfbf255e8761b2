package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// Set is the records of a name and one type.
type Set struct {
	// Type is A, AAAA or CNAME.
	Type string `json:"type"`
	// TTL is in whole seconds.
	TTL time.Duration `json:"ttl"`
	// Data are IP addresses, or one host name with a final dot; sorted, each once.
	Data []string `json:"data"`
}

// Address is where a name leads: its sets of type A, AAAA and CNAME, in this order. A type that the name does not have is left out.
type Address []Set

// addressTypes are what leads a client somewhere.
func addressTypes() []string { return []string{"A", "AAAA", "CNAME"} }

// String writes the sets as in "A 10.0.0.1 10.0.0.2 (60s), AAAA 2001:db8::1 (60s)".
func (a Address) String() string {
	if len(a) == 0 {
		return "nothing"
	}
	var parts []string
	for _, s := range a {
		parts = append(parts, fmt.Sprintf("%s %s (%ds)", s.Type, strings.Join(s.Data, " "), int(s.TTL.Seconds())))
	}
	return strings.Join(parts, ", ")
}

// sameData reports whether both lead to the same place.
func (a Address) sameData(b Address) bool {
	return slices.EqualFunc(a, b, func(x, y Set) bool { return x.Type == y.Type && slices.Equal(x.Data, y.Data) })
}

func (a Address) equal(b Address) bool {
	return a.sameData(b) && slices.EqualFunc(a, b, func(x, y Set) bool { return x.TTL == y.TTL })
}

// maxTTL is the longest of the sets.
func (a Address) maxTTL() (longest time.Duration) {
	for _, s := range a {
		longest = max(longest, s.TTL)
	}
	return longest
}

func (a Address) withTTL(ttl time.Duration) Address {
	b := slices.Clone(a)
	for i := range b {
		b[i].TTL = ttl
	}
	return b
}

// set returns the set of a type; one without data if there is none.
func (a Address) set(kind string) Set {
	for _, s := range a {
		if s.Type == kind {
			return s
		}
	}
	return Set{Type: kind}
}

// records are the set's records of a name.
func (s Set) records(name string) (all []mdns.RR) {
	for _, data := range s.Data {
		h := mdns.RR_Header{Name: name, Class: mdns.ClassINET, Ttl: uint32(s.TTL / time.Second), Rrtype: mdns.StringToType[s.Type]}
		switch s.Type {
		case "A":
			all = append(all, &mdns.A{Hdr: h, A: netip.MustParseAddr(data).AsSlice()})
		case "AAAA":
			all = append(all, &mdns.AAAA{Hdr: h, AAAA: netip.MustParseAddr(data).AsSlice()})
		case "CNAME":
			all = append(all, &mdns.CNAME{Hdr: h, Target: data})
		}
	}
	return all
}

// addressOf collects the sets of a name from records. Other names' and other types' are left out.
func addressOf(name string, all []mdns.RR) Address {
	sets := map[string]*Set{}
	for _, rr := range all {
		if mdns.CanonicalName(rr.Header().Name) != name {
			continue
		}
		var data string
		switch rr := rr.(type) {
		case *mdns.A:
			ip, ok := netip.AddrFromSlice(rr.A)
			if !ok {
				continue
			}
			data = ip.Unmap().String()
		case *mdns.AAAA:
			ip, ok := netip.AddrFromSlice(rr.AAAA)
			if !ok {
				continue
			}
			data = ip.String()
		case *mdns.CNAME:
			data = mdns.CanonicalName(rr.Target)
		default:
			continue
		}
		kind := mdns.TypeToString[rr.Header().Rrtype]
		if sets[kind] == nil {
			sets[kind] = &Set{Type: kind, TTL: time.Duration(rr.Header().Ttl) * time.Second}
		}
		sets[kind].Data = append(sets[kind].Data, data)
		sets[kind].TTL = min(sets[kind].TTL, time.Duration(rr.Header().Ttl)*time.Second)
	}
	var a Address
	for _, kind := range addressTypes() {
		if s := sets[kind]; s != nil {
			slices.Sort(s.Data)
			s.Data = slices.Compact(s.Data)
			a = append(a, *s)
		}
	}
	return a
}

// parseAddress reads what a name is to lead to: IP addresses, or one host name.
func parseAddress(name string, data []string, ttl time.Duration) (Address, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("it is empty")
	}
	var all []mdns.RR
	for _, d := range data {
		h := mdns.RR_Header{Name: name, Class: mdns.ClassINET, Ttl: uint32(ttl / time.Second)}
		ip, err := netip.ParseAddr(d)
		switch {
		case err == nil && ip.Zone() != "":
			return nil, fmt.Errorf("%q has a zone", d)
		case err == nil && ip.Is4In6():
			return nil, fmt.Errorf("%q is an IPv4 address in IPv6: write %s", d, ip.Unmap())
		case err == nil && ip.Is4():
			h.Rrtype = mdns.TypeA
			all = append(all, &mdns.A{Hdr: h, A: ip.AsSlice()})
		case err == nil:
			h.Rrtype = mdns.TypeAAAA
			all = append(all, &mdns.AAAA{Hdr: h, AAAA: ip.AsSlice()})
		case len(data) > 1:
			return nil, fmt.Errorf("%q is no IP address, and a host name stands alone", d)
		default:
			target, err := canonicalName(d)
			if err != nil {
				return nil, err
			}
			if target == name {
				return nil, fmt.Errorf("%q is the name itself", d)
			}
			h.Rrtype = mdns.TypeCNAME
			all = append(all, &mdns.CNAME{Hdr: h, Target: target})
		}
	}
	a := addressOf(name, all)
	n := 0
	for _, s := range a {
		n += len(s.Data)
	}
	if n != len(data) {
		return nil, fmt.Errorf("it has an address twice")
	}
	return a, nil
}

// canonicalName is a host name in lower case with a final dot.
func canonicalName(name string) (string, error) {
	labels, ok := mdns.IsDomainName(name)
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' || r == '*'
	}
	if !ok || labels < 1 || name == "." || strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) >= 0 || strings.Trim(name, "0123456789.") == "" {
		return "", fmt.Errorf("%q is no host name", name)
	}
	return mdns.CanonicalName(name), nil
}

// Provider changes the address of a name. RFC2136 makes one; others can be written for the APIs of DNS services. It is safe for concurrent use. Names are in lower case with a final dot. Every call has a deadline of its own.
// Errors are of the kinds above where these fit.
type Provider interface {
	// Describe says which server, zone and key it uses, without secrets. It is part of a plan's hash.
	Describe() map[string]any
	// Lookup returns the address of a name from the authority itself, past any cache.
	Lookup(ctx context.Context, name string) (Address, error)
	// Replace puts one address in place of another in one change, all sets at once, if before is what is there: ErrChanged if not. TTLs need not be compared.
	Replace(ctx context.Context, name string, before, after Address) error
	// Check tells whether Replace of what is there by an address would be allowed, and changes nothing.
	Check(ctx context.Context, name string, after Address) error
}
