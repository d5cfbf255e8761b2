// Package dns has steps that point a name at another address: a change by RFC 2136 with TSIG, or by a Provider of one's own, and a look at what resolvers answer afterwards.
//
// A plan has these, in this order:
//
//	dns.UpdateAllowed    the key works and the change would be allowed: nothing is changed
//	dns.ResolversAnswer  the resolvers can be asked
//	dns.LowerTTL         some time before, so that caches forget soon
//	dns.Record           the change, at the authoritative server
//	dns.Resolvers        until every resolver agrees
//
// What a step calls the address of a name is all that leads a client somewhere: its sets of type A, AAAA and CNAME, together. A change of one family alone would leave the clients of the other behind.
// HTTPS and SVCB records are not looked at.
package dns

import (
	"cmp"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// configErrors collects what is wrong with a Config.
type configErrors []error

func (c *configErrors) add(detail, hint string) {
	*c = append(*c, &failover.Error{Kind: failover.ErrConfig, Detail: detail, Hint: hint})
}

// positive sets a duration's default and refuses one below 0.
func (c *configErrors) positive(field string, d *time.Duration, zero time.Duration) {
	if *d < 0 {
		c.add(fmt.Sprintf("%s is %v", field, *d), "use a positive one, or 0 for the default")
	}
	*d = cmp.Or(*d, zero)
}

func leftOut() failover.Step { return nil }
