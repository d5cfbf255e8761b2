// Package network has steps on the way to a cluster: gates on TCP ports and round-trip times, HAProxy's frontends and servers by its runtime API, and keepalived's priorities.
//
// What a gate sees it sees from the machine that runs the plan. Firewalls tell machines apart: run the plan where the answer counts.
package network

import (
	"cmp"
	"fmt"
	"strings"
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

// atLeastOne sets a number's default and refuses one below 0.
func (c *configErrors) atLeastOne(field string, n *int, zero int) {
	if *n < 0 {
		c.add(fmt.Sprintf("%s is %d", field, *n), "use a positive one, or 0 for the default")
	}
	*n = cmp.Or(*n, zero)
}

// list writes things one after another.
func list[T any](all []T) string {
	var b strings.Builder
	for i, one := range all {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, one)
	}
	return b.String()
}

func leftOut() failover.Step { return nil }
