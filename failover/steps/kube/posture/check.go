package posture

import (
	"context"
	"time"
)

// Checker compares two clusters. It is safe for concurrent use.
type Checker struct{ cfg Config }

// New checks a Config and copies it. It contacts nothing. Errors match failover.ErrConfig.
func New(cfg Config) (*Checker, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	if _, err := newAPI("Config.Standby", cfg.Standby, &cfg, scope{}); err != nil {
		return nil, err
	}
	if cfg.Primary != nil {
		if _, err := newAPI("Config.Primary", cfg.Primary, &cfg, scope{}); err != nil {
			return nil, err
		}
	}
	return &Checker{cfg: cfg}, nil
}

// Check looks at both clusters, and only reads. What could not be looked at is a finding; the error is that of a context that ended.
func (c *Checker) Check(ctx context.Context) (*Report, error) {
	f, err := gather(ctx, &c.cfg)
	if err != nil {
		return nil, err
	}
	return report(f, c.cfg, time.Now()), nil
}

func report(f *facts, cfg Config, at time.Time) *Report {
	r := &Report{At: at, Findings: []Finding{}, Clean: []string{}}
	var findings []Finding
	findings, r.Controllers = evaluate(f, cfg)
	r.Findings = append(r.Findings, findings...)
	found := map[string]bool{}
	for _, f := range findings {
		found[f.Check] = true
	}
	for _, check := range Checks() {
		if !found[check] {
			r.Clean = append(r.Clean, check)
		}
	}
	return r
}
