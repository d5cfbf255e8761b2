package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// DefaultTTL is the TTL of records that are made for a name that had none.
const DefaultTTL = time.Minute

// maxTTL is the longest that RFC 2181 allows.
const maxTTL = (1<<31 - 1) * time.Second

// RecordConfig says where a name is to lead.
type RecordConfig struct {
	// Name is the step's name; "" is dns-record/DOMAIN.
	Name      string
	Reference string
	// Provider changes the zone. Required.
	Provider Provider
	// Domain is the name that is changed. Required.
	Domain string
	// Data are IP addresses of one or both families, or one host name for a CNAME. Required. They replace all that leads the name somewhere: with addresses of one family the other's records go, and so does a CNAME.
	Data []string
	// TTL of the new records, in whole seconds; 0 keeps the longest of what is there, or is DefaultTTL for a name that has none. With a TTL, the same data with another TTL is not yet done.
	TTL time.Duration
	// From, if set, is where the name has to lead before; anything else but Data blocks the step.
	From []string
	// DrillDomain is changed in drills, instead of Domain; without it a drill leaves the step out, because it would move everybody.
	DrillDomain string
}

// Record makes a step that points a name at another address. Observe asks the authority itself. Undo puts back the sets that were there before, with their TTLs, unless somebody has changed them since.
func Record(cfg RecordConfig) (failover.Step, error) {
	var errs configErrors
	if cfg.Provider == nil {
		errs.add("Provider is nil", "make one with RFC2136")
	}
	s := &record{provider: cfg.Provider, ttl: cfg.TTL}
	s.domain = errs.domain("Domain", cfg.Domain)
	checkTTL(&errs, "TTL", cfg.TTL)
	s.want = errs.address("Data", s.domain, cfg.Data, cfg.TTL)
	if cfg.From != nil {
		s.from = errs.address("From", s.domain, cfg.From, 0)
	}
	drill := ""
	if cfg.DrillDomain != "" {
		if drill = errs.domain("DrillDomain", cfg.DrillDomain); drill == s.domain {
			errs.add("DrillDomain is Domain", "give a name of its own, or none")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	name := cmp.Or(cfg.Name, "dns-record/"+strings.TrimSuffix(s.domain, "."))
	f := s.step(name, cfg.Reference)
	f.Drill = leftOut
	if drill != "" {
		rehearsed := *s
		rehearsed.domain, rehearsed.from = drill, nil
		f.Drill = rehearsed.step(name, cfg.Reference).Step
	}
	return f.Step(), nil
}

func (c *configErrors) domain(field, name string) string {
	canonical, err := canonicalName(name)
	if err != nil {
		c.add(fmt.Sprintf("%s: %v", field, err), "use a name such as platform.example.com")
	}
	return canonical
}

func (c *configErrors) address(field, name string, data []string, ttl time.Duration) Address {
	a, err := parseAddress(name, data, ttl)
	if err != nil {
		c.add(fmt.Sprintf("%s: %v", field, err), "use IP addresses, or one host name")
	}
	return a
}

func checkTTL(errs *configErrors, field string, ttl time.Duration) {
	if ttl < 0 || ttl > maxTTL || ttl%time.Second != 0 {
		errs.add(fmt.Sprintf("%s is %v", field, ttl), "use whole seconds")
	}
}

type record struct {
	provider   Provider
	domain     string
	want, from Address
	ttl        time.Duration
}

func (s *record) step(name, reference string) failover.Funcs {
	var lead []string
	for _, set := range s.want {
		lead = append(lead, set.Data...)
	}
	d := failover.Description{
		Action: fmt.Sprintf("Point %s at %s", s.domain, strings.Join(lead, ", ")), Undo: "Put back the records that were there before, with their TTLs", Reference: reference,
		Inputs: map[string]any{"provider": s.provider.Describe(), "domain": s.domain, "data": lead, "ttl": s.ttl.String(), "from": s.from},
	}
	ttl := cmp.Or(int(s.ttl.Seconds()), int(DefaultTTL.Seconds()))
	var b strings.Builder
	fmt.Fprintf(&b, "nsupdate -k KEYFILE <<< 'del %s A\\ndel %[1]s AAAA\\ndel %[1]s CNAME", s.domain)
	for _, set := range s.want {
		for _, data := range set.Data {
			fmt.Fprintf(&b, "\\nadd %s %d %s %s", s.domain, ttl, set.Type, data)
		}
	}
	b.WriteString("\\nsend'")
	d.Commands = []string{strings.Replace(b.String(), "<<< '", "<<< $'", 1)}
	return failover.Funcs{Name: name, Description: d, Observe: s.observe, Do: s.do, Undo: s.undo, Retry: failover.Retry{Attempts: 3}, Timeout: 2 * time.Minute}
}

// Replaced is what Record and LowerTTL save: what was there, what they put there, and when. Other steps read it by failover.LoadFrom with SavedKey.
type Replaced struct {
	Domain string    `json:"domain"`
	Before Address   `json:"before,omitempty"`
	After  Address   `json:"after,omitempty"`
	At     time.Time `json:"at"` // before the change was sent
	Undone bool      `json:"undone,omitempty"`
}

// SavedKey is the key under which Record and LowerTTL save a Replaced.
const SavedKey = "replaced"

func (s *record) done(now Address) bool {
	if s.ttl == 0 {
		return now.sameData(s.want)
	}
	return now.equal(s.want)
}

func (s *record) observe(ctx context.Context) (obs failover.Observation, err error) {
	now, err := s.provider.Lookup(ctx, s.domain)
	if err != nil {
		return obs, noRetry(err)
	}
	var saved Replaced
	if _, err := failover.Load(ctx, SavedKey, &saved); err != nil {
		return obs, err
	}
	obs = failover.Observation{State: failover.Pending, Detail: fmt.Sprintf("%s leads to %s", s.domain, now)}
	switch {
	case s.done(now) && saved.Undone && s.done(saved.Before): // it was so before
	case s.done(now):
		obs.State = failover.Done
	case s.from != nil && !now.sameData(s.from) && !now.sameData(s.want):
		obs.State, obs.Detail = failover.Blocked, fmt.Sprintf("%s, and not to %s as expected", obs.Detail, s.from.data())
	}
	return obs, nil
}

func (a Address) data() string {
	var all []string
	for _, set := range a {
		all = append(all, set.Data...)
	}
	return strings.Join(all, ", ")
}

// noRetry marks errors that stay until somebody changes a configuration.
func noRetry(err error) error {
	for _, kind := range []error{ErrKey, ErrSignature, ErrClock, ErrRefused, ErrZone} {
		if errors.Is(err, kind) {
			return failover.Permanent(err)
		}
	}
	return err
}

func (s *record) do(ctx context.Context) error {
	now, err := s.provider.Lookup(ctx, s.domain)
	if err != nil {
		return noRetry(err)
	}
	var saved Replaced
	known, err := failover.Load(ctx, SavedKey, &saved)
	if err != nil {
		return err
	}
	if s.done(now) {
		if known && !saved.Undone {
			return nil // an earlier attempt has done it, and knows what was before
		}
		return failover.Save(ctx, SavedKey, Replaced{Domain: s.domain, Before: now, After: now, At: time.Now().UTC()})
	}
	if s.from != nil && !now.sameData(s.from) && !now.sameData(s.want) {
		return failover.Permanent(fmt.Errorf("%s leads to %s, and not to %s as expected", s.domain, now, s.from.data()))
	}
	ttl := s.ttl
	if ttl == 0 {
		ttl = cmp.Or(now.maxTTL(), DefaultTTL)
	}
	return replace(ctx, s.provider, s.domain, now, s.want.withTTL(ttl))
}

// replace saves what is there, and changes it.
func replace(ctx context.Context, p Provider, domain string, before, after Address) error {
	if err := failover.Save(ctx, SavedKey, Replaced{Domain: domain, Before: before, After: after, At: time.Now().UTC()}); err != nil {
		return err
	}
	if err := p.Replace(ctx, domain, before, after); err != nil {
		return noRetry(err)
	}
	// A server may take a change and leave out what its rules forbid, such as a CNAME beside other types.
	now, err := p.Lookup(ctx, domain)
	if err != nil {
		return noRetry(err)
	}
	if !now.equal(after) {
		return fmt.Errorf("the server took the change of %s to %s, and now it leads to %s: somebody else changes it, or the name has records of other types that forbid this", domain, after, now)
	}
	return nil
}

func (s *record) undo(ctx context.Context) error {
	now, err := s.provider.Lookup(ctx, s.domain)
	if err != nil {
		return noRetry(err)
	}
	return putBack(ctx, s.provider, s.domain, now, func(saved Replaced) Address {
		if s.done(now) && !s.done(saved.Before) {
			return saved.Before
		}
		return now
	})
}

// putBack changes the address to what back makes of what was saved, and notes that it has. Without anything saved Do had not begun, and what is there is of somebody else.
func putBack(ctx context.Context, p Provider, domain string, now Address, back func(Replaced) Address) error {
	var saved Replaced
	known, err := failover.Load(ctx, SavedKey, &saved)
	if err != nil {
		return err
	}
	if !known {
		return failover.Save(ctx, SavedKey, Replaced{Domain: domain, Before: now, After: now, Undone: true, At: time.Now().UTC()})
	}
	if to := back(saved); !to.equal(now) {
		if err := p.Replace(ctx, domain, now, to); err != nil {
			return noRetry(err)
		}
	}
	saved.Undone = true
	return failover.Save(ctx, SavedKey, saved)
}
